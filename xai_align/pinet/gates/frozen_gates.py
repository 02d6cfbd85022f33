"""Forward pass made linear in a feature space for a given input, recorded and replayed.

Under :class:`FrozenGates` every operation on tensors that depend on ``z`` goes
through a rule (:mod:`~xai_align.pinet.gates.rule_registry`). A rule computes the same
value as an instance-wise linear function: what multiplies ``z`` (gates, scales,
attention, indices) is *kept*, detached, on a tape. So the whole pass is

    answer(z) = sum(beta * z) + bias        with beta, bias constants of this input,

autograd gives ``beta``, and running the pass again with the kept values and
another ``z`` evaluates the same linear function there: at ``z = 0``, the bias.
B-cos networks and layer-wise relevance propagation call this detaching.

While recording, ``requires_grad`` marks the tensors that depend on ``z``: ``z`` is
the only leaf that requires a gradient. A replay builds no graph; it repeats the
recorded marks.
"""

from __future__ import annotations

import inspect
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.checkpoint import CheckpointFunction

from xai_align._tools.replica import LOW_PRECISION
from xai_align.pinet.gates.cut_off import AUTOGRAD_FUNCTION, CutOff, running_autograd_function
from xai_align.pinet.gates.dependence import is_foreign, look_at
from xai_align.pinet.gates.named_arguments import by_position
from xai_align.pinet.gates.rule_registry import Operation, Rule, UnknownOperation, find_operation, linear
from xai_align.pinet.gates.tape import Tape, storage, storages, tensors_of
from xai_align.pinet.gates.written_tensors import (
    SEVERAL_VIEWS,
    SharedViews,
    separate_views,
    without_flag,
    written_tensors,
)

T = TypeVar("T")

#: Kinds of recorded calls: independent of z, rewritten by a rule, or cut off from z.
_CONSTANT, _RULED, _CUT = 0, 1, 2


class FrozenGates(TorchFunctionMode):
    """Interception of operations: record once, replay any number of times.

    Example::

        gates = FrozenGates()
        with gates:
            answer = network(z.clone())  # z requires grad, no parameter does
        with gates.replay():
            bias = network(torch.zeros_like(z))

    Args:
        model: used only for the names of its modules, in error messages.
        rules: rules that override the registered ones, by function or by the operation's name.
        flowing: whether sigmoids, scales other than softmax and similar operations pass evidence on, as activations,
            instead of being held as gates.
        separate_views: whether ``chunk``, ``unbind`` and ``split`` give views that may be written into.
    """

    #: Whether rules write value and gate as operations that autograd can differentiate, instead of fused functions.
    written_out = False

    def __init__(
        self,
        model: nn.Module | None = None,
        rules: Mapping[Any, Rule] | None = None,
        *,
        flowing: bool = False,
        separate_views: bool = False,
    ) -> None:
        super().__init__()
        self.recording = True
        self.flowing, self.separate_views = flowing, separate_views
        #: Whether the replay has already received another ``z``.
        self.counterfactual = False
        #: Number of operations run, an upper bound on successive rounding errors.
        self.operations = 0
        #: The lowest half precision in which the network itself computes part of the pass, if any.
        self.coarsest: torch.dtype | None = None
        #: The last operation, by name and module, that turned a dependent tensor into a constant.
        self.last_stop: tuple[str, str] | None = None
        self.trace_stops = False
        self._model = model
        self._names: dict[int, str] | None = None
        self._rules = dict(rules or {})
        self._cut: Counter[tuple[str, str, str]] = Counter()
        self._tape = Tape()
        #: Storage of dependent tensors that the network also uses as constants.
        self._aliased: set[int] = set()
        self._inference = False
        self._paused = False
        self._parameter_memory: set[int] | None = None
        #: Notes of rules about this recording, by the type of what they are about.
        self.notes: dict[Any, Any] = {}
        #: Graph nodes of the current thread with lower numbers are older than the recording.
        self.since = 0

    def use(self, rules: Mapping[Any, Rule]) -> None:
        """Override registered rules by these, by function or by the operation's name."""
        self._rules.update(rules)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Suspend the interception, for code that is not part of the network."""
        self._paused = True
        try:
            yield
        finally:
            self._paused = False

    # ---------------------------------------------------------------- one operation

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Rewrite one operation (called by PyTorch, with the interception off)."""
        if self._paused:
            return func(*args, **(kwargs or {}))
        return self.run(func, *args, **(kwargs or {}))

    def run(self, func: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Return ``func(*args, **kwargs)`` by its rule, for rules made of operations with their own rules."""
        operation = find_operation(func)
        rule = self._overriding(operation) if self._rules else operation.rule
        if rule is None and not any(isinstance(leaf, Tensor) for leaf in tree_leaves((args, kwargs))):
            # does not touch the network's values; a garbage-collected context may also set the grad mode at any time
            return func(*args, **kwargs)
        if kwargs and (rule is not linear or not args):
            args, kwargs = by_position(func, args, kwargs)
        self.operations += 1
        if self.recording:
            alive, foreign = look_at(args, kwargs, self.since)
            if foreign:
                args, kwargs = tree_map(self._without_foreign_gradient, (args, kwargs))
            if operation.name in _RANDOM:
                draws.drew = True
        else:
            alive = True  # irrelevant for linear operations; for others the mark decides
        # under no_grad
        outside = not torch.is_grad_enabled()
        if outside and torch.is_inference_mode_enabled():
            self._inference = True
        if alive and self._inference and not torch.is_inference_mode_enabled():
            args, kwargs = tree_map(_usable, (args, kwargs))
        if rule is linear and not outside and "out" not in kwargs:
            return self._linear(operation, func, args, kwargs, alive)
        written = written_tensors(operation, func, args, kwargs)
        mark = self._next_mark(alive, outside and not written, rule, func, args, kwargs)
        if mark == _CONSTANT:
            self._check_write(written, constant=True)
            return func(*args, **kwargs)
        if mark == _CUT:
            return self._cut_off(func, args, kwargs)
        if rule is None:
            raise UnknownOperation(self._complaint(operation.name))
        if operation.inplace == "flag":
            args, kwargs = without_flag(func, args, kwargs)
        if not written:
            result = rule(self, operation.compute, *args, **kwargs)
            if type(result) is Tensor and result.dtype in LOW_PRECISION:
                self.coarsest = result.dtype
            return result
        with torch.inference_mode(False), torch.enable_grad():
            return self._written_by(rule, operation, func, args, kwargs, written)

    def _overriding(self, operation: Operation) -> Rule | None:
        found = self._rules.get(operation.compute)
        return found or self._rules.get(operation.name, operation.rule)

    def depends(self, *arguments: Any) -> bool:
        """Return whether a tensor in these (nested) arguments depends on ``z``; in a replay, the recorded answer."""
        return self.recall(lambda: look_at(arguments, {}, self.since)[0])

    def recall(self, decide: Callable[[], bool]) -> bool:
        """Return ``decide()`` when recording, and the same answer when replaying."""
        if not self.recording:
            return bool(self._tape.marked())
        answer = decide()
        self._tape.mark(int(answer))
        return answer

    def save(self, compute: Callable[[], T]) -> T:
        """Return ``compute()`` as a constant when recording, and the saved value, without computing, in a replay."""
        if not self.recording:
            return self._tape.saved()
        with torch.inference_mode(False), torch.no_grad():
            value = compute()
        value = detached(value) if isinstance(value, Tensor) else tree_map(detached, value)
        self._tape.save(value)
        return value

    def held(self, values: T) -> T:
        """Return (nested) arguments as a gate is computed from them: without gradient."""
        return tree_map(detached, values)

    def save_for_backward(self, value: T) -> Callable[[], T]:
        """Save a value like :meth:`save`, and return a function that gives its current state to the backward pass."""
        index = len(self._tape)
        self.save(lambda: value)
        return lambda: self._tape[index]

    def cuts(self, how: str) -> None:
        """Count evidence that is read by Python or detached, by the module responsible."""
        if self.recording:
            self._cut[(how, *self._running_module())] += 1

    def stops(self, name: str) -> None:
        """Note, while tracing, that an operation of this name turned a dependent tensor into a constant."""
        if self.trace_stops and self.recording:
            self.last_stop = (name, _by(*self._running_module()))

    @property
    def cut_off(self) -> tuple[CutOff, ...]:
        """Evidence that was cut off, in order of first occurrence."""
        return tuple(CutOff(*which, count) for which, count in self._cut.items())

    # ---------------------------------------------------------------- replay

    @contextmanager
    def replay(self, *, counterfactual: bool = True) -> Iterator[None]:
        """Run the recorded pass again with its gates held.

        Args:
            counterfactual: False: the replay equals the recording until :meth:`start_counterfactual` is called.

        Raises:
            OutOfStep: the pass did not use the same gates.
        """
        self.recording, self.counterfactual = False, counterfactual
        self._tape.rewind()
        try:
            # grad mode is on, as when recording, so that the network takes the same branches; no tensor requires grad
            with torch.inference_mode(False), torch.enable_grad(), self:
                yield
            self._tape.check_end()
        finally:
            self.recording = True

    def start_counterfactual(self) -> None:
        """Mark the point from which the replay differs from the recording."""
        self.counterfactual = True

    def clear(self) -> None:
        """Discard all saved values."""
        self._tape.clear()
        self._aliased.clear()
        self.notes.clear()

    # ---------------------------------------------------------------- spellings

    def _linear(self, operation: Operation, func: Any, args: Any, kwargs: Any, alive: bool) -> Any:
        """Run the function as PyTorch does, also in place and on views."""
        if operation.inplace == "self":
            self._check_write([args[0]], constant=not alive)
            if self.recording and alive:
                return self._guarded_write(func, args, kwargs)
        elif alive and self.separate_views and operation.name in SEVERAL_VIEWS and self.recording:
            return separate_views(operation.name, *args, **kwargs)
        return func(*args, **kwargs)

    def _written_by(
        self, rule: Rule, operation: Operation, func: Any, args: Any, kwargs: Any, written: Sequence[Tensor]
    ) -> Any:
        """Write the rule's result to the target of an in-place or ``out=`` call."""
        if operation.inplace == "self" and rule is linear:
            self._check_write(written, constant=False)
            return self._guarded_write(func, args, kwargs)
        out = kwargs.pop("out", None)
        into = getattr(rule, "into", None)
        if into is not None and out is None and self.recall(lambda: _is_plain(written[0]) and written[0].requires_grad):
            self._check_write(written, constant=False)
            return into(self, operation.compute, *args, **kwargs)
        result = rule(self, operation.compute, *args, **kwargs)
        self._check_write(written, constant=False)
        results = [result] if isinstance(result, Tensor) else list(result)
        for target, value in zip(written, results, strict=True):
            if out is not None and target.shape != value.shape:
                target.resize_(value.shape)
            self._guarded_write(Tensor.copy_, (target, value), {})
            if self.recording and target.requires_grad and not value.requires_grad and not target._is_view():
                target.detach_()  # overwritten by a constant, it is one itself
        if out is None or isinstance(result, Tensor):
            return written[0]
        return out if type(result) is tuple else type(result)(written)

    def _guarded_write(self, func: Any, args: Any, kwargs: Any) -> Any:
        if not self.separate_views and getattr(args[0], "_is_view", bool)() and args[0].requires_grad:
            try:
                return func(*args, **kwargs)
            except RuntimeError as error:
                if "view" in str(error) and "modified inplace" in str(error):
                    raise SharedViews from error
                raise
        return func(*args, **kwargs)

    def _check_write(self, written: Sequence[Any], *, constant: bool) -> None:
        for tensor in written:
            self._tape.copy_before_write(tensor)
            if isinstance(tensor, Tensor) and storage(tensor) in self._memory_of_parameters():
                raise ValueError(
                    f"{_by(*self._running_module())} writes into a parameter while it computes its output, so the "
                    "network is another one at every call; a readout would change your model: compute the weight anew "
                    "in forward instead"
                )
            if constant and self._aliased and isinstance(tensor, Tensor) and storage(tensor) in self._aliased:
                raise ValueError(
                    f"{_by(*self._running_module())} writes through .detach(), .data or a view made under no_grad into "
                    "a tensor that depends on the feature space, hidden from gradients; write into the tensor itself"
                )

    def _memory_of_parameters(self) -> set[int]:
        if self._parameter_memory is None:
            parameters = self._model.parameters() if self._model is not None else ()
            self._parameter_memory = storages(parameters)
        return self._parameter_memory

    def _without_foreign_gradient(self, value: Any) -> Any:
        if isinstance(value, Tensor) and value.requires_grad and is_foreign(value, self.since):
            return value.detach()
        return value

    # ---------------------------------------------------------------- marks

    def _next_mark(self, alive: bool, outside: bool, rule: Rule | None, func: Any, args: Any, kwargs: Any) -> int:
        if not self.recording:
            return self._tape.marked()
        mark = _CONSTANT if not alive else _RULED
        if alive and outside and rule is not None and not getattr(rule, "is_constant", False):
            mark = _CUT
        self._tape.mark(mark)
        return mark

    def _cut_off(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Return a constant for a call under ``no_grad``, and count what is cut off."""
        if not self.recording:
            return self.save(never)
        args, kwargs = tree_map(detached, (args, kwargs))
        value = self.save(lambda: func(*args, **kwargs))
        if any(isinstance(leaf, Tensor) and leaf.is_floating_point() for leaf in tree_leaves(value)):
            self.cuts(self._reason_of_no_grad())
            self.stops("no_grad")
        self.note_aliases(value, args)
        return value

    def _reason_of_no_grad(self) -> str:
        """Return why autograd is off: inference mode, a custom autograd function, or ``no_grad``.

        Raises:
            ValueError: the custom function is that of activation checkpointing, which runs the layers again later.
        """
        if torch.is_inference_mode_enabled():
            return "inference_mode"
        function = running_autograd_function()
        if function is CheckpointFunction:
            raise ValueError(
                f"{_by(*self._running_module())} calls torch.utils.checkpoint, which hides the operations inside from "
                "a readout; switch activation checkpointing off"
            )
        return "no_grad" if function is None else AUTOGRAD_FUNCTION + function.__name__

    def note_aliases(self, value: Any, args: Any) -> None:
        """Note that a constant given to the network shares the memory of a dependent tensor."""
        self._aliased |= storages(tensors_of(value)) & storages(tensors_of(args))

    # ---------------------------------------------------------------- what is running

    def _complaint(self, name: str) -> str:
        return (
            f"no rule makes the operation '{name}' linear; it ran in {_by(*self._running_module())}. "
            "Read out at a later layer (feature_space=...), or register a rule with xai_align.pinet.register_rule"
        )

    def _running_module(self) -> tuple[str, str]:
        """Return name and class of the innermost module on the call stack."""
        if self._names is None:
            modules = self._model.named_modules() if self._model is not None else ()
            self._names = {id(module): name for name, module in modules}
        frame = inspect.currentframe()
        while frame is not None:
            owner = frame.f_locals.get("self")
            if isinstance(owner, nn.Module):
                return self._names.get(id(owner), ""), type(owner).__name__
            frame = frame.f_back
        return "", "the network"


def detached(value: Any) -> Any:
    """Return a tensor as a constant, anything else unchanged."""
    return value.detach() if isinstance(value, Tensor) else value


def never() -> Any:
    """Raise, as a placeholder for a computation that a replay does not repeat."""
    raise AssertionError("a replay computes nothing that was kept")


#: Whether the readout of the current thread called a function that draws random numbers.
draws = threading.local()
_RANDOM = frozenset(
    """
    rand randn randint randperm rand_like randn_like randint_like normal bernoulli multinomial poisson binomial uniform
    exponential geometric cauchy log_normal random dropout alpha_dropout feature_dropout feature_alpha_dropout
    native_dropout rrelu gumbel_softmax dropout1d dropout2d dropout3d
    """.split()
)


def _by(where: str, kind: str) -> str:
    return f"module '{where}' ({kind})" if where else kind


def _usable(value: Any) -> Any:
    """Return copies of tensors made under ``inference_mode``, which autograd cannot save for a backward pass."""
    return value.clone() if isinstance(value, Tensor) and value.is_inference() else value


def _is_plain(x: Any) -> bool:
    """Return whether a tensor can be written to directly, because it is not a view, whose base would change too."""
    return isinstance(x, Tensor) and not x._is_view()
