"""Answers fit what a model's outputs mean: the two sides of one logit, labels, numbers, and outputs with fields."""

from __future__ import annotations

import collections
import dataclasses
import json
import math
import types
import warnings

import numpy as np
import pytest
import timm
import torch
from command_line import run
from PIL import Image
from torch import nn

from tests import output_factory
from tests.networks import untouched
from xai_align import FeatureSpace, Question, compare, explain, plugins, read_out
from xai_align._tools.logits import NoLogits, select_logits
from xai_align.data.final_activation import final_activation
from xai_align.data.output_description import OutputDescription, describe_output
from xai_align.features.returning_logits import returning_logits
from xai_align.perturbation.curve import Curve, perturbation_curve
from xai_align.perturbation.questioned import NoChangeWarning, curve_values
from xai_align.plugins import ModelOptions, metric
from xai_align.question import TargetError

FIELDS = ("in_dict", "in_only_dict", "in_tuple", "in_named_tuple", "in_record", "in_field")


@pytest.fixture
def explained(tmp_path):
    """Explains a half red picture on the command line and returns the JSON of it."""

    def explain(factory, *options, method="pinet"):
        image = output_factory.half_red(tmp_path)
        model = factory if ":" in factory else f"tests.output_factory:{factory}"
        result = run("explain", image, "--model", model, "--method", method, "--out", tmp_path / "out", *options)
        assert result.exit_code == 0, result.output
        (file,) = (tmp_path / "out").glob("*.json")
        found = json.loads(file.read_text())
        file.unlink()
        return found | {"printed": result.output}

    return explain


# ---------------------------------------------------------------- one logit: z = 4 * 0.5 - 1 = 1


SIGMOID = 1 / (1 + math.exp(-1))


@pytest.mark.parametrize(
    ("options", "question", "answer", "probability"),
    [
        ((), "Why sick?", 1.0, SIGMOID),
        (("--class", "sick"), "Why sick?", 1.0, SIGMOID),
        (("--class", "healthy"), "Why healthy?", -1.0, 1 - SIGMOID),
        (("--class", "1"), "Why sick?", 1.0, SIGMOID),
        (("--class", "0"), "Why healthy?", -1.0, 1 - SIGMOID),
        (("--class", "sick", "--not", "healthy"), "Why sick?", 1.0, SIGMOID),
        (("--class", "healthy", "--not", "others"), "Why healthy?", -1.0, 1 - SIGMOID),
    ],
)
def test_one_logit_has_two_sides(explained, options, question, answer, probability):
    found = explained("sick", *options)
    assert found["question"] == question
    assert found["answer"] == pytest.approx(answer)
    assert found["contributions"] + found["bias"] == pytest.approx(answer, abs=1e-5)
    (target,) = found["targets"]
    assert target["probability"] == pytest.approx(probability)
    assert target["logit"] == pytest.approx(answer)
    assert {one["name"]: one["probability"] for one in found["likeliest"]} == pytest.approx(
        {"sick": SIGMOID, "healthy": 1 - SIGMOID}
    )


def test_the_sides_have_opposite_maps(tmp_path):
    output_factory.half_red(tmp_path)
    maps = []
    for side in ("sick", "healthy"):
        run(
            "explain",
            tmp_path / "half.png",
            "--model",
            "tests.output_factory:sick",
            "--class",
            side,
            "--out",
            tmp_path / side,
        )
        (file,) = (tmp_path / side).glob("*.npz")
        maps.append(np.load(file)["map"])
    assert np.allclose(maps[0], -maps[1])
    assert np.abs(maps[0]).max() > 0


@pytest.mark.parametrize("wrong", [("--class", "ill"), ("--class", "2"), ("--class", "sick", "--class", "healthy")])
def test_sides_that_are_not_there_are_refused(tmp_path, wrong):
    image = output_factory.half_red(tmp_path)
    result = run("explain", image, "--model", "tests.output_factory:sick", "--out", tmp_path / "out", *wrong)
    assert result.exit_code in (1, 2)
    assert not list((tmp_path / "out").glob("*.png"))


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (("--output-kind", "one-logit"), ("negative", "positive")),
        (("--output-kind", "one logit", "--class-names", "NAMES"), ("healthy", "sick")),
        (("--class-names", "NAMES"), ("healthy", "sick")),
    ],
)
def test_a_logit_can_be_stated(explained, tmp_path, options, names):
    (tmp_path / "names.txt").write_text("healthy\nsick\n")
    options = [str(tmp_path / "names.txt") if one == "NAMES" else one for one in options]
    found = explained("one_output", *options)
    assert found["output"]["kind"] == "one logit"
    assert found["question"] == f"Why {names[1]}?"
    assert [one["name"] for one in found["likeliest"]] == [names[1], names[0]]


# ---------------------------------------------------------------- labels, numbers


def test_labels_have_a_probability_each(explained):
    found = explained("labels", "--class", "green")
    assert found["question"] == "Why green?"
    probabilities = {one["name"]: one["probability"] for one in found["likeliest"]}
    assert probabilities == pytest.approx({"red": SIGMOID, "green": 0.5, "blue": 0.5})


def test_classes_share_one(explained):
    found = explained("classes")
    assert sum(one["probability"] for one in found["likeliest"]) == pytest.approx(1)


def test_a_number_has_no_probability(explained):
    found = explained("age")
    assert found["answer"] == pytest.approx(32)
    assert found["output"] == {"kind": "regression", "unit": "years"}
    assert "probability" not in json.dumps({**found, "printed": ""})
    assert found["targets"] == [{"class": 0, "name": None, "value": pytest.approx(32)}]
    assert "numbers in years" in found["printed"]
    assert "supports the answer" not in found["printed"]


def test_one_output_without_a_meaning_is_a_number_and_that_is_said(explained):
    found = explained("one_output")
    assert found["output"]["kind"] == "regression"
    assert any("--output-kind" in one for one in found["warnings"])


def test_of_several_numbers_one_has_to_be_named(tmp_path, explained):
    image = output_factory.half_red(tmp_path)
    result = run("explain", image, "--model", "tests.output_factory:two_numbers", "--out", tmp_path / "out")
    assert result.exit_code == 1
    assert "name the one to explain" in " ".join(result.output.split())
    found = explained("two_numbers", "--class", "weight")
    assert found["question"] == "Why this value of weight?"


# ---------------------------------------------------------------- fields


@pytest.mark.parametrize("factory", FIELDS)
@pytest.mark.parametrize("method", ["pinet", "integrated_gradients", "gradcam"])
def test_outputs_with_fields_are_explained(explained, factory, method):
    found, plain = explained(factory, method=method), explained("classes", method=method)
    for name in ("answer", "contributions", "positive", "question"):
        assert found[name] == plain[name]


def test_a_field_can_be_named_and_has_to_be_where_there_are_several(explained, tmp_path):
    image = output_factory.half_red(tmp_path)
    result = run("explain", image, "--model", "tests.output_factory:ambiguous", "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "--output-field" in result.output
    assert explained("ambiguous", "--output-field", "0")["answer"] == pytest.approx(1)
    assert explained("ambiguous", "--output-field", "1")["answer"] == pytest.approx(2)
    assert explained("in_dict", "--output-field", "features")["answer"] == pytest.approx(2)
    result = run(
        "explain",
        image,
        "--model",
        "tests.output_factory:in_dict",
        "--output-field",
        "nothing",
        "--out",
        tmp_path / "out",
    )
    assert result.exit_code == 2
    assert "no field 'nothing'" in result.output


def test_dense_outputs_are_refused_with_what_to_do(tmp_path):
    image = output_factory.half_red(tmp_path)
    for command in (("explain", image), ("compare", "--images", image)):
        result = run(*command, "--model", "tests.output_factory:dense", "--out", tmp_path / "out")
        assert result.exit_code == 2
        assert "wrap the model" in " ".join(result.output.split())


# ---------------------------------------------------------------- comparisons


@pytest.mark.parametrize("factory", ["sigmoid", "softmax"])
def test_probabilities_are_no_logits(tmp_path, factory):
    image = output_factory.half_red(tmp_path / "images")
    for command in (
        ("explain", image),
        ("compare", "--images", image, "--methods", "random", "--metrics", "tie_rate"),
    ):
        result = run(*command, "--model", f"tests.output_factory:{factory}", "--out", tmp_path / "out")
        assert result.exit_code == 2, result.output
        said = " ".join(result.output.split())
        assert f"ends in a {factory}: its outputs are probabilities" in said
        assert "--output-kind regression" in said


def test_a_probability_is_explained_as_a_number_if_that_is_stated(tmp_path):
    image = output_factory.half_red(tmp_path / "images")
    (tmp_path / "names.txt").write_text("risk")
    stated = ("--output-kind", "regression", "--class-names", tmp_path / "names.txt", "--out", tmp_path / "out")
    result = run("explain", image, "--model", "tests.output_factory:sigmoid", *stated)
    assert result.exit_code == 0, result.output
    (file,) = (tmp_path / "out").glob("*.json")
    found = json.loads(file.read_text())
    assert "probability" not in found
    assert found["answer"] == pytest.approx(torch.tensor(1.0).sigmoid().item(), abs=1e-5)


def test_a_log_softmax_gives_logits(explained):
    first, second = (explained(name)["likeliest"] for name in ("log_softmax", "classes"))
    assert [one["probability"] for one in first] == pytest.approx([one["probability"] for one in second])


@pytest.mark.parametrize(("squeezed", "plain"), [("squeezed", "sick"), ("squeezed_age", "age")])
@pytest.mark.parametrize("method", ["pinet", "pinet@look", "integrated_gradients", "gradcam"])
def test_one_number_for_each_image_is_one_output(explained, squeezed, plain, method):
    method, _, layer = method.partition("@")
    options = ("--layer", layer) if layer else ()
    found, expected = (explained(name, *options, method=method) for name in (squeezed, plain))
    for name in ("answer", "question", "output", "targets", "contributions", "positive"):
        assert found[name] == expected[name]


def test_one_number_for_each_image_is_compared_and_asked_about(tmp_path):
    metrics = ["insertion", "completeness_error", "hidden_deviation"]
    for squeezed, plain in (("squeezed", "sick"), ("squeezed_age", "age")):
        assert values(compared(squeezed, tmp_path, metrics)) == values(compared(plain, tmp_path, metrics))
    models = [getattr(output_factory, name)().model for name in ("squeezed", "sick")]
    x = torch.rand(3, 3, 8, 8)
    for question in (None, 0, Question.why(0), Question.why_the_opposite(0), [0, 0, 0]):
        readouts = [read_out(model, x, question) for model in models]
        assert torch.equal(readouts[0].contributions, readouts[1].contributions)
    for name in ("deletion", "completeness_gap"):
        first, second = (metric(name).evaluate(model, x, x, target=0) for model in models)
        assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("field", "answer"),
    [("out.0.logits", 1), ("out.0", 1), ("out.1.logits", 2), ("out.-1", 2), ("state.a.b", 3), ("1.0", 3)],
)
def test_fields_of_fields_are_named_by_a_path(explained, field, answer):
    if field == "out.0":  # a record, not a tensor
        returned = output_factory.nested().model(torch.rand(1, 3, 8, 8))
        with pytest.raises(NoLogits, match=r"'out\.0' is Output"):
            select_logits(returned, field)
        return
    if field == "out.-1":
        field = "out.-1.logits"
    assert explained("nested", "--output-field", field)["answer"] == pytest.approx(answer)


def test_what_is_not_there_is_said_with_what_is(tmp_path):
    image = output_factory.half_red(tmp_path)
    for options, said in (
        ((), "e.g. out.0.logits"),
        (("--output-field", "out.0.scores"), "in 'out.0', the model's output has no field 'scores'"),
        (("--output-field", "out.7"), "in 'out', the model's output has no field '7'"),
    ):
        result = run("explain", image, "--model", "tests.output_factory:nested", "--out", tmp_path / "out", *options)
        assert result.exit_code == 2
        assert said in " ".join(result.output.split())


@dataclasses.dataclass(slots=True)
class InSlots:
    loss: float
    logits: torch.Tensor


class Computed:
    @property
    def logits(self):
        return torch.ones(2, 3)


@pytest.mark.parametrize(
    "record",
    [
        InSlots(0.0, torch.ones(2, 3)),
        Computed(),
        types.SimpleNamespace(logits=torch.ones(2, 3), features=torch.zeros(2, 9)),
        collections.UserDict(logits=torch.ones(2, 3), features=torch.zeros(2, 9)),
        types.MappingProxyType({"scores": torch.ones(2, 3), "step": torch.tensor(3)}),
        (None, torch.ones(2, 3)),
    ],
)
def test_the_logits_of_records_of_any_type_are_found(record):
    assert select_logits(record).tolist() == [[1.0] * 3] * 2


class Interrupted(nn.Module):
    """An interrupt is turned into an error, as by a mode that was not left."""

    def forward(self, x):
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            raise RuntimeError("a mode was not left")  # noqa: B904


def test_an_interrupt_is_not_taken_for_a_network_without_gradients():
    with pytest.raises(KeyboardInterrupt):
        final_activation(Interrupted(), torch.rand(1, 3, 8, 8))


@pytest.mark.parametrize(
    ("ends", "found"),
    [
        (lambda z: z, ""),
        (lambda z: z.log_softmax(1), ""),
        (lambda z: z * z.sigmoid(), ""),
        (lambda z: z.softmax(1)[:, 1:], "softmax"),
        (lambda z: z.sigmoid().clamp(0.01, 0.99).half().float(), "sigmoid"),
        (lambda z: torch.nn.functional.hardsigmoid(z).reshape(-1, 3, 1).mT[:, 0], "hard sigmoid"),
        (lambda z: z.softmax(1).detach(), ""),
    ],
)
def test_the_activation_at_the_end_is_found_and_the_model_unchanged(ends, found):
    model = output_factory.Colours(3, ends)
    assert final_activation(model, torch.rand(2, 3, 8, 8)) == found
    assert all(one.grad is None and one.requires_grad for one in model.parameters())


def compared(factory, tmp_path, metrics, **options):
    output_factory.half_red(tmp_path / "images")
    methods = options.pop("methods", ["pinet", "random"])
    return compare(
        factory if not isinstance(factory, str) else f"tests.output_factory:{factory}",
        tmp_path / "images",
        methods=methods,
        metrics=metrics,
        pictures=0,
        **options,
    )


def values(comparison, method="pinet"):
    return {row.metric: row.mean for row in comparison.summaries if row.method == method}


def test_a_regression_is_compared_by_relative_changes(tmp_path):
    found = compared("age", tmp_path, ["insertion", "deletion", "comprehensiveness"], out=tmp_path / "out")
    assert found.problems == ()
    for curve in found.curves:
        if curve.fractions[-1] == 1:
            assert curve.mean[0] == pytest.approx(1)
            assert curve.mean[-1] == pytest.approx(0, abs=1e-6)
    exact, control = values(found), values(found, "random")
    assert exact["insertion"] > control["insertion"]
    assert exact["deletion"] < control["deletion"]
    page = (tmp_path / "out" / "index.html").read_text()
    assert ">relative change<" in page
    assert ">probability<" not in page
    assert "Why this output?" in page
    assert "Why this class?" not in page
    assert [key.text for key in found.colours["pinet"]] == ["raises the output", "lowers the output"]


def test_where_the_answer_falls_the_better_map_still_wins(tmp_path):
    """The clean answer is the lower one: what keeps it up goes first, and the curve ends at 0 from -1."""
    found = compared("falling", tmp_path, ["deletion"])
    (curve,) = (one for one in found.curves if one.method == "pinet")
    assert curve.mean[0] == pytest.approx(-1)
    assert values(found)["deletion"] < values(found, "random")["deletion"]


def test_the_values_of_a_relative_curve_by_hand():
    """answer(x) = 4 mean(x) + 30 with a black fill: half of the map removed leaves half of the change."""
    model = output_factory.age().model
    x = torch.zeros(1, 3, 4, 4)
    x[:, 0, :, :2] = 1
    curve = perturbation_curve(model, x, x, fractions=(0.25, 0.5, 1.0), activation="relative")
    clean, masked = curve_values(curve, (0,))
    assert clean.tolist() == pytest.approx([1])
    assert masked[0].tolist() == pytest.approx([0.5, 0, 0], abs=1e-5)
    nothing = torch.zeros(1, 3, 4, 4)  # the empty input itself: there is no change to measure
    clean, _ = curve_values(perturbation_curve(model, nothing, x, fractions=(0.5,), activation="relative"), (0,))
    assert bool(clean.isnan())


@pytest.mark.parametrize(
    ("clean", "empty", "masked", "applies"),
    [
        (2.0, 1.0, [2.0, 1.5, 1.0], True),
        (50.0, 49.99, [50.0, 30.0, 49.99], False),  # nearly equal, and the curve goes far beyond
        (1.0, 1.0, [1.0, 1.0, 1.0], False),
        (1000.0, 999.5, [1000.0, 999.8, 999.5], False),  # of an answer of 1000, that may be anything
        (0.01, 0.002, [0.01, 0.005, 0.002], True),  # small numbers are numbers
        (1.0, 0.9, [1.0, 3.0, 0.9], False),
        (1.0, 0.5, [1.0, 3.0, 0.5], True),
    ],
)
def test_a_change_of_nearly_nothing_is_no_unit(clean, empty, masked, applies):
    one = Curve(
        torch.tensor([0.0, 0.5, 1.0]),
        torch.tensor([[clean], [2.0]]),
        torch.tensor([masked, [2.0, 1.5, 1.0]])[..., None],
        "relative",
        empty=torch.tensor([[empty], [1.0]]),
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        first, along = curve_values(one, 0)
    assert bool(first.isfinite()[0]) == bool(along.isfinite().all(1)[0]) == applies
    assert along[1].tolist() == [1.0, 0.5, 0.0]  # the other image's is as it was
    assert [warning.category for warning in caught] == ([] if applies else [NoChangeWarning])


def test_images_without_a_change_are_left_out_and_that_is_said(tmp_path):
    output_factory.half_red(tmp_path / "images")
    Image.new("RGB", (16, 16)).save(tmp_path / "images" / "black.png")  # the empty image of a deletion
    found = compared("age", tmp_path, ["deletion"], out=tmp_path / "out")
    (row,) = (row for row in found.summaries if row.method == "random")
    assert (row.n, row.missing) == (1, 1)
    assert any("does not apply: relative curves" in note and "1 image" in note for note in found.notes)
    assert found.problems == ()


def test_metrics_without_a_meaning_say_so_and_do_not_appear(tmp_path):
    found = compared("age", tmp_path, ["insertion", "average_drop", "ccs", "decision_flip"])
    assert found.metrics == ("insertion",)
    left_out = [note for note in found.notes if "left out" in note]
    assert [note.split()[0] for note in left_out] == ["average_drop", "ccs", "decision_flip"]
    assert all("regression" in note for note in left_out)
    with pytest.raises(ValueError, match="no metric is left: average_drop"):
        compared("age", tmp_path, ["average_drop"])


def test_labels_are_compared_by_their_sigmoid(tmp_path):
    """Deleting red leaves sigmoid(-1); a softmax over the labels would leave e^-1 / (e^-1 + 2)."""
    found = compared("labels", tmp_path, ["deletion", "average_drop"], classes=["red"])
    assert found.problems == ()
    (curve,) = (one for one in found.curves if one.method == "pinet")
    assert curve.mean[0] == pytest.approx(SIGMOID)
    assert curve.mean[-1] == pytest.approx(1 - SIGMOID)


@pytest.mark.parametrize(("side", "clean"), [("sick", SIGMOID), ("healthy", 1 - SIGMOID)])
def test_both_sides_of_a_logit_are_compared(tmp_path, side, clean):
    found = compared("sick", tmp_path, ["insertion", "deletion", "average_drop"], classes=[side])
    assert found.problems == ()
    assert [curve.mean[0] for curve in found.curves] == pytest.approx([clean] * len(found.curves))


def test_the_predicted_side_is_compared_by_default(tmp_path):
    found = compared("sick", tmp_path, ["deletion"], question="why", out=tmp_path / "out", methods=["pinet"])
    assert found.curves[0].mean[0] == pytest.approx(SIGMOID)


@pytest.mark.parametrize("factory", FIELDS)
def test_outputs_with_fields_are_compared(tmp_path, factory):
    metrics = ["insertion", "deletion", "road", "average_drop", "srg", "completeness_error", "parameter_randomisation"]
    found = compared(factory, tmp_path, metrics, methods=["pinet", "gradcam", "random"])
    plain = compared("classes", tmp_path, metrics, methods=["pinet", "gradcam", "random"])
    assert found.problems == ()
    for method in ("pinet", "gradcam", "random"):
        assert values(found, method) == pytest.approx(values(plain, method), nan_ok=True)


@pytest.mark.parametrize("factory", ["in_field", "in_dict"])
def test_layers_have_their_own_names_where_an_output_is_selected(tmp_path, factory):
    methods, metrics = ["layer_grad_cam@look", "hirescam@look"], ["deletion", "hidden_mse", "parameter_randomisation"]
    found = compared(factory, tmp_path, metrics, methods=methods)
    plain = compared("classes", tmp_path, metrics, methods=methods)
    assert found.problems == ()
    for method in methods:
        assert values(found, method) == pytest.approx(values(plain, method), nan_ok=True)


def test_an_output_is_selected_and_the_layer_named_in_every_spelling():
    model, x = output_factory.in_field().model, torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    plain = explain(output_factory.classes().model, x, 1, "layer_grad_cam", layer="look").attribution
    for wrapped in (model, nn.DataParallel(model).eval()):
        for layer in ("look", model.look, FeatureSpace(layer="look", layout="NCHW")):
            with untouched(model):
                found = explain(wrapped, x, 1, "layer_grad_cam", layer=layer, output="scores")
            torch.testing.assert_close(found.attribution, plain)
            torch.testing.assert_close(found.logits, model(x)["scores"])
    twice = explain(model, x, 1, "layer_grad_cam", layer="look", output="features").attribution
    torch.testing.assert_close(twice, 2 * plain)


def test_a_network_whose_output_is_selected_is_still_known_to_plugins():
    network = timm.create_model("test_resnet").eval()
    copy = returning_logits(network)
    assert plugins.stages(copy.module) == plugins.stages(network) != ()
    x = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(copy.module(x), network(x))
    copy.module(x).sum().backward()  # it has the network's own parameters
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_the_kind_can_be_stated_for_a_loaded_model(tmp_path):
    options = ModelOptions(output_kind="multi_label", class_names=["red", "green", "blue"])
    found = compared(output_factory.classes(), tmp_path, ["deletion"], classes=["red"], model_options=options)
    assert found.curves[0].mean[0] == pytest.approx(SIGMOID)
    with pytest.raises(ValueError, match="img_size can't be changed"):
        compared(output_factory.classes(), tmp_path, ["deletion"], model_options=ModelOptions(img_size=4))


# ---------------------------------------------------------------- the description itself


@pytest.mark.parametrize(
    ("outputs", "names", "stated", "kind"),
    [
        (3, (), None, "classes"),
        (3, ("a", "b", "c"), None, "classes"),
        (1, ("a", "b"), None, "one logit"),
        (1, (), None, "regression"),
        (1, ("age",), None, "regression"),
        (1, ("sick",), "one logit", "one logit"),
        (2, ("a", "b"), "multi-label", "multi-label"),
    ],
)
def test_what_is_found_and_what_is_stated(outputs, names, stated, kind):
    loaded = output_factory.loaded(outputs, class_names=names, output_kind=stated)
    assert describe_output(loaded, torch.zeros(1, outputs)).kind == kind


@pytest.mark.parametrize(
    ("outputs", "names", "stated", "message"),
    [
        (3, ("a", "b"), None, "2 class names .'a', 'b'., and the model has 3 outputs"),
        (2, tuple("abcdefgh"), None, "8 class names"),
        (1, ("a", "b", "c"), None, "3 class names"),
        (1, ("a", "b"), "regression", "the model has 1 output;.*--output-kind one-logit"),
        (3, (), "one logit", "this model has 3 outputs"),
        (1, (), "classes", "softmax is always 1"),
    ],
)
def test_descriptions_that_do_not_fit_are_refused(outputs, names, stated, message):
    loaded = output_factory.loaded(outputs, class_names=names, output_kind=stated)
    with pytest.raises(ValueError, match=message):
        describe_output(loaded, torch.zeros(1, outputs))


@pytest.mark.parametrize(
    ("outputs", "stated", "kind"),
    [(3, None, "classes"), (3, "multi-label", "multi-label"), (1, "one logit", "one logit")],
)
def test_a_unit_of_other_outputs_than_a_regression_is_refused(outputs, stated, kind):
    loaded = output_factory.loaded(outputs, output_kind=stated, unit="years")
    with pytest.raises(ValueError, match=f"'years', and the output is taken as '{kind}'.*say --output-kind regression"):
        describe_output(loaded, torch.zeros(1, outputs))
    assert (
        describe_output(dataclasses.replace(loaded, output_kind="regression"), torch.zeros(1, outputs)).unit == "years"
    )


@pytest.mark.parametrize("command", ["explain", "compare", "fit-epic"])
def test_a_unit_of_classes_is_refused_by_the_commands_that_take_one(tmp_path, command):
    for name in "abcdefghij":
        output_factory.half_red(tmp_path).rename(tmp_path / f"{name}.png")
    images = ("--images", tmp_path / "a.png") if command == "compare" else (tmp_path,)
    words = ("--model", "tests.cli_factory:unnamed", "--unit", "years", "--out", tmp_path.with_name("out"))
    result = run(command, *images, *words)
    assert result.exit_code in (1, 2)
    assert "'years', and the output is taken as 'classes', which has none" in " ".join(result.output.split())


def test_questions_about_sides_and_outputs_are_each_other_s_inverse():
    sick = OutputDescription(kind="one logit", num_outputs=1, class_names=("healthy", "sick"))
    logits = torch.tensor([0.7])
    for side in (0, 1):
        question = sick.on_outputs(Question.why(side))
        assert question.answer(logits) == sick.scores(logits)[side]
        assert sick.on_sides(question) == Question.why(side)
    with pytest.raises(TargetError, match="the two sides of one logit"):
        sick.on_outputs(Question.why_group([0, 1]))
