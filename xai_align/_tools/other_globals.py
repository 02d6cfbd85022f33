"""Copies of other packages' functions with some of their globals replaced; their modules stay unchanged."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from types import FunctionType
from typing import Any


def with_globals(function: Callable[..., Any], **names: Any) -> Callable[..., Any]:
    """Return a copy of a function, without its decorators, with other values for these global names.

    The function's globals are copied when this is called. Replacing names in the module would affect every thread.

    Example::

        quiet = with_globals(package.function, warnings=SimpleNamespace(warn=lambda *args, **kwargs: None))
    """
    plain = inspect.unwrap(function)
    copy = FunctionType(
        plain.__code__, plain.__globals__ | names, plain.__name__, plain.__defaults__, plain.__closure__
    )
    copy.__kwdefaults__ = plain.__kwdefaults__
    return functools.update_wrapper(copy, plain)
