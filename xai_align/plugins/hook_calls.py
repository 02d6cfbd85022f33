"""Call the plugins one by one: an error in one is a :class:`Refusal`, and the others are still called."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import pluggy

from xai_align.plugins.plugin import Plugin
from xai_align.plugins.plugin_problems import PLUGIN_ERRORS, Refusal, describe_error, describe_type, warn_about
from xai_align.plugins.registry import registry

_Answer = TypeVar("_Answer")


def listed(implementation: pluggy.HookImpl, hook: str, kind: type) -> list[Any]:
    """Return the list that one plugin gives; its elements are not checked.

    Raises:
        Refusal: the plugin raised, or returned something else.
    """
    answer = _call(implementation, hook)
    if isinstance(answer, (str, Mapping)) or not isinstance(answer, Iterable):
        raise Refusal(f"{hook} returned {describe_type(answer)} instead of a list of {kind.__name__}; skipped")
    try:
        return list(answer)
    except PLUGIN_ERRORS as error:  # a generator raises only now
        raise Refusal(f"{hook} raised {describe_error(error)}; skipped") from error


def first_answer(hook: str, kind: type[_Answer], **arguments: Any) -> _Answer | None:
    """Return the first answer that is a ``kind``, third parties first; warn about those that failed before it.

    Raises:
        PluginError: in strict mode, a plugin failed.
    """
    answer, failures = _first_answer(hook, kind, **arguments)
    for failure in failures:
        warn_about(*failure)
    return answer


def first_answer_or_raise(hook: str, kind: type[_Answer], *, doing: str, unknown: str, **arguments: Any) -> _Answer:
    """Return the first answer; without one, raise with the plugins' failures, or with ``unknown`` if none failed.

    Raises:
        ValueError: no plugin gave an answer.
        PluginError: in strict mode, a plugin failed where another one answered.
    """
    answer, failures = _first_answer(hook, kind, **arguments)
    if answer is not None:
        for failure in failures:
            warn_about(*failure)
        return answer
    if failures:
        raise _no_answer(doing, failures)
    names = [plugin.name for plugin, _ in registry().implementations(hook)]
    raise ValueError(f"{unknown} Plugins asked: {', '.join(names) or 'none'} (`xai-align plugins` lists all)")


def _first_answer(
    hook: str, kind: type[_Answer], **arguments: Any
) -> tuple[_Answer | None, list[tuple[Plugin, Refusal]]]:
    failures: list[tuple[Plugin, Refusal]] = []
    for plugin, implementation in registry().implementations(hook):
        try:
            answer = _call(implementation, hook, **arguments)
            if answer is None:
                continue
            if isinstance(answer, kind):
                return answer, failures
            raise Refusal(
                f"{hook} returned {describe_type(answer)} where {kind.__name__} or None is expected; not used"
            )
        except Refusal as refusal:
            failures.append((plugin, refusal))
    return None, failures


def _call(implementation: pluggy.HookImpl, hook: str, **arguments: Any) -> Any:
    """Call the hook of one plugin; it may take fewer arguments than the hook passes, with defaults or without."""
    optional = {name: arguments[name] for name in getattr(implementation, "kwargnames", ()) if name in arguments}
    try:
        return implementation.function(*(arguments[name] for name in implementation.argnames), **optional)
    except PLUGIN_ERRORS as error:
        raise Refusal(f"{hook} raised {describe_error(error)}; skipped") from error


def _no_answer(doing: str, failures: list[tuple[Plugin, Refusal]]) -> ValueError:
    reasons = "; ".join(f"{_message(refusal)} (plugin {plugin.label})" for plugin, refusal in failures)
    error = ValueError(f"{doing}: {reasons}")
    error.__cause__ = failures[0][1].__cause__
    return error


def _message(refusal: Refusal) -> str:
    """Return the error as text; a plugin's own ValueError was written for the reader and is not changed."""
    return str(refusal.__cause__) if isinstance(refusal.__cause__, ValueError) else str(refusal)
