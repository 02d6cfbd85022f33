"""Registry of plugins: methods, metrics and training recipes by name, and hooks for models.

Nothing is loaded before the first call. A plugin that raises, or returns
anything but the contract's records, is named in a :class:`PluginWarning`
and skipped. Two environment variables control this:
``XAI_ALIGN_DISABLED_PLUGINS`` (names of entry points, separated by commas, that
are never imported) and ``XAI_ALIGN_STRICT`` (``1`` raises :class:`PluginError`
instead of warning).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, get_args

from torch import nn

from xai_align._tools.choices import check_choice
from xai_align._tools.did_you_mean import did_you_mean
from xai_align.hookspecs import AttributionSpec, FeatureSpace, LoadedModel, MetricSpec, TrainingRecipeSpec
from xai_align.plugins.loading import (
    PLUGIN_ERRORS,
    Plugin,
    PluginError,
    PluginWarning,
    Refusal,
    Registry,
    Status,
    describe_error,
    load_registry,
    warn_about,
)
from xai_align.plugins.metric_call import call_problem

if TYPE_CHECKING:
    import pluggy

__all__ = [
    "REFERENCE_FORMS",
    "PluginError",
    "PluginRecord",
    "PluginWarning",
    "attribution_method",
    "attribution_methods",
    "classifier",
    "encoder",
    "feature_space",
    "get_plugin_manager",
    "load_model",
    "metric",
    "metrics",
    "origin",
    "plugin_table",
    "reset_plugins",
    "second_look",
    "stages",
    "training_recipe",
    "training_recipes",
]

#: Examples of the references that :func:`load_model` knows without third-party plugins.
REFERENCE_FORMS = (
    "timm:resnet50",
    "timm:resnet50@weights.safetensors",
    "pinet:FOLDER",
    "align:FOLDER",
    "package.module:factory",
)

Kind = Literal["attribution", "metric", "training_recipe"]
_Named = TypeVar("_Named")
_Spec = TypeVar("_Spec", AttributionSpec, MetricSpec, TrainingRecipeSpec)
_Check = TypeVar("_Check")
_Answer = TypeVar("_Answer", LoadedModel, FeatureSpace, tuple[str, ...], nn.Module)


@dataclass(frozen=True, kw_only=True)
class PluginRecord:
    """One line of the plugin table.

    Attributes:
        name: the name of the entry point.
        distribution: the installed distribution that it comes from.
        version: the version of that distribution.
        hooks: the hooks it implements; empty for a plugin that is not loaded.
        status: ``failed`` if it could not be loaded or one of its lists could not be read.
        reason: why it is disabled or failed, or which parts of it are not used; else empty.

    Example::

        [record.name for record in plugin_table() if record.status != "ok"]  # plugins that are not in use
    """

    name: str
    distribution: str
    version: str
    hooks: tuple[str, ...]
    status: Status
    reason: str


def get_plugin_manager() -> pluggy.PluginManager:
    """Return the plugin manager with all usable plugins, loaded at the first call.

    It is for inspection only: plugins are loaded from entry points, and one that
    is registered on the manager by hand is not used.

    Raises:
        PluginError: in strict mode, a plugin cannot be used.

    Example::

        [name for name, plugin in get_plugin_manager().list_name_plugin()]  # ["builtin", "captum_align", ...]
    """
    return _registry().manager


def reset_plugins() -> None:
    """Clear the caches: the next call discovers plugins, and warns, again.

    Example::

        reset_plugins()  # after installing a plugin in a running session
        attribution_methods()
    """
    _registry.cache_clear()
    _attribution_offers.cache_clear()
    _metric_offers.cache_clear()
    _recipe_offers.cache_clear()


def attribution_methods() -> dict[str, AttributionSpec]:
    """Return all attribution methods by name, the core's first.

    Raises:
        PluginError: in strict mode, a plugin cannot be used.

    Example::

        [name for name, spec in attribution_methods().items() if spec.account]  # methods that decompose the answer
    """
    return {name: offer.spec for name, offer in _attribution_offers().items()}


def metrics() -> dict[str, MetricSpec]:
    """Return all metrics by name, the core's first.

    Raises:
        PluginError: in strict mode, a plugin cannot be used.

    Example::

        {name: spec.summary for name, spec in metrics().items() if spec.higher_is_better}
    """
    return {name: offer.spec for name, offer in _metric_offers().items()}


def training_recipes() -> dict[str, TrainingRecipeSpec]:
    """Return the training recipes of all plugins by name, the core's first.

    Raises:
        PluginError: in strict mode, a plugin cannot be used.

    Example::

        >>> from xai_align.plugins import training_recipes
        >>> training_recipes()["erm"].summary
        'cross entropy of the labels alone'
    """
    return {name: offer.spec for name, offer in _recipe_offers().items()}


def attribution_method(name: str) -> AttributionSpec:
    """Return the attribution method called ``name``.

    Raises:
        ValueError: no plugin offers it; the message lists the known ones.
        PluginError: in strict mode, a plugin cannot be used.

    Example::

        method = attribution_method("pinet").build(model, layer="conv2")
        method.attribute(images, target=281)  # [2, 3, 32, 32]
    """
    return _look_up(name, attribution_methods(), "attribution method")


def default_method() -> str:
    """Return the name of the default method: the first that decomposes the answer.

    Raises:
        ValueError: no plugin offers one.
    """
    for name, spec in attribution_methods().items():
        if spec.account:
            return name
    raise ValueError("no plugin offers a method with an account of the answer; name a method (`xai-align methods`)")


def conformance_checks(kind: type[_Check]) -> list[_Check]:
    """Return the conformance checks, records of this kind, that plugins add; a plugin with an invalid list is skipped.

    Raises:
        PluginError: in strict mode, a plugin cannot be used.
    """
    hook, found = "xai_align_conformance_checks", []
    for plugin, implementation in _registry().implementations(hook):
        try:
            listed = _listed(_call(implementation, hook), hook, kind)
            if wrong := [one for one in listed if not isinstance(one, kind)]:
                raise Refusal(f"{hook} listed {_shown(wrong[0])} where {kind.__name__} is expected; skipped")
        except Refusal as refusal:
            _skip(plugin, refusal)
            continue
        found += listed
    return found


def metric(name: str) -> MetricSpec:
    """Return the metric called ``name``.

    Raises:
        ValueError: no plugin offers it; the message lists the known ones.
        PluginError: in strict mode, a plugin cannot be used.

    Example::

        metric("deletion").evaluate(model, images, images.abs(), target=281)  # [2]
    """
    return _look_up(name, metrics(), "metric")


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
    return _look_up(name, training_recipes(), "training recipe")


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
    check_choice("kind", kind, get_args(Kind))
    if kind == "attribution":
        return _record(_look_up(name, _attribution_offers(), "attribution method").plugin)
    if kind == "metric":
        return _record(_look_up(name, _metric_offers(), "metric").plugin)
    return _record(_look_up(name, _recipe_offers(), "training recipe").plugin)


def load_model(reference: str, *, trust: bool = False) -> LoadedModel:
    """Load the model that ``reference`` names, from the first plugin that knows it, third parties first.

    Args:
        reference: like one of :data:`REFERENCE_FORMS`. ``package.module:factory`` is imported and called.
        trust: whether a folder (``pinet:FOLDER``, ``align:FOLDER``) may itself name ``package.module:function``, which
            is then imported and called; without, it is data, and may name architectures of timm.

    Raises:
        ValueError: no plugin knows this form of reference, or the one that does could not load the model.
        PluginError: in strict mode, a plugin failed on a reference that another one could load.

    Example::

        loaded = load_model("timm:resnet18@random")  # without "@random": the pretrained weights
        loaded.model, loaded.preprocess, loaded.class_names
    """
    return _answer_or_raise(
        "xai_align_load_model",
        LoadedModel,
        doing=f"cannot load the model '{reference}'",
        unknown=f"no plugin knows the model reference '{reference}'; write it like one of "
        f"{', '.join(REFERENCE_FORMS)}, or as a plugin of yours documents.",
        reference=reference,
        trust=trust,
    )


def encoder(reference: str, options: dict[str, Any]) -> nn.Module:
    """Build the encoder of a saved PiNet with the first plugin that knows it, third parties first.

    Raises:
        ValueError: no plugin knows it, or the one that does could not build it.
        PluginError: in strict mode, a plugin failed on an encoder that another one could build.

    Example::

        encoder("conv", ConvEncoder(3).options)(images)  # a list of feature maps [2, C, H, W], finest first
    """
    return _answer_or_raise(
        "xai_align_encoder",
        nn.Module,
        doing=f"cannot build the encoder '{reference}'",
        unknown=f"no plugin knows the encoder '{reference}'; install the package that it came from, or build it "
        "yourself and give it as encoder=....",
        reference=reference,
        options=options,
    )


def second_look(model: nn.Module, num_classes: int, options: dict[str, Any]) -> nn.Module:
    """Build a PiNet on ``model``, to be trained, with the first plugin that knows the model, third parties first.

    Raises:
        ValueError: no plugin knows it, or the one that does could not build the PiNet.
        PluginError: in strict mode, a plugin failed on a model that another one could take.

    Example::

        backbone = load_model("timm:resnet18@random").model
        second_look(backbone, 10, {"frozen": True})  # a PiNet with 10 classes; only its head is trained
    """
    what = f"cannot put a second look on {type(model).__name__}"
    return _answer_or_raise(
        "xai_align_second_look",
        nn.Module,
        doing=what,
        unknown=f"{what}: no plugin knows such models; build xai_align.pinet.PiNet(encoder, SecondLookHead(...)) "
        "yourself.",
        model=model,
        num_classes=num_classes,
        options=options,
    )


def classifier(model: nn.Module, num_classes: int) -> nn.Module:
    """Return a copy of ``model`` with a new head, from the first plugin that knows it, third parties first.

    Args:
        model: it is not changed.
        num_classes: the number of logits.

    Raises:
        ValueError: no plugin knows it, or the one that does could not build the copy.
        PluginError: in strict mode, a plugin failed on a model that another one could take.

    Example::

        backbone = load_model("timm:resnet18@random").model
        classifier(backbone, 10)(torch.rand(2, 3, 64, 64))  # [2, 10]
    """
    what = f"cannot give {type(model).__name__} a head for {num_classes} classes"
    return _answer_or_raise(
        "xai_align_classifier",
        nn.Module,
        doing=what,
        unknown=f"{what}: no plugin knows such models; write the hook xai_align_classifier for it (docs/plugins.md).",
        model=model,
        num_classes=num_classes,
    )


def feature_space(model: nn.Module, layer: str | None = None) -> FeatureSpace | None:
    """Return the feature space of ``model`` at ``layer``, or the default one for a readout when ``layer`` is None.

    The first plugin that knows the model answers, third parties first; None: no plugin knows it.

    Raises:
        PluginError: in strict mode, a plugin failed on ``model``.

    Example::

        from xai_align.plugins import feature_space

        feature_space(load_model("timm:resnet18@random").model)  # a FeatureSpace with its layer and layout
    """
    answer, failures = _first_answer("xai_align_feature_space", FeatureSpace, model=model, layer=layer)
    _warn_about_all(failures)
    return answer


def stages(model: nn.Module) -> tuple[str, ...]:
    """Return the names of the modules whose outputs are the stages of ``model``; empty: no plugin knows it.

    Raises:
        PluginError: in strict mode, a plugin failed on ``model``.

    Example::

        stages(load_model("timm:resnet18@random").model)  # ("act1", "layer1", "layer2", "layer3", "layer4")
    """
    answer, failures = _first_answer("xai_align_stages", tuple, model=model)
    _warn_about_all(failures)
    return answer or ()


def plugin_table() -> list[PluginRecord]:
    """Return a record of every entry point of the group in loading order, including disabled and failed ones.

    Raises:
        PluginError: in strict mode, a plugin cannot be used.

    Example::

        {record.name: record.version for record in plugin_table() if record.status == "ok"}
    """
    _attribution_offers()  # errors in a plugin's lists show only when the lists are read
    _metric_offers()
    _recipe_offers()
    return [_record(plugin) for plugin in _registry().plugins]


@dataclass(frozen=True)
class _Offer(Generic[_Spec]):
    spec: _Spec
    plugin: Plugin


@cache
def _registry() -> Registry:
    return load_registry()


@cache
def _attribution_offers() -> dict[str, _Offer[AttributionSpec]]:
    return _collect("xai_align_attributions", AttributionSpec)


@cache
def _metric_offers() -> dict[str, _Offer[MetricSpec]]:
    return _collect("xai_align_metrics", MetricSpec)


@cache
def _recipe_offers() -> dict[str, _Offer[TrainingRecipeSpec]]:
    return _collect("xai_align_training_recipes", TrainingRecipeSpec)


def _collect(hook: str, kind: type[_Spec]) -> dict[str, _Offer[_Spec]]:
    """Return all that plugins list under ``hook``, in loading order: the first owner keeps a name."""
    registry = _registry()
    order = {id(plugin): position for position, plugin in enumerate(registry.plugins)}
    offers: dict[str, _Offer[_Spec]] = {}
    for plugin, implementation in sorted(registry.implementations(hook), key=lambda pair: order[id(pair[0])]):
        try:
            answers = _listed(_call(implementation, hook), hook, kind)
        except Refusal as refusal:
            plugin.status = "failed"
            _skip(plugin, refusal)
            continue
        for answer in answers:
            try:
                _check_spec(answer, hook, kind)
                _check_unique(answer.name, offers, hook)
            except Refusal as refusal:
                _skip(plugin, refusal)
            else:
                offers[answer.name] = _Offer(answer, plugin)
    return offers


def _first_answer(
    hook: str, kind: type[_Answer], **arguments: Any
) -> tuple[_Answer | None, list[tuple[Plugin, Refusal]]]:
    """Return the first answer that is a ``kind``, and the plugins that failed before it."""
    failures: list[tuple[Plugin, Refusal]] = []
    for plugin, implementation in _registry().implementations(hook):
        try:
            answer = _call(implementation, hook, **arguments)
            if answer is None:
                continue
            if isinstance(answer, kind):
                return answer, failures
            raise Refusal(f"{hook} returned {_shown(answer)} where {kind.__name__} or None is expected; not used")
        except Refusal as refusal:
            failures.append((plugin, refusal))
    return None, failures


def _answer_or_raise(hook: str, kind: type[_Answer], *, doing: str, unknown: str, **arguments: Any) -> _Answer:
    """Return the first answer; without one, raise with the plugins' failures, or with ``unknown`` if none failed."""
    answer, failures = _first_answer(hook, kind, **arguments)
    if answer is not None:
        _warn_about_all(failures)
        return answer
    if failures:
        raise _no_answer(doing, failures)
    raise ValueError(f"{unknown} {_asked(hook)}")


def _no_answer(what: str, failures: list[tuple[Plugin, Refusal]]) -> ValueError:
    reasons = "; ".join(f"{_said(refusal)} (plugin {plugin.label})" for plugin, refusal in failures)
    error = ValueError(f"{what}: {reasons}")
    error.__cause__ = failures[0][1].__cause__
    return error


def _asked(hook: str) -> str:
    names = [plugin.name for plugin, _ in _registry().implementations(hook)]
    return f"Plugins asked: {', '.join(names) or 'none'} (`xai-align plugins` lists all)"


def _call(implementation: pluggy.HookImpl, hook: str, **arguments: Any) -> Any:
    """Call the hook of one plugin; a plugin may take fewer arguments than the hook passes."""
    try:
        return implementation.function(*(arguments[name] for name in implementation.argnames))
    except PLUGIN_ERRORS as error:
        raise Refusal(f"{hook} raised {describe_error(error)}; skipped") from error


def _listed(answer: Any, hook: str, kind: type) -> list[Any]:
    if isinstance(answer, (str, Mapping)) or not isinstance(answer, Iterable):
        raise Refusal(f"{hook} returned {_shown(answer)} instead of a list of {kind.__name__}; skipped")
    try:
        return list(answer)
    except PLUGIN_ERRORS as error:  # a generator raises only now
        raise Refusal(f"{hook} raised {describe_error(error)}; skipped") from error


def _check_spec(
    answer: Any, hook: str, kind: type[AttributionSpec] | type[MetricSpec] | type[TrainingRecipeSpec]
) -> None:
    if not isinstance(answer, kind):
        raise Refusal(f"{hook} listed {_shown(answer)} where {kind.__name__} is expected; skipped")
    if not isinstance(answer.name, str) or not answer.name:
        raise Refusal(f"{hook} listed a {kind.__name__} with the name {answer.name!r}; skipped. Give it a name")
    for text in ("summary", "note"):
        if not isinstance(getattr(answer, text, ""), str):
            raise Refusal(f"{hook} listed '{answer.name}', whose `{text}` is no text; skipped")
    call = "evaluate" if isinstance(answer, MetricSpec) else "build"
    if not callable(getattr(answer, call)):
        raise Refusal(f"{hook} listed '{answer.name}', whose `{call}` cannot be called; skipped")
    if isinstance(answer, MetricSpec) and (problem := call_problem(answer.evaluate)):
        raise Refusal(f"{hook} listed '{answer.name}', whose `evaluate` {problem}; skipped")


def _check_unique(name: str, offers: Mapping[str, _Offer[_Spec]], hook: str) -> None:
    if name in offers:
        raise Refusal(f"duplicate: '{name}' of {hook} is taken by plugin {offers[name].plugin.label}; skipped")


def _skip(plugin: Plugin, refusal: Refusal) -> None:
    plugin.reasons.append(str(refusal))
    warn_about(plugin, refusal)


def _warn_about_all(failures: list[tuple[Plugin, Refusal]]) -> None:
    for plugin, refusal in failures:
        warn_about(plugin, refusal)


def _look_up(name: str, known: Mapping[str, _Named], what: str) -> _Named:
    if name in known:
        return known[name]
    raise ValueError(
        f"there is no {what} '{name}'{did_you_mean(name, known)} "
        f"Known: {', '.join(known) or 'none (`xai-align plugins` shows what was loaded)'}"
    )


def _said(refusal: Refusal) -> str:
    """Return the error as text; a plugin's own ValueError was written for the reader and is not changed."""
    return str(refusal.__cause__) if isinstance(refusal.__cause__, ValueError) else str(refusal)


def _shown(answer: Any) -> str:
    return "None" if answer is None else f"an object of type {type(answer).__name__}"


def _record(plugin: Plugin) -> PluginRecord:
    return PluginRecord(
        name=plugin.name,
        distribution=plugin.distribution,
        version=plugin.version,
        hooks=plugin.hooks,
        status=plugin.status,
        reason="; ".join(plugin.reasons),
    )
