"""Pictures, words, records and pages say what the numbers say."""

from __future__ import annotations

import dataclasses
import json
from io import BytesIO, StringIO

import numpy as np
import pytest
import torch
from cli_factory import NAMES, Colours, half_red_half_blue
from PIL import Image
from rich.console import Console

from xai_align._tools.png import png
from xai_align.cli.records_table import narrow_tables, print_table, wide_table
from xai_align.data.output_description import OutputDescription
from xai_align.data.overlay import blend, density, grey, limit_of
from xai_align.explanation import explain
from xai_align.plugins import attribution_method
from xai_align.question import Question
from xai_align.report.overlay import overlay_figure, photograph_and_overlay, totals_text
from xai_align.report.record import file_name, numbers_of, record_of, save_arrays, save_numbers
from xai_align.report.record_text import (
    LOGITS,
    SCORES,
    UNITLESS,
    exactness,
    footnotes,
    sum_text,
    table_rows,
    unit_of,
)

GREY = np.full((32, 32, 3), 0.5)


def record(method="pinet", question=None, **options):
    question = question or Question.why_not(0, 2)
    explanation = explain(Colours().eval(), half_red_half_blue(), question, method, **options)
    return record_of(explanation, image="half.png", class_names=NAMES)


def as_by(method, **changes):
    """A map that is cheap to make, as if this method had made it."""
    spec = attribution_method(method)
    one = record("input_x_gradient", Question.why(0))
    return dataclasses.replace(one, method=method, values=spec.values, note=spec.note, **changes)


@pytest.mark.parametrize("shape", [(7, 7), (5, 3), (32, 32), (40, 64), (1, 1)])
def test_a_picture_keeps_the_sum_of_its_map(shape):
    values = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    shown = density(values, (32, 48))
    assert shown.shape == (32, 48)
    assert shown.mean() * 100 == pytest.approx(float(values.sum()), abs=1e-5)


def test_an_even_map_is_shown_even_up_to_the_border():
    np.testing.assert_allclose(density(torch.ones(7, 7), (28, 28)), 49 / 100)


def test_coarse_cells_fade_into_each_other_and_fine_ones_stay_apart():
    cells = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    across = density(cells, (64, 64))[8]
    assert np.abs(np.diff(across)).max() < 0.1 * across.max()
    fine = torch.zeros(64, 64)
    fine[8, 8] = fine[8, 24] = 1
    fine[40, 41] = 1e-9
    shown = density(fine + torch.rand(64, 64) * 1e-6, (64, 64))
    assert shown[8, 16] < 0.01 * shown[8, 8]


def test_red_is_for_blue_is_against_and_nothing_is_the_grey_photograph():
    picture = np.random.default_rng(0).random((1, 3, 3))
    red, bare, blue = blend(picture, np.array([[2.0, 0.0, -2.0]]), 2.0)[0]
    assert red[0] > red[2] + 0.3
    assert blue[2] > blue[0] + 0.3
    np.testing.assert_array_equal(bare, grey(picture)[0, 1])


def test_equal_weight_is_equally_strong_and_what_exceeds_the_scale_is_its_end():
    def strength(value):
        return np.abs(blend(GREY[:1, :1], np.array([[value]]), 1.0) - grey(GREY[:1, :1])).sum()

    assert strength(0.2) < strength(0.5) < strength(1.0)
    assert strength(1.0) == strength(7.0)
    assert strength(-1.0) == strength(-7.0) > strength(-0.5)


def test_the_scale_is_symmetric_shared_on_request_and_survives_nothing():
    assert limit_of(np.zeros((3, 3))) == 1.0
    assert limit_of(np.full((3, 3), np.nan)) == 1.0
    assert limit_of(np.full((3, 3), -2.0), np.full((3, 3), 1.0)) == 2.0
    bar = overlay_figure(GREY, torch.tensor([[1.0, -3.0]]), limit=0.25, unit="apples").axes[-1]
    assert bar.get_ylim() == (-0.25, 0.25)
    assert bar.get_ylabel() == "apples"


@pytest.mark.parametrize("draw", [overlay_figure, photograph_and_overlay])
def test_the_drawn_figure_shows_both_signs_where_they_are(draw):
    values = torch.tensor([[1.0, -1.0]])
    figure = draw(GREY, values, title="Why?", caption="because")
    image = np.asarray(Image.open(BytesIO(png(figure))).convert("RGB")).astype(int)
    box = figure.axes[draw is photograph_and_overlay].get_position()
    row = round(image.shape[0] * (1 - (box.y0 + box.y1) / 2))
    left, right = (image[row, round(image.shape[1] * (box.x0 + share * box.width))] for share in (0.15, 0.85))
    assert left[0] > left[2] + 40
    assert right[2] > right[0] + 40
    words = " ".join(text.get_text() for text in figure.texts)
    assert "Why?" in words
    assert "because" in words
    assert "1.000 for, −1.000 against, 0.000 in total" in words


def test_a_map_of_zeros_is_drawn():
    assert png(overlay_figure(GREY, torch.zeros(4, 4))).startswith(b"\x89PNG")
    assert totals_text(torch.zeros(2, 2)) == "0.000 for, 0.000 against, 0.000 in total"


def test_a_record_holds_the_account_of_one_image():
    one = record(layer="input")
    assert one.question == "Why red and not blue?"
    assert (one.class_name, one.targets, one.foils) == ("red", (0,), (2,))
    assert (one.answer, one.bias) == pytest.approx((0.75, 0.75))
    assert (one.positive, one.negative) == pytest.approx((2.0, -2.0))
    assert one.map.sum().item() + one.prefix + one.bias == pytest.approx(one.answer)
    assert one.raw[0].shape == (3, 4, 4)
    assert one.is_decomposition
    assert one.label == "pinet at input"


def test_a_record_without_an_account_says_what_its_sum_leaves():
    one = record("input_x_gradient", Question.why(0))
    assert (one.bias, one.completeness_error, one.raw) == (None, None, ())
    assert one.gap == pytest.approx(0.5)
    assert table_rows([one])[0][4:8] == ("2.500", "2.000", "–", "gap 0.500")
    assert "0.500 is not explained by the map" in sum_text(one)
    assert exactness(one) == ""


def test_a_record_is_of_one_image():
    explanation = explain(Colours().eval(), half_red_half_blue().repeat(2, 1, 1, 1), 0)
    with pytest.raises(ValueError, match="this explanation is of 2"):
        record_of(explanation, image="two")


def test_a_record_of_one_image_of_a_batch_is_that_of_the_image_alone():
    images = torch.cat([half_red_half_blue(), half_red_half_blue().flip(3) * 0.5])
    model = Colours().eval()
    batch = explain(model, images, Question.why(0), "pinet")
    for position in (0, 1):
        alone = explain(model, images[position : position + 1], Question.why(0), "pinet")
        one, other = record_of(batch, image="a", position=position), record_of(alone, image="a")
        assert (one.answer, one.bias) == pytest.approx((other.answer, other.bias))
        torch.testing.assert_close(one.map, other.map)
        torch.testing.assert_close(one.cells, other.cells)
        assert one.cells.sum() + one.bias == pytest.approx(one.answer)
        assert one.cells.shape == (4, 4)


def test_a_record_without_its_arrays_has_the_same_numbers():
    one = record(layer="input")
    few = one.without_arrays()
    assert (few.map.numel(), few.raw, few.cells) == (0, (), None)
    assert table_rows([few])[0] == table_rows([one])[0]
    assert (sum_text(few), exactness(few)) == (sum_text(one), exactness(one))


def test_the_likeliest_outputs_are_told_with_their_probabilities():
    logits = torch.tensor([2.5, 0.0, 1.75, -1.0])
    classes = OutputDescription(num_outputs=4, class_names=NAMES)
    shares = logits.softmax(0)
    assert classes.predictions(logits, 2) == [
        ("red", pytest.approx(float(shares[0])), 2.5),
        ("blue", pytest.approx(float(shares[2])), 1.75),
    ]
    two = OutputDescription(kind="one logit", num_outputs=1, class_names=("healthy", "sick"))
    assert two.predictions(torch.tensor([2.0])) == [
        ("sick", pytest.approx(0.8808, abs=1e-4), 2.0),
        ("healthy", pytest.approx(0.1192, abs=1e-4), -2.0),
    ]
    years = OutputDescription(kind="regression", num_outputs=1, unit="years")
    assert years.predictions(torch.tensor([41.0])) == [("the output", None, 41.0)]


def test_the_arithmetic_is_written_out():
    one = record(question=Question.why(2), layer="input")
    assert sum_text(one) == "1.750 = 2.000 (picture) − 0.250 (bias)"
    tokens = dataclasses.replace(one, contributions=2.5, prefix=0.5, answer=2.25)
    parts = "2.000 (picture) + 0.500 (tokens without a position in the picture) − 0.250 (bias)"
    assert sum_text(tokens) == f"2.250 = {parts}"
    assert "local" in exactness(dataclasses.replace(one, kind="local", completeness_error=1e-7))


def test_slopes_are_not_added_up():
    one = record("saliency", Question.why(0))
    assert "gap" not in " ".join(table_rows([one])[0])
    assert "slopes" in sum_text(one)
    assert unit_of(one) == UNITLESS
    assert unit_of(record("integrated_gradients")) == unit_of(record()) == LOGITS


@pytest.mark.parametrize("method", ["fei", "fei-nested"])
def test_a_ranking_has_neither_sum_nor_gap(method):
    one = as_by(method, contributions=7.0)
    assert table_rows([one])[0][4:8] == ("2.500", "–", "–", "–")
    assert sum_text(one) == "2.500 is the answer; the map ranks positions, and its sum has no meaning"
    assert unit_of(one) == SCORES
    assert exactness(one) == ""


@pytest.mark.filterwarnings("ignore::xai_align.perturbation.ranking.TieWarning")  # halves of one colour
def test_clipped_gradients_are_slopes():
    one = record("clipped-gradient", Question.why(0), clip="none")
    assert table_rows([one])[0][5:8] == ("–", "–", "–")
    assert "slopes" in sum_text(one)
    assert unit_of(one) == UNITLESS
    assert any("slopes" in note for note in footnotes([one]))


def test_below_the_mean_is_said_to_be_no_evidence_where_maps_have_a_mean_of_zero():
    fei, nested, exact = as_by("fei"), as_by("fei-nested"), record()
    assert [len(footnotes(records)) for records in ([fei], [nested], [exact, nested])] == [2, 1, 2]
    assert any("not evidence against" in note for note in footnotes([fei]))
    assert not any("gap" in note for note in footnotes([exact, fei]))
    assert "fei and fei-nested only rank positions" in footnotes([nested, fei])[0]
    assert "fei-nested only ranks positions" in footnotes([nested])[0]


def test_footnotes_speak_of_the_methods_that_are_there():
    exact = record()
    assert len(footnotes([exact])) == 1
    assert footnotes([exact])[0].startswith("pinet decomposes the answer")
    assert any("F(baseline)" in note for note in footnotes([exact, record("integrated_gradients")]))
    slopes = footnotes([exact, record("saliency")])
    assert not any("F(baseline)" in note or "gap" in note for note in slopes)


def test_saved_numbers_and_arrays_agree(tmp_path):
    one = record(layer="input")
    save_arrays(one, tmp_path / "a.npz")
    save_numbers(one, tmp_path / "a.json", class_names=NAMES, model="the model")
    arrays, numbers = np.load(tmp_path / "a.npz"), json.loads((tmp_path / "a.json").read_text("utf-8"))
    assert sorted(arrays) == ["contributions", "logits", "map"]
    assert arrays["map"].sum() + numbers["prefix"] + numbers["bias"] == pytest.approx(numbers["answer"])
    assert arrays["contributions"].sum() == pytest.approx(numbers["contributions"], abs=1e-6)
    np.testing.assert_allclose(arrays["logits"], [2.5, 0, 1.75, -1], atol=1e-6)
    assert numbers["targets"] == [
        {
            "class": 0,
            "name": NAMES[0],
            "logit": pytest.approx(2.5),
            "probability": pytest.approx(0.6311, abs=1e-4),
        }
    ]
    assert [one["class"] for one in numbers["likeliest"]] == [0, 2, 1, 3]
    assert numbers["model"] == "the model"


def test_all_others_and_what_is_not_finite_are_written_as_json(tmp_path):
    one = dataclasses.replace(record(question=Question.against_all(0)), positive=float("nan"))
    save_numbers(one, tmp_path / "a.json")
    numbers = json.loads((tmp_path / "a.json").read_text("utf-8"), parse_constant=pytest.fail)
    assert numbers["positive"] is None
    assert numbers["foils"] == "all others"
    assert numbers_of(one)["targets"][0]["name"] == NAMES[0]


def test_files_are_named_after_method_and_layer():
    assert file_name("pinet", None) == "pinet"
    assert file_name("pinet", "blocks.3") == "pinet-blocks.3"
    assert "/" not in file_name("mine/../odd name", "a:b")


def test_tables_show_every_number_wide_and_narrow():
    records = [record(layer="input"), record("input_x_gradient"), record(question=Question.why(0))]
    for width in (95, 200):
        console = Console(width=width, file=(out := StringIO()))
        print_table(console, records)
        for one in records:
            for cell in table_rows([one])[0][4:]:
                assert cell in out.getvalue()
    assert wide_table(records).row_count == 3
    assert [table.row_count for table in narrow_tables(records)] == [2, 1]
    assert narrow_tables(records)[0].title == "half.png: Why red and not blue?"


def test_names_with_brackets_are_shown_as_they_are():
    console = Console(width=200, file=(out := StringIO()))
    print_table(console, [dataclasses.replace(record(), image="[red]a[/red].png")])
    assert "[red]a[/red].png" in out.getvalue()
