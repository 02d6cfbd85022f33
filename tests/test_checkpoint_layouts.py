"""Weights load in every layout in which training scripts save them, and in all that timm itself loads."""

from __future__ import annotations

import argparse
import enum
import pathlib
from collections import OrderedDict, defaultdict
from itertools import product

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from xai_align.plugins import ModelOptions, load_model

CLASSES = 3


def network(seed: int = 0, name: str = "test_resnet", **options) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return timm.create_model(name, num_classes=CLASSES, **options).eval()


def prefixed(state, prefix):
    return OrderedDict((prefix + name, one) for name, one in state.items())


class Mode(enum.Enum):
    """What a training script may pickle beside the weights."""

    BEST = 1


class Callback:
    def __init__(self, best):
        self.best = best


class Hyperparameters(dict):
    pass


#: What scripts put before names; an inner wrapper's prefix comes later.
PREFIXES = ("", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model.", "model._orig_mod.", "net.")
#: What they put around the state dict.
ENTRIES = ("", "state_dict", "model", "model_state_dict", "net", "my_network")
BESIDE = {
    "epoch": 7,
    "arch": "test_resnet",
    "args": argparse.Namespace(model="test_resnet", lr=0.1, mean=None, img_size=None, aug=argparse.Namespace(p=0.5)),
    "optimizer": {"state": {0: {"momentum": torch.ones(2)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
    "metric": 81.5,
    "best_path": pathlib.PurePosixPath("a/b"),
    "mode": Mode.BEST,
    "callbacks": {"Checkpoint": Callback(torch.ones(3))},
    "hyper_parameters": Hyperparameters(lr=0.1, layers=[1, 2]),
    "history": defaultdict(list, loss=[0.1, 0.2]),
}


def same_answers(loaded, expected, name="test_resnet"):
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return torch.equal(loaded.model(x), expected(x))


@pytest.mark.parametrize(
    ("content", "taken", "other"),
    [
        (lambda raw, ema: {"model": raw, "ema": ema}, "model", "ema"),
        (lambda raw, ema: {"model": raw, "ema": {"module": ema, "updates": 3}}, "model", "ema.module"),
        (lambda raw, ema: {"model": raw, "ema_model": ema}, "model", "ema_model"),
        (lambda raw, ema: {"model": raw, "model_state_dict_ema": ema}, "model", "model_state_dict_ema"),
        (lambda raw, ema: {"model_state_dict": raw, "swa_model_state_dict": ema}, None, "swa_model_state_dict"),
        (lambda raw, ema: {"model": raw, "averaged": prefixed(ema, "module.")}, "model", "averaged"),
        (
            lambda raw, ema: {"state_dict": raw, "callbacks": {"EMA": {"ema_state_dict": ema}}},
            "state_dict",
            "callbacks.EMA.ema_state_dict",
        ),
        (lambda raw, ema: {"state_dict": ema, "current_model_state": raw}, "state_dict", "current_model_state"),
        (lambda raw, ema: {"model": raw, "ema": {"shadow_params": [*ema.values()]}}, "model", "ema.shadow_params"),
        (lambda raw, ema: raw | {"ema": ema}, "ema", "those beside it"),
    ],
)
def test_further_weights_in_a_file_are_never_left_out_in_silence(tmp_path, content, taken, other):
    file = tmp_path / "last.pth"
    torch.save(content(network(0).state_dict(), network(1).state_dict()) | {"optimizer": BESIDE["optimizer"]}, file)
    (note,) = load_model(f"timm:test_resnet@{file}").notes
    assert other in note
    assert f"entry '{taken or 'model_state_dict'}'" in note
    assert "in a separate file" in note


@pytest.mark.parametrize(("prefix", "entry"), list(product(PREFIXES, ENTRIES)))
def test_every_prefix_in_every_entry(tmp_path, prefix, entry):
    model, file = network(), tmp_path / "last.pth.tar"
    state = prefixed(model.state_dict(), prefix)
    torch.save(BESIDE | {entry: state} if entry else state, file)
    loaded = load_model(f"timm:test_resnet@{file}")
    assert same_answers(loaded, model)
    assert not loaded.random_weights
    assert loaded.notes == ()


@pytest.mark.parametrize("prefix", PREFIXES)
def test_every_prefix_in_safetensors(tmp_path, prefix):
    model, file = network(), tmp_path / "model.safetensors"
    save_file(prefixed(model.state_dict(), prefix), file)
    assert same_answers(load_model(f"timm:test_resnet@{file}"), model)


def test_what_timm_loads_loads_alike(tmp_path):
    """timm's own loader is asked what is in the file, for each of its entries and prefixes."""
    contents = []
    for entry, prefix in product(("", *_TIMM), ("", "module.", "_orig_mod.", "module._orig_mod.")):
        state = prefixed(network(len(contents)).state_dict(), prefix)
        contents.append({entry: state, "epoch": 3, "args": argparse.Namespace(lr=1)} if entry else state)
    contents.append({"state_dict": network(50).state_dict(), "state_dict_ema": None})
    contents.append({"model": network(51).state_dict(), "model_ema": prefixed(network(52).state_dict(), "module.")})
    for number, content in enumerate(contents):
        file = tmp_path / f"{number}.{SUFFIXES[number % len(SUFFIXES)]}"
        torch.save(content, file)
        theirs = network(99)
        timm.models.load_checkpoint(theirs, str(file))
        assert same_answers(load_model(f"timm:test_resnet@{file}"), theirs)


SUFFIXES = ("pth", "pt", "ckpt", "bin", "tar", "checkpoint")
_TIMM = ("state_dict_ema", "model_ema", "state_dict", "model")


@pytest.mark.parametrize(
    ("averaged", "raw"),
    [
        ("state_dict_ema", "state_dict"),
        ("model_ema", "model"),
        ("ema_state_dict", "model_state_dict"),
        ("params_ema", "params"),
    ],
)
def test_averaged_weights_are_taken_and_said(tmp_path, averaged, raw):
    plain, ema, file = network(1), network(2), tmp_path / "last.pth"
    torch.save({raw: plain.state_dict(), averaged: prefixed(ema.state_dict(), "module.")}, file)
    loaded = load_model(f"timm:test_resnet@{file}")
    assert same_answers(loaded, ema)
    (note,) = loaded.notes
    assert "EMA" in note
    assert f"'{averaged}', not '{raw}'" in note


def test_averaged_weights_inside_a_module_are_taken_and_said(tmp_path):
    plain, ema, file = network(1), network(2), tmp_path / "last.ckpt"
    state = prefixed(plain.state_dict(), "model.") | prefixed(ema.state_dict(), "model_ema.module.")
    torch.save({"state_dict": state, "pytorch-lightning_version": "2.4"}, file)
    loaded = load_model(f"timm:test_resnet@{file}")
    assert same_answers(loaded, ema)
    assert "'model_ema.module.', not under 'model.'" in loaded.notes[0]


def test_the_average_of_pytorch_itself(tmp_path):
    model, file = network(1), tmp_path / "swa.pth"
    torch.save(torch.optim.swa_utils.AveragedModel(model).state_dict(), file)
    loaded = load_model(f"timm:test_resnet@{file}")
    assert same_answers(loaded, model)
    assert loaded.notes == ()


def test_several_networks_in_a_file_are_not_chosen_from(tmp_path):
    one, other, file = network(1), network(2), tmp_path / "dino.pth"
    torch.save(prefixed(one.state_dict(), "student.") | prefixed(other.state_dict(), "teacher."), file)
    with pytest.raises(ValueError, match=r"several.*'student\.', 'teacher\.'.*a separate file"):
        load_model(f"timm:test_resnet@{file}")
    torch.save({"first": one.state_dict(), "second": other.state_dict()}, file)
    with pytest.raises(ValueError, match=r"several sets of weights, 'first', 'second'"):
        load_model(f"timm:test_resnet@{file}")


def test_what_lies_beside_the_network_is_named(tmp_path):
    model, file = network(), tmp_path / "last.ckpt"
    torch.save({"state_dict": prefixed(model.state_dict(), "model.") | {"loss.weight": torch.ones(3)}}, file)
    loaded = load_model(f"timm:test_resnet@{file}")
    assert same_answers(loaded, model)
    assert "loss.weight" in loaded.notes[0]
    assert "left out" in loaded.notes[0]


@pytest.mark.parametrize("change", ["extra", "missing", "shape"])
def test_weights_of_another_network_are_refused_under_a_prefix_too(tmp_path, change):
    state, file = prefixed(network().state_dict(), "model."), tmp_path / "last.ckpt"
    if change == "extra":
        state["model.layer9.weight"] = torch.ones(2)
    elif change == "missing":
        del state["model.conv1.0.weight" if "model.conv1.0.weight" in state else next(iter(state))]
    else:
        name = next(name for name, one in state.items() if one.dim() == 4)
        state[name] = torch.ones(1, 1, 1, 1)
    torch.save({"state_dict": state}, file)
    with pytest.raises(ValueError, match="do not fit"):
        load_model(f"timm:test_resnet@{file}")


def test_counters_may_be_missing_as_for_pytorch(tmp_path):
    model, file = network(), tmp_path / "model.safetensors"
    save_file({name: one for name, one in model.state_dict().items() if "num_batches" not in name}, file)
    assert same_answers(load_model(f"timm:test_resnet@{file}"), model)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_efficientnet", "test_convnext", "test_byobnet"])
@pytest.mark.parametrize("channels", [1, 4])
def test_classes_and_channels_follow_the_weights(tmp_path, name, channels):
    model, file = network(name=name, in_chans=channels), tmp_path / "last.ckpt"
    torch.save({"state_dict": prefixed(model.state_dict(), "model.")}, file)
    loaded = load_model(f"timm:{name}@{file}")
    x = torch.rand(1, channels, 160, 160)
    with torch.no_grad():
        assert torch.equal(loaded.model(x), model(x))
    assert len(loaded.mean) == len(loaded.std) == channels


def test_the_settings_of_the_training_script_are_used(tmp_path):
    from PIL import Image

    model, file = network(name="test_vit", img_size=96), tmp_path / "model_best.pth.tar"
    args = argparse.Namespace(mean=[0.1, 0.2, 0.3], std=[0.5, 0.6, 0.7], img_size=96, crop_pct=1.0, interpolation="")
    torch.save({"state_dict": model.state_dict(), "args": args, "arch": "test_vit"}, file)
    loaded = load_model(f"timm:test_vit@{file}")
    assert (loaded.mean, loaded.std) == ((0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
    assert loaded.preprocess(Image.new("RGB", (50, 40))).shape == (3, 96, 96)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_size_and_channels_can_be_stated(name):
    from PIL import Image

    loaded = load_model(f"timm:{name}@random", options=ModelOptions(img_size=(64, 96), in_chans=1))
    x = loaded.preprocess(Image.new("RGB", (50, 40), "red"))
    assert x.shape == (1, 64, 96)
    assert loaded.model(x[None]).shape == (1, 1000)


def run_from_a_file():
    pytest.fail("code from a weights file was run")


class Payload:
    def __reduce__(self):
        return (run_from_a_file, ())


@pytest.mark.parametrize("content", [Payload(), {"state_dict": Payload()}, {"model": network()}, network(), [1, 2], {}])
def test_what_holds_no_plain_weights_is_refused_in_one_printable_sentence(tmp_path, content):
    file = tmp_path / "weights.pth"
    torch.save(content, file)
    with pytest.raises(ValueError, match="not a file of plain tensors") as caught:
        load_model(f"timm:test_resnet@{file}")
    assert str(caught.value).isprintable()


def test_code_beside_the_weights_is_not_run(tmp_path):
    model, file = network(), tmp_path / "weights.pth"
    torch.save({"state_dict": model.state_dict(), "callbacks": Payload()}, file)
    assert same_answers(load_model(f"timm:test_resnet@{file}"), model)


def test_messages_of_damaged_files_hold_no_escape(tmp_path):
    import io

    buffer = io.BytesIO()
    torch.save({"state_dict": Payload()}, buffer, _use_new_zipfile_serialization=False)
    for number, data in enumerate((b"", b"\x1b[1mnonsense", buffer.getvalue(), buffer.getvalue()[:40])):
        file = tmp_path / f"{number}.pth"
        file.write_bytes(data)
        with pytest.raises(ValueError, match="not a file of plain tensors") as caught:
            load_model(f"timm:test_resnet@{file}")
        assert str(caught.value).isprintable()


def test_a_folder_of_timm_has_its_label_names(tmp_path):
    model = network()
    timm.models.save_for_hf(model, tmp_path, model_config={"label_names": ["cat", "dog", "owl"]})
    loaded = load_model(f"timm:local-dir:{tmp_path}")
    assert same_answers(loaded, model)
    assert loaded.class_names == ("cat", "dog", "owl")
    assert not loaded.random_weights
    with pytest.raises(ValueError, match=r"local-dir.*config\.json"):
        load_model(f"timm:local-dir:{tmp_path / 'nowhere'}")
