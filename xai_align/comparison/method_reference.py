"""Reference to a method: its name and, after an ``@``, the layer it explains; or scores from outside."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from xai_align.data.outside_scores import OutsideScores
from xai_align.features.head_input import HEAD
from xai_align.features.resolve_layer import resolve_layer
from xai_align.hookspecs import AttributionSpec
from xai_align.plugins import attribution_method, attribution_methods

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import nn


@dataclass(frozen=True)
class MethodReference:
    """Method and layer: ``"pinet@blocks.4"`` is the method ``pinet`` at the layer ``blocks.4``.

    Attributes:
        name: the method's name.
        layer: the layer that it explains; None: its default.
        scores: scores from outside, used in place of a method; None: the method is run by name.
    """

    name: str
    layer: str | None = None
    scores: OutsideScores | None = field(default=None, compare=False)

    @property
    def spec(self) -> AttributionSpec:
        """The method's specification."""
        if self.scores is None:
            return attribution_method(self.name)
        signed = any((values < 0).any() for values in self.scores.values.values())
        return AttributionSpec(name=self.name, build=_not_run, summary="scores from outside", signed=signed)

    def __str__(self) -> str:
        """Return the reference as it was written."""
        return self.name if self.layer is None else f"{self.name}@{self.layer}"


def parse_methods(written: Iterable[str]) -> list[MethodReference]:
    """Parse ``"name"`` and ``"name@layer"``, each method once; the layers are not looked up yet.

    Raises:
        ValueError: none was given, there is no such method, it takes no layer, or the layer's name is empty.
    """
    found = []
    for one in written:
        name, at, layer = one.strip().partition("@")
        spec = attribution_method(name)
        if at and not layer:
            raise ValueError(f"'{one}' names no layer after the '@'; write '{name}' or '{name}@LAYER'")
        if at and not spec.takes_layer:
            raise ValueError(f"the method '{name}' takes no layer; write '{name}', not '{one}'")
        found.append(MethodReference(name, layer or None))
    if not found:
        raise ValueError("no method was given; `xai-align methods` lists them")
    return list(dict.fromkeys(found))


def _not_run(model: Any) -> Any:
    raise TypeError("scores from outside are read from a file and cannot be computed for another model")


def of_scores(files: Iterable[OutsideScores], methods: Iterable[MethodReference]) -> list[MethodReference]:
    """Return references to scores from outside.

    Raises:
        ValueError: two have one name, or it is that of a method.
    """
    found: list[MethodReference] = []
    for scores in files:
        if scores.name in attribution_methods() or scores.name in [one.name for one in (*methods, *found)]:
            raise ValueError(f"scores can't be called '{scores.name}', the name of another method; give NAME=FILE")
        found.append(MethodReference(scores.name, scores=scores))
    return found


def default_methods() -> list[str]:
    """Return the names of the methods that a comparison runs by default."""
    return [name for name, spec in attribution_methods().items() if spec.by_default]


def check_layers(methods: Iterable[MethodReference], model: nn.Module) -> None:
    """Raise if the model lacks a layer that a method is to explain.

    Raises:
        ValueError: it does; the message has the method and the layers there are.
    """
    for method in methods:
        if method.layer in (None, HEAD) or method.scores is not None:
            continue
        try:
            resolve_layer(model, str(method.layer))
        except ValueError as error:
            raise ValueError(f"{method}: {error}") from None
