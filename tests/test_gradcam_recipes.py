"""Recipes of pytorch-grad-cam run with the import changed: transformers, volumes, similarities, detectors."""

from __future__ import annotations

import warnings
from functools import partial

import numpy as np
import pytest
import timm
import torch
import torchvision
from hf_networks import Logits
from networks import conv_net, filled, images
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from pytorch_grad_cam.utils.reshape_transforms import swinT_reshape_transform, vit_reshape_transform
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import ViTConfig, ViTForImageClassification

from gradcam_align import AttributionCAM, PiNetCAM
from xai_align import explain, read_out

SIDE = 32
TARGETS = [ClassifierOutputTarget(3), ClassifierOutputTarget(1)]


def timm_vit():
    return timm.create_model("test_vit", img_size=SIDE, patch_size=8, num_classes=5), "blocks.5.norm1"


def torchvision_vit():
    model = torchvision.models.VisionTransformer(SIDE, 8, 3, 2, 16, 32, num_classes=5)
    return model, "encoder.layers.encoder_layer_2.ln_1"


def hugging_face_vit():
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32, image_size=SIDE, patch_size=8
    )
    config.num_labels = 5
    model = Logits(ViTForImageClassification(config))
    return model, [name for name, _ in model.named_modules() if name.endswith("layernorm_before")][-1]


def made(make):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, layer = make()
    return filled(model), layer


VITS = [timm_vit, torchvision_vit, hugging_face_vit]
TRANSFORM = partial(vit_reshape_transform, height=4, width=4)


@pytest.mark.parametrize("make", VITS)
def test_grad_cam_by_name_with_a_transform_is_the_packages(make):
    model, layer = made(make)
    x = images(2, SIDE)
    theirs = GradCAM(model, [model.get_submodule(layer)], TRANSFORM)(x, TARGETS)
    for given in (TRANSFORM, None):
        cam = AttributionCAM(model, [model.get_submodule(layer)], given, method="gradcam")
        np.testing.assert_allclose(cam(x, TARGETS), theirs, atol=1e-5)


@pytest.mark.parametrize("make", VITS)
def test_the_readout_with_a_transform_sums_to_the_answer(make):
    model, layer = made(make)
    x = images(2, SIDE)
    found = PiNetCAM(model, [model.get_submodule(layer)], TRANSFORM).attributions(x, TARGETS)
    readout = read_out(model, x, [3, 1], layer)
    whole = found.sum((1, 2)) + readout.prefix + readout.bias + readout.around
    torch.testing.assert_close(whole, readout.answer, rtol=1e-4, atol=1e-4)
    assert bool((readout.prefix != 0).any())


def test_a_transform_that_turns_the_grid_turns_the_map():
    model, layer = made(torchvision_vit)
    x = images(2, SIDE)
    plain = PiNetCAM(model, [layer], TRANSFORM, spread="area").attributions(x, TARGETS)
    turned = PiNetCAM(model, [layer], lambda z: TRANSFORM(z).flip(2, 3), spread="area").attributions(x, TARGETS)
    torch.testing.assert_close(turned, plain.flip(1, 2))
    by_gradient = [
        AttributionCAM(model, [layer], given, method="gradcam").attributions(x, TARGETS)
        for given in (TRANSFORM, lambda z: TRANSFORM(z).transpose(2, 3))
    ]
    torch.testing.assert_close(by_gradient[1], by_gradient[0].transpose(1, 2))


def test_a_transform_of_channels_last_maps_and_one_that_changes_nothing():
    model, x = conv_net(), images()
    for transform in (lambda z: z, lambda z: z + 0):
        found = PiNetCAM(model, [model.conv2], transform).attributions(x, [3, 1])
        torch.testing.assert_close(found, PiNetCAM(model, [model.conv2]).attributions(x, [3, 1]))
    swin = filled(
        timm.create_model(
            "swin_tiny_patch4_window7_224",
            img_size=64,
            window_size=4,
            embed_dim=12,
            depths=(1, 1),
            num_heads=(1, 2),
            num_classes=5,
        )
    )
    x = images(2, 64)
    plain = PiNetCAM(swin, ["layers.0"]).attributions(x, TARGETS)
    given = PiNetCAM(swin, ["layers.0"], lambda z: z.permute(0, 3, 1, 2)).attributions(x, TARGETS)
    torch.testing.assert_close(given, plain)
    with pytest.warns(UserWarning, match="does not run on the output"):
        left_out = PiNetCAM(swin, ["layers.0"], swinT_reshape_transform).attributions(x, TARGETS)
    torch.testing.assert_close(left_out, plain)


@pytest.mark.parametrize(
    ("transform", "said"),
    [
        (lambda z: z.abs() * 2, "computes with the values"),
        (lambda z: torch.cat([z, z], 1), "computes with the values"),
        # these leave 0, 1, 2, … as they are
        (torch.abs, "computes with the values"),
        (torch.relu, "computes with the values"),
        (torch.round, "computes with the values"),
        (torch.floor, "computes with the values"),
        (torch.trunc, "computes with the values"),
        (lambda z: z.long(), "computes with the values"),
        (lambda z: z.flatten(1).sort().values.reshape(z.shape), "computes with the values"),
        (lambda z: z.flatten(1), "a map is"),
        (lambda z: z[:, :, 2:, :], "in a way that is not supported"),
        (lambda z: z.flip(2), "in a way that is not supported"),
    ],
)
def test_a_transform_that_does_not_rearrange_is_refused(transform, said):
    model = conv_net()
    with pytest.raises(ValueError, match=said):
        PiNetCAM(model, [model.conv2], transform)(images(), [3, 1])


class Volume(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.pool = nn.Conv3d(1, 4, 3, padding=1), nn.MaxPool3d((1, 2, 2))
        self.last, self.head = nn.Conv3d(4, 6, 1), nn.Linear(6, 5)

    def forward(self, x):
        return self.head(self.last(self.pool(self.conv(x).relu())).mean((2, 3, 4)))


def test_volumes():
    model, x = filled(Volume()), torch.randn(2, 1, 4, 8, 12, generator=torch.Generator().manual_seed(0))
    theirs = GradCAM(model, [model.last])(x, TARGETS)
    ours = AttributionCAM(model, [model.last], method="gradcam")(x, TARGETS)
    assert ours.shape == theirs.shape == (2, 4, 8, 12)
    assert (
        min(np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(ours, theirs, strict=True)) > 0.95
    )  # their upsampling is another
    for layers in (None, [model.conv], [model.last]):
        cam = PiNetCAM(model, layers)
        found = cam.attributions(x, TARGETS)
        readout = read_out(model, x, [3, 1], None if layers is None else layers[0])
        torch.testing.assert_close(found.sum((1, 2, 3)) + readout.bias, readout.answer, rtol=1e-4, atol=1e-5)
        assert cam(x, TARGETS).shape == cam(x, TARGETS, aug_smooth=True).shape == (2, 4, 8, 12)
    with pytest.raises(ValueError, match="volumes"):
        PiNetCAM(model)(x[0, 0], TARGETS)


class Embedding(nn.Module):
    """A network without classes, as in the tutorial on embeddings."""

    def __init__(self):
        super().__init__()
        self.features = conv_net(classes=12)

    def forward(self, x):
        return self.features(x)


class Similarity:
    def __init__(self, concept):
        self.concept = concept

    def __call__(self, output):
        return nn.CosineSimilarity(dim=0)(output, self.concept)


class Inside(nn.Module):
    """The same similarity, computed by the network itself."""

    def __init__(self, model, concept):
        super().__init__()
        self.model, self.concept = model, concept

    def forward(self, x):
        z = self.model(x)
        return (z @ self.concept / (z.norm(dim=1) * self.concept.norm()))[:, None]


@pytest.mark.parametrize("layer", ["features.conv1", "features.conv2"])
def test_a_cosine_to_a_fixed_vector_is_explained_as_if_the_network_computed_it(layer):
    model, x = Embedding().eval(), images()
    concept = model(images(1, seed=3))[0].detach()
    found = PiNetCAM(model, [layer]).attributions(x, [Similarity(concept)] * 2)
    readout = read_out(Inside(model, concept).eval(), x, None, f"model.{layer}")
    expected = [float(Similarity(concept)(row)) for row in model(x)]
    torch.testing.assert_close(readout.answer, torch.tensor(expected), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.sum((1, 2)), readout.total.float(), rtol=1e-3, atol=1e-4)
    assert bool((found.sum((1, 2)).abs() > 0.1).all())


@pytest.mark.parametrize(
    "target",
    [
        lambda v: lambda z: 1 - nn.CosineSimilarity(dim=0)(z, v),
        lambda v: lambda z: nn.functional.normalize(z, dim=0) @ v,
        lambda v: lambda z: nn.CosineSimilarity(dim=0)(z, v) - nn.CosineSimilarity(dim=0)(z, v.flip(0)),
        lambda v: lambda z: z[0] / z.norm(),
        lambda v: lambda z: nn.CosineSimilarity(dim=0)(z, v) ** 2,
    ],
)
def test_targets_that_do_not_change_with_the_scale_have_weights_that_sum_to_them(target):
    from gradcam_align.target_question import TargetQuestion

    z, v = images(1).flatten()[:12], images(1, seed=3).flatten()[:12]
    question = TargetQuestion(target=target(v))
    weights, rest = question.linear_form(z)
    torch.testing.assert_close((weights * z).sum(), question.answer(z), rtol=1e-4, atol=1e-6)
    assert abs(float(rest)) < 1e-5


class Checkpointed(nn.Module):
    """A vision transformer that runs its blocks through ``torch.utils.checkpoint`` whatever its flags say."""

    def __init__(self, vit, *, reentrant):
        super().__init__()
        self.vit, self.reentrant = vit, reentrant

    def forward(self, x):
        z = self.vit._pos_embed(self.vit.patch_embed(x))
        for block in self.vit.blocks:
            z = checkpoint(block, z, use_reentrant=self.reentrant)
        return self.vit.forward_head(self.vit.norm(z))


@pytest.mark.parametrize("method", ["gradcam", "hirescam", "layercam", "gradcam++"])
def test_checkpointed_blocks_make_no_difference_to_methods_by_name(method):
    vit, layer = made(timm_vit)
    x = images(2, SIDE)
    plain = explain(vit, x, [3, 1], method).attribution
    torch.testing.assert_close(explain(Checkpointed(vit, reentrant=False).eval(), x, [3, 1], method).attribution, plain)
    vit.set_grad_checkpointing(True)
    torch.testing.assert_close(explain(vit, x, [3, 1], method).attribution, plain)
    torch.testing.assert_close(
        explain(Checkpointed(vit, reentrant=False).eval(), x, [3, 1], method, layer=f"vit.{layer}").attribution, plain
    )


@pytest.mark.parametrize(("reentrant", "method"), [(True, "gradcam"), (True, "pinet"), (False, "pinet")])
def test_checkpointing_that_cannot_be_followed_is_refused_in_words(reentrant, method):
    vit, _ = made(timm_vit)
    with pytest.raises(ValueError, match="switch activation checkpointing off"):
        explain(Checkpointed(vit, reentrant=reentrant).eval(), images(2, SIDE), [3, 1], method)


class Detector(nn.Module):
    """It gives boxes, labels and scores for each image, and two maps from its backbone."""

    def __init__(self):
        super().__init__()
        self.backbone = Pyramid()
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        maps = self.backbone(x)
        scores = self.head(maps["0"].mean((2, 3)) + maps["pool"].mean((2, 3))).sigmoid()
        return [{"boxes": torch.zeros(3, 4), "labels": torch.arange(3), "scores": row} for row in scores]


class Pyramid(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.pool = nn.Conv2d(3, 4, 3, padding=1), nn.MaxPool2d(2)

    def forward(self, x):
        z = self.conv(x).relu()
        return {"0": z, "pool": self.pool(z)}


def score_of_label_1(record):
    return record["scores"][1]


def test_detectors_are_explained_by_methods_that_need_no_logits():
    model, x = filled(Detector()), images()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the transform, which is not used for several tensors
        cam = AttributionCAM(model, [model.backbone], lambda maps: maps["pool"], method="eigencam")
        assert cam(x, [score_of_label_1] * 2).shape == (2, 8, 8)
    assert cam.outputs[0]["scores"].shape == (3,)
    found = AttributionCAM(model, [model.backbone], method="hirescam").attributions(x, [score_of_label_1] * 2)
    assert bool((found.flatten(1).abs().amax(1) > 0).all())
    slopes = AttributionCAM(model, method="saliency").attributions(x, [score_of_label_1] * 2)
    leaf = x.clone().requires_grad_()
    sum(record["scores"][1] for record in model(leaf)).backward()
    torch.testing.assert_close(slopes, leaf.grad.abs().sum(1))


def test_a_detector_has_no_exact_readout_and_needs_functions_as_targets():
    model, x = filled(Detector()), images()
    with pytest.raises(ValueError, match="non-maximum suppression"):
        PiNetCAM(model)(x, [score_of_label_1] * 2)
    with pytest.raises(ValueError, match="give as many functions of such a record"):
        AttributionCAM(model, method="saliency")(x, [1, 2])
