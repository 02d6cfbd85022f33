"""Command-line options for model references, and for trust in the folders that they name."""

from __future__ import annotations

from typing import Annotated

import typer

#: Help for ``--model``.
MODEL_REFERENCES = (
    "timm:NAME, timm:NAME@weights.safetensors, pinet:FOLDER, align:FOLDER, or package.module:factory, which is run."
)
#: Help for ``--backbone``.
BACKBONE_REFERENCES = (
    "timm:NAME, timm:NAME@weights.safetensors, timm:NAME@random, or package.module:factory, which is run."
)
#: The option of every command that takes a reference.
TrustCode = Annotated[
    bool,
    typer.Option(
        "--trust-code",
        help="Let a folder (pinet:FOLDER, align:FOLDER) name package.module:function, which is then run. "
        "Without, folders are data.",
    ),
]
