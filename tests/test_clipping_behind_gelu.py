"""Clipping in a network of two layers with GELU, worked out by hand: what passes is decided at the output."""

from __future__ import annotations

from math import erf, exp, pi, sqrt

import pytest
import torch
from torch import nn

from xai_align.fei import clip_gradients

#: Weights of the four hidden units, and of the answer.
IN, OUT = (1.0, -1.0, 2.0, 1.0), (3.0, 2.0, -1.0, -4.0)
#: The image, and the masked image. The outputs of hidden units are positive where their inputs are.
REFERENCE, NOW = 1.0, 0.5


class TwoLayers(nn.Module):
    """``sum_k OUT_k gelu(IN_k x - [k = 3] 2)`` for one token."""

    def __init__(self):
        super().__init__()
        self.hidden, self.act, self.out = nn.Linear(1, 4), nn.GELU(), nn.Linear(4, 1, bias=False)
        with torch.no_grad():
            self.hidden.weight.copy_(torch.tensor(IN)[:, None])
            self.hidden.bias.copy_(torch.tensor([0.0, 0.0, 0.0, -2.0]))
            self.out.weight.copy_(torch.tensor([OUT]))
        self.eval()

    def forward(self, tokens):  # [N, L, 1]
        return self.out(self.act(self.hidden(tokens))).mean(1)


def gelu(h):
    return h * (1 + erf(h / sqrt(2))) / 2


def slope(h):
    return (1 + erf(h / sqrt(2))) / 2 + h * exp(-h * h / 2) / sqrt(2 * pi)


#: Units 0 and 2 are active for the image (h = 1, 2), 1 and 3 silent (h = -1, -1). With less light a unit's output is
#: lower for 0 and 2, and for 3 (h = -1.5, gelu -0.100 above gelu(-1) = -0.159) higher, as GELU falls there; for 1
#: (h = -0.5, gelu -0.154) higher, too. The loss is less the answer, so g = -OUT: units 0 and 1 are pushed up (g < 0), 2
#: and 3 down (g > 0).
PASSING = {
    "none": (1, 1, 1, 1),
    "ibm": (1, 0, 1, 1),  # up only where a0 > 0
    "ivm": (1, 0, 1, 1),  # up only where a <= a0
    "avm": (1, 1, 0, 1),  # down only where a >= a0
    "vm": (1, 0, 0, 1),  # up where a < a0, down where a >= a0
    "fgvis": (1, 1, 1, 1),  # everywhere between 0 and a0
    "silent": (1, 0, 1, 0),  # where a0 > 0
}


@pytest.mark.parametrize("mode", PASSING)
def test_what_passes(mode):
    model = TwoLayers()
    h0, h = ([w * x - 2 * (k == 3) for k, w in enumerate(IN)] for x in (REFERENCE, NOW))
    a0, a = [gelu(one) for one in h0], [gelu(one) for one in h]
    assert [one > 0 for one in a0] == [True, False, True, False]
    assert [now > before for now, before in zip(a, a0, strict=True)] == [False, True, False, True]
    expected = sum(-w * p * slope(at) * v for w, p, at, v in zip(OUT, PASSING[mode], h, IN, strict=True))
    x = torch.tensor([[[NOW]]], requires_grad=True)
    with clip_gradients(model, torch.tensor([[[REFERENCE]]]), mode=mode) as clipping:
        (found,) = torch.autograd.grad(-clipping.model(x).sum(), x)
    assert float(found) == pytest.approx(expected, abs=1e-6)
