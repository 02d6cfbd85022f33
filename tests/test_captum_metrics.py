"""Captum's metrics by name: what Captum gives, image by image, without a trace."""

from __future__ import annotations

import random

import captum.attr
import captum.metrics
import numpy as np
import pytest
import torch
from torch import nn

from captum_align.captum_metrics import infidelity, sensitivity
from captum_align.plugin import xai_align_metrics
from xai_align import Question, explain, plugins
from xai_align._tools.random_state import fixed_random_state
from xai_align.question import TargetError, ask
from xai_align.testing import TinyNetwork, fixed_images
from xai_align.testing.networks import fixed_numbers
from xai_align.testing.traces import differences, snapshot, snapshot_of_inputs

CPU = torch.device("cpu")
TARGETS = [1, 3, 0]


def saliency(model):
    method = plugins.attribution_method("saliency").build(model, abs=False)
    return lambda inputs, target: method.attribute(inputs, target=target)


def measure(name, model, images, maps, **options):
    if name == "sensitivity":
        options.setdefault("explain", saliency(model))
    return {"infidelity": infidelity, "sensitivity": sensitivity}[name](model, images, maps, **options)


def tutorial_noise(inputs):
    """As in Captum's documentation, with torch's numbers."""
    noise = 0.003 * torch.randn(inputs.shape)
    return noise, inputs - noise


def test_they_are_offered_by_name_and_lower_is_better():
    assert {spec.name: spec.higher_is_better for spec in xai_align_metrics()} == {
        "infidelity": False,
        "sensitivity": False,
    }


def test_infidelity_is_captums_own_with_the_same_random_numbers():
    model, images = TinyNetwork(), fixed_images()
    maps = saliency(model)(images, TARGETS)
    values = infidelity(model, images, maps, target=TARGETS, n_perturb_samples=7, seed=4)
    assert values.shape == (3,)
    for i, target in enumerate(TARGETS):
        one = slice(i, i + 1)
        with fixed_random_state(4):
            direct = captum.metrics.infidelity(
                model, tutorial_noise, images[one], maps[one], target=target, n_perturb_samples=7
            )
        assert torch.equal(values[one], direct)


@pytest.mark.parametrize("normalize", [False, True])
def test_infidelity_in_shares_of_the_input_is_captums_decorator(normalize):
    model, images = TinyNetwork(), fixed_images()
    maps = plugins.attribution_method("input_x_gradient").build(model).attribute(images, target=1)
    options = {"normalize": normalize, "baselines": 0.5}
    values = infidelity(model, images, maps, target=1, multiply_by_inputs=True, **options)

    @captum.metrics.infidelity_perturb_func_decorator(True)
    def perturb(inputs, baselines):
        return tutorial_noise(inputs)[1]

    for i in range(3):
        one = slice(i, i + 1)
        with fixed_random_state():
            direct = captum.metrics.infidelity(model, perturb, images[one], maps[one], target=1, **options)
        torch.testing.assert_close(values[one], direct)


def test_a_linear_models_gradient_foretells_every_change():
    model = nn.Linear(6, 3).double().eval()
    rows = fixed_numbers(4, 6)
    right = model.weight[1].detach().expand(4, 6)
    assert float(infidelity(model, rows, right, target=1, noise=1.0).max()) < 1e-20
    # twice the gradient is wrong by I.w: with noise of 1 that is |w|^2 on average
    wrong = infidelity(model, rows, 2 * right, target=1, noise=1.0, n_perturb_samples=4000)
    torch.testing.assert_close(wrong, right.square().sum(1), rtol=0.1, atol=0)
    assert float(infidelity(model, rows, 2 * right, target=1, normalize=True).max()) < 1e-20


def test_by_name_exact_contributions_are_as_good_as_slopes():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 3)).double().eval()
    x = fixed_numbers(2, 3, 8, 8)
    (metric,) = (spec for spec in xai_align_metrics() if spec.name == "infidelity")
    exact, slopes = (explain(model, x, 1, method) for method in ("input_x_gradient", "saliency"))
    assert (exact.values, slopes.values) == ("contributions", "slopes")
    torch.testing.assert_close(exact.attribution, model[1].weight[1].detach().reshape(1, 3, 8, 8) * x)
    signed = model[1].weight[1].detach().reshape(1, 3, 8, 8).expand_as(x)
    for given, explanation in ((exact.attribution, exact), (signed, slopes), (signed, None)):
        assert float(metric.evaluate(model, x, given, target=1, explanation=explanation).max()) < 1e-20
    assert float(metric.evaluate(model, x, exact.attribution, target=1, explanation=slopes).min()) > 1e-10


def test_sensitivity_is_captums_own_with_the_same_random_numbers():
    model, images = TinyNetwork(), fixed_images()
    explain = saliency(model)
    values = sensitivity(model, images, explain(images, TARGETS), target=TARGETS, explain=explain, seed=2)
    assert values.shape == (3,)
    assert float(values.min()) > 0
    for i, target in enumerate(TARGETS):
        with fixed_random_state(2):
            direct = captum.metrics.sensitivity_max(
                lambda x, target: captum.attr.Saliency(model).attribute(x, target=target, abs=False),
                images[i : i + 1].clone(),
                target=target,
            )
        torch.testing.assert_close(values[i : i + 1], direct)


def test_an_explanation_that_never_moves_has_no_sensitivity_and_one_that_is_the_input_moves_with_it():
    model, images = TinyNetwork(), fixed_images()
    still = measure("sensitivity", model, images, images, target=1, explain=lambda x, target: torch.ones_like(x))
    assert still.tolist() == [0, 0, 0]
    moving = measure("sensitivity", model, images, images, target=1, explain=lambda x, target: x, perturb_radius=0.1)
    # |d| / |x| with 240 numbers uniform in +-0.1: their root mean square is 0.1 / sqrt(3)
    expected = (240 / 3) ** 0.5 * 0.1 / images.flatten(1).norm(dim=1)
    torch.testing.assert_close(moving, expected, rtol=0.15, atol=0)


@pytest.mark.parametrize("name", ["infidelity", "sensitivity"])
def test_no_image_minds_the_others_and_every_call_is_the_same(name):
    model, images = TinyNetwork(), fixed_images()
    maps = saliency(model)(images, TARGETS)
    together = measure(name, model, images, maps, target=TARGETS)
    torch.manual_seed(5)
    np.random.seed(5)
    assert torch.equal(together, measure(name, model, images, maps, target=np.array(TARGETS)))
    for i, target in enumerate(TARGETS):
        one = slice(i, i + 1)
        for asked in (target, [target], torch.tensor([target])):
            assert torch.equal(measure(name, model, images[one], maps[one], target=asked), together[one])
    assert not torch.equal(together, measure(name, model, images, maps, target=TARGETS, seed=1))
    pieces = measure(name, model, images, maps, target=TARGETS, max_examples_per_batch=4)
    assert pieces.shape == (3,)


@pytest.mark.parametrize("name", ["infidelity", "sensitivity"])
def test_questions_one_for_all_or_one_for_each(name):
    model, images = TinyNetwork(), fixed_images()
    questions = [Question.why_not(1, 2), Question.why(3), Question.against_all(0)]
    maps = saliency(model)(images, questions)
    values = measure(name, model, images, maps, target=questions)
    asked, target = ask(model, questions, 3)
    torch.testing.assert_close(measure(name, asked, images, maps, target=target), values)
    torch.testing.assert_close(measure(name, model, images[1:2], maps[1:2], target=3), values[1:2])
    torch.testing.assert_close(measure(name, model, images[:1], maps[:1], target=questions[0]), values[:1])


@pytest.mark.parametrize("name", ["infidelity", "sensitivity"])
def test_nothing_is_left_behind(name):
    model, images = TinyNetwork(), fixed_images()
    maps = saliency(model)(images, 1)
    before, given = snapshot(model), snapshot_of_inputs((images, maps))
    state = random.getstate()
    with torch.inference_mode():
        inside = measure(name, model, images, maps, target=1)
    values = measure(name, model, images, maps, target=1)
    assert not values.requires_grad
    torch.testing.assert_close(inside.clone(), values)
    assert state == random.getstate()
    assert differences(before, snapshot(model)) + differences(given, snapshot_of_inputs((images, maps))) == []
    with pytest.raises((AssertionError, IndexError)):
        measure(name, model, images, maps, target=99)
    assert differences(before, snapshot(model)) == []


def test_several_inputs_and_further_arguments():
    model, images = TinyNetwork(), fixed_images()
    second = images.flip(0)
    method = plugins.attribution_method("saliency").build(model, abs=False)
    maps = method.attribute((images, second), target=1, additional_forward_args=(2.0,))
    values = infidelity(model, (images, second), maps, target=1, additional_forward_args=(2.0,))
    alone = infidelity(
        model, (images[:1], second[:1]), tuple(m[:1] for m in maps), target=1, additional_forward_args=(2.0,)
    )
    assert torch.equal(values[:1], alone)
    moved = sensitivity(
        model,
        (images, second),
        maps,
        target=1,
        explain=lambda x, target: method.attribute(x, target=target, additional_forward_args=(2.0,)),
    )
    assert moved.shape == (3,)


def test_an_own_perturbation():
    model, images = nn.Sequential(nn.Flatten(), nn.Linear(240, 3)).eval(), fixed_images()

    def half(inputs):
        return inputs / 2, inputs / 2

    maps = model[1].weight[1].detach().view(1, 3, 8, 10).expand(images.shape)
    assert float(infidelity(model, images, maps, target=1, perturb_func=half).max()) < 1e-9
    assert float(infidelity(model, images, 0 * maps, target=1, perturb_func=half).min()) > 1e-4


@pytest.mark.parametrize("name", ["infidelity", "sensitivity"])
def test_bad_input_is_said(name):
    model, images = TinyNetwork(), fixed_images()
    with pytest.raises(ValueError, match="they must be the same"):
        measure(name, model, images, images[:, :1], target=1)
    with pytest.raises(ValueError, match="NaN or infinity"):
        measure(name, model, images, images / 0, target=1)
    with pytest.raises(ValueError, match="give at least one example"):
        measure(name, model, images[:0], images[:0], target=1)
    with pytest.raises(TargetError, match="boolean"):
        measure(name, model, images, images, target=True)
    with pytest.raises(ValueError, match=r"call model\.eval\(\) first"):
        measure(name, TinyNetwork().train(), images, images, target=1)
    with pytest.raises(ValueError, match="noise is 0"):
        infidelity(model, images, images, target=1, noise=0)
