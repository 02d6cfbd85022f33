"""Deviations of hidden layers: by hand, against loops, and in one pass with the curves."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from torch import nn

from tests.networks import conv_net, images, untouched
from xai_align.evaluation.faithfulness import deletion, insertion
from xai_align.evaluation.hidden_activations import hidden_activation_metric, hidden_activations, six_specs
from xai_align.features.hidden_layers import MEASURES, deviations
from xai_align.perturbation.curve import perturbation_curves
from xai_align.perturbation.spec import PerturbationSpec
from xai_align.plugins import metrics, stages
from xai_align.question import ask


def maps(count=2, size=8, seed=3):
    return torch.randn(count, size, size, generator=torch.Generator().manual_seed(seed))


def test_measures_by_hand():
    a, b = torch.tensor([[1.0, 2.0, 0.0, -1.0]]), torch.tensor([[2.0, 0.0, -1.0, 1.0]])
    mse, relative, active, inactive, correlation, cosine = deviations(a, b)[0].tolist()
    assert mse == (1 + 4 + 1 + 4) / 4
    assert relative == pytest.approx(10 / 6)
    assert active == 1 / 2  # of units 0 and 1, unit 0
    assert inactive == 1 / 2  # of units 2 and 3, unit 2
    assert correlation == pytest.approx(np.corrcoef(a[0], b[0])[0, 1])
    assert cosine == pytest.approx((2 - 1) / 6)


def test_nothing_removed_deviates_in_nothing():
    a = torch.randn(3, 4, 5)
    same = deviations(a, a)
    torch.testing.assert_close(same, torch.tensor([[0.0, 0, 1, 1, 1, 1]]).expand(3, 6))


def test_a_measure_without_a_value_is_nan():
    dead, alive = torch.zeros(1, 4), torch.ones(1, 4)
    measures = dict(zip(MEASURES, deviations(dead, alive)[0], strict=True))
    assert measures["active"].isnan()
    assert measures["correlation"].isnan()
    assert measures["inactive"] == 0
    measures = dict(zip(MEASURES, deviations(alive * torch.arange(4.0), alive)[0], strict=True))
    assert measures["correlation"] == 0


def test_one_pass_gives_what_the_parts_give():
    model, x, a = conv_net(), images(2, 14), maps(2, 14)
    report = hidden_activations(model, x, a, layers=["conv1", "conv2"], target=[1, 2])
    assert report.layers == ("conv1", "conv2")
    areas = dict(zip(report.perturbations, report.areas.T, strict=True))
    torch.testing.assert_close(areas["deletion zero"], deletion(model, x, a, target=[1, 2]), rtol=0, atol=1e-6)
    torch.testing.assert_close(areas["insertion blur"], insertion(model, x, a, target=[1, 2]), rtol=0, atol=1e-6)


def test_measures_are_those_of_a_loop():
    """As the authors' script: one layer, one image, 29 steps; areas by numpy."""
    model, x, a = conv_net(), images(2, 14), maps(2, 14)
    report = hidden_activations(model, x, a, layers=["conv2"])
    series = report.perturbations.index("deletion zero")

    def hidden(image):
        return model.conv2(model.pool(model.act(model.norm(model.conv1(image[None]))))).detach().numpy().ravel()

    for i in range(2):
        order = np.argsort(-a[i].numpy().ravel(), kind="stable")
        clean, mse, overlap = hidden(x[i]), [], []
        for step in range(29):
            image = x[i].clone()
            image.reshape(3, -1)[:, order[: step * 7]] = 0
            now = hidden(image)
            mse.append(((clean - now) ** 2).mean())
            overlap.append(((clean > 0) & (now > 0)).sum() / (clean > 0).sum())
        assert report.measures["mse"][i, series, 0].item() == pytest.approx(np.mean(mse), rel=1e-5)
        assert report.measures["active"][i, series, 0].item() == pytest.approx(
            np.trapezoid(overlap, dx=1 / 28), rel=1e-5
        )


def pixels_as_units():
    """A picture of two pixels, 3 and 4, a layer that passes them on, and a map that ranks 4 first."""
    model = nn.Sequential(nn.Identity(), nn.Flatten()).eval()
    return model, torch.tensor([[[[3.0, 4.0]]]]), torch.tensor([[[1.0, 2.0]]])


@pytest.mark.parametrize(
    ("measure", "deletion", "insertion"),
    [
        # cosine of (3, 4) with itself, with (3, 0): 9 / (5 * 3), with (0, 4): 16 / (5 * 4), with (0, 0): 0
        ("cosine", (1 + 0.6 + 0) / 3, (1 + 0.8 + 0) / 3),
        # half of what is missing, squared: 16, 9, and 25 without both
        ("mse", (0 + 8 + 12.5) / 3, (0 + 4.5 + 12.5) / 3),
        ("relative", (0 + 16 / 25 + 1) / 3, (0 + 9 / 25 + 1) / 3),
    ],
)
def test_two_pixels_by_hand(measure, deletion, insertion):
    model, x, a = pixels_as_units()
    report = hidden_activations(model, x, a, layers=["0"], target=0, num_steps=2)
    found = dict(zip(report.perturbations, report.measures[measure][0, :, 0].tolist(), strict=True))
    assert found["deletion zero"] == pytest.approx(deletion)
    assert found["insertion zero"] == pytest.approx(insertion)


@pytest.mark.parametrize(
    ("name", "measure"),
    [("hidden_deviation", "relative"), *((f"hidden_{one}", one) for one in MEASURES if one != "relative")],
)
def test_every_measure_is_a_metric_by_name(name, measure):
    """The mean over stages and six perturbations of 7 steps."""
    model, x, a = timm.create_model("test_resnet").eval(), images(2, 32), maps(2, 32)
    report = hidden_activations(model, x, a, target=3, num_steps=7)
    found = metrics()[name].evaluate(model, x, a, target=3)
    torch.testing.assert_close(found, report.measures[measure].nanmean(2).mean(1), rtol=1e-4, atol=1e-6)


def test_few_steps_are_some_of_the_many():
    few, many = six_specs(7)["insertion blur"], six_specs(28)["insertion blur"]
    assert set(few.fractions) <= set(many.fractions)


def test_every_measure_is_one_number_per_example():
    model, x, a = timm.create_model("test_resnet").eval(), images(2, 32), maps(2, 32)
    assert len(stages(model)) > 2
    for measure in MEASURES:
        values = hidden_activation_metric(measure, num_steps=2)(model, x, a)
        assert values.shape == (2,)
        assert values.isfinite().all()


def test_a_question_model_is_watched_inside():
    model, x, a = conv_net(), images(2), maps()
    asked, _ = ask(model, [1, 2], 2)
    (curve,) = perturbation_curves(asked, x, a, [PerturbationSpec(layers=True)], layers=["conv1"], activation=None)
    assert curve.deviations.values.shape == (2, 9, 1, 6)


@pytest.mark.parametrize("layers", [["conv1", "conv2"], None])
def test_wrapped_networks_are_watched_inside(layers):
    model, x, a = conv_net(), images(2), maps()
    plain = hidden_activations(model, x, a, layers=layers, num_steps=2)
    for wrapped in (nn.DataParallel(model), ask(nn.DataParallel(model), [1, 2], 2)[0]):
        found = hidden_activations(wrapped.eval(), x, a, layers=layers, num_steps=2, activation="sigmoid")
        assert found.layers == plain.layers
        torch.testing.assert_close(found.measures["mse"], plain.measures["mse"], equal_nan=True)


def test_a_layer_correlates_with_itself_also_far_from_zero():
    for size in (0.05, 0.2):
        noise = torch.randn(2, 2000, generator=torch.Generator().manual_seed(0))
        a, b = 100 + size * noise[:1], 100 + size * (noise[:1] + 0.06 * noise[1:])
        assert deviations(a, a)[0, 4].item() == pytest.approx(1, abs=1e-5)
        assert deviations(a, b)[0, 4].item() == pytest.approx(np.corrcoef(a[0].double(), b[0].double())[0, 1], abs=1e-5)
    # a constant layer has no variation, whatever rounding makes of its mean
    assert deviations(a, torch.full_like(a, 100.1))[0, 4] == 0


@pytest.mark.parametrize(
    ("model", "layers", "error", "message"),
    [
        (conv_net(), ["conv3"], ValueError, "layer 'conv3' not found; did you mean"),
        (
            nn.Sequential(nn.Flatten(), nn.Linear(192, 4)),
            None,
            ValueError,
            "has no layers that are known as its stages",
        ),
        (conv_net(), ["unused"], ValueError, "layer 'unused' did not run"),
        (conv_net(), ["act"], ValueError, "layer 'act' runs more than once"),
        (lambda x: x.flatten(1), ["conv1"], TypeError, "need the torch.nn.Module itself"),
    ],
)
def test_layers_that_cannot_be_watched(model, layers, error, message):
    with untouched(conv_net()), pytest.raises(error, match=message):
        hidden_activations(model, images(2), maps(), layers=layers)


def test_stages_are_timms_own():
    model = timm.create_model("test_resnet")
    assert stages(model) == tuple(info["module"] for info in model.feature_info)
    assert stages(nn.Linear(1, 1)) == ()
