"""Measure time and memory of `compare` as images grow: time linear, memory constant.

    OMP_NUM_THREADS=2 python -m benchmarks.judging.compare_scaling --images DIR [--counts 16 64 256]

EfficientNet-Lite0, Grad-CAM by Captum, deletion. Each count runs in a separate process; memory is its
peak.

Takes about three minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
from pathlib import Path

from benchmarks.shared.markdown import heading, row
from benchmarks.shared.measuring import printed_by, timed
from benchmarks.shared.positive_integer import positive_integer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", required=True, nargs="+")
    parser.add_argument("--counts", type=positive_integer, nargs="+", default=[16, 64, 256])
    parser.add_argument("--one", type=positive_integer, help="measure one count, in this process")
    options = parser.parse_args()
    if options.one:
        return print(json.dumps(measured(options.images, options.one)))
    print(heading("images", "seconds", "seconds per image", "most memory, MiB"))
    for count in options.counts:
        told = printed_by("benchmarks.judging.compare_scaling", "--images", *options.images, "--one", count)
        result = json.loads(told.splitlines()[-1])
        seconds, memory, n = result
        assert n == count, f"{n} of {count} images were judged"
        print(row(count, f"{seconds:.1f}", f"{seconds / count:.3f}", f"{memory:.0f}"), flush=True)


def measured(images: list[str], count: int) -> tuple[float, float, int]:
    from xai_align import compare

    with tempfile.TemporaryDirectory() as out:
        seconds, comparison = timed(
            lambda: compare(
                "timm_align.efficientnet_lite0:load",
                [Path(image) for image in images],
                methods=["layer_grad_cam"],
                metrics=["deletion"],
                limit=count,
                pictures=0,
                out=out,
            )
        )
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return seconds, memory, comparison.summaries[0].n


if __name__ == "__main__":
    main()
