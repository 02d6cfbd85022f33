"""EPICAttribution: Captum's interface to the shares of mixed channels."""

from __future__ import annotations

import pytest
import torch
from captum.attr import Attribution, LayerGradientXActivation

from captum_align import EPICAttribution
from tests.networks import conv_net, images
from xai_align import Question
from xai_align.prototypes import MixedNetwork, channel_shares, fit_prototypes


@pytest.fixture(scope="module")
def fitted():
    model, x = conv_net(), images(8, 16)
    return model, x, fit_prototypes(model, list(x), "conv2", prototypes=2, rounds=3)


def test_it_is_a_method_of_captum(fitted):
    model, x, found = fitted
    epic = EPICAttribution(model, found)
    assert isinstance(epic, Attribution)
    assert epic.has_convergence_delta()
    assert epic.multiplies_by_inputs
    assert epic.get_name() == "EPIC"
    attributions, delta = epic.attribute((x,), target=1, return_convergence_delta=True)
    assert attributions.shape == (8, 8, 8, 8)
    assert delta.abs().max() < 1e-5


def test_each_image_has_its_own_target_and_does_not_depend_on_its_batch(fitted):
    model, x, found = fitted
    epic, targets = EPICAttribution(model, found), [0, 1, 2, 3, 4, 0, 1, Question.why_not(2, 3)]
    together = epic.attribute(x, target=targets)
    alone = torch.cat([epic.attribute(x[i : i + 1], target=[targets[i]]) for i in range(8)])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=1e-5)
    batched = EPICAttribution(model, found, internal_batch_size=3).attribute(x, target=targets)
    torch.testing.assert_close(batched, together, atol=1e-6, rtol=1e-5)


def test_the_batch_size_of_a_call_bounds_the_passes(fitted, monkeypatch):
    model, x, found = fitted
    epic, sizes = EPICAttribution(model, found, internal_batch_size=5), []
    together = epic.attribute(x, target=1)

    def counted(model, images, *args):
        sizes.append(len(images))
        return channel_shares(model, images, *args)

    monkeypatch.setattr("xai_align.prototypes.method.channel_shares", counted)
    torch.testing.assert_close(epic.attribute(x, target=1, internal_batch_size=3), together, atol=1e-6, rtol=1e-5)
    assert sizes == [3, 3, 2]
    with pytest.raises(ValueError, match="internal_batch_size"):
        epic.attribute(x, target=1, internal_batch_size=0)


def test_the_delta_of_given_attributions(fitted):
    """That of a call for its own attributions; it grows by what is added to them."""
    model, x, found = fitted
    epic = EPICAttribution(model, found)
    attributions, delta = epic.attribute(x, target=1, return_convergence_delta=True)
    torch.testing.assert_close(epic.compute_convergence_delta(attributions, None, x, 1), delta)
    attributions[2, 3, 4, 5] += 0.5
    more = epic.compute_convergence_delta(attributions, x, target=1)
    torch.testing.assert_close(more - delta, 0.5 * (torch.arange(8) == 2).to(delta), atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="leave the start point out"):
        epic.compute_convergence_delta(attributions, 0 * x, x, 1)
    shape = "contributions of the mixed channels have .* give what attribute returned"
    for other in (attributions.sum(1), attributions[..., 1:], x, (attributions, attributions)):
        with pytest.raises(ValueError, match=shape):
            epic.compute_convergence_delta(other, x, target=1)


def test_other_methods_of_captum_read_the_mixed_network(fitted):
    """Gradient x activation at the mixed map of a network without gates behind it is the readout by channels."""
    model, x, found = fitted
    mixed = MixedNetwork(model, found, x)
    captums = LayerGradientXActivation(mixed, mixed.channels).attribute(x, target=1)
    ours = EPICAttribution(model, found).attribute(x, target=1)
    # behind conv2 there is a ReLU: gradient x input is exact, as the ReLU has no bias
    torch.testing.assert_close(captums, ours, atol=1e-6, rtol=1e-4)


def test_further_arguments_are_refused(fitted):
    model, x, found = fitted
    with pytest.raises(ValueError, match="EPIC takes images alone"):
        EPICAttribution(model, found).attribute(x, 1, (torch.ones(1),))
    with pytest.raises(AssertionError):
        EPICAttribution(model, found).attribute(x, 99)
