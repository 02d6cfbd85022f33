"""Test whether maps show enough of the evidence, and all of it, on the picture's own background instead of black.

    python -m benchmarks.toyshapes.erasing --out OUT --groups default,feedback,sharp --fits 10

The paper's recursion multiplies a picture with its map, so hidden parts are black, and a dark triangle is lost
however well it was detected. Here the map m (of the picture's maximum) chooses between the picture and its background:

    shown   m x + (1 - m) background      accuracy: is the visible part enough?
    erased  (1 - m) x + m background      share of pictures with a triangle in which the network still detects one

It uses the networks that `python -m benchmarks.toyshapes.paper --out OUT` saved.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import median

import torch

from benchmarks.shared.positive_integer import positive_integer
from benchmarks.toyshapes.fits import Workshop, unseen_pictures
from benchmarks.toyshapes.paper import coefficients_of
from benchmarks.toyshapes.scores import Look, accuracy, answers, per_image
from benchmarks.toyshapes.table import spread
from examples.toyshapes.generator import ToyShapes

COLUMNS = ("black", "shown", "erased", "lost on black: brightest pixel of their triangles")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--groups", default="default,feedback,sharp")
    parser.add_argument("--fits", type=positive_integer, default=10)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    test = unseen_pictures()
    print(f"| | fits | {' | '.join(COLUMNS)} |\n{'|---' * (len(COLUMNS) + 2)}|")
    for name in options.groups.split(","):
        kept = [n for n in range(options.fits) if (options.out / name / f"{n}-0.safetensors").exists()]
        looks = [coefficients_of(Workshop(options.out, n, "no").fitted(name).model) for n in kept]
        found = [measured(look, test) for look in looks]
        cells = [spread(list(values)) for values in zip(*found, strict=True)]
        print(f"| {name} | {len(found)} | {' | '.join(cells)} |", flush=True)


def measured(look: Look, test: ToyShapes) -> tuple[float, float, float, float]:
    """Return the columns of the table."""
    yes = test.labels > 0
    m = per_image(answers(look, test.images)[1])[:, None]
    background = test.images.flatten(1).mode().values[:, None, None, None]
    on_black, shown, erased = (
        answers(look, pictures)[0]
        for pictures in (
            m * test.images,
            m * test.images + (1 - m) * background,
            (1 - m) * test.images + m * background,
        )
    )
    lost = (yes & (on_black <= 0)).nonzero().flatten().tolist()
    brightest = [float(test.images[i, 0][test.masks[i]].max()) for i in lost]
    return (
        accuracy(on_black, test),
        accuracy(shown, test),
        float((erased[yes] > 0).double().mean()),
        median(brightest) if brightest else float("nan"),
    )


if __name__ == "__main__":
    main()
