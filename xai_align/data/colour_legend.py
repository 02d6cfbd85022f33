"""Meaning of the colours of a map, from the kind of its values that its method states."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from xai_align.hookspecs import Values

#: CSS colours for keys: the middle of each ramp of :mod:`~xai_align.data.overlay`.
FOR, AGAINST, RANK = "#d8402a", "#3478d6", "#7b3fa0"

#: The colours' names in captions.
NAMES = {FOR: "red", AGAINST: "blue", RANK: "violet"}


class Key(NamedTuple):
    """Colour and its meaning."""

    colour: str
    text: str


def colour_legend(values: Values, *, signed: bool, regression: bool = False) -> tuple[Key, ...]:
    """Return the meanings of a map's colours, one key each; ``regression``: the answer is a number in its own unit.

    Example::

        colour_legend("contributions", signed=True)[1].text  # "opposes it"
    """
    if not signed:
        what = "the higher the rank" if values == "scores" else "the larger the value"
        return (Key(RANK, f"the stronger the colour, {what}; not evidence for or against"),)
    if values == "slopes":
        return Key(FOR, "the answer rises with the pixel's value"), Key(AGAINST, "the answer falls with it")
    if regression:
        return Key(FOR, "raises the output"), Key(AGAINST, "lowers the output")
    return Key(FOR, "supports the answer"), Key(AGAINST, "opposes it")
