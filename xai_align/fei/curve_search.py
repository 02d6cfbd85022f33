"""Search of :mod:`~xai_align.fei.curve`: a few steps of a score map along the gradient of its own curves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import cos, pi

import torch
from torch import Tensor

from xai_align._tools.checks import check_number
from xai_align._tools.correlation import spearman
from xai_align.fei.composites import CompositeAnswers
from xai_align.fei.curve_loss import CurveLoss, StageDeviations
from xai_align.fei.quantile_masks import share_at, standardised
from xai_align.fei.random_fills import Fills
from xai_align.fei.scales import at_scales
from xai_align.question import Index, Question, TargetError

#: Smallest and largest share of the image; beyond them masks show nothing or everything.
NARROWEST = 0.02
#: Momentum of the steps, and the rate of the last step over that of the first.
MOMENTUM, LAST_RATE = 0.9, 0.05
#: Number of steps between two maps that are compared to see whether the ranking still changes.
STABLE_OVER = 5


@dataclass(frozen=True)
class LogOdds(Question):
    """Question whose answer is the log-odds of the probability that insertion and deletion measure.

    A class or group without foils is compared with all others, as in a softmax. Classes are on the last axis of
    outputs ``[N, K]`` and ``[N, A, K]`` and on axis 1 of dense ones ``[N, K, H, W]``. A single output is already
    a logit. A group's score is always log-sum-exp, since probabilities add up.
    """

    def answer(self, logits: Tensor) -> Tensor:
        """Return ``log P - log(1 - P)``."""
        return Question(self.targets, self._others(logits.shape)).answer(logits)

    def _others(self, shape: torch.Size) -> tuple[Index, ...] | None:
        """Return the foils: those that were named, or the other classes on the same axis."""
        if self.foils != () or shape.numel() == 1 or any(len(index) != len(shape) for index in self.targets):
            return self.foils
        if len(shape) == 1:
            return None
        axis = 0 if len(shape) > 2 else len(shape) - 1
        wanted = {tuple(part % size for part, size in zip(index, shape, strict=True)) for index in self.targets}
        beside = {(*index[:axis], other, *index[axis + 1 :]) for index in wanted for other in range(shape[axis])}
        if not beside - wanted:
            raise TargetError("the group holds every class, so its probability is always 1; ask about fewer classes")
        return tuple(sorted(beside - wanted))


def log_odds(question: Question) -> Question:
    """Convert a question about classes to :class:`LogOdds`; leave other kinds, with their own formulas, unchanged."""
    of_classes = type(question) is Question and not question.independent
    return LogOdds(question.targets, question.foils) if of_classes else question


def check_temperatures(temperatures: Sequence[float]) -> tuple[float, float]:
    """Return the temperatures of the first and of the last step.

    Raises:
        ValueError: they are not two positive numbers.
    """
    given = tuple(temperatures) if isinstance(temperatures, Iterable) else (temperatures,)
    if len(given) != 2:
        raise ValueError(f"temperatures must be two, of the first and of the last step, got {given}")
    return check_number("temperatures[0]", given[0], above=0), check_number("temperatures[1]", given[1], above=0)


@dataclass(frozen=True)
class Search:
    """Search for a map; see :func:`~xai_align.fei.curve.curve_masks` for the meaning of the numbers."""

    n_iter: int
    lr: float
    temperatures: tuple[float, float]
    scales: tuple[tuple[float, float], ...]
    stable_at: float | None
    loss: CurveLoss

    def run(
        self,
        asked: CompositeAnswers,
        start: Tensor,
        fills: Fills,
        stages: StageDeviations | None,
        generator: torch.Generator,
        progress: Callable[[int], None],
    ) -> tuple[Tensor, Tensor]:
        """Return scores ``[N, h, w]`` and losses ``[N, steps]`` from a standardised start ``[N, h, w]``."""
        offset = _offsets(asked)
        s, velocity = start, torch.zeros_like(start)
        path, losses = [start], []
        done = s.new_zeros(len(s), dtype=torch.bool)
        for t in range(self.n_iter):
            s = s.detach().requires_grad_()
            p = min(max(share_at(t), NARROWEST), 1 - NARROWEST)
            loss = self.loss(asked, standardised(s), p, self._temperature(t), fills, stages, offset, generator)
            # summed over images, so that each is independent of the rest of the batch
            (g,) = torch.autograd.grad(loss.sum(), s)
            velocity = MOMENTUM * velocity + at_scales(g, self.scales)
            s = torch.where(done[:, None, None], s, s - self._rate(t) * velocity).detach()
            losses.append(loss.detach())
            progress(1)
            path.append(s)
            if self.stable_at is not None and t + 1 >= STABLE_OVER:
                done = done | (spearman(s.flatten(1), path[-1 - STABLE_OVER].flatten(1)) >= self.stable_at)
                if done.all():
                    break
        return standardised(s), torch.stack(losses, 1)

    def _temperature(self, t: int) -> float:
        first, last = self.temperatures
        return first * (last / first) ** self._progress(t)

    def _rate(self, t: int) -> float:
        return self.lr * (LAST_RATE + (1 - LAST_RATE) * (1 + cos(pi * self._progress(t))) / 2)

    def _progress(self, t: int) -> float:
        return t / max(self.n_iter - 1, 1)


def _offsets(asked: CompositeAnswers) -> Tensor:
    """Return the offset that is subtracted from the log-odds, ``[N]``.

    Zero if the network predicts the class. Otherwise ``P`` would be almost zero everywhere, so it is taken relative
    to the unchanged image. So are questions whose answers are not log-odds.
    """
    with torch.no_grad():
        return offsets(asked.questions, asked(asked.inputs[:, None])[:, 0])


def offsets(questions: Sequence[Question], clean: Tensor) -> Tensor:
    """Return the offsets for the answers ``[N]`` about the unchanged images, see :func:`_offsets`."""
    odds = clean.new_tensor([isinstance(question, LogOdds) for question in questions], dtype=torch.bool)
    return torch.where(odds, clean.clamp(max=0), clean)
