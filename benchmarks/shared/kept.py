"""Saved results of a benchmark, from which a stopped run resumes: complete files, as existing ones are not repeated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from xai_align._tools.files.whole_file import whole_file


def keep(found: Any, file: Path) -> None:
    """Save tensors to a file that appears only when it is complete."""
    with whole_file(file) as waiting:
        torch.save(found, waiting)
