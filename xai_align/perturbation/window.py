"""All series of a few examples in one pass; shared perturbations are computed once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from xai_align.features.hidden_layers import HeldLayer
from xai_align.perturbation.fills import Filler, by_name, filler
from xai_align.perturbation.network import Network
from xai_align.perturbation.ranking import over_channels, rank, warn_of_ties
from xai_align.perturbation.series import Series, grid_mask, removed_count

#: A perturbation of an example: index of the fill, grid, order, number of removed features.
Key = tuple[int, tuple[int, int] | None, str, int]
#: With nothing removed the input is unchanged for any fill and order.
NOTHING: Key = (-1, None, "nothing", 0)


class Window:
    """A few examples and the network's outputs for every perturbation of them.

    Args:
        network: the network.
        inputs: ``[W, ...]``.
        scores: ``[W, *positions]``.
        series: the series to measure.
        feature_mask: labels of regions for series without a grid.
        rows: ``[W]``: indices of the examples in the caller's batch.

    Attributes:
        clean: ``[W, K]``: outputs for the unperturbed inputs.
        rankings: the ranking for each grid of the series.
    """

    def __init__(
        self,
        network: Network,
        inputs: Tensor,
        scores: Tensor,
        series: Sequence[Series],
        feature_mask: Tensor | None,
        rows: Tensor,
    ) -> None:
        self.network, self.inputs, self.rows = network, inputs, rows
        self.rankings = {
            grid: rank(scores, feature_mask if grid is None else grid_mask(scores.shape[1:], grid).to(scores.device))
            for grid in dict.fromkeys(one.grid for one in series)
        }
        for ranking in self.rankings.values():
            warn_of_ties(ranking)
        self._fills = _distinct(by_name(one.fill) for one in series)
        self._values: dict[tuple[int, Key], Tensor] = {}
        self._hidden: dict[tuple[int, Key], Tensor] = {}
        self._held: dict[str, HeldLayer] = {}
        self.clean = self._run_clean(watching=any(one.layers for one in series))
        watched = [(n, key) for one in series if one.layers for n, keys in enumerate(self.keys(one)) for key in keys]
        others = [(n, key) for one in series if not one.layers for n, keys in enumerate(self.keys(one)) for key in keys]
        self._run_all(watched, watching=True)
        self._run_all(others, watching=False)

    def outputs(self, one: Series) -> Tensor:
        """Return outputs ``[W, F, K]``; NaN for an example with a constant map."""
        return self._gathered(one, self._values)

    def deviations(self, one: Series) -> Tensor:
        """Return ``[W, F, L, M]`` for a series that records layers; NaN for an example with a constant map."""
        return self._gathered(one, self._hidden)

    def keys(self, one: Series) -> list[list[Key]]:
        """Return, for each example, the perturbation at each of the series' fractions."""
        wanted = by_name(one.fill)
        number = next(i for i, fill in enumerate(self._fills) if _same(fill, wanted))
        return [
            [_key(number, one, removed_count(fraction, features), features) for fraction in one.fractions]
            for features in self.rankings[one.grid].counts.tolist()
        ]

    def _gathered(self, one: Series, found: dict[tuple[int, Key], Tensor]) -> Tensor:
        rows = [torch.stack([found[n, key] for key in keys]) for n, keys in enumerate(self.keys(one))]
        gathered = torch.stack(rows)
        gathered[self.rankings[one.grid].says_nothing] = torch.nan
        return gathered

    def _run_clean(self, *, watching: bool) -> Tensor:
        """Return outputs for the unperturbed inputs, and keep the outputs of recorded layers."""
        outputs, parts = [], []
        for first in range(0, len(self.inputs), self.network.batch_size):
            some = slice(first, first + self.network.batch_size)
            if watching and self.network.watch is not None:
                # copies: a later module may work in place on the same memory
                with self.network.watch.seeing(lambda name, out: out.detach().clone()) as seen:
                    outputs.append(self.network(self.inputs[some], self.rows[some]))
                parts.append(seen)
            else:
                outputs.append(self.network(self.inputs[some], self.rows[some]))
        clean = torch.cat(outputs)
        self._values.update({(n, NOTHING): row for n, row in enumerate(clean)})
        if parts:
            whole = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
            self._held = {name: HeldLayer(layer) for name, layer in whole.items()}
            everyone = range(len(clean))
            still = [self._held[name].deviations(everyone, layer) for name, layer in whole.items()]
            self._hidden.update({(n, NOTHING): row for n, row in enumerate(torch.stack(still, 1))})
        return clean

    def _run_all(self, wanted: Sequence[tuple[int, Key]], *, watching: bool) -> None:
        """Run the perturbations that have not run yet in batches, sorted by example within each fill."""
        for number, fill in enumerate(self._fills):
            jobs = sorted(
                {job for job in wanted if job[1][0] == number and job not in self._values}, key=lambda j: j[0]
            )
            fill_in = filler(fill, self.inputs, rows=self.rows)
            for first in range(0, len(jobs), self.network.batch_size):
                self._run(jobs[first : first + self.network.batch_size], fill_in, watching=watching)

    def _run(self, jobs: list[tuple[int, Key]], fill_in: Filler, *, watching: bool) -> None:
        """Run the network on one batch of perturbed inputs."""
        examples = [n for n, _ in jobs]
        index = torch.tensor(examples, device=self.inputs.device)
        removed = torch.stack([self._removed(n, key) for n, key in jobs])
        x = fill_in(index, over_channels(removed, self.inputs.dim()))
        if watching and self.network.watch is not None:
            # compared immediately, so that layer outputs need not be kept
            with self.network.watch.seeing(lambda name, out: self._held[name].deviations(examples, out)) as seen:
                outputs = self.network(x, self.rows[index])
            layers = torch.stack([seen[name] for name in self._held], 1)
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


def _key(number: int, one: Series, count: int, features: int) -> Key:
    """Return the key of a perturbation; the end points (nothing or everything removed) are shared by all orders."""
    if count == 0:
        return NOTHING
    if count == features and one.order != "single":
        return (number, None, "everything", 0)
    return (number, one.grid, one.order, count)


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
