"""State of a fit: weights, best weights and progress, with saving to and restoring from a checkpoint.

Random states need not be saved: every epoch and every step starts with seeds derived
from the fit's seed and their numbers.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from xai_align._tools.files.fields import Rule, anything, record
from xai_align.training.checkpoints import Snapshot
from xai_align.training.restoring import PROGRESS, atomically, below, check_kept
from xai_align.training.training_log import Row

_BEST = "best/"


class FitState(ABC):
    """State that every training program has; a subclass adds its optimisers and whatever else it changes.

    Args:
        weights: parameters and buffers of all networks, by name.
        trained: the parameters that change. Buffers may change too.
        initial_is_best: whether the initial weights count as the best until a validation.
    """

    #: Prefix of the weights' names in a checkpoint.
    prefix: ClassVar[str]

    def __init__(self, weights: Mapping[str, Tensor], trained: Iterable[Tensor], *, initial_is_best: bool) -> None:
        changing = {id(p) for p in trained}
        self._weights = dict(weights)
        self._changing = {
            name: value
            for name, value in weights.items()
            if id(value) in changing or not isinstance(value, nn.Parameter)
        }
        self.epoch, self.step, self.seconds, self._clock = 0, 0, 0.0, 0.0
        #: True while an epoch is incomplete.
        self.within_epoch = False
        self.history: list[Row] = []
        #: The row of the best validation, and the number of validations since.
        self.best: Row | None = None
        self.since_best = 0
        self.stopped: str | None = None
        self._initial_is_best = initial_is_best
        self._best_weights = self._copy() if initial_is_best else {}
        #: The weights to resume from, while the networks have the best ones.
        self._last_weights: dict[str, Tensor] = {}

    @abstractmethod
    def own_snapshot(self) -> Snapshot:
        """Return what the subclass adds to a snapshot."""

    @abstractmethod
    def own_rules(self) -> Mapping[str, Rule]:
        """Return the rules of the numbers that the subclass adds."""

    @abstractmethod
    def check_own(self, snapshot: Snapshot, source: str) -> None:
        """Raise ValueError if the tensors that the subclass adds are invalid."""

    @abstractmethod
    def load_own(self, snapshot: Snapshot) -> None:
        """Restore what the subclass adds."""

    def begin_epoch(self) -> None:
        """Mark the epoch as incomplete, and start its clock."""
        self.within_epoch = True
        self._clock = time.monotonic() - self.seconds

    def update_seconds(self) -> float:
        """Return the time for training and validation so far."""
        self.seconds = time.monotonic() - self._clock
        return self.seconds

    def remember_as_best(self, row: Row) -> None:
        """Store the current weights as the best so far."""
        self.best = row
        self._best_weights = self._copy()

    @torch.no_grad()
    def take_best_weights(self) -> None:
        """Load the best weights so far into the networks, and store the last ones."""
        if self._best_weights and not self._last_weights:
            self._last_weights = self._copy()
            self._fill(self._best_weights)

    @torch.no_grad()
    def take_last_weights(self) -> None:
        """Load the stored last weights back into the networks."""
        self._fill(self._last_weights)
        self._last_weights = {}

    def result(self) -> dict[str, Any]:
        """Return the fields that the results of all fits have."""
        return {
            "best": self.best,
            "history": list(self.history),
            "epochs": self.epoch,
            "steps": self.step,
            "stopped": self.stopped or "epochs",
            "seconds": self.seconds,
        }

    def snapshot(self) -> Snapshot:
        """Return everything that the next epoch depends on."""
        own = self.own_snapshot()
        tensors = {self.prefix + name: self._last_weights.get(name, value) for name, value in self._weights.items()}
        tensors |= {_BEST + name: value for name, value in self._best_weights.items()}
        numbers = {
            "epoch": self.epoch,
            "step": self.step,
            "seconds": self.seconds,
            "history": self.history,
            "best": self.best,
            "since_best": self.since_best,
            "stopped": self.stopped,
        }
        return Snapshot(tensors | dict(own.tensors), numbers | dict(own.numbers))

    @torch.no_grad()
    def restore(self, snapshot: Snapshot, source: str = "the checkpoint") -> None:
        """Restore a snapshot, or change nothing.

        Raises:
            ValueError: it is from another fit, or invalid; the message names the source.
        """
        self._check(snapshot, source)
        before = self.snapshot()
        before = Snapshot({name: value.clone() for name, value in before.tensors.items()}, before.numbers)
        with atomically(lambda: self._load(before), source):
            self._load(snapshot)

    def _check(self, snapshot: Snapshot, source: str) -> None:
        rule = record({**PROGRESS, **self.own_rules()}, {"config": anything})
        if complaint := rule(snapshot.numbers, ""):
            raise ValueError(f"{source} is invalid: {complaint}")
        check_kept(self._weights, below(self.prefix, snapshot), source)
        check_kept(self._changing, below(_BEST, snapshot), source, subset=not self._initial_is_best)
        self.check_own(snapshot, source)

    def _load(self, snapshot: Snapshot) -> None:
        numbers = snapshot.numbers
        self._last_weights, self.within_epoch = {}, False
        for name, value in self._weights.items():
            value.copy_(snapshot.tensors[self.prefix + name])
        best = below(_BEST, snapshot)
        self._best_weights = {name: value.to(self._changing[name].device).clone() for name, value in best.items()}
        self.load_own(snapshot)
        self.epoch, self.step, self.seconds = numbers["epoch"], numbers["step"], numbers["seconds"]
        self.history, self.best = list(numbers["history"]), numbers["best"]
        self.since_best, self.stopped = numbers["since_best"], numbers["stopped"]

    def _copy(self) -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in self._changing.items()}

    def _fill(self, weights: Mapping[str, Tensor]) -> None:
        for name, value in weights.items():
            self._changing[name].copy_(value)


def weights_of(network: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers by name."""
    return {**dict(network.named_parameters()), **dict(network.named_buffers())}
