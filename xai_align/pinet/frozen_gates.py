"""A forward pass made linear in a feature space for the input at hand, recorded and replayed.

Under :class:`FrozenGates` every operation on tensors that depend on ``z`` goes
through a rule (:mod:`~xai_align.pinet.rule_registry`). A rule computes the same
value as an instance-wise linear function: what multiplies ``z`` (gates, scales,
attention, indices) is *kept*, detached, on a tape. So the whole pass is

    answer(z) = sum(beta * z) + bias        with beta, bias constants of this input,

autograd gives ``beta``, and running the pass again with the kept values and
another ``z`` evaluates the same linear function there: at ``z = 0``, the bias.
This is what B-cos networks and layer-wise relevance propagation call detaching.

Whether a tensor depends on ``z`` is what ``requires_grad`` says: ``z`` alone
requires grad, parameters do not.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from xai_align.pinet.rule_registry import Rule, UnknownOperation, find_rule, is_inplace, linear, operation_name

T = TypeVar("T")


class FrozenGates(TorchFunctionMode):
    """The interception: record once, replay as often as wanted.

    Example::

        gates = FrozenGates()
        with gates:
            answer = network(z)  # z.requires_grad, no parameter does
        with gates.replay():
            bias = network(torch.zeros_like(z).requires_grad_())  # requires_grad says: this is z

    Args:
        model: only for the names of its modules, in error messages.
        rules: rules that go before the registered ones here, by function.
    """

    def __init__(self, model: nn.Module | None = None, rules: Mapping[Any, Rule] | None = None) -> None:
        super().__init__()
        self.recording = True
        #: Whether a replay has been given another ``z`` by now.
        self.departed = False
        self._model = model
        self._rules = dict(rules or {})
        #: What was kept, each with the versions of its tensors.
        self._tape: list[tuple[Any, list[int]]] = []
        #: How far a replay has come.
        self._position = 0
        #: Which kept values lie in a piece of memory.
        self._holders: dict[int, list[int]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Rewrite one operation (called by PyTorch, with the interception off)."""
        return self.run(func, *args, **(kwargs or {}))

    def run(self, func: Any, *args: Any, **kwargs: Any) -> Any:
        """``func(*args, **kwargs)`` by its rule; for rules that are made of operations with rules of their own."""
        if self.recording and is_inplace(func):
            self.about_to_write(args[0])
        rule = self._rules.get(func) or find_rule(func)
        if rule is linear or not depends(args, kwargs):
            return func(*args, **kwargs)
        if rule is None:
            raise UnknownOperation(self._complaint(func))
        return rule(self, func, *args, **kwargs)

    def keep(self, compute: Callable[[], T]) -> T:
        """What ``compute()`` gave when recording, as a constant. Replaying, the same values, uncomputed."""
        if self.recording:
            with torch.no_grad():
                value = compute()
            value = detached(value) if isinstance(value, Tensor) else tree_map(detached, value)
            tensors = _tensors_of(value)
            for tensor in tensors:
                self._holders.setdefault(_storage(tensor), []).append(len(self._tape))
            self._tape.append((value, [tensor._version for tensor in tensors]))
            return value
        if self._position == len(self._tape):
            raise RuntimeError(_OUT_OF_STEP)
        value, versions = self._tape[self._position]
        self._position += 1
        if [tensor._version for tensor in _tensors_of(value)] != versions:
            raise RuntimeError(
                "a gate was overwritten in place between recording and replay; please report the network"
            )
        return value

    @contextmanager
    def replay(self, *, departed: bool = True) -> Iterator[None]:
        """Run the recorded pass again with its gates held; nothing is saved for a backward pass.

        Args:
            departed: False: all is as recorded until :meth:`depart` is called.

        Raises:
            RuntimeError: the pass did not ask for the same gates.
        """
        self.recording, self.departed, self._position = False, departed, 0
        try:
            # the graph is built only for its requires_grad marks, which say what depends on z
            with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(_saved_nothing, _nothing_saved), self:
                yield
            if self._position != len(self._tape):
                raise RuntimeError(_OUT_OF_STEP)
        finally:
            self.recording = True

    def depart(self) -> None:
        """From here on, a replay computes something else than was recorded."""
        self.departed = True

    def clear(self) -> None:
        """Let go of everything kept."""
        self._tape.clear()
        self._holders.clear()

    def hold(self, value: T) -> Callable[[], T]:
        """:meth:`keep` a value for the way back: what comes is asked for it then, and given it as it is now."""
        place = len(self._tape)
        self.keep(lambda: value)
        return lambda: self._tape[place][0]

    def about_to_write(self, written: Any) -> None:
        """Copy kept values that lie in this tensor's memory: an operation is going to write to it."""
        if not isinstance(written, Tensor) or _storage(written) not in self._holders:
            return
        for position in self._holders.pop(_storage(written)):
            value = tree_map(_copied, self._tape[position][0])
            self._tape[position] = (value, [tensor._version for tensor in _tensors_of(value)])

    def _complaint(self, func: Any) -> str:
        place = _running_module(self._model)
        return (
            f"no rule makes the operation '{operation_name(func)}' linear; it ran {place}. "
            "Read out at a later layer (feature_space=...), or teach the operation with xai_align.pinet.register_rule"
        )


def depends(*arguments: Any) -> bool:
    """Whether a tensor in these (nested) arguments depends on ``z``."""
    for argument in arguments:
        if isinstance(argument, Tensor):
            if argument.requires_grad:
                return True
        elif isinstance(argument, list | tuple):
            if depends(*argument):
                return True
        elif isinstance(argument, dict) and depends(*argument.values()):
            return True
    return False


def detached(value: Any) -> Any:
    """A tensor as a constant; anything else as it is."""
    return value.detach() if isinstance(value, Tensor) else value


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def _tensors_of(value: Any) -> list[Tensor]:
    """The tensors of a value; most are one, and then walking a tree would be the larger part of the work."""
    if isinstance(value, Tensor):
        return [value]
    if value is None:
        return []
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


_OUT_OF_STEP = (
    "the network did not repeat its own steps: it computes something else at a second call "
    "(random numbers, or control flow that depends on values), so no linear account of it holds"
)


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr() if tensor.layout == torch.strided else 0


def _saved_nothing(tensor: Tensor) -> None:
    return None


def _nothing_saved(nothing: None) -> Tensor:
    raise RuntimeError("a replay has no gradient")


def _running_module(model: nn.Module | None) -> str:
    """'in module ...', from the nearest frame on the stack that belongs to a module."""
    names = {id(module): name for name, module in model.named_modules()} if model is not None else {}
    frame = inspect.currentframe()
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, nn.Module):
            return f"in module '{names.get(id(owner), '')}' ({type(owner).__name__})"
        frame = frame.f_back
    return "outside any module"
