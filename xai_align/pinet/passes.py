"""Accounts at several places with as few passes of the model as they can share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from xai_align.hookspecs import FeatureSpace
from xai_align.model_state import frozen_parameters, without_checkpointing
from xai_align.pinet.accounts import Account, frozen_accounts, local_account
from xai_align.pinet.gamma_rule import gamma_rules
from xai_align.pinet.head_probe import probe_head
from xai_align.pinet.placed_biases import BiasesApart, PlacedBiases
from xai_align.pinet.places import Place
from xai_align.pinet.pseudo_linear import PseudoLinear
from xai_align.pinet.routes import route_through
from xai_align.pinet.rule_registry import Rule
from xai_align.pinet.second_look_account import second_look_account
from xai_align.question import Question


def read_places(
    model: nn.Module,
    places: Sequence[Place],
    spaces: Sequence[FeatureSpace],
    inputs: Sequence[Any],
    extra: Sequence[Any],
    questions: Sequence[Question],
) -> list[tuple[Account, bool]]:
    """For each place, the account there and whether it is local.

    A PiNet's own sum is taken as it is. A place with a split runs by itself: its head alone, if that is affine. All
    others with the same rule share one forward and one backward pass.

    Args:
        model: the network.
        places: rules and ways with biases.
        spaces: the feature spaces of the places.
        inputs: the model's inputs.
        extra: its further arguments.
        questions: one for each example.
    """
    found: dict[int, tuple[Account, bool]] = {}
    for numbers in _sharing_a_pass(model, places, spaces):
        here = [spaces[number] for number in numbers]
        if _accounts_for_itself(model, places[numbers[0]]):
            found[numbers[0]] = second_look_account(model, inputs, extra, questions)
            continue
        route = route_through(model, here, inputs, extra)
        if len(here) == 1 and probe_head(model, here[0], route.z).affine:
            local = all(one.is_linear for one in questions)
            found[numbers[0]] = (local_account(route, questions), local)
            continue
        _refuse_inference_mode(here[0])
        place = places[numbers[0]]
        with frozen_parameters(model), without_checkpointing(model):
            accounts = frozen_accounts(model, route, here, questions, _rules_of(place), _biases_of(place, inputs))
        found.update((number, (account, False)) for number, account in zip(numbers, accounts, strict=True))
    return [found[number] for number in range(len(places))]


def image_size(inputs: Sequence[Any]) -> tuple[int, int] | None:
    """Rows and columns of the input, None if it is no batch of images."""
    return (inputs[0].shape[-2], inputs[0].shape[-1]) if len(inputs) == 1 and inputs[0].dim() == 4 else None


def _accounts_for_itself(model: nn.Module, place: Place) -> TypeGuard[PseudoLinear]:
    """Whether the readout of this place is the network's own sum."""
    return isinstance(model, PseudoLinear) and place.feature_space is None


def _sharing_a_pass(model: nn.Module, places: Sequence[Place], spaces: Sequence[FeatureSpace]) -> list[list[int]]:
    groups: dict[Any, list[int]] = {}
    for number, (place, space) in enumerate(zip(places, spaces, strict=True)):
        alone = space.split is not None or _accounts_for_itself(model, place)
        key = number if alone else (place.rule, place.gamma, place.biases)
        groups.setdefault(key, []).append(number)
    return list(groups.values())


def _rules_of(place: Place) -> Mapping[Any, Rule]:
    return gamma_rules(place.gamma) if place.rule == "gamma" else {}


def _biases_of(place: Place, inputs: Sequence[Tensor]) -> BiasesApart:
    if place.biases == "apart":
        return BiasesApart()
    size = image_size(inputs)
    if size is None:
        shapes = ", ".join(str(list(x.shape)) for x in inputs)
        raise ValueError(f"biases have no place in inputs that are no images [N, C, H, W] ({shapes}); keep them apart")
    return PlacedBiases(len(inputs[0]), size)


def _refuse_inference_mode(space: FeatureSpace) -> None:
    if torch.is_inference_mode_enabled():
        raise ValueError(
            f"inference_mode is on, and the readout at '{space.layer}' needs gradients; "
            "use torch.no_grad() instead, or leave inference_mode around the readout"
        )
