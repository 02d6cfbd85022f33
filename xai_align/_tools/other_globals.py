"""Functions of other packages with some of their module's names replaced, the module itself left as it is."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from types import FunctionType
from typing import Any


def with_globals(function: Callable[..., Any], **names: Any) -> Callable[..., Any]:
    """Return a copy of a function, out of its decorators, that sees other values under these global names.

    Names are looked up when this is called. Replacing them in the module instead would show in every thread.

    Example::

        quiet = with_globals(package.function, warnings=SimpleNamespace(warn=lambda *args, **kwargs: None))
    """
    plain = inspect.unwrap(function)
    copy = FunctionType(
        plain.__code__, plain.__globals__ | names, plain.__name__, plain.__defaults__, plain.__closure__
    )
    copy.__kwdefaults__ = plain.__kwdefaults__
    return functools.update_wrapper(copy, plain)
