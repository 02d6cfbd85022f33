"""Reference to a method: its name and, after an ``@``, the layer it explains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from xai_align.features.head_input import HEAD
from xai_align.features.resolve_layer import resolve_layer
from xai_align.plugins import attribution_method, attribution_methods

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import nn


@dataclass(frozen=True)
class MethodReference:
    """Method and layer: ``"pinet@blocks.4"`` is the method ``pinet`` at the layer ``blocks.4``."""

    name: str
    layer: str | None = None

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
            raise ValueError(f"the method '{name}' looks at no layer of its own; write '{name}', not '{one}'")
        found.append(MethodReference(name, layer or None))
    if not found:
        raise ValueError("no method was given; `xai-align methods` shows them")
    return list(dict.fromkeys(found))


def default_methods() -> list[str]:
    """Return the names of the methods that a comparison runs by default."""
    return [name for name, spec in attribution_methods().items() if spec.by_default]


def check_layers(methods: Iterable[MethodReference], model: nn.Module) -> None:
    """Raise if the model lacks a layer that a method is to explain.

    Raises:
        ValueError: it does; the message has the method and the layers there are.
    """
    for method in methods:
        if method.layer in (None, HEAD):
            continue
        try:
            resolve_layer(model, str(method.layer))
        except ValueError as error:
            raise ValueError(f"{method}: {error}") from None
