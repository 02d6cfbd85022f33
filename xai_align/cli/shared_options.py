"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

_REFERENCES = "timm:NAME, timm:NAME@weights.safetensors, timm:NAME@random"

ModelReference = Annotated[
    str,
    typer.Option(
        "--model",
        metavar="REF",
        help=f"The model: {_REFERENCES}, pinet:FOLDER, align:FOLDER, or package.module:factory, a function that is "
        "imported and called.",
    ),
]
BackboneReference = Annotated[
    str,
    typer.Option(
        "--backbone",
        metavar="REF",
        help=f"The network to start from: {_REFERENCES}, or package.module:factory, a function that is imported and "
        "called.",
    ),
]
TrustCode = Annotated[
    bool,
    typer.Option(
        "--trust-code",
        help="Run the code that a model folder (pinet:FOLDER, align:FOLDER) names as package.module:function. Without "
        "this option, folders that name code are refused.",
    ),
]
Device = Annotated[str | None, typer.Option("--device", help="cpu, cuda, cuda:1, ... Default: a GPU if there is one.")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of all random numbers.")]
Workers = Annotated[int, typer.Option("--workers", min=0, help="Number of processes that load images.")]
Patience = Annotated[
    int | None,
    typer.Option("--patience", min=1, help="Stop after this many validations without improvement. Default: never."),
]
Recursive = Annotated[bool, typer.Option("--recursive", help="Search the folders below a folder, too.")]
Range = Annotated[
    tuple[float, float] | None,
    typer.Option(
        "--range",
        metavar="LOW HIGH",
        help="The numbers of the image files that are black and white, such as 0 4095 for 12 bits or -1000 1000 for "
        "Hounsfield units. Default: by each file's type and largest number.",
    ),
]
OptionsFile = Annotated[
    Path | None,
    typer.Option("--options", metavar="FILE.toml", help="File of the options that --set sets; --set takes precedence."),
]


def split_names(given: Iterable[str] | None) -> list[str]:
    """Split ``["a,b", "c"]`` into ``["a", "b", "c"]``."""
    return [name.strip() for one in given or () for name in one.split(",") if name.strip()]
