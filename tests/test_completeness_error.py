"""Completeness error: by hand, with constants and baselines, of readouts and of integrated gradients."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import timm
import torch

from tests.networks import conv_net, filled, images, two_layers
from xai_align import Question, explain, plugins
from xai_align.evaluation import completeness_error, completeness_gap
from xai_align.evaluation.does_not_apply import MetricDoesNotApply
from xai_align.question import TargetError

X = torch.tensor([[1.0, 2.0]])
#: h = relu([1 + 4 + 1, 3 - 2 - 2]) = [6, 0]; logits [12.5, -6.5]. At zero h = [1, 0]; logits [2.5, -1.5].
MAP = torch.tensor([[3.0, 4.0]])


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({}, 12.5 - 7),
        ({"target": 1}, 6.5 + 7),
        ({"constant": 5.5}, 0),
        ({"constant": torch.tensor([2.0])}, 3.5),
        ({"baselines": 0.0}, 12.5 - 2.5 - 7),
        ({"baselines": torch.zeros(1, 2), "target": 1}, 6.5 - 1.5 + 7),
        ({"target": Question.why_not(0, 1)}, 19 - 7),
        ({"target": Question.why_not(0, 1), "baselines": 0.0}, 19 - 4 - 7),
    ],
)
def test_by_hand(given, error):
    assert completeness_error(two_layers(), X, MAP, **given).tolist() == [pytest.approx(error, abs=1e-6)]


def test_without_a_constant_it_is_the_gap():
    net, x, maps = conv_net(), images(3), torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    assert torch.equal(completeness_error(net, x, maps), completeness_gap(net, x, maps))
    for i in range(3):
        alone = completeness_error(net, x[i : i + 1], maps[i : i + 1], target=2, baselines="mean")
        whole = completeness_error(net, x, maps, target=2, baselines="mean")
        torch.testing.assert_close(alone, whole[i : i + 1], rtol=1e-5, atol=1e-6)


def test_what_a_readout_says_is_not_taken_on_trust():
    net, x = conv_net(), images(3)
    found = explain(net, x, [0, 1, 2], "pinet", layer="input")
    asked = {"target": [0, 1, 2], "explanation": found}
    assert completeness_error(net, x, found.attribution, **asked).max() < 1e-5
    # a map that lost half of its sum on the way, which its readout does not know
    half = completeness_error(net, x, found.attribution / 2, **asked)
    torch.testing.assert_close(half, (found.readout.total / 2).abs(), rtol=1e-4, atol=1e-5)
    assert completeness_gap(net, x, found.attribution / 2, **asked).max() < 1e-5


@pytest.mark.parametrize("layer", ["blocks.0", None])
def test_evidence_on_prefix_tokens_belongs_to_the_constant(layer):
    vit = filled(timm.create_model("test_vit", num_classes=7, img_size=96))
    x = images(2, 96)
    found = explain(vit, x, [1, 5], "pinet", layer=layer)
    assert layer is None or found.readout.prefix.abs().min() > 1e-3
    error = completeness_error(vit, x, found.attribution, target=[1, 5], explanation=found)
    assert error.max() < 1e-4 * found.answer.abs().max()


def test_integrated_gradients_are_complete_from_their_baseline_alone():
    net, x = conv_net(), images(2)
    maps = plugins.attribution_method("integrated_gradients").build(net).attribute(x, target=1, n_steps=300)
    from_zeros = completeness_error(net, x, maps, target=1, baselines=0.0)
    assert (from_zeros < 0.1 * completeness_error(net, x, maps, target=1)).all()
    torch.testing.assert_close(
        plugins.metric("completeness_error_from_zeros").evaluate(net, x, maps, target=[1, 1]), from_zeros
    )
    # an explanation without a readout states no constant
    stated = completeness_error(net, x, maps, target=1, explanation=SimpleNamespace(readout=None))
    assert torch.equal(stated, completeness_error(net, x, maps, target=1))


@pytest.mark.parametrize("name", ["completeness_gap", "completeness_error", "completeness_error_from_zeros"])
@pytest.mark.parametrize(
    ("method", "applies"), [("random", False), ("saliency", False), ("integrated_gradients", True)]
)
def test_only_contributions_have_a_sum_to_compare(name, method, applies):
    net, x = conv_net(), images(2)
    found = explain(net, x, [0, 1], method)
    evaluate = plugins.metric(name).evaluate
    if applies:
        assert evaluate(net, x, found.attribution, target=[0, 1], explanation=found).shape == (2,)
    else:
        with pytest.raises(MetricDoesNotApply, match=f"the values of {method} are "):
            evaluate(net, x, found.attribution, target=[0, 1], explanation=found)


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"attributions": MAP * math.nan}, ValueError, "attributions must be finite"),
        ({"attributions": torch.cat([MAP, MAP])}, ValueError, "attributions of 2 examples were given, and 1 inputs"),
        ({"constant": 1.0, "baselines": 0.0}, ValueError, "give one of them"),
        ({"constant": torch.zeros(2)}, ValueError, r"constant has shape \[2\]; give a number, or \[1\]"),
        ({"constant": math.inf}, ValueError, "constant must be finite"),
        ({"baselines": torch.zeros(3)}, ValueError, r"the fill has shape \[3\]"),
        ({"target": 2}, TargetError, "out of range"),
    ],
)
def test_bad_input_is_said(change, error, said):
    with pytest.raises(error, match=said):
        completeness_error(two_layers(), **{"inputs": X, "attributions": MAP, **change})
