"""One method, one question: the numbers are those worked out by hand, whatever the method."""

from __future__ import annotations

import copy

import pytest
import torch
from cli_factory import Colours, half_red_half_blue
from torch import nn

import xai_align
from xai_align.explanation import explain
from xai_align.plugins import attribution_method
from xai_align.question import Question, TargetError

RED, GREEN, BLUE = 0, 1, 2


@pytest.fixture
def model():
    return Colours().eval()


def test_the_public_name_is_the_function():
    assert xai_align.explain is explain


def test_pinet_accounts_for_the_answer_pixel_by_pixel(model):
    explanation = explain(model, half_red_half_blue(), Question.why_not(RED, BLUE), layer="input")
    # 4 / 16 for each red pixel, -4 / 16 for each blue one, 0.5 + 0.25 of bias
    expected = torch.tensor([0.25, 0.25, -0.25, -0.25]).expand(1, 4, 4)
    torch.testing.assert_close(explanation.map, expected)
    torch.testing.assert_close(explanation.answer, torch.tensor([0.75]))
    torch.testing.assert_close(explanation.readout.bias, torch.tensor([0.75]))
    assert explanation.total.item() == pytest.approx(0.0, abs=1e-6)
    torch.testing.assert_close(explanation.logits, torch.tensor([[2.5, 0.0, 1.75, -1.0]]))


def test_another_method_comes_without_an_account(model):
    explanation = explain(model, half_red_half_blue(), RED, "input_x_gradient")
    assert explanation.readout is None
    torch.testing.assert_close(explanation.answer, torch.tensor([2.5]))
    assert explanation.total.item() == pytest.approx(2.0, abs=1e-6)
    torch.testing.assert_close(explanation.map[0, :, 0], torch.full((4,), 0.25))


def test_every_example_has_its_own_question(model):
    inputs = half_red_half_blue().repeat(2, 1, 1, 1)
    for method in ("pinet", "input_x_gradient"):
        explanation = explain(model, inputs, [Question.why(RED), Question.why_not(BLUE, RED)], method)
        torch.testing.assert_close(explanation.answer, torch.tensor([2.5, -0.75]))
        torch.testing.assert_close(explanation.map[:, 0, 0], torch.tensor([0.25, -0.25]))


def test_without_a_question_the_predicted_class_of_each_example_is_asked_about(model):
    blue = torch.zeros(1, 3, 4, 4)
    blue[:, BLUE] = 1
    explanation = explain(model, torch.cat([half_red_half_blue(), blue]))
    assert explanation.questions == (Question.why(RED), Question.why(BLUE))
    torch.testing.assert_close(explanation.answer, torch.tensor([2.5, 3.75]))


def test_options_reach_the_method(model):
    start_at_the_picture = {"baselines": half_red_half_blue(), "n_steps": 3}
    explanation = explain(model, half_red_half_blue(), RED, "integrated_gradients", **start_at_the_picture)
    assert explanation.attribution.abs().max() == 0  # no way from the baseline to the picture


def test_what_is_read_in_a_layer_is_spread_over_its_pixels_and_channels():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 2, 2, stride=2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 3))
    inputs = torch.randn(2, 3, 4, 6)
    explanation = explain(model.eval(), inputs, 1, layer="0")
    assert explanation.readout.contributions.shape == (2, 2, 2, 3)
    assert explanation.attribution.shape == inputs.shape
    torch.testing.assert_close(explanation.attribution.flatten(1).sum(1), explanation.total.float())
    torch.testing.assert_close(explanation.total.float() + explanation.readout.bias, explanation.answer)
    corner = explanation.attribution[:, :, :2, :2]
    torch.testing.assert_close(corner, corner[:, :1, :1, :1].expand_as(corner))


def test_inputs_that_are_no_images_have_no_map():
    model = nn.Linear(4, 2).eval()
    explanation = explain(model, torch.ones(1, 4), 0, "input_x_gradient")
    torch.testing.assert_close(explanation.attribution, model.weight[:1])
    with pytest.raises(ValueError, match=r"no map.*\[1, 4\]"):
        _ = explanation.map


def test_only_methods_that_look_at_a_layer_take_one(model):
    assert [attribution_method(name).takes_layer for name in ("pinet", "layer_grad_cam", "saliency")] == [
        True,
        True,
        False,
    ]
    with pytest.raises(ValueError, match=r"'saliency' takes no layer.*'look'"):
        explain(model, half_red_half_blue(), RED, "saliency", layer="look")


def test_wrong_names_and_classes_are_told(model):
    with pytest.raises(ValueError, match="salienci"):
        explain(model, half_red_half_blue(), RED, "salienci")
    with pytest.raises(TargetError, match="4"):
        explain(model, half_red_half_blue(), 4)


def test_the_model_is_left_as_it_was(model):
    before = copy.deepcopy(model.state_dict())
    for method in ("pinet", "saliency", "layer_grad_cam"):
        explanation = explain(model, half_red_half_blue(), RED, method)
        assert not explanation.attribution.requires_grad
        assert not explanation.answer.requires_grad
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert not model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
