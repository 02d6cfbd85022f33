"""The checksum of tensors: other values give another one, equal values the same."""

from __future__ import annotations

import pytest
import torch

from xai_align._tools.checksum import PERIOD, checksum_of

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64, torch.int64, torch.bool)


def tensors():
    drawn = torch.randn(2 * PERIOD + 7, generator=torch.Generator().manual_seed(3))
    return [drawn, drawn[:5].reshape(1, 5), torch.zeros(0), torch.tensor(3)] + [drawn[:9].to(kind) for kind in DTYPES]


def test_equal_values_give_equal_checksums_also_where_others_are_cast():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert checksum_of(tensors()) == checksum_of(tensors())
    assert checksum_of([]) == ()


@pytest.mark.parametrize("place", [0, PERIOD - 1, PERIOD, 2 * PERIOD, 2 * PERIOD + 6])
@pytest.mark.parametrize("autocast", [False, True])
def test_one_value_counts_wherever_it_stands(place, autocast):
    changed = tensors()
    changed[0][place] += 1e-3
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        assert checksum_of(changed) != checksum_of(tensors())


@pytest.mark.parametrize("number", range(4, 4 + len(DTYPES)))
def test_every_dtype_counts(number):
    changed = tensors()
    changed[number] = torch.zeros_like(changed[number])
    assert checksum_of(changed) != checksum_of(tensors())
