"""A changed file is refused in a sentence that names it, or is what it says; nothing in it is run, fetched or ended."""

from __future__ import annotations

import json
import os
import pickle
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from typer.testing import CliRunner

import timm_align
from benchmarks.safety.changed_files import KINDS, WRONG, Payload, nothing_is_run, outcome, sentence_problem, tried
from timm_align.saved_options import CREATE, check_saved_options
from xai_align._tools.files.fields import check_fields, listed, number, record, text, whole
from xai_align._tools.files.plain_json import parse_json, read_json
from xai_align._tools.files.references import importing_a_reference, reading, typed_on_the_command_line
from xai_align._tools.files.size_limit import no_larger_than
from xai_align.align import Masker
from xai_align.align.masker_file import load_masker, save_masker
from xai_align.align.saved_fit import load_fit, save_fit
from xai_align.cli.app import app
from xai_align.comparison.asked_questions import read_groups
from xai_align.comparison.image_labels import read_labels
from xai_align.pinet import PiNet, conv_pinet
from xai_align.pinet.network import persistence
from xai_align.plugins import classifier, load_model
from xai_align.training.checkpoints import Snapshot, read_checkpoint, write_checkpoint
from xai_align.training.training_log import TrainingLog

#: How many wrong values stand in the place of each value here; the benchmark tries them all.
THOROUGH = {
    "PiNet": 2,
    "PiNet on a timm backbone": 1,
    "aligned classifier and masker": 2,
    "masker": 8,
    "masker on stages": 1,
    "checkpoint of fit_pinet": 1,
    "checkpoint of AlignTrainer": 1,
    "parts of a comparison": 3,
}
#: Of this many changes one is tried, where there are many and each takes long.
EVERY = {
    "PiNet": 2,
    "PiNet on a timm backbone": 11,
    "aligned classifier and masker": 7,
    "masker on stages": 5,
    "timm weights, safetensors": 5,
    "timm weights, PyTorch": 5,
    "checkpoint of fit_pinet": 3,
    "checkpoint of AlignTrainer": 11,
    "parts of a comparison": 2,
    "prototypes": 4,
    "settings of a comparison": 3,
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_changed_file_is_refused_or_is_what_it_says(kind, tmp_path, monkeypatch):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    results = list(tried(KINDS[kind], tmp_path, flips=6, wrong=THOROUGH.get(kind), every=EVERY.get(kind, 1)))
    assert [(change.name, told) for change, result, told in results if result == "anything else"] == []
    assert sum(result == "refused" for _, result, _ in results) > 0.7 * len(results)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 600 * 1024  # KiB


def test_the_verdict_finds_what_it_looks_for(tmp_path):
    """A reader that unpickles, one that says too little, and one that leaves out a check."""
    kind = KINDS["timm weights, PyTorch"]
    kind.make(tmp_path)
    original = kind.load(tmp_path)

    def verdict(load):
        return outcome(type(kind)(make=kind.make, load=load, files=kind.files), tmp_path, None_said, original)[0]

    class None_said:
        said = None

    def no_sentence(folder):
        raise ValueError("it is damaged")

    def deep_inside(folder):
        raise KeyError("bias")

    def not_finite(folder):
        return None, {name: value * torch.nan for name, value in original[1].items()}

    assert verdict(kind.load) == "unchanged"
    assert {verdict(load) for load in (no_sentence, deep_inside, not_finite)} == {"anything else"}
    assert sentence_problem(f"'{tmp_path}' is bad. Try again", tmp_path) == "several sentences"
    assert sentence_problem(f"'{tmp_path}' is bad\nvery", tmp_path) == "several lines"
    (tmp_path / "x").mkdir()
    with pytest.raises(BaseException, match="code from a file was run"), nothing_is_run(tmp_path / "x"):
        pickle.loads(pickle.dumps(Payload()))


# ------------------------------------------------------------------------------- what was found, one by one


def reseal(folder, change):
    """The config with a change, with the weights' copy of it too."""
    kind = KINDS["PiNet"]
    config = kind.read(folder)
    change(config)
    kind.write(folder, config)


def retrofit(folder):
    KINDS["PiNet on a timm backbone"].make(folder)
    return folder


def write_fit(folder, backbone="timm:test_efficientnet@random", masker=None, classes=("cat", "dog")):
    model = classifier(load_model("timm:test_efficientnet@random").model, 2)
    save_fit(folder, model, masker, backbone=backbone, classes=list(classes))
    return folder


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("checkpoint_path", "evil.pth"),
        ("pretrained_cfg_overlay", {"file": "evil.pth"}),
        ("pretrained_cfg_overlay", {"hf_hub_id": "evil/model"}),
        ("pretrained_cfg", {"url": "https://evil.example/x"}),
        ("pretrained", True),
        ("cache_dir", "."),
        ("features_only", True),
        ("act_layer", "os.abort"),
        ("num_classes", 10**9),
        ("in_chans", 10**9),
        ("img_size", [10**6, 10**6]),
    ],
)
def test_options_of_timm_that_a_file_may_not_set(name, value, tmp_path):
    folder = retrofit(tmp_path / "saved")
    reseal(folder, lambda config: config["encoder"]["options"]["create"].update({name: value}))
    with nothing_is_run(tmp_path):
        for trust in (False, True):
            with pytest.raises(ValueError, match=rf"create\.{name}") as caught:
                PiNet.from_pretrained(folder, trust=trust)
            assert sentence_problem(str(caught.value), folder) == ""


def test_no_option_says_where_weights_lie():
    for name in CREATE:
        assert not re.search("pretrained|checkpoint|cache|hub|url|file|path", name) or name == "drop_path_rate", name
    options = {"indices": [1], "image_size": [32, 32], "create": {"num_classes": 2}}
    check_saved_options(options)
    for wrong in (True, 1.5, "2", None, -1, [2]):
        with pytest.raises(ValueError, match=r"create\.num_classes"):
            check_saved_options({**options, "create": {"num_classes": wrong}})


def test_where_weights_lay_is_not_saved(tmp_path):
    weights = tmp_path / "weights.pth"
    torch.save(timm_align.loading.create_model("test_efficientnet").state_dict(), weights)
    made = timm_align.retrofit(
        "test_efficientnet", "second_look", image_size=(32, 32), checkpoint_path=str(weights), cache_dir=str(tmp_path)
    )
    folder = made.save_pretrained(tmp_path / "saved")
    assert str(tmp_path) not in (folder / "config.json").read_text()
    weights.unlink()
    again = PiNet.from_pretrained(folder)
    assert torch.equal(again.encoder.inner.backbone.conv_stem.weight, made.encoder.inner.backbone.conv_stem.weight)


NAMES = [
    "hf_hub:evil/model", "hf-hub:evil/model", "local-dir:.", "../x", "/etc/passwd", "a/b", "", " resnet18", "resnet18 ",
    "resnet18\n", "resnet18@evil.pth", "http://evil.example", "résnet18", "no_such_architecture",
    "test_efficientnet.no_tag",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_only_plain_names_of_timm(name, tmp_path):
    folder = retrofit(tmp_path / "pinet")
    reseal(folder, lambda config: config["encoder"].update(reference=f"timm:{name}"))
    fit = write_fit(tmp_path / "fit", f"timm:{name}")
    with nothing_is_run(tmp_path):
        for load in (PiNet.from_pretrained, lambda one, **more: load_model(f"align:{one}", **more)):
            for trust in (False, True):
                where = folder if load == PiNet.from_pretrained else fit
                if where is fit and name == "resnet18@evil.pth":  # weights of an align fit are its own
                    continue
                with pytest.raises(ValueError) as caught:  # noqa: PT011 - the next line looks at it
                    load(where, trust=trust)
                assert sentence_problem(str(caught.value), where) == ""


CODE = ["os:abort", "os:_exit", "evil_module:run", "evil_module:run.again", "somebody:else", "builtins:breakpoint"]


@pytest.mark.parametrize("reference", CODE)
def test_code_in_a_folder_is_not_run(reference, tmp_path):
    fit, folder = write_fit(tmp_path / "fit", reference), retrofit(tmp_path / "pinet")
    reseal(folder, lambda config: config["encoder"].update(reference=reference))
    with nothing_is_run(tmp_path):
        for where, load in ((fit, f"align:{fit}"), (folder, f"pinet:{folder}")):
            with pytest.raises(ValueError, match=r"trust=True \(on the command line --trust-code\)") as caught:
                load_model(load)
            assert repr(reference) in str(caught.value)
            assert sentence_problem(str(caught.value), where) == ""


FACTORY = """
import pathlib
import timm
pathlib.Path({ran!r}).touch()
def make():
    return timm.create_model("test_efficientnet")
"""


def test_code_of_a_trusted_folder_is_run(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "trusted_factory.py").write_text(FACTORY.format(ran=str(tmp_path / "ran")))
    folder = write_fit(tmp_path / "fit", "trusted_factory:make")
    monkeypatch.syspath_prepend(str(tmp_path / "elsewhere"))
    with pytest.raises(ValueError, match="names the code 'trusted_factory:make'"):
        load_model(f"align:{folder}")
    assert not (tmp_path / "ran").exists()
    assert load_model(f"align:{folder}", trust=True).class_names == ("cat", "dog")
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("trust", [False, True])
def test_a_folder_does_not_stand_on_a_folder(trust, tmp_path):
    pinet = KINDS["PiNet"].make(tmp_path / "pinet") or tmp_path / "pinet"
    itself = write_fit(tmp_path / "a", f"align:{tmp_path / 'a'}")
    write_fit(tmp_path / "b", f"align:{tmp_path / 'c'}")
    write_fit(tmp_path / "c", f"align:{tmp_path / 'b'}")
    on_pinet = write_fit(tmp_path / "d", f"pinet:{pinet}")
    reseal(pinet, lambda config: config["encoder"].update(reference=f"align:{on_pinet}"))
    for reference in (f"align:{itself}", f"align:{tmp_path / 'b'}", f"align:{on_pinet}", f"pinet:{pinet}"):
        with pytest.raises(ValueError, match="a saved folder cannot refer to another one") as caught:
            load_model(reference, trust=trust)
        assert "\n" not in str(caught.value)


def test_trusted_code_does_not_lead_back_to_its_folder(tmp_path, monkeypatch):
    folder = write_fit(tmp_path / "fit", "leads_back:make")
    code = f"from xai_align.plugins import load_model\ndef make(): return load_model('align:{folder}', trust=True)\n"
    (tmp_path / "leads_back.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ValueError, match="refers to itself"):
        load_model(f"align:{folder}", trust=True)


def test_a_fit_on_a_fit_stands_on_the_same_architecture(tmp_path):
    first = write_fit(tmp_path / "first")
    again = classifier(load_model(f"align:{first}").model, 3)
    save_fit(tmp_path / "second", again, None, backbone=f"align:{first}", classes=["a", "b", "c"])
    assert load_model(f"align:{tmp_path / 'second'}").class_names == ("a", "b", "c")


@pytest.mark.parametrize("command", ["explain", "compare", "fit-pinet", "fit-align"])
def test_every_command_that_takes_a_reference_can_be_told_to_trust(command, tmp_path, monkeypatch):
    from PIL import Image

    for name in ("red", "blue"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for i in range(4):
            Image.new("RGB", (16, 16), name).save(tmp_path / "pictures" / name / f"{i}.png")
    folder = write_fit(tmp_path / "fit", "not_there_at_all:make")
    monkeypatch.chdir(tmp_path)
    words = {
        "explain": ["explain", "pictures/red/0.png", "--model"],
        "compare": ["compare", "--images", "pictures/red/0.png", "--model"],
        "fit-pinet": ["fit-pinet", "pictures", "--backbone"],
        "fit-align": ["fit-align", "pictures", "--backbone"],
    }[command]
    out = ["--out", "result", "--device", "cpu"]
    asked = CliRunner().invoke(app, [*words, f"align:{folder}", *out])
    assert asked.exit_code == 2, asked.output
    assert "which is run only if you trust the file: pass trust=True (on the command line --trust-code)" in asked.stderr
    trusted = CliRunner().invoke(app, [*words, f"align:{folder}", *out, "--trust-code"])
    assert trusted.exit_code == 2
    assert "importing 'not_there_at_all' raised ModuleNotFoundError" in trusted.stderr
    help_text = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"}).stdout
    assert "--trust-code" in help_text
    assert "folders that name code are refused" in " ".join(help_text.split()).lower()


# ------------------------------------------------------------------------------------ the current directory


HERE = "import pathlib\npathlib.Path('was_run').touch()\nfrom torch import nn\ndef make(): return nn.Flatten()\n"


def test_the_current_directory_is_searched_for_what_was_typed_and_nothing_else(tmp_path, monkeypatch):
    (tmp_path / "lies_here.py").write_text(HERE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [one for one in sys.path if os.path.realpath(one or ".") != str(tmp_path)])
    before = list(sys.path)
    with pytest.raises(ValueError, match="No module named 'lies_here'"):
        load_model("lies_here:make")
    with typed_on_the_command_line():
        with pytest.raises(ImportError):
            __import__("lies_here")
        assert isinstance(load_model("lies_here:make").model, nn.Flatten)
        assert sys.path == before
        sys.modules.pop("lies_here")
        (tmp_path / "was_run").unlink()
        monkeypatch.setattr(sys, "path", ["", *before])  # as in an interactive session
        folder = write_fit(tmp_path / "fit", "lies_here:make")
        with pytest.raises(ValueError, match="No module named 'lies_here'"):
            load_model(f"align:{folder}", trust=True)
    assert not (tmp_path / "was_run").exists()


def test_places_that_are_named_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(sys, "path", ["", str(tmp_path), *sys.path])
    with reading(tmp_path / "fit"), importing_a_reference():
        assert str(tmp_path) in sys.path


def test_modules_in_the_current_directory_are_no_part_of_the_program(tmp_path):
    """The program is run as far as explaining a picture, and everything that it imports on the way has a namesake."""
    from PIL import Image

    for module in ("tensorboard", "torchvision", "captum", "typer", "rich", "timm", "PIL", "matplotlib", "evil"):
        (tmp_path / f"{module}.py").write_text("import pathlib\npathlib.Path('was_run').touch()\n")
    Image.new("RGB", (16, 16), "red").save(tmp_path / "a.png")
    (tmp_path / "lies_here.py").write_text("import cli_factory\nload = cli_factory.load\n")
    root = Path(__file__).parents[1]
    places = os.pathsep.join(map(str, (root, root / "adapters", root / "tests")))
    done = subprocess.run(
        [sys.executable, "-m", "xai_align", "explain", "a.png", "--model", "lies_here:load", "--device", "cpu"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": places, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "was_run").exists()


# -------------------------------------------------------------------------------- weights, sizes, links, words


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_weights_that_are_not_finite_are_refused(value, tmp_path):
    fit, masker = write_fit(tmp_path / "fit", masker=Masker(3, width=2, depth=0)), tmp_path / "fit/masker.safetensors"
    for path, load in ((fit / "classifier.safetensors", lambda: load_model(f"align:{fit}")),
                       (masker, lambda: load_masker(masker))):  # fmt: skip
        saved = read_checkpoint(path)
        name = next(name for name in saved.tensors if name.endswith("weight"))
        saved.tensors[name].view(-1)[0] = value
        write_checkpoint(path, saved)
        with pytest.raises(ValueError, match=r"1 with NaN or infinity \(.*weight\)") as caught:
            load()
        assert str(path) in str(caught.value)


def test_infinity_that_a_network_is_built_with_is_no_damage(tmp_path, monkeypatch):
    code = (
        "import torch, timm\n"
        "def make():\n"
        "    model = timm.create_model('test_efficientnet')\n"
        "    model.register_buffer('mask', torch.full((2, 2), -torch.inf).triu(1))\n"
        "    return model\n"
    )
    (tmp_path / "masked_factory.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    model = classifier(load_model("masked_factory:make").model, 2)
    save_fit(tmp_path / "fit", model, None, backbone="masked_factory:make", classes=["a", "b"])
    again = load_model(f"align:{tmp_path / 'fit'}", trust=True).model
    assert torch.equal(again.mask, model.mask)


@pytest.mark.parametrize(
    "change",
    [
        lambda config: config.update(channels=[65536, 65536]),
        lambda config: config["head"].update(num_classes=10**6),
        lambda config: config["head"].update(num_classes=10**9),
        lambda config: config["head"].update(decoder="pooled", size=4096, decoder_options={}),
        lambda config: config["head"].update(z="features", z_channels=65536, coefficients="per_channel"),
        lambda config: config["encoder"]["options"].update(width=65536),
        lambda config: config["encoder"]["options"].update(width=4096, depth=16),
        lambda config: config["encoder"]["options"].update(depth=10**9),
        lambda config: config["encoder"]["options"].update(in_channels=65536, width=65536, depth=1),
    ],
)
def test_a_config_that_asks_for_more_than_its_weights(change, tmp_path):
    KINDS["PiNet"].make(tmp_path)
    reseal(tmp_path, change)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the next line looks at it
        PiNet.from_pretrained(tmp_path)
    assert sentence_problem(str(caught.value), tmp_path) == ""
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400 * 1024


def test_a_large_architecture_with_small_weights(tmp_path):
    fit = write_fit(tmp_path, "timm:vit_giant_patch14_224")
    with pytest.raises(ValueError, match=r"describes a model of more than \d+ numbers, but its weights have only"):
        load_model(f"align:{fit}")


def test_the_limit_counts_what_is_made(tmp_path):
    with no_larger_than([torch.zeros(1000)], "x"), pytest.raises(ValueError, match="weights have only 1000"):
        nn.Sequential(*(nn.Linear(2**10, 2**10) for _ in range(40)))
    with no_larger_than([torch.zeros(1000)], "x"):
        assert nn.Linear(100, 100).weight.shape == (100, 100)


@pytest.mark.parametrize("kind", ["PiNet", "aligned classifier and masker"])
def test_links_within_the_folder_and_of_the_hubs_cache_are_followed(kind, tmp_path):
    file = KINDS[kind].files[-1]
    inside = tmp_path / "inside"
    KINDS[kind].make(inside)
    (inside / file).rename(inside / "real")
    (inside / file).symlink_to("real")
    KINDS[kind].load(inside)
    snapshot, blobs = tmp_path / "hub/snapshots/abc", tmp_path / "hub/blobs"
    KINDS[kind].make(snapshot)
    blobs.mkdir()
    (snapshot / file).rename(blobs / "1234")
    (snapshot / file).symlink_to(Path("../../blobs/1234"))
    KINDS[kind].load(snapshot)


def test_rows_are_not_written_through_a_link(tmp_path):
    (tmp_path / "mine").write_text("keep")
    out = tmp_path / "out"
    out.mkdir()
    for name in ("metrics.csv", "metrics.jsonl"):
        (out / name).symlink_to(tmp_path / "mine")
    with TrainingLog(out) as log:
        log.begin([{"epoch": 1, "step": 2, "loss": 0.5}])
        log.add({"epoch": 2, "step": 4, "loss": 0.25, "new": 1})
    assert (tmp_path / "mine").read_text() == "keep"
    assert (out / "metrics.csv").read_text() == "epoch,step,loss,new\n1,2,0.5,\n2,4,0.25,1\n"
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize("rubbish", [b"", b"\xff\xfe\0", b"epoch,step\n9,9\n" * 1000, b'=cmd|" /C calc"!A0'])
def test_what_stands_in_the_tables_of_a_run_does_not_matter(rubbish, tmp_path):
    row = {"epoch": 1, "step": 2, "loss": 0.5}
    for name in ("metrics.csv", "metrics.jsonl"):
        (tmp_path / name).write_bytes(rubbish)
    with TrainingLog(tmp_path) as log:
        log.begin([row])
    assert (tmp_path / "metrics.csv").read_text() == "epoch,step,loss\n1,2,0.5\n"
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == row


def refused_or(read, named, otherwise=None):
    """What was read, or ``otherwise`` where it was refused in a sentence."""
    try:
        return read()
    except ValueError as error:
        problem = sentence_problem(str(error), Path(named))
    if problem:
        pytest.fail(problem)
    return otherwise


@pytest.mark.parametrize("value", [one for one in WRONG if one not in (3,)] + ["[" * 10_000 + "]" * 10_000], ids=str)
@pytest.mark.parametrize("name", ["label", "imagenet_class", "file", "boxes_xywh_centre_norm", "entry", "all"])
def test_labels_beside_images(name, value, tmp_path):
    entry = {"file": "a.png", "label": 1, "boxes_xywh_centre_norm": [[0.5, 0.5, 1, 1]]}
    content = (
        [entry | {name: value}] if name in entry or name == "imagenet_class" else [value] if name == "entry" else value
    )
    file = tmp_path / "labels.json"
    file.write_text(value if isinstance(value, str) and value.startswith("[[") else json.dumps(content))
    found = refused_or(lambda: read_labels([tmp_path / "a.png"]), tmp_path)
    for one in found.values() if found else ():
        assert one.label is None or (type(one.label) is int and one.label >= 0)
        assert all(type(number) is float and number == number for box in one.boxes for number in box)


@pytest.mark.parametrize("value", [one for one in WRONG if one not in (3,)], ids=str)
@pytest.mark.parametrize("where", ["all", "group", "class"])
def test_groups_of_classes(where, value, tmp_path):
    content = {"all": value, "group": {"one": value, "two": [1]}, "class": {"one": [0, value]}}[where]
    (tmp_path / "groups.json").write_text(json.dumps(content))
    groups = refused_or(lambda: read_groups(tmp_path / "groups.json", ["a", "b", "c"]), tmp_path)
    assert all(type(one) is int and 0 <= one < 3 for name in groups or () for one in groups[name])


# ------------------------------------------------------------------------------------------ JSON and its rules

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
RULE = record({"a": whole(0, 9), "b": listed(number(0, 1), 1, 2)}, {"c": text("[a-z]*")})


@settings(max_examples=150, deadline=None, derandomize=True)
@given(PLAIN, st.sampled_from(["a", "b", "c", "d", None]))
def test_what_the_rules_let_through_is_what_they_say(value, name):
    given_ = value if name is None else {"a": 1, "b": [0.5], name: value}
    if refused_or(lambda: check_fields(given_, RULE, "a/file.json") or True, "a"):
        assert given_.keys() - {"c"} == {"a", "b"}
        assert type(given_["a"]) is int
        assert 0 <= given_["a"] <= 9
        assert all(type(one) in (int, float) and 0 <= one <= 1 for one in given_["b"])
        assert 1 <= len(given_["b"]) <= 2
        assert re.fullmatch("[a-z]*", given_.get("c", ""))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.binary(max_size=40) | PLAIN.map(lambda one: json.dumps(one).encode()))
def test_json_is_parsed_or_refused_in_a_line(data):
    value = refused_or(lambda: parse_json(data, "a/file.json"), "a", "refused")
    if value != "refused":
        assert json.dumps(json.loads(data)) == json.dumps(value)


def test_deep_large_and_double_json(tmp_path):
    file = tmp_path / "a.json"
    for content, told in (
        ("[" * 65 + "]" * 65, "deeper than 64"),
        ("[" * 10**6, "damaged|deeper"),
        ('{"a": 1, "a": 1}', "the key 'a' occurs twice"),
        ("1" * 5000, "damaged"),
    ):
        file.write_text(content)
        with pytest.raises(ValueError, match=told) as caught:
            read_json(file)
        assert sentence_problem(str(caught.value), tmp_path) == ""
    with file.open("wb") as sparse:
        sparse.truncate(2**40)
    with pytest.raises(ValueError, match="too large"):
        read_json(file)
    os.mkfifo(tmp_path / "classifier.safetensors")  # reading it would wait for ever
    with pytest.raises(ValueError, match="there is no"):
        load_fit(f"align:{tmp_path}")


def test_what_was_saved_is_read(tmp_path):
    """No kind of model that can be built here is refused by the tables."""
    for i, options in enumerate(
        (
            {"z": "patch_means", "size": (4, 8)},
            {"activation": "softmax", "second_look": "soft", "scale": "one", "bias": "zero"},
            {"decoder": "pooled", "size": 16},
            {"z": "features", "decoder": "fpn", "decoder_options": {"width": 8}, "mean": (0.1, 0.2, 0.3)},
        )
    ):
        pinet = conv_pinet(3, in_channels=3, width=4, **options)
        again = PiNet.from_pretrained(pinet.save_pretrained(tmp_path / str(i)))
        assert persistence.config_of(again) == persistence.config_of(pinet)
    path = save_masker(Masker(1, width=3, depth=0, stride=4, start=0.01), tmp_path / "masker.safetensors")
    assert load_masker(path).options["start"] == 0.01
    write_checkpoint(tmp_path / "any.safetensors", Snapshot({}, {"a": [float("nan"), None, "é"]}))
    assert str(read_checkpoint(tmp_path / "any.safetensors").numbers["a"]) == "[nan, None, 'é']"
