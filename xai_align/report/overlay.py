"""Figures of a map over a photograph: evidence for in red, evidence against in blue; maps without a sign in violet.

The photograph is grey, so that every colour in the figure is from the map.
The colour scale of a signed map is symmetric about zero: equal opacity means equal absolute
value, and where the map is zero the photograph is unchanged.
"""

from __future__ import annotations

from textwrap import wrap
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from xai_align.data.overlay import blend, blend_without_sign, density, limit_of, range_without_sign
from xai_align.report.number_format import number_format
from xai_align.report.record_text import LOGITS, SCORES, UNITLESS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from torch import Tensor

Array = NDArray[np.floating[Any]]

_DOTS = 100  # per inch


def overlay_figure(
    picture: Array,
    values: Tensor,
    *,
    title: str = "",
    caption: str = "",
    unit: str = LOGITS,
    limit: float | None = None,
    signed: bool = True,
) -> Figure:
    """Draw the map over the photograph with a colour bar, and the totals for and against, if there are any.

    Args:
        picture: ``[H, W, 3]`` in [0, 1].
        values: a signed map ``[h, w]``; it is resized to the picture with its sum preserved.
        title: lines above the picture.
        caption: lines below the picture, before the totals.
        unit: the unit of the colour bar.
        limit: the end of the colour scale; None: from this map. Use the same one for
            figures that are compared (:func:`limit_of`).
        signed: whether values below zero are evidence against the answer; else one hue from the lowest to the highest.
    """
    sheet = _Sheet(picture.shape, panels=1, title=title, caption=_with_totals(caption, values, unit))
    _draw(sheet, 0, picture, values, unit=unit, limit=limit, signed=signed)
    return sheet.figure


def photograph_and_overlay(
    picture: Array,
    values: Tensor,
    *,
    title: str = "",
    caption: str = "",
    unit: str = LOGITS,
    limit: float | None = None,
    signed: bool = True,
) -> Figure:
    """Draw the photograph in colour and, beside it, the picture of :func:`overlay_figure`."""
    sheet = _Sheet(picture.shape, panels=2, title=title, caption=_with_totals(caption, values, unit))
    sheet.panel(0).imshow(picture)
    _draw(sheet, 1, picture, values, unit=unit, limit=limit, signed=signed)
    return sheet.figure


def totals_text(values: Tensor) -> str:
    """Format the positive, negative and total sum of a map: ``12.300 for, −4.100 against, 8.200 in total``."""
    values = values.detach().cpu().double()
    positive, negative = float(values.clamp(min=0).sum()), float(values.clamp(max=0).sum())
    number = number_format([positive, negative])
    return f"{number(positive)} for, {number(negative)} against, {number(positive + negative)} in total"


class _Sheet:
    """Figure of panels side by side with a colour bar, laid out in inches without unused margins."""

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
        FigureCanvasAgg(self.figure)  # no display needed, and no entry in pyplot's list of open figures
        middle = (self._EDGE + panels * (self._PANEL + self._GAP) / 2) / self._width
        top = 1 - self._EDGE / self._total / 2
        self.figure.text(middle, top, "\n".join(titles), ha="center", va="top", fontsize=10)
        foot = (self._bottom - 0.06) / self._total
        self.figure.text(middle, foot, "\n".join(captions), ha="center", va="top", fontsize=8)

    def panel(self, number: int) -> Axes:
        """Add empty axes for a picture."""
        axes = self._axes(self._EDGE + number * (self._PANEL + self._GAP), self._PANEL)
        axes.set_axis_off()
        return axes

    def bar(self) -> Axes:
        """Add axes for the colour bar, to the right of the last panel."""
        return self._axes(self._width - self._EDGE - self._BAR_LABEL - self._BAR, self._BAR)

    def _axes(self, left: float, width: float) -> Axes:
        bottom, height = self._bottom / self._total, self._height / self._total
        return self.figure.add_axes((left / self._width, bottom, width / self._width, height))


def _draw(
    sheet: _Sheet, number: int, picture: Array, values: Tensor, *, unit: str, limit: float | None, signed: bool
) -> None:
    shown = density(values, picture.shape[:2])
    if signed:
        limit = limit_of(shown) if limit is None else limit
        sheet.panel(number).imshow(blend(picture, shown, limit))
        scale = ScalarMappable(Normalize(-limit, limit), _colours_on_grey())
    else:
        low, high = range_without_sign(shown)
        sheet.panel(number).imshow(blend_without_sign(picture, shown, low, high))
        scale = ScalarMappable(Normalize(low, high), _colours_without_sign())
    bar = sheet.figure.colorbar(scale, cax=sheet.bar())
    bar.set_label(unit, fontsize=8)
    bar.ax.tick_params(labelsize=8)
    if unit == SCORES:
        bar.set_ticks([])
    bar.outline.set_linewidth(0.4)


def _with_totals(caption: str, values: Tensor, unit: str) -> str:
    """Return the caption and, below, the totals; scores and slopes have none."""
    if unit in (SCORES, UNITLESS):
        return caption
    return f"{caption}\n{totals_text(values)}" if caption else totals_text(values)


def _wrapped(text: str, width: float, letters_per_inch: float) -> list[str]:
    columns = int(width * letters_per_inch)
    return [part for line in text.splitlines() for part in wrap(line, columns)]


def _colours_on_grey() -> ListedColormap:
    """Return the colour map of the bar: :func:`blend` over a medium grey."""
    values = np.linspace(-1, 1, 255)[None]
    return ListedColormap(blend(np.full((1, 255, 3), 0.55), values, 1.0)[0].tolist())


def _colours_without_sign() -> ListedColormap:
    """Return the colour map of the bar for a map without a sign."""
    values = np.linspace(0, 1, 255)[None]
    return ListedColormap(blend_without_sign(np.full((1, 255, 3), 0.55), values, 0.0, 1.0)[0].tolist())
