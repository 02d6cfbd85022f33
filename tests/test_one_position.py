"""Local readouts one position at a time: the same numbers in bounded batches."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from xai_align import read_out
from xai_align.pinet.network import one_position


class Counting(nn.Module):
    """Network that notes the largest batch that reached its convolution or its head."""

    def __init__(self):
        super().__init__()
        self.conv, self.end = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 5)
        self.largest = [0]

    def forward(self, x):
        self.largest[0] = max(self.largest[0], len(x))
        return self.end(self.conv(x).relu().mean((2, 3)))


@pytest.mark.parametrize("at_once", [1, 7, 400, 1000])
def test_maps_of_many_positions_in_bounded_batches(monkeypatch, at_once):
    torch.manual_seed(0)
    model, x = Counting().eval(), torch.randn(1, 3, 20, 20)
    monkeypatch.setattr(one_position, "AT_ONCE", at_once)
    readout = read_out(model, x, 3, "head")
    assert model.largest[0] <= max(at_once, 2)
    # by hand: each position's share is a_k . relu(conv)_p / P, and the bias is the linear layer's
    expected = torch.einsum("c,nchw->nhw", model.end.weight[3], model.conv(x).relu()) / 400
    torch.testing.assert_close(readout.contributions.sum(1), expected)
    torch.testing.assert_close(readout.bias, model.end.bias[3:4])
