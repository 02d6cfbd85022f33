"""Our methods under Quantus' metrics: the call itself, then every metric that takes an ``explain_func``.

Of the 36 metrics of Quantus 0.6, 33 run here under NumPy 2. ``IROF`` and ``ROAD`` fail with any
explanation, Quantus' own included: the one calls ``np.trapz``, which is gone, the other miscounts the
pixels of images with several channels. ``SmoothMPRT`` asks Quantus' own ``explain`` for the method
whatever function it was given.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from xai_align import plugins
from xai_align.evaluation.quantus_explain_func import quantus_explain_func
from xai_align.testing import TinyNetwork, fixed_images
from xai_align.testing.networks import fixed_numbers
from xai_align.testing.traces import differences, snapshot

TARGETS = np.array([1, 3, 0])


def test_the_method_by_name_with_channels_summed_or_kept():
    model, images = TinyNetwork(), fixed_images()
    direct = (
        plugins.attribution_method("integrated_gradients").build(model).attribute(images, target=TARGETS, n_steps=4)
    )
    options = {"method": "integrated_gradients", "n_steps": 4}
    kept = quantus_explain_func(model, images.numpy(), TARGETS, channels="keep", **options)
    assert isinstance(kept, np.ndarray)
    np.testing.assert_array_equal(kept, direct.numpy())
    summed = quantus_explain_func(model, images.numpy(), TARGETS, device="cpu", **options)
    np.testing.assert_allclose(summed, direct.sum(1, keepdim=True).numpy(), rtol=1e-6)


def test_the_default_is_the_exact_readout_and_build_options_reach_it():
    model, images = TinyNetwork(), fixed_images()
    there = quantus_explain_func(model, images.numpy(), TARGETS, build={"layer": "first"}, channels="keep")
    direct = plugins.attribution_method("pinet").build(model, layer="first").attribute(images, target=TARGETS)
    np.testing.assert_array_equal(there, direct.detach().numpy())


def test_arrays_of_another_dtype_and_inputs_that_are_no_images():
    model = nn.Sequential(nn.Linear(20, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    rows = fixed_numbers(4, 20).numpy()  # float64, the model is float32
    maps = quantus_explain_func(model, rows, np.array([[0.0], [1.0], [2.0], [0.0]]), method="saliency")
    assert maps.shape == (4, 20)
    assert maps.dtype == np.float32
    np.testing.assert_array_equal(maps, quantus_explain_func(model, rows, [0, 1, 2, 0], method="saliency"))


def test_maps_of_low_precision_are_given_in_single():
    model, images = TinyNetwork().bfloat16(), fixed_images()
    maps = quantus_explain_func(model, images.numpy(), TARGETS, method="saliency", channels="keep")
    direct = plugins.attribution_method("saliency").build(model).attribute(images.bfloat16(), target=TARGETS)
    assert maps.dtype == np.float32
    np.testing.assert_array_equal(maps, direct.float().numpy())


def test_the_default_method_is_named_where_its_maps_are_no_tensor(monkeypatch):
    made = SimpleNamespace(build=lambda model: SimpleNamespace(attribute=lambda x, target: None))
    monkeypatch.setattr(plugins, "attribution_method", lambda name: made)
    with pytest.raises(TypeError, match="method 'pinet' gave a NoneType"):
        quantus_explain_func(TinyNetwork(), fixed_images().numpy(), TARGETS)


def test_nothing_is_left_behind():
    model, images = TinyNetwork(), fixed_images().numpy()
    before, given = snapshot(model), images.copy()
    quantus_explain_func(model, images, TARGETS, method="saliency")
    assert differences(before, snapshot(model)) == []
    np.testing.assert_array_equal(images, given)


def test_bad_input_is_said():
    model, images = TinyNetwork(), fixed_images().numpy()
    with pytest.raises(ValueError, match="saliencey"):
        quantus_explain_func(model, images, TARGETS, method="saliencey")
    with pytest.raises(ValueError, match="channels must be 'sum' or 'keep', got 'mean'"):
        quantus_explain_func(model, images, TARGETS, channels="mean")
    with pytest.raises(ValueError, match="the model is on cpu and device is cuda; move the model there first"):
        quantus_explain_func(model, images, TARGETS, device="cuda")
    with pytest.raises(TypeError, match="has no option 'steps'"):
        quantus_explain_func(model, images, TARGETS, method="saliency", steps=3)
    with pytest.raises(AssertionError, match=r"torch\.float64"):
        quantus_explain_func(model, images, TARGETS + 0.5, method="saliency")


@pytest.fixture(scope="module")
def quantus():
    return pytest.importorskip("quantus")


@pytest.fixture(scope="module")
def subject():
    """A network with layers that Quantus can make random, square images, and masks of an object."""
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    ).eval()
    with torch.no_grad():
        for seed, parameter in enumerate(model.parameters()):
            parameter.copy_(0.4 * fixed_numbers(*parameter.shape, seed=seed))
    masks = np.zeros((3, 1, 16, 16), dtype=bool)
    masks[:, :, 4:12, 4:12] = True
    return model, 2 * fixed_numbers(3, 3, 16, 16, seed=9).float().numpy(), masks


def values_of(
    quantus, subject, name, explain_func=quantus_explain_func, method="pinet", call=None, explain=None, **options
):
    model, images, masks = subject
    build = {"build": {"layer": "input"}} if method == "pinet" else {}
    metric = getattr(quantus, name)(disable_warnings=True, display_progressbar=False, **options)
    np.random.seed(0)
    return metric(
        model=model,
        x_batch=images.copy(),
        y_batch=TARGETS.copy(),
        a_batch=None,
        s_batch=masks,
        device="cpu",
        explain_func=explain_func,
        explain_func_kwargs={"method": method, **build, **(explain or {})},
        **(call or {}),
    )


#: Metrics with the options that keep them short.
RUN = {
    "MaxSensitivity": {"nr_samples": 3},
    "AvgSensitivity": {"nr_samples": 3},
    "LocalLipschitzEstimate": {"nr_samples": 3},
    "Continuity": {"nr_steps": 4},
    "Consistency": {},
    "RelativeInputStability": {"nr_samples": 3},
    "RelativeOutputStability": {"nr_samples": 3},
    "RelativeRepresentationStability": {"nr_samples": 3},
    "Sparseness": {},
    "Complexity": {},
    "EffectiveComplexity": {},
    "RandomLogit": {"num_classes": 5},
    "MPRT": {},
    "EfficientMPRT": {},
    "Completeness": {},
    "NonSensitivity": {},
    "InputInvariance": {},
    "PixelFlipping": {"features_in_step": 32},
    "RegionPerturbation": {"patch_size": 4, "regions_evaluation": 4},
    "Selectivity": {"patch_size": 8},
    "SensitivityN": {"features_in_step": 32},
    "FaithfulnessCorrelation": {"nr_runs": 5, "subset_size": 20},
    "FaithfulnessEstimate": {"features_in_step": 32},
    "Monotonicity": {"features_in_step": 32},
    "MonotonicityCorrelation": {"nr_samples": 3, "features_in_step": 64},
    "Infidelity": {"n_perturb_samples": 3, "perturb_patch_sizes": [4]},
    "Sufficiency": {},
    "PointingGame": {},
    "AttributionLocalisation": {},
    "TopKIntersection": {"k": 20},
    "RelevanceRankAccuracy": {},
    "RelevanceMassAccuracy": {},
    "AUC": {},
}
#: These are undefined (NaN) for images whose predicted class the perturbation turns.
MAY_BE_UNDEFINED = ("RelativeInputStability", "RelativeOutputStability", "RelativeRepresentationStability")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", RUN)
def test_the_readout_under_quantus_metric(quantus, subject, name):
    options = dict(RUN[name])
    if name == "Consistency":
        options["discretise_func"] = quantus.discretise_func.top_n_sign
    before = snapshot(subject[0])["values of parameter '0.weight'"]
    values = values_of(quantus, subject, name, **options)
    table = list(values.values()) if isinstance(values, dict) else values
    numbers = np.asarray([float(value) for value in np.concatenate([np.ravel(one) for one in table])])
    assert len(numbers) >= 1
    assert np.isfinite(numbers).all() or name in MAY_BE_UNDEFINED
    assert torch.equal(before, subject[0][0].weight)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["Sparseness", "Complexity", "MPRT", "RelevanceRankAccuracy", "AUC", "PixelFlipping"])
def test_the_same_method_of_captums_has_the_value_that_quantus_own_call_gives(quantus, subject, name):
    ours = values_of(quantus, subject, name, method="saliency", **RUN[name])
    theirs = values_of(quantus, subject, name, explain_func=quantus.explain, method="Saliency", **RUN[name])
    if isinstance(ours, dict):
        assert list(ours) == list(theirs)
        ours, theirs = list(ours.values()), list(theirs.values())
    np.testing.assert_allclose(np.asarray(ours, float), np.asarray(theirs, float), rtol=1e-4, atol=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_quantus_finds_the_readout_of_a_linear_model_complete_to_the_last_bit(quantus):
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 5)).eval()
    with torch.no_grad():  # whole numbers: sums are exact, as Quantus compares with ==
        model[1].weight.copy_((5 * fixed_numbers(5, 48)).round())
        model[1].bias.copy_(torch.tensor([1.0, 2, 3, 4, 5]))
    images = (7 * fixed_numbers(3, 3, 4, 4, seed=2)).round().float().numpy()
    subject = (model, images, None)
    # Quantus takes as many entries of the image away as the map has, so the map must have them all;
    # "black", Quantus' default baseline, is the smallest number of the images; the readout counts from zero
    complete = {
        "perturb_baseline": 0.0,
        "normalise": False,
        "abs": False,
        "call": {"softmax": False},
        "explain": {"channels": "keep"},
    }
    assert np.all(values_of(quantus, subject, "Completeness", **complete))
    assert not np.any(values_of(quantus, subject, "Completeness", method="saliency", **complete))
