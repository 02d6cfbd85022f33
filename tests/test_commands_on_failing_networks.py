"""A network or a preprocessing that fails: each command says what failed, and on which image, in one line."""

from __future__ import annotations

import re

import numpy as np
import pytest
from PIL import Image

from tests.command_line import run

#: What each command is called with besides the model.
COMMANDS = {
    "fit-epic": ("fit-epic", "photos", "--prototypes", 2, "--set", "rounds=1", "--out", "out", "--model"),
    "fit-fei": ("fit-fei", "--images", "photos", "--out", "own.safetensors", "--epochs", 1, "--model"),
    "fit-align": ("fit-align", "photos", "--epochs", 1, "--out", "out", "--backbone"),
    "fit-pinet": ("fit-pinet", "photos", "--epochs", 1, "--out", "out", "--backbone"),
    "export": ("export", "--example", "photos/a/0.png", "--out", "network.pt2", "--model"),
}
#: Factory functions, and what is said about their networks.
FAILING = {
    "grey": r"'photos/a/\d+\.png' are \[1, 3, 4, 4\], .* takes 1 channel, and they have 3",
    "keyless": r"png: .*KeyError: 'logits'",
    "unprepared": r"png: cannot be prepared for the model \(The size of tensor",
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for i in range(12):
        path = tmp_path / "photos" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (16, 16, 3)).astype(np.uint8)).save(path)
    return tmp_path


def refused(command, model, *further):
    result = run(*COMMANDS[command], f"cli_factory:{model}", *further)
    assert result.exit_code == 2, (result.output, result.exception)
    (line,) = [one for one in result.stderr.splitlines() if not one.startswith("warning: ")]
    assert line.startswith("error: ")
    return line


@pytest.mark.parametrize("model", FAILING)
@pytest.mark.parametrize("command", ["fit-epic", "fit-fei", "fit-align", "export"])
def test_the_image_and_the_networks_own_error_are_told_in_a_line(folder, command, model):
    assert re.search(FAILING[model], refused(command, model))


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("model", FAILING)
def test_the_image_and_the_error_of_a_backbone_for_a_second_look_are_told_in_a_line(folder, model, masks):
    words = ("--masks", "photos") if masks else ()
    said = refused("fit-pinet", f"{model}_backbone", *words)
    assert re.search(FAILING[model], said)


@pytest.mark.parametrize("command", ["fit-epic", "fit-fei", "export"])
def test_weights_of_a_diverged_training_are_told(folder, command):
    assert "the logits of example(s) [0] hold NaN" in refused(command, "diverged")


def test_a_curve_of_a_diverged_network_is_told(folder):
    words = ("compare", "--images", "photos/a", "--methods", "random", "--metrics", "deletion", "--out", "compared")
    told = " ".join(run(*words, "--model", "cli_factory:diverged").output.split())
    assert "the logits of example(s) [0] hold NaN" in told
    assert "mixes the examples" not in told
