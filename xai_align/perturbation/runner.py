"""All perturbations of a few examples in one pass; those that are shared are computed once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from xai_align.features.hidden_layers import CleanLayer, check_batch_first
from xai_align.perturbation.fills import Filler, by_name, filler
from xai_align.perturbation.network import Network
from xai_align.perturbation.ranking import over_channels, rank, warn_of_ties
from xai_align.perturbation.spec import PerturbationSpec, grid_mask, removed_count

#: A perturbation of an example: index of the fill, grid, order, number of removed features.
Key = tuple[int, tuple[int, int] | None, str, int]
#: With nothing removed the input is unchanged for any fill and order.
NOTHING: Key = (-1, None, "nothing", 0)


class PerturbationRunner:
    """Runner of the network on every perturbation of a few examples.

    Args:
        network: the network.
        inputs: ``[W, ...]``.
        scores: ``[W, *positions]``.
        specs: the perturbations to measure.
        feature_mask: labels of regions for specs without a grid.
        rows: ``[W]``: indices of the examples in the caller's batch.

    Attributes:
        clean: ``[W, K]``: outputs for the unperturbed inputs.
        rankings: the ranking for each grid of the specs.
    """

    def __init__(
        self,
        network: Network,
        inputs: Tensor,
        scores: Tensor,
        specs: Sequence[PerturbationSpec],
        feature_mask: Tensor | None,
        rows: Tensor,
    ) -> None:
        self.network, self.inputs, self.rows = network, inputs, rows
        self.rankings = {
            grid: rank(scores, feature_mask if grid is None else grid_mask(scores.shape[1:], grid).to(scores.device))
            for grid in dict.fromkeys(one.grid for one in specs)
        }
        for ranking in self.rankings.values():
            warn_of_ties(ranking, rows)
        self._fills = _distinct(by_name(one.fill) for one in specs)
        self._values: dict[tuple[int, Key], Tensor] = {}
        self._hidden: dict[tuple[int, Key], Tensor] = {}
        self._clean_layers: dict[str, CleanLayer] = {}
        self.clean = self._run_clean(recording=any(one.layers for one in specs))
        recorded = [(n, key) for one in specs if one.layers for n, keys in enumerate(self.keys(one)) for key in keys]
        others = [(n, key) for one in specs if not one.layers for n, keys in enumerate(self.keys(one)) for key in keys]
        if network.activation == "relative":
            others += [(n, _emptied(self._number(one))) for one in specs for n in range(len(inputs))]
        self._run_all(recorded, recording=True)
        self._run_all(others, recording=False)

    def outputs(self, spec: PerturbationSpec) -> Tensor:
        """Return outputs ``[W, F, K]``; NaN for an example with a constant map."""
        return self._gathered(spec, self._values)

    def deviations(self, spec: PerturbationSpec) -> Tensor:
        """Return ``[W, F, L, M]`` for a spec that records layers; NaN for an example with a constant map."""
        return self._gathered(spec, self._hidden)

    def empty(self, spec: PerturbationSpec) -> Tensor | None:
        """Return outputs ``[W, K]`` with everything removed, for activation "relative"; None for others."""
        if self.network.activation != "relative":
            return None
        key = _emptied(self._number(spec))
        return torch.stack([self._values[n, key] for n in range(len(self.inputs))])

    def keys(self, spec: PerturbationSpec) -> list[list[Key]]:
        """Return, for each example, the perturbation at each of the spec's fractions."""
        number = self._number(spec)
        return [
            [_key(number, spec, removed_count(fraction, features), features) for fraction in spec.fractions]
            for features in self.rankings[spec.grid].counts.tolist()
        ]

    def _number(self, spec: PerturbationSpec) -> int:
        """Return the index of a spec's fill."""
        wanted = by_name(spec.fill)
        return next(i for i, fill in enumerate(self._fills) if _same(fill, wanted))

    def _gathered(self, spec: PerturbationSpec, found: dict[tuple[int, Key], Tensor]) -> Tensor:
        rows = [torch.stack([found[n, key] for key in keys]) for n, keys in enumerate(self.keys(spec))]
        gathered = torch.stack(rows)
        gathered[self.rankings[spec.grid].is_constant] = torch.nan
        return gathered

    def _run_clean(self, *, recording: bool) -> Tensor:
        """Return outputs for the unperturbed inputs, and keep the outputs of recorded layers."""
        outputs, parts = [], []
        for first in range(0, len(self.inputs), self.network.batch_size):
            some = slice(first, first + self.network.batch_size)
            if recording and self.network.hooks is not None:
                # copies: a later module may work in place on the same memory
                with self.network.hooks.calling(lambda name, out: out.detach().clone()) as seen:
                    outputs.append(self.network(self.inputs[some], self.rows[some]))
                check_batch_first(seen, len(self.inputs[some]))
                parts.append(seen)
            else:
                outputs.append(self.network(self.inputs[some], self.rows[some]))
        clean = torch.cat(outputs)
        self._values.update({(n, NOTHING): row for n, row in enumerate(clean)})
        if parts:
            whole = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
            self._clean_layers = {name: CleanLayer(layer) for name, layer in whole.items()}
            still = [self._clean_layers[name].deviations(range(len(clean)), layer) for name, layer in whole.items()]
            self._hidden.update({(n, NOTHING): row for n, row in enumerate(torch.stack(still, 1))})
        return clean

    def _run_all(self, wanted: Sequence[tuple[int, Key]], *, recording: bool) -> None:
        """Run the perturbations that have not run yet in batches, sorted by example within each fill."""
        for number, fill in enumerate(self._fills):
            jobs = sorted(
                {job for job in wanted if job[1][0] == number and job not in self._values}, key=lambda j: j[0]
            )
            fill_in = filler(fill, self.inputs, rows=self.rows)
            for first in range(0, len(jobs), self.network.batch_size):
                self._run(jobs[first : first + self.network.batch_size], fill_in, recording=recording)

    def _run(self, jobs: list[tuple[int, Key]], fill_in: Filler, *, recording: bool) -> None:
        """Run the network on one batch of perturbed inputs."""
        examples = [n for n, _ in jobs]
        index = torch.tensor(examples, device=self.inputs.device)
        removed = torch.stack([self._removed(n, key) for n, key in jobs])
        x = fill_in(index, over_channels(removed, self.inputs.dim()))
        if recording and self.network.hooks is not None:
            # compared immediately, so that layer outputs need not be kept
            with self.network.hooks.calling(
                lambda name, out: self._clean_layers[name].deviations(examples, out)
            ) as seen:
                outputs = self.network(x, self.rows[index])
            layers = torch.stack([seen[name] for name in self._clean_layers], 1)
            self._hidden.update(zip(jobs, layers, strict=True))
        else:
            outputs = self.network(x, self.rows[index])
        self._values.update(zip(jobs, outputs, strict=True))

    def _removed(self, n: int, key: Key) -> Tensor:
        """Return the mask of removed features, ``[*positions]``, bool."""
        _, grid, order, count = key
        # with everything removed, any ranking gives the same mask
        ranking = self.rankings.get(grid) or next(iter(self.rankings.values()))
        ranks = ranking.ranks[n]
        if order == "morf":
            return ranks < count
        if order == "lerf":
            return ranks >= ranking.counts[n] - count
        if order == "single":
            return ranks == count - 1
        return torch.ones_like(ranks, dtype=torch.bool)


def _emptied(number: int) -> Key:
    """Return the key of an input with everything removed."""
    return (number, None, "everything", 0)


def _key(number: int, spec: PerturbationSpec, count: int, features: int) -> Key:
    """Return the key of a perturbation; the end points (nothing or everything removed) are shared by all orders."""
    if count == 0:
        return NOTHING
    if count == features and spec.order != "single":
        return _emptied(number)
    return (number, spec.grid, spec.order, count)


def _distinct(fills: Iterable[Any]) -> list[Any]:
    """Return the fills without repetition; tensors are compared by identity."""
    kept: list[Any] = []
    for fill in fills:
        if not any(_same(fill, other) for other in kept):
            kept.append(fill)
    return kept


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return a is b
    return bool(a == b)
