"""The PiNet attributions hold to Captum's conventions; questions work for every method."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from captum._utils.common import _run_forward
from captum.attr import (
    Attribution,
    FeatureAblation,
    InputXGradient,
    IntegratedGradients,
    LayerAttribution,
    NoiseTunnel,
    Saliency,
)
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import captum_align
from captum_align import LayerPiNetAttribution, PiNetAttribution
from xai_align import Question, read_out
from xai_align.question import TargetError, ask
from xai_align.testing import TinyNetwork, fixed_images

QUESTIONS = [Question.why_not(1, 2), Question.why(3), Question.why_group([0, 4])]


@pytest.fixture
def model():
    return TinyNetwork()


@pytest.fixture
def images():
    return fixed_images()


def close(a, b, tolerance=1e-5):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def test_they_are_captums_kind(model):
    assert isinstance(PiNetAttribution(model), Attribution)
    assert isinstance(LayerPiNetAttribution(model, "second"), LayerAttribution)
    assert PiNetAttribution.get_name() == "PiNet"
    assert LayerPiNetAttribution.get_name() == "Layer PiNet"
    for method in (PiNetAttribution(model), LayerPiNetAttribution(model, "second")):
        assert method.forward_func is model
        assert method.has_convergence_delta() is True
        assert method.multiplies_by_inputs is True
        assert callable(method.attribute.__wrapped__)


def test_a_name_that_the_package_does_not_have_is_an_attribute_error():
    assert set(captum_align.__all__) <= set(dir(captum_align))
    with pytest.raises(AttributeError, match=r"has no attribute 'PiNet'; it offers .*LayerPiNetAttribution, PiNet"):
        _ = captum_align.PiNet


def test_listing_the_methods_imports_no_ecosystem():
    code = (
        "import sys; from xai_align.plugins import attribution_methods as methods; names = set(methods());"
        "assert {'pinet', 'occlusion'} <= names, names;"
        "assert not {'captum', 'timm', 'pytorch_grad_cam', 'torchvision'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_sum_and_the_bias_are_the_answer(model, images):
    attributions, delta = PiNetAttribution(model).attribute(images, 1, return_convergence_delta=True)
    readout = read_out(model, images, 1)
    close(attributions.flatten(1).sum(1) + readout.bias, model(images)[:, 1].detach())
    assert delta.shape == (3,)
    close(delta, readout.completeness_error)
    assert float(delta.abs().max()) < 1e-5


def test_a_coarse_readout_is_spread_without_changing_its_sum(model, images):
    spread = PiNetAttribution(model, "second_act").attribute(images, 1)
    coarse = LayerPiNetAttribution(model, "second_act").attribute(images, 1)
    assert spread.shape == images.shape
    assert coarse.shape == (3, 4, 4, 5)
    close(spread.sum((1, 2, 3)), coarse.sum((1, 2, 3)))
    close(spread[:, 0], spread[:, 2])  # the channels share equally
    close(spread.sum(1)[:, :2, :2].sum((1, 2)), coarse.sum(1)[:, 0, 0])  # each cell lies on its pixels
    assert spread.is_contiguous()


@pytest.mark.parametrize("layer", [None, "second_act"])
def test_the_convergence_delta_can_be_computed_afterwards(model, images, layer):
    method = PiNetAttribution(model, layer)
    attributions, delta = method.attribute(images, [1, 3, 0], return_convergence_delta=True)
    later = method.compute_convergence_delta(attributions, images, target=[1, 3, 0])
    close(later.double(), delta, 1e-4)
    missed = method.compute_convergence_delta(attributions + 0.01, images, target=[1, 3, 0])
    close(missed - later, torch.full_like(later, 0.01 * images[0].numel()), 1e-4)


def test_the_convergence_delta_has_captums_sign(model, images):
    """Sum of attributions less what they should add up to, as Captum's: too much by 2 is a delta of +2."""
    target = [1, 3, 0]
    shift = torch.tensor([2.0, -3.0, 0.5])
    method, integrated = PiNetAttribution(model), IntegratedGradients(model)
    attributions = method.attribute(images, target)
    moved = attributions + (shift / images[0].numel()).reshape(3, 1, 1, 1)
    close(method.compute_convergence_delta(moved, images, target=target).float(), shift, 1e-4)
    # Captum's own method, given as much too much
    zero = torch.zeros_like(images)
    theirs = integrated.attribute(images, zero, target=target, n_steps=400)
    found = [
        integrated.compute_convergence_delta(maps, zero, images, target=target)
        for maps in (theirs, theirs + (shift / images[0].numel()).reshape(3, 1, 1, 1))
    ]
    close(found[1] - found[0], shift, 1e-4)


@pytest.mark.parametrize("cls", [PiNetAttribution, LayerPiNetAttribution])
@pytest.mark.parametrize("layer", ["input", "second_act"])
def test_the_delta_that_is_returned_has_captums_sign(model, images, cls, layer):
    """What rounding leaves of sum + bias - answer, to the last digits, and not its opposite."""
    attributions, delta = cls(model, layer).attribute(images, [1, 3, 0], return_convergence_delta=True)
    readout = read_out(model, images, [1, 3, 0], layer)
    left = readout.contributions.double().flatten(1).sum(1) + readout.bias.double() - readout.answer.double()
    assert (left.abs() > 1e-9).all()
    close(delta / left, torch.ones(3, dtype=torch.float64), 1e-3)
    close(attributions.double().flatten(1).sum(1) + readout.bias.double() - readout.answer.double(), left, 2e-6)


@pytest.mark.parametrize("cls", [PiNetAttribution, LayerPiNetAttribution])
@pytest.mark.parametrize("target", [1, [1, 3, 0], torch.tensor([1, 3, 0]), [(1,), (3,), (0,)], QUESTIONS, QUESTIONS[0]])
def test_internal_batches_give_what_the_whole_batch_gives(model, images, cls, target):
    method, second = cls(model, "second"), fixed_images(seed=9)
    extra = (second, 2.0)
    whole, delta = method.attribute(images, target, extra, return_convergence_delta=True)
    for size in (1, 2, 3, 7):
        parts, deltas = method.attribute(images, target, extra, size, return_convergence_delta=True)
        close(parts, whole)
        assert deltas.shape == delta.shape
    with pytest.raises(ValueError, match="internal_batch_size must be a positive integer, got 0"):
        method.attribute(images, target, extra, internal_batch_size=0)


class Standardised(nn.Module):
    """The network on images from which the mean of the whole batch is subtracted."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x, *extra):
        return self.model(2 * (x - x.mean()), *extra)


class OfChannels(nn.Module):
    """The network on images whose channels are weighted, or by the mean of the weights."""

    def __init__(self, model, mean=False):
        super().__init__()
        self.model, self.mean = model, mean

    def forward(self, x, weights):
        return self.model(x * (weights.mean() if self.mean else weights.reshape(1, -1, 1, 1)))


@pytest.mark.parametrize("cls", [PiNetAttribution, LayerPiNetAttribution])
@pytest.mark.parametrize("size", [1, 2])
def test_a_network_that_mixes_the_batch_is_refused_where_the_batch_is_split(model, images, cls, size):
    x = images * torch.tensor([1.0, 3.0, -2.0]).reshape(3, 1, 1, 1)
    method = cls(Standardised(model).eval(), "model.second")
    method.attribute(x, 1)
    method.attribute(x, 1, internal_batch_size=3)
    for asked, target in ((method.forward_func, 1), ask(method.forward_func, QUESTIONS, 3)):
        with pytest.raises(ValueError, match="other logits for the same inputs in another batch"):
            cls(asked, "model.second").attribute(x, target, internal_batch_size=size)
    with pytest.raises(ValueError, match="other logits for the same inputs in another batch"):
        method.attribute(x, 0 * x, 1, internal_batch_size=size)


@pytest.mark.parametrize("size", [1, 2])
def test_an_argument_with_as_many_entries_as_images_is_not_split_unnoticed(model, images, size):
    weights = torch.tensor([1.0, 3.0, -2.0])
    for mean in (False, True):
        method = PiNetAttribution(OfChannels(model, mean).eval(), "input")
        with pytest.raises((RuntimeError, ValueError)) as caught:
            method.attribute(images, target=1, additional_forward_args=weights, internal_batch_size=size)
        if size == 1 or mean:
            assert any("add a first axis of one" in note for note in caught.value.__notes__)
    whole, parts = (
        method.attribute(images, target=1, additional_forward_args=weights[None], internal_batch_size=n)
        for n in (None, size)
    )
    close(whole, parts)


def test_splitting_takes_one_more_pass_and_none_if_nothing_is_split(model, images):
    sizes = []

    class Watched(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, x, *extra):
            if not torch.is_grad_enabled():
                sizes.append(len(x))
            return self.model(x, *extra)

    method = PiNetAttribution(Watched().eval(), "input")
    plain = {}
    for size in (3, 2, 1):
        sizes.clear()
        method.attribute(images, 1, internal_batch_size=size)
        plain[size] = list(sizes)
    once = len(plain[3])
    assert (plain[3], plain[2], plain[1]) == (
        [3] * once,
        [2] * once + [1] + [1] * once,
        [1] * once + [2] + [1] * 2 * once,
    )


def test_progress_is_shown_only_when_asked_for(model, images, capsys):
    method = PiNetAttribution(model)
    method.attribute(images, 1, internal_batch_size=1)
    assert capsys.readouterr().err == ""
    method.attribute(images, 1, internal_batch_size=1, show_progress=True)
    assert "exact readout" in capsys.readouterr().err


def test_tuples_come_back_as_tuples(model, images):
    single = PiNetAttribution(model).attribute((images,), 1)
    assert isinstance(single, tuple)
    close(single[0], PiNetAttribution(model).attribute(images, 1))
    pair = PiNetAttribution(model).attribute((images, fixed_images(seed=9)), 1)
    assert [one.shape for one in pair] == [images.shape, images.shape]
    with pytest.raises(ValueError, match="has no position in 2 inputs"):
        PiNetAttribution(model, "second").attribute((images, fixed_images(seed=9)), 1)


ALL_ALIKE = {
    "int": 1,
    "0-d tensor": torch.tensor(1),
    "tensor of one": torch.tensor([1]),
    "tuple": (1,),
    "numpy integer": np.int64(1),
    "small numpy integer": np.uint8(1),
    "0-d array": np.array(1),
    "array of one": np.array([1]),
    "counted from the end": -4,
    "question": Question.why(1),
}
ONE_EACH = {
    "list": [1, 3, 0],
    "tensor": torch.tensor([1, 3, 0]),
    "small integers": torch.tensor([1, 3, 0], dtype=torch.int16),
    "list of tuples": [(1,), (3,), (0,)],
    "array": np.array([1, 3, 0]),
    "list of numpy integers": [np.int64(1), np.int32(3), np.int8(0)],
    "questions": [Question.why(1), Question.why(3), Question.why(0)],
}


@pytest.mark.parametrize("form", ALL_ALIKE)
def test_all_forms_of_one_target(model, images, form):
    close(
        PiNetAttribution(model).attribute(images, ALL_ALIKE[form]),
        PiNetAttribution(model).attribute(images, 1),
    )


@pytest.mark.parametrize("form", ONE_EACH)
def test_all_forms_of_a_target_for_each(model, images, form):
    expected = torch.cat(
        [PiNetAttribution(model).attribute(images[i : i + 1], target) for i, target in enumerate((1, 3, 0))]
    )
    close(PiNetAttribution(model).attribute(images, ONE_EACH[form]), expected)


def test_a_range_is_a_target_for_each(model, images):
    close(
        PiNetAttribution(model).attribute(images, range(3)),
        PiNetAttribution(model).attribute(images, [0, 1, 2]),
    )


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (99, "class 99 is out of range; this output has 5, numbered 0 … 4"),
        (-6, "class -6 is out of range"),
        ([1, 2], "2 targets for 3 examples"),
        (1.0, "type float"),
        (True, "boolean"),
        (torch.tensor(1.0), "class indices are integers"),
        (torch.tensor([[1], [2], [0]]), "one index for each example"),
        (None, "no target was given"),
        ((1, 2), "has 2 parts"),
        ("cat", "type str"),
    ],
)
def test_a_wrong_target_is_an_assertion_error_that_says_why(model, images, target, said):
    with pytest.raises(AssertionError, match=said) as caught:
        PiNetAttribution(model).attribute(images, target)
    assert isinstance(caught.value, TargetError)


@pytest.mark.parametrize(
    "method",
    [InputXGradient, lambda model: Saliency(model), PiNetAttribution, FeatureAblation],
    ids=["InputXGradient", "Saliency", "PiNetAttribution", "FeatureAblation"],
)
def test_each_example_is_asked_its_own_question(model, images, method):
    asked, target = ask(model, QUESTIONS, len(images))
    together = method(asked).attribute(images, target=target).detach()
    for index, question in enumerate(QUESTIONS):
        alone, zero = ask(model, question, 1)
        close(
            together[index : index + 1],
            method(alone).attribute(images[index : index + 1], target=zero).detach(),
        )


def test_the_target_of_several_questions_suits_a_model_on_another_device():
    with FakeTensorMode(), torch.no_grad():  # a GPU's devices without a GPU
        asked, target = ask(nn.Linear(2, 5, device="cuda"), QUESTIONS, 3)
        selected = _run_forward(asked, torch.zeros(3, 2, device="cuda"), target)
    assert (selected.shape, selected.device.type) == ((3,), "cuda")


@pytest.mark.parametrize("internal", [None, 4])
def test_every_step_of_integrated_gradients_keeps_the_question_of_its_example(model, images, internal):
    asked, target = ask(model, QUESTIONS, len(images))
    maps, delta = IntegratedGradients(asked).attribute(
        images, target=target, n_steps=400, internal_batch_size=internal, return_convergence_delta=True
    )
    answers = torch.stack([q.answer(row) for q, row in zip(QUESTIONS, model(images), strict=True)])
    at_zero = torch.stack([q.answer(model(0 * images[:1])[0]) for q in QUESTIONS])
    close(maps.flatten(1).sum(1), (answers - at_zero).detach().to(maps), 2e-2)
    assert float(delta.abs().max()) < 2e-2


@pytest.mark.parametrize("method", [PiNetAttribution, InputXGradient])
def test_every_noisy_copy_keeps_the_question_of_its_example(model, images, method):
    asked, target = ask(model, QUESTIONS, len(images))
    plain = method(asked).attribute(images, target=target).detach()
    for batch in (None, 2):
        with torch.random.fork_rng():
            still = NoiseTunnel(method(asked)).attribute(
                images, target=target, nt_samples=5, nt_samples_batch_size=batch, stdevs=0.0
            )
        close(still.detach(), plain)


def test_every_ablated_copy_keeps_the_question_of_its_example(model, images):
    asked, target = ask(model, QUESTIONS, len(images))
    halves = (torch.arange(images.shape[-1]) * 2 // images.shape[-1]).expand(1, *images.shape[1:])
    maps = FeatureAblation(asked).attribute(images, target=target, feature_mask=halves, perturbations_per_eval=2)
    for index, question in enumerate(QUESTIONS):
        without_left = images[index : index + 1] * halves
        with torch.no_grad():
            lost = question.answer(model(images[index : index + 1])[0]) - question.answer(model(without_left)[0])
        close(maps[index, 0, 0, 0], lost)


@pytest.mark.parametrize(
    "attribute",
    {
        "pinet": lambda model, x, target: PiNetAttribution(model).attribute(x, target),
        "pinet at a layer": lambda model, x, target: PiNetAttribution(model, "second").attribute(x, target),
        "input x gradient": lambda model, x, target: InputXGradient(model).attribute(x, target),
        "signed saliency": lambda model, x, target: Saliency(model).attribute(x, target, abs=False),
        "integrated gradients": lambda model, x, target: IntegratedGradients(model).attribute(x, target=target),
        "ablation": lambda model, x, target: FeatureAblation(model).attribute(x, target=target),
    }.items(),
    ids=lambda item: item[0],
)
def test_the_contrast_of_two_classes_is_the_difference_of_their_maps(model, images, attribute):
    of = attribute[1]
    asked, target = ask(model, Question.why_not(1, 2), len(images))
    difference = of(model, images, 1) - of(model, images, 2)
    close(of(asked, images, target).detach(), difference.detach(), 1e-4)


def test_a_question_in_place_of_a_target_is_the_question_asked(model, images):
    asked, target = ask(model, QUESTIONS, len(images))
    close(
        PiNetAttribution(asked).attribute(images, target),
        PiNetAttribution(model).attribute(images, QUESTIONS),
    )
