"""The commands that write pages: what is on them, what bad names and a second run do."""

from __future__ import annotations

import errno
import json
import os
import re
from html import unescape
from pathlib import Path

import command_line
import pytest
from command_line import MODEL, run
from PIL import Image

from xai_align._tools.files.folder_lock import locked_folder
from xai_align.report import page as page_module


def explain(*words, model=MODEL):
    return command_line.explain(*words, "--out", "o", model=model)


def body(path="o/index.html"):
    html = Path(path).read_text("utf-8")
    return unescape(re.sub(r"<script.*?</script>|<style.*?</style>|<[^>]*>", " ", html, flags=re.DOTALL))


def maps(path="o/index.html"):
    return json.loads(re.search(r'id="maps">(.*?)</script>', Path(path).read_text("utf-8"), re.DOTALL)[1])["maps"]


def test_explain_writes_a_page_beside_the_files(folder):
    done = explain("half.png", "--method", "pinet,input_x_gradient", "--class", "red", "--not", "blue")
    assert done.exit_code == 0, done.output
    assert "Page: o/index.html" in done.stdout
    assert {one.name for one in Path("o").iterdir()} == {
        *(f"half.{method}.{suffix}" for method in ("pinet", "input_x_gradient") for suffix in ("png", "npz", "json")),
        "index.html",
    }
    about = json.loads(Path("o/half.pinet.json").read_text("utf-8"))
    assert "Why red and not blue?" in body()
    assert f"{about['answer']:.3f} = " in body()
    assert f'href="{about["files"]["png"]}"' in Path("o/index.html").read_text("utf-8")
    assert [one["unit"] for one in maps()] == ["logits", "logits"]


def test_the_sentences_that_are_printed_are_those_of_the_files(folder):
    done = explain("half.png", "--method", "pinet,input_x_gradient", "--class", "red", "--words")
    assert done.exit_code == 0, done.output
    for method in ("pinet", "input_x_gradient"):
        words = json.loads(Path(f"o/half.{method}.json").read_text("utf-8"))["words"]
        assert "Of the evidence for red, " in words
        assert words in done.stdout


def test_the_page_holds_a_number_of_images_and_says_so(folder, monkeypatch):
    monkeypatch.setattr(page_module, "MOST_PHOTOGRAPHS", 2)
    for number in range(4):
        Image.new("RGB", (8, 8), (200, 60 * number, 0)).save(f"{number}.png")
    (folder / "broken.png").write_text("no image")
    done = explain("broken.png", "0.png", "1.png", "2.png", "3.png")
    assert done.exit_code == 1
    assert len(maps()) == 2
    assert "The first 2 of 4 images" in body()
    assert len(list(Path("o").glob("*.pinet.json"))) == 4
    assert "2.png" in done.stdout


def test_a_second_run_into_a_folder_is_refused(folder):
    with locked_folder(Path("o")):
        for done in (
            explain("half.png"),
            run("compare", "--images", "half.png", "--model", MODEL, "--device", "cpu", "--out", "o",
                "--methods", "pinet", "--metrics", "tie_rate", "--format", "csv"),
        ):  # fmt: skip
            assert done.exit_code == 2
            assert f"another run (process {os.getpid()}) is writing to 'o'" in done.stderr
    assert list(Path("o").iterdir()) == []
    assert explain("half.png").exit_code == 0  # free again


def test_a_folder_that_cannot_be_written_is_named(folder):
    Path("o").write_text("a file")
    done = explain("half.png")
    assert done.exit_code == 2
    assert "'o'" in done.stderr
    assert Path("o").read_text() == "a file"


def test_a_full_disk_leaves_the_page_of_the_run_before(folder, monkeypatch):
    assert explain("half.png").exit_code == 0
    before = Path("o/index.html").read_bytes()
    known = Path.replace

    def full(path, target):
        if Path(target).name == "index.html":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return known(path, target)

    monkeypatch.setattr(Path, "replace", full)
    done = explain("half.png", "--class", "green")
    assert done.exit_code == 2
    assert "No space left on device: 'o/index.html'" in done.stderr
    assert "Page:" not in done.stdout
    assert "half.png" in done.stdout  # what was done is shown
    assert Path("o/index.html").read_bytes() == before
    assert not list(Path("o").glob("*.tmp"))


def test_a_disk_that_is_full_at_the_start_is_named_and_no_lock_is_left(folder, monkeypatch):
    def full(number, content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("xai_align._tools.files.folder_lock.os.write", full)
    done = explain("half.png")
    assert done.exit_code == 2
    assert "No space left on device: 'o/.running'" in done.stderr
    assert list(Path("o").iterdir()) == []


@pytest.mark.filterwarnings("ignore:Glyph")  # the figure has no sign for them
def test_names_of_classes_reach_neither_the_terminal_nor_the_page_as_they_are(folder):
    evil = "\u202e\u2067\x1b[31mred\x1b]0;owned\x07<script>alert(1)</script>"
    Path("evil.json").write_text(json.dumps([evil, "green", "blue", "sky"]), "utf-8")
    done = explain("half.png", "--class-names", "evil.json", model="cli_factory:unnamed")
    assert done.exit_code == 0, done.output
    html = Path("o/index.html").read_text("utf-8")
    assert not {"\x1b", "\x07", "\u202e", "\u2067"} & {*done.output, *html}
    assert len(re.findall("<script", html)) == 3
    assert "red<script>alert(1)" in unescape(html)


def test_an_image_with_a_hostile_name_is_explained(folder):
    name = "<img src=x onerror=alert(1)>\x1b[31m.png"
    Image.new("RGB", (8, 8), "red").save(name)
    done = explain(name)
    assert done.exit_code == 0, done.output
    assert "\x1b" not in done.output
    assert "<img src=x" not in Path("o/index.html").read_text("utf-8")
    assert r"<img src=x onerror=alert(1)>\x1b[31m.png" in body()


def test_images_whose_names_are_as_long_as_can_be_are_explained(folder):
    names = ["ä" * 120 + end for end in ("1.png", "2.png")]
    for name in names:
        Image.new("RGB", (8, 8), "red").save(name)
    done = explain(*names, "--method", "input_x_gradient")
    assert done.exit_code == 0, done.output
    assert names[1] in body()
    assert len(list(Path("o").glob("*.json"))) == 2


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "I;16", "CMYK", "1"])
@pytest.mark.parametrize("size", [(1, 1), (3, 40)])
def test_images_of_every_kind_have_a_page(folder, mode, size):
    Image.new(mode, size).save("a.tif" if mode in ("I;16", "CMYK") else "a.png")
    done = explain("a.tif" if mode in ("I;16", "CMYK") else "a.png")
    assert done.exit_code == 0, done.output
    assert len(maps()) == 1


def test_a_comparison_has_the_values_of_its_maps(folder):
    done = run("compare", "--images", "half.png", "--model", MODEL, "--device", "cpu", "--out", "o", "--methods",
               "pinet,random", "--metrics", "tie_rate", "--format", "csv", "--question", "why,why-not")  # fmt: skip
    assert done.exit_code == 0, done.output
    assert [(one["unit"], one["signed"]) for one in maps()] == [("logits", True), ("", False)] * 2
    assert "2.500 = " in body()
    assert "tie_rate (lower is better):" in body()
    for one in Path("o/pictures").glob("*.json"):
        one.unlink()  # as of an earlier version: the pictures are left
    again = run("compare", "--images", "half.png", "--model", MODEL, "--device", "cpu", "--out", "o", "--methods",
                "pinet,random", "--metrics", "tie_rate", "--format", "csv", "--question", "why,why-not")  # fmt: skip
    assert again.exit_code == 0, again.output
    assert maps() == []
