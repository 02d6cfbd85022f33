"""Explanations in the browser: the app's questions, its page, what it refuses, and the file of a Space."""

from __future__ import annotations

import dataclasses
import runpy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from xai_align.cli.explain_files import Task
from xai_align.cli.space import ALONE, WHY, WHY_GROUP, WHY_NOT, explained, space
from xai_align.data.photographs import FOLDER

SPACE = Path(__file__).resolve().parents[1] / "examples" / "space"
PICTURE = FOLDER / "coffee.jpg"


@pytest.fixture(scope="module")
def task():
    return Task.prepare(images=[str(PICTURE)], model="timm:test_resnet@random", methods=["pinet", "layer_grad_cam"])


@pytest.mark.parametrize(
    ("question", "targets", "foils", "said"),
    [
        (WHY, [], [], "Why "),
        (WHY, [3], [], "Why tiger shark?"),
        (WHY_NOT, [3], [5], "Why tiger shark and not electric ray?"),
        (WHY_NOT, [3], [], "Why tiger shark and not "),
        (WHY_GROUP, [3, 5], [], "Why tiger shark or electric ray?"),
        (ALONE, [3], [], "Why tiger shark and nothing else?"),
    ],
)
def test_every_question_has_its_page_and_words(task, question, targets, foils, said):
    page, words = explained(task, PICTURE, question, targets, foils, ["pinet", "layer_grad_cam"])
    assert page.startswith("<!doctype html>")
    assert said in page
    assert words.count("**") == 4
    assert "evidence" in words


@pytest.mark.parametrize(
    ("question", "targets", "methods", "said"),
    [(WHY, [], [], "choose a method"), (WHY_GROUP, [3], ["pinet"], "two or more")],
)
def test_what_does_not_fit_is_said(task, question, targets, methods, said):
    with pytest.raises(ValueError, match=said):
        explained(task, PICTURE, question, targets, [], methods)


@pytest.mark.parametrize(
    ("model", "question", "targets", "said"),
    [
        ("classes", WHY_NOT, [0, 1, 2], "every class is asked about"),
        ("age", WHY_NOT, [], "every class is asked about"),
        ("age", ALONE, [], "every class is asked about"),
        ("two_numbers", WHY, [], "choose what the question is about; of these"),
    ],
)
def test_questions_without_another_class_are_refused(monkeypatch, model, question, targets, said):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    task = Task.prepare(images=[str(PICTURE)], model=f"output_factory:{model}", methods=["pinet"])
    with pytest.raises(ValueError, match=said):
        explained(task, PICTURE, question, targets, [], ["pinet"])


def test_names_are_no_markdown(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    task = Task.prepare(images=[str(PICTURE)], model="output_factory:classes", methods=["pinet"])
    named = dataclasses.replace(
        task, loaded=dataclasses.replace(task.loaded, class_names=("![x](http://a)", "<b>*c*</b>", "$d$"))
    )
    _, words = explained(named, PICTURE, WHY_NOT, [0], [1], ["pinet"])
    assert r"\!\[x\](http://a) rather than \<b\>\*c\*\</b\>" in words


def test_a_file_that_is_no_picture(task, tmp_path):
    (tmp_path / "a.png").write_text("no picture")
    with pytest.raises(ValueError, match=r"a\.png"):
        explained(task, tmp_path / "a.png", WHY, [], [], ["pinet"])


def test_the_app_and_the_file_of_a_space_are_built(monkeypatch, tmp_path):
    gradio = pytest.importorskip("gradio")
    monkeypatch.setenv("XAI_ALIGN_MODEL", "timm:test_resnet@random")
    app = runpy.run_path(str(SPACE / "app.py"))["demo"]
    assert isinstance(app, gradio.Blocks)
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(tmp_path / "a.png")
    (asked,) = [one for one in app.fns.values() if one.api_name == "explain"]
    page, words = asked.fn(str(tmp_path / "a.png"), WHY, [3], [], ["pinet"])
    assert page.startswith("<iframe")
    assert 'sandbox="allow-scripts"' in page
    assert "<script" not in page  # the page is the frame's escaped document
    assert "tiger shark" in words
    with pytest.raises(gradio.Error, match="Drop a picture"):
        asked.fn(None, WHY, [], [], ["pinet"])


def test_an_unknown_model_is_refused_before_anything_is_served():
    pytest.importorskip("gradio")
    with pytest.raises(ValueError, match="no_such_network"):
        space("timm:no_such_network")
