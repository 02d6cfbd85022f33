"""Where a network is read, and by which rule: what a caller may say, brought to one form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast, get_args

from torch import nn

from xai_align import plugins
from xai_align.features.routes import find_layer, layer_name
from xai_align.hookspecs import FeatureSpace
from xai_align.pinet.pseudo_linear import PseudoLinear, second_look_space

#: How a caller may name one feature space: by a layer's name, its module, or a record. None: the default.
Where: TypeAlias = str | nn.Module | FeatureSpace | None
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
    """

    feature_space: Where = None
    rule: RuleName = "gate"
    gamma: float = GAMMA
    biases: BiasName = "apart"

    def __post_init__(self) -> None:
        if self.rule not in get_args(RuleName):
            raise ValueError(f"there is no rule {self.rule!r}; it is 'gate' or 'gamma'")
        if self.biases not in get_args(BiasName):
            raise ValueError(f"biases is {self.biases!r}; they are 'apart' or 'placed'")


#: How a caller of a readout may say where: one place, or several to be mixed.
Places: TypeAlias = Where | Place | Sequence[Where | Place]


def where_to_read(model: nn.Module, asked: Where = None) -> FeatureSpace:
    """The feature space that ``asked`` means, or the default: a PiNet's own, where the plugins say, or the input.

    Raises:
        ValueError: the module is not part of the model.
        TypeError: it is not one place.
    """
    if isinstance(asked, FeatureSpace):
        return asked
    if asked is None and isinstance(model, PseudoLinear):
        return second_look_space(model)
    if asked is None:
        return plugins.feature_space(model) or FeatureSpace(layer="input")
    name = layer_name(model, asked) if isinstance(asked, nn.Module) else asked
    if not isinstance(name, str):
        raise TypeError(
            f"one feature space is asked for here, got {name!r}; give a layer's name, its module or a FeatureSpace. "
            "Tensors that are to be cut jointly go into one FeatureSpace(layer=('a', 'b'))"
        )
    if name == "input":
        return FeatureSpace(layer="input", layout="NCHW")
    default = plugins.feature_space(model)
    if default is not None and default.layer == name:
        return default  # also by the name that a plugin gives to a place that is no layer
    return plugins.feature_space(model, name) or FeatureSpace(layer=name)


def check_place(model: nn.Module, name: str) -> None:
    """Raise if ``name`` is neither the input, nor the place that a plugin names, nor a layer of the model.

    Raises:
        ValueError: it is none of these; the message tells what there is.
    """
    default = plugins.feature_space(model)
    if name != "input" and (default is None or default.layer != name):
        find_layer(model, name)


def as_places(asked: Places, rule: RuleName, gamma: float, biases: BiasName) -> list[Place]:
    """Every place that ``asked`` names; those that are no records get the rule that is given.

    Raises:
        ValueError: there is none, or no such rule.
    """
    several: list[Where | Place] = list(asked) if isinstance(asked, list | tuple) else [cast(Where | Place, asked)]
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
