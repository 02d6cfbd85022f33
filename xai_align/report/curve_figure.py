"""Curves with bands as parts of an inline SVG: one panel for each order and fill of the perturbation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from xai_align.comparison.result import CurveBand

Point = tuple[float, float]

_ORDERS = {"morf": "Most relevant first", "lerf": "Least relevant first"}


@dataclass(frozen=True, kw_only=True)
class Frame:
    """Position of a panel's axes in its drawing, and their ranges."""

    x: tuple[float, float]
    y: tuple[float, float]
    width: float = 420
    height: float = 300
    left: float = 46
    right: float = 10
    top: float = 10
    bottom: float = 44

    def place(self, fraction: float, value: float) -> Point:
        """Return a point of the curve in the drawing's units."""
        across = (fraction - self.x[0]) / (self.x[1] - self.x[0])
        up = (value - self.y[0]) / (self.y[1] - self.y[0])
        return (
            self.left + across * (self.width - self.left - self.right),
            self.height - self.bottom - up * (self.height - self.top - self.bottom),
        )

    @property
    def across(self) -> list[tuple[float, str]]:
        """Ticks of the horizontal axis: position and label, in percent."""
        return [(self.place(tick, self.y[0])[0], f"{100 * tick:g} %") for tick in ticks(*self.x)]

    @property
    def upwards(self) -> list[tuple[float, str]]:
        """Ticks of the vertical axis: position and label."""
        return [(self.place(self.x[0], tick)[1], f"{tick:g}".replace("-", "−")) for tick in ticks(*self.y)]


@dataclass(frozen=True, kw_only=True)
class Line:
    """Method in a panel: its curve and 95 % band as SVG paths, and its first and last value as text."""

    method: str
    path: str
    band: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Panel:
    """Panel with all methods' curves of one perturbation."""

    perturbation: str
    frame: Frame
    lines: Sequence[Line]


def curve_panels(curves: Iterable[CurveBand], *, front: Sequence[str] = ()) -> list[Panel]:
    """Return a panel for each perturbation, in order of appearance; all have the same vertical axis.

    Args:
        curves: the curves of one question.
        front: methods that are drawn on top of the others.
    """
    by_perturbation: dict[str, list[CurveBand]] = {}
    for curve in curves:
        by_perturbation.setdefault(curve.perturbation, []).append(curve)
    means = [
        value for group in by_perturbation.values() for curve in group for value in curve.mean if math.isfinite(value)
    ]
    upwards = _span(means, at_most=1.0)
    panels = [_panel(perturbation, group, upwards, front) for perturbation, group in by_perturbation.items()]
    return [panel for panel in panels if panel.lines]


def perturbation_text(label: str) -> str:
    """Format ``morf blur`` as ``Most relevant first, replaced by blur``; other labels are returned unchanged."""
    order, _, rest = label.partition(" ")
    if order not in _ORDERS or not rest:
        return label
    return f"{_ORDERS[order]}, replaced by {rest}"


def ticks(low: float, high: float) -> list[float]:
    """Return round numbers from ``low`` to ``high``, in steps of 1, 2 or 5 times a power of ten, at most seven."""
    rough = (high - low) / 6
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(number * step, 12) + 0.0 for number in range(first, last + 1)]


def _panel(perturbation: str, curves: Sequence[CurveBand], upwards: tuple[float, float], front: Sequence[str]) -> Panel:
    frame = Frame(x=_span([fraction for curve in curves for fraction in curve.fractions], at_most=1.0), y=upwards)
    ordered = sorted(curves, key=lambda curve: curve.method in front)
    lines = [_line(curve, frame) for curve in ordered if any(map(math.isfinite, curve.mean))]
    return Panel(perturbation=perturbation_text(perturbation), frame=frame, lines=lines)


def _line(curve: CurveBand, frame: Frame) -> Line:
    seen = [(fraction, mean) for fraction, mean in zip(curve.fractions, curve.mean, strict=True) if math.isfinite(mean)]
    (start, first), (end, last) = seen[0], seen[-1]
    return Line(
        method=curve.method,
        path=_path(list(zip(curve.fractions, curve.mean, strict=True)), frame),
        band=_band(curve, frame),
        text=f"{curve.method}: {first:.3f} at {100 * start:g} %, {last:.3f} at {100 * end:g} %".replace("-", "−"),
    )


def _path(points: Sequence[Point], frame: Frame) -> str:
    """Return a polyline with gaps where there is no number; a point between two gaps is drawn as a dot."""
    parts: list[str] = []
    drawing = False
    for number, (fraction, value) in enumerate(points):
        if not math.isfinite(value):
            drawing = False
            continue
        parts.append(("L" if drawing else "M") + _at(frame.place(fraction, value)))
        alone = number + 1 == len(points) or not math.isfinite(points[number + 1][1])
        if alone and not drawing:
            parts.append("h0")  # with round line caps, a line of zero length is a dot
        drawing = True
    return "".join(parts)


def _band(curve: CurveBand, frame: Frame) -> str:
    """Return one closed path for each run of numbers: along the lower edge and back along the upper."""
    runs: list[list[tuple[float, float, float]]] = [[]]
    for fraction, low, high in zip(curve.fractions, curve.low, curve.high, strict=True):
        if math.isfinite(low) and math.isfinite(high):
            runs[-1].append((fraction, low, high))
        elif runs[-1]:
            runs.append([])
    pieces = []
    for run in runs:
        if len(run) > 1:
            edge = [(fraction, low) for fraction, low, _ in run] + [(fraction, high) for fraction, _, high in run[::-1]]
            pieces.append("M" + "L".join(_at(frame.place(*point)) for point in edge) + "Z")
    return "".join(pieces)


def _at(point: Point) -> str:
    return f"{point[0]:.1f} {point[1]:.1f}"


def _span(values: Sequence[float], *, at_most: float) -> tuple[float, float]:
    """Return the range from zero, or the tick below the smallest negative number, to the tick above the largest.

    The range of probabilities and shares ends at ``at_most`` at the latest.
    """
    low, high = min([0.0, *values]), max([0.0, *values])
    if high - low < 1e-9:
        return low, low + 1.0
    step = ticks(low, high)[1] - ticks(low, high)[0]
    top = math.ceil(high / step - 1e-9) * step
    return math.floor(low / step + 1e-9) * step, min(top, at_most) if high <= at_most else top
