"""Figures and images as PNG files in memory."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Dots per inch of figures.
DOTS = 100


def png(figure: Any) -> bytes:
    """Return a matplotlib figure as a PNG file."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=DOTS, metadata={"Software": None})
    return buffer.getvalue()


def photograph_png(picture: NDArray[Any]) -> bytes:
    """Return an image ``[H, W, 3]`` in [0, 1] as a PNG file of the same size."""
    from PIL import Image

    buffer = BytesIO()
    Image.fromarray((picture * 255).round().astype(np.uint8)).save(buffer, format="PNG")
    return buffer.getvalue()
