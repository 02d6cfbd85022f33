"""pytorch-grad-cam's own methods by name: the package's ranking, the input's shape, any layout, no trace."""

from __future__ import annotations

import random

import numpy as np
import pytest
import pytorch_grad_cam
import timm
import torch
from networks import conv_net, images, untouched
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from pytorch_grad_cam.utils.reshape_transforms import vit_reshape_transform
from torch import nn

from gradcam_align.baseline_specs import SPECS, ZeroAblation
from gradcam_align.plugin import SUMMARIES
from tests.networks import filled
from xai_align import FeatureSpace, Question, plugins, read_out
from xai_align.pinet import ExactPiNet
from xai_align.question import TargetError, ask
from xai_align.testing import TinyNetwork, check_attribution, fixed_images
from xai_align.testing.traces import differences, snapshot, snapshot_of_inputs

SIDE = 96
NAMES = tuple(SPECS)
#: They look at activations alone.
WITHOUT_A_QUESTION = ("eigencam", "kpcacam", "fem")


@pytest.fixture(scope="module")
def resnet():
    return filled(timm.create_model("test_resnet", num_classes=7))


@pytest.fixture(scope="module")
def vit():
    return filled(timm.create_model("test_vit", num_classes=7, img_size=SIDE))


@pytest.fixture(scope="module")
def swin():
    sizes = {"img_size": SIDE, "window_size": 3, "embed_dim": 12, "depths": (1, 1), "num_heads": (1, 2)}
    return filled(timm.create_model("swin_tiny_patch4_window7_224", num_classes=7, **sizes))


@pytest.fixture
def pair():
    return images(2, SIDE)


def build(name, model, **options):
    return plugins.attribution_method(name).build(model, **options)


def close(a, b, tolerance=1e-5):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * float(b.abs().max()))


def scaled(maps):
    flat = maps.reshape(len(maps), -1)
    flat = flat - flat.min(1, keepdims=True)
    return (flat / (1e-7 + flat.max(1, keepdims=True))).reshape(maps.shape)


def test_each_has_its_line():
    assert set(SUMMARIES) == set(NAMES)
    offered = plugins.attribution_methods()
    assert all(offered[name].summary == SUMMARIES[name] and not offered[name].trains for name in NAMES)
    assert plugins.origin("gradcam").name == "gradcam_align"


# what the package gives


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", [name for name in NAMES if name != "finercam"])
def test_on_a_convolutional_net_it_is_the_package_before_scaling(resnet, pair, name):
    cls = getattr(pytorch_grad_cam, SPECS[name].cls)
    theirs = cls(resnet, [resnet.layer4])(pair, [ClassifierOutputTarget(1), ClassifierOutputTarget(5)])
    ours = build(name, resnet).attribute(pair, target=[1, 5]).sum(1).numpy()
    assert ours.min() >= 0
    assert not np.allclose(ours.max(), 1)
    np.testing.assert_allclose(scaled(ours), theirs, atol=2e-5)
    resnet.requires_grad_(True)


@pytest.mark.parametrize("name", ["gradcam", "hirescam", "gradcam++", "layercam"])
def test_on_a_vit_it_is_the_package_with_its_usual_layer_and_transform(vit, pair, name):
    side = SIDE // 16

    def transform(z):
        return vit_reshape_transform(z, side, side)

    assert vit.num_prefix_tokens == 1
    cls = getattr(pytorch_grad_cam, SPECS[name].cls)
    targets = [ClassifierOutputTarget(1), ClassifierOutputTarget(5)]
    theirs = cls(vit, [vit.blocks[-1].norm1], transform)(pair, targets)
    ours = build(name, vit).attribute(pair, target=[1, 5]).sum(1).numpy()
    assert ours.max() > 0
    np.testing.assert_allclose(scaled(ours), theirs, atol=1e-4)


def test_on_swin_it_is_the_package_with_a_transform_that_fits(swin, pair):
    theirs = pytorch_grad_cam.GradCAM(swin, [swin.norm], lambda z: z.permute(0, 3, 1, 2))(
        pair, [ClassifierOutputTarget(1), ClassifierOutputTarget(4)]
    )
    ours = build("gradcam", swin).attribute(pair, target=[1, 4]).sum(1).numpy()
    assert (ours.max((1, 2)) > 0).all()
    np.testing.assert_allclose(scaled(ours), theirs, atol=1e-3)


def test_finer_cam_explains_a_class_against_those_nearest_to_it(resnet, pair):
    theirs = pytorch_grad_cam.FinerCAM(resnet, [resnet.layer4])(pair)
    predicted = resnet(pair).argmax(1)
    ours = build("finercam", resnet).attribute(pair, target=predicted).sum(1).numpy()
    np.testing.assert_allclose(scaled(ours), theirs, atol=2e-5)
    other = build("finercam", resnet, alpha=0.5, comparisons=1).attribute(pair, target=predicted)
    assert not np.allclose(scaled(other.sum(1).numpy()), theirs, atol=1e-2)
    with pytest.raises(TargetError, match="Finer-CAM has its own foils and explains one class"):
        build("finercam", resnet).attribute(pair, target=Question.why_not(1, 2))


def test_grad_cam_by_hand_with_its_size():
    model, x = conv_net(), images(2, 16)
    kept = []
    # the ReLU behind works in place, on a copy
    handle = model.conv2.register_forward_hook(lambda module, args, out: kept.append(out) or out.clone())
    answer = model(x)[:, 1].sum()
    handle.remove()
    (z,) = kept
    (gradient,) = torch.autograd.grad(answer, z)
    by_hand = (gradient.mean((2, 3), keepdim=True) * z).sum(1, keepdim=True).clamp(min=0)
    by_hand = nn.functional.interpolate(by_hand, (16, 16), mode="bilinear").expand(-1, 3, -1, -1) / 3
    close(build("gradcam", model, layer="conv2").attribute(x, target=1), by_hand.detach())


def test_shapley_cam_by_hand():
    model, x = conv_net(), images(2, 16)
    weight = model.fc.weight[1].detach()

    class Squared(nn.Module):
        def forward(self, x):
            return (self.conv(x).square().mean((2, 3)) * weight)[:, :, None].sum(1)

    network = Squared().eval()
    network.conv = model.conv1
    z = model.conv1(x).detach()
    # the answer is sum_k w_k mean(z_k^2): gradient 2 w z / P, and the Hessian times z is the same, so half is left
    by_hand = (weight * z.mean((2, 3)) / z[0, 0].numel())[:, :, None, None] * z
    found = build("shapleycam", network, layer="conv").attribute(x)
    close(found.sum(1), by_hand.sum(1).clamp(min=0), 1e-4)


def test_ablation_is_by_zero_whatever_the_sign_of_the_activations():
    layer = ZeroAblation()
    activations = torch.tensor([[[[1.0, -2.0]], [[3.0, 4.0]], [[5.0, -6.0]]]])
    layer.activations_to_be_ablated(activations[0].numpy())
    layer.set_next_batch(0, activations, 3)
    found = layer(None)
    for channel in range(3):
        expected = activations[0].clone()
        expected[channel] = 0
        assert torch.equal(found[channel], expected)


def test_ablation_cam_of_a_pooled_linear_head_by_hand():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).eval()
    x = images(2, 8)
    z, w = model[0](x).detach(), model[3].weight[1].detach()
    answer = model(x)[:, 1].detach()
    # without channel k the answer loses w_k mean(z_k); weight (y - y_k) / y
    share = w * z.mean((2, 3)) / answer[:, None]
    by_hand = (share[:, :, None, None] * z).sum(1, keepdim=True).clamp(min=0)
    by_hand = nn.functional.interpolate(by_hand, (8, 8), mode="bilinear")[:, 0]
    assert float(z.min()) < 0
    close(build("ablationcam", model).attribute(x, target=1).sum(1), by_hand, 1e-4)


# the conventions


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["resnet", "vit", "swin"])
def test_on_every_layout_in_the_shape_of_the_inputs_and_without_a_trace(name, kind, pair, request, capfd):
    model = request.getfixturevalue(kind)
    model.requires_grad_(True)
    before, given = snapshot(model), snapshot_of_inputs((pair,))
    state = random.getstate()
    attributions = build(name, model).attribute(pair, target=[1, 5])
    assert attributions.shape == pair.shape
    assert attributions.dtype == pair.dtype
    assert bool(torch.isfinite(attributions).all())
    assert not attributions.requires_grad
    assert torch.equal(attributions[:, 0], attributions[:, 2])
    assert differences(before, snapshot(model)) + differences(given, snapshot_of_inputs((pair,))) == []
    assert random.getstate() == state
    said = capfd.readouterr()
    assert said.out + said.err == ""  # no progress bars


@pytest.mark.parametrize("name", NAMES)
def test_every_baseline_keeps_the_conventions(name):
    skip = ["several_inputs"]
    skip += ["targets", "numpy_targets"] if name in WITHOUT_A_QUESTION else []
    skip += ["targets"] if name == "finercam" else []  # it knows outputs [N, K] alone
    # XGrad-CAM divides by the sum of the activations: behind the ReLU it is not near zero
    options = {"layer": "second_act"} if name == "xgradcam" else {}
    outcomes = check_attribution(
        name,
        build=lambda model: build(name, model, **options),
        require=[one for one in ("numpy_targets", "detached", "inputs_after_error") if one not in skip],
        skip=skip,
    )
    assert {one.check for one in outcomes if one.status != "passed"} == set(skip)


@pytest.mark.parametrize("name", WITHOUT_A_QUESTION)
def test_what_does_not_depend_on_the_question_still_minds_a_wrong_one(name):
    model, x = TinyNetwork(), fixed_images()
    method = build(name, model)
    assert torch.equal(method.attribute(x, target=1), method.attribute(x, target=[1, 2, 3]))
    with pytest.raises(TargetError, match="class 9 is out of range"):
        method.attribute(x, target=9)


def test_finer_cam_takes_classes_in_every_form():
    model, x = TinyNetwork(), fixed_images()
    method = build("finercam", model)
    expected = method.attribute(x, target=[1, 3, 0])
    for form in (torch.tensor([1, 3, 0]), np.array([1, 3, 0]), [(1,), (3,), (0,)], [Question.why(1), 3, -5]):
        close(method.attribute(x, target=form), expected)
    assert not torch.allclose(method.attribute(x, target=2), expected)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "finercam"])
def test_a_question_or_one_for_each_example(name):
    model, x = TinyNetwork(), fixed_images()
    options = {"layer": "second_act"}
    questions = [Question.why_not(1, 2), Question.why(3), Question.against_all(0)]
    asked, target = ask(model, questions, len(x))
    together = build(name, model, **options).attribute(x, target=questions)
    close(build(name, asked, **options).attribute(x, target=target), together, 1e-4)
    for index, question in enumerate(questions):
        alone = build(name, model, **options).attribute(x[index : index + 1], target=question)
        close(alone, together[index : index + 1], 1e-4)
    with pytest.raises(TargetError, match="this model answers questions already"):
        build(name, asked).attribute(x, target=questions)


@pytest.mark.parametrize("name", NAMES)
def test_inference_mode_and_bfloat16(name):
    model, x = TinyNetwork(), fixed_images()
    outside = build(name, model, layer="second_act").attribute(x, target=1)
    with torch.inference_mode():
        close(build(name, model, layer="second_act").attribute(fixed_images(), target=1), outside)
    if name == "shapleycam":
        with pytest.raises(ValueError, match=r"shapleycam is not computed in torch.bfloat16; .*\.float\(\)"):
            build(name, model.bfloat16()).attribute(x.bfloat16(), target=1)
        return
    half = build(name, model.bfloat16(), layer="second_act").attribute(x.bfloat16(), target=1)
    assert half.dtype == torch.bfloat16
    close(half.float(), outside, 0.1)


# where it looks


def test_in_front_of_a_class_token_it_looks_where_patches_still_count(vit, pair):
    assert plugins.feature_space(vit, "head") is None  # it reads the class token
    last = len(vit.blocks) - 1
    default = build("gradcam", vit).attribute(pair, target=1)
    assert torch.equal(default, build("gradcam", vit, layer=f"blocks.{last}.norm1").attribute(pair, target=1))
    with pytest.warns(UserWarning, match=f"nothing that lies in the image at 'blocks.{last}' affects the answer"):
        assert not build("gradcam", vit, layer=vit.blocks[-1]).attribute(pair, target=1).any()


def test_on_a_pooled_linear_head_hires_cam_is_the_readout_there(resnet, pair):
    readout = read_out(resnet, pair, [1, 5], "head")
    assert readout.kind == "local"
    cells = readout.contributions.sum(1, keepdim=True).clamp(min=0)
    expected = nn.functional.interpolate(cells, (SIDE, SIDE), mode="bilinear")[:, 0]
    close(build("hirescam", resnet).attribute(pair, target=[1, 5]).sum(1), expected, 1e-4)


def test_a_layer_by_name_by_module_or_as_a_record():
    model, x = conv_net(), images(2, 16)
    by_name = build("layercam", model, layer="conv1").attribute(x, target=1)
    assert torch.equal(by_name, build("layercam", model, layer=model.conv1).attribute(x, target=1))
    space = FeatureSpace(layer="conv2", layout="NCHW")
    default = build("layercam", model).attribute(x, target=1)
    assert torch.equal(default, build("layercam", model, layer=space).attribute(x, target=1))
    both = FeatureSpace(layer=("conv1", "conv2"), layout="NCHW")
    close(build("layercam", model, layer=both).attribute(x, target=1), by_name + default)


def test_a_retrofits_own_feature_space_is_the_default():
    model, x = conv_net(), images(2, 16)
    early = build("gradcam", model, layer="conv1").attribute(x, target=1)
    assert not torch.equal(early, build("gradcam", model).attribute(x, target=1))
    retrofitted = ExactPiNet(model, "conv1")
    assert torch.equal(build("gradcam", retrofitted).attribute(x, target=1), early)
    asked, target = ask(retrofitted, Question.why(1), 2)
    assert torch.equal(build("gradcam", asked).attribute(x, target=target), early)
    late = build("gradcam", retrofitted, layer="conv2").attribute(x, target=1)
    assert torch.equal(late, build("gradcam", model, layer="conv2").attribute(x, target=1))


def test_kernel_and_other_options_reach_the_class():
    model, x = conv_net(), images(2, 16)
    assert not torch.allclose(
        build("kpcacam", model, kernel="rbf").attribute(x, target=1), build("kpcacam", model).attribute(x, target=1)
    )
    close(
        build("ablationcam", model, batch_size=3).attribute(x, target=1),
        build("ablationcam", model).attribute(x, target=1),
        1e-4,
    )


def test_kernel_pca_of_many_positions_keeps_random_numbers(pair):
    model = conv_net()
    state = np.random.get_state()[1:3]
    first = build("kpcacam", model, layer="conv2").attribute(images(1, 40), target=1)
    assert np.array_equal(state[0], np.random.get_state()[1])
    np.random.seed(3)
    close(build("kpcacam", model, layer="conv2").attribute(images(1, 40), target=1), first)


# what cannot be answered


@pytest.mark.parametrize(
    ("options", "inputs", "error", "said"),
    [
        ({"layer": "fc"}, images(2, 16), ValueError, "has no position in an image"),
        ({"layer": "nowhere"}, images(2, 16), ValueError, "layer 'nowhere' not found; this model has conv1"),
        ({"layer": nn.Linear(1, 1)}, images(2, 16), ValueError, "is not a module of this model"),
        ({}, torch.zeros(2, 6), ValueError, r"gradcam explains one batch of images \[N, C, H, W\], got \[2, 6\]"),
        ({"kernel": 3}, images(2, 16), TypeError, "gradcam has no option 'kernel'; it has none but layer"),
    ],
)
def test_where_it_cannot_look_is_said(options, inputs, error, said):
    model = conv_net()
    with untouched(model), pytest.raises(error, match=said):
        build("gradcam", model, **options).attribute(inputs, target=1)


@pytest.mark.parametrize("name", [*NAMES, "refinecam"])
@pytest.mark.parametrize("target", [1, []])
def test_a_batch_without_images_is_refused(name, target):
    with pytest.raises(ValueError, match=r"the inputs have shape \[0, 3, 16, 16\]; give at least one example"):
        build(name, conv_net()).attribute(images(2, 16)[:0], target=target)


def test_what_the_package_cannot_compute_is_said():
    model, x = conv_net(), images(2, 16)
    with pytest.raises(TypeError, match=r"gradcam needs a torch\.nn\.Module, got function"):
        build("gradcam", lambda x: model(x))
    with pytest.raises(ValueError, match=r"the model is in train mode.*call model\.eval\(\) first"):
        build("gradcam", conv_net().train()).attribute(x, target=1)
    with pytest.raises(ValueError, match="eigencam makes a matrix of 10404 x 10404 positions here"):
        build("eigencam", model, layer="input").attribute(images(1, 102), target=1)
    with torch.no_grad():
        model.fc.weight.zero_()
        model.fc.bias.zero_()
    with pytest.raises(ValueError, match=r"ablationcam gives no number for image\(s\) \[0, 1\]"):
        build("ablationcam", model).attribute(x, target=1)
