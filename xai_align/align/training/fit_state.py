"""State of an ALIGN fit: two networks, their optimisers, the plan's position, and what terms remember."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from torch import Tensor, nn

from xai_align._tools.files.fields import Rule, anything, like, one_of, record, table_of
from xai_align.align.masker import Masker
from xai_align.align.training.collapse_responses import CollapseResponse
from xai_align.align.training.phases import PHASES, PlanPosition
from xai_align.align.training.updates import Updater
from xai_align.training.checkpoints import Snapshot
from xai_align.training.fit_state import FitState, weights_of
from xai_align.training.optimizer_state import optimizer_state, plain_value, restore_optimizer
from xai_align.training.restoring import COUNT, NOTES, below, check_optimizer


class AlignFitState(FitState):
    """State of a fit.

    Args:
        networks: "classifier" and, if there is one, "masker", with the weights at the start.
        updaters: the optimisers, by the same names.
        terms: terms of both losses; those with a state have a ``state_dict()``.
        response: response to collapsed masks.
        position: position in the plan at which the fit begins.
    """

    prefix = "network/"

    def __init__(
        self,
        networks: Mapping[str, nn.Module],
        updaters: Mapping[str, Updater],
        terms: Sequence[Any],
        response: CollapseResponse,
        position: PlanPosition,
    ) -> None:
        weights = {
            f"{name}/{key}": one for name, network in networks.items() for key, one in weights_of(network).items()
        }
        trained = [p for updater in updaters.values() for p in updater.parameters]
        super().__init__(weights, trained, initial_is_best=False)
        self._updaters, self._response, self._masker = updaters, response, networks.get("masker")
        self._terms = {f"{number}-{term.name}": term for number, term in enumerate(terms) if _has_state(term)}
        self.position = position
        #: Number of steps in an epoch, once one is complete.
        self.steps_in_epoch = 0
        self.notes: list[str] = []

    def own_snapshot(self) -> Snapshot:
        """Return optimisers, scalers, the terms' states, the response to collapse, the position, and notes."""
        tensors: dict[str, Tensor] = {}
        numbers: dict[str, Any] = {
            "steps_in_epoch": self.steps_in_epoch,
            "place": asdict(self.position),
            "notes": self.notes,
            "collapse": self._response.state_dict(),
            "optimizers": {},
            "scalers": self._scalers(),
            "terms": {},
            "masker_options": masker_options(self._masker),
        }
        for name, updater in self._updaters.items():
            own, numbers["optimizers"][name] = optimizer_state(updater.optimizer)
            tensors |= {f"optimizer/{name}/{key}": value for key, value in own.items()}
        for name, term in self._terms.items():
            state = term.state_dict()
            tensors |= {f"term/{name}/{key}": value for key, value in state.items() if isinstance(value, Tensor)}
            rest = {key: value for key, value in state.items() if not isinstance(value, Tensor)}
            numbers["terms"][name] = plain_value(rest, f"the term '{term.name}'")
        return Snapshot(tensors, numbers)

    def own_rules(self) -> Mapping[str, Rule]:
        """Return the rules of the numbers in :meth:`own_snapshot`."""
        return {
            "steps_in_epoch": COUNT,
            "place": record({"phase": one_of(*PHASES), "epochs": COUNT, "steps": COUNT}),
            "notes": NOTES,
            "collapse": like(self._response.state_dict()),
            "optimizers": record(dict.fromkeys(self._updaters, anything)),
            "scalers": like(self._scalers()),
            "terms": table_of(table_of(anything)),
            "masker_options": anything,
        }

    def check_own(self, snapshot: Snapshot, source: str) -> None:
        """Check the states of optimisers and terms."""
        if snapshot.numbers["terms"].keys() != self._terms.keys():
            raise ValueError(f"{source} is of a fit with other loss terms; resume with its recipe, or start anew")
        for name, updater in self._updaters.items():
            own, numbers = below(f"optimizer/{name}/", snapshot), snapshot.numbers["optimizers"][name]
            check_optimizer(updater.optimizer, own, numbers, f"optimizers.{name}", source)
        for name, term in self._terms.items():
            _check_term(term, below(f"term/{name}/", snapshot), snapshot.numbers["terms"][name], name, source)

    def load_own(self, snapshot: Snapshot) -> None:
        """Restore everything in :meth:`own_snapshot`."""
        numbers = snapshot.numbers
        for name, updater in self._updaters.items():
            restore_optimizer(updater.optimizer, below(f"optimizer/{name}/", snapshot), numbers["optimizers"][name])
            if updater.scaler is not None and numbers["scalers"][name] is not None:
                updater.scaler.load_state_dict(numbers["scalers"][name])
        for name, term in self._terms.items():
            term.load_state_dict({**numbers["terms"][name], **below(f"term/{name}/", snapshot)})
        self._response.load_state_dict(numbers["collapse"])
        self.position = PlanPosition(**numbers["place"])
        self.steps_in_epoch, self.notes = numbers["steps_in_epoch"], list(numbers["notes"])

    def _scalers(self) -> dict[str, Any]:
        return {
            name: None if updater.scaler is None else updater.scaler.state_dict()
            for name, updater in self._updaters.items()
        }


def _check_term(term: Any, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any], name: str, source: str) -> None:
    """Check that a term's saved state has the term's names; values that it doesn't have yet may have any shape."""
    state = term.state_dict()
    for key, value in {**numbers, **tensors}.items():
        own = state.get(key, value)
        odd = isinstance(own, Tensor) != isinstance(value, Tensor) or (
            isinstance(value, Tensor) and ((own.numel() > 0 and own.shape != value.shape) or bool(value.isinf().any()))
        )
        if odd or (not isinstance(value, Tensor) and like(own)(value, key)):
            raise ValueError(
                f"{source} is invalid: terms.{name}.{key[:60]} has another shape or type, or infinite values"
            )


def masker_options(masker: nn.Module | None) -> dict[str, Any] | None:
    """Return the options that build a :class:`~xai_align.align.Masker`; None: there is none, or one of another kind."""
    return masker.options if isinstance(masker, Masker) else None


def _has_state(term: Any) -> bool:
    return callable(getattr(term, "state_dict", None)) and callable(getattr(term, "load_state_dict", None))
