"""The contract of an attribution method: everything that is said about one is on its record, under any name."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from tests.networks import conv_net, images, untouched
from xai_align import plugins
from xai_align.explanation import explain
from xai_align.hookspecs import AttributionSpec, FeatureSpace
from xai_align.pinet import ExactPiNet, PiNet, PiNetMethod, conv_pinet, read_out
from xai_align.plugins import specs_by_name
from xai_align.plugins.registry import registry
from xai_align.plugins.specs_by_name import Offer
from xai_align.question import Question
from xai_align.report.record import record_of
from xai_align.report.record_text import exactness, footnotes, sum_text, table_rows, totals, unit_of


class Twin(PiNetMethod):
    """The exact readout at the input, under another name."""

    def __init__(self, model, layer="input"):
        super().__init__(model, layer)


class Bright:
    """A third party's ranking: the sizes of the pixels."""

    def __init__(self, model):
        self.model = model

    def attribute(self, inputs, target=None):
        return inputs.abs()


def offered(monkeypatch, *specs):
    """These methods, and no others."""
    known = registry()
    monkeypatch.setitem(known.specs, AttributionSpec, {spec.name: Offer(spec, known.plugins[0]) for spec in specs})


def spec(name, build, **fields):
    return AttributionSpec(name=name, build=build, summary="a test's", **fields)


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("options", [{}, {"rule": "gamma", "biases": "placed"}])
def test_a_readout_by_name_takes_the_options_of_its_method(size, options):
    model, x = conv_net(), images(3)
    with untouched(model):
        whole = explain(model, x, 3, "pinet", layer="conv1", **options)
        found = explain(model, x, 3, "pinet", layer="conv1", internal_batch_size=size, **options)
    assert torch.allclose(found.attribution, whole.attribution, atol=1e-6)
    assert torch.allclose(found.readout.bias, whole.readout.bias, atol=1e-6)
    assert torch.allclose(found.logits, model(x), atol=1e-6)
    assert found.readout.contributions.shape == whole.readout.contributions.shape
    assert [one.shape for one in found.readout.placed] == [one.shape for one in whole.readout.placed]


def test_a_mixture_is_joined_too():
    model, x = conv_net(), images(3)
    places = ["conv1", "conv2"]
    whole, found = read_out(model, x, 3, places), PiNetMethod(model, places).read_out(x, 3, internal_batch_size=2)
    assert found.weights == whole.weights
    assert torch.allclose(found.map(), whole.map(), atol=1e-6)
    assert torch.allclose(found.total + found.bias, whole.answer.double(), atol=1e-5)


def test_an_account_under_another_name_is_an_account(monkeypatch):
    offered(monkeypatch, spec("twin", Twin, values="contributions", account=True, takes_layer=True))
    model, x = conv_net(), images(1)
    found = explain(model, x, Question.why_not(0, 1), "twin", internal_batch_size=1)
    assert torch.equal(found.attribution, read_out(model, x, Question.why_not(0, 1), "input").contributions)
    one = record_of(found, image="a.png")
    assert one.is_decomposition
    assert exactness(one).startswith("sum off by")
    assert footnotes([one]) == [
        "twin decomposes the answer: sum of contributions + bias = answer; the completeness error is the "
        "difference of the two sides, from a second computation."
    ]


@pytest.mark.parametrize(
    ("values", "unit", "sum_told", "said"),
    [
        ("scores", "only its order counts", "a ranking of positions", "the map ranks positions"),
        ("slopes", "value per", " for, ", "holds slopes"),
        ("contributions", "logits per", " for, ", "not explained by the map"),
    ],
)
def test_a_plugins_map_is_told_as_what_its_record_says(monkeypatch, values, unit, sum_told, said):
    offered(monkeypatch, spec("bright", Bright, values=values, note="bright sees light."))
    one = record_of(explain(conv_net(), images(1), 0, "bright"), image="a.png")
    assert unit in unit_of(one)
    assert sum_told in totals(one)
    assert said in sum_text(one)
    has_sum = values == "contributions"
    (row,) = table_rows([one])
    assert row[5:8] == (("–", "–", "–") if not has_sum else (*row[5:7], "gap " + f"{one.gap:z.3f}".replace("-", "−")))
    notes = footnotes([one])
    assert notes[-1] == "bright sees light."
    assert any("gap" in note for note in notes) == has_sum
    assert any("only ranks positions" in note for note in notes) == (values == "scores")


def test_a_map_without_a_word_about_its_values_claims_least():
    assert spec("bright", Bright).values == "scores"


@pytest.mark.parametrize(
    ("fields", "said"),
    [({"values": "logits"}, "values of method 'x' is 'logits'"), ({"account": True}, "its values are 'contributions'")],
)
def test_records_that_contradict_themselves_are_refused(fields, said):
    with pytest.raises(ValueError, match=said):
        spec("x", Bright, **fields)


def test_without_the_adapters_the_methods_of_this_project_are_there():
    code = (
        "import sys, torch; from xai_align import plugins; from xai_align.explanation import explain\n"
        "print(*plugins.attribution_methods())\n"
        "model = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), torch.nn.Flatten(), torch.nn.Linear(72, 2)).eval()\n"
        "found = explain(model, torch.ones(1, 3, 8, 8), 0)\n"
        "print(found.method, found.readout.kind, sorted({'captum', 'timm', 'pytorch_grad_cam'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "XAI_ALIGN_DISABLED_PLUGINS": "captum_align,gradcam_align,timm_align"},
        capture_output=True,
        text=True,
    )
    names, found = done.stdout.splitlines() or ("", done.stderr)
    assert {"pinet", "fei", "fei-nested", "align", "clipped-gradient", "random"} <= set(names.split())
    assert found == "pinet frozen []"


def test_what_every_registered_method_says_of_layers_is_true():
    """The signature of what is built, where it can be read, has ``layer`` if the record says so."""
    for name, one in plugins.attribution_methods().items():
        build = getattr(one.build, "func", one.build)
        assert ("layer" in inspect.signature(build).parameters) == one.takes_layer, name


class OwnPiNet(PiNet):
    """A user's subclass."""


def test_a_saved_pinet_comes_back_in_the_class_that_was_asked(tmp_path):
    pinet = conv_pinet(3, in_channels=3, width=4, depth=2).eval()
    pinet.save_pretrained(tmp_path)
    assert type(PiNet.from_pretrained(tmp_path)) is PiNet
    own = OwnPiNet.from_pretrained(tmp_path)
    assert type(own) is OwnPiNet
    x = images(1, 32)
    assert torch.equal(own(x), pinet(x))
    with pytest.raises(TypeError, match="ExactPiNet is built around a network"):
        ExactPiNet.from_pretrained(tmp_path)


class Flat:
    """Maps without the axis of channels."""

    def __init__(self, model):
        self.model = model

    def attribute(self, inputs, target=None):
        return inputs.sum(1)


class Pair(Flat):
    def attribute(self, inputs, target=None):
        return inputs, inputs


class Nothing:
    def __init__(self, model):
        self.model = model


@pytest.mark.parametrize(
    ("build", "fields", "said"),
    [
        (Flat, {}, r"'bad' gave a tensor \[2, 8, 8\] for inputs \[2, 3, 8, 8\]"),
        (Pair, {}, "'bad' gave a tuple for inputs"),
        (Nothing, {}, r"'bad' builds a Nothing without attribute\(inputs"),
        (Flat, {"values": "contributions", "account": True}, r"'bad' builds a Flat without read_out\(inputs"),
    ],
)
def test_a_method_that_breaks_its_promise_is_named(monkeypatch, build, fields, said):
    offered(monkeypatch, spec("bad", build, **fields))
    with pytest.raises(TypeError, match=said):
        explain(conv_net(), images(), 0, "bad")


def test_a_layer_for_a_build_that_takes_none_is_told(monkeypatch):
    offered(monkeypatch, spec("bad", Flat, takes_layer=True))
    with pytest.raises(TypeError) as caught:
        explain(conv_net(), images(), 0, "bad", layer="conv1")
    assert "takes_layer=True" in caught.value.__notes__[0]


def test_a_misspelt_option_of_the_readout_is_told():
    with pytest.raises(TypeError, match="did you mean 'internal_batch_size'"):
        explain(conv_net(), images(), 0, "pinet", internal_batchsize=1)


def test_a_record_without_a_summary_is_skipped_with_a_warning(monkeypatch):
    owner = registry().plugins[0]
    bad = AttributionSpec(name="bad", build=Bright, summary=None)

    class One:
        argnames = ()
        function = staticmethod(lambda: [bad])

    fake = SimpleNamespace(plugins=[owner], specs={}, implementations=lambda hook: [(owner, One)])
    monkeypatch.setattr(specs_by_name, "registry", lambda: fake)
    monkeypatch.setattr(owner, "reasons", [])
    with pytest.warns(plugins.PluginWarning, match="'bad', whose `summary` is not a string"):
        assert plugins.attribution_methods() == {}


def test_a_feature_space_is_named_by_text():
    with pytest.raises(TypeError, match="give a layer's dotted name, or a tuple of names"):
        FeatureSpace(layer=conv_net().conv1)
