"""Training program of a score network: its steps on the curve objective, and validation on held-out images."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from xai_align._tools.drawn import uniform
from xai_align.fei.amortised.curve_objective import CurveObjective
from xai_align.fei.amortised.options import FitFEIOptions
from xai_align.fei.amortised.score_network import ScoreNetwork
from xai_align.fei.amortised.unlabelled_images import UnlabelledImages
from xai_align.fei.quantile_masks import share_at
from xai_align.question import Question, as_questions
from xai_align.training.diverged import DivergedError
from xai_align.training.engine import Program, StepContext
from xai_align.training.epoch_plan import Shard, derived_seed, epoch_plan, steps_in_epoch
from xai_align.training.network_fit_state import NetworkFitState
from xai_align.training.process_group import ProcessGroup
from xai_align.training.step_means import StepMeans
from xai_align.training.training_log import Row

#: Shares of the image at which held-out images are judged.
SHARES = (0.1, 0.3, 0.5, 0.7, 0.9)


@dataclass(frozen=True)
class Asked:
    """Some of the images, and the two most probable classes of each.

    Attributes:
        images: all images.
        numbers: which of them.
        classes: ``[N, 2]``, of all images; twice the only output of a network that has one.
    """

    images: UnlabelledImages
    numbers: Sequence[int]
    classes: Tensor


@dataclass(kw_only=True)
class FEIProgram(Program):
    """Steps and validation of a score network.

    Attributes:
        options: the options.
        batch_size: images in a forward pass.
        seed: of order, flips, questions, fills and shifts.
        state: state of the fit.
        network: the score network.
        objective: the loss.
        train, validation: the images; None: no validation.
        device: of the explained network.
        group: this process.
        write: called after each epoch's checkpoint with the best weights so far in the network.
    """

    options: FitFEIOptions
    batch_size: int
    seed: int
    state: NetworkFitState
    network: ScoreNetwork
    objective: CurveObjective
    train: Asked
    validation: Asked | None
    device: torch.device
    group: ProcessGroup
    write: Callable[[], None]
    #: The held-out loss of the readout's maps, once it is known.
    start_loss: float | None = None

    def steps_in_epoch(self) -> int:
        """Return the number of steps in an epoch."""
        return steps_in_epoch(len(self.train.numbers), self.batch_size * self.options.gradient_accumulation_steps)

    def batches(self, epoch: int) -> Iterator[list[tuple[Shard, Tensor, list[Question]]]]:
        """Yield the images and questions of each step, one pair for each forward pass."""
        plan = epoch_plan(
            len(self.train.numbers),
            batch_size=self.batch_size,
            passes=self.options.gradient_accumulation_steps,
            seed=self.seed,
            epoch=epoch,
        )
        draws = torch.Generator().manual_seed(derived_seed(self.seed, "flips and questions", epoch))
        for shards in plan:
            yield [(shard, *self._drawn(shard.indices, draws)) for shard in shards]

    def _drawn(self, indices: Sequence[int], draws: torch.Generator) -> tuple[Tensor, list[Question]]:
        """Return images, half of them mirrored, and a question about each."""
        numbers = [self.train.numbers[i] for i in indices]
        images = self.train.images.take(numbers).to(self.device)
        flipped, second = uniform((2, len(numbers)), draws)
        images = torch.where((flipped < 0.5).to(self.device)[:, None, None, None], images.flip(-1), images)
        column = (second < self.options.runner_up).long()
        classes = self.train.classes[numbers, column]
        return images, as_questions(classes, len(numbers))

    def step(self, batch: list[tuple[Shard, Tensor, list[Question]]], context: StepContext, means: StepMeans) -> None:
        """Make one optimiser step, at one share of the image."""
        generator = torch.Generator().manual_seed(derived_seed(self.seed, "step", context.number))
        first, last = self.options.temperatures
        tau = first * (last / first) ** context.progress
        for shard, x, questions in batch:
            seen = self.objective.explained.see(x, questions)
            s = self.network(x.to(seen.start), seen.layers, seen.start)
            losses = self.objective.losses(
                s, x, seen, questions, share=share_at(context.number), tau=tau, generator=generator
            )
            (losses.mean() * shard.share).backward()
            means.add("loss", losses.mean(), shard.share)
        self.state.optimizer.step()
        self.state.optimizer.zero_grad()
        self.state.scheduler.step()

    def measure(self, means: StepMeans) -> Row:
        """Return the learning rate and the mean loss.

        Raises:
            DivergedError: it is NaN or infinite.
        """
        group = self.state.optimizer.param_groups[0]
        rate = group["lr"]
        row = means.values(("loss",), self.group)
        if not math.isfinite(row["loss"] or 0.0):
            raise DivergedError(
                f"the loss was {row['loss']} in epoch {self.state.epoch + 1}; the score network has the best weights "
                f"from before. Give a smaller learning_rate than {group['initial_lr']:.3g}, or look for images on "
                "which the network gives extreme logits"
            )
        return {"learning_rate": rate, **row}

    @torch.no_grad()
    def validate(self) -> Row:
        """Return the loss on held-out images, of the network's maps and of the readout's."""
        if self.validation is None:
            return {}
        total, start = self._held_out(with_start=self.start_loss is None)
        self.start_loss = start if self.start_loss is None else self.start_loss
        return {"validation_loss": total, "validation_start": self.start_loss}

    def _held_out(self, *, with_start: bool) -> tuple[float, float]:
        """Return the mean loss over held-out images and :data:`SHARES`, of the network's maps and of the readout's."""
        assert self.validation is not None
        held, sums = self.validation, [0.0, 0.0]
        tau = self.options.temperatures[1]
        for first in range(0, len(held.numbers), self.batch_size):
            numbers = held.numbers[first : first + self.batch_size]
            x = held.images.take(numbers).to(self.device)
            questions = as_questions(held.classes[numbers, 0], len(numbers))
            seen = self.objective.explained.see(x, questions)
            s = self.network(x.to(seen.start), seen.layers, seen.start)
            for share in SHARES:
                for place, maps in enumerate([s, seen.start] if with_start else [s]):
                    seed = derived_seed(self.seed, "held out", first, share)
                    losses = self.objective.losses(
                        maps,
                        x,
                        seen,
                        questions,
                        share=share,
                        tau=tau,
                        generator=torch.Generator().manual_seed(seed),
                    )
                    sums[place] += float(losses.double().sum())
        count = len(held.numbers) * len(SHARES)
        return sums[0] / count, sums[1] / count

    def compare(self, row: Row, best: Row | None, since_best: int) -> tuple[bool, int] | None:
        """Compare by the held-out loss; the first validation is compared with the readout's maps."""
        if self.validation is None:
            return None
        least = row["validation_start"] if best is None else best["validation_loss"]
        better = row["validation_loss"] < least
        return better, 0 if better else since_best + 1

    def after_epoch(self, epoch: int) -> None:
        """Write the explainer, with the weights that the fit would end with now."""
        if self.options.keep == "best":
            self.state.take_best_weights()
        try:
            self.write()
        finally:
            self.state.take_last_weights()
