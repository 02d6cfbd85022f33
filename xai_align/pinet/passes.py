"""Decompositions at several layers in as few shared passes as possible, each checked against the plain model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from math import isfinite
from typing import Any, TypeGuard
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from xai_align._tools.full_precision import full_precision
from xai_align._tools.logits import select_logits
from xai_align._tools.model_state import signature
from xai_align._tools.replica import LOW_PRECISION, Replica
from xai_align._tools.thread_state import hides_interrupt
from xai_align.features.grid_layers import Grids, grids, token_spaces
from xai_align.features.routes import Route, route_through
from xai_align.features.run_with_features import cloned, run_and_take_features
from xai_align.hookspecs import FeatureSpace
from xai_align.pinet.cuts import is_cut
from xai_align.pinet.decomposition import Decomposition, is_complete, size_of
from xai_align.pinet.first_difference import first_difference
from xai_align.pinet.gates.flowing_attention import flowing_attention_rules
from xai_align.pinet.gates.frozen_gates import FrozenGates
from xai_align.pinet.gates.gamma_rule import gamma_rules
from xai_align.pinet.gates.placed_biases import BiasesApart, PlacedBiases
from xai_align.pinet.gates.residual_rule import residual_rules
from xai_align.pinet.gates.rule_registry import Rule
from xai_align.pinet.head_probe import probe_head
from xai_align.pinet.input_checks import check_logits
from xai_align.pinet.local_decomposition import decompose_locally
from xai_align.pinet.network.pseudo_linear import PseudoLinear
from xai_align.pinet.precision import OneDtype
from xai_align.pinet.readout_layers import ReadoutLayer
from xai_align.pinet.rounding import SHRINKS_TO, misses, total_of, wide
from xai_align.pinet.second_look_decomposition import check_one_batch, second_look_decomposition
from xai_align.pinet.several_layers import decompose_with_bypass, frozen_decompositions
from xai_align.question import Question

#: Parameter states and input shapes for which a model's structural copy is known to reproduce its logits.
_faithful: WeakKeyDictionary[nn.Module, tuple[Any, ...]] = WeakKeyDictionary()


class CompletenessError(ArithmeticError):
    """Logits or sum of a decomposition differ from the plain model's by more than rounding.

    Example::

        class Noisy(nn.Sequential):
            def forward(self, x):
                return super().forward(x) + torch.rand(())

        try:
            read_out(Noisy(model), images, 281)
        except CompletenessError as error:
            print(error)  # names the first module whose output differs, and by how much the logits do
    """


@dataclass(frozen=True)
class Request:
    """Arguments of a readout.

    Attributes:
        model: the network, which is run and never changed.
        layers: the layers, with their rules and treatment of biases.
        spaces: the feature spaces of the layers.
        inputs: the model's inputs.
        extra: further arguments of the model.
        questions: one for each example.
        output: which of the model's outputs are the logits.
    """

    model: nn.Module
    layers: Sequence[ReadoutLayer]
    spaces: Sequence[FeatureSpace]
    inputs: Sequence[Any]
    extra: Sequence[Any]
    questions: Sequence[Question]
    output: str | int | None = None


def read_layers(request: Request) -> list[tuple[Decomposition, bool]]:
    """Return, for each layer, its decomposition and whether that is local.

    A PiNet's own sum is used directly. A layer with a split is run separately, by its head alone if that is affine.
    All others with the same rule share one forward and one backward pass. Everything runs on a replica of the model,
    in float32 if the model's own precision is lower.

    Raises:
        CompletenessError: logits or sums differ from the plain model's; the message names what differs.
    """
    with torch.inference_mode(False):
        low = any(_is_low(x) for x in request.inputs) or _is_autocast_on(request.inputs[0])
        low = low or any(_is_low(parameter) for parameter in request.model.parameters())
        for layer in request.layers:
            if is_own_decomposition(request.model, layer):
                check_one_batch(request.model, request.inputs, request.extra)
        reading = Reading(request, torch.float32 if low else None, own=not low)
        found = reading.decompositions()
        if not low and any(decomposition.coarsest for decomposition, _ in found):
            # the network works in half precision inside, so coefficients and checks are those of a copy that does not
            low, reading = True, Reading(request, torch.float32, own=False, replaces_casts=True)
            found = reading.decompositions()
        if reading.missed:
            if request.inputs[0].device.type == "mps":  # no float64 for the decisive check
                raise CompletenessError(reading.complaint())
            found = _decided_in_float64(request, reading, found)
        return _with_own_logits(request, found) if low else found


def _decided_in_float64(
    request: Request, reading: Reading, found: list[tuple[Decomposition, bool]]
) -> list[tuple[Decomposition, bool]]:
    """Return the decompositions computed in float64, if rounding explains the differences found."""
    reading.check_copy()
    try:
        again = Reading(request, torch.float64, every=True, own=False, replaces_casts=reading.replaces_casts)
        finer = again.decompositions()
    except Exception as error:
        raise CompletenessError(
            f"{reading.complaint()} (float64 cannot decide whether it is rounding: {error})"
        ) from error
    if reading.own and -1 in reading.missed and again.replaces_casts:  # a plain pass in a mode decides nothing
        raise CompletenessError(reading.complaint())
    if not all(_shrinks(reading.worst[check], again.worst[check]) for check in again.missed):
        raise CompletenessError(reading.complaint())
    return [
        (_rounded_to(decomposition, before.answer.dtype), local)
        for (decomposition, local), (before, _) in zip(finer, found, strict=True)
    ]


def _shrinks(difference: float, finer: float) -> bool:
    """Return whether a difference shrinks in float64 as rounding does; NaN, infinity and other shapes never do."""
    return isfinite(difference) and isfinite(finer) and finer <= SHRINKS_TO * difference


def _with_own_logits(request: Request, found: list[tuple[Decomposition, bool]]) -> list[tuple[Decomposition, bool]]:
    """Return the decompositions with the model's logits in its own, lower precision, which must be close.

    Raises:
        CompletenessError: they are not close.
    """
    own = own_logits(request.model, request.inputs, request.extra, request.output)
    for decomposition, _ in found:
        check_close(own, decomposition.logits, decomposition.operations)
    return [(replace(decomposition, logits=own), local) for decomposition, local in found]


def own_logits(model: nn.Module, inputs: Sequence[Any], extra: Sequence[Any], output: str | int | None) -> Tensor:
    """Return the model's logits as it computes them, without gradients."""
    with torch.no_grad():
        returned = model(*cloned(inputs), *cloned(extra))
    return check_logits(select_logits(returned, output), len(inputs[0])).detach()


def check_close(own: Tensor, logits: Tensor, operations: int) -> None:
    """Raise if a model's own logits, of low precision, differ from those in float32 by more than their rounding.

    Raises:
        CompletenessError: they do.
    """
    precision = own.dtype if own.dtype in LOW_PRECISION else torch.bfloat16
    rows = (len(own), -1)
    difference = (wide(logits) - wide(own)).abs().reshape(rows).amax(1)
    size = wide(logits).abs().reshape(rows).amax(1)
    if bool(misses(difference, size, operations, precision).any()):
        raise CompletenessError(
            f"in float32 the model's logits are off by {float(difference.max()):.3g} from those in {precision}, "
            "more than its rounding: the model does not compute one function in both; give it in float32"
        )


class Reading:
    """One attempt at a request, in one precision.

    Args:
        request: the arguments of the readout.
        dtype: the dtype of the replica and its inputs; None: the model's.
        every: whether parameters of any floating dtype are converted, or only those of low precision.
        own: whether the model itself is in this precision, so that its logits must be reproduced.
        replaces_casts: whether the forward pass's own casts are replaced; a copy that needs it sets it itself.

    Attributes:
        missed: the checks that failed: layers by their index, and -1 for the logits.
        worst: for each check, the largest difference relative to the scale of the values compared.
        own: see the argument.
        replaces_casts: whether the forward pass's own casts are replaced.
    """

    def __init__(
        self,
        request: Request,
        dtype: torch.dtype | None,
        *,
        every: bool = False,
        own: bool = True,
        replaces_casts: bool = False,
    ) -> None:
        self.request, self.own, self._every, self._dtype = request, own, every, dtype
        self._copy = Replica(request.model, dtype=dtype, every=every)
        self._inputs = [self._converted(x) for x in request.inputs]
        self._extra = tree_map(self._converted, tuple(request.extra))
        self.spaces = [self._copy.rebind(space) for space in request.spaces]
        self.missed: dict[int, Callable[[], str]] = {}
        self.worst: dict[int, float] = {}
        self._features: dict[int, Any] = {}
        self._with_gradients = False
        self.replaces_casts = replaces_casts

    def decompositions(self) -> list[tuple[Decomposition, bool]]:
        """Read every layer, and check logits and sums."""
        found: dict[int, tuple[Decomposition, bool]] = {}
        plain = self._plain_logits()
        with self._full_precision():
            for numbers in _sharing_a_pass(self.request, self.spaces):
                found.update(zip(numbers, self._read(numbers), strict=True))
        for number in range(len(found)):
            self._check_logits(number, found[number][0], plain)
            self._check_sum(number, found[number][0])
        return [found[number] for number in range(len(found))]

    def complaint(self) -> str:
        """Return a message that names the first failed check and the size of the difference."""
        return next(iter(self.missed.values()))()

    # ---------------------------------------------------------------- reading

    def _read(self, numbers: Sequence[int]) -> list[tuple[Decomposition, bool]]:
        request, model = self.request, self._copy.module
        here = [self.spaces[number] for number in numbers]
        layer = request.layers[numbers[0]]
        if is_own_decomposition(model, layer):
            return [second_look_decomposition(model, self._inputs, self._extra, request.questions)]
        route = self._route(here, z=self._features.get(numbers[0]))
        if len(here) == 1 and probe_head(request.model, here[0], route.z, request.spaces[numbers[0]]).affine:
            return [(decompose_locally(route, request.questions), all(one.is_linear for one in request.questions))]
        rules, new_biases = _rules_of(layer), partial(_biases_of, layer, self._inputs, self._grids)
        decompositions = frozen_decompositions(model, route, here, request.questions, rules, new_biases)
        if len(here) > 1:
            # evidence from other layers bypasses a layer that is not a cut, so it is read separately
            decompositions = [
                decomposition
                if bool(is_complete(decomposition).all())
                else frozen_decompositions(model, self._route([space]), [space], request.questions, rules, new_biases)[
                    0
                ]
                for space, decomposition in zip(here, decompositions, strict=True)
            ]
        return [
            (self._beside(space, decomposition, rules, new_biases), False)
            for space, decomposition in zip(here, decompositions, strict=True)
        ]

    def _beside(
        self,
        space: FeatureSpace,
        decomposition: Decomposition,
        rules: Mapping[Any, Rule],
        new_biases: Callable[[], BiasesApart],
    ) -> Decomposition:
        """Return the decomposition, with evidence that bypasses the space added as ``around`` if there is any."""
        complete = bool(is_complete(decomposition).all())
        if (
            space.layer == "input"
            or space.split is not None
            or (complete and not decomposition.blind)
            or not any(x.is_floating_point() for x in self._inputs)
        ):
            return decomposition
        request = self.request
        # an incomplete sum is looked at in any case, as evidence may bypass the layer on these inputs alone
        if complete and is_cut(request.model, space.layer, request.inputs, request.extra, request.output):
            return decomposition
        spaces = [FeatureSpace(layer="input"), space]
        beside = decompose_with_bypass(
            self._copy.module,
            self._route(spaces),
            spaces,
            self.request.questions,
            rules,
            new_biases(),
            mode=decomposition.mode,
        )
        return beside if bool(is_complete(beside).all()) else decomposition

    def _grids(self) -> Grids:
        """Return the network's layers on grids."""
        request = self.request
        return grids(request.model, request.inputs[0], request.output, request.extra)

    def _route(self, spaces: Sequence[FeatureSpace], z: Any = None) -> Route:
        return route_through(self._copy.module, spaces, self._inputs, self._extra, output=self.request.output, z=z)

    # ---------------------------------------------------------------- the plain model

    def check_copy(self) -> None:
        """Raise if the structural copy computes another function than the original model.

        Raises:
            CompletenessError: its logits differ on the same inputs in the same precision.
        """
        request = self.request
        with torch.no_grad():
            own, again, copied = (
                wide(
                    check_logits(select_logits(model(*cloned(request.inputs), *cloned(request.extra)), request.output))
                )
                for model in (request.model, request.model, Replica(request.model).module)
            )
        if not torch.equal(own, again):
            return  # the model draws random numbers; the other checks detect this
        if own.shape != copied.shape or bool(misses((own - copied).abs().max(), own.abs().max(), 64, torch.float32)):
            raise CompletenessError(
                "a structural copy of the model, on which readouts work, gives other logits than the model itself: its "
                "forward pass looks up modules or parameters by identity or type, or keeps state between calls; make "
                "it depend on its attributes alone"
            )

    def _plain_logits(self) -> Tensor:
        """Return the plain logits in this precision: the model's own, or those of an unmodified replica.

        Where the replica's parameters do not match dtypes that the forward pass writes out, casts are replaced.
        """
        try:
            logits = self._run_plainly()
        except RuntimeError as error:
            if self._dtype is None or self.replaces_casts or hides_interrupt(error):
                raise
        else:
            if self.replaces_casts or self._dtype in (None, logits.dtype):
                return logits
        self.replaces_casts = True
        return self._run_plainly()

    def _run_plainly(self) -> Tensor:
        split = next(
            (n for n, space in enumerate(self.spaces) if space.split is not None and not self._is_own_sum(n)), None
        )
        with torch.set_grad_enabled(self._with_gradients):
            if split is not None:
                # one pass for both: the features are captured during the replica's plain forward pass
                with self._full_precision():
                    returned, self._features[split] = run_and_take_features(
                        self._copy.module, self.spaces[split], cloned(self._inputs), self._extra
                    )
                self._check_copy_once()
            elif self.own:
                returned = self.request.model(*cloned(self._inputs), *cloned(self._extra))
            else:
                with self._full_precision():
                    copy = Replica(self.request.model, dtype=self._dtype, every=self._every)
                    returned = copy.module(*cloned(self._inputs), *cloned(self._extra))
        logits = select_logits(returned, self.request.output)
        if isinstance(logits, Tensor) and not self._with_gradients and not bool(torch.isfinite(logits).all()):
            self._with_gradients = True  # PyTorch's fast paths without gradients may give NaN where others do not
            return self._run_plainly()
        return check_logits(logits, len(self._inputs[0])).detach()

    def _check_copy_once(self) -> None:
        """Run :meth:`check_copy` once per state of the model's parameters and shape of its inputs."""
        key = (signature(self.request.model), tuple(x.shape[1:] for x in self.request.inputs))
        if _faithful.get(self.request.model) != key:
            self.check_copy()
            _faithful[self.request.model] = key

    def _is_own_sum(self, number: int) -> bool:
        return is_own_decomposition(self._copy.module, self.request.layers[number])

    def _check_logits(self, number: int, decomposition: Decomposition, plain: Tensor) -> None:
        logits = decomposition.logits
        if logits.shape != plain.shape:
            shapes = f"the logits have shape {list(logits.shape)}, the plain model's have {list(plain.shape)}"
            self.worst[-1] = float("inf")
            self.missed.setdefault(-1, lambda: shapes)
            return
        rows = (len(plain), -1)
        difference = (wide(logits) - wide(plain)).abs().reshape(rows).amax(1)
        size = wide(plain).abs().reshape(rows).amax(1)
        wrong = misses(difference, size, max(decomposition.operations, 64), decomposition.coarsest or logits.dtype)
        if bool(wrong.any()) and not self._with_gradients:
            # PyTorch's fast paths without gradients fill padded positions with other values
            self._with_gradients = True
            return self._check_logits(number, decomposition, self._plain_logits())
        self._note(-1, difference, size)
        if bool(wrong.any()):
            worst = int(difference.argmax())
            self.missed.setdefault(-1, lambda: self._value_complaint(number, worst, float(difference[worst])))

    def _check_sum(self, number: int, decomposition: Decomposition) -> None:
        size = size_of(decomposition)
        self._note(number, decomposition.error.abs(), size)
        if bool(is_complete(decomposition).all()):
            return
        worst = int((decomposition.error.abs() / size.clamp_min(torch.finfo(size.dtype).tiny)).argmax())
        self.missed.setdefault(number, lambda: self._sum_complaint(number, decomposition, worst))

    def _note(self, check: int, difference: Tensor, size: Tensor) -> None:
        relative = float((difference / size.clamp_min(torch.finfo(size.dtype).tiny)).nan_to_num(nan=torch.inf).max())
        self.worst[check] = max(self.worst.get(check, 0.0), relative)

    def _value_complaint(self, number: int, example: int, difference: float) -> str:
        name = self._first_difference()
        where = f"; the first module that differs is {name}" if name else ""
        return (
            f"the logits that the rules compute for example {example} differ from the plain model's by "
            f"{difference:.3g}, more than rounding{where}. A rule does not compute its operation's value, or the model "
            "gives other logits at every call: read out after that module, with feature_space=..."
        )

    def _first_difference(self) -> str:
        with self._full_precision():
            return first_difference(
                lambda: Replica(self.request.model, dtype=self._dtype, every=self._every).module,
                self._inputs,
                self._extra,
                FrozenGates(self.request.model, separate_views=True),
            )

    def _sum_complaint(self, number: int, decomposition: Decomposition, example: int) -> str:
        layer = self.request.spaces[number].layer
        if len(decomposition.answer) > 1 and not bool(
            misses(decomposition.error.sum(), size_of(decomposition).sum(), 4096, torch.float32)
        ):
            return (
                f"the contributions at '{layer}' add up over the batch but not for each example: the network mixes the "
                "examples of a batch, so that one's evidence counts for another's answer; explain each in its own call"
            )
        return (
            f"the contributions at '{layer}' and the bias of example {example} miss the answer "
            f"{float(decomposition.answer[example]):.6g} by {float(decomposition.error[example]):.3g}, more than "
            "rounding; the network has an operation that is not intercepted and is not linear (a "
            "custom autograd function, activation checkpointing, scripted or compiled code), or gives something else "
            "at every call: read out after it, with feature_space=..."
        )

    # ---------------------------------------------------------------- precision

    def _converted(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        value = value.detach()
        value = value.clone() if value.is_inference() else value
        if self._dtype is not None and value.is_floating_point() and (self._every or value.dtype in LOW_PRECISION):
            return value.to(self._dtype)
        return value

    @contextmanager
    def _full_precision(self) -> Iterator[None]:
        """Compute in float32 or better: without autocast, and with the forward pass's own casts replaced if needed."""
        with ExitStack() as stack:
            stack.enter_context(full_precision(self.request.inputs[0]))
            if self._dtype is not None and self.replaces_casts:
                narrow = (*LOW_PRECISION, torch.float32) if self._every else LOW_PRECISION
                stack.enter_context(OneDtype(self._dtype, narrow=narrow))
            yield


def image_size(inputs: Sequence[Any]) -> tuple[int, int] | None:
    """Return rows and columns of the input, or None if it is not a batch of images."""
    return (inputs[0].shape[-2], inputs[0].shape[-1]) if len(inputs) == 1 and inputs[0].dim() == 4 else None


def is_own_decomposition(model: nn.Module, layer: ReadoutLayer) -> TypeGuard[PseudoLinear]:
    """Return whether the readout of this layer is the network's own sum."""
    return isinstance(model, PseudoLinear) and layer.feature_space is None


def _sharing_a_pass(request: Request, spaces: Sequence[FeatureSpace]) -> list[list[int]]:
    groups: dict[Any, list[int]] = {}
    for number, (layer, space) in enumerate(zip(request.layers, spaces, strict=True)):
        # one tensor of a space may depend on another; such spaces cannot share a pass
        alone = (
            space.split is not None or not isinstance(space.layer, str) or is_own_decomposition(request.model, layer)
        )
        key = number if alone else replace(layer, feature_space=None)
        groups.setdefault(key, []).append(number)
    return list(groups.values())


def _rules_of(layer: ReadoutLayer) -> Mapping[Any, Rule]:
    of_units = gamma_rules(layer.gamma, layer.classifier) if layer.rule == "gamma" else {}
    of_attention = flowing_attention_rules() if layer.attention == "flowing" else {}
    return {**of_units, **residual_rules(layer.residual), **of_attention}


def _biases_of(layer: ReadoutLayer, inputs: Sequence[Tensor], find: Callable[[], Grids]) -> BiasesApart:
    if layer.biases == "apart":
        return BiasesApart()
    size = image_size(inputs)
    if size is None:
        shapes = ", ".join(str(list(x.shape)) for x in inputs)
        raise ValueError(
            f"biases have no position in inputs that are not images [N, C, H, W] ({shapes}); use biases='apart'"
        )
    found = find()
    if found.moved:
        raise ValueError(
            "the network crops, pads, flips or shifts the image, or reorders cells, so that biases after that have no "
            "known position in it; use biases='apart', or do that before the network and explain the changed image"
        )
    return PlacedBiases(len(inputs[0]), size, partial(token_spaces, found.layers))


def _rounded_to(decomposition: Decomposition, dtype: torch.dtype) -> Decomposition:
    """Return a float64 decomposition in the model's dtype, with the error of the rounded parts."""

    def to(x: Tensor) -> Tensor:
        return x.to(dtype)

    rounded = replace(
        decomposition,
        logits=to(decomposition.logits),
        answer=to(decomposition.answer),
        contributions=tuple(map(to, decomposition.contributions)),
        bias=to(decomposition.bias),
        around=to(decomposition.around),
        placed=tuple(map(to, decomposition.placed)),
        coefficients=None if decomposition.coefficients is None else to(decomposition.coefficients),
        slopes=None if decomposition.slopes is None else tuple(map(to, decomposition.slopes)),
    )
    error = total_of((*rounded.contributions, *rounded.placed))
    return replace(rounded, error=error + wide(rounded.around) + wide(rounded.bias) - wide(rounded.answer))


def _is_low(x: Any) -> bool:
    return isinstance(x, Tensor) and x.dtype in LOW_PRECISION


def _is_autocast_on(x: Any) -> bool:
    return isinstance(x, Tensor) and torch.is_autocast_enabled(x.device.type)
