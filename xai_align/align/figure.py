"""Figure of images with their CAMs and masks, one above the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from xai_align._tools.counted import counted
from xai_align.data.images import to_picture
from xai_align.data.overlay import blend

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

_INCHES = 1.6  # side of one panel
_LABEL, _TITLE = 0.75, 0.42  # margins on the left and at the top


def align_figure(
    images: Tensor,
    cams: Tensor | None = None,
    masks: Tensor | None = None,
    *,
    titles: Sequence[str] = (),
    normalization: tuple[Sequence[float], Sequence[float]] | None = None,
) -> Figure:
    """Draw one column per image; its rows are the image, its CAM and its mask, where given.

    CAM and mask are overlaid on the dimmed image in one colour scale that ends at 1, so that they can be compared.
    Their mean value is printed next to them.

    Args:
        images: ``[N, C, H, W]``, as the classifier takes them.
        cams: ``[N, 1, h, w]``, normalised to [0, 1]; interpolated bilinearly to the image's size.
        masks: ``[N, 1, H, W]`` in [0, 1].
        titles: one for each image, or none.
        normalization: mean and standard deviation of each channel, to undo the normalisation; None: each image is
            shown from its darkest to its brightest value.

    Raises:
        ValueError: there are no images, or lengths differ.
    """
    count = len(images)
    rows = {"image": images, "CAM": cams, "mask": masks}
    wrong = {name: len(given) for name, given in rows.items() if given is not None and len(given) != count}
    if not count or wrong or len(titles) not in (0, count):
        counts = ", ".join(f"{number} for '{name}'" for name, number in (wrong | {"titles": len(titles)}).items())
        raise ValueError(
            f"a figure shows one or more images, and one of everything for each; {counted(count, 'image')}, {counts}"
        )
    shown = [name for name, given in rows.items() if given is not None]
    tall = min(max(images.shape[-2] / images.shape[-1], 0.3), 3.0)
    size = (_LABEL + count * _INCHES, _TITLE * bool(titles) + len(shown) * _INCHES * tall)
    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(shown), count, squeeze=False)
    for column in range(count):
        picture = _picture(images[column], normalization)
        for row, name in enumerate(shown):
            given = rows[name]
            values = None if name == "image" or given is None else given[column]
            _draw(panels[row][column], picture, values)
        if titles:
            panels[0][column].set_title(titles[column], fontsize=8)
    for row, name in enumerate(shown):
        panels[row][0].set_ylabel(name, fontsize=9)
    return figure


def _picture(image: Tensor, normalization: tuple[Sequence[float], Sequence[float]] | None) -> NDArray[Any]:
    if normalization is not None:
        return to_picture(image, *normalization)
    low, high = float(image.min()), float(image.max())
    return to_picture((image - low) / ((high - low) or 1.0), (0.0,), (1.0,))


def _draw(axes: Axes, picture: NDArray[Any], values: Tensor | None) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    if values is None:
        axes.imshow(picture)
        return
    full = torch.nn.functional.interpolate(
        values.detach().float().cpu()[None], size=picture.shape[:2], mode="bilinear", align_corners=False
    )
    axes.imshow(blend(picture, np.asarray(full[0, 0]), limit=1.0))
    axes.set_xlabel(f"{100 * float(full.mean()):.0f} %", fontsize=7, labelpad=1)
