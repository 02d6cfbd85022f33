"""Measure readouts as ratios to a plain forward pass in the same run.

    OMP_NUM_THREADS=2 python -m benchmarks.readout.speed
    OMP_NUM_THREADS=1 python -m benchmarks.readout.speed --models resnet50 --ways "readout, default place"

All variants are timed in turn, round after round, and the median ratio to the
forward pass of the same round is printed, so that other load on the machine
affects all alike. Peak memory is the increase of a process's memory during the
call, each in a separate process, at a batch of 8.
"""

from __future__ import annotations

import argparse
import statistics
import warnings
from collections.abc import Callable

import timm
import torch

from benchmarks.shared.measuring import memory_mib, printed_by, timed
from benchmarks.shared.positive_integer import positive_integer
from xai_align import read_out, read_out_all_classes
from xai_align._tools.replica import Replica

MODELS = {
    "tf_efficientnet_lite0": {},
    "vit_small_patch16_224": {},
    "convnext_tiny": {},
    "resnet50": {},
    "vit_small_patch16_224 (average pool)": {"global_pool": "avg", "fc_norm": False},
}


def main() -> None:
    warnings.filterwarnings("ignore")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=positive_integer, default=7)
    parser.add_argument("--batch", type=positive_integer, default=1)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--ways", nargs="+", default=None, help="variants to time, without peaks of memory")
    parser.add_argument("--peak", nargs=2, metavar=("MODEL", "WAY"), help="measure one peak, in this process")
    options = parser.parse_args()
    if options.peak:
        return print(peak_of(*options.peak))
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, batch {options.batch}, 224 px")
    for name in options.models:
        print(f"\n{name}")
        ratios, forward = time_ratios(name, options.batch, options.rounds, options.ways)
        print(f"  plain forward: {1e3 * forward:.0f} ms")
        for way, (to_forward, to_backward) in ratios.items():
            print(f"  {way}: {to_forward:.2f} x forward, {to_backward:.2f} x forward and backward")
        if options.ways:
            continue
        backward, readout = (peak(name, way) for way in ("forward and backward", "readout at the input"))
        print(
            f"  peak memory over the model: backward {backward:.0f} MiB,",
            f"readout {readout:.0f} MiB: {readout / backward:.2f} x",
        )


def build(name: str) -> torch.nn.Module:
    return timm.create_model(name.split(" ")[0], **MODELS[name]).eval()


def ways(model: torch.nn.Module, x: torch.Tensor) -> dict[str, Callable[[], object]]:
    from captum.attr import IntegratedGradients
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    def forward() -> None:
        with torch.no_grad():
            model(x)

    def backward() -> None:
        z = x.clone().requires_grad_()
        torch.autograd.grad(model(z)[:, 3].sum(), z)

    layer, reshape = grad_cam_layer(model)

    def grad_cam() -> None:
        with GradCAM(model, [layer], reshape_transform=reshape) as cam:
            cam(input_tensor=x, targets=[ClassifierOutputTarget(3)] * len(x))

    chosen: dict[str, Callable[[], object]] = {
        "plain forward": forward,
        "forward and backward": backward,
        "readout, default place": lambda: read_out(model, x, 3),
        "readout at the input": lambda: read_out(model, x, 3, "input"),
        "structural copy alone": lambda: Replica(model),
        "Grad-CAM of pytorch-grad-cam": grad_cam,
        "integrated gradients, 50 steps": lambda: IntegratedGradients(model).attribute(
            x, target=3, n_steps=50, internal_batch_size=max(len(x), 10)
        ),
    }
    if hasattr(model, "blocks") and hasattr(model, "patch_embed"):
        depths = [f"blocks.{number}" for number in range(0, len(model.blocks) - 1)][:8]
        chosen[f"readout at {depths[0]}"] = lambda: read_out(model, x, 3, depths[0])
        chosen["mixture of 8 depths"] = lambda: read_out(model, x, 3, depths)
    try:
        read_out_all_classes(model, x)
        chosen["readout, all classes"] = lambda: read_out_all_classes(model, x)
    except ValueError:
        pass
    return chosen


def grad_cam_layer(model: torch.nn.Module):
    if hasattr(model, "blocks") and hasattr(model, "patch_embed"):
        prefix, (rows, columns) = model.num_prefix_tokens, model.patch_embed.grid_size

        def to_map(tokens: torch.Tensor) -> torch.Tensor:
            return tokens[:, prefix:].unflatten(1, (rows, columns)).permute(0, 3, 1, 2)

        return model.blocks[-1].norm1, to_map
    last = "stages" if hasattr(model, "stages") else "layer4" if hasattr(model, "layer4") else "bn2"
    layer = getattr(model, last)
    return (layer[-1] if last != "bn2" else layer), None


def time_ratios(
    name: str, batch: int, rounds: int, wanted: list[str] | None
) -> tuple[dict[str, tuple[float, float]], float]:
    model, x = build(name), torch.randn(batch, 3, 224, 224)
    always = ("plain forward", "forward and backward")
    chosen = {way: run for way, run in ways(model, x).items() if wanted is None or way in (*always, *wanted)}
    rare = {"integrated gradients, 50 steps": 1}
    for way, run in chosen.items():
        if way not in rare:
            run()
    seconds: dict[str, list[float]] = {way: [] for way in chosen}
    for number in range(rounds):
        for way, run in chosen.items():
            if number >= rare.get(way, rounds):
                continue
            seconds[way].append(timed(run)[0])
    forward = seconds.pop("plain forward")
    backward = seconds["forward and backward"]
    ratios = {
        way: tuple(statistics.median(t / f for t, f in zip(times, base, strict=False)) for base in (forward, backward))
        for way, times in seconds.items()
    }
    return ratios, statistics.median(forward)


def peak(name: str, way: str) -> float:
    return float(printed_by("benchmarks.readout.speed", "--peak", name, way))


def peak_of(name: str, way: str) -> float:
    """Return the peak increase of the process's memory by one call at a batch of 8, in MiB (Linux)."""
    model = build(name)
    ways(model, torch.randn(1, 3, 224, 224))[way]()  # memory that is allocated once
    run = ways(model, torch.randn(8, 3, 224, 224))[way]
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # reset the high-water mark
    before = memory_mib("VmRSS")
    run()
    return memory_mib("VmHWM") - before


if __name__ == "__main__":
    main()
