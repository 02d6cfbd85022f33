"""The comparison: numbers that can be worked out by hand, what fails, and what it leaves behind."""

from __future__ import annotations

import csv
import importlib
import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_factory import load, save_half_red_half_blue
from compare_factory import area, save_pictures, spec, use_test_metrics
from PIL import Image
from typer.testing import CliRunner

from xai_align import plugins
from xai_align._tools.random_state import fixed_random_state, mixed_seed
from xai_align.cli.app import app
from xai_align.comparison.transferred_model import check_same_classes
from xai_align.data.groups import ClassGroups
from xai_align.evaluation.curve_metric import CurveMetric
from xai_align.hookspecs import MetricSpec
from xai_align.perturbation.fills import Noise
from xai_align.perturbation.spec import PerturbationSpec
from xai_align.plugins.registry import registry
from xai_align.plugins.specs_by_name import Offer
from xai_align.report.compare import compare
from xai_align.report.comparison_table import verdict_notes

MODEL = "cli_factory:load"
module = importlib.import_module("xai_align.report.compare")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory with seven pictures, and the test's metrics."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    use_test_metrics(monkeypatch.setitem)
    monkeypatch.setattr(module, "write_comparison_page", lambda comparison, out: out.joinpath("page").touch())
    save_pictures(tmp_path / "pictures")
    return tmp_path


def run(images="pictures", **options):
    given = {"methods": ["pinet", "saliency"], "metrics": ["mass"], "device": "cpu"} | options
    return compare(given.pop("model", MODEL), images, **given)


def row(comparison, method, metric, question="why"):
    (found,) = [
        one for one in comparison.summaries if (one.method, one.metric, one.question) == (method, metric, question)
    ]
    return found


def values_of(out, **wanted):
    """Rows of ``values.csv`` with these entries."""
    with Path(out, "values.csv").open(newline="", encoding="utf-8") as file:
        return [one for one in csv.DictReader(file) if all(one[name] == value for name, value in wanted.items())]


# --- numbers ----------------------------------------------------------------------------------------


def test_one_image_by_hand(folder):
    save_half_red_half_blue(folder / "half.png")
    got = run("half.png", metrics=["mass", "deletion_area"], reference="saliency")
    # red's logit is 2.5 with a bias of 0.5: what is on the picture sums to 2; the gradient's size is 4 in all
    pinet, saliency = row(got, "pinet", "mass"), row(got, "saliency", "mass")
    assert (pinet.n, pinet.missing, pinet.mean) == (1, 0, pytest.approx(2.0))
    assert saliency.mean == pytest.approx(4.0)
    assert pinet.difference == pytest.approx(-2.0)
    assert math.isnan(saliency.difference)
    assert all(math.isnan(end) for end in (pinet.low, pinet.high, pinet.difference_low, pinet.difference_high))
    # pixels are removed red ones first: after k of 8, red's logit is 0.5 + k' with k' the share of red left, times 2
    kept = [1 - math.floor(tenth / 10 * 16) / 8 for tenth in range(1, 5)]
    logits = np.array([[0.5 + 2 * k, 0.0, 1.75, -1.0] for k in kept])
    expected = np.exp(logits[:, 0]) / np.exp(logits).sum(1)
    (band,) = [one for one in got.curves if one.method == "pinet"]
    assert band.fractions == (0.0, *(tenth / 10 for tenth in range(1, 10)))
    assert band.mean[1:5] == pytest.approx(expected.tolist(), abs=1e-6)
    whole = np.exp([2.5, 0.0, 1.75, -1.0])
    assert band.mean[0] == pytest.approx(whole[0] / whole.sum())
    assert row(got, "pinet", "deletion_area").mean == pytest.approx(np.mean(band.mean[1:]))
    assert got.questions == ("why",)
    assert got.higher_is_better == {"mass": True, "deletion_area": False}


def test_means_intervals_and_differences_are_those_of_the_values(folder):
    got = run(metrics=["mass", "insertion_area"], out="out", table_format="csv", batch_size=3)
    for method in ("pinet", "saliency"):
        values = [float(one["value"]) for one in values_of("out", method=method, metric="mass")]
        assert len(values) == 7
        assert row(got, method, "mass").mean == pytest.approx(np.mean(values))
        ends = row(got, method, "mass").low, row(got, method, "mass").high
        if np.ptp(values):
            assert ends[0] <= np.mean(values) <= ends[1]
        else:  # the slopes are the same in every image
            assert np.isnan(ends).all()
    ours, theirs = (
        np.array([float(one["value"]) for one in values_of("out", method=method, metric="mass")])
        for method in ("pinet", "saliency")
    )
    assert row(got, "saliency", "mass").difference == pytest.approx((theirs - ours).mean())
    assert got.reference == "pinet"


def test_a_method_in_two_places_is_two_methods(folder):
    got = run(methods=["pinet@input", "pinet@look", "input_x_gradient"], metrics=["mass"])
    assert got.methods == ("pinet@input", "pinet@look", "input_x_gradient")
    # this network is linear: gradient times input is its account
    assert row(got, "pinet@input", "mass").mean == pytest.approx(row(got, "input_x_gradient", "mass").mean, abs=1e-5)


def test_batches_do_not_change_the_values(folder):
    together, alone = (
        run(methods=["pinet", "input_x_gradient"], metrics=["mass", "insertion_area"], batch_size=size)
        for size in (7, 1)
    )
    for one, other in zip(together.summaries, alone.summaries, strict=True):
        assert one.mean == pytest.approx(other.mean, abs=1e-6)
        assert one.low == pytest.approx(other.low, abs=1e-6)


def test_chance_is_seeded_and_the_callers_is_left_alone(folder):
    torch.manual_seed(5)
    np.random.seed(5)
    expected = torch.rand(3), np.random.rand(3)
    torch.manual_seed(5)
    np.random.seed(5)
    one, same, other = (row(run(metrics=["chance"], seed=seed), "pinet", "chance").mean for seed in (1, 1, 2))
    assert one == same != other
    assert torch.equal(torch.rand(3), expected[0])
    np.testing.assert_array_equal(np.random.rand(3), expected[1])
    with pytest.raises(KeyError), fixed_random_state(mixed_seed(1)):
        raise KeyError


def test_a_loaded_model_is_not_changed(folder):
    loaded = load()
    before = {name: tensor.clone() for name, tensor in loaded.model.state_dict().items()}
    got = run(model=loaded)
    assert row(got, "pinet", "mass").mean == row(run(), "pinet", "mass").mean
    assert all(torch.equal(before[name], tensor) for name, tensor in loaded.model.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in loaded.model.parameters())


def test_metrics_get_what_they_name(folder):
    got = run(methods=["pinet", "saliency"], metrics=["repeated"])
    assert not got.problems
    assert row(got, "pinet", "repeated").mean == pytest.approx(0, abs=1e-6)


def test_another_model_judges(folder):
    same, other = run(metrics=["insertion_area"]), run(metrics=["insertion_area"], transfer_to="compare_judges:halved")
    assert row(run(metrics=["insertion_area"], transfer_to=MODEL), "pinet", "insertion_area").mean == pytest.approx(
        row(same, "pinet", "insertion_area").mean
    )
    # it sees twice the size in another scale and gives the same logits, halved: less sure of itself
    assert row(other, "pinet", "insertion_area").mean < row(same, "pinet", "insertion_area").mean
    with pytest.raises(ValueError, match="has 2 classes, the explained one 4"):
        run(transfer_to="compare_judges:other_classes")


@pytest.mark.parametrize(
    ("names", "said"),
    [(("cat",), "has 1 class name, the explained one 2"), (("Cat", "cow"), "class 1 is 'dog' to one model and 'cow'")],
)
def test_models_with_other_names_of_classes_do_not_judge_each_other(names, said):
    explained, judge = (replace(load(), class_names=one) for one in (("cat", "dog"), names))
    with pytest.raises(ValueError, match=said):
        check_same_classes(explained, judge, torch.zeros(1, 2), torch.zeros(1, 2))


# --- what fails, and what does not apply -------------------------------------------------------------


def test_a_metric_that_fails_on_one_image_is_named_and_the_rest_have_values(folder):
    got = run(metrics=["brightness", "mass"])
    assert [one for one in got.problems if "f_dark.png: brightness of pinet ('why') failed: too dark" in one]
    assert len(got.problems) == 4  # two dark images, two methods
    assert (row(got, "pinet", "brightness").n, row(got, "pinet", "brightness").missing) == (5, 2)
    assert (row(got, "pinet", "mass").n, row(got, "pinet", "mass").missing) == (7, 0)


def test_a_method_that_fails_on_one_image_is_named_and_the_rest_have_values(folder):
    got = run(methods=["pinet", "fussy"], metrics=["mass", "deletion_area"])
    assert got.problems == (f"{Path('pictures/e_white.png')}: fussy ('why') failed: no colour",)
    assert (row(got, "fussy", "mass").n, row(got, "fussy", "deletion_area").missing) == (6, 1)
    assert row(got, "pinet", "mass").n == 7


def test_a_mean_over_fewer_images_is_not_the_best(folder):
    """Fussy has no value for the white image. Images on which no method has one don't count."""
    from xai_align.cli.comparison_table import footnotes
    from xai_align.comparison.best_methods import best_methods

    got = run(methods=["pinet", "saliency", "fussy"], metrics=["mass", "brightness"])
    whole, part = (row(got, one, "mass") for one in ("saliency", "fussy"))
    assert part.mean > max(whole.mean, row(got, "pinet", "mass").mean)
    assert (whole.complete, part.complete, part.missing > 0) == (True, False, True)
    assert best_methods(got, "why", "mass") <= {"pinet", "saliency"}
    dark = row(got, "pinet", "brightness")
    assert (dark.complete, dark.missing) == (True, 2)  # no method has a value on the two
    assert best_methods(got, "why", "brightness") == {"pinet", "saliency"}
    notes = "\n".join(footnotes(got))
    assert "means over fewer images cannot be compared: fussy in mass" in notes
    assert "for every image on which any method has one" in notes


def test_a_metric_that_does_not_apply_is_no_problem(folder):
    got = run(metrics=["contrast", "deletion_area"], question=["why", "why-not"], out="out", table_format="csv")
    assert not got.problems
    assert (row(got, "pinet", "contrast").n, row(got, "pinet", "contrast").missing) == (0, 7)
    assert math.isnan(row(got, "pinet", "contrast").mean)
    assert row(got, "pinet", "contrast", "why-not").n == 6  # in white nothing speaks for red and not for blue
    assert "contrast does not apply to 'why': ask against one class (7 images)" in got.notes
    # p_A / (p_A + p_B) at the start is over a half, as A is predicted
    assert all(band.mean[0] > 0.5 for band in got.curves if band.question == "why-not")
    # the same perturbation at other fractions: one curve
    (band,) = [one for one in got.curves if (one.question, one.method) == ("why-not", "pinet")]
    assert {0.25, 0.1, 0.5} <= set(band.fractions)


def test_curves_of_different_fills_stay_apart(folder, monkeypatch):
    def brighter(inputs):
        return inputs + 1

    def darker(inputs):
        return inputs - 1

    darker.__name__ = "brighter"
    fills = (Noise(), Noise(seed=1), brighter, "noise", darker)
    for number, fill in enumerate(fills):
        metric = CurveMetric(specs=(PerturbationSpec(fill, fractions=((number + 1) / 10,)),), score=area)
        offer = Offer(spec(f"curve_{number}", metric), registry().plugins[0])
        monkeypatch.setitem(registry().specs[MetricSpec], f"curve_{number}", offer)
    got = run(methods=["pinet"], metrics=[f"curve_{number}" for number in range(len(fills))])
    assert {one.perturbation: tuple(one.fractions) for one in got.curves} == {
        "morf noise": (0.0, 0.1, 0.4),  # one perturbation under two names
        "morf noise seed=1": (0.0, 0.2),
        "morf brighter": (0.0, 0.3),
        "morf brighter (2)": (0.0, 0.5),
    }


def test_values_that_are_no_number_are_noted(folder):
    got = run(metrics=["deletion_area"])  # the gradient of a mean is the same everywhere
    assert (row(got, "saliency", "deletion_area").n, row(got, "saliency", "deletion_area").missing) == (0, 7)
    undefined = "is undefined, as for a constant map or an output that is not finite"
    assert f"deletion_area of saliency ('why') {undefined} (7 images)" in got.notes
    assert not got.problems


def test_images_that_cannot_be_asked_are_noted_together(folder):
    Image.new("RGB", (4, 4), "lime").save("pictures/all_green.png")
    got = run(question="group", groups=ClassGroups.from_dict({"reds": [0]}))
    asked = row(got, "pinet", "mass", "group")
    assert (asked.n, asked.missing) == (5, 3)  # two are predicted to be blue
    assert "'group' cannot be asked, for example: class 1 is in none of the 1 groups (3 images)" in got.notes
    assert not got.problems


def test_warnings_become_notes(folder, recwarn):
    got = run(methods=["pinet"], metrics=["deletion_area"], batch_size=3)
    assert not [one for one in recwarn if issubclass(one.category, UserWarning)]
    assert "maps of pinet have tied scores; ties are ranked in reading order (7 images)" in got.notes


def test_a_damaged_image_is_named_and_the_rest_go_on(folder):
    (folder / "pictures" / "aa.png").write_text("no image")
    got = run()
    assert len(got.problems) == 1
    assert "aa.png: cannot be read as an image" in got.problems[0]
    assert (row(got, "pinet", "mass").n, row(got, "pinet", "mass").missing) == (7, 0)


def test_the_same_picture_twice_counts_once(folder):
    (folder / "pictures" / "z.png").write_bytes((folder / "pictures" / "a_red.png").read_bytes())
    got = run()
    assert row(got, "pinet", "mass").n == 7
    assert any("z.png is the same picture as" in note and "a_red.png" in note for note in got.notes)
    assert row(run(limit=3), "pinet", "mass").n == 3


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"methods": ["pinett"]}, "did you mean 'pinet'"),
        ({"methods": []}, "no method was given"),
        ({"methods": ["saliency@look"]}, "takes no layer"),
        ({"methods": ["pinet@lok"]}, "pinet@lok: layer 'lok' not found; this model has look, judge"),
        ({"methods": ["pinet@"]}, "names no layer"),
        ({"metrics": ["mas"]}, "did you mean 'mass'"),
        ({"metrics": []}, "no metric was given"),
        ({"question": "why-nott"}, "did you mean 'why-not'"),
        ({"reference": "input_x_gradient"}, "not among the methods"),
        ({"classes": ["purple"]}, "no class is called 'purple'"),
        ({"classes": ["9"], "model": "cli_factory:unnamed"}, "class 9 is out of range"),
        ({"classes": ["red", "blue"]}, "ask 'group'"),
        ({"foils": ["red"]}, "has none; ask"),
        ({"classes": ["red"], "foils": ["red"], "question": "why-not"}, "both a target and a foil"),
        ({"question": "group"}, "needs groups of classes"),
        ({"question": "group", "groups": "nowhere.json"}, "cannot be read"),
        ({"groups": "wordnet"}, "has none; ask why-not-rest or group"),
        ({"images": "nowhere"}, "'nowhere' does not exist"),
        ({"device": "toaster"}, "cannot be used"),
        ({"table_format": "xlsx"}, "must be 'parquet' or 'csv', got 'xlsx'"),
        ({"batch_size": 0}, "batch_size must be a positive integer, got 0"),
    ],
)
def test_wrong_words_are_told_before_anything_is_written(folder, options, told):
    with pytest.raises(ValueError, match=r".") as caught:
        run(out="out", **options)
    assert told in str(caught.value)
    assert not Path("out").exists()


@pytest.mark.parametrize("seed", ["a", -1, 1.5])
def test_a_seed_is_a_non_negative_integer(folder, seed):
    with pytest.raises(ValueError, match="seed must be a non-negative integer"):
        run(seed=seed)


def test_one_method_and_one_metric_need_no_list(folder):
    got = run(methods="pinet", metrics="mass", limit=2)
    assert (got.methods, {one.metric for one in got.summaries}) == (("pinet",), {"mass"})


def test_a_model_in_train_mode_is_refused(folder):
    loaded = load()
    loaded.model.look = torch.nn.Sequential(loaded.model.look, torch.nn.Dropout()).train()
    with pytest.raises(ValueError, match="train mode"):
        run(model=loaded)


# --- what it leaves ----------------------------------------------------------------------------------


def test_the_files_agree_with_each_other(folder):
    got = run(out="out", metrics=["mass", "insertion_area"], question="why,why-not", pictures=2)
    record = json.loads(Path("out/results.json").read_text("utf-8"))
    assert record["methods"] == list(got.methods)
    assert record["values_file"] == "values.parquet"
    provenance = record["provenance"]
    assert len(provenance["weights_sha256"]) == 64
    assert {"python", "torch", "numpy", "xai-align"} <= provenance["versions"].keys()
    assert len(provenance["images"]) == 7
    with Path("out/table.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [one["mean"] for one in table] == [str(one.mean) for one in got.summaries]
    from pyarrow import parquet as pq

    values = pq.read_table("out/values.parquet").to_pylist()
    assert len(values) == 7 * 2 * 2 * 2
    assert values[0].keys() >= {"image", "question", "question_text", "method", "metric", "value", "seconds"}
    curves = pq.read_table("out/curves.parquet").to_pylist()
    assert len(curves) == 7 * 2 * 2 * 10
    mean = np.mean(
        [
            one["value"]
            for one in values
            if (one["method"], one["metric"], one["question"]) == ("pinet", "mass", "why-not")
        ]
    )
    assert row(got, "pinet", "mass", "why-not").mean == pytest.approx(mean)
    assert len(got.pictures) == 2 * (1 + 2 * 2)
    for picture in got.pictures:
        assert Path("out", picture.file).read_bytes().startswith(b"\x89PNG")
    assert {one.question_text for one in got.pictures if one.image.endswith("a_red.png") and one.method} == {
        "Why red?",
        "Why red and not blue?",
    }


def test_weights_decide_their_hash():
    from xai_align.comparison.provenance import weights_sha256

    model = load().model
    before = weights_sha256(model)
    assert before == weights_sha256(load().model)
    with torch.no_grad():
        model.judge.bias[0] += 1e-6
    assert weights_sha256(model) != before


# --- the command -------------------------------------------------------------------------------------


def command(*words):
    return CliRunner().invoke(app, ["compare", "--model", MODEL, "--device", "cpu", *words])


def test_the_command_shows_a_table_for_each_question(folder):
    result = command(
        "--images",
        "pictures",
        "--methods",
        "pinet,saliency",
        "--metrics",
        "mass,deletion_area",
        "--metrics",
        "contrast",
        "--question",
        "why,why-not",
        "--out",
        "o",
        "--format",
        "csv",
        "--pictures",
        "0",
    )
    assert result.exit_code == 0, result.output
    for words in ("why: 2 methods, 3 metrics, 7 images", "why-not: ", "mass ↑", "deletion_area ↓", "than pinet", "–"):
        assert words in result.stdout
    assert Path("o/values.csv").exists()
    assert Path("o/page").exists()


def test_the_command_ends_with_1_if_something_failed_and_2_if_nothing_could_be_done(folder):
    failing = command(
        "--images", "pictures", "--methods", "pinet", "--metrics", "brightness,insertion_area", "--out", "o"
    )
    assert failing.exit_code == 1
    assert "too dark to see" in failing.stderr
    assert "2 problems" in failing.stderr
    wrong = command("--images", "pictures", "--methods", "pinett", "--metrics", "mass")
    assert wrong.exit_code == 2
    assert "did you mean 'pinet'" in wrong.stderr


def test_a_narrow_terminal_gets_more_tables(folder):
    from io import StringIO

    from rich.console import Console

    from xai_align.cli.comparison_table import print_comparison
    from xai_align.comparison.best_methods import best_methods

    got = run(metrics=["mass", "deletion_area", "insertion_area"])
    shown = []
    for width in (70, 200):
        stream = StringIO()
        print_comparison(Console(file=stream, width=width), got)
        shown.append(stream.getvalue())
        assert all(len(line) <= width for line in shown[-1].splitlines())
    heads = [sum("method " in line and "↑" in line for line in one.splitlines()) for one in shown]
    assert heads == [2, 1]
    best = min(("pinet", "saliency"), key=lambda method: row(got, method, "deletion_area").mean)
    assert best_methods(got, "why", "deletion_area") == {best}


def many_pictures(folder, count):
    folder.mkdir()
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 255, (16, 16, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02d}.png")
    return str(folder)


def test_a_clear_difference_is_told_in_words_from_ten_images_on(folder):
    from io import StringIO

    from rich.console import Console

    from xai_align.cli.comparison_table import print_comparison

    many = many_pictures(folder / "many", 12)
    seen = {}
    for count in (9, 12):
        got = run(many, methods=["saliency", "pinet"], metrics=["mass", "brightness"], limit=count)
        stream = StringIO()
        print_comparison(Console(file=stream, width=400), got)
        shown = stream.getvalue()
        assert not set("▲▼") & set(shown)
        one = row(got, "pinet", "mass")
        assert one.difference_high < 0  # saliency's slopes sum to 4, pinet's contributions to about 2
        assert (one.pairs, one.p < 0.01) == (count, True)
        seen[count] = (one.verdict, math.isnan(one.adjusted_p), shown)
    assert seen[9][:2] == ("", True)
    assert (
        "than saliency: that takes 10 images on which both methods have a value, and here there are 9 at most"
        in seen[9][2]
    )
    assert seen[12][:2] == ("worse", False)
    assert "] worse" in seen[12][2]
    assert "Holm's correction" in seen[12][2]
    assert "all 2 comparisons of the table together" in seen[12][2]


def test_metrics_without_a_better_direction_are_not_comparisons_that_are_corrected_for(folder):
    many = many_pictures(folder / "many", 10)
    got = run(many, methods=["saliency", "pinet"], metrics=["mass", "signless"])
    judged, other = row(got, "pinet", "mass"), row(got, "pinet", "signless")
    assert judged.p == other.p  # the values are the same
    assert judged.adjusted_p == 2**-9  # of one comparison: ten differences of one sign
    assert (judged.verdict, other.verdict, math.isnan(other.adjusted_p)) == ("worse", "", True)
    assert "for this comparison." in " ".join(verdict_notes(got))


def test_importing_the_library_imports_neither_accelerate_nor_pyarrow():
    code = "import sys, xai_align.report.compare as c; print({'accelerate', 'pyarrow', 'timm'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr


def test_the_test_metrics_are_gone_after(tmp_path):
    assert "mass" not in plugins.metrics()
