"""Attribution methods, metrics and training recipes by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from xai_align._tools.checks import check_choice
from xai_align._tools.did_you_mean import did_you_mean
from xai_align.hookspecs import AttributionSpec, MetricSpec, TrainingRecipeSpec
from xai_align.plugins.hook_calls import listed
from xai_align.plugins.metric_signature import call_problem
from xai_align.plugins.plugin import Plugin, PluginRecord
from xai_align.plugins.plugin_problems import Refusal, describe_type, refuse
from xai_align.plugins.registry import registry

Kind = Literal["attribution", "metric", "training_recipe"]
_Spec = TypeVar("_Spec", AttributionSpec, MetricSpec, TrainingRecipeSpec)

_KINDS = {"attribution": AttributionSpec, "metric": MetricSpec, "training_recipe": TrainingRecipeSpec}
_HOOKS = {
    AttributionSpec: "xai_align_attributions",
    MetricSpec: "xai_align_metrics",
    TrainingRecipeSpec: "xai_align_training_recipes",
}
_NOUNS = {AttributionSpec: "attribution method", MetricSpec: "metric", TrainingRecipeSpec: "training recipe"}


@dataclass(frozen=True)
class Offer(Generic[_Spec]):
    """A record with the plugin that listed it."""

    spec: _Spec
    plugin: Plugin


def attribution_methods() -> dict[str, AttributionSpec]:
    """Return all attribution methods by name, the core's first.

    Raises:
        PluginError: in strict mode, a plugin cannot be used.

    Example::

        [name for name, spec in attribution_methods().items() if spec.account]  # methods that decompose the answer
    """
    return {name: offer.spec for name, offer in _offers(AttributionSpec).items()}


def metrics() -> dict[str, MetricSpec]:
    """Return all metrics by name, the core's first.

    Raises:
        PluginError: in strict mode, a plugin cannot be used.

    Example::

        {name: spec.summary for name, spec in metrics().items() if spec.higher_is_better}
    """
    return {name: offer.spec for name, offer in _offers(MetricSpec).items()}


def training_recipes() -> dict[str, TrainingRecipeSpec]:
    """Return the training recipes of all plugins by name, the core's first.

    Raises:
        PluginError: in strict mode, a plugin cannot be used.

    Example::

        >>> from xai_align.plugins import training_recipes
        >>> training_recipes()["erm"].summary
        'cross entropy of the labels alone'
    """
    return {name: offer.spec for name, offer in _offers(TrainingRecipeSpec).items()}


def attribution_method(name: str) -> AttributionSpec:
    """Return the attribution method called ``name``.

    Raises:
        ValueError: no plugin offers it; the message lists the known ones.
        PluginError: in strict mode, a plugin cannot be used.

    Example::

        method = attribution_method("pinet").build(model, layer="conv2")
        method.attribute(images, target=281)  # [2, 3, 32, 32]
    """
    return _look_up(name, AttributionSpec).spec


def default_method() -> str:
    """Return the name of the default method: the first that decomposes the answer.

    Raises:
        ValueError: no plugin offers one.

    Example::

        >>> from xai_align.plugins import default_method
        >>> default_method()
        'pinet'
    """
    for name, spec in attribution_methods().items():
        if spec.account:
            return name
    raise ValueError("no plugin offers a method that decomposes the answer; name a method (`xai-align methods`)")


def metric(name: str) -> MetricSpec:
    """Return the metric called ``name``.

    Raises:
        ValueError: no plugin offers it; the message lists the known ones.
        PluginError: in strict mode, a plugin cannot be used.

    Example::

        metric("deletion").evaluate(model, images, images.abs(), target=281)  # [2]
    """
    return _look_up(name, MetricSpec).spec


def training_recipe(name: str) -> TrainingRecipeSpec:
    """Return the training recipe called ``name``; :func:`xai_align.align.recipe` builds it.

    Raises:
        ValueError: no plugin offers it; the message lists the known ones.
        PluginError: in strict mode, a plugin cannot be used.

    Example::

        >>> from xai_align.plugins import training_recipe
        >>> [term.name for term in training_recipe("erm").build().terms]
        ['classification']
    """
    return _look_up(name, TrainingRecipeSpec).spec


def origin(name: str, *, kind: Kind = "attribution") -> PluginRecord:
    """Return the plugin that the attribution method, metric or training recipe called ``name`` comes from.

    Raises:
        ValueError: there is no such kind, or no plugin offers the name; the message lists the known ones.
        PluginError: in strict mode, a plugin cannot be used.

    Example::

        >>> from xai_align.plugins import origin
        >>> origin("align", kind="training_recipe").distribution
        'xai-align'
    """
    check_choice("kind", kind, _KINDS)
    return _look_up(name, _KINDS[kind]).plugin.record()


def plugin_table() -> list[PluginRecord]:
    """Return a record of every entry point of the group in loading order, including disabled and failed ones.

    Raises:
        PluginError: in strict mode, a plugin cannot be used.

    Example::

        {record.name: record.version for record in plugin_table() if record.status == "ok"}
    """
    for kind in _HOOKS:  # errors in a plugin's lists show only when the lists are read
        _offers(kind)
    return [plugin.record() for plugin in registry().plugins]


def _look_up(name: str, kind: type[_Spec]) -> Offer[_Spec]:
    offers = _offers(kind)
    if name in offers:
        return offers[name]
    raise ValueError(
        f"there is no {_NOUNS[kind]} '{name}'{did_you_mean(name, offers)} "
        f"Known: {', '.join(offers) or 'none (`xai-align plugins` shows what was loaded)'}"
    )


def _offers(kind: type[_Spec]) -> dict[str, Offer[_Spec]]:
    known = registry().specs
    if kind not in known:
        known[kind] = _collect(kind)
    return known[kind]


def _collect(kind: type[_Spec]) -> dict[str, Offer[_Spec]]:
    """Return all records of this kind that plugins list, in loading order: the first owner keeps a name."""
    hook = _HOOKS[kind]
    order = {id(plugin): position for position, plugin in enumerate(registry().plugins)}
    offers: dict[str, Offer[_Spec]] = {}
    for plugin, implementation in sorted(registry().implementations(hook), key=lambda pair: order[id(pair[0])]):
        try:
            answers = listed(implementation, hook, kind)
        except Refusal as refusal:
            plugin.status = "failed"
            refuse(plugin, refusal)
            continue
        for answer in answers:
            try:
                _check_spec(answer, hook, kind)
                _check_unique(answer.name, offers, hook)
            except Refusal as refusal:
                refuse(plugin, refusal)
            else:
                offers[answer.name] = Offer(answer, plugin)
    return offers


def _check_spec(answer: Any, hook: str, kind: type) -> None:
    if not isinstance(answer, kind):
        raise Refusal(f"{hook} listed {describe_type(answer)} where {kind.__name__} is expected; skipped")
    name: Any = getattr(answer, "name", None)
    if not isinstance(name, str) or not name:
        raise Refusal(f"{hook} listed a {kind.__name__} with the name {name!r}; skipped. Give it a name")
    for text in ("summary", "note"):
        if not isinstance(getattr(answer, text, ""), str):
            raise Refusal(f"{hook} listed '{name}', whose `{text}` is not a string; skipped")
    call = "evaluate" if isinstance(answer, MetricSpec) else "build"
    if not callable(getattr(answer, call)):
        raise Refusal(f"{hook} listed '{name}', whose `{call}` cannot be called; skipped")
    if isinstance(answer, MetricSpec) and (problem := call_problem(answer.evaluate)):
        raise Refusal(f"{hook} listed '{name}', whose `evaluate` {problem}; skipped")


def _check_unique(name: str, offers: Mapping[str, Offer[_Spec]], hook: str) -> None:
    if name in offers:
        raise Refusal(f"duplicate: '{name}' of {hook} is taken by plugin {offers[name].plugin.label}; skipped")
