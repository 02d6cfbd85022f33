"""Captum's own methods by name: the right shape, no trace, and what Captum itself gives."""

from __future__ import annotations

import random

import captum.attr
import numpy as np
import pytest
import timm
import torch
from torch import nn

from captum_align.default_options import feature_mask, patch_masks, sliding_windows, window_shape
from xai_align import FeatureSpace, Question, plugins, read_out
from xai_align._tools.sum_keeping import resize_keeping_sum
from xai_align.hookspecs import Split
from xai_align.question import TargetError, ask
from xai_align.testing import TinyNetwork, check_attribution, fixed_images
from xai_align.testing.networks import fixed_numbers
from xai_align.testing.traces import differences, snapshot, snapshot_of_inputs

NAMES = (
    "saliency",
    "input_x_gradient",
    "integrated_gradients",
    "gradient_shap",
    "deep_lift",
    "guided_backprop",
    "occlusion",
    "feature_ablation",
    "layer_grad_cam",
)
#: Options that keep the slow ones short.
QUICK = {
    "integrated_gradients": {"n_steps": 4},
    "gradient_shap": {"n_samples": 3},
    "occlusion": {"sliding_window_shapes": (3, 32, 32), "strides": (3, 32, 32)},
}
MODELS = ("test_resnet", "test_vit", "test_efficientnet")
SIDE = 96


def woken(model):
    """Weights that are nowhere zero, and running statistics that are not the first ones; eval mode."""
    with torch.no_grad():
        for seed, parameter in enumerate(model.parameters()):
            fan_in = parameter[0].numel() if parameter.dim() > 1 else 12
            fresh = fixed_numbers(*parameter.shape, seed=seed) * (6 / fan_in) ** 0.5
            parameter.copy_(fresh if parameter.dim() > 1 else parameter + fresh)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.copy_(0.1 * fixed_numbers(module.num_features, seed=1))
    return model.eval()


@pytest.fixture(scope="module")
def models():
    sizes = {"test_vit": {"img_size": SIDE}}
    return {name: woken(timm.create_model(name, num_classes=7, **sizes.get(name, {}))) for name in MODELS}


@pytest.fixture
def images():
    return 2 * fixed_numbers(2, 3, SIDE, SIDE, seed=3).float()


def build(name, model, **options):
    return plugins.attribution_method(name).build(model, **options)


def close(a, b, tolerance=1e-5):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * float(b.abs().max()))


@pytest.mark.filterwarnings("ignore:(deep_lift|guided_backprop) finds no layer")
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("model_name", MODELS)
def test_by_name_on_a_timm_model_in_the_shape_of_the_inputs_and_without_a_trace(models, images, name, model_name):
    model = models[model_name]
    model.requires_grad_(True)
    before, given = snapshot(model), snapshot_of_inputs((images,))
    attributions = build(name, model).attribute(images, target=[1, 5], **QUICK.get(name, {}))
    assert attributions.shape == images.shape
    assert bool(torch.isfinite(attributions).all())
    assert bool((attributions.abs().flatten(1).sum(1) > 0).all())
    assert not attributions.requires_grad
    left = differences(before, snapshot(model)) + differences(given, snapshot_of_inputs((images,)))
    assert left == []


@pytest.mark.parametrize("name", NAMES)
def test_every_baseline_keeps_the_conventions(name):
    def build_quick(model):
        return build(name, model)

    options = {"integrated_gradients": {"n_steps": 6}, "occlusion": {}}.get(name)
    require = ("numpy_targets", "detached", "inputs_after_error")
    skip = ["several_inputs"] if name == "layer_grad_cam" else []
    outcomes = check_attribution(name, build=build_quick, options=options, require=require, skip=skip)
    assert {one.check for one in outcomes if one.status != "passed"} == set(skip)


DIRECT = {
    "saliency": ("Saliency", {}),
    "input_x_gradient": ("InputXGradient", {}),
    "integrated_gradients": ("IntegratedGradients", {"n_steps": 4}),
    "deep_lift": ("DeepLift", {}),
    "guided_backprop": ("GuidedBackprop", {}),
    "occlusion": ("Occlusion", QUICK["occlusion"]),
    "feature_ablation": ("FeatureAblation", {"feature_mask": feature_mask((3, SIDE, SIDE))}),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", DIRECT)
def test_captum_called_directly_gives_the_same(models, images, name):
    cls, options = DIRECT[name]
    model = models["test_resnet"]
    method = build(name, model).attribute(images, target=np.array([1, 5]), **options)
    for module in model.modules():  # what Captum needs done by hand
        if hasattr(module, "inplace"):
            module.inplace = False
    try:
        direct = getattr(captum.attr, cls)(model).attribute(images.clone(), target=torch.tensor([1, 5]), **options)
    finally:
        for module in model.modules():
            if hasattr(module, "inplace"):
                module.inplace = True
    close(method, direct.detach())


def test_the_methods_with_hooks_reach_the_activations_in_place_of_a_timm_model(models, images):
    model = models["test_resnet"]
    assert any(getattr(module, "inplace", False) for module in model.modules())
    gradient = build("saliency", model).attribute(images, target=1, abs=False)
    assert not torch.allclose(build("guided_backprop", model).attribute(images, target=1), gradient, rtol=0.1)
    assert not torch.allclose(build("deep_lift", model).attribute(images, target=1), images * gradient, rtol=0.1)


def test_deep_lift_accounts_for_the_difference_to_zeros():
    model, images = TinyNetwork(), fixed_images()
    maps, delta = build("deep_lift", model).attribute(images, target=1, return_convergence_delta=True)
    close(maps.flatten(1).sum(1), (model(images) - model(0 * images))[:, 1].detach(), 1e-4)
    assert float(delta.abs().max()) < 1e-4


def test_gradient_shap_is_the_same_at_every_call_and_takes_no_random_numbers(images):
    model, images = TinyNetwork(), fixed_images()
    method = build("gradient_shap", model)
    states = torch.get_rng_state(), np.random.get_state()[2], random.getstate()
    first, delta = method.attribute(images, target=[1, 3, 0], return_convergence_delta=True, n_samples=4)
    assert torch.equal(states[0], torch.get_rng_state())
    assert (states[1], states[2]) == (np.random.get_state()[2], random.getstate())
    torch.manual_seed(5)
    np.random.seed(5)
    assert torch.equal(first, method.attribute(images, target=[1, 3, 0], n_samples=4))
    assert delta.shape == (12,)
    for index, target in enumerate((1, 3, 0)):  # nor does it matter who else is in the batch
        close(method.attribute(images[index : index + 1], target=target, n_samples=4), first[index : index + 1])


def test_gradient_shap_with_many_samples_comes_to_integrated_gradients():
    model, images = TinyNetwork(), fixed_images()
    shap = build("gradient_shap", model).attribute(images, target=1, n_samples=2000)
    integrated = build("integrated_gradients", model).attribute(images, target=1, n_steps=400)
    assert float((shap - integrated).norm() / integrated.norm()) < 0.05


def test_default_windows_and_patches_fit_the_inputs():
    assert window_shape((3, 224, 160)) == (3, 28, 20)
    assert window_shape((3, 5, 5)) == (3, 1, 1)
    assert window_shape((40,)) == (5,)
    image, row = torch.zeros(2, 3, 64, 48), torch.zeros(2, 16)
    assert sliding_windows((image,), {}) == {"sliding_window_shapes": (3, 8, 6), "strides": (3, 4, 3)}
    assert sliding_windows((image,), {"sliding_window_shapes": (3, 9, 9)}) == {}
    mask = feature_mask((3, 64, 48))
    assert mask.shape == (1, 3, 64, 48)
    assert torch.equal(mask.unique(), torch.arange(64))
    assert torch.equal(mask[:, 0], mask[:, 2])
    assert bool((mask.flatten().bincount() == 3 * 8 * 6).all())
    first, second = patch_masks((image, row), {})["feature_mask"]
    assert set(first.unique().tolist()).isdisjoint(second.unique().tolist())
    assert len(second.unique()) == 16


@pytest.mark.parametrize("name", [name for name in NAMES if name != "layer_grad_cam"])
def test_inputs_that_are_no_images_are_fine(name):
    model = nn.Sequential(nn.Linear(20, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    rows = fixed_numbers(4, 20).float()
    assert build(name, model).attribute(rows, target=[0, 1, 2, 0]).shape == rows.shape


def test_options_are_for_every_call_or_for_one_and_misspelt_ones_are_named():
    model, images = TinyNetwork(), fixed_images()
    for_all = build("integrated_gradients", model, n_steps=3, multiply_by_inputs=False)
    assert for_all.multiplies_by_inputs is False
    expected = captum.attr.IntegratedGradients(model, multiply_by_inputs=False).attribute(images, target=1, n_steps=3)
    close(for_all.attribute(images, target=1), expected)
    with pytest.raises(TypeError, match=r"IntegratedGradients has no option 'steps'; it has .*n_steps"):
        for_all.attribute(images, target=1, steps=3)
    with pytest.raises(TypeError, match="FeatureAblation has no option 'n_steps'"):
        build("feature_ablation", model, n_steps=3)


def test_any_function_of_the_inputs_will_do_where_no_hooks_are_needed():
    model, images = TinyNetwork(), fixed_images()
    close(
        build("saliency", lambda x: model(x)).attribute(images, target=1),
        build("saliency", model).attribute(images, target=1),
    )
    for name in ("deep_lift", "guided_backprop"):
        with pytest.raises(TypeError, match=r"needs the torch\.nn\.Module itself, got function"):
            build(name, lambda x: model(x))
    with pytest.raises(TypeError, match=r"Grad-CAM needs a torch\.nn\.Module, got function"):
        build("layer_grad_cam", lambda x: model(x))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("target", [1, []])
def test_a_batch_without_examples_is_refused(name, target):
    with pytest.raises(ValueError, match=r"the inputs have shape \[0, 3, 8, 10\]; give at least one example"):
        plugins.attribution_method(name).build(TinyNetwork()).attribute(fixed_images()[:0], target=target)


def test_a_model_in_train_mode_is_refused():
    model = TinyNetwork().train()
    with pytest.raises(ValueError, match=r"the model is in train mode.*call model\.eval\(\) first"):
        build("saliency", model).attribute(fixed_images(), target=1)


@pytest.mark.parametrize("name", ["deep_lift", "guided_backprop"])
def test_it_is_said_when_a_method_finds_nothing_to_do(models, name):
    with pytest.warns(UserWarning, match=f"{name} finds no layer in VisionTransformer .* the result is .*gradient"):
        build(name, models["test_vit"])


@pytest.mark.parametrize("name", NAMES)
def test_a_question_or_one_for_each_example(name):
    model, images = TinyNetwork(), fixed_images()
    questions = [Question.why_not(1, 2), Question.why(3), Question.against_all(0)]
    asked, target = ask(model, questions, len(images))
    method = build(name, model)
    together = method.attribute(images, target=questions)
    close(build(name, asked).attribute(images, target=target), together)
    for index, question in enumerate(questions):
        close(method.attribute(images[index : index + 1], target=question), together[index : index + 1], 1e-4)
    with pytest.raises(TargetError, match="this model answers questions already"):
        build(name, asked).attribute(images, target=questions)


LINEAR = [name for name in NAMES if name not in ("saliency", "guided_backprop")]


@pytest.mark.parametrize("name", LINEAR)
def test_the_contrast_of_two_classes_is_the_difference_of_their_maps(name):
    model, images = TinyNetwork(), fixed_images()
    method = build(name, model)
    contrast = method.attribute(images, target=Question.why_not(1, 2))
    close(contrast, method.attribute(images, target=1) - method.attribute(images, target=2), 1e-4)


@pytest.mark.parametrize("model_name", ["test_resnet", "test_efficientnet"])
@pytest.mark.parametrize("asked", [[1, 5], [Question.why_not(1, 2), Question.why(5)]], ids=["classes", "questions"])
def test_grad_cam_on_a_pooled_linear_head_is_the_readout_there(models, images, model_name, asked):
    model = models[model_name]
    cam = build("layer_grad_cam", model).attribute(images, target=asked)
    readout = read_out(model, images, asked, "head")
    assert readout.kind == "local"
    close(cam.sum(1), readout.map(), 1e-6)


@pytest.mark.parametrize("model_name", MODELS)
def test_grad_cam_keeps_its_sign(models, images, model_name):
    method = build("layer_grad_cam", models[model_name])
    cams = torch.cat([method.attribute(images[:1], target=target) for target in range(7)])
    assert float(cams.min()) < 0 < float(cams.max())


def grad_cam_by_hand(z, gradient, positions, channels):
    """Mean gradient over positions, times activation, summed over channels."""
    return (gradient.mean(positions, keepdim=True) * z).sum(channels)


def at_layer(model, layer, images, target):
    """The layer's output and the gradient of the target's logit there."""
    kept = []
    handle = dict(model.named_modules())[layer].register_forward_hook(lambda m, i, out: kept.append(out))
    try:
        answer = model(images)[:, target].sum()
    finally:
        handle.remove()
    return kept[0].detach(), torch.autograd.grad(answer, kept[0])[0]


def test_grad_cam_of_tokens_averages_over_patches_and_leaves_the_class_token_out(models, images):
    model = models["test_vit"]
    z, gradient = at_layer(model, "blocks.1", images, 1)
    prefix = model.num_prefix_tokens
    assert prefix > 0
    side = SIDE // model.patch_embed.patch_size[0]
    by_hand = grad_cam_by_hand(z[:, prefix:], gradient[:, prefix:], 1, -1).reshape(2, side, side)
    cam = build("layer_grad_cam", model, layer="blocks.1").attribute(images, target=1)
    close(cam.sum(1), resize_keeping_sum(by_hand, (SIDE, SIDE)))


def test_grad_cam_of_channels_last_averages_over_rows_and_columns(images):
    model = woken(
        timm.create_model(
            "swin_tiny_patch4_window7_224",
            img_size=SIDE,
            window_size=3,
            embed_dim=12,
            depths=(1, 1),
            num_heads=(1, 2),
            num_classes=7,
        )
    )
    assert plugins.feature_space(model, "head").layout == "NHWC"
    z, gradient = at_layer(model, "norm", images, 1)
    assert z.shape == (2, 12, 12, 24)
    by_hand = grad_cam_by_hand(z, gradient, (1, 2), -1)
    cam = build("layer_grad_cam", model).attribute(images, target=1)
    close(cam.sum(1), resize_keeping_sum(by_hand, (SIDE, SIDE)))


def test_grad_cam_of_an_unknown_model_looks_at_its_last_convolution():
    model, images = TinyNetwork(), fixed_images()
    z, gradient = at_layer(model, "second", images, 1)
    cam = build("layer_grad_cam", model).attribute(images, target=1)
    close(cam.sum(1), resize_keeping_sum(grad_cam_by_hand(z, gradient, (2, 3), 1), images.shape[-2:]))
    direct = captum.attr.LayerGradCam(model, model.second).attribute(images, target=1).detach()
    close(cam.sum(1), resize_keeping_sum(direct[:, 0], images.shape[-2:]))


def test_grad_cam_at_a_layer_by_name_by_module_or_at_the_input_and_with_relu():
    model, images = TinyNetwork(), fixed_images()
    by_name = build("layer_grad_cam", model, layer="first").attribute(images, target=1)
    assert torch.equal(by_name, build("layer_grad_cam", model, layer=model.first).attribute(images, target=1))
    space = FeatureSpace(layer="second", layout="NCHW")
    assert torch.equal(
        build("layer_grad_cam", model, layer=space).attribute(images, target=1),
        build("layer_grad_cam", model).attribute(images, target=1),
    )
    at_input = build("layer_grad_cam", model, layer="input").attribute(images, target=1)
    gradient = build("saliency", model).attribute(images, target=1, abs=False)
    close(at_input.sum(1), grad_cam_by_hand(images, gradient, (2, 3), 1))
    cut_off = build("layer_grad_cam", model, layer="first").attribute(images, target=1, relu_attributions=True)
    close(cut_off, by_name.clamp(min=0))
    assert float(by_name.min()) < 0


def test_grad_cam_of_a_feature_space_in_two_tensors_is_the_sum_of_both():
    model, images = TinyNetwork(), fixed_images()
    both = FeatureSpace(layer=("first", "second"), layout="NCHW")
    cam = build("layer_grad_cam", model, layer=both).attribute(images, target=1)
    each = [build("layer_grad_cam", model, layer=name).attribute(images, target=1) for name in both.layer]
    close(cam, each[0] + each[1])


def test_grad_cam_through_a_split_never_differentiates_the_first_half():
    def features(x):
        assert not torch.is_grad_enabled()
        return x[:, :, ::2, ::2]

    class Halves(nn.Module):
        def forward(self, x):
            return self.head(features_of(x))

        def head(self, z):
            return z.mean((2, 3)) @ weights

    def features_of(x):
        return x[:, :, ::2, ::2]

    weights, model, images = torch.tensor([[1.0, 2], [0, -1], [3, 0]]), Halves(), fixed_images()
    space = FeatureSpace(layer="halves", layout="NCHW", split=Split(features, model.head))
    cam = build("layer_grad_cam", model, layer=space).attribute(images, target=1)
    close(cam.flatten(1).sum(1), model(images)[:, 1])


@pytest.mark.parametrize(
    ("layer", "inputs", "error", "said"),
    [
        (FeatureSpace(layer="head"), fixed_images(), ValueError, "has no position in an image"),
        ("nowhere", fixed_images(), ValueError, "layer 'nowhere' not found; this model has first, norm"),
        (nn.Linear(1, 1), fixed_images(), ValueError, "is not a module of this model"),
        (None, torch.zeros(2, 6), ValueError, r"explains one batch of images \[N, C, H, W\], got \[2, 6\]"),
    ],
)
def test_where_grad_cam_cannot_look_is_said(layer, inputs, error, said):
    model = TinyNetwork()
    before = snapshot(model)
    with pytest.raises(error, match=said):
        build("layer_grad_cam", model, layer=layer).attribute(inputs, target=1)
    assert differences(before, snapshot(model)) == []


def test_without_any_convolution_grad_cam_asks_for_a_layer():
    model = nn.Sequential(nn.Flatten(), nn.Linear(240, 3)).eval()
    with pytest.raises(ValueError, match="Sequential has no Conv2d and no plugin knows it; say where to look"):
        build("layer_grad_cam", model).attribute(fixed_images(), target=1)


@pytest.mark.parametrize("name", NAMES)
def test_inference_mode_around_a_method_makes_no_difference(name):
    model, images = TinyNetwork(), fixed_images()
    outside = build(name, model).attribute(images, target=1)
    with torch.inference_mode():
        inside = build(name, model).attribute(fixed_images(), target=1)
    close(inside, outside)
