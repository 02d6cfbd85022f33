"""Train a PiNet to decide whether there is a triangle, and draw its contributions.

    python examples/toyshapes/train.py triangles.png

It takes one to three minutes on one core: the paper's network, with an initialisation that works at once.
"""

from __future__ import annotations

import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from generator import ToyShapes, toy_shapes  # the file beside this one
from torch.utils.data import TensorDataset

from xai_align.pinet import PiNet, PiNetLoss, Start, conv_pinet
from xai_align.training import fit_pinet


def main(drawing: str) -> None:
    torch.manual_seed(0)
    pinet = conv_pinet(start=Start(coefficient=0.005, contrast=0.3))
    shapes = toy_shapes(1000, seed=1)
    fit = fit_pinet(
        pinet,
        pairs(shapes[:800]),
        pairs(shapes[800:]),
        loss=PiNetLoss("binary"),
        validate_every=8,
        stop_at=1.0,
        show_progress=True,
    )
    print(f"stopped after {fit.epochs} epochs ({fit.stopped}); best on validation pictures: {fit.best}")
    draw(pinet.eval(), toy_shapes(8, seed=5000), drawing)


def pairs(shapes: ToyShapes) -> TensorDataset:
    return TensorDataset(shapes.images, shapes.labels[:, None])


@torch.no_grad()
def draw(pinet: PiNet, shapes: ToyShapes, drawing: str) -> None:
    """Draw pictures above, contributions below; each column's title is the logit, which is their sum and a constant."""
    seen = pinet.explain(shapes.images)
    maps, top = seen.maps[:, 0], float(seen.maps.max())
    figure, axes = plt.subplots(2, len(shapes), figsize=(2 * len(shapes), 4.4), layout="constrained")
    for column, (above, below) in enumerate(axes.T):
        constant, summed = float(seen.bias[0]), float(maps[column].sum())
        above.set_title(f"{constant:.1f} + {summed:.1f} = {float(seen.logits[column, 0]):.1f}", fontsize=9)
        above.imshow(shapes.images[column, 0], cmap="gray", vmin=0, vmax=1)
        below.imshow(maps[column], cmap="magma", vmin=0, vmax=top)
        above.axis("off")
        below.axis("off")
    figure.savefig(drawing)
    print(f"drawn: {drawing}")


if __name__ == "__main__":
    main(*sys.argv[1:2] or ["triangles.png"])
