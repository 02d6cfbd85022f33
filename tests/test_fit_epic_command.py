"""``xai-align fit-epic``: from a folder of images to prototypes, their pictures and a page."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from benchmarks.shared.browser import CHROMIUM, Browser
from xai_align.cli.app import app
from xai_align.prototypes import load_prototypes
from xai_align.report.part_picture import SIDE, part_picture, parts_on_sheet

MODEL = ("--model", "timm:test_resnet@random", "--device", "cpu")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dice = np.random.default_rng(0)
    for number in range(12):
        path = tmp_path / f"pictures/{'red' if number % 2 else 'blue'}/{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = dice.integers(0, 90, (32, 32, 3)).astype(np.uint8)
        pixels[4:20, 4:20] = (255, 0, 0) if number % 2 else (0, 0, 255)
        Image.fromarray(pixels).save(path)
    return tmp_path


def run(*words):
    return CliRunner().invoke(app, ["fit-epic", *map(str, words)])


def refused(*words):
    result = run(*words)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    return result.stderr.replace("\n", " ")


WORDS = ("pictures", *MODEL, "--prototypes", 2, "--set", "rounds=2", "--examples", 2, "--out", "out")


def test_a_folder_becomes_prototypes_with_pictures_and_a_page(folder):
    done = run(*WORDS)
    assert done.exit_code == 0, done.output
    assert "96 channels at head input, 10 images, 2 held out" in done.stdout
    out = folder / "out"
    found = load_prototypes(out / "prototypes.safetensors")
    assert found.names[0].startswith("blue/")
    assert len(found.of(0)) == 2
    results = json.loads((out / "results.json").read_text())
    assert results["logits"] < 1e-5
    assert results["purity"]["fit"] == pytest.approx(found.purity.mean(1).tolist())
    assert len(list((out / "parts").glob("*.jpg"))) == 96
    parts = parts_on_sheet(out / "parts", 5, -1)
    assert [(part.width, part.height) for part in parts] == [(SIDE, SIDE)] * 2
    page = (out / "index.html").read_text("utf-8")
    assert page.count('<section class="photo"') == 2
    # the terms of each sum add up to its answer, to the digits that are shown
    for one in page.split('<section class="photo"')[1:]:
        bars = re.findall(r"<b>([^<]+)</b></li>", one.partition("</ul>")[0])
        *terms, answer = (float(bar.replace("−", "-").replace("+", "")) for bar in bars)
        assert sum(terms) == pytest.approx(answer, abs=2e-3 * max(1, *map(abs, terms)))
    # again, for one more image: nothing is fitted, and the page has it
    before = (out / "prototypes.safetensors").stat().st_mtime_ns
    again = run(*WORDS, "--explain", "pictures/red/01.png")
    assert again.exit_code == 0, again.output
    assert (out / "prototypes.safetensors").stat().st_mtime_ns == before
    page = (out / "index.html").read_text("utf-8")
    assert page.count('<section class="photo"') == 3


@pytest.mark.parametrize(("after", "told"), [(0.2, True), (0.3, True), (0.31, False)])
def test_a_fit_that_holds_for_its_own_images_only_says_so(folder, monkeypatch, after, told):
    monkeypatch.setattr("xai_align.cli.fit_epic_folder._held_out_purity", lambda *given: ((0.3, after), 2))
    done = run(*WORDS)
    assert done.exit_code == 0, done.output
    note = f"channels are not purer on held-out images than before (0.300 before, {after:.3f} after)"
    advice = "give more than 10 images for 96 channels"
    page = (folder / "out/index.html").read_text("utf-8")
    notes = " ".join(json.loads((folder / "out/results.json").read_text())["notes"])
    for text in (" ".join(done.output.split()), notes, page):
        assert (note in text) == (advice in text) == told


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("nowhere",), "the image folder 'nowhere' does not exist"),
        (
            ("one",),
            "'one' holds 1 image; 5 prototypes for each channel need 5 images to fit and 5 that are held out",
        ),
        (("pictures", "--prototypes", 9), "'pictures' holds 12 images"),
        (("pictures", "--matrix", "any"), "matrix must be 'orthogonal' or 'invertible'"),
        (("pictures", "--set", "epochs=3"), "fit-epic has no option 'epochs'"),
        (("pictures", "--layer", "layer9"), "layer 'layer9' not found"),
        (("pictures", "--held-out", 1.5), "held_out must be a number in (0, 1)"),
        (("pictures", "--memory", 1e-7), "give memory="),
        (("pictures", "--explain", "gone.png"), "there is no image 'gone.png' to explain"),
    ],
)
def test_what_cannot_be_used_is_said_in_a_line(folder, words, told):
    (folder / "one").mkdir()
    Image.new("RGB", (32, 32)).save(folder / "one/a.png")
    assert told in refused(*MODEL, *words, "--out", "out")
    assert not (folder / "out/prototypes.safetensors").exists()


def test_a_damaged_image_is_named_before_the_fit(folder):
    (folder / "pictures/red/03.png").write_bytes(b"no picture")
    assert "03.png: cannot be read as an image" in refused(*WORDS)


def test_the_frame_of_a_part_is_around_its_cell():
    picture = np.zeros((60, 60, 3))
    picture[20:30, 40:50] = 1  # the cell, white on black
    part = np.asarray(part_picture(picture, (40, 20, 50, 30))).astype(int)
    assert part.shape == (SIDE, SIDE, 3)
    # a part of 30 x 30 pixels around it, 3.2 times as large: the cell is from 32 to 64
    white = (part.min(2) > 200).nonzero()
    assert 32 <= white[0].min() <= 36
    assert 60 <= white[0].max() <= 64
    yellow = ((part[:, :, 0] > 200) & (part[:, :, 2] < 100)).nonzero()
    assert (yellow[0].min(), yellow[0].max(), yellow[1].min(), yellow[1].max()) == (32, 63, 32, 63)
    # at the edge the part lies inside the picture
    corner = np.asarray(part_picture(picture, (0, 0, 10, 10))).astype(int)
    yellow = ((corner[:, :, 0] > 200) & (corner[:, :, 2] < 100)).nonzero()
    assert (yellow[0].min(), yellow[1].min()) == (0, 0)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="pages run in a browser; there is no Chromium here")
def test_the_page_in_a_browser(folder, tmp_path_factory):
    assert run(*WORDS).exit_code == 0
    with Browser(tmp_path_factory.mktemp("browser")) as browser:
        for width in (1280, 390):
            tab = browser.open((folder / "out/index.html").as_uri(), width=width)
            assert tab.errors == []
            assert tab.run("return document.documentElement.scrollWidth") <= width
            assert tab.run("return document.querySelectorAll('.looks img').length") >= 2 * 3
            # frames lie on the photograph
            inside = tab.run(
                "const s = document.querySelector('.stage').getBoundingClientRect();"
                "return [...document.querySelector('.stage').querySelectorAll('.cell')].every((c) => {"
                "const b = c.getBoundingClientRect(); return b.left >= s.left - 1 && b.right <= s.right + 1"
                " && b.top >= s.top - 1 && b.bottom <= s.bottom + 1; })"
            )
            assert inside


def test_the_input_of_the_model_is_stated_like_for_the_other_commands(folder):
    stated = ("--img-size", "48x32", "--in-chans", 1, "--mean", 0.4, "--std", 0.3)
    done = run(*WORDS, *stated)
    assert done.exit_code == 0, done.output
    found = load_prototypes(folder / "out/prototypes.safetensors")
    assert found.fingerprint["image_size"] == [48, 32]
    assert "--img-size is 'wide'" in refused(*WORDS, "--img-size", "wide")
    assert "--mean is 'x'" in refused(*WORDS, "--mean", "x")


@pytest.mark.parametrize(
    ("model", "stated", "asked"),
    [
        ("one_output", ("--class-names", "names.txt"), {"Why well?", "Why ill?"}),
        ("squeezed", (), {"Why healthy?", "Why sick?"}),
        ("two_numbers", (), {"Why this value of age?"}),
        ("squeezed_age", (), {"Why this value of the output?"}),
        ("in_field", (), {"Why class 0?", "Why class 1?", "Why class 2?"}),
        ("classes", ("--class-names", "three.txt"), {"Why a?", "Why b?", "Why c?"}),
    ],
)
def test_the_page_asks_about_what_the_outputs_mean(folder, model, stated, asked):
    (folder / "names.txt").write_text("well\nill\n")
    (folder / "three.txt").write_text("a\nb\nc\n")
    words = ("pictures", "--model", f"output_factory:{model}", *WORDS[5:], *stated)
    done = run(*words)
    assert done.exit_code == 0, done.output
    page = (folder / "out/index.html").read_text("utf-8")
    found = set(re.findall(r"Why [^<>?]+\?", page))
    assert found
    assert found <= asked


def test_names_that_do_not_fit_the_outputs_are_told_before_the_fit(folder):
    (folder / "names.txt").write_text("well\nill\n")
    assert "2 class names" in refused(*WORDS, "--class-names", "names.txt")
    assert not (folder / "out/prototypes.safetensors").exists()
