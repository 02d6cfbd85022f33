"""Results that a stopped benchmark finds again: whole files, as a file that is there isn't made again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from xai_align._tools.files.whole_file import whole_file


def keep(found: Any, file: Path) -> None:
    """Save tensors to a file that appears when all is written, and not at all if the program is stopped before."""
    with whole_file(file) as waiting:
        torch.save(found, waiting)
