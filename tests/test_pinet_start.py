"""What a PiNet is made of, and that it starts sane: few detections, logits of order one, everything to be trained."""

from __future__ import annotations

from itertools import product
from typing import get_args

import pytest
import torch

from xai_align.pinet import ConvClassifier, FeaturePyramid, PooledDecoder, Start, conv_pinet
from xai_align.pinet.network.aggregator import Aggregator
from xai_align.pinet.network.initialisation import Activation
from xai_align.pinet.network.readable_features import ReadableKind

EVERY_Z = [z for z in get_args(ReadableKind) if z != "area"]
#: Without evidence under a softmax, which has one gate for all classes.
PAIRS = [pair for pair in product(EVERY_Z, get_args(Activation)) if pair != ("evidence", "softmax")]


def pictures(count=2, size=16, channels=3):
    return torch.rand(count, channels, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("z", "activation"), PAIRS)
@pytest.mark.parametrize("size", [8, 64])
@pytest.mark.parametrize("decoder", ["conv", "fpn"])
def test_logits_start_at_order_one(z, activation, size, decoder):
    torch.manual_seed(size)
    model = conv_pinet(4, in_channels=3, width=4, z=z, activation=activation, decoder=decoder)
    for mode in (True, False):
        with torch.no_grad():
            logits = model.train(mode)(pictures(4, size))
        assert logits.abs().max() < 2


def test_the_published_start_is_at_hand():
    published = Start(coefficient=0.5, evidence=0.5 * 0.5 * 80 * 80, bias=0, contrast=1)
    model = conv_pinet(width=4, start=published).eval()
    look = model.explain(pictures(1, 80, 1))
    assert look.scale.item() == pytest.approx(1)  # b^2 with b = 1, on a sum
    assert look.bias.item() == 0
    assert look.logits.item() > 500


def test_parameter_counts_of_the_paper():
    counts = [
        sum(p.numel() for p in model.parameters())
        for model in (conv_pinet(), conv_pinet(decoder="pooled", size=80), ConvClassifier())
    ]
    assert counts == [108_563, 490_930, 297_953]
    # of these, 1x1 convolutions of shortcuts that a plain network doesn't use
    assert sum(p.numel() for p in conv_pinet().trainable_parameters()) == 108_563 - 2_688


def test_every_trainable_parameter_takes_part():
    for options in ({}, {"z": "evidence", "decoder": "fpn"}, {"z": "features"}, {"residual": "added"}):
        torch.manual_seed(0)
        model = conv_pinet(4, in_channels=3, width=4, **options)
        for parameter in model.head.parameters():
            parameter.data += 0.3 * torch.randn_like(parameter)
        model.train()
        model.explain(pictures()).logits.square().sum().backward()
        assert [p for p in model.trainable_parameters() if p.grad is None] == []


@pytest.mark.parametrize("scale", ["square", "softplus"])
def test_a_scale_is_never_negative_and_starts_at_its_unit(scale):
    aggregator = Aggregator(3, scale=scale, unit=5.0)
    torch.testing.assert_close(aggregator.scale(10), torch.full((3,), 0.5))
    aggregator.b.data = torch.tensor([-2.0, 0.0, 2.0])
    assert bool((aggregator.scale(10) >= 0).all())


def test_the_pooled_control_cannot_know_where():
    decoder = PooledDecoder([4], 2, (6, 6))
    features = torch.randn(1, 4, 5, 5)
    shuffled = features.flatten(2)[..., torch.randperm(25)].view_as(features)
    torch.testing.assert_close(decoder([features], (6, 6)), decoder([shuffled], (6, 6)))
    pyramid = FeaturePyramid([4], 2).eval()
    assert not torch.allclose(pyramid([features], (6, 6)), pyramid([shuffled], (6, 6)), atol=1e-3)
