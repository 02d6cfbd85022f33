"""Exported files give the network's logits and the maps of a readout, or are not written."""

from __future__ import annotations

import errno
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import cli_factory
import numpy as np
import pytest
import torch
from cli_factory import BIASES, Colours, half_red_half_blue
from command_line import run
from torch import nn
from torch.utils.data import TensorDataset

import timm_align
from tests.networks import conv_net, images, untouched
from tests.test_timm_face import LOCAL, create, image_for
from xai_align import read_out
from xai_align.export import ExportError, exportable, to_exported_program, to_file, to_onnx
from xai_align.features.spatial import contribution_map
from xai_align.hookspecs import FeatureSpace, Split
from xai_align.pinet import PiNetEnsemble, PiNetLoss, conv_pinet, read_out_all_classes
from xai_align.training import fit_pinet

#: These run always, the others only among the slow tests.
ALWAYS = {
    "test_resnet",
    "test_byobnet",
    "test_efficientnet",
    "test_efficientnet_evos",
    "test_efficientnet_ln",
    "test_nfnet",
}
#: PyTorch's exporter takes attention of four axes alone.
NOT_IN_ONNX = {"samvit_base_patch16_224"}
SIZES = {"efficientvim_m1": [(7, 7), (5, 5), (3, 3), (4, 4)]}
#: The bound, relative to the largest number.
CLOSE = 1e-5


@pytest.fixture(scope="module")
def onnxruntime():
    pytest.importorskip("onnxscript")
    return pytest.importorskip("onnxruntime")


def run_onnx(onnxruntime, path, x):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_outputs()]
    return {
        name: torch.as_tensor(one) for name, one in zip(names, session.run(names, {"images": x.numpy()}), strict=True)
    }


def run_program(path, x):
    with torch.no_grad():
        return torch.export.load(path).module()(x)


def close(found, expected):
    assert found.shape == expected.shape
    assert float((found - expected).abs().max()) <= CLOSE * float(expected.abs().max())


def sums(outputs):
    maps = [value.flatten(2).sum(2) for name, value in outputs.items() if name.startswith("maps")]
    return torch.stack(maps).sum(0) + outputs.get("prefix", 0) + outputs["bias"]


def with_head(scale=1.0):
    """A network of no library: convolution, mean, linear."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
        )
    return model.eval()


# ---------------------------------------------------------------- the numbers


def test_a_network_worked_out_by_hand(tmp_path, onnxruntime):
    """A class's logit is four times the mean of a colour: one sixteenth of four for each of the red cells."""
    model, x = Colours().eval(), half_red_half_blue()
    red, blue = torch.zeros(4, 4), torch.zeros(4, 4)
    red[:, :2], blue[:, 2:] = 0.25, 0.25
    with untouched(model):
        exported = to_onnx(model, x, tmp_path / "new" / "colours.onnx", class_names=cli_factory.NAMES)
        to_exported_program(model, x, tmp_path / "colours.pt2")
    assert exported.shapes == {"logits": (1, 4), "maps": (1, 4, 4, 4), "bias": (4,)}
    assert (exported.kind, exported.layer, exported.image) == ("local", "look", (1, 3, 4, 4))
    assert exported.checked_with == f"onnxruntime {onnxruntime.__version__}"
    for outputs in (run_onnx(onnxruntime, exported.path, x), run_program(tmp_path / "colours.pt2", x)):
        assert list(outputs) == ["logits", "maps", "bias"]
        torch.testing.assert_close(outputs["logits"], torch.tensor([[2.5, 0.0, 1.75, -1.0]]))
        torch.testing.assert_close(outputs["maps"][0], torch.stack([red, 0 * red, blue, 0 * red]))
        torch.testing.assert_close(outputs["bias"], torch.tensor(BIASES))
    assert [one.name for one in exported.path.parent.iterdir()] == ["colours.onnx"]


@pytest.mark.parametrize(
    "name", [name if name in ALWAYS else pytest.param(name, marks=pytest.mark.slow) for name in sorted(LOCAL)]
)
def test_onnxruntime_gives_the_logits_and_the_maps(name, tmp_path, onnxruntime):
    model = create(name, num_classes=10)
    example, x = image_for(model, 2), image_for(model, 3)
    if name in NOT_IN_ONNX:
        with pytest.raises(ExportError, match=r"write \.pt2 instead"):
            to_onnx(model, example, tmp_path / "network.onnx")
        return
    with untouched(model):
        exported = to_onnx(model, example, tmp_path / "network.onnx")
    assert exported.differences.largest <= CLOSE
    check(name, model, x, run_onnx(onnxruntime, exported.path, x))


@pytest.mark.parametrize("name", sorted(LOCAL))
def test_the_module_gives_the_logits_and_the_maps(name):
    model = create(name, num_classes=10)
    x = image_for(model, 2)
    with untouched(model), torch.inference_mode():
        outputs = exportable(model, x[:1])(x)
    check(name, model, x, outputs)


def check(name, model, x, outputs):
    """Against the plain model, and a readout of one class by the head's derivative."""
    with torch.no_grad():
        close(outputs["logits"], model(x))
    readout = read_out(model, x, 3, "head")
    parts = readout.contributions if isinstance(readout.contributions, tuple) else (readout.contributions,)
    maps = [value for key, value in outputs.items() if key.startswith("maps")]
    size = (x.shape[-2], x.shape[-1])
    for part, found in zip(parts, maps, strict=True):
        close(found[:, 3], contribution_map(part, readout.feature_space, size).to(found))
    close(outputs["bias"][3].expand(len(x)), readout.bias.to(outputs["bias"]))
    close(sums(outputs), outputs["logits"])
    if name in SIZES:
        assert [one.shape[2:] for one in maps] == SIZES[name]


def test_every_local_network_is_tested():
    assert ALWAYS <= LOCAL
    from benchmarks.readout import exported

    assert set(exported.LOCAL) == LOCAL


def test_a_network_of_torchvision(tmp_path):
    models = pytest.importorskip("torchvision.models")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = models.resnet18(num_classes=7).eval()
    x = images(3, 64)
    with untouched(model):
        exported = to_exported_program(model, x[:2], tmp_path / "resnet.pt2")
    assert exported.layer == "layer4"
    outputs, readout = run_program(exported.path, x), read_out_all_classes(model, x, "head")
    close(outputs["logits"], readout.logits)
    close(outputs["maps"], readout.maps)
    close(sums(outputs), outputs["logits"])


class Tokens(nn.Module):
    """A class token and patches of 2 x 4 pixels, last patch first; the logits are linear in the mean of all of them."""

    def __init__(self):
        super().__init__()
        self.embed, self.classify = nn.Linear(24, 5), nn.Linear(5, 3)
        self.token = nn.Parameter(torch.arange(5.0))

    def tokens(self, x):
        patches = x.unflatten(3, (-1, 4)).unflatten(2, (-1, 2)).permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
        own = self.token.expand(x.shape[0], 1, 5)
        return torch.cat([own, torch.tanh(self.embed(patches)).flip(1)], 1)

    def head(self, z):
        weights = torch.arange(1.0, z.shape[1] + 1) / 10  # positions differ, so the head is no mean
        return self.classify((z * weights[:, None]).sum(1))

    def forward(self, x):
        return self.head(self.tokens(x))


def test_prefix_tokens_and_the_order_of_tokens(tmp_path):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Tokens().eval()
    space = FeatureSpace(
        layer="tokens",
        layout="NLC",
        prefix_tokens=1,
        split=Split(model.tokens, model.head),
        grid=lambda size, tokens: (size[0] // 2, size[1] // 4),
        to_raster=lambda cells: cells.flip(1),
    )
    x = images(2, 8)
    with untouched(model):
        exported = to_exported_program(model, x, tmp_path / "tokens.pt2", feature_space=space)
    assert exported.shapes == {"logits": (1, 3), "maps": (1, 3, 4, 2), "prefix": (1, 3), "bias": (3,)}
    outputs = run_program(exported.path, x)
    for k in range(3):
        readout = read_out(model, x, k, space)
        close(outputs["maps"][:, k], contribution_map(readout.contributions, space, (8, 8)))
        close(outputs["prefix"][:, k], readout.prefix)
    # a change of the first patch moves the first cell alone
    changed = x.clone()
    changed[:, :, :2, :4] += 1
    moved = (run_program(exported.path, changed)["maps"] - outputs["maps"]).abs().amax((0, 1))
    assert [tuple(one) for one in moved.nonzero().tolist()] == [(0, 0)]
    close(sums(outputs), outputs["logits"])


def test_images_do_not_depend_on_their_batch(tmp_path):
    model = with_head()
    x = images(3, 16)
    outputs = run_program(to_exported_program(model, x, tmp_path / "network.pt2").path, x)
    alone = run_program(tmp_path / "network.pt2", x[1:2])
    torch.testing.assert_close(outputs["maps"][1:2], alone["maps"], rtol=1e-6, atol=1e-7)
    with pytest.raises((AssertionError, RuntimeError)):  # rather than a map of something else
        run_program(tmp_path / "network.pt2", images(1, 24))


def test_low_precision_is_exported_in_float32(tmp_path):
    model = with_head().to(torch.bfloat16)
    x = images(2, 16)
    with untouched(model):
        exported = to_exported_program(model, x.to(torch.bfloat16), tmp_path / "network.pt2")
    outputs = run_program(exported.path, x.to(torch.bfloat16).float())
    assert outputs["maps"].dtype == torch.float32
    with torch.no_grad():
        close(outputs["logits"], with_head().to(torch.bfloat16).float()(x.to(torch.bfloat16).float()))


def test_a_module_can_be_had_without_a_file():
    model, x = with_head(), images(2, 16)
    module = exportable(model, x)
    with torch.inference_mode():
        outputs = module(x)
    close(outputs["maps"], read_out_all_classes(model, x, "head").maps)
    assert not any(parameter.requires_grad for parameter in module.parameters())


class Several(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = with_head()

    def forward(self, x):
        return {"other": x.mean((2, 3)), "scores": self.inner(x)}


def test_one_of_several_outputs(tmp_path):
    model, x = Several().eval(), images(2, 16)
    exported = to_exported_program(model, x, tmp_path / "network.pt2", output="scores")
    with torch.no_grad():
        close(run_program(exported.path, x)["logits"], model(x)["scores"])


# ---------------------------------------------------------------- trained networks


@pytest.fixture(scope="module")
def trained():
    x = torch.rand(16, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 0.5
    y = torch.arange(16) % 2
    x[y == 1, :, 4:9, 4:9] = 1.0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pinet = conv_pinet(2, in_channels=3, width=4, depth=2)
    data = TensorDataset(x, y)
    fit_pinet(pinet, data, data, loss=PiNetLoss("multiclass"), epochs=2, batch_size=8, seed=0)
    return pinet.eval(), x[:3]


def test_a_trained_pinet(trained, tmp_path, onnxruntime):
    pinet, x = trained
    with untouched(pinet):
        exported = to_onnx(pinet, x[:2], tmp_path / "pinet.onnx")
    assert (exported.kind, exported.shapes["maps"]) == ("pinet", (1, 2, 16, 16))
    outputs, look = run_onnx(onnxruntime, exported.path, x), pinet.explain(x)
    close(outputs["logits"], look.logits.detach())
    close(outputs["maps"], look.maps.detach())
    close(sums(outputs), outputs["logits"])


def test_a_second_look_at_class_evidence(tmp_path):
    pinet = timm_align.retrofit(create("test_resnet", num_classes=6), "second_look", size=13).eval()
    x = images(3, 64)
    with untouched(pinet):
        exported = to_exported_program(pinet, x[:1], tmp_path / "pinet.pt2")
    assert exported.shapes["maps"] == (1, 6, 13, 13)
    outputs, look = run_program(exported.path, x), pinet.explain(x)
    close(outputs["maps"], look.maps.detach())
    close(sums(outputs), outputs["logits"])


def test_an_ensemble_of_pinets(trained, tmp_path):
    pinet, x = trained
    ensemble = PiNetEnsemble([pinet, conv_pinet(2, in_channels=3, width=4, depth=2).eval()])
    exported = to_exported_program(ensemble, x, tmp_path / "pinet.pt2")
    outputs, look = run_program(exported.path, x), ensemble.explain(x)
    close(outputs["maps"], look.maps.detach())
    close(outputs["logits"], look.logits.detach())


def test_an_unchanged_network_in_a_retrofit(tmp_path):
    model = with_head()
    pinet = timm_align.retrofit(create("test_resnet", num_classes=6), feature_space="head")
    x = image_for(pinet.backbone, 2)
    assert to_exported_program(pinet, x, tmp_path / "retrofit.pt2").kind == "local"
    assert to_exported_program(torch.compile(model), images(2, 16), tmp_path / "compiled.pt2").kind == "local"


# ---------------------------------------------------------------- what a file says


def test_a_file_describes_itself(tmp_path, onnxruntime):
    import onnx

    x = half_red_half_blue()
    to_onnx(Colours().eval(), x, tmp_path / "a.onnx", class_names=cli_factory.NAMES, metadata={"licence": "ours"})
    to_exported_program(Colours().eval(), x, tmp_path / "a.pt2", class_names=cli_factory.NAMES)
    extra = {"xai_align.json": ""}
    torch.export.load(tmp_path / "a.pt2", extra_files=extra)
    of_onnx = {one.key: one.value for one in onnx.load(tmp_path / "a.onnx").metadata_props}
    of_program = json.loads(extra["xai_align.json"])
    graph = onnx.load(tmp_path / "a.onnx").graph
    shapes = {
        one.name: [size.dim_param or size.dim_value for size in one.type.tensor_type.shape.dim]
        for one in (*graph.input, *graph.output)
    }
    assert shapes["images"] == ["batch", *x.shape[1:]]
    assert all(shape[0] == "batch" for name, shape in shapes.items() if name != "bias")
    assert of_program.items() < of_onnx.items()
    assert of_onnx["licence"] == "ours"
    assert json.loads(of_program["xai_align.class_names"]) == list(cli_factory.NAMES)
    assert of_program["xai_align.layer"] == "look"
    assert "contributions of the cells of the layer 'look'" in of_program["xai_align.maps"]
    assert of_program["xai_align.sum"] == "logits = sum of maps over rows and columns + bias"
    assert of_program["xai_align.version"] == importlib.import_module("xai_align").__version__


def test_without_onnxruntime_the_reference_of_onnx_checks(tmp_path, monkeypatch):
    pytest.importorskip("onnxscript")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    exported = to_onnx(Colours().eval(), half_red_half_blue(), tmp_path / "a.onnx")
    assert exported.checked_with.startswith("onnx.reference ")


def test_the_documentations_script_needs_no_torch(tmp_path, onnxruntime):
    page = (Path(__file__).parents[1] / "docs" / "export.md").read_text("utf-8")
    (script,) = re.findall(r"^```python\n(# file: explain_onnx\.py\n.*?)^```$", page, re.M | re.S)
    to_onnx(Colours().eval(), half_red_half_blue(), tmp_path / "colours.onnx", class_names=cli_factory.NAMES)
    np.save(tmp_path / "images.npy", half_red_half_blue().numpy())
    (tmp_path / "explain_onnx.py").write_text(f"{script}    assert 'torch' not in sys.modules\n")
    done = subprocess.run(
        [sys.executable, "explain_onnx.py", "colours.onnx", "images.npy"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout == "red, crimson: 2.50, of which 0.25 in row 0, column 0 of (4, 4)\n", done.stderr


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize("write", [to_onnx, to_exported_program])
@pytest.mark.parametrize("model", [conv_net, lambda: create("test_vit"), lambda: create("test_convnext")])
def test_networks_without_a_local_head_are_told_what_is_possible(write, model, tmp_path):
    model = model()
    x = image_for(model) if hasattr(model, "default_cfg") else images(2, 16)
    suffix = "onnx" if write is to_onnx else "pt2"
    with untouched(model), pytest.raises(ValueError, match=r"cannot be exported with maps.*fit-pinet.*second_look"):
        write(model, x, tmp_path / f"network.{suffix}")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("write", "name", "message"),
    [
        (to_onnx, "a.pt2", r"ends in '\.pt2'; write \.onnx for ONNX runtimes"),
        (to_exported_program, "a.pth", r"ends in '\.pth'; write \.pt2 for torch\.export"),
        (to_exported_program, "a", r"ends in ''"),
    ],
)
def test_unknown_suffixes(write, name, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        write(with_head(), images(2, 16), tmp_path / name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class_names": ("a", "b")}, "2 class names for 4 logits"),
        ({"example": images(2, 16)[0]}, r"shape \[3, 16, 16\]|batch"),
        ({"example": images(2, 16) * float("nan")}, "NaN"),
        ({"model": with_head().train()}, "train"),
    ],
)
def test_bad_input_is_refused_and_leaves_nothing(change, message, tmp_path):
    model = change["model"] if "model" in change else with_head()
    if change.get("model") is not None:
        model[1] = nn.Dropout(0.5)
    given = {name: value for name, value in change.items() if name == "class_names"}
    with pytest.raises(ValueError, match=message):
        to_exported_program(model, change.get("example", images(2, 16)), tmp_path / "a.pt2", **given)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("missing", ["onnx", "onnxscript"])
def test_missing_packages_are_named(missing, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr("xai_align.export.onnx_file.find_spec", lambda name: None if name == missing else find(name))
    with pytest.raises(ImportError, match=rf"needs {missing}, not installed here: pip install 'xai-align\[export\]'"):
        to_onnx(with_head(), images(2, 16), tmp_path / "a.onnx")


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OSError, match="file"):
        to_exported_program(with_head(), images(2, 16), tmp_path / "file" / "a.pt2")
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    if os.access(closed, os.W_OK):
        return  # root may write anywhere
    with pytest.raises(OSError, match=r"a\.pt2"):
        to_exported_program(with_head(), images(2, 16), closed / "a.pt2")


def test_a_disk_that_is_full_is_named(tmp_path, monkeypatch):
    def full(path, content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*a\.pt2'"):
        to_exported_program(with_head(), images(2, 16), tmp_path / "a.pt2")
    assert list(tmp_path.iterdir()) == []


def test_a_layer_that_is_not_there_is_no_fault_of_the_network(tmp_path):
    with pytest.raises(ValueError, match=r"^layer 'none' not found; this model has"):
        to_exported_program(with_head(), images(2, 16), tmp_path / "a.pt2", feature_space="none")


def mirrored(outputs):
    return outputs | {"maps": outputs["maps"].flip(-1)}


def scaled(outputs):
    return outputs | {"logits": outputs["logits"] * 1.001}


def empty(outputs):
    return outputs | {"maps": outputs["maps"] * float("nan")}


def of_one(outputs):
    return {name: value[:1] if name != "bias" else value for name, value in outputs.items()}


@pytest.mark.parametrize("change", [mirrored, scaled, empty, of_one])
def test_a_file_with_other_numbers_is_not_kept(change, tmp_path, monkeypatch):
    """The old file stays. A mirrored map has the right sum, and is refused all the same."""
    path = tmp_path / "a.pt2"
    path.write_bytes(b"an older file")
    real = to_file.program_in

    def wrong(file):
        run = real(file)
        return lambda x: change(run(x))

    monkeypatch.setattr(to_file, "program_in", wrong)
    with pytest.raises(ExportError, match="nothing was written"):
        to_exported_program(with_head(), images(2, 16), path)
    assert path.read_bytes() == b"an older file"
    assert [one.name for one in tmp_path.iterdir()] == ["a.pt2"]


def test_the_tolerance_is_the_callers(tmp_path):
    with pytest.raises(ExportError, match=r"more than tolerance=0; nothing was written"):
        to_exported_program(with_head(), images(2, 16), tmp_path / "a.pt2", tolerance=0)
    assert not list(tmp_path.iterdir())


class DependsOnItsValues(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = with_head()

    def forward(self, x):
        return self.inner(x if x.sum().item() > -1e9 else -x)


def test_a_network_that_cannot_be_traced(tmp_path):
    model = DependsOnItsValues().eval()
    with pytest.raises(ExportError, match=r"torch\.export cannot trace DependsOnItsValues"):
        to_exported_program(model, images(2, 16), tmp_path / "a.pt2")
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- the command


def command(*words):
    return run("export", *words)


def test_the_command_writes_a_checked_file(folder):
    result = command("--model", "cli_factory:load", "--out", "new/colours.pt2")
    assert result.exit_code == 0, result.output
    assert "images [N, 3, 4, 4]; outputs: logits [N, 4], maps [N, 4, 4, 4], bias [4]" in result.stdout
    assert "contributions at 'look'" in result.stdout
    assert "file: new/colours.pt2" in result.stdout
    extra = {"xai_align.json": ""}
    program = torch.export.load("new/colours.pt2", extra_files=extra).module()
    said = json.loads(extra["xai_align.json"])
    assert said["xai_align.model"] == "cli_factory:load"
    assert json.loads(said["xai_align.class_names"]) == list(cli_factory.NAMES)
    assert float(program(half_red_half_blue())["logits"][0, 0]) == pytest.approx(2.5)


def test_the_command_takes_a_saved_pinet_and_a_size(folder, trained):
    trained[0].save_pretrained("saved")
    result = command("--model", "pinet:saved", "--out", "pinet.pt2", "--img-size", "16x24")
    assert result.exit_code == 0, result.output
    assert "maps [N, 2, 16, 24]" in result.stdout
    with torch.no_grad():
        x = torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(0))
        close(run_program("pinet.pt2", x)["logits"], trained[0](x))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "cli_factory:load", "--out", "a.pth"], "write .onnx for ONNX runtimes, or .pt2 for torch.export"),
        (["--model", "timm:test_vit@random", "--out", "a.pt2"], "fit-pinet"),
        (["--model", "cli_factory:load", "--out", "a.pt2", "--layer", "nowhere"], "nowhere"),
        (["--model", "cli_factory:load", "--out", "a.pt2", "--tolerance", "0"], "nothing was written"),
        (["--model", "cli_factory:load", "--out", "a.pt2", "--example", "gone.png"], "gone.png"),
    ],
)
def test_what_the_command_refuses(folder, words, message):
    result = command(*words)
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    assert message in result.stderr.replace("\n", " ")
    assert [one.name for one in folder.iterdir()] == ["half.png"]  # nothing was written
