"""Search of :mod:`~xai_align.fei.curve`: a few steps of a score map along the gradient of its own curves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import cos, pi

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from xai_align._tools.correlation import spearman
from xai_align.features.hidden_layers import LayerHooks, check_batch_first
from xai_align.fei.composites import CompositeAnswers, composite
from xai_align.fei.quantile_masks import quantile_masks, share_at, standardised
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


@dataclass(frozen=True)
class StageDeviations:
    """Deviation ``D`` of hidden layers from their activations for the unchanged images.

    ``clean`` has each layer's activations ``[N, 2, ...]`` for the images and for the mirrored ones, which mirrored
    composites are compared with.
    """

    hooks: LayerHooks
    clean: dict[str, Tensor]

    @classmethod
    def of(cls, hooks: LayerHooks, asked: CompositeAnswers) -> StageDeviations:
        """Record the layers for the unchanged images."""
        with torch.no_grad(), hooks.calling(lambda name, out: out.clone()) as seen:
            asked(torch.stack([asked.inputs, asked.inputs.flip(-1)], 1))
        check_batch_first(seen, 2 * len(asked.inputs))
        return cls(hooks, {name: a.unflatten(0, (len(asked.inputs), 2)) for name, a in seen.items()})

    def deviations(self, seen: dict[str, Tensor], mirrored: list[bool]) -> Tensor:
        """Return ``mean_l |a_l(x) - a_l(x')|^2 / |a_l(x)|^2``, ``[N, M]``, of ``M`` composites of each image."""
        each = []
        for name, clean in self.clean.items():
            a = clean[:, [int(flipped) for flipped in mirrored]]
            now = seen[name].unflatten(0, (len(a), -1))
            energy = a.flatten(2).square().sum(2)
            each.append((now - a).flatten(2).square().sum(2) / torch.where(energy > 0, energy, 1))
        return torch.stack(each).mean(0)


@dataclass(frozen=True)
class Search:
    """Search for a map; see :func:`~xai_align.fei.curve.curve_masks` for the meaning of the numbers."""

    n_iter: int
    lr: float
    temperatures: tuple[float, float]
    scales: tuple[tuple[float, float], ...]
    shift: int
    mirrors: bool
    deviation_weight: float
    stable_at: float | None

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
            loss = self._loss(asked, standardised(s), t, fills, stages, offset, generator)
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

    def _loss(
        self,
        asked: CompositeAnswers,
        s: Tensor,
        t: int,
        fills: Fills,
        stages: StageDeviations | None,
        offset: Tensor,
        generator: torch.Generator,
    ) -> Tensor:
        """Return the loss of step ``t``, ``[N]``."""
        p = min(max(share_at(t), NARROWEST), 1 - NARROWEST)
        return curve_loss(
            asked,
            s,
            p,
            self._temperature(t),
            fills,
            stages,
            offset,
            generator,
            shift=self.shift,
            mirrors=self.mirrors,
            deviation_weight=self.deviation_weight,
        )

    def _temperature(self, t: int) -> float:
        first, last = self.temperatures
        return first * (last / first) ** self._progress(t)

    def _rate(self, t: int) -> float:
        return self.lr * (LAST_RATE + (1 - LAST_RATE) * (1 + cos(pi * self._progress(t))) / 2)

    def _progress(self, t: int) -> float:
        return t / max(self.n_iter - 1, 1)


def curve_loss(
    asked: CompositeAnswers,
    s: Tensor,
    p: float,
    tau: float,
    fills: Fills,
    stages: StageDeviations | None,
    offset: Tensor,
    generator: torch.Generator,
    *,
    shift: int,
    mirrors: bool,
    deviation_weight: float,
) -> Tensor:
    """Return ``L = P(x_del) - P(x_ins) + w D`` of maps at one share ``p``, ``[N]``.

    Args:
        asked: the network's answers for composites of the images.
        s: standardised scores ``[N, h, w]``.
        p: the share of the image.
        tau: temperature of the masks.
        fills: source of the fills, one for each composite.
        stages: the hidden layers whose deviation counts; None: none.
        offset: subtracted from the log-odds, ``[N]``.
        generator: of the mask's shift and the flips.
        shift: maximum shift of the mask in pixels.
        mirrors: whether composites are flipped at random.
        deviation_weight: ``w``.
    """
    x = asked.inputs
    on_image = interpolate(s[:, None], x.shape[2:], mode="bilinear")[:, 0]
    m = _shifted(quantile_masks(on_image, (p,), tau), shift, generator)
    x_ins, x_del = composite(x, m, fills.draw()), composite(x, 1 - m, fills.draw())
    mirrored = [_tossed(mirrors, generator), _tossed(mirrors, generator)]
    shown = [one.flip(-1) if flipped else one for one, flipped in zip((x_ins, x_del), mirrored, strict=True)]
    both = torch.cat(shown, 1)
    if stages is None:
        probability = torch.sigmoid(asked(both) - offset[:, None])
        return probability[:, 1] - probability[:, 0]
    # cloned, as later layers may work in place
    with stages.hooks.calling(lambda name, out: out.clone()) as seen:
        probability = torch.sigmoid(asked(both) - offset[:, None])
    return probability[:, 1] - probability[:, 0] + deviation_weight * stages.deviations(seen, mirrored).mean(1)


def _shifted(m: Tensor, reach: int, generator: torch.Generator) -> Tensor:
    """Shift masks by up to ``reach`` pixels each way, with replicated borders."""
    down, right = torch.randint(-reach, reach + 1, (2,), generator=generator).tolist()
    wide = pad(m, (reach,) * 4, mode="replicate")
    return wide[..., reach + down : reach + down + m.shape[-2], reach + right : reach + right + m.shape[-1]]


def _tossed(mirrors: bool, generator: torch.Generator) -> bool:
    """Draw whether a composite is mirrored."""
    heads = float(torch.rand(1, generator=generator)) < 0.5
    return mirrors and heads


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
