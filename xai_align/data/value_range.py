"""Range of an image file's numbers, from black to white.

==================================  =======================================================================
values                              black to white
==================================  =======================================================================
8 bits                              0 to 255
true and false                      false to true
integers of more bits, none < 0     0 to 255, 1023, 4095, 16383, 65535, ...: the smallest of 8, 10, 12, ... bits
                                    that holds the image's largest number; numbers that are 0 or 1 only: 0 to 1
floats within -0.05 to 1.05         0 to 1; values beyond are clipped, as resampling overshoots slightly
other floats, none < 0              0 to 255, 1023, ...: the smallest of 8, 10, ... bits that holds the largest
                                    number, if that is above half of it; else 0 to the largest number
numbers below zero                  floats within -1.05 to 1.05: -1 to 1; others, such as Hounsfield units: the
                                    image's smallest to its largest number
==================================  =======================================================================

The rule is applied to each image separately. ``--range LOW HIGH`` sets one range for all.
"""

from __future__ import annotations

from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: The numbers that are black and white.
ValueRange = tuple[float, float]
_OVERSHOOT = 0.05


def check_range(given: ValueRange | None) -> ValueRange | None:
    """Return the range if it has two finite numbers in ascending order.

    Raises:
        ValueError: it does not.
    """
    if given is None:
        return None
    low, high = map(float, given)
    if not (isfinite(low) and isfinite(high) and low < high):
        raise ValueError(
            f"the range {low:g} to {high:g} holds no numbers; give the black number, then the larger, white one"
        )
    return low, high


def range_of(values: NDArray[Any]) -> ValueRange:
    """Return the range of an image's numbers by the rule above; numbers that are not finite are ignored.

    Raises:
        ValueError: no number is finite, or they are not real numbers.

    Example::

        range_of(np.array([[0, 1800, 3000]], np.uint16))  # (0, 4095)
    """
    kind = values.dtype.kind
    if kind == "b":
        return 0.0, 1.0
    if kind not in "uif":
        raise ValueError(f"its values are of type {values.dtype}; images have real numbers")
    if values.dtype == np.uint8:
        return 0.0, 255.0
    finite = values[np.isfinite(values)]
    if not finite.size:
        raise ValueError("none of its values is a finite number")
    low, high = float(finite.min()), float(finite.max())
    floats = kind == "f"
    slack = _OVERSHOOT if floats else 0.0
    if -slack <= low and high <= 1 + slack:
        return 0.0, 1.0
    if low < 0 and floats and -1 - slack <= low and high <= 1 + slack:
        return -1.0, 1.0
    if low < -slack * max(high, 0.0):
        return (low, high) if low < high else (low, low + max(1.0, -low))
    top = next((float(2**bits - 1) for bits in range(8, 1024, 2) if high <= 2**bits - 1 + slack), high)
    return 0.0, top if not floats or high > top / 2 else high


def to_unit(
    values: NDArray[Any], given: ValueRange | None = None, *, white_is_low: bool = False
) -> NDArray[np.float32]:
    """Map numbers from their range to [0, 1]. Values outside are clipped; NaN becomes 0.

    Args:
        values: of one image, in any shape.
        given: the range; None: by the rule above.
        white_is_low: the smallest number of the range becomes 1 and the largest 0, as TIFF files may say.

    Raises:
        ValueError: see :func:`range_of`.

    Example::

        to_unit(np.array([-1000, 0, 1000], np.int16))  # [0, 0.5, 1]
    """
    low, high = range_of(values) if given is None else given
    x = values.astype(np.float64) / 2  # halves, so that no difference overflows
    shares = (x - low / 2) / (high / 2 - low / 2)
    shares = 1 - shares if white_is_low else shares
    return np.clip(np.nan_to_num(shares, nan=0.0), 0, 1).astype(np.float32)
