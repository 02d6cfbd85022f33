"""Layers to read out, each with its rule, from the caller's arguments."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any, Literal, TypeAlias, cast, get_args

from torch import Tensor, nn

from xai_align import plugins
from xai_align._tools.counted import counted
from xai_align.features.head_input import HEAD
from xai_align.features.resolve_layer import Layer, resolve_layer
from xai_align.hookspecs import FeatureSpace
from xai_align.pinet.cuts import is_cut
from xai_align.pinet.network.pseudo_linear import PseudoLinear, second_look_space

#: "gate": coefficients are those of the frozen gates. "gamma": terms that agree in sign with a unit's value count more.
RuleName = Literal["gate", "gamma"]
#: "apart": biases are one number. "placed": bias contributions are kept as maps, at the positions where they act.
BiasName = Literal["apart", "placed"]
#: "held": attention weights are constants. "flowing": half of the evidence flows through them, to first order.
AttentionName = Literal["held", "flowing"]
#: Default strength of the gamma rule.
GAMMA = 0.25


@dataclass(frozen=True, kw_only=True)
class ReadoutLayer:
    """Layer of a mixed readout, with its own rule.

    Attributes:
        feature_space: the layer; None: the head's input.
        rule: the rule between this layer and the output.
        gamma: the strength of the gamma rule.
        biases: the treatment of biases behind this layer.
        classifier: the strength of the gamma rule at the classifier; None: as elsewhere.
        residual: the strength of the residual rule at additions (:mod:`~xai_align.pinet.gates.residual_rule`); 0:
            additions are linear.
        attention: the treatment of attention (:mod:`~xai_align.pinet.gates.flowing_attention`).

    Raises:
        ValueError: there is no such rule or treatment, or a strength is no number.

    Example::

        fine = ReadoutLayer(feature_space="conv1", rule="gamma", biases="placed")
        readout = read_out(model, images, 281, [fine, ReadoutLayer(feature_space="conv2")])
    """

    feature_space: Layer = None
    rule: RuleName = "gate"
    gamma: float = GAMMA
    biases: BiasName = "apart"
    classifier: float | None = None
    residual: float = 0.0
    attention: AttentionName = "held"

    def __post_init__(self) -> None:
        if self.rule not in get_args(RuleName):
            raise ValueError(f"there is no rule {self.rule!r}; it is 'gate' or 'gamma'")
        if self.biases not in get_args(BiasName):
            raise ValueError(f"biases is {self.biases!r}; they are 'apart' or 'placed'")
        if self.attention not in get_args(AttentionName):
            raise ValueError(f"attention is {self.attention!r}; it is 'held' or 'flowing'")
        for name in ("gamma", "classifier", "residual"):
            strength = getattr(self, name)
            number = isinstance(strength, Real | Tensor) and not isinstance(strength, bool)
            if not number and (name != "classifier" or strength is not None):
                raise ValueError(f"{name} is {strength!r}; give a finite number, 0 or more")


#: Layer argument of a readout: one layer, or several for a mixture.
ReadoutLayers: TypeAlias = Layer | ReadoutLayer | Sequence[Layer | ReadoutLayer]


def readout_space(
    model: nn.Module, asked: Layer = None, image: Tensor | None = None, output: str | int | None = None
) -> FeatureSpace:
    """Return the feature space that ``asked`` denotes; None: a PiNet's own, or the head's input.

    Raises:
        ValueError, TypeError: see :func:`~xai_align.features.resolve_layer.resolve_layer`; also where the image
            reaches the output around the head's input.
    """
    if asked is None and isinstance(model, PseudoLinear):
        return second_look_space(model)
    space = resolve_layer(model, asked, image=image, output=output)
    by_structure = asked == HEAD and image is not None and plugins.feature_space(model, HEAD) is None
    if by_structure and not is_cut(model, space.layer, (image,), output=output):
        raise ValueError(
            f"'{space.layer}' is the last layer on a grid of {type(model).__name__}, and the image reaches the output "
            "around it, so there is no head that reads it alone; name the layer to read out, or leave it out for the "
            "default"
        )
    return space


def as_readout_layers(
    asked: ReadoutLayers, rule: RuleName | None = None, gamma: float | None = None, biases: BiasName | None = None
) -> list[ReadoutLayer]:
    """Return a :class:`ReadoutLayer` for each layer that ``asked`` names; plain layers get the given rule.

    Raises:
        ValueError: no layer is named, or there is no such rule.
    """
    several: list[Layer | ReadoutLayer] = (
        list(asked) if isinstance(asked, list | tuple) else [cast(Layer | ReadoutLayer, asked)]
    )
    if not several:
        raise ValueError("feature_space is an empty list; name at least one layer, or leave it out for the default")
    if all(isinstance(one, ReadoutLayer) for one in several):
        given = {"rule": rule, "gamma": gamma, "biases": biases}
        names = [name for name, value in given.items() if value is not None]
        if names:
            raise ValueError(f"a ReadoutLayer has its own options, and {names[0]}= is given too; set it in the layer")
    return [
        one if isinstance(one, ReadoutLayer) else with_options(ReadoutLayer(feature_space=one), rule, gamma, biases)
        for one in several
    ]


def with_options(
    layer: ReadoutLayer, rule: RuleName | None, gamma: float | None, biases: BiasName | None
) -> ReadoutLayer:
    """Return the layer with those of the options that are given.

    Raises:
        ValueError: a strength of the gamma rule is given for a layer that is read by another rule.
    """
    options: dict[str, Any] = {"rule": rule, "gamma": gamma, "biases": biases}
    changed = replace(layer, **{name: value for name, value in options.items() if value is not None})
    if gamma is not None and changed.rule != "gamma":
        raise ValueError(f"gamma={gamma} is a strength of rule='gamma', and the rule is {changed.rule!r}; give both")
    return changed


def as_weights(weights: Sequence[float] | None, count: int) -> list[float]:
    """Return the weights of ``count`` layers in a mixture, equal ones if none are given.

    Raises:
        ValueError: the number of weights is wrong, one is negative, or their sum is not 1.
    """
    if weights is None:
        return [1 / count] * count
    found = [float(weight) for weight in weights]
    if len(found) != count:
        raise ValueError(
            f"{counted(len(found), 'weight')} for {counted(count, 'layer')}; give one for each, or None for equal ones"
        )
    # a mixture is exact because each part sums to the whole answer and the weights sum to one
    if not all(weight >= 0 for weight in found) or not math.isclose(sum(found), 1, abs_tol=1e-6):
        raise ValueError(
            f"the weights {found} sum to {sum(found):.6g}; they must be 0 or more and sum to 1, "
            "so that the answer is distributed completely"
        )
    return found
