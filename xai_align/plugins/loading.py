"""Load plugins one at a time, so that an error in one does not stop the others.

Each entry point of the group is imported and checked on its own. One that is
broken, misspelt, outdated or a duplicate is named, with its distribution and
version, in a :class:`PluginWarning`, and the rest are loaded.
"""

from __future__ import annotations

import os
import re
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import pluggy

from xai_align._tools.did_you_mean import did_you_mean
from xai_align.hookspecs import CONTRACT_VERSION, PROJECT, HookSpecs
from xai_align.plugins.plugin import Plugin
from xai_align.plugins.plugin_problems import PLUGIN_ERRORS, Refusal, describe_error, refuse

#: Names of entry points that are never imported, separated by commas.
DISABLED_VARIABLE = "XAI_ALIGN_DISABLED_PLUGINS"

_OWN_DISTRIBUTION = "xai-align"


def load_plugins(manager: pluggy.PluginManager) -> list[Plugin]:
    """Register every plugin of the environment that is not disabled, the core's first; return all of them.

    Raises:
        PluginError: in strict mode, a plugin cannot be used.
    """
    plugins: list[Plugin] = []
    disabled = {name.strip() for name in os.environ.get(DISABLED_VARIABLE, "").split(",")}
    for entry_point in sorted(entry_points(group=PROJECT), key=_loading_order):
        plugin = _describe_entry_point(entry_point)
        if plugin.name in disabled:
            plugin.status = "disabled"
            plugin.reasons.append(f"named in {DISABLED_VARIABLE}")
            manager.set_blocked(plugin.name)
        else:
            _admit(entry_point, plugin, plugins, manager)
        plugins.append(plugin)
    return plugins


def new_manager() -> pluggy.PluginManager:
    """Return a plugin manager that knows the hooks, and no plugin."""
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(HookSpecs)
    return manager


def _normalised(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def _describe_entry_point(entry_point: EntryPoint) -> Plugin:
    distribution = entry_point.dist
    return Plugin(
        name=entry_point.name,
        distribution=(distribution.name if distribution else None) or "unknown distribution",
        version=(distribution.version if distribution else None) or "of unknown version",
    )


def _loading_order(entry_point: EntryPoint) -> tuple[bool, str, str, str]:
    """Return the sort key of an entry point: ours first, as pluggy calls the first registered last."""
    distribution = _normalised(_describe_entry_point(entry_point).distribution)
    return distribution != _OWN_DISTRIBUTION, distribution, entry_point.name, entry_point.value


def _admit(entry_point: EntryPoint, plugin: Plugin, earlier: list[Plugin], manager: pluggy.PluginManager) -> None:
    """Import, check and register one plugin; record and report why not."""
    try:
        _check_name(plugin, earlier)
        module = _import(entry_point)
        _check_contract(module, plugin)
        hooks = _check_hooks(module)
        _check_object(module, manager)
        manager.register(module, name=plugin.name)
        plugin.hooks = hooks
    except Refusal as refusal:
        plugin.status = "failed"
        refuse(plugin, refusal)


def _check_name(plugin: Plugin, earlier: list[Plugin]) -> None:
    for other in earlier:
        if other.name == plugin.name:
            raise Refusal(
                f"duplicate: plugin {other.label} has this name already and keeps it; "
                f"uninstall one of the two, or ask the authors to rename theirs"
            )


def _check_object(module: Any, manager: pluggy.PluginManager) -> None:
    if (name := manager.get_name(module)) is not None:
        raise Refusal(f"duplicate: '{name}' names the same object and is loaded already; drop one entry point")


def _import(entry_point: EntryPoint) -> Any:
    try:
        return entry_point.load()
    except PLUGIN_ERRORS as error:
        raise Refusal(f"broken: importing {entry_point.value} raised {describe_error(error)}") from error


def _check_contract(module: Any, plugin: Plugin) -> None:
    version = getattr(module, "XAI_ALIGN_CONTRACT", CONTRACT_VERSION)
    if version != CONTRACT_VERSION:
        raise Refusal(
            f"outdated: written for plugin contract {version!r}, and this xai-align uses "
            f"{CONTRACT_VERSION}; install versions of xai-align and {plugin.distribution} that agree"
        )


def _check_hooks(module: Any) -> tuple[str, ...]:
    """Return the names of the hooks that ``module`` implements, found with a separate manager."""
    trial = new_manager()
    known = list(vars(trial.hook))
    try:
        trial.register(module)
    except PLUGIN_ERRORS as error:
        # pluggy names the argument and the function in several lines
        raise Refusal(f"outdated: {'; '.join(str(error).splitlines())}") from error
    hooks = []
    for caller in trial.get_hookcallers(module) or []:
        _check_no_wrapper(caller)
        if caller.has_spec():
            hooks.append(caller.name)
        elif not all(one.optionalhook for one in caller.get_hookimpls()):
            raise Refusal(
                f"misspelt: there is no hook '{caller.name}'{did_you_mean(caller.name, known)} "
                f"The hooks are {', '.join(known)}"
            )
    if not hooks:
        raise Refusal(_nothing_implemented(module, known))
    return tuple(hooks)


def _check_no_wrapper(caller: pluggy.HookCaller) -> None:
    """Refuse hook wrappers: plugins are called one by one, so there is no joint call to wrap."""
    if any(one.wrapper or one.hookwrapper for one in caller.get_hookimpls()):
        raise Refusal(f"'{caller.name}' is a hook wrapper, and these are not supported; return the answer instead")


def _nothing_implemented(module: Any, known: list[str]) -> str:
    unmarked = [name for name in known if callable(getattr(module, name, None))]
    if unmarked:
        return f"{', '.join(unmarked)} is not marked; put @xai_align.hookimpl above it"
    return f"no hook is implemented; mark a function with @xai_align.hookimpl, named one of {', '.join(known)}"
