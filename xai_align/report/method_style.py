"""Colour, dash and role of each method, the same in every table and panel of a page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

_HUES = 7  # --hue-1 to --hue-7 of comparison.css; --hue-0 is the reference's
_DASHES = ("", "7 3", "2 3", "9 3 2 3", "12 4")
_CONTROL_DASHES = ("1.5 3", "5 3")


@dataclass(frozen=True, kw_only=True)
class MethodStyle:
    """Number of a method on the page, its role, and its line style.

    Attributes:
        number: its position in the comparison; part of CSS class names.
        method: as given to the comparison, e.g. ``"pinet@input"``.
        role: ``"reference"``, ``"control"`` or nothing.
        colour: a CSS colour.
        dash: an SVG dash pattern; empty: a solid line.
    """

    number: int
    method: str
    role: str
    colour: str
    dash: str


def method_styles(methods: Sequence[str], reference: str, controls: Collection[str] = ()) -> list[MethodStyle]:
    """Return one style for each method; two methods share hue and dash only beyond 35 of them.

    Args:
        methods: as given to the comparison, e.g. ``"pinet@input"``.
        reference: the one that the others are compared with.
        controls: the methods that use neither model nor question.
    """
    styles: list[MethodStyle] = []
    seen = others = 0
    for number, method in enumerate(methods):
        if method == reference:
            role, colour, dash = "reference", "var(--hue-0)", ""
        elif method in controls:
            role, colour, dash = "control", "var(--ink)", _CONTROL_DASHES[seen % len(_CONTROL_DASHES)]
            seen += 1
        else:
            role, colour = "", f"var(--hue-{1 + others % _HUES})"
            dash = _DASHES[others // _HUES % len(_DASHES)]
            others += 1
        styles.append(MethodStyle(number=number, method=method, role=role, colour=colour, dash=dash))
    return styles
