"""Attention against attributions: known answers, a toy encoder, and what must not matter."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from xai_align.evaluation.attention_agreement import (
    attention_agreement,
    attention_agreement_per_token,
    context_mixing_gap,
    pooled_to,
)

METHODS = ("pearson", "spearman", "kendall")


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def heads(seed=0):
    """Attention of 2 examples, 3 layers, 2 heads, 4 tokens, 10 positions."""
    return numbers(2, 3, 2, 4, 10, seed=seed).softmax(-1)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("pool", ["max", "mean"])
def test_attention_that_is_the_pooled_saliency_agrees_fully(method, pool):
    saliency = numbers(2, 4, 30, 8)
    attention = pooled_to(saliency, 10, pool=pool)
    value = attention_agreement(attention, saliency, pool=pool, method=method)
    torch.testing.assert_close(value, torch.ones(2, dtype=torch.float64))
    turned = attention_agreement(-attention, saliency, pool=pool, method=method)
    torch.testing.assert_close(turned, -torch.ones(2, dtype=torch.float64))


def test_pooling_by_hand():
    table = torch.arange(12.0).view(1, 1, 4, 3)  # 4 frames of 3 frequencies
    assert pooled_to(table, 2, pool="max").tolist() == [[[5, 11]]]
    assert pooled_to(table, 2, pool="mean").tolist() == [[[2.5, 8.5]]]
    assert pooled_to(table[..., 0], 4).tolist() == [[[0, 3, 6, 9]]]


@pytest.mark.parametrize("method", METHODS)
def test_shuffled_attention_agrees_with_nothing(method):
    saliency = numbers(4, 10, 60)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(1))
    value = attention_agreement(saliency[..., order], saliency, method=method)
    assert float(value.abs().max()) < 0.15


@pytest.mark.parametrize("method", METHODS)
def test_scale_and_offset_do_not_matter_even_from_token_to_token(method):
    attention, saliency = heads(), numbers(2, 4, 30)
    expected = attention_agreement(attention, saliency, method=method)
    scale, offset = numbers(2, 4, 1, seed=2).abs() + 0.1, numbers(2, 4, 1, seed=3)
    torch.testing.assert_close(attention_agreement(attention, scale * saliency + offset, method=method), expected)
    torch.testing.assert_close(attention_agreement(5 * attention + 3, saliency, method=method), expected)


def test_pearson_of_all_tokens_is_the_mean_over_tokens():
    attention, saliency = heads(), numbers(2, 4, 30, 5)
    for aggregate, shape in (("all", (2,)), ("layer", (2, 3)), ("head", (2, 3, 2))):
        value = attention_agreement(attention, saliency, aggregate=aggregate)
        by_token = attention_agreement_per_token(attention, saliency, aggregate=aggregate)
        assert value.shape == shape
        assert by_token.shape == (*shape, 4)
        torch.testing.assert_close(by_token.mean(-1), value)


def test_layers_and_heads_are_means_of_attention():
    attention, saliency = heads(), numbers(2, 4, 10)
    by_head = attention_agreement(attention, saliency, aggregate="head")
    torch.testing.assert_close(by_head[:, 1, 0], attention_agreement(attention[:, 1, 0], saliency))
    by_layer = attention_agreement(attention, saliency, aggregate="layer")
    torch.testing.assert_close(by_layer[:, 2], attention_agreement(attention[:, 2].mean(1), saliency))
    overall = attention_agreement(attention, saliency)
    torch.testing.assert_close(overall, attention_agreement(attention.mean((1, 2)), saliency))


@pytest.mark.parametrize("method", METHODS)
def test_no_example_minds_the_others(method):
    attention, saliency = heads(), numbers(2, 4, 30)
    together = attention_agreement(attention, saliency, method=method, aggregate="head")
    for i in range(2):
        alone = attention_agreement(attention[i : i + 1], saliency[i : i + 1], method=method, aggregate="head")
        torch.testing.assert_close(alone[0], together[i])


@pytest.mark.parametrize("method", METHODS)
def test_a_constant_row_agrees_with_nothing_and_is_no_value_by_itself(method):
    saliency = numbers(1, 4, 10)
    attention = saliency.clone()
    attention[0, 1] = 0.1
    by_token = attention_agreement_per_token(attention, saliency, method=method)[0]
    assert by_token.isnan().tolist() == [False, True, False, False]
    value = float(attention_agreement(attention, saliency, method=method))
    assert 0 < value < 1
    if method == "pearson":  # 3 of 4 rows agree; one side's variance is 3/4 of the other's
        assert value == pytest.approx(3 / math.sqrt(3 * 4))
    assert math.isnan(attention_agreement(torch.full((1, 4, 10), 0.1), saliency, method=method))


def test_an_encoder_that_mixes_neighbours_opens_a_gap_that_attention_did_not_make():
    attr_encoder = numbers(3, 5, 40).abs()
    attention = attr_encoder / attr_encoder.sum(-1, keepdim=True)  # attention sees the encoder's output perfectly
    kernel = torch.tensor([0.25, 0.5, 0.25]).view(1, 1, 3)  # and that is spread over neighbours of the input
    attr_input = functional.conv1d(attr_encoder.view(15, 1, 40), kernel, padding=1).view(3, 5, 40)
    gap = context_mixing_gap(attention, attr_input, attr_encoder)
    assert gap.shape == (3,)
    assert bool((gap > 0.05).all())
    torch.testing.assert_close(gap, 1 - attention_agreement(attention, attr_input))
    wider = functional.conv1d(attr_input.view(15, 1, 40), kernel, padding=1).view(3, 5, 40)
    assert bool((context_mixing_gap(attention, wider, attr_encoder) > gap).all())
    assert context_mixing_gap(attention, attr_encoder, attr_encoder).tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("attention", "saliency", "options", "said"),
    [
        (numbers(2, 3, 4, 10), numbers(2, 4, 10), {}, r"attention has shape \[2, 3, 4, 10\]"),
        (numbers(2, 4, 10), numbers(2, 4, 9), {}, "attributions have 9 positions and attention 10"),
        (numbers(2, 4, 10), numbers(2, 5, 10), {}, "2 examples with 4 tokens, attributions of 2 with 5"),
        (numbers(2, 4, 10), numbers(2, 10), {}, r"give \[N, I, T\] or \[N, I, T, F\]"),
        (numbers(2, 4, 10), numbers(2, 4, 10), {"aggregate": "head"}, "has no layers and heads"),
        (numbers(2, 4, 10), numbers(2, 4, 10), {"method": "cosine"}, "must be 'pearson', 'spearman' or 'kendall'"),
        (numbers(2, 4, 10), numbers(2, 4, 10) * math.inf, {}, "attributions must be finite"),
    ],
)
def test_bad_input_is_said(attention, saliency, options, said):
    with pytest.raises(ValueError, match=said):
        attention_agreement(attention, saliency, **options)
