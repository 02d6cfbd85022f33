"""Command-line options that the commands which train a network share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

#: ``--patience``
Patience = Annotated[int | None, typer.Option(min=1, help="Stop after so many validations without progress.")]
#: ``--seed``
Seed = Annotated[int, typer.Option(help="Seed of everything random.")]
#: ``--mixed-precision``
MixedPrecision = Annotated[str, typer.Option(metavar="no|bf16|fp16", help="Precision of the training.")]
#: ``--workers``
Workers = Annotated[int, typer.Option(min=0, help="Processes that load images.")]
#: ``--device``
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ... Default: a GPU if there is one.")]
#: ``--options``
OptionsFile = Annotated[
    Path | None,
    typer.Option("--options", metavar="FILE", help="TOML file of such options; --set takes precedence."),
]
