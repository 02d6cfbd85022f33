"""Layers where a network is read, and the rule of each: what a caller may say, brought to one form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast, get_args

from torch import nn

from xai_align.features.resolve_layer import Layer, resolve_layer
from xai_align.hookspecs import FeatureSpace
from xai_align.pinet.network.pseudo_linear import PseudoLinear, second_look_space

#: "gate": coefficients are held as they are. "gamma": what agrees with a unit's value is favoured.
RuleName = Literal["gate", "gamma"]
#: "apart": biases are one number. "placed": what they add stays at the positions where they add it.
BiasName = Literal["apart", "placed"]
#: The favour of the gamma rule where none is given.
GAMMA = 0.25


@dataclass(frozen=True, kw_only=True)
class Place:
    """One of the places of a mixed readout, with a rule of its own.

    Attributes:
        feature_space: where to read; None: where the plugins say.
        rule: the rule between this place and the output.
        gamma: the favour of the gamma rule.
        biases: what becomes of the biases behind this place.

    Raises:
        ValueError: there is no such rule, or no such way with biases.

    Example::

        fine = Place(feature_space="conv1", rule="gamma", biases="placed")
        readout = read_out(model, images, 281, [fine, Place(feature_space="conv2")])
    """

    feature_space: Layer = None
    rule: RuleName = "gate"
    gamma: float = GAMMA
    biases: BiasName = "apart"

    def __post_init__(self) -> None:
        if self.rule not in get_args(RuleName):
            raise ValueError(f"there is no rule {self.rule!r}; it is 'gate' or 'gamma'")
        if self.biases not in get_args(BiasName):
            raise ValueError(f"biases is {self.biases!r}; they are 'apart' or 'placed'")


#: How a caller of a readout may say where: one place, or several to be mixed.
Places: TypeAlias = Layer | Place | Sequence[Layer | Place]


def readout_space(model: nn.Module, asked: Layer = None) -> FeatureSpace:
    """Return the feature space that ``asked`` means, or the default: a PiNet's own, or :func:`resolve_layer`'s.

    Raises:
        ValueError, TypeError: as :func:`~xai_align.features.resolve_layer.resolve_layer`.
    """
    if asked is None and isinstance(model, PseudoLinear):
        return second_look_space(model)
    return resolve_layer(model, asked)


def as_places(asked: Places, rule: RuleName, gamma: float, biases: BiasName) -> list[Place]:
    """Every place that ``asked`` names; those that are no records get the rule that is given.

    Raises:
        ValueError: there is none, or no such rule.
    """
    several: list[Layer | Place] = list(asked) if isinstance(asked, list | tuple) else [cast(Layer | Place, asked)]
    if not several:
        raise ValueError("feature_space is an empty list; name at least one place, or leave it out for the default")
    return [
        one if isinstance(one, Place) else Place(feature_space=one, rule=rule, gamma=gamma, biases=biases)
        for one in several
    ]


def as_weights(weights: Sequence[float] | None, count: int) -> list[float]:
    """The shares of ``count`` places in a mixture; equal ones if none are given.

    Raises:
        ValueError: another number of weights, negative ones, or a sum that is not 1.
    """
    if weights is None:
        return [1 / count] * count
    found = [float(weight) for weight in weights]
    if len(found) != count:
        raise ValueError(f"{len(found)} weights for {count} place(s); give one for each, or None for equal ones")
    # a mixture is exact because each part accounts for the whole answer and the weights share it out
    if not all(weight >= 0 for weight in found) or not math.isclose(sum(found), 1, abs_tol=1e-6):
        raise ValueError(
            f"the weights {found} sum to {sum(found):.6g}; they must be 0 or more and sum to 1, "
            "so that what they share out is the answer"
        )
    return found
