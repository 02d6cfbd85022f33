"""Symmetric relevance gain: areas worked by hand, properties, and Quantus' region perturbation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tests.networks import conv_net, images
from xai_align import Question, plugins
from xai_align.evaluation import removal, symmetric_relevance_gain
from xai_align.question import TargetError

#: One picture of 2 x 2 pixels, one channel.
X = torch.tensor([[[[4.0, 3.0], [2.0, 1.0]]]], dtype=torch.float64)
HAND = {"target": 0, "grid": (2, 2)}


def total(x):
    """Logits ``(sum, 0)``."""
    z = x.flatten(1).sum(1)
    return torch.stack([z, torch.zeros_like(z)], 1)


def some_maps(*shape, seed=3):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_logits_by_hand():
    # to 0: most first 10 6 3 1 0, least first 10 9 7 4 0; areas (5 + 6 + 3 + 1) / 4 and (5 + 9 + 7 + 4) / 4
    assert float(symmetric_relevance_gain(total, X, X, baselines=0.0, **HAND)) == pytest.approx(25 / 4 - 15 / 4)
    # to the mean 2.5: 10 8.5 8 8.5 10, and 10 11.5 12 11.5 10
    assert float(symmetric_relevance_gain(total, X, X, **HAND)) == pytest.approx(45 / 4 - 35 / 4)
    # two steps: 10 3 0, and 10 7 0
    assert float(symmetric_relevance_gain(total, X, X, baselines=0.0, num_steps=2, **HAND)) == pytest.approx(4 / 2)


def test_the_mean_is_of_each_picture_and_channel():
    net = conv_net()
    x, maps = images(2, 8), some_maps(2, 8, 8)
    filled = x.mean((2, 3), keepdim=True).expand_as(x)
    asked = {"target": 1, "grid": (4, 4)}
    torch.testing.assert_close(
        symmetric_relevance_gain(net, x, maps, **asked),
        symmetric_relevance_gain(net, x, maps, baselines=filled, **asked),
    )


def test_probabilities_by_hand():
    kept = (torch.tensor([10.0, 9, 7, 4, 0]), torch.tensor([10.0, 6, 3, 1, 0]))
    least, most = (torch.trapezoid(one.sigmoid()) / 4 for one in kept)
    found = symmetric_relevance_gain(total, X, X, baselines=0.0, of="probability", **HAND)
    assert float(found) == pytest.approx(float(least - most))


def test_a_patch_has_the_sum_of_its_pixels():
    # by its largest pixel the left column comes first, by its sum the right one
    x = torch.tensor([[[[5.0, 4.0], [0.0, 4.0]]]])
    # most first: 13 5 0; least first: 13 8 0
    assert float(symmetric_relevance_gain(total, x, x, target=0, grid=(1, 2), baselines=0.0)) == pytest.approx(3 / 2)
    columns = torch.tensor([[7, 3], [7, 3]])
    found = symmetric_relevance_gain(total, x, x, target=0, feature_mask=columns, baselines=0.0, num_steps=2)
    assert float(found) == pytest.approx(3 / 2)


@pytest.mark.filterwarnings("ignore::xai_align.perturbation.TieWarning")
def test_ties_go_by_position_and_the_other_direction_is_the_exact_reverse():
    tied = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
    # most first: 4, then 3 2 1 in reading order; least first: 1 2 3 4: as for the map that is X itself
    found = symmetric_relevance_gain(total, X, tied, baselines=0.0, **HAND)
    assert float(found) == pytest.approx(25 / 4 - 15 / 4)


def test_for_a_linear_answer_the_fill_makes_no_difference():
    maps = some_maps(1, 2, 2)
    values = [
        float(symmetric_relevance_gain(total, X, maps, baselines=fill, **HAND)) for fill in (0.0, "mean", 7.0, -100.0)
    ]
    assert values == pytest.approx([values[0]] * 4)
    assert abs(values[0]) > 0.1


def test_the_negative_map_has_the_negative_value_and_a_scale_changes_nothing():
    net, x, maps = conv_net(), images(3, 8), some_maps(3, 8, 8)
    found = symmetric_relevance_gain(net, x, maps, target=1, grid=(4, 4))
    torch.testing.assert_close(symmetric_relevance_gain(net, x, -maps, target=1, grid=(4, 4)), -found)
    torch.testing.assert_close(symmetric_relevance_gain(net, x, 3 * maps, target=1, grid=(4, 4)), found)
    for i in range(3):
        torch.testing.assert_close(
            symmetric_relevance_gain(net, x[i : i + 1], maps[i : i + 1], target=1, grid=(4, 4)), found[i : i + 1]
        )


def test_single_pixels_are_lerf_less_morf():
    net, x, maps = conv_net(), images(2, 8), some_maps(2, 8, 8)
    lerf, morf = (removal(net, x, maps, order=order, baselines="mean", num_steps=16) for order in ("lerf", "morf"))
    found = symmetric_relevance_gain(net, x, maps, grid=(8, 8), num_steps=16, of="probability")
    torch.testing.assert_close(found, lerf - morf)
    # pictures with fewer pixels than cells: each pixel is one
    assert torch.equal(
        symmetric_relevance_gain(net, x, maps), symmetric_relevance_gain(net, x, maps, grid=(8, 8), num_steps=28)
    )


def test_tokens_and_rows_are_removed_by_position():
    rows = torch.tensor([[4.0, 3.0, 2.0, 1.0]])
    found = symmetric_relevance_gain(total, rows, rows, target=0, baselines=0.0, num_steps=4)
    assert float(found) == pytest.approx(2.5)


def test_the_predicted_class_and_questions():
    net, x, maps = conv_net(), images(2, 8), some_maps(2, 8, 8)
    predicted = net(x).argmax(1).tolist()
    alone = symmetric_relevance_gain(net, x, maps, target=predicted)
    torch.testing.assert_close(symmetric_relevance_gain(net, x, maps), alone)
    # the answer of "why 1 and not 2" is the difference of the two logits, and so is its area
    pair = symmetric_relevance_gain(net, x, maps, target=Question.why_not(1, 2))
    one, other = (symmetric_relevance_gain(net, x, maps, target=target) for target in (1, 2))
    torch.testing.assert_close(pair, one - other, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore::xai_align.perturbation.TieWarning")
def test_a_constant_map_ranks_nothing():
    assert math.isnan(symmetric_relevance_gain(total, X, torch.ones_like(X), **HAND))


def test_the_registered_metric_is_this_function():
    spec = plugins.metric("srg")
    assert spec.higher_is_better
    net, x, maps = conv_net(), images(2, 16), some_maps(2, 16, 16)
    asked = {"target": [1, 2], "internal_batch_size": 5}
    torch.testing.assert_close(
        spec.evaluate(net, x, maps, **asked),
        symmetric_relevance_gain(net, x, maps, target=[1, 2], grid=(14, 14), num_steps=28, baselines="mean"),
    )


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"of": "logit"}, ValueError, "of must be 'answer' or 'probability', got 'logit'"),
        ({"num_steps": 0}, ValueError, "num_steps must be a positive integer, got 0"),
        ({"feature_mask": torch.zeros(2, 2).long()}, ValueError, "give one of them"),
        ({"grid": (3, 3)}, ValueError, "3 x 3 cells does not fit 2 x 2 pixels"),
        ({"target": 5}, TargetError, "out of range"),
        ({"baselines": "grey"}, ValueError, "a fill by name must be"),
        ({"attributions": torch.ones(1, 3, 3)}, ValueError, r"attributions have shape \[1, 3, 3\]"),
        ({"attributions": torch.full((1, 2, 2), math.nan)}, ValueError, "attributions must be finite"),
        ({"inputs": X * math.inf}, ValueError, "inputs must be finite"),
    ],
)
def test_bad_input_is_said(change, error, said):
    with pytest.raises(error, match=said):
        symmetric_relevance_gain(total, **{"inputs": X, "attributions": X, **HAND, **change})


@pytest.mark.filterwarnings("ignore")
def test_both_directions_are_what_quantus_region_perturbation_measures():
    quantus = pytest.importorskip("quantus")
    net, x, maps = conv_net(), images(3, 8), some_maps(3, 8, 8)
    labels = [1, 0, 2]

    def area_in_quantus(order):
        metric = quantus.RegionPerturbation(
            patch_size=2,
            regions_evaluation=16,
            order=order,
            perturb_baseline=0.0,
            abs=False,
            normalise=False,
            disable_warnings=True,
            display_progressbar=False,
        )
        drops = metric(
            model=net,
            x_batch=x.numpy().copy(),
            y_batch=np.array(labels),
            a_batch=maps[:, None].numpy(),
            device="cpu",
            softmax=False,
        )
        clean = net(x)[range(3), labels].detach().numpy()
        curves = clean[:, None] - np.concatenate([np.zeros((3, 1)), np.asarray(drops)], 1)
        return (curves[:, 1:] + curves[:, :-1]).sum(1) / 32

    found = symmetric_relevance_gain(net, x, maps, target=labels, grid=(4, 4), num_steps=16, baselines=0.0)
    np.testing.assert_allclose(found.numpy(), area_in_quantus("lerf") - area_in_quantus("morf"), rtol=1e-4, atol=1e-5)
