"""What is said of a map, in words and colours, follows from what its method says of its values: for every method."""

from __future__ import annotations

import dataclasses
import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_factory import NAMES, Colours, half_red_half_blue
from comparison_factory import comparison, pictures

from xai_align.data.colour_legend import colour_legend
from xai_align.data.overlay import coloured, density
from xai_align.explanation import explain
from xai_align.fei import optimize_masks
from xai_align.hookspecs import AttributionSpec
from xai_align.plugins import attribution_methods
from xai_align.question import Question
from xai_align.report.comparison_page import write_comparison_page
from xai_align.report.overlay import photograph_and_overlay
from xai_align.report.page import Asked, Section, Shown, render_page
from xai_align.report.page_answer import answer_of
from xai_align.report.record import numbers_of, record_of
from xai_align.report.record_text import footnotes, legend_text, sum_text, table_rows, totals, unit_of

ROOT = Path(__file__).resolve().parents[1]
METHODS = attribution_methods()
GREY = np.full((32, 32, 3), 0.5)
#: The cost of fei in a text.
COST = r"`fei`[^.|;]{0,40}?(\d+) passes|usually \d+ steps, (\d+) passes"
#: Methods of which a sign below zero is evidence against the answer; of all others, nothing may say so.
SIGNED = {
    "pinet", "attn_lrp", "input_x_gradient", "integrated_gradients", "gradient_shap", "deep_lift", "layer_grad_cam",
    "occlusion", "feature_ablation",
}  # fmt: skip
IN_LOGITS = SIGNED - {"layer_grad_cam", "occlusion", "feature_ablation"}


@cache
def base_record(name):
    explanation = explain(Colours().eval(), half_red_half_blue(), Question.why_not(0, 2), name)
    return record_of(explanation, image="half.png", class_names=NAMES)


def record_by(name):
    """A map that is cheap to make, as if this method had made it; the account is that of the exact readout."""
    spec = METHODS[name]
    one = base_record("pinet" if spec.account else "input_x_gradient")
    return dataclasses.replace(one, method=name, values=spec.values, signed=spec.signed, note=spec.note)


def page_of(record):
    shown = Shown(label=record.label, overlay=None, answer=answer_of(record))
    asked = [Asked(text=record.question, shown=[shown])]
    html = render_page([Section(title="t", photograph=None, questions=asked)], [record], title="t")
    return html[html.index("<body>") : html.rindex("<script>")]


@pytest.mark.parametrize("name", sorted(METHODS))
def test_only_maps_with_a_sign_speak_for_and_against(name):
    one = record_by(name)
    page = page_of(one)
    said = " ".join([legend_text(one), totals(one), page])
    assert ("opposes it" in said) == (name in SIGNED)
    assert ("#3478d6" in page) == bool(METHODS[name].signed)
    if name not in SIGNED:
        assert "supports the answer" not in said


@pytest.mark.parametrize("name", sorted(METHODS))
def test_only_logits_are_added_up(name):
    one = record_by(name)
    said = " ".join([sum_text(one), totals(one), unit_of(one), *footnotes([one]), *table_rows([one])[0][5:8]])
    numbers = numbers_of(one)
    adds = name in IN_LOGITS
    assert ("logit" in unit_of(one)) == adds
    assert (numbers["gap"] is not None, numbers["contributions"] is not None) == (adds, adds)
    assert (table_rows([one])[0][5] != "–") == adds
    if not adds:
        assert not re.search(r"\bgap\b|is not explained|sum of the map", said)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_the_picture_has_two_hues_only_where_there_is_a_sign(name):
    values = torch.tensor([[2.0, 0.0], [-2.0, 1.0]])
    shown = coloured(GREY, density(values, (32, 32)), signed=bool(METHODS[name].signed))
    redder = (shown[..., 0] - shown[..., 2] > 0.3).any()
    bluer = (shown[..., 2] - shown[..., 0] > 0.3).any()
    assert (redder, bluer) == (METHODS[name].signed, METHODS[name].signed)
    figure = photograph_and_overlay(GREY, values, unit=unit_of(record_by(name)), signed=bool(METHODS[name].signed))
    assert ("for," in " ".join(text.get_text() for text in figure.texts).split()) == (name in IN_LOGITS)


@pytest.mark.parametrize("values", ["contributions", "slopes", "scores"])
@pytest.mark.parametrize("signed", [True, False, None])
def test_a_plugins_method_is_told_as_its_description_says(values, signed):
    spec = AttributionSpec(name="x", build=object, summary="", values=values, signed=signed)
    has_sign = values != "scores" if signed is None else signed
    assert spec.signed == has_sign
    texts = [key.text for key in colour_legend(spec.values, signed=spec.signed)]
    assert len(texts) == (2 if has_sign else 1)
    assert ("supports the answer" in texts) == (has_sign and values != "slopes")


def test_a_decomposition_has_a_sign():
    with pytest.raises(ValueError, match="leave out signed"):
        AttributionSpec(name="x", build=object, summary="", values="contributions", account=True, signed=False)


def test_an_explanation_knows_whether_its_map_has_a_sign():
    for name in ("pinet", "saliency", "random", "input_x_gradient", "layer_grad_cam"):
        found = explain(Colours().eval(), half_red_half_blue(), Question.why(0), name)
        assert (found.values, found.signed) == (METHODS[name].values, METHODS[name].signed)


def test_the_page_of_a_comparison_has_a_legend_for_each_kind_of_map(tmp_path):
    kinds = {"pinet": ("contributions", True), "lime": ("scores", True), "gradcam@blocks.4": ("scores", False)}
    kinds["random"] = ("scores", False)
    colours = {name: colour_legend(values, signed=signed) for name, (values, signed) in kinds.items()}
    shown = comparison(pictures=pictures(tmp_path), colours=colours)
    html = write_comparison_page(shown, tmp_path).read_text("utf-8")
    legends = [re.sub(r"<[^>]+>|&nbsp;", "", one) for one in re.findall(r'<p class="soft legend">.*?</p>', html)]
    assert any(one.startswith("pinet, lime: ") and "supports the answer" in one for one in legends)
    (ranked,) = [one for one in legends if "gradcam@blocks.4, random: " in one]
    assert "not evidence for or against" in ranked
    assert "supports" not in ranked


# --- one cost --------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
def test_the_cost_of_fei_is_the_same_wherever_it_is_told():
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(4, 3),
    ).eval()
    x = torch.rand(1, 3, 16, 16)
    for name, solver in (("fei", "curve"), ("fei-nested", "nested"), ("fei-both", "both")):
        info = optimize_masks(model, x, 0, solver=solver)
        assert re.findall(r"\((\d+) passes\)", METHODS[name].summary) == [str(info.passes)]
        if name == "fei":
            cost = info.passes
    (line,) = [one for one in (ROOT / "docs/fei.md").read_text("utf-8").splitlines() if one.startswith("| passes")]
    assert f"{cost} in total" in line.split("|")[2]
    told = [
        (page.name, found)
        for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "benchmarks").rglob("RESULTS.md")]
        for found in re.findall(COST, page.read_text("utf-8"))
    ]
    assert told
    assert {number for _, found in told for number in found if number} == {str(cost)}
