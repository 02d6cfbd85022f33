"""The benchmark of context mixing: its saliency by hand, and an encoder that cannot mix."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from benchmarks.judging.context_mixing import COLUMNS, contributions, masked_divergence, measured
from benchmarks.shared.encoder_decoder import EncoderDecoder, sequences
from xai_align.pinet import read_out


def test_masked_divergence_by_hand():
    x = torch.tensor([[[math.log(3)], [5.0]]])  # two positions; the answer is of the first alone

    def answer(x):
        return torch.stack(
            [x[:, :1, 0], torch.zeros_like(x[:, :1, 0])], -1
        )  # [N, 1, 2]: softmax (3/4, 1/4), or (1/2, 1/2)

    masked = torch.tensor([[True, False], [False, True], [True, True], [False, False]])
    divergence = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    # both masks that hide the first position change the answer, one of the two that hide the second
    expected = torch.tensor([[[divergence, divergence / 2]]], dtype=torch.float64)
    torch.testing.assert_close(masked_divergence(answer, x, masked), expected, rtol=1e-6, atol=1e-9)


def untrained(encoder):
    torch.manual_seed(0)
    return EncoderDecoder(encoder).eval().requires_grad_(False)


def gaps(model):
    """The paper's, and that with the encoder's output for an empty source in place of zero."""
    values = measured(model, *sequences(3, seed=1), masks=50)
    return values[:, COLUMNS.index("gap")], values[:, COLUMNS.index("gap, emptied")]


def test_an_encoder_that_works_position_by_position_has_no_gap_if_empty_is_what_it_makes_of_nothing():
    model = untrained("single")
    zeroed, emptied = gaps(model)
    torch.testing.assert_close(emptied, torch.zeros(3, dtype=torch.float64))
    assert float(zeroed.abs().min()) > 1e-3  # zero takes the place of a position away too, which is no mixing
    for offset in (model.embed.bias, model.places, model.encoder[0][0].bias, model.encoder[1][0].bias):
        offset.zero_()  # nothing becomes zero
    torch.testing.assert_close(gaps(model)[0], torch.zeros(3, dtype=torch.float64))


@pytest.mark.parametrize("encoder", ["convolution", "self-attention"])
def test_an_encoder_that_mixes_has_a_gap(encoder):
    assert float(gaps(untrained(encoder))[1].abs().min()) > 1e-3


class FourthToken(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, source):
        return self.model(source)[:, 3]


def test_the_readout_of_all_tokens_is_that_of_one_after_the_other():
    model = untrained("self-attention")
    source, wanted = sequences(2, seed=1)
    together = contributions(model, source, wanted)
    assert together.shape == (2, 12, 12)
    alone = read_out(FourthToken(model).eval(), source[1:], int(wanted[1, 3]), "model.encoder")
    torch.testing.assert_close(together[1, 3], alone.contributions[0].sum(-1), rtol=1e-4, atol=1e-5)
