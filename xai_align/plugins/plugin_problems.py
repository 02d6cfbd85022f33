"""Warnings about plugins that cannot be used, and the exceptions caught from plugins."""

from __future__ import annotations

import os
import warnings
from typing import Any

from xai_align._tools.callers_level import callers_level
from xai_align.plugins.plugin import Plugin

#: Set to anything but ``0``, ``false`` or ``no``: a plugin that cannot be used is an error.
STRICT_VARIABLE = "XAI_ALIGN_STRICT"
#: Exceptions of a plugin that do not stop the others. Interrupts and outcomes of tests are raised.
PLUGIN_ERRORS = (Exception, SystemExit)


class PluginWarning(UserWarning):
    """Warning that a plugin, or a part of it, is not used; the message names it, its distribution and the reason.

    Example::

        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("error", PluginWarning)  # raise if a plugin cannot be used
            attribution_methods()
    """


class PluginError(RuntimeError):
    """Error raised in strict mode in place of a :class:`PluginWarning`.

    Example::

        try:
            attribution_methods()
        except PluginError as error:  # only with XAI_ALIGN_STRICT=1 in the environment
            print(error)  # the plugin, its distribution and the reason
    """


class Refusal(Exception):
    """Reason why a plugin, or one result of it, is not used; ``__cause__`` is the exception that it raised."""


def refuse(plugin: Plugin, refusal: Refusal) -> None:
    """Record the reason in the plugin table, and warn.

    Raises:
        PluginError: instead of the warning, in strict mode.
    """
    plugin.reasons.append(str(refusal))
    warn_about(plugin, refusal)


def warn_about(plugin: Plugin, refusal: Refusal) -> None:
    """Warn that ``plugin`` is not used, with the reason.

    Raises:
        PluginError: instead of the warning, in strict mode.
    """
    message = f"plugin {plugin.label}: {refusal}"
    if os.environ.get(STRICT_VARIABLE, "").strip().lower() not in {"", "0", "false", "no"}:
        raise PluginError(message) from (refusal.__cause__ or refusal)
    warnings.warn(message, PluginWarning, stacklevel=callers_level())


def describe_error(error: BaseException) -> str:
    """Return one line with the type of the error and its message."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def describe_type(answer: Any) -> str:
    """Return a plugin's result as text, for messages."""
    return "None" if answer is None else f"an object of type {type(answer).__name__}"
