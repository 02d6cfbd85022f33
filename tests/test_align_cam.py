"""The mask where a pipeline expects a CAM of pytorch-grad-cam."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pytorch_grad_cam.base_cam import BaseCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

from captum_align import ALIGNAttribution, ClassAgnosticWarning
from gradcam_align import ALIGNCAM
from tests.networks import conv_net, images, untouched
from tests.test_align_attribution import masker
from xai_align.align.masker_file import save_masker

pytestmark = pytest.mark.filterwarnings("ignore::captum_align.ClassAgnosticWarning")


def test_a_cam_is_the_mask_scaled():
    model, x = conv_net(), images(2, 12)
    with untouched(model), ALIGNCAM(model, masker=masker()) as cam:
        picture = cam(x, [ClassifierOutputTarget(1), ClassifierOutputTarget(3)])
        masks = cam.attributions(x)
        smooth = cam(x, aug_smooth=True)
    assert isinstance(cam, BaseCAM)
    torch.testing.assert_close(masks, ALIGNAttribution(masker()).attribute(x).sum(1))
    least, most = masks.amin((1, 2), keepdim=True), masks.amax((1, 2), keepdim=True)
    np.testing.assert_allclose(picture, ((masks - least) / (most - least)).numpy(), atol=1e-6)
    assert picture.dtype == np.float32
    assert smooth.shape == (2, 12, 12)
    with torch.no_grad():
        assert torch.equal(cam.outputs, model(x))


def test_every_target_gives_the_same_and_that_is_said():
    model, x = conv_net(), images()
    cam = ALIGNCAM(model, masker=masker())
    with pytest.warns(ClassAgnosticWarning):
        plain = cam(x)
    for targets in ([1, 3], 2, [ClassifierOutputTarget(0)] * 2):
        np.testing.assert_array_equal(cam(x, targets), plain)


def test_the_masker_may_be_a_file(tmp_path):
    model, x = conv_net(), images()
    file = save_masker(masker(), tmp_path / "masker.safetensors")
    np.testing.assert_array_equal(ALIGNCAM(model, masker=file)(x), ALIGNCAM(model, masker=masker())(x))
    model.align_masker = str(file)
    np.testing.assert_array_equal(ALIGNCAM(model)(x), ALIGNCAM(model, masker=masker())(x))


def test_what_cannot_be():
    model, x = conv_net(), images()
    with pytest.raises(ValueError, match=r"no masker was given: ALIGNCAM\(model, masker=\.\.\.\)"):
        ALIGNCAM(model)
    with pytest.warns(UserWarning, match="takes no layer"):
        ALIGNCAM(model, [model.conv2], masker=masker())
    with pytest.raises(ValueError, match="train mode"):
        ALIGNCAM(conv_net().train(), masker=masker())(x)
