"""The plugins of this process, loaded at the first call."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Any

import pluggy

from xai_align.plugins.loading import load_plugins, new_manager
from xai_align.plugins.plugin import Plugin


@dataclass
class Registry:
    """Loaded plugins.

    Attributes:
        manager: pluggy's manager, with the usable ones.
        plugins: all of them in loading order, also those that are disabled or failed.
        specs: what they list by name, for each kind of record; filled by :mod:`xai_align.plugins.specs_by_name`.
    """

    manager: pluggy.PluginManager = field(default_factory=new_manager)
    plugins: list[Plugin] = field(default_factory=list)
    specs: dict[type, dict[str, Any]] = field(default_factory=dict)

    def implementations(self, hook: str) -> list[tuple[Plugin, pluggy.HookImpl]]:
        """Return the plugins that implement ``hook`` with their functions, in calling order."""
        in_use = {plugin.name: plugin for plugin in self.plugins if plugin.hooks}
        caller: pluggy.HookCaller = getattr(self.manager.hook, hook)
        asked = reversed(caller.get_hookimpls())
        return [(in_use[one.plugin_name], one) for one in asked if one.plugin_name in in_use]


@cache
def registry() -> Registry:
    """Return the registry, with every plugin loaded.

    Raises:
        PluginError: in strict mode, a plugin cannot be used.
    """
    loaded = Registry()
    loaded.plugins = load_plugins(loaded.manager)
    return loaded


def get_plugin_manager() -> pluggy.PluginManager:
    """Return the plugin manager with all usable plugins, loaded at the first call.

    It is for inspection only: plugins are loaded from entry points, and one that
    is registered on the manager by hand is not used.

    Raises:
        PluginError: in strict mode, a plugin cannot be used.

    Example::

        [name for name, plugin in get_plugin_manager().list_name_plugin()]  # ["builtin", "captum_align", ...]
    """
    return registry().manager


def reset_plugins() -> None:
    """Clear the caches: the next call discovers plugins, and warns, again.

    Example::

        reset_plugins()  # after installing a plugin in a running session
        attribution_methods()
    """
    registry.cache_clear()
