"""``check_metric``: every registered metric keeps the conventions, and each broken one is found by its name."""

from __future__ import annotations

from itertools import count
from types import SimpleNamespace

import pytest
import torch

from xai_align import plugins
from xai_align.evaluation import MetricDoesNotApply
from xai_align.features import hidden_layers
from xai_align.hookspecs import MetricSpec
from xai_align.plugins import PluginWarning, specs_by_name
from xai_align.plugins.registry import registry
from xai_align.testing import ConformanceError, check_metric

#: Metrics of contrasts and groups have no value for "why A?", which is asked here.
CONTRASTS = set("ccs cgc cgs pgs ccs_published cgc_published cgs_published pgs_published cauc cdrop".split())


#: The tiny network predicts too few classes to fill a grid; see test_grid_pointing_metric.py.
GRIDS = {"grid_pointing_game", "grid_pointing_game_3x3"}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", sorted(set(plugins.metrics()) - CONTRASTS - GRIDS))
def test_registered_metrics_keep_the_conventions(name, monkeypatch):
    monkeypatch.setattr(hidden_layers, "stages", lambda model: ("first", "second"))
    check_metric(plugins.metric(name))


@pytest.mark.parametrize("name", ["ccs", "cgs", *sorted(GRIDS)])
def test_a_metric_that_does_not_apply_says_so(name):
    with pytest.raises(MetricDoesNotApply):
        check_metric(plugins.metric(name))


def total(forward_func, inputs, attributions, *, target=None):
    """A metric that keeps everything: the sum of the map."""
    return attributions.flatten(1).sum(1)


def test_a_metric_that_keeps_everything_passes():
    check_metric(total)
    check_metric(MetricSpec(name="total", evaluate=total, higher_is_better=True, summary="a sum"))


def of_the_batch(forward_func, inputs, attributions, *, target=None):
    return attributions.flatten(1).sum(1) / attributions.abs().max()


CALLS = count()


def of_chance(forward_func, inputs, attributions, *, target=None):
    return torch.rand(len(inputs), generator=torch.Generator().manual_seed(next(CALLS)))


def of_the_process_chance(forward_func, inputs, attributions, *, target=None):
    return torch.rand(len(inputs)) * 0


def writing(forward_func, inputs, attributions, *, target=None):
    attributions.mul_(2)
    return attributions.flatten(1).sum(1)


def one_number(forward_func, inputs, attributions, *, target=None):
    return float(attributions.sum())


def whole_numbers(forward_func, inputs, attributions, *, target=None):
    return torch.ones(len(inputs), dtype=torch.int64)


def infinite(forward_func, inputs, attributions, *, target=None):
    return torch.full((len(inputs),), torch.inf)


def with_a_graph(forward_func, inputs, attributions, *, target=None):
    return forward_func(inputs).sum(1)


def for_integers(forward_func, inputs, attributions, *, target=None):
    return torch.tensor([float(one) if isinstance(one, int) else 0.0 for one in target])


def without_a_target(forward_func, inputs, attributions):
    return total(forward_func, inputs, attributions)


def wants_more(forward_func, inputs, attributions, sigma, *, target=None):
    return total(forward_func, inputs, attributions)


@pytest.mark.parametrize(
    ("evaluate", "check"),
    [
        (of_the_batch, "batch mates"),
        (of_chance, "questions"),
        (of_the_process_chance, "no trace"),
        (writing, "no trace"),
        (one_number, "values"),
        (whole_numbers, "values"),
        (infinite, "values"),
        (with_a_graph, "values"),
        (for_integers, "questions"),
        (without_a_target, "signature"),
        (wants_more, "signature"),
    ],
)
def test_what_is_broken_is_named(evaluate, check):
    with pytest.raises(ConformanceError, match=f"fails the check '{check}'") as caught:
        check_metric(evaluate)
    assert caught.value.check == check


def integers_only(forward_func, inputs, attributions, *, target=None):
    return torch.tensor(target).double()


def never_a_value(forward_func, inputs, attributions, *, target=None):
    return torch.full((len(inputs),), torch.nan)


def gradient_where_it_is_on(forward_func, inputs, attributions, *, target=None):
    inputs = inputs.clone().requires_grad_()
    (slope,) = torch.autograd.grad(forward_func(inputs).sum(), inputs)
    return slope.flatten(1).sum(1)


@pytest.mark.parametrize(
    ("evaluate", "check", "advice"),
    [
        (integers_only, "questions", "as_questions"),
        (never_a_value, "values", "every value is NaN"),
        (gradient_where_it_is_on, "no gradient", "torch.enable_grad"),
    ],
)
def test_what_a_metric_raises_is_told_with_advice(evaluate, check, advice):
    with pytest.raises(ConformanceError, match=advice) as caught:
        check_metric(evaluate)
    assert caught.value.check == check


def test_what_is_no_metric_is_told():
    with pytest.raises(TypeError, match="takes a MetricSpec or its evaluate, not a NoneType"):
        check_metric(None)


@pytest.mark.parametrize("evaluate", [without_a_target, wants_more])
def test_a_plugins_metric_with_another_call_is_skipped_with_one_warning(monkeypatch, evaluate):
    bad = MetricSpec(name="bad", evaluate=evaluate, higher_is_better=True, summary="a test's")
    good = MetricSpec(name="good", evaluate=total, higher_is_better=True, summary="a test's")
    owner = registry().plugins[0]

    class Both:
        argnames = ()
        function = staticmethod(lambda: [bad, good])

    fake = SimpleNamespace(plugins=[owner], specs={}, implementations=lambda hook: [(owner, Both)])
    monkeypatch.setattr(specs_by_name, "registry", lambda: fake)
    monkeypatch.setattr(owner, "reasons", [])
    with pytest.warns(
        PluginWarning, match=r"'bad', whose `evaluate` can't be called as evaluate\(forward_func"
    ) as told:
        offered = plugins.metrics()
    assert list(offered) == ["good"]
    assert len(told) == 1
