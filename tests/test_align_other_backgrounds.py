"""Exchanged backgrounds: what is exchanged, by what, and what stays."""

from __future__ import annotations

import math

import pytest
import torch
from networks import conv_net, images
from torch import nn
from torch.nn import functional as F

from xai_align.align.captured_pass import cam_space
from xai_align.align.forward_passes.classifier_pass import ClassifierPass
from xai_align.align.forward_passes.side_pass import batch_statistics_preserved
from xai_align.align.forward_passes.training_batch import TrainingBatch
from xai_align.align.mask_sources import GivenMask
from xai_align.align.terms.other_backgrounds import OtherBackgrounds, magnified


def forward_of(classifier, x, masks, *, mask_source=True, seed=0):
    batch = TrainingBatch(images=x, labels=torch.arange(len(x)) % 5, masks=masks)
    return ClassifierPass(
        batch,
        classifier=classifier,
        space=cam_space(classifier, x),
        mask_source=GivenMask() if mask_source else None,
        generator=torch.Generator().manual_seed(seed),
    )


def test_the_whole_image_is_itself():
    x = images(3, 8)
    found = magnified(x, torch.ones(3), torch.rand(3, 2), smallest=0.1, largest=1.0)
    assert torch.allclose(found, x, atol=1e-5)


def test_a_piece_of_a_ramp_is_a_flatter_ramp_of_its_range():
    """A quarter of the columns' ramp 0 ... 7, at the left end: values from 0 on that grow by a quarter a column."""
    ramp = torch.arange(8.0).expand(1, 1, 8, 8)
    found = magnified(ramp, torch.zeros(1), torch.zeros(1, 2), smallest=0.25, largest=1.0)
    # Pixel centres of the piece are at (j + 1/2) / 4 - 1/2; those beyond the first centre are the edge's.
    expected = torch.tensor([max(0.0, (j + 0.5) / 4 - 0.5) for j in range(8)])
    assert torch.allclose(found[0, 0], expected.expand(8, 8), atol=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_scales_and_places_stay_inside(seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(6, 3, 9, 13, generator=generator)
    found = magnified(
        x, torch.rand(6, generator=generator), torch.rand(6, 2, generator=generator), smallest=0.06, largest=0.4
    )
    assert found.shape == x.shape
    assert (found.amin((2, 3)) >= x.amin((2, 3)) - 1e-5).all()
    assert (found.amax((2, 3)) <= x.amax((2, 3)) + 1e-5).all()


def test_only_what_is_outside_the_mask_is_exchanged():
    x = images(6, 8)
    masks = torch.zeros(6, 1, 8, 8)
    masks[..., :4] = 1
    masks[5] = math.nan  # not known: nothing is exchanged
    forward = forward_of(conv_net(), x, masks)
    found = OtherBackgrounds().exchanged(forward, forward.mask)
    assert torch.equal(found[..., :4], x[..., :4])
    assert torch.equal(found[5], x[5])
    assert not torch.isclose(found[:5, ..., 4:], x[:5, ..., 4:]).all(3).any()


def test_a_full_mask_gives_the_cross_entropy_and_an_empty_one_does_not_see_the_image():
    classifier, x = conv_net(), images(4, 8)
    labels = torch.arange(4) % 5
    full = OtherBackgrounds()(forward_of(classifier, x, torch.ones(4, 1, 8, 8)))
    assert torch.allclose(full, F.cross_entropy(classifier(x), labels, reduction="none"), atol=1e-5)
    empty = torch.zeros(4, 1, 8, 8)
    forward = forward_of(classifier, x, empty)
    others = OtherBackgrounds(smallest=0.3).exchanged(forward, forward.mask)
    again = forward_of(classifier, x, empty)
    assert torch.equal(others, OtherBackgrounds(smallest=0.3).exchanged(again, again.mask))  # the step's draws decide


def test_gradients_reach_all_layers_and_statistics_stay():
    classifier = conv_net().train()
    before = {name: value.clone() for name, value in classifier.named_buffers()}
    forward = forward_of(classifier, images(4, 8), torch.rand(4, 1, 8, 8))
    statistics = {name: value.clone() for name, value in classifier.named_buffers()}
    OtherBackgrounds()(forward).mean().backward()
    assert all(torch.equal(value, statistics[name]) for name, value in classifier.named_buffers())
    assert before.keys() == statistics.keys()
    assert all(p.grad is not None for name, p in classifier.named_parameters() if not name.startswith("unused"))


def test_batch_norm_normalises_by_the_batch_inside_and_remembers_outside():
    norm, x = nn.BatchNorm2d(3).train(), images(4, 8)
    expected = F.batch_norm(x, None, None, training=True)
    with batch_statistics_preserved(norm):
        assert torch.allclose(norm(x), expected, atol=1e-5)
    with pytest.raises(ValueError, match="4D"), batch_statistics_preserved(norm):
        norm(x[0])
    assert int(norm.num_batches_tracked) == 0
    assert torch.equal(norm.running_mean, torch.zeros(3))
    norm(x)
    assert int(norm.num_batches_tracked) == 1


def test_frozen_batch_norm_stays_frozen():
    norm, x = nn.BatchNorm2d(3).eval(), images(4, 8)
    with batch_statistics_preserved(norm):
        assert torch.equal(norm(x), F.batch_norm(x, torch.zeros(3), torch.ones(3)))


def test_what_is_not_possible():
    with pytest.raises(ValueError, match="sides between"):
        OtherBackgrounds(smallest=0.5, largest=0.2)
    with pytest.raises(ValueError, match="no mask source"):
        OtherBackgrounds()(forward_of(conv_net(), images(2, 8), None, mask_source=False))
