"""Time the commands of a user from a fine-tuned checkpoint with class names to a page.

    python -m benchmarks.judging.users_walk

Takes a minute. A timm ResNet-18 is trained on four photographs for a few steps (this is not counted) and saved as
timm's training script saves it; the folder of photographs, one sub-folder for each class, has the class names. Then
each command is run as a separate process, and its seconds are printed.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config

from benchmarks.shared.markdown import heading, row
from benchmarks.shared.positive_integer import positive_integer
from xai_align.data.photographs import FOLDER

#: The network that was trained.
NETWORK = "resnet18"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=positive_integer, default=3)
    options = parser.parse_args()
    print(heading("command", "seconds", "of a processor", "result"), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        fine_tuned(place, steps=options.steps)
        for command, result in commands():
            start, used = time.perf_counter(), _processor_seconds()
            subprocess.run(
                [sys.executable, "-m", "xai_align", *command.split()[1:]], cwd=place, check=True, capture_output=True
            )
            seconds, used = time.perf_counter() - start, _processor_seconds() - used
            found = len(list(place.glob(result)))
            print(row(f"`{command}`", f"{seconds:.0f}", f"{used:.0f}", f"{found} x `{result}`"), flush=True)
            if not found:
                raise SystemExit(f"the command left no {result}")


def _processor_seconds() -> float:
    """Return the processor time of the processes that have ended, which other programs' load does not affect."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def commands() -> list[tuple[str, str]]:
    """Return the commands, each with a pattern of the files that it writes."""
    model = f"--model timm:{NETWORK}@last.pth.tar --class-names photos"
    return [
        (f"xai-align explain photos --recursive {model} --out explained", "explained/*.png"),
        (
            f"xai-align compare --images photos --recursive {model} --methods pinet,gradcam,random "
            "--metrics insertion,deletion --out page",
            "page/index.html",
        ),
    ]


def fine_tuned(place: Path, *, steps: int) -> None:
    """Write ``photos/CLASS/1.png`` and ``last.pth.tar``, weights trained on them."""
    torch.manual_seed(0)
    files = sorted(FOLDER.glob("*.jpg"))
    for file in files:
        (place / "photos" / file.stem).mkdir(parents=True)
        Image.open(file).save(place / "photos" / file.stem / "1.png")
    model = timm.create_model(NETWORK, num_classes=len(files)).train()
    transform = create_transform(**resolve_data_config({}, model=model))
    x = torch.stack([transform(Image.open(file).convert("RGB")) for file in files])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(steps):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), torch.arange(len(files))).backward()
        optimizer.step()
    content = {"arch": NETWORK, "epoch": 1, "state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}
    torch.save(
        {**content, "args": argparse.Namespace(lr=0.05), "optimizer": optimizer.state_dict()}, place / "last.pth.tar"
    )


if __name__ == "__main__":
    main()
