"""One format for numbers that are shown together, determined by the largest of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

#: Decimals of numbers of common size, the largest of them between 0.1 and a million.
DECIMALS = 3


def number_format(values: Iterable[float]) -> Callable[[float], str]:
    """Return the format for the numbers of one sentence, sum or table: all of them with the same last digit.

    Numbers whose largest one is between 0.1 and a million have three decimals. Below, there are as many more as give
    the largest one three digits; below 0.0001 and from a million, all have the same power of ten, so that a sum can
    be followed digit by digit. The minus is typographic, and nothing that rounds to zero has one.

    Args:
        values: the numbers that are shown together. Those that are not finite don't count.

    Example::

        from xai_align.report.number_format import number_format

        [number_format([9.3842, 0.02])(value) for value in (9.3842, -0.02)]  # ["9.384", "−0.020"]
        [number_format([3e-7, 2e-8])(value) for value in (3e-7, 2e-8)]  # ["3.000e−07", "0.200e−07"]
    """
    largest = max((abs(value) for value in values if math.isfinite(value)), default=0.0)
    power = math.floor(math.log10(largest)) if largest else 0
    decimals, together = DECIMALS, 0
    if largest and power < -4:
        together = power
    elif power < 0:
        decimals = max(DECIMALS, 2 - power)
    elif power >= 6:
        decimals, together = 6, power

    def text(value: float) -> str:
        # in two steps, since 10.0**-320 has hardly a digit left and 10.0**320 is infinite
        half = together // 2
        shown = f"{value / 10.0**half / 10.0 ** (together - half):z.{decimals}f}"  # z: no minus before what rounds to 0
        return (shown + (f"e{together:+03d}" if together and math.isfinite(value) else "")).replace("-", "−")

    return text
