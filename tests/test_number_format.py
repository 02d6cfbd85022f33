"""Numbers that are shown together: one format, by the largest of them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xai_align.report.number_format import number_format


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([-1.23456], ["−1.235"]),
        ([1.0, -0.0004, -0.0, -0.0006], ["1.000", "0.000", "0.000", "−0.001"]),  # no minus before what rounds to zero
        ([0.0, -0.0], ["0.000", "0.000"]),
        ([0.0123, 0.001], ["0.0123", "0.0010"]),
        ([-0.0004, 0.0], ["−0.000400", "0.000000"]),
        ([9.3842e-5, 1e-6, 0.0], ["9.384e−05", "0.100e−05", "0.000e−05"]),
        ([5e-324], ["4.941e−324"]),
        ([1.5e300, -1e299], ["1.500000e+300", "−0.100000e+300"]),
        ([123456.789, 0.5], ["123456.789", "0.500"]),
        ([math.nan, math.inf, -math.inf, 2.0], ["nan", "inf", "−inf", "2.000"]),
        ([math.nan], ["nan"]),
        ([], []),
    ],
)
def test_by_hand(values, texts):
    assert [number_format(values)(value) for value in values] == texts


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=5))
def test_the_largest_keeps_three_digits_and_all_end_at_the_same_one(values):
    largest = max(map(abs, values))
    for value in values:
        shown = float(number_format(values)(value).replace("−", "-"))
        assert abs(shown - value) <= 0.0051 * largest + 5e-324
