"""Training program of ALIGN: steps of the masker, the classifier or both, by the plan's phases."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from itertools import islice

import torch

from xai_align._tools.callers_level import callers_level
from xai_align.align.forward_passes.training_batch import TrainingBatch
from xai_align.align.training.collapse import CollapseWarning, collapse_message, collapsed, dead_message
from xai_align.align.training.figures import draw_figure
from xai_align.align.training.micro_batches import joined
from xai_align.align.training.phases import after_epoch, after_step, own_progress, turn_at
from xai_align.align.training.seeded_loader import SeededLoader
from xai_align.align.training.steps import Steps
from xai_align.align.training.trainer_state import TrainerState
from xai_align.align.training.validation import validate
from xai_align.training.engine import Program, StepContext
from xai_align.training.process_group import ProcessGroup
from xai_align.training.step_means import StepMeans
from xai_align.training.training_log import Row

#: Statistics of masks while the masker trains.
MASKS = ("p_keep", "p_drop", "mask_mean", "mask_std", "mask_high", "mask_low")

#: Flat masks whose spread grows by this factor from epoch to epoch are still at the start of training.
LEARNING = 1.1


class AlignProgram(Program):
    """Steps and validation of a classifier and a masker.

    Args:
        trainer: the networks with their optimisers and state.
        train: the training data.
        validation: the validation data, or None.
        group: the processes.
        examples: examples for figures.
        epochs: number of epochs of the whole fit.
    """

    def __init__(
        self,
        trainer: TrainerState,
        train: SeededLoader,
        validation: SeededLoader | None,
        group: ProcessGroup,
        examples: TrainingBatch,
        epochs: int,
    ) -> None:
        self.trainer, self.network, self.group = trainer, trainer.network, group
        self.train, self.validation, self.examples = train, validation, examples
        self.state, self.steps, self.classes = (
            trainer.assemble(),
            Steps(trainer, group, schedule=trainer.settings.schedule),
            trainer.classes or 0,
        )
        #: Phase of the last step, and whether both networks trained in this epoch.
        self._phase, self._alternated = self.state.position.phase, False
        self._epochs = epochs
        self._progress: dict[int, dict[str, list[float]]] = {}  # by the steps of an epoch
        #: Number of labels of each class so far.
        self._labels = torch.zeros(self.classes, dtype=torch.int64, device="cpu")
        self._any_mask = not trainer.recipe.needs_masks  # whether any pixel of a mask was known so far

    def steps_in_epoch(self) -> int:
        """Return the expected number of steps in an epoch; 0 if unknown."""
        batches = len(self.train)
        passes = self.trainer.settings.gradient_accumulation_steps
        return math.ceil(batches / passes) if batches else self.state.steps_in_epoch

    def batches(self, epoch: int) -> Iterator[TrainingBatch]:
        """Yield the examples of each step: one batch of the loader, or several for gradient accumulation."""
        self._alternated = False
        batches = map(self.trainer.validator(self.train.name), self.train.epoch(epoch))
        while some := list(islice(batches, self.trainer.settings.gradient_accumulation_steps)):
            for batch in some:
                self._labels += torch.bincount(batch.labels.cpu(), minlength=self.classes)
                if not self._any_mask and batch.masks is not None:
                    self._any_mask = not bool(batch.masks.isnan().all())
            yield joined(some)

    def step(self, batch: TrainingBatch, context: StepContext, means: StepMeans) -> None:
        """Make the step of the network, or networks, whose turn it is."""
        state, plan = self.state, self.trainer.plan
        self._phase = state.position.phase
        self._alternated |= self._phase == "together"
        turn = turn_at(plan, state.position)
        if self.trainer.settings.schedule == "cosine_each":
            self.steps.own_progress = self._own_progress(context.number)
        micro_batches = self.steps.micro_batches(batch)
        if turn.masker:
            self.steps.masker_step(micro_batches, context, means=means)
        if turn.classifier:
            self.steps.classifier_step(micro_batches, context, with_masks=turn.with_masks, means=means)
        state.position = after_step(plan, state.position)

    def _own_progress(self, step: int) -> dict[str, float]:
        """Return the share of each network's own steps that is done; none where the length of an epoch is unknown."""
        expected = self.steps_in_epoch()
        if not expected:
            return {}
        if expected not in self._progress:
            self._progress = {expected: own_progress(self.trainer.plan, expected, self._epochs)}
        known = self._progress[expected]
        return {name: shares[step] if step < len(shares) else 1.0 for name, shares in known.items()}

    def measure(self, means: StepMeans) -> Row:
        """Return the means of losses, terms and statistics, and respond to collapsed masks.

        Raises:
            ValueError: all labels are the same class, or no given mask is known anywhere.
        """
        self._check_labels()
        self._check_masks()
        trainer, recipe = self.trainer, self.trainer.recipe
        terms = [term.name for term in recipe.terms]
        masker_terms = [term.name for term, _ in trainer.response.weighted_terms(recipe.masker_terms)]
        masks = ["masker_loss", *masker_terms, *MASKS, "masker_gradient_norm"] if masker_terms else []
        row: Row = {
            "phase": self._phase if trainer.masker is not None else "classifier",
            "learning_rate": trainer.updaters["classifier"].learning_rate,
            **means.values(("loss", *terms, "dead_cams", "gradient_norm", *masks), self.group),
        }
        for term in (*recipe.terms, *recipe.masker_terms):
            report = getattr(term, "report", None)
            if callable(report):
                row |= self.group.mean_of_reports(report())
        self._respond_to_collapse(row)
        if message := dead_message(row.get("dead_cams") or 0.0, epoch=self.state.epoch + 1):
            self._warn(message)
        return row

    def validate(self) -> Row:
        """Return the measures of the validation data."""
        if self.validation is None:
            return {"best": False}
        measures = validate(
            self.network,
            map(self.trainer.validator(self.validation.name), self.validation.epoch(self.state.epoch)),
            classes=self.classes,
            modes=self.trainer.modes["classifier"],
            group=self.group,
            device=self.trainer.device,
            precision=self.trainer.settings.mixed_precision,
        )
        return {**measures, "best": False}

    def compare(self, row: Row, best: Row | None, since_best: int) -> tuple[bool, int] | None:
        """Compare by the accuracy; ties go to the lower loss, then to the later epoch.

        Only epochs in which both networks trained can be the best, since before them either the masker is not trained
        or the classifier is not aligned.
        """
        if self.validation is None or not self._alternated:
            return None
        if best is None or row["accuracy"] > best["accuracy"]:
            return True, 0
        tied = row["accuracy"] == best["accuracy"] and row["validation_loss"] <= best["validation_loss"]
        return tied, since_best + 1

    def end_epoch(self, row: Row, steps: int) -> None:
        """Advance the position in the plan."""
        self.state.steps_in_epoch = steps
        self.state.position = after_epoch(self.trainer.plan, self.state.position)

    def after_epoch(self, epoch: int) -> None:
        """Draw a figure if one is due."""
        every, out = self.trainer.settings.figure_every, self.trainer.settings.out
        if every and out and epoch % every == 0 and self.group.is_main:
            draw_figure(self.trainer, self.examples, out / f"figures/epoch-{epoch:03d}.png")

    def _check_labels(self) -> None:
        """Raise if all labels of the epoch were the same class; the epoch is then not counted."""
        there = self._labels.nonzero().flatten().tolist()
        if len(there) == 1:
            raise ValueError(
                f"all {int(self._labels.sum())} labels of the training data are {there[0]}: with one class there is "
                "nothing to classify, and nothing to align. Give examples of two classes or more"
            )
        absent = [number for number in range(self.classes) if number not in there]
        if absent and self.state.epoch == 0:
            some = ", ".join(map(str, absent[:5])) + (" …" if len(absent) > 5 else "")
            self.state.notes.append(
                f"{len(absent)} of {self.classes} classes {'has' if len(absent) == 1 else 'have'} no training "
                f"example (class {some})"
            )

    def _check_masks(self) -> None:
        """Raise if the recipe needs given masks, and none of the epoch was known; the epoch is then not counted."""
        if not self._any_mask:
            raise ValueError(
                f"the recipe '{self.trainer.recipe.name}' needs masks, and all values of those of the training data "
                "are NaN, which means unknown; give masks with 1 where the evidence is and 0 where it isn't"
            )

    def _respond_to_collapse(self, row: Row) -> None:
        """Warn and start the response if masks have collapsed. Flat masks with a growing spread are still learning."""
        mean, std = row.get("mask_mean"), row.get("mask_std")
        if mean is None or std is None:
            return
        response, history = self.trainer.response, reversed(self.state.history)
        before = next((known for row in history if (known := row.get("mask_std")) is not None), None)
        kind = collapsed(mean, std)
        if kind == "flat" and (before is None or std > LEARNING * before):
            kind = None
        response.update(kind, mean)
        if kind is not None:
            number, text = self.state.epoch + 1, response.description
            self._warn(collapse_message(kind, epoch=number, mean=mean, std=std, description=text))

    def _warn(self, message: str) -> None:
        self.state.notes.append(message)
        if self.group.is_main:
            warnings.warn(message, CollapseWarning, stacklevel=callers_level())
