"""Models of torchvision by reference: any layout of weights, their own transforms and categories."""

from __future__ import annotations

import argparse
import copy

import numpy as np
import pytest
import torch
from PIL import Image

from xai_align.data.output_description import describe_output
from xai_align.explanation import logits_of
from xai_align.hookspecs import InputOptions
from xai_align.plugins import get_plugin_manager

torchvision = pytest.importorskip("torchvision")

from torchvision_align import load_torchvision_model, plugin  # noqa: E402
from torchvision_align.channels import stem_of, with_channels  # noqa: E402

NAMES = ["squeezenet1_1", "resnet18", "mobilenet_v3_small", "shufflenet_v2_x0_5", "mnasnet0_5", "densenet121"]
PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (300, 260, 3), np.uint8))


def network(name, **options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return torchvision.models.get_model(name, weights=None, **options).eval()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("classes", [2, 1000])
def test_weights_from_a_file_with_their_number_of_classes(tmp_path, name, classes):
    model, file = network(name, num_classes=classes), tmp_path / "model_10.pth"
    state = {f"module.{key}": one for key, one in model.state_dict().items()}
    torch.save({"model": state, "optimizer": {"state": {}}, "args": argparse.Namespace(device="cuda")}, file)
    loaded = load_torchvision_model(f"torchvision:{name}@{file}")
    weights = torchvision.models.get_model_weights(name).DEFAULT
    x = loaded.preprocess(PICTURE)
    assert torch.equal(x, weights.transforms()(PICTURE))
    with torch.no_grad():
        assert torch.equal(loaded.model(x[None]), model(x[None]))
    assert loaded.class_names == (tuple(weights.meta["categories"]) if classes == 1000 else ())
    assert not loaded.random_weights
    assert np.allclose(loaded.scale, ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), atol=1e-5)


def test_the_averaged_weights_of_torchvision_s_own_script(tmp_path):
    model, ema, file = (
        network("squeezenet1_1", num_classes=3),
        network("squeezenet1_1", num_classes=3),
        tmp_path / "c.pth",
    )
    with torch.no_grad():
        next(ema.parameters()).add_(1)
    averaged = torch.optim.swa_utils.AveragedModel(ema).state_dict()
    torch.save({"model": model.state_dict(), "model_ema": averaged, "epoch": 1}, file)
    loaded = load_torchvision_model(f"torchvision:squeezenet1_1@{file}")
    assert not loaded.model.training
    assert torch.equal(next(loaded.model.parameters()), next(ema.parameters()))
    assert "EMA" in loaded.notes[0]


def test_a_size_can_be_stated():
    options = InputOptions(img_size=(64, 96))
    loaded = load_torchvision_model("torchvision:resnet18@random", options)
    assert not loaded.model.training
    assert loaded.preprocess(PICTURE).shape == (3, 64, 96)
    assert options.left == {}


@pytest.mark.parametrize("name", ["squeezenet1_1", "googlenet"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 12])
def test_first_layers_are_adapted_as_timm_does(name, channels):
    from timm.models._manipulate import adapt_input_conv

    made = network(name)
    found = with_channels(copy.deepcopy(made), channels)
    theirs = adapt_input_conv(channels, stem_of(made)[1].weight.detach())
    assert torch.allclose(stem_of(found)[1].weight, theirs)
    if channels in (1, 3, 12):  # a grey picture has the answer that it had
        made.transform_input = found.transform_input = False  # numbers for red, green and blue, which are left out
        grey = torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            first, second = (net(grey.expand(-1, n, -1, -1)) for net, n in ((made, 3), (found, channels)))
        assert second == pytest.approx(first, abs=1e-4)


@pytest.mark.parametrize("channels", [1, 12])
def test_channels_can_be_stated_and_follow_from_a_file(tmp_path, channels):
    options = InputOptions(in_chans=channels, img_size=(64, 64))
    loaded = load_torchvision_model("torchvision:squeezenet1_1@random", options)
    assert options.left == {}
    torch.save(loaded.model.state_dict(), tmp_path / "weights.pth")
    picture = PICTURE if channels == 1 else np.random.default_rng(0).random((80, 90, 12), dtype=np.float32)
    x = loaded.preprocess(picture)
    assert x.shape == (channels, 64, 64)
    again = load_torchvision_model(f"torchvision:squeezenet1_1@{tmp_path / 'weights.pth'}")
    with torch.no_grad():
        assert torch.equal(again.model(x[None]), loaded.model(x[None]))
    with pytest.raises(ValueError, match=f"for {channels} channels, and --in-chans is 5"):
        load_torchvision_model(f"torchvision:squeezenet1_1@{tmp_path / 'weights.pth'}", InputOptions(in_chans=5))


def test_a_scale_can_be_stated():
    stated = InputOptions(mean=(0.0,), std=(0.5, 1.0, 2.0))
    x = load_torchvision_model("torchvision:squeezenet1_1@random", stated).preprocess(PICTURE)
    plain = load_torchvision_model("torchvision:squeezenet1_1@random", InputOptions(mean=(0,), std=(1,)))
    assert x == pytest.approx(plain.preprocess(PICTURE) / torch.tensor([0.5, 1.0, 2.0])[:, None, None])
    with pytest.raises(ValueError, match="mean has 2 values, and the model takes 3 channels"):
        load_torchvision_model("torchvision:squeezenet1_1@random", InputOptions(mean=(0.0, 0.1)))


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("torchvision:resnet19", "did you mean resnet18"),
        ("torchvision:resnet18@nothing.pth", "no weights at 'nothing.pth'"),
        ("torchvision:fasterrcnn_resnet50_fpn", "detects objects"),
    ],
)
def test_what_is_not_there_is_said(reference, message):
    with pytest.raises(ValueError, match=message):
        load_torchvision_model(reference)


def test_weights_of_another_network_are_refused(tmp_path):
    file = tmp_path / "w.pth"
    torch.save(network("squeezenet1_1").state_dict(), file)
    with pytest.raises(ValueError, match="do not fit ResNet"):
        load_torchvision_model(f"torchvision:resnet18@{file}")


def test_random_weights_are_said():
    assert load_torchvision_model("torchvision:squeezenet1_1@random").random_weights


def test_a_segmentation_is_dense():
    loaded = load_torchvision_model("torchvision:lraspp_mobilenet_v3_large@random")
    assert loaded.output_kind == "dense"
    with pytest.raises(ValueError, match="wrap the model"):
        describe_output(loaded, logits_of(loaded.model, torch.rand(1, 3, 64, 64)))


def test_a_bare_model_is_prepared_as_its_builder_s_weights():
    model = network("squeezenet1_1")
    described = plugin.xai_align_describe_model(model, "torchvision.models:squeezenet1_1")
    assert described.model is model
    assert described.class_names[281] == "tabby"
    assert described.preprocess(PICTURE).shape == (3, 224, 224)
    assert plugin.xai_align_describe_model(model.train(), "torchvision.models:squeezenet1_1").model.training
    of_a_user = plugin.xai_align_describe_model(network("squeezenet1_1", num_classes=4), "my.module:make")
    assert of_a_user.class_names == ()
    assert "transforms usual" in of_a_user.notes[0]
    assert plugin.xai_align_describe_model(torch.nn.Linear(2, 2), "my.module:make") is None


def test_other_references_are_left_to_other_plugins():
    assert plugin.xai_align_load_model("timm:resnet18") is None
    assert load_torchvision_model("timm:resnet18") is None


def test_the_plugin_is_valid():
    manager = get_plugin_manager()
    name = manager.register(plugin, "torchvision_align_of_this_test") if not manager.is_registered(plugin) else None
    manager.check_pending()
    if name:
        manager.unregister(name=name)


@pytest.mark.parametrize(
    ("name", "key", "built"),
    [("inception_v3", "AuxLogits.fc.weight", True), ("googlenet", "aux1.fc2.weight", True), ("googlenet", "x", False)],
)
def test_the_heads_for_training_are_built_if_the_file_has_them(tmp_path, monkeypatch, name, key, built):
    class Seen(Exception):
        pass

    def made(name, **options):
        raise Seen(options.get("aux_logits", True))

    monkeypatch.setattr("torchvision_align.loading._made", made)
    torch.save({key: torch.ones(2, 2)}, tmp_path / "w.pth")
    with pytest.raises(Seen) as seen:
        load_torchvision_model(f"torchvision:{name}@{tmp_path / 'w.pth'}")
    assert seen.value.args == (built,)
