"""Programs of ``torch.export``: traced, written, and read again."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

#: Name of the metadata in the archive: ``torch.export.load(file, extra_files={METADATA: ""})``.
METADATA = "xai_align.json"


def trace(module: nn.Module, images: Tensor, axes: dict[int, Any]) -> ExportedProgram:
    """Return the module as a program, traced on images; ``axes`` are those of free size."""
    with torch.no_grad():
        return torch.export.export(module, (images,), dynamic_shapes=(axes,), strict=False)


def write_program(program: ExportedProgram, waiting: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write a program to a file that waits for its check, with metadata beside it."""
    extra = {METADATA: json.dumps(dict(metadata))} if metadata else None
    content = BytesIO()  # of a file that cannot be written, such as on a full disk, torch tells no more than a stack
    torch.export.save(program, content, extra_files=extra)
    waiting.write_bytes(content.getbuffer())


def program_in(path: Path) -> Callable[[Tensor], dict[str, Tensor]]:
    """Return the function in a file: from images to outputs by name."""
    with path.open("rb") as file:
        module = torch.export.load(file).module()

    def run(images: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            return module(images)

    return run
