"""One attempt at the decompositions of a request, in as few shared passes as possible."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from torch.utils._pytree import tree_map

from xai_align.features.grid_layers import Grids, grids
from xai_align.features.routes import Route, route_through
from xai_align.hookspecs import FeatureSpace
from xai_align.pinet.completeness import Checks, reproduces
from xai_align.pinet.cuts import is_cut
from xai_align.pinet.decomposition import Decomposition, is_complete
from xai_align.pinet.first_difference import first_difference
from xai_align.pinet.gates.frozen_gates import FrozenGates
from xai_align.pinet.gates.placed_biases import BiasesApart
from xai_align.pinet.gates.rule_registry import Rule
from xai_align.pinet.head_probe import probe_head
from xai_align.pinet.layer_rules import biases_of, rules_of
from xai_align.pinet.local_decomposition import decompose_locally
from xai_align.pinet.plain_pass import PlainPass
from xai_align.pinet.precision import Precision
from xai_align.pinet.request import Request, is_own_decomposition
from xai_align.pinet.second_look_decomposition import second_look_decomposition
from xai_align.pinet.several_layers import decompose_with_bypass, frozen_decompositions


class Reading:
    """One attempt at a request, in one precision.

    Attributes:
        precision: the precision.
        checks: results of the checks of logits and sums.
    """

    def __init__(self, request: Request, precision: Precision) -> None:
        self.request, self.precision, self.checks = request, precision, Checks()
        self._copy = precision.copy_of(request.model)
        self._inputs = [precision.of(x) for x in request.inputs]
        self._extra = tree_map(precision.of, tuple(request.extra))
        self._spaces = [self._copy.rebind(space) for space in request.spaces]
        self._split = next((n for n, space in enumerate(self._spaces) if self._is_split(n, space)), None)
        self._plain = PlainPass(
            request,
            self._copy,
            self._inputs,
            self._extra,
            precision=precision,
            split=None if self._split is None else self._spaces[self._split],
        )

    def decompositions(self) -> list[tuple[Decomposition, bool]]:
        """Read every layer, and check logits and sums."""
        found: dict[int, tuple[Decomposition, bool]] = {}
        plain = self._plain.logits()
        with self.precision.region(self.request.inputs[0]):
            for numbers in _sharing_a_pass(self.request, self._spaces):
                found.update(zip(numbers, self._read(numbers), strict=True))
        for number, space in enumerate(self.request.spaces):
            decomposition, _ = found[number]
            if not reproduces(decomposition, plain) and not self._plain.with_gradients:  # padded positions may differ
                plain = self._plain.logits_with_gradients()
            self.checks.check_logits(decomposition, plain, self._first_difference)
            self.checks.check_sum(number, space.layer, decomposition)
        return [found[number] for number in range(len(found))]

    def _read(self, numbers: Sequence[int]) -> list[tuple[Decomposition, bool]]:
        request, model = self.request, self._copy.module
        here = [self._spaces[number] for number in numbers]
        layer = request.layers[numbers[0]]
        if is_own_decomposition(model, layer):
            return [second_look_decomposition(model, self._inputs, self._extra, request.questions)]
        route = self._route(here, z=self._plain.captured if numbers[0] == self._split else None)
        if len(here) == 1 and probe_head(request.model, here[0], route.z, request.spaces[numbers[0]]).affine:
            return [(decompose_locally(route, request.questions), all(one.is_linear for one in request.questions))]
        rules, new_biases = rules_of(layer), partial(biases_of, layer, self._inputs, self._grids)
        decompositions = frozen_decompositions(model, route, here, request.questions, rules, new_biases)
        if len(here) > 1:
            # evidence from other layers bypasses a layer that is not a cut, so it is read separately
            for place, space in enumerate(here):
                if not bool(is_complete(decompositions[place]).all()):
                    alone = self._route([space])
                    (decompositions[place],) = frozen_decompositions(
                        model, alone, [space], request.questions, rules, new_biases
                    )
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

    def _is_split(self, number: int, space: FeatureSpace) -> bool:
        own_sum = is_own_decomposition(self._copy.module, self.request.layers[number])
        return space.split is not None and not own_sum

    def _first_difference(self) -> str:
        with self.precision.region(self.request.inputs[0]):
            return first_difference(
                lambda: self.precision.copy_of(self.request.model).module,
                self._inputs,
                self._extra,
                FrozenGates(self.request.model, separate_views=True),
            )


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
