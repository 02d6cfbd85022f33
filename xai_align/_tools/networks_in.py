"""Networks that a function of the inputs runs, as far as they can be found without running it.

A function names what it uses. Followed are its closure, defaults and globals, arguments bound to it, its owner's
attributes and methods that it names, lists and dictionaries of these, and functions that it names, to a depth of
:data:`DEPTH`. What a function finds in another way, e.g. with ``getattr``, is not seen.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import partial
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from torch import nn

#: How many functions and objects are followed behind one another.
DEPTH = 8
#: A function that names one of these sets the mode of its networks itself.
_SETS_MODE = frozenset(("eval", "train"))


def networks_in(function: Any) -> list[nn.Module]:
    """Return the networks behind a function or an object, each once; none if one of the functions sets their mode.

    Example::

        networks_in(trainer.predict)  # [trainer.model]
    """
    walk = _Walk()
    walk.follow(function, frozenset(), DEPTH)
    return [] if walk.sets_mode else list(walk.networks.values())


class _Walk:
    def __init__(self) -> None:
        self.networks: dict[int, nn.Module] = {}
        self.sets_mode = False
        self._seen: set[tuple[int, frozenset[str]]] = set()
        self._alive: list[Any] = []  # so that no other object gets the id of one that was seen

    def follow(self, value: Any, names: frozenset[str], depth: int) -> None:
        """Follow a value that is used by a function with these names."""
        if isinstance(value, nn.Module):
            self.networks[id(value)] = value
            return
        key = (id(value), names)
        if not depth or key in self._seen or isinstance(value, ModuleType | type):
            return
        self._seen.add(key)
        self._alive.append(value)
        if isinstance(value, FunctionType | MethodType):
            self._function(value, depth - 1)
        elif isinstance(value, partial):
            for part in (value.func, *value.args, *value.keywords.values()):
                self.follow(part, names, depth - 1)
        elif isinstance(value, list | tuple | set | dict):
            for part in value.values() if isinstance(value, dict) else value:
                self.follow(part, names, depth - 1)
        elif type(value).__module__ != "builtins":
            for part in _attributes(value, names | {"__call__"}):
                self.follow(part, names, depth - 1)

    def _function(self, function: FunctionType | MethodType, depth: int) -> None:
        owner = function.__self__ if isinstance(function, MethodType) else None
        plain: Any = function.__func__ if isinstance(function, MethodType) else function
        if isinstance(owner, nn.Module):
            self.follow(owner, frozenset(), depth)
        if not isinstance(plain, FunctionType):  # of a C extension
            return
        # a wrapper such as that of torch.no_grad() is only a way to its closure
        of_pytorch = plain.__globals__.get("__name__", "").partition(".")[0] == "torch"
        names = frozenset() if of_pytorch else _names_in(plain.__code__)
        self.sets_mode |= not names.isdisjoint(_SETS_MODE)
        values = [plain.__globals__[name] for name in names if name in plain.__globals__]
        values += [*(plain.__defaults__ or ()), *(plain.__kwdefaults__ or {}).values(), *_closed_in(plain)]
        for value in values:
            self.follow(value, names, depth)
        if owner is None:
            return
        for part in _attributes(owner, names):
            self.follow(part, names, depth)
        if (inner := inspect.unwrap(plain)) is not plain:  # of a decorated method; it gets the owner as an argument
            self.follow(MethodType(inner, owner), names, depth)


def _attributes(owner: Any, names: frozenset[str]) -> Iterator[Any]:
    """Yield attributes of these names, methods and properties bound to the owner; no code of it is run."""
    for name in names:
        found = inspect.getattr_static(owner, name, None)
        if isinstance(found, FunctionType):
            yield MethodType(found, owner)
        elif isinstance(found, property) and found.fget is not None:
            yield MethodType(found.fget, owner)
        elif isinstance(found, staticmethod):
            yield found.__func__
        else:
            yield found


def _names_in(code: CodeType) -> frozenset[str]:
    """Return the names of globals and attributes in a function, those of functions inside it included."""
    inner = (part for part in code.co_consts if isinstance(part, CodeType))
    return frozenset(code.co_names).union(*map(_names_in, inner))


def _closed_in(function: FunctionType) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not filled yet
            continue
