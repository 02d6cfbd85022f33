"""``xai-align fit-fei``: from a folder of photographs to an explainer, and what it says when that can't be."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from command_line import run
from PIL import Image
from safetensors.torch import save_file

from tests.networks import conv_net
from xai_align.fei import AmortisedFEI, fit_fei, load_explainer, save_explainer
from xai_align.fei.amortised.reference import explainer_of
from xai_align.plugins import load_model

MODEL = ("--model", "tests.amortised_networks:planted_loaded", "--device", "cpu")
QUICK = ("--epochs", 1, "--batch-size", 6, "--set", "width=4", "--set", "depth=1")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    for i in range(12):
        path = tmp_path / "photographs" / ("some" if i % 2 else "others") / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 255, (40, 40, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(path)
    return tmp_path


def refused(*words):
    result = run(*words)
    assert result.exit_code == 2, result.output
    return " ".join(result.output.split())


def test_a_folder_becomes_an_explainer_that_explains(folder):
    result = run("fit-fei", *MODEL, "--images", "photographs", "--out", "own.safetensors", *QUICK)
    assert result.exit_code == 0, result.output
    assert "11 images to train on, 1 held out" in result.output
    assert "--model fei:own.safetensors --method fei-amortised --trust-code`" in result.output
    assert (folder / "own-fit" / "metrics.csv").is_file()
    explainer = load_explainer("own.safetensors")
    assert explainer.fingerprint.size == (32, 32)
    assert explainer.fingerprint.normalization == ((0.5,) * 3, (0.25,) * 3)

    words = ("explain", "photographs/some/01.png", "--model", "fei:own.safetensors", "--method", "fei-amortised")
    assert "unless you trust it" in refused(*words, "--out", "why")
    explained = run(*words, "--out", "why", "--trust-code")
    assert explained.exit_code == 0, explained.output
    assert (folder / "why" / "01.fei-amortised.png").is_file()
    assert explainer_of(load_model("fei:own.safetensors", trust=True).model) == str(folder / "own.safetensors")


def test_a_repeated_call_resumes(folder):
    words = ("fit-fei", *MODEL, "--images", "photographs", "--out", "own.safetensors", *QUICK)
    assert run(*words).exit_code == 0
    before = load_explainer("own.safetensors").network.state_dict()
    result = run(*words)
    assert "had already finished after epoch 1; nothing was trained" in " ".join(result.output.split())
    after = load_explainer("own.safetensors").network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_size_that_was_stated_is_loaded_again(folder):
    model = ("--model", "timm:test_resnet@random", "--img-size", "48", "--device", "cpu")
    result = run("fit-fei", *model, "--images", "photographs", "--out", "own.safetensors", *QUICK)
    assert result.exit_code == 0, result.output
    assert "--method fei-amortised`" in result.output  # a plain name needs no trust
    assert load_explainer("own.safetensors").fingerprint.size == (48, 48)
    loaded = load_model("fei:own.safetensors")
    x = loaded.preprocess(Image.open("photographs/some/01.png"))[None]
    assert x.shape[2:] == (48, 48)
    assert AmortisedFEI(loaded.model, "own.safetensors").attribute(x, target=0).shape == x.shape


def test_what_cannot_be_done_is_refused(folder):
    start = ("fit-fei", *MODEL, *QUICK)
    assert "own.safetensors" in refused(*start, "--images", "photographs", "--out", "own")
    assert "'nowhere'" in refused(*start, "--images", "nowhere", "--out", "own.safetensors")
    assert "has no option 'widht'" in refused(*start, "--images", "photographs", "--set", "widht=4")
    (folder / "photographs" / "some" / "broken.png").write_bytes(b"no picture")
    assert "broken.png" in refused(*start, "--images", "photographs")
    assert "fitted already" in refused("fit-fei", "--model", "fei:own.safetensors", "--images", "photographs")


def test_a_file_that_is_no_explainer_is_not_replaced(folder):
    save_file({"weight": torch.ones(3)}, "own.safetensors")  # it may be the weights of the model
    before = (folder / "own.safetensors").read_bytes()
    message = refused("fit-fei", *MODEL, *QUICK, "--images", "photographs", "--out", "own.safetensors")
    assert "'own.safetensors', an existing file that is not an amortised explainer" in message
    assert (folder / "own.safetensors").read_bytes() == before
    assert not (folder / "own-fit").exists()


@pytest.mark.parametrize("setting", ["temperatures=0.5", "temperatures=[1, 2, 3]", "fills=5", "width=wide"])
def test_settings_of_another_type_are_refused_in_one_line(folder, setting):
    name = setting.partition("=")[0]
    message = refused("fit-fei", *MODEL, *QUICK[:4], "--images", "photographs", "--set", setting)
    assert message.startswith(f"error: {name}")


def test_references_that_cannot_be_used(folder):
    assert "no amortised explainer 'none.safetensors'" in refused(
        "explain", "photographs/some/01.png", "--model", "fei:none.safetensors"
    )
    model = load_model("timm:test_resnet@random").model
    fit = fit_fei(model, torch.rand(2, 3, 64, 64), epochs=1, batch_size=2, width=4, depth=1)
    save_explainer(fit, "python.safetensors")
    with pytest.raises(ValueError, match="does not say how its network is loaded"):
        load_model("fei:python.safetensors")
    for reference, message in (
        ("os:abort", "unless you trust it"),
        ("timm:test_resnet@/etc/passwd", "unless you trust it"),
        ("fei:python.safetensors", "cannot refer to another one"),
    ):
        named = {"reference": reference, "img_size": None, "in_chans": None, "mean": None, "std": None}
        other = fit_fei(model, torch.rand(2, 3, 64, 64), epochs=1, batch_size=2, width=4, depth=1, loaded_by=named)
        save_explainer(other, "named.safetensors")
        with pytest.raises(ValueError, match=message):
            load_model("fei:named.safetensors")


def test_random_weights_are_the_same_when_loaded_again(folder):
    """As the command says, a repeated call resumes, and `fei:FILE` explains."""
    random = ("--model", "timm:test_resnet@random", "--img-size", "32", "--device", "cpu")
    words = ("fit-fei", *random, "--images", "photographs", "--out", "own.safetensors", *QUICK, "--seed", 3)
    assert run(*words).exit_code == 0
    torch.manual_seed(7)  # whatever happened between the two calls
    again = run(*words)
    assert "nothing was trained" in " ".join(again.output.split())
    image = "photographs/some/01.png"
    explained = run(
        "explain", image, "--model", "fei:own.safetensors", "--method", "fei-amortised", "--out", "why",
    )  # fmt: skip
    assert explained.exit_code == 0, explained.output


def test_the_explainer_of_another_network_is_not_replaced(folder):
    other = fit_fei(conv_net(), torch.rand(2, 3, 32, 32), epochs=1, batch_size=2, width=4, depth=1)
    before = save_explainer(other, "own.safetensors").read_bytes()
    said = refused("fit-fei", *MODEL, "--images", "photographs", "--out", "own.safetensors", *QUICK)
    assert "an explainer of another network (ConvNet)" in said
    assert (folder / "own.safetensors").read_bytes() == before


def test_the_command_that_is_named_can_be_run(folder):
    result = run("fit-fei", *MODEL, "--images", "photographs", "--out", "my own.safetensors", *QUICK)
    assert "--model 'fei:my own.safetensors' --method" in " ".join(result.output.split())


@pytest.mark.parametrize("command", ["fit-align", "fit-epic", "fit-pinet"])
@pytest.mark.parametrize("out", ["photographs", "photographs/out", "./some/../photographs/out"])
def test_results_are_not_written_among_the_images(folder, command, out):
    model = "--model" if command == "fit-epic" else "--backbone"
    said = refused(command, "photographs", model, "timm:test_resnet@random", "--out", out)
    assert "which is in the image folder 'photographs'" in said
    assert not (folder / "photographs/out").exists()


@pytest.mark.parametrize(
    ("command", "inner"),
    [("fit-align", "examples"), ("fit-align", "figures"), ("fit-epic", "parts"), ("fit-pinet", "examples")],
)
def test_pictures_of_results_are_not_written_among_the_images(folder, command, inner):
    (folder / "run").mkdir()
    (folder / "photographs").rename(folder / "run" / inner)
    model = "--model" if command == "fit-epic" else "--backbone"
    said = refused(command, f"run/{inner}", model, "timm:test_resnet@random", "--out", "run")
    assert f"pictures of --out are in 'run/{inner}', which is in the image folder 'run/{inner}'" in said
