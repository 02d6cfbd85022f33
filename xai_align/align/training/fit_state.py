"""State of a fit, with saving to and restoring from a checkpoint.

Random states need not be saved: every epoch and every step starts with seeds derived
from the fit's seed and their numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from xai_align._tools.files.fields import anything, like, one_of, record, table_of
from xai_align.align.training.collapse_responses import CollapseResponse
from xai_align.align.training.phases import PHASES, PlanPosition
from xai_align.align.training.updates import Updater
from xai_align.training.checkpoints import Snapshot
from xai_align.training.optimizer_state import optimizer_state, plain_value, restore_optimizer
from xai_align.training.restoring import COUNT, NOTES, PROGRESS, atomically, below, check_kept, check_optimizer
from xai_align.training.training_log import Row


class FitState:
    """State of a fit.

    Args:
        networks: "classifier" and, if there is one, "masker", with the weights at the start.
        updaters: the optimisers, by the same names.
        terms: terms of both losses; those with a state have a ``state_dict()``.
        response: response to collapsed masks.
        position: position in the plan at which the fit begins.
    """

    def __init__(
        self,
        networks: Mapping[str, nn.Module],
        updaters: Mapping[str, Updater],
        terms: Sequence[Any],
        response: CollapseResponse,
        position: PlanPosition,
    ) -> None:
        self._updaters, self._response = updaters, response
        self._terms = {f"{number}-{term.name}": term for number, term in enumerate(terms) if _remembers(term)}
        self._kept: dict[str, Tensor] = {}
        for name, network in networks.items():
            own = {**dict(network.named_parameters()), **dict(network.named_buffers())}
            self._kept |= {f"{name}/{key}": value for key, value in own.items()}
        trained = {id(p) for updater in updaters.values() for p in updater.parameters}
        self._changing = {
            name: value
            for name, value in self._kept.items()
            if id(value) in trained or not isinstance(value, nn.Parameter)
        }
        self.position = position
        self.epoch, self.step, self.seconds = 0, 0, 0.0
        #: Number of steps in an epoch, once one is complete.
        self.steps_in_epoch = 0
        #: True while an epoch is incomplete.
        self.within_epoch = False
        self.history: list[Row] = []
        #: The row of the best validation, and the number of validations since.
        self.best: Row | None = None
        self.since_best = 0
        self.stopped: str | None = None
        self.notes: list[str] = []
        self._best_weights: dict[str, Tensor] = {}
        #: The weights to resume from, while the networks have the best ones.
        self._aside: dict[str, Tensor] = {}

    def remember_as_best(self, row: Row) -> None:
        """Store the current weights as the best so far."""
        self.best, self.since_best = row, 0
        self._best_weights = self._copy()

    @torch.no_grad()
    def take_best_weights(self) -> None:
        """Load the best weights so far into the networks, and store the last ones."""
        if self._best_weights and not self._aside:
            self._aside = self._copy()
            self._fill(self._best_weights)

    @torch.no_grad()
    def take_last_weights(self) -> None:
        """Load the stored last weights back into the networks."""
        if self._aside:
            self._fill(self._aside)
            self._aside = {}

    def snapshot(self) -> Snapshot:
        """Return everything that the next epoch depends on."""
        tensors = {f"network/{name}": self._aside.get(name, value) for name, value in self._kept.items()}
        tensors |= {f"best/{name}": value for name, value in self._best_weights.items()}
        numbers: dict[str, Any] = {
            "epoch": self.epoch,
            "step": self.step,
            "seconds": self.seconds,
            "steps_in_epoch": self.steps_in_epoch,
            "place": {"phase": self.position.phase, "epochs": self.position.epochs, "steps": self.position.steps},
            "history": self.history,
            "best": self.best,
            "since_best": self.since_best,
            "stopped": self.stopped,
            "notes": self.notes,
            "collapse": self._response.state_dict(),
            "optimizers": {},
            "scalers": {},
            "terms": {},
        }
        for name, updater in self._updaters.items():
            own, plain = optimizer_state(updater.optimizer)
            tensors |= {f"optimizer/{name}/{key}": value for key, value in own.items()}
            numbers["optimizers"][name] = plain
            numbers["scalers"][name] = None if updater.scaler is None else updater.scaler.state_dict()
        for name, term in self._terms.items():
            state = term.state_dict()
            tensors |= {f"term/{name}/{key}": value for key, value in state.items() if isinstance(value, Tensor)}
            rest = {key: value for key, value in state.items() if not isinstance(value, Tensor)}
            numbers["terms"][name] = plain_value(rest, f"the term '{term.name}'")
        return Snapshot(tensors, numbers)

    @torch.no_grad()
    def restore(self, snapshot: Snapshot, source: str = "the checkpoint") -> None:
        """Restore a snapshot, or change nothing.

        Raises:
            ValueError: it is from other networks or terms, or invalid; the message names the source.
        """
        self._check(snapshot, source)
        before = self.snapshot()
        before = Snapshot({name: value.clone() for name, value in before.tensors.items()}, before.numbers)
        with atomically(lambda: self._take(before), source):
            self._take(snapshot)

    def _take(self, snapshot: Snapshot) -> None:
        numbers = snapshot.numbers
        self._aside, self.within_epoch = {}, False
        for name, value in self._kept.items():
            value.copy_(snapshot.tensors[f"network/{name}"])
        best = below("best/", snapshot)
        self._best_weights = {name: best[name].to(self._changing[name].device).clone() for name in best}
        for name, updater in self._updaters.items():
            restore_optimizer(updater.optimizer, below(f"optimizer/{name}/", snapshot), numbers["optimizers"][name])
            if updater.scaler is not None and numbers["scalers"][name] is not None:
                updater.scaler.load_state_dict(numbers["scalers"][name])
        for name, term in self._terms.items():
            term.load_state_dict({**numbers["terms"][name], **below(f"term/{name}/", snapshot)})
        self._response.load_state_dict(numbers["collapse"])
        self.position = PlanPosition(**numbers["place"])
        self.epoch, self.step, self.seconds = numbers["epoch"], numbers["step"], numbers["seconds"]
        self.steps_in_epoch = numbers["steps_in_epoch"]
        self.history, self.best = list(numbers["history"]), numbers["best"]
        self.since_best, self.stopped = numbers["since_best"], numbers["stopped"]
        self.notes = list(numbers["notes"])

    def _check(self, snapshot: Snapshot, source: str) -> None:
        scalers = {
            name: None if updater.scaler is None else updater.scaler.state_dict()
            for name, updater in self._updaters.items()
        }
        rule = record(
            {
                **PROGRESS,
                "steps_in_epoch": COUNT,
                "place": record({"phase": one_of(*PHASES), "epochs": COUNT, "steps": COUNT}),
                "notes": NOTES,
                "collapse": like(self._response.state_dict()),
                "optimizers": record(dict.fromkeys(self._updaters, anything)),
                "scalers": like(scalers),
                "terms": table_of(table_of(anything)),
            },
            {"config": anything, "masker_options": anything},
        )
        if complaint := rule(snapshot.numbers, ""):
            raise ValueError(f"{source} is not what it should be: {complaint}")
        if snapshot.numbers["terms"].keys() != self._terms.keys():
            raise ValueError(f"{source} is of a fit with other loss terms")
        check_kept(self._kept, below("network/", snapshot), source)
        check_kept(self._changing, below("best/", snapshot), source, subset=True)
        for name, updater in self._updaters.items():
            own, numbers = below(f"optimizer/{name}/", snapshot), snapshot.numbers["optimizers"][name]
            check_optimizer(updater.optimizer, own, numbers, f"optimizers.{name}", source)
        for name, term in self._terms.items():
            self._check_term(term, below(f"term/{name}/", snapshot), snapshot.numbers["terms"][name], name, source)

    def _check_term(
        self, term: Any, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any], name: str, source: str
    ) -> None:
        """Check that a term's saved state has the term's names; values that it doesn't have yet may have any shape."""
        mine = term.state_dict()
        for key, value in {**numbers, **tensors}.items():
            own = mine.get(key, value)
            odd = isinstance(own, Tensor) != isinstance(value, Tensor) or (
                isinstance(value, Tensor)
                and ((own.numel() > 0 and own.shape != value.shape) or bool(value.isinf().any()))
            )
            if odd or (not isinstance(value, Tensor) and like(own)(value, key)):
                raise ValueError(f"{source} is not what it should be: terms.{name}.{key[:60]} has another form")

    def _copy(self) -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in self._changing.items()}

    def _fill(self, weights: Mapping[str, Tensor]) -> None:
        for name, value in weights.items():
            self._changing[name].copy_(value)


def _remembers(term: Any) -> bool:
    return callable(getattr(term, "state_dict", None)) and callable(getattr(term, "load_state_dict", None))
