"""Figure of a fit: losses on the left, the validation metric on the right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BLUE, _ORANGE, _GREY = "#2a6fbb", "#d95f0e", "#8a8a8a"


def fit_figure(history: Sequence[Mapping[str, Any]], metric: str, best: Mapping[str, Any] | None) -> Figure:
    """Plot the rows of a :class:`~xai_align.training.pinet.fit.Fit` over its steps.

    Args:
        history: its rows.
        metric: the name of the validation metric.
        best: the row of the weights that were kept; None: the last.
    """
    validated = bool(history) and metric in history[0]
    figure = Figure(figsize=(8.4 if validated else 4.4, 3.2), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2 if validated else 1, squeeze=False)[0]
    _draw(panels[0], history, {"loss": ("training", _BLUE), "validation_loss": ("validation", _ORANGE)}, best)
    panels[0].set_title("loss", fontsize=10)
    if validated:
        _draw(panels[1], history, {metric: (f"validation {metric}", _ORANGE)}, best)
        panels[1].set_title(metric, fontsize=10)
    return figure


def _draw(
    axes: Axes, rows: Sequence[Mapping[str, Any]], shown: Mapping[str, tuple[str, str]], best: Mapping[str, Any] | None
) -> None:
    for name, (label, colour) in shown.items():
        known = [row for row in rows if row.get(name) is not None]
        if known:
            marker = "o" if len(known) < 30 else None
            points = [row["step"] for row in known], [row[name] for row in known]
            axes.plot(*points, label=label, color=colour, marker=marker, markersize=3, linewidth=1.4)
    if best is not None:
        axes.axvline(best["step"], color=_GREY, linewidth=0.8, linestyle=":", label="best")
    axes.set_xlabel("step", fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25, linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)
