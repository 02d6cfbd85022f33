"""A trained PiNet is read out like any network, and its readout is its own sum."""

from __future__ import annotations

import copy
from contextlib import nullcontext

import pytest
import torch
from networks import conv_net, images, untouched
from torch import nn

import timm_align
from captum_align import PiNetAttribution
from gradcam_align import PiNetCAM
from xai_align import Question, ask, explain
from xai_align.pinet import CompletenessError, ExactPiNet, conv_pinet, read_out, read_out_all_classes
from xai_align.question import TargetError

KINDS = {
    "pixels": {"z": "pixels"},
    "both signs": {"z": "pixels_and_inverse", "activation": "tanh"},
    "evidence": {"z": "evidence"},
    "evidence, own gates": {"z": "evidence", "coefficients": "per_class"},
    "coarse": {"z": "ones", "size": 4},
}
QUESTIONS = (2, Question.why_not(1, 3), Question.against_all(0), Question.why_group([0, 2]))


def pinet(**options):
    """In eval mode, away from its start."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = conv_pinet(**{"num_classes": 4, "in_channels": 3, "width": 4, **options}).eval()
        for parameter in made.head.parameters():
            parameter.data += 0.3 * torch.randn_like(parameter)
    return made


def pictures(count=2, size=16):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("question", QUESTIONS, ids=str)
def test_the_readout_is_the_networks_own_sum(kind, question):
    model, x = pinet(**KINDS[kind]), pictures()
    with untouched(model):
        readout = model.read_out(x, question)
    with torch.no_grad():
        look = model.explain(x)
        answer = torch.stack(
            [question.answer(row) if isinstance(question, Question) else row[question] for row in look.logits]
        )
    torch.testing.assert_close(readout.answer, answer)
    assert readout.relative_error.max() < 1e-5
    torch.testing.assert_close(readout.contributions.flatten(1).sum(1) + readout.bias, answer, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(readout.map().sum((1, 2)) + readout.bias, answer, rtol=1e-4, atol=1e-4)
    # the same, by the weights that the question gives the classes, from the terms of all of them
    asked = question if isinstance(question, Question) else Question.why(question)
    weights = torch.stack([asked.linear_form(row)[0] for row in look.logits])
    summed = torch.einsum("nk,nkchw->nchw", weights, look.contributions)
    torch.testing.assert_close(readout.contributions, summed, rtol=1e-4, atol=1e-5)
    assert readout.kind == ("local" if asked.is_linear else "frozen")
    assert "second look at" in readout.feature_space.layer


def test_frozen_gates_at_the_input_find_the_same_terms():
    """Pixels are looked at as they come, so the general machinery must agree with the network's own account."""
    model, x = pinet(z="pixels").double(), pictures().double()
    own, general = read_out(model, x, 1), read_out(model, x, 1, "input")
    torch.testing.assert_close(own.contributions, general.contributions)
    torch.testing.assert_close(own.bias, general.bias)


def test_the_coefficients_come_along():
    model, x = pinet(z="pixels"), pictures()
    with torch.no_grad():
        pi = model.explain(x).coefficients
    assert torch.equal(model.read_out(x, 2).coefficients, pi[:, 2])
    shared = pinet(z="evidence")
    for question in (2, Question.why_not(1, 3)):
        assert torch.equal(shared.read_out(x, question).coefficients, shared.explain(x).coefficients[:, 0])
    assert read_out(conv_net(), images(), 1).coefficients is None


def test_all_classes_at_once():
    model, x = pinet(z="evidence"), pictures()
    found = read_out_all_classes(model, x)
    for target in range(4):
        one = read_out(model, x, target)
        torch.testing.assert_close(found.maps[:, target], one.contributions.sum(1), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(found.bias[target].expand(2), one.bias)
    assert found.completeness_error.abs().max() < 1e-5


def test_one_logit_for_a_yes_or_no():
    model, x = pinet(num_classes=1), pictures()
    assert torch.equal(model.read_out(x).answer, model.read_out(x, 0).answer)
    with pytest.raises(TargetError, match="out of range"):
        model.read_out(x, 1)


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda model: torch.compile(model, backend="eager")])
def test_behind_wrappers(wrap):
    model, x = pinet(), pictures()
    assert torch.equal(read_out(wrap(model), x, 1).contributions, model.read_out(x, 1).contributions)


def test_questions_asked_of_the_model():
    model, x = pinet(), pictures()
    asked, target = ask(model, [Question.why(1), Question.why_not(2, 0)], 2)
    readout = read_out(asked, x, target)
    assert torch.equal(readout.contributions[1], model.read_out(x, Question.why_not(2, 0)).contributions[1])


def test_mixed_with_an_account_elsewhere():
    model, x = pinet(z="pixels"), pictures()
    readout = read_out(model, x, 1, [None, "input"])
    assert readout.relative_error.max() < 1e-5
    torch.testing.assert_close(readout.map().sum((1, 2)) + readout.bias, readout.answer, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_attribution_is_the_sum_and_on_request_the_coefficients(kind):
    model, x = pinet(**KINDS[kind]), pictures()
    attributed, delta = PiNetAttribution(model).attribute(x, 2, return_convergence_delta=True)
    readout = model.read_out(x, 2)
    assert attributed.shape == x.shape
    torch.testing.assert_close(attributed.flatten(1).sum(1) + readout.bias, readout.answer, rtol=1e-4, atol=1e-4)
    assert delta.abs().max() < 1e-4
    one_by_one = PiNetAttribution(model).attribute(x, 2, internal_batch_size=1)
    torch.testing.assert_close(one_by_one, attributed, rtol=1e-4, atol=1e-6)
    pi = PiNetAttribution(model).attribute(x, 2, kind="coefficient", internal_batch_size=1)
    assert pi.shape == x.shape
    if kind != "coarse":
        torch.testing.assert_close(pi[:, 0], model.explain(x).coefficient_maps[:, 2])


def test_pixels_keep_their_colours():
    model, x = pinet(z="pixels"), pictures()
    assert torch.equal(PiNetAttribution(model).attribute(x, 1), model.read_out(x, 1).contributions)


def test_coefficients_that_there_are_not():
    x = images()
    for model, options, message in (
        (conv_net(), {"kind": "coefficient"}, "no coefficients to show"),
        (conv_net(), {"kind": "pi"}, "one of 'contribution', 'coefficient'"),
        (pinet(), {"kind": "coefficient", "return_convergence_delta": True}, "don't add up"),
    ):
        with pytest.raises(ValueError, match=message):
            PiNetAttribution(model).attribute(x, 1, **options)


def test_like_any_model_for_explain_and_for_cams():
    model, x = pinet(z="evidence"), pictures()
    explanation = explain(model, x, 2)
    assert explanation.attribution.shape == x.shape
    torch.testing.assert_close(explanation.total + explanation.readout.bias, explanation.answer.double())
    with PiNetCAM(model) as cam:
        found = cam.attributions(x, [2, 2])
        picture = cam(x, [2, 2])
    torch.testing.assert_close(found.sum((1, 2)) + explanation.readout.bias, explanation.answer, rtol=1e-4, atol=1e-5)
    assert picture.shape == (2, 16, 16)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda model, x: (model.train(), x), ValueError, r"call model\.eval"),
        (lambda model, x: (model, x / 0), ValueError, "NaN or infinity"),
        (lambda model, x: (model, x.double()), ValueError, "the model is torch.float32"),
        (lambda model, x: (model, (x, x)), ValueError, "takes one batch of images, got 2"),
    ],
)
def test_what_cannot_be_read_out(change, error, message):
    with pytest.raises(error, match=message):
        read_out(*change(pinet(), pictures()), 1)


def test_a_network_with_a_pooled_linear_head_is_a_pinet_already():
    exact = timm_align.retrofit("test_resnet")
    x = images(2, 64)
    with untouched(exact):
        look = exact.explain(x)
    with torch.no_grad():
        assert torch.equal(look.logits, exact(x))
    torch.testing.assert_close(look.maps.sum((2, 3)) + look.bias, look.logits, rtol=1e-4, atol=1e-5)
    assert look.coefficients.unique().tolist() == [1.0]
    with pytest.raises(ValueError, match="not local"):
        ExactPiNet(conv_net(), "input").explain(images())


def test_a_retrofit_at_the_head_of_a_network_without_a_plugin_reads_as_by_its_own_method():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pooled = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
        exact = ExactPiNet(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), *pooled).eval(), "head")
    x = images(2)
    expected = exact.read_out(x, 1)
    assert exact.feature_space == "head"
    assert expected.feature_space.layer == "1"
    torch.testing.assert_close(read_out(exact, x, 1).contributions, expected.contributions)
    torch.testing.assert_close(read_out_all_classes(exact, x).maps[:, 1], expected.contributions.sum(1))
    torch.testing.assert_close(PiNetAttribution(exact).attribute(x, target=1).sum((1, 2, 3)), expected.total.float())


@pytest.mark.parametrize("own", [False, True])
def test_maps_of_all_classes_are_of_float32_under_autocast_and_in_low_precision(own):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pooled = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
        model = pinet() if own else nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), *pooled).eval()
    x, place = images(2), None if own else "head"
    expected = read_out_all_classes(model, x, place)
    low = copy.deepcopy(model).bfloat16()
    cases = [(low, x.bfloat16(), nullcontext()), (model, x, torch.autocast("cpu", torch.bfloat16))]
    for network, inputs, context in cases:
        with context, torch.no_grad(), untouched(network):
            found, logits = read_out_all_classes(network, inputs, place), network(inputs)
        assert found.maps.dtype == torch.float32
        assert torch.equal(found.logits, logits)
        sums = found.maps.sum((2, 3)) + found.prefix + found.bias
        torch.testing.assert_close(found.completeness_error, torch.zeros(2, 4 + (not own)).double(), atol=1e-5, rtol=0)
        torch.testing.assert_close(sums, logits.float(), atol=0.05, rtol=0.02)
    torch.testing.assert_close(found.maps, expected.maps)  # autocast has no effect


def test_rounding_of_all_classes_is_told_from_a_wrong_head_in_float64(monkeypatch):
    from xai_align.pinet import all_classes

    misses, dtypes = all_classes._misses_sums, []

    def strict(parts, error, logits):
        dtypes.append(logits.dtype)
        return logits.dtype == torch.float32 or misses(parts, error, logits)

    monkeypatch.setattr(all_classes, "_misses_sums", strict)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)).eval()
    found = all_classes.read_out_all_classes(model, torch.randn(2, 3, 16, 16))
    assert dtypes == [torch.float32, torch.float64]
    torch.testing.assert_close(found.maps.sum((2, 3)) + found.bias, found.logits)
    monkeypatch.setattr(all_classes, "_misses_sums", lambda *_: True)
    with pytest.raises(CompletenessError, match="more than rounding"):
        all_classes.read_out_all_classes(model, torch.randn(2, 3, 16, 16))
