"""Time and memory of ``xai-align explain`` for many images.

    python -m benchmarks.safety.explain_throughput --images 256

Crops of the package's photographs, EfficientNet-Lite0 (the extra ``demo``), the exact readout by default; pictures,
arrays, numbers and the page are written to a temporary folder.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import warnings
from pathlib import Path
from time import perf_counter

from PIL import Image

from benchmarks.shared.markdown import heading, row
from benchmarks.shared.positive_integer import positive_integer
from xai_align.cli.explain_files import PAGE, Task, explain_files
from xai_align.data.photographs import FOLDER

EVERY = 32


def cuts(folder: Path, count: int) -> None:
    """Write different crops of the photographs."""
    photographs = [Image.open(file).convert("RGB") for file in sorted(FOLDER.glob("*.jpg"))]
    for number in range(count):
        one = photographs[number % len(photographs)]
        shift = 1 + number // len(photographs)
        one.crop((shift % 60, shift % 37, one.width, one.height)).save(folder / f"{number:03d}.jpg")


def resident() -> float:
    """Return the resident memory of this process, in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=positive_integer, default=256)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as made:
        pictures, out = Path(made) / "pictures", Path(made) / "out"
        pictures.mkdir()
        cuts(pictures, options.images)
        task = Task.prepare(images=[str(pictures)], model="timm_align.efficientnet_lite0:load")
        print(heading("images", "seconds an image", "resident, MB"))
        start = before = perf_counter()
        for number, _ in enumerate(explain_files(task, out), start=1):
            if number % EVERY == 0 or number == options.images:
                now = perf_counter()
                print(row(number, f"{(now - before) / EVERY:.2f}", f"{resident():,.0f}"), flush=True)
                before = now
        total = perf_counter() - start
        print(f"\n{options.images} images in {total:.0f} s; the page has {(out / PAGE).stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
