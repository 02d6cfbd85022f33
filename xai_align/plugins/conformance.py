"""Conformance checks that plugins add to those of :mod:`xai_align.testing`."""

from __future__ import annotations

from typing import TypeVar

from xai_align.plugins.hook_calls import listed
from xai_align.plugins.plugin_problems import Refusal, describe_type, refuse
from xai_align.plugins.registry import registry

_Check = TypeVar("_Check")


def conformance_checks(kind: type[_Check]) -> list[_Check]:
    """Return the conformance checks, records of this kind, that plugins add; a plugin with an invalid list is skipped.

    Raises:
        PluginError: in strict mode, a plugin cannot be used.
    """
    hook, found = "xai_align_conformance_checks", []
    for plugin, implementation in registry().implementations(hook):
        try:
            checks = listed(implementation, hook, kind)
            if wrong := [one for one in checks if not isinstance(one, kind)]:
                raise Refusal(f"{hook} listed {describe_type(wrong[0])} where {kind.__name__} is expected; skipped")
        except Refusal as refusal:
            refuse(plugin, refusal)
            continue
        found += checks
    return found
