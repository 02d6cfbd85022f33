"""Tables of the fits on single domains of PACS."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def report(fits: Sequence[dict[str, Any]]) -> str:
    """Markdown."""
    return ""
