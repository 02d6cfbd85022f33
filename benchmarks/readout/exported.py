"""Export networks of timm with their maps, and compare the files with the networks.

    OMP_NUM_THREADS=1 python -m benchmarks.readout.exported [--networks NAME ...] [--programs]

Takes several minutes on one core.

The representatives of timm's architectures whose head is local, at their own depth and size (`samvit_base_patch16_224`
at 64 px), with random weights (zero-initialised ones too), on random images, in batches of two, one and three. The
largest difference of an ONNX file, run by onnxruntime, from the plain network's logits, from the maps of a readout, and
of the sum of the file's own outputs; `--programs`: of a file of `torch.export` too. Needs the extra `export`.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from pathlib import Path

import timm
import torch
from torch import Tensor, nn

from benchmarks.shared.markdown import heading, row
from xai_align.export import ExportError, to_exported_program, to_onnx

LOCAL = """
    test_resnet test_efficientnet test_efficientnet_gn test_efficientnet_ln test_efficientnet_evos test_byobnet
    test_nfnet test_coatnet test_maxvit levit_128s efficientvim_m1 efficientformer_l1 swin_tiny_patch4_window7_224
    swinv2_cr_tiny_224 sequencer2d_s mvitv2_tiny starnet_s050 samvit_base_patch16_224
""".split()
OPTIONS = {"samvit_base_patch16_224": {"img_size": 64}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=LOCAL, help="names of timm's models")
    parser.add_argument("--programs", action="store_true", help="files of torch.export too")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    print(heading("network", "run by", "maps", "logits", "maps, relative", "sum", "seconds", "MB"))
    for name in options.networks:
        model, images = network(name)
        for write, suffix in [(to_onnx, "onnx")] + [(to_exported_program, "pt2")] * options.programs:
            with tempfile.TemporaryDirectory() as folder:
                print(row(name, *measured(write, model, images, Path(folder) / f"network.{suffix}")), flush=True)


def network(name: str) -> tuple[nn.Module, Tensor]:
    """Return a network and two images, both random."""
    torch.manual_seed(0)
    model = timm.create_model(name, **OPTIONS.get(name, {})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.numel() > 1 and float(parameter.abs().max()) < 1e-2:
                parameter.normal_(0.1, 0.05)
    size = OPTIONS.get(name, {}).get("img_size", model.default_cfg["input_size"][-1])
    return model, torch.randn(2, 3, size, size)


def measured(write, model: nn.Module, images: Tensor, file: Path) -> tuple[str, ...]:
    start = time.perf_counter()
    try:
        found = write(model, images, file, tolerance=float("inf"))
    except ExportError as error:
        return (str(error), *["–"] * 6)
    maps = [shape[2:] for key, shape in found.shapes.items() if key.startswith("maps")]
    differences = (found.differences.logits, found.differences.maps, found.differences.sum)
    return (
        found.checked_with,
        ", ".join(f"{rows} x {columns}" for rows, columns in maps),
        *(f"{value:.1e}" for value in differences),
        f"{time.perf_counter() - start:.0f}",
        f"{file.stat().st_size / 1e6:.0f}",
    )


if __name__ == "__main__":
    main()
