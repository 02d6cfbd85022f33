"""timm networks that were built for another size than that of their pretrained weights."""

import pytest
import timm
import torch
from PIL import Image

from timm_align import TimmEncoder, retrofit
from timm_align.input_size import input_size
from timm_align.loading import load_timm_model, ready
from xai_align import explain
from xai_align.plugins.models import described_model

BUILT = {
    "test_vit": {"img_size": 64},
    "test_vit2": {"img_size": (48, 96)},
    "vit_small_patch14_dinov2": {"img_size": 42, "depth": 1, "embed_dim": 24, "num_heads": 2},
    "swin_tiny_patch4_window7_224": {"img_size": 64, "depths": (1, 1), "num_heads": (1, 2), "embed_dim": 8},
}


@pytest.mark.parametrize("name", BUILT)
def test_pictures_are_prepared_for_the_size_the_network_was_built_for(name: str) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=3, **BUILT[name]).eval()
    size = BUILT[name]["img_size"]
    assert input_size(model) == (size if isinstance(size, tuple) else (size, size))
    loaded = ready(model)
    x = loaded.preprocess(Image.new("RGB", (200, 150), "red"))[None]
    assert x.shape[-2:] == input_size(model)
    assert explain(loaded.model, x, 1).map.shape[-2:] == x.shape[-2:]


@pytest.mark.parametrize("name", BUILT)
def test_a_second_look_fits_the_size_the_network_was_built_for(name: str) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=3, **BUILT[name]).eval()
    pinet = retrofit(model, "second_look", size=8, z="ones")
    x = pinet.encoder.inner.preprocessing.preprocess(Image.new("RGB", (200, 150), "red"))[None]
    assert x.shape[-2:] == input_size(model)
    assert pinet(x).shape == (1, 3)


def test_other_networks_have_the_size_of_their_configuration() -> None:
    assert input_size(timm.create_model("test_resnet")) == (160, 160)
    assert TimmEncoder(timm.create_model("test_vit").eval()).options["image_size"] == [160, 160]


@pytest.mark.parametrize("training", [True, False])
def test_a_described_model_keeps_its_mode(training: bool) -> None:
    model = timm.create_model("test_resnet", num_classes=3).train(training)
    described = described_model(model, "my.module:make")
    assert described is not None
    assert described.model is model
    assert {module.training for module in model.modules()} == {training}
    loaded = load_timm_model("timm:test_resnet@random")
    assert loaded is not None
    assert not loaded.model.training


def test_stated_sizes_come_first() -> None:
    model = timm.create_model("test_resnet", num_classes=3)
    picture = Image.new("RGB", (200, 150), "red")
    assert ready(model, img_size=(64, 32)).preprocess(picture).shape == (3, 64, 32)
    assert ready(model, settings={"input_size": (3, 96, 96)}).preprocess(picture).shape == (3, 96, 96)
    assert ready(model, settings={"img_size": 96}).preprocess(picture).shape == (3, 96, 96)
