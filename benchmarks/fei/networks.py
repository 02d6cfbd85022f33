"""Networks of the FEI benchmarks by name, with the photographs on which each is judged."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeAlias

from benchmarks.fei import transformer
from benchmarks.shared.coarse_maps import LAYERS
from benchmarks.shared.photographs import JUDGES, Judge, Photograph, photographs_of

Network: TypeAlias = Judge | transformer.Transformer
#: Settings are chosen on the others.
Half: TypeAlias = Literal["judged", "others"]
NAMES = (*LAYERS, transformer.NAME)


def network_of(name: str, weights: Path | None = None) -> Network:
    """Return the network; the transformer's weights are read from a file."""
    if name != transformer.NAME:
        return JUDGES[name]
    if weights is None:
        raise SystemExit("give the file of the transformer's weights with --weights")
    return transformer.transformer(weights)


def photographs_for(name: str, images: Path, on: Half) -> list[Photograph]:
    found = transformer.photographs(images) if name == transformer.NAME else photographs_of(name, images)
    return found[on == "others"]
