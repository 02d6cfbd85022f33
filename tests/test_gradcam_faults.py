"""The thirteen faults of pytorch-grad-cam 1.5.7 that its users have met, and that our CAMs do not have.

What the package itself does is measured beside ours by ``benchmarks/safety/gradcam_faults.py`` and not asserted: a
version that has mended something is welcome.
"""

from __future__ import annotations

import sys
from functools import partial

import numpy as np
import pytest
import timm
import torch
from networks import images, untouched
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from pytorch_grad_cam.utils.reshape_transforms import swinT_reshape_transform, vit_reshape_transform

from benchmarks.safety import gradcam_faults as faults
from gradcam_align import AttributionCAM, PiNetCAM
from tests.networks import filled
from xai_align import read_out
from xai_align.question import TargetError

SIDE = 96


@pytest.fixture
def resnet():
    return filled(timm.create_model("test_resnet", num_classes=7))


@pytest.fixture
def vit():
    return filled(timm.create_model("test_vit", num_classes=7, img_size=SIDE))


@pytest.fixture
def pair():
    return images(2, SIDE)


def predicted(model, x):
    with torch.no_grad():
        return [ClassifierOutputTarget(int(row.argmax())) for row in model(x)]


def is_a_picture(cam):
    """Of each image, from 0 to 1, and not the same everywhere."""
    flat = cam.reshape(len(cam), -1)
    assert cam.dtype == np.float32
    np.testing.assert_allclose(flat.min(1), 0, atol=1e-6)
    np.testing.assert_allclose(flat.max(1), 1, atol=1e-6)


def test_1_fewer_targets_than_images_are_an_error(resnet, pair):
    with pytest.raises(TargetError, match=r"a list with 1 target for 2 examples; give one for each, \[target\] \* 2"):
        PiNetCAM(resnet)(pair, [ClassifierOutputTarget(1)])


def test_2_the_mode_of_the_model_is_the_users(resnet, pair):
    resnet.train()
    resnet.layer1.eval()
    with untouched(resnet):
        cam = PiNetCAM(resnet)
        with pytest.raises(ValueError, match=r"the model is in train mode.*call model\.eval\(\) first"):
            cam(pair)
    assert (resnet.training, resnet.layer1.training) == (True, False)


def test_3_the_gradients_of_the_user_stay(resnet, pair):
    resnet(pair).square().sum().backward()
    with untouched(resnet):
        is_a_picture(PiNetCAM(resnet, [resnet.layer1])(pair))
        AttributionCAM(resnet, method="gradcam")(pair)


def test_4_an_index_error_in_the_block_comes_out(resnet):
    with pytest.raises(IndexError, match="of the user"), PiNetCAM(resnet):
        raise IndexError("of the user")


def test_5_a_constructor_that_fails_says_one_thing_only(monkeypatch):
    heard = []
    monkeypatch.setattr(sys, "unraisablehook", heard.append)
    with pytest.raises(TypeError, match=r"a CAM needs a torch\.nn\.Module, got str"):
        PiNetCAM("no model")
    PiNetCAM.__new__(PiNetCAM).__del__()  # as if nothing had been set yet
    assert heard == []


def test_6_bfloat16(resnet, pair):
    expected = PiNetCAM(resnet)(pair, predicted(resnet, pair))
    targets = predicted(resnet, pair)
    cam = PiNetCAM(resnet.bfloat16())
    half = cam(pair.bfloat16(), targets)
    is_a_picture(half)
    assert cam.outputs.dtype == torch.bfloat16
    assert np.abs(half - expected).mean() < 0.05


def test_7_a_compiled_model_and_its_layers(resnet, pair):
    compiled = torch.compile(resnet, backend="eager")
    compiled(pair)
    for layers in ([], [resnet.layer2], [compiled.layer2], ["layer2"]):
        same = PiNetCAM(resnet, [resnet.layer2] if layers else None)(pair, 3)
        np.testing.assert_allclose(PiNetCAM(compiled, layers)(pair, 3), same, atol=1e-5)


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("layer", [None, "layer1"])
def test_8_no_grad_and_inference_mode(resnet, pair, off, layer):
    expected = PiNetCAM(resnet, layer and [layer])(pair, 3)
    with off():
        inside = PiNetCAM(resnet, layer and [layer])(images(2, SIDE), 3)
    np.testing.assert_allclose(inside, expected, atol=1e-5)


def test_9_a_vit_needs_no_reshape_transform(vit, pair):
    is_a_picture(PiNetCAM(vit)(pair))
    side = SIDE // 16
    transform = partial(vit_reshape_transform, height=side, width=side)
    layers = [vit.blocks[-1].norm1]
    without, given = PiNetCAM(vit, layers)(pair), PiNetCAM(vit, layers, transform)(pair)
    is_a_picture(without)
    np.testing.assert_array_equal(without, given)


def test_10_behind_the_last_attention_of_a_vit_nothing_is_found_and_that_is_said(vit, pair):
    for method in (PiNetCAM, partial(AttributionCAM, method="gradcam")):
        with pytest.warns(UserWarning, match=r"map of zeros.* layer"):
            assert not method(vit, [vit.blocks[-1]])(pair).any()
    readout = read_out(vit, pair, 3, f"blocks.{len(vit.blocks) - 1}")
    assert bool((readout.prefix != 0).all())  # it all lies on the class token
    # and without target_layers there is something
    assert AttributionCAM(vit, method="gradcam").attributions(pair).any()
    is_a_picture(PiNetCAM(vit)(pair))


@pytest.mark.parametrize("layer", [None, "norm", "layers.0"])
def test_11_swin_keeps_channels_last_and_may_bring_its_transform(pair, layer):
    model = filled(
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
    assert model.forward_features(pair).shape == (2, 12, 12, 24)
    layers = layer and [model.get_submodule(layer)]
    raw = PiNetCAM(model, layers, swinT_reshape_transform).attributions(pair, 3)
    readout = read_out(model, pair, 3, layer)
    torch.testing.assert_close(raw.sum((1, 2)) + readout.bias, readout.answer, rtol=1e-4, atol=1e-4)


def test_12_smoothed_pictures_go_up_to_one_and_lie_where_the_plain_ones_do(vit, pair):
    cam = PiNetCAM(vit)
    smooth = cam(pair, aug_smooth=True)
    is_a_picture(smooth)
    for one, plain in zip(smooth, cam(pair), strict=True):
        assert np.corrcoef(one.ravel(), plain.ravel())[0, 1] > 0.5


def test_13_size_and_sign_can_be_had(vit, pair):
    cam = PiNetCAM(vit)
    raw = cam.attributions(pair, [2, 5])
    readout = read_out(vit, pair, [2, 5])
    assert raw.shape == (2, SIDE, SIDE)
    assert float(raw.min()) < 0 < float(raw.max())
    torch.testing.assert_close(raw.sum((1, 2)) + readout.prefix + readout.bias, readout.answer, rtol=1e-4, atol=1e-4)


def test_the_table_of_the_benchmark_finds_none_of_them(record_property):
    assert len(faults.FAULTS) == 13
    ours = {name: faults.finding(probe, PiNetCAM) for name, probe in faults.FAULTS.items()}
    assert {name: found.seen for name, found in ours.items() if not found.well} == {}
    for name, probe in faults.FAULTS.items():  # recorded, not required
        theirs = faults.finding(probe, faults.GradCAM)
        record_property(name, f"{'mended' if theirs.well else 'there'}: {theirs.seen}")
