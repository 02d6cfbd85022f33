"""Perturbation curves: what a network says while more and more of its input is taken away.

Everything that removes or keeps things is measured here, in one pass for any
number of series: features are ranked once, the unperturbed input and inputs
with everything removed are shared, and masks are made from ranks in batches.
Metrics are pure functions of the curves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal

import torch
from torch import Tensor, nn

from xai_align.evaluation.fills import Filler, by_name, filler, label_of
from xai_align.evaluation.pathways import LayerWatch, Pathways, deviations
from xai_align.evaluation.ranking import Ranking, over_channels, position_scores, rank, warn_of_ties
from xai_align.model_state import check_evaluation_mode, unchanged_rng

#: "morf": most relevant features are removed first. "lerf": least relevant first, the exact reverse.
#: "single": of the removed features only the last is removed, each by itself.
Order = Literal["morf", "lerf", "single"]
#: How outputs become probabilities; "auto": softmax, for one output sigmoid; None: outputs as they are.
Activation = Literal["auto", "softmax", "sigmoid"] | None

#: 0.1, 0.2, ..., 0.9
TENTHS = tuple(tenth / 10 for tenth in range(1, 10))
#: Inputs to the network at once, where the caller does not say: a processor's cache is small, a GPU is wide.
BATCH_ON_CPU, BATCH_ON_GPU = 8, 128
#: Examples whose ranks, fills and layers are held at once.
EXAMPLES_AT_ONCE = 16


@dataclass(frozen=True)
class Series:
    """One way of taking things away.

    Attributes:
        fill: what stands where something was removed; see :mod:`xai_align.evaluation.fills`.
        order: which features go first.
        fractions: shares of the features that are removed, in [0, 1].
        grid: the features are the cells of a grid of so many rows and columns; None: positions.
        layers: hidden layers are watched too.
    """

    fill: Any = 0.0
    order: Order = "morf"
    fractions: tuple[float, ...] = TENTHS
    grid: tuple[int, int] | None = None
    layers: bool = False

    def __post_init__(self) -> None:
        wrong = [fraction for fraction in self.fractions if not 0 <= fraction <= 1]
        if wrong or not self.fractions:
            raise ValueError(f"the fractions hold {wrong[:3]}; give shares in [0, 1]" if wrong else "no fraction given")
        if self.order not in ("morf", "lerf", "single"):
            raise ValueError(f"the order is '{self.order}'; give 'morf', 'lerf' or 'single'")

    @property
    def label(self) -> str:
        """A name for tables and plots, e.g. ``"morf blur"``."""
        return f"{self.order} {label_of(self.fill)}" + (f" {self.grid[0]}x{self.grid[1]}" if self.grid else "")


@dataclass(frozen=True)
class Curve:
    """What the network said along one series.

    Attributes:
        fractions: ``[F]``, float64: the share of the features that was removed.
        clean: ``[N, K]``: outputs for the inputs as they are; probabilities unless ``activation`` is None.
        masked: ``[N, F, K]``: outputs with so much removed; NaN for an example whose map is all equal.
        activation: how outputs became probabilities.
        scores: ``[N, P]``: the features' scores, most relevant first (series of order "single" only).
        pathways: deviations of hidden layers, if they were watched.
    """

    fractions: Tensor
    clean: Tensor
    masked: Tensor
    activation: Activation = "softmax"
    scores: Tensor | None = field(default=None, repr=False)
    pathways: Pathways | None = field(default=None, repr=False)


def perturbation_curve(
    forward_func: Callable[..., Tensor],
    inputs: Tensor,
    attributions: Tensor,
    *,
    fractions: Sequence[float] = TENTHS,
    order: Order = "morf",
    baselines: Any = 0.0,
    feature_mask: Tensor | None = None,
    grid: tuple[int, int] | None = None,
    **options: Any,
) -> Curve:
    """One series; see :func:`perturbation_curves` for further options.

    Args:
        forward_func: gives logits ``[N, K]``.
        inputs: ``[N, D]``, ``[N, L, C]`` (tokens) or ``[N, C, H, W]``.
        attributions: in the inputs' shape, or one score for each position.
        fractions: shares of the features to remove, in [0, 1]; ``floor(fraction * P)`` features go.
        order: which features go first.
        baselines: what stands where something was removed: a number, "mean", "blur", "noise",
            "uniform", "noisy_linear", a tensor, a function of the inputs, or an imputer.
        feature_mask: integer labels of regions that are removed as a whole, e.g. superpixels.
        grid: the regions are the cells of a grid of so many rows and columns.
        **options: as in :func:`perturbation_curves`.
    """
    series = Series(baselines, order, tuple(map(float, fractions)), grid)
    return perturbation_curves(forward_func, inputs, attributions, [series], feature_mask=feature_mask, **options)[0]


def perturbation_curves(
    forward_func: Callable[..., Tensor],
    inputs: Tensor,
    attributions: Tensor,
    series: Sequence[Series],
    *,
    feature_mask: Tensor | None = None,
    layers: Sequence[str] | None = None,
    activation: Activation = "auto",
    additional_forward_args: Any = None,
    internal_batch_size: int | None = None,
    autocast: torch.dtype | None = None,
    show_progress: bool = False,
) -> list[Curve]:
    """The curves of several series in one pass.

    Args:
        forward_func: gives logits ``[N, K]``; an ``nn.Module`` must be in eval mode.
        inputs: ``[N, D]``, ``[N, L, C]`` (tokens) or ``[N, C, H, W]``.
        attributions: in the inputs' shape, or one score for each position.
        series: what to remove and how.
        feature_mask: integer labels of regions, for series without a grid.
        layers: names of the modules to watch, for series that watch layers; None: the stages that a
            plugin names.
        activation: how outputs become probabilities.
        additional_forward_args: further arguments; tensors of the batch's length are cut along.
        internal_batch_size: how many perturbed inputs go through the network at once.
        autocast: run the network, and nothing else, in this precision, e.g. ``torch.bfloat16``.
        show_progress: show a progress bar.

    Returns:
        One :class:`Curve` for each series.

    Raises:
        ValueError: shapes, fills, fractions or layers don't fit, values are not finite, the model is
            in train mode, or its output is no ``[N, K]``.
    """
    parts: list[list[Curve]] = []
    walk_curves(
        lambda rows, curves: parts.append(curves),
        forward_func,
        inputs,
        attributions,
        series,
        feature_mask=feature_mask,
        layers=layers,
        activation=activation,
        additional_forward_args=additional_forward_args,
        internal_batch_size=internal_batch_size,
        autocast=autocast,
        show_progress=show_progress,
    )
    return [_joined(several) for several in zip(*parts, strict=True)]


def walk_curves(
    consume: Callable[[list[int], list[Curve]], None],
    forward_func: Callable[..., Tensor],
    inputs: Tensor,
    attributions: Tensor,
    series: Sequence[Series],
    *,
    feature_mask: Tensor | None = None,
    layers: Sequence[str] | None = None,
    activation: Activation = "auto",
    additional_forward_args: Any = None,
    internal_batch_size: int | None = None,
    autocast: torch.dtype | None = None,
    show_progress: bool = False,
) -> None:
    """As :func:`perturbation_curves`, a few examples at a time: ``consume(rows, curves)`` is called for each few.

    Who keeps only scores of the curves needs the same memory for any number of examples.
    """
    _check(forward_func, inputs, internal_batch_size)
    scores = position_scores(attributions, inputs).to(inputs.device)
    extra = additional_forward_args if isinstance(additional_forward_args, tuple) else (additional_forward_args,)
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(unchanged_rng())
        watch = stack.enter_context(LayerWatch.on(forward_func, layers)) if any(s.layers for s in series) else None
        advance = stack.enter_context(_progress(len(inputs), show_progress))
        network = _Network(
            forward_func,
            () if additional_forward_args is None else extra,
            len(inputs),
            activation,
            autocast,
            watch,
            internal_batch_size or (BATCH_ON_CPU if inputs.device.type == "cpu" else BATCH_ON_GPU),
        )
        for first in range(0, len(inputs), EXAMPLES_AT_ONCE):
            rows = list(range(first, min(first + EXAMPLES_AT_ONCE, len(inputs))))
            some = slice(first, first + len(rows))
            mask = feature_mask[some] if feature_mask is not None and _is_batch(feature_mask, scores) else feature_mask
            consume(
                rows,
                _curves_of(network, inputs[some], scores[some], series, mask, torch.tensor(rows).to(inputs.device)),
            )
            advance(len(rows))


def removed_count(fraction: float, features: int) -> int:
    """``floor(fraction * features)`` in exact arithmetic: 0.29 of 100 features are 29."""
    return int(Fraction(fraction).limit_denominator(10**6) * features)


@dataclass
class _Network:
    """The network with everything that is the same for every pass."""

    forward_func: Callable[..., Tensor]
    extra: tuple[Any, ...]
    num_examples: int
    activation: Activation
    autocast: torch.dtype | None
    watch: LayerWatch | None
    batch_size: int

    def __call__(self, x: Tensor, rows: Tensor) -> Tensor:
        """Outputs ``[M, K]`` for perturbed inputs that come from these rows of the caller's batch."""
        extra = tuple(self._cut(argument, rows) for argument in self.extra)
        with torch.autocast(x.device.type, dtype=self.autocast, enabled=self.autocast is not None):
            out = self.forward_func(x, *extra)
        if not isinstance(out, Tensor) or out.dim() not in (1, 2) or len(out) != len(x):
            found = list(out.shape) if isinstance(out, Tensor) else type(out).__name__
            raise ValueError(f"the network gave {found} for {len(x)} inputs; logits [N, K] are needed")
        out = out.reshape(len(x), -1)
        return self._activated(out.float() if out.dtype in (torch.float16, torch.bfloat16) else out)

    def _activated(self, logits: Tensor) -> Tensor:
        if self.activation is None:
            return logits
        if self.activation == "sigmoid" or (self.activation == "auto" and logits.shape[1] == 1):
            return logits.sigmoid()
        if logits.shape[1] == 1:
            raise ValueError("the softmax of one output is always 1; use activation='sigmoid'")
        return logits.softmax(1)

    def _cut(self, argument: Any, rows: Tensor) -> Any:
        whole = isinstance(argument, Tensor) and argument.dim() and len(argument) == self.num_examples
        return argument[rows] if whole else argument


#: What is removed of an example: fill, grid, order, how many features.
_Key = tuple[int, tuple[int, int] | None, str, int]
NOTHING: _Key = (-1, None, "nothing", 0)


def _curves_of(
    network: _Network,
    inputs: Tensor,
    scores: Tensor,
    series: Sequence[Series],
    feature_mask: Tensor | None,
    rows: Tensor,
) -> list[Curve]:
    """All series of a few examples."""
    if inputs.dim() == 4:
        inputs = inputs.contiguous(memory_format=torch.channels_last)  # convolutions are quicker so
    rankings = {
        grid: rank(scores, feature_mask if grid is None else grid_mask(scores.shape[1:], grid).to(scores.device))
        for grid in dict.fromkeys(one.grid for one in series)
    }
    for ranking in rankings.values():
        warn_of_ties(ranking)
    fills = _distinct(by_name(one.fill) for one in series)
    keys = [[_keys(one, fills, rankings[one.grid], n) for one in series] for n in range(len(inputs))]
    clean, held = _clean(network, inputs, rows)
    # with nothing removed the input is what it was, whatever the fill
    values = {(n, NOTHING): row for n, row in enumerate(clean)}
    still = [deviations(layer, layer) for layer in held.values()]
    hidden = {(n, NOTHING): row for n, row in enumerate(torch.stack(still, 1))} if still else {}
    for number, fill in enumerate(fills):
        watched = {
            (n, key)
            for n, several in enumerate(keys)
            for one, wanted in zip(series, several, strict=True)
            if one.layers
            for key in wanted
        }
        jobs = list(dict.fromkeys((n, key) for n, ks in enumerate(keys) for k in ks for key in k if key[0] == number))
        fill_in = filler(fill, inputs, rows=rows)
        # those whose layers are watched go together, so that the others need not be
        for part in ([job for job in jobs if job in watched], [job for job in jobs if job not in watched]):
            watching = bool(part) and part[0] in watched
            if network.watch is not None:
                network.watch.awake = watching
            for first in range(0, len(part), network.batch_size):
                chunk = part[first : first + network.batch_size]
                _run(network, chunk, inputs, rankings, fill_in, rows, held if watching else None, values, hidden)
    return [
        _assembled(one, [several[i] for several in keys], clean, rankings[one.grid], values, hidden, network)
        for i, one in enumerate(series)
    ]


def _run(
    network: _Network,
    chunk: list[tuple[int, _Key]],
    inputs: Tensor,
    rankings: dict[tuple[int, int] | None, Ranking],
    fill_in: Filler,
    rows: Tensor,
    held: dict[str, Tensor] | None,
    values: dict[tuple[int, _Key], Tensor],
    hidden: dict[tuple[int, _Key], Tensor],
) -> None:
    """One batch of perturbed inputs through the network; what it says goes into ``values`` and ``hidden``."""
    index = torch.tensor([n for n, _ in chunk], device=inputs.device)
    any_ranking = next(iter(rankings.values()))  # end points need none
    removed = torch.stack(
        [_removed(rankings.get(grid, any_ranking), n, order, count) for n, (_, grid, order, count) in chunk]
    )
    x = fill_in(index, over_channels(removed, inputs.dim()))
    out = network(x, rows[index])
    layers = None
    if held is not None and network.watch is not None:
        now = network.watch.take()
        layers = torch.stack([deviations(held[name][index], now[name]) for name in held], 1)  # [M, L, 6]
    for i, job in enumerate(chunk):
        values[job] = out[i]
        if layers is not None:
            hidden[job] = layers[i]


def _clean(network: _Network, inputs: Tensor, rows: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Outputs and hidden layers of the inputs as they are."""
    outputs, layers = [], []
    if network.watch is not None:
        network.watch.awake = True
    for first in range(0, len(inputs), network.batch_size):
        outputs.append(network(inputs[first : first + network.batch_size], rows[first : first + network.batch_size]))
        if network.watch is not None:
            layers.append(network.watch.take())
    held = {name: torch.cat([one[name] for one in layers]) for name in layers[0]} if layers else {}
    return torch.cat(outputs), held


def _keys(one: Series, fills: list[Any], ranking: Ranking, n: int) -> list[_Key]:
    wanted = by_name(one.fill)
    number = next(i for i, fill in enumerate(fills) if _same(fill, wanted))
    features = int(ranking.counts[n])
    counts = [removed_count(fraction, features) for fraction in one.fractions]
    return [_key(number, one, count, features) for count in counts]


def _key(number: int, one: Series, count: int, features: int) -> _Key:
    """The end points are the same in any order: nothing removed, everything removed."""
    if count == 0:
        return NOTHING
    if count == features and one.order != "single":
        return (number, None, "everything", 0)
    return (number, one.grid, one.order, count)


def _removed(ranking: Ranking, n: int, order: str, count: int) -> Tensor:
    """``[*positions]``, bool."""
    ranks = ranking.ranks[n]
    if order == "morf":
        return ranks < count
    if order == "lerf":
        return ranks >= ranking.counts[n] - count
    if order == "single":
        return ranks == count - 1
    return torch.full_like(ranks, order == "everything", dtype=torch.bool)


def _assembled(
    one: Series,
    keys: list[list[_Key]],
    clean: Tensor,
    ranking: Ranking,
    values: dict[tuple[int, _Key], Tensor],
    hidden: dict[tuple[int, _Key], Tensor],
    network: _Network,
) -> Curve:
    masked = torch.stack([torch.stack([values[n, key] for key in several]) for n, several in enumerate(keys)])
    masked[ranking.says_nothing] = torch.nan
    pathways = None
    if one.layers and network.watch is not None:
        seen = torch.stack([torch.stack([hidden[n, key] for key in several]) for n, several in enumerate(keys)])
        seen[ranking.says_nothing] = torch.nan
        pathways = Pathways(network.watch.names, seen)
    return Curve(
        torch.tensor(one.fractions, dtype=torch.float64),
        clean,
        masked,
        network.activation,
        ranking.scores if one.order == "single" else None,
        pathways,
    )


def grid_mask(positions: Sequence[int], grid: tuple[int, int]) -> Tensor:
    """Labels ``[H, W]`` of the cells of a grid: cell ``(r, c)`` covers pixels ``[H r / R, H (r + 1) / R)`` and so on.

    Raises:
        ValueError: the inputs are no images, or smaller than the grid.
    """
    if len(positions) != 2:
        raise ValueError(f"a grid of cells needs images, the inputs have positions {list(positions)}")
    (height, width), (rows, columns) = positions, grid
    if not (1 <= rows <= height and 1 <= columns <= width):
        raise ValueError(f"a grid of {rows} x {columns} cells does not fit {height} x {width} pixels")
    row = torch.arange(height) * rows // height
    column = torch.arange(width) * columns // width
    return row[:, None] * columns + column


def _joined(several: Sequence[Curve]) -> Curve:
    first = several[0]
    scores = None
    if first.scores is not None:
        most = max(part.scores.shape[1] for part in several if part.scores is not None)
        padded = [
            nn.functional.pad(part.scores, (0, most - part.scores.shape[1]), value=float("nan"))
            for part in several
            if part.scores is not None
        ]
        scores = torch.cat(padded)
    pathways = None
    if first.pathways is not None:
        values = torch.cat([part.pathways.values for part in several if part.pathways is not None])
        pathways = Pathways(first.pathways.layers, values)
    return Curve(
        first.fractions,
        torch.cat([part.clean for part in several]),
        torch.cat([part.masked for part in several]),
        first.activation,
        scores,
        pathways,
    )


def _distinct(fills: Iterator[Any]) -> list[Any]:
    """Fills without repetition; tensors are compared by identity."""
    kept: list[Any] = []
    for fill in fills:
        if not any(_same(fill, other) for other in kept):
            kept.append(fill)
    return kept


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return a is b
    return bool(a == b)


def _is_batch(feature_mask: Tensor, scores: Tensor) -> bool:
    return isinstance(feature_mask, Tensor) and feature_mask.dim() >= scores.dim() and len(feature_mask) == len(scores)


def _check(forward_func: Any, inputs: Any, internal_batch_size: int | None) -> None:
    if not isinstance(inputs, Tensor):
        raise TypeError(f"the inputs are a {type(inputs).__name__}; give one tensor [N, ...]")
    if inputs.dim() < 2 or not len(inputs):
        raise ValueError(f"the inputs have shape {list(inputs.shape)}; give at least one example, [N, ...]")
    if inputs.is_floating_point() and not inputs.isfinite().all():
        raise ValueError("the inputs hold NaN or infinite values")
    if internal_batch_size is not None and internal_batch_size < 1:
        raise ValueError(f"internal_batch_size is {internal_batch_size}; give a positive number of inputs, or None")
    if isinstance(forward_func, nn.Module):
        check_evaluation_mode(forward_func)


class _progress:
    """Counts examples on a progress bar, if one is wanted."""

    def __init__(self, total: int, shown: bool) -> None:
        self.total, self.shown = total, shown

    def __enter__(self) -> Callable[[int], None]:
        if not self.shown:
            return lambda done: None
        from rich.progress import Progress

        self.bar = Progress(transient=True).__enter__()
        task = self.bar.add_task("perturbing", total=self.total)
        return lambda done: self.bar.advance(task, done)

    def __exit__(self, *error: Any) -> None:
        if self.shown:
            self.bar.__exit__(*error)
