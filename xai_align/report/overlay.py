"""Signed pictures of a map: evidence for in red, evidence against in blue, the photograph underneath.

The photograph lies below in grey so that every colour in the picture is the
map's. Colours are symmetric about zero: equal strength of colour is equal
weight, and where the map is zero the photograph is left alone.
"""

from __future__ import annotations

from io import BytesIO
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from xai_align.features.spatial import resize_keeping_sum
from xai_align.report.words import LOGITS, SCORES, number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from torch import Tensor

Array = NDArray[np.floating[Any]]

# two hues that differ for colour-blind eyes too; light to dark, so that the strength shows in print
_FOR = np.array([(1.0, 0.78, 0.55), (0.96, 0.38, 0.18), (0.75, 0.05, 0.10)])
_AGAINST = np.array([(0.60, 0.83, 0.98), (0.20, 0.52, 0.90), (0.08, 0.24, 0.66)])
_STRONGEST = 0.78  # opacity at the end of the scale: the photograph always shines through
_DOTS = 100  # per inch
_BLUR = 0.015  # least blur of the picture (not of the numbers), as a share of its side


def grey(picture: Array) -> Array:
    """``[H, W, 3]`` in [0, 1] to a pale grey ``[H, W, 3]`` on which colours stand out."""
    luminance = picture @ np.array([0.299, 0.587, 0.114])
    return np.repeat((0.25 + 0.7 * luminance)[..., None], 3, axis=-1)


def density(values: Tensor, size: Sequence[int]) -> Array:
    """A map ``[h, w]`` on ``size`` pixels, per hundredth of the picture, softened for the eye.

    Coarse cells fade into each other, fine maps are blurred a little; the mean of
    what comes out, times a hundred, is the sum of ``values`` all the same.
    """
    pixels = resize_keeping_sum(values.detach().cpu().double(), size).numpy()
    rows, columns = (_blur(len(axis), _softness(axis)) for axis in (pixels, pixels.T))
    return np.asarray(rows @ pixels @ columns.T * (pixels.size / 100))


def limit_of(*shown: Array) -> float:
    """The end of a colour scale that serves all these densities: nearly the largest value.

    One if all are zero. Nearly, because single pixels of noisy maps would leave all others pale.
    """
    largest = max(float(np.quantile(np.abs(values), 0.998)) for values in shown)
    return largest if largest > 0 and np.isfinite(largest) else 1.0


def blend(picture: Array, shown: Array, limit: float) -> Array:
    """The grey photograph ``[H, W, 3]`` coloured by the density ``[H, W]``."""
    strength = np.clip(np.abs(np.nan_to_num(shown)) / limit, 0, 1)
    colour = np.where((shown > 0)[..., None], _ramp(_FOR, strength), _ramp(_AGAINST, strength))
    alpha = (_STRONGEST * strength**0.75)[..., None]
    return (1 - alpha) * grey(picture) + alpha * colour


def overlay_figure(
    picture: Array,
    values: Tensor,
    *,
    title: str = "",
    caption: str = "",
    unit: str = LOGITS,
    limit: float | None = None,
) -> Figure:
    """One picture: the photograph, the map over it, a colour bar, the totals for and against where there are any.

    Args:
        picture: ``[H, W, 3]`` in [0, 1].
        values: a signed map ``[h, w]``; it is brought to the picture's size with its sum kept.
        title: lines above.
        caption: lines below, before the totals.
        unit: what the colour bar counts.
        limit: the end of the colour scale; None: from this map. Give the same one to
            pictures that are to be compared (:func:`limit_of`).
    """
    sheet = _Sheet(picture.shape, panels=1, title=title, caption=_with_totals(caption, values, unit))
    _draw(sheet, 0, picture, values, unit=unit, limit=limit)
    return sheet.figure


def photograph_and_overlay(
    picture: Array,
    values: Tensor,
    *,
    title: str = "",
    caption: str = "",
    unit: str = LOGITS,
    limit: float | None = None,
) -> Figure:
    """The photograph in its colours, and beside it what :func:`overlay_figure` shows."""
    sheet = _Sheet(picture.shape, panels=2, title=title, caption=_with_totals(caption, values, unit))
    sheet.panel(0).imshow(picture)
    _draw(sheet, 1, picture, values, unit=unit, limit=limit)
    return sheet.figure


def totals_in_words(values: Tensor) -> str:
    """What speaks for and against in a map: ``12.300 for, −4.100 against, 8.200 in all``."""
    values = values.detach().cpu().double()
    positive, negative = float(values.clamp(min=0).sum()), float(values.clamp(max=0).sum())
    return f"{number(positive)} for, {number(negative)} against, {number(positive + negative)} in all"


def png(figure: Figure) -> bytes:
    """The figure as a PNG file."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=_DOTS, metadata={"Software": None})
    return buffer.getvalue()


def photograph_png(picture: Array) -> bytes:
    """A picture ``[H, W, 3]`` in [0, 1] as a PNG file, pixel by pixel."""
    buffer = BytesIO()
    Image.fromarray((picture * 255).round().astype(np.uint8)).save(buffer, format="PNG")
    return buffer.getvalue()


class _Sheet:
    """Panels side by side with room for a colour bar, laid out in inches so that nothing is left over."""

    _PANEL, _GAP, _BAR, _BAR_LABEL, _EDGE = 3.3, 0.12, 0.13, 0.72, 0.08
    _TITLE_LINE, _CAPTION_LINE = 0.2, 0.17

    def __init__(self, shape: Sequence[int], *, panels: int, title: str, caption: str) -> None:
        self._height = self._PANEL * min(max(shape[0] / shape[1], 0.3), 3.0)
        self._width = 2 * self._EDGE + panels * (self._PANEL + self._GAP) + self._BAR + self._BAR_LABEL
        titles = _wrapped(title, self._width, letters_per_inch=13)
        captions = _wrapped(caption, self._width, letters_per_inch=16)
        self._bottom = self._EDGE + self._CAPTION_LINE * len(captions) + 0.06
        above = self._EDGE + self._TITLE_LINE * len(titles)
        self._total = self._bottom + self._height + above
        self.figure = Figure(figsize=(self._width, self._total), facecolor="white")
        FigureCanvasAgg(self.figure)  # drawn without a screen and without pyplot's list of open figures
        middle = (self._EDGE + panels * (self._PANEL + self._GAP) / 2) / self._width
        top = 1 - self._EDGE / self._total / 2
        self.figure.text(middle, top, "\n".join(titles), ha="center", va="top", fontsize=10)
        foot = (self._bottom - 0.06) / self._total
        self.figure.text(middle, foot, "\n".join(captions), ha="center", va="top", fontsize=8)

    def panel(self, number: int) -> Axes:
        """Empty axes for a picture."""
        axes = self._axes(self._EDGE + number * (self._PANEL + self._GAP), self._PANEL)
        axes.set_axis_off()
        return axes

    def bar(self) -> Axes:
        """Axes for the colour bar, right of the last panel."""
        return self._axes(self._width - self._EDGE - self._BAR_LABEL - self._BAR, self._BAR)

    def _axes(self, left: float, width: float) -> Axes:
        bottom, height = self._bottom / self._total, self._height / self._total
        return self.figure.add_axes((left / self._width, bottom, width / self._width, height))


def _draw(sheet: _Sheet, number: int, picture: Array, values: Tensor, *, unit: str, limit: float | None) -> None:
    shown = density(values, picture.shape[:2])
    limit = limit_of(shown) if limit is None else limit
    sheet.panel(number).imshow(blend(picture, shown, limit))
    scale = ScalarMappable(Normalize(-limit, limit), _colours_on_grey())
    bar = sheet.figure.colorbar(scale, cax=sheet.bar())
    bar.set_label(unit, fontsize=8)
    bar.ax.tick_params(labelsize=8)
    bar.outline.set_linewidth(0.4)


def _with_totals(caption: str, values: Tensor, unit: str) -> str:
    """The caption and, below, the totals; scores that rank places have none."""
    if unit == SCORES:
        return caption
    return f"{caption}\n{totals_in_words(values)}" if caption else totals_in_words(values)


def _wrapped(text: str, width: float, letters_per_inch: float) -> list[str]:
    columns = int(width * letters_per_inch)
    return [part for line in text.splitlines() for part in wrap(line, columns)]


def _colours_on_grey() -> ListedColormap:
    """The colour bar: what :func:`blend` makes of a middling grey."""
    values = np.linspace(-1, 1, 255)[None]
    return ListedColormap(blend(np.full((1, 255, 3), 0.55), values, 1.0)[0].tolist())


def _ramp(stops: Array, strength: Array) -> Array:
    places = np.linspace(0, 1, len(stops))
    return np.stack([np.interp(strength, places, stops[:, channel]) for channel in range(3)], axis=-1)


def _softness(pixels: Array) -> float:
    """How far to blur along the first axis: half a cell, where a coarse map shows as runs of equal rows."""
    runs = 1 + int((np.diff(pixels, axis=0) != 0).any(axis=1).sum())
    return len(pixels) * max(_BLUR, min(0.5 / runs, 0.25))


def _blur(pixels: int, width: float) -> Array:
    """A Gaussian blur along one axis, reflected at the ends: sums are kept, and what is even stays even."""
    place = np.arange(pixels)
    here, there = place[:, None], place[None]
    images = [shift + turn for shift in (-2 * pixels, 0, 2 * pixels) for turn in (there, -1 - there)]
    weights = np.exp(-0.5 * ((here - np.stack(images)) / width) ** 2).sum(axis=0)
    return np.asarray(weights / weights.sum(axis=0))
