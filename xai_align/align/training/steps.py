"""Training steps of the classifier and the masker: terms of the loss, gradients, and checks.

While one network trains, the other is in eval mode, its parameters do not require
grad, and its batch statistics do not change.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn

from xai_align._tools.model_state import frozen_parameters
from xai_align._tools.random_state import seed_all
from xai_align.align.forward_passes.classifier_pass import ClassifierPass
from xai_align.align.forward_passes.masker_pass import MaskerPass
from xai_align.align.forward_passes.training_batch import TrainingBatch
from xai_align.align.options import Schedule
from xai_align.align.recipe_record import needs_mask_source
from xai_align.align.training.micro_batches import Gradients, MicroBatch, micro_batches_of, on_device
from xai_align.align.training.trainer_state import TrainerState
from xai_align.align.training.training_modes import SavedBuffers
from xai_align.align.twice_differentiable import twice_differentiable
from xai_align.training.diverged import DivergedError
from xai_align.training.engine import StepContext
from xai_align.training.epoch_plan import derived_seed
from xai_align.training.precision import autocast
from xai_align.training.preserved_state import preserved_state
from xai_align.training.process_group import ProcessGroup
from xai_align.training.step_means import StepMeans

#: Mask values from which a pixel counts as kept, and up to which as dropped.
HIGH, LOW = 0.9, 0.1


class Steps:
    """Training steps of both networks.

    Args:
        trainer: the networks with their optimisers, modes and options.
        group: the processes.
        schedule: of the learning rates; "none": they stay as they are in the optimisers.
    """

    def __init__(self, trainer: TrainerState, group: ProcessGroup, *, schedule: Schedule) -> None:
        assert trainer.space is not None
        self.classifier, self.masker, self.space = trainer.network, trainer.masker, trainer.space
        self.settings, self.recipe, self.response = trainer.settings, trainer.recipe, trainer.response
        self.updaters, self.modes = trainer.updaters, trainer.modes
        self.device, self.group, self._schedule = trainer.device, group, schedule
        #: Share of each network's own steps that is done, where its rate falls by these.
        self.own_progress: dict[str, float] = {}
        networks = {"classifier": self.classifier, "masker": self.masker}
        self._buffers = {name: SavedBuffers(network) for name, network in networks.items() if network is not None}

    def micro_batches(self, step: TrainingBatch) -> list[MicroBatch]:
        """Return this process's micro-batches of a step's examples, on the device."""
        passes, group = self.settings.gradient_accumulation_steps, self.group
        return micro_batches_of(on_device(step, self.device), passes=passes, processes=group.count, rank=group.rank)

    def masker_step(self, micro_batches: Sequence[MicroBatch], context: StepContext, *, means: StepMeans) -> None:
        """Make a step of the masker on this process's micro-batches; its masks are stored in them.

        Args:
            micro_batches: those from :meth:`micro_batches`.
            context: position of the step.
            means: statistics are added to it.

        Raises:
            DivergedError: the loss or its gradient is NaN or infinite; weights are as before.
        """
        assert self.masker is not None
        terms = self.response.weighted_terms(self.recipe.masker_terms)
        with self._learning("masker", context) as gradients:
            for micro_batch in micro_batches:
                forward = MaskerPass(
                    micro_batch.batch,
                    classifier=self.classifier,
                    masker=self.masker,
                    generator=self._generator(context),
                    progress=context.progress,
                    baseline=self.recipe.baseline,
                    masks_from=self.recipe.masks_from,
                    global_batch=micro_batch.global_batch,
                )
                loss = self._weighted(forward, terms, micro_batch.share, means)
                gradients.add(loss * micro_batch.share, scale=self.updaters["masker"].scaled)
                means.add("masker_loss", loss, micro_batch.share)
                add_mask_statistics(forward, micro_batch.share, means)
                micro_batch.masks = forward.soft.detach()
            self._finish("masker", gradients, context, means, "masker_gradient_norm")

    def classifier_step(
        self, micro_batches: Sequence[MicroBatch], context: StepContext, *, with_masks: bool, means: StepMeans
    ) -> None:
        """Make a step of the classifier; see :meth:`masker_step`.

        If the masker made a step on the same examples, its masks from that step are used: they are one update old,
        and free.
        """
        terms = [(term, term.weight) for term in self.recipe.terms if with_masks or not needs_mask_source(term)]
        differentiated = any(getattr(term, "differentiates_twice", False) for term, _ in terms)
        twice = self.settings.order == "second" or self.settings.saliency == "readout" or differentiated
        with self._learning("classifier", context) as gradients, twice_differentiable() if twice else nullcontext():
            for micro_batch in micro_batches:
                forward = ClassifierPass(
                    micro_batch.batch,
                    classifier=self.classifier,
                    space=self.space,
                    order=self.settings.order,
                    normalise=self.settings.normalise,
                    saliency=self.settings.saliency,
                    masker=None if self.masker is None else MaskerWithSavedMasks(self.masker, micro_batch),
                    mask_source=self.recipe.mask_source,
                    generator=self._generator(context),
                    progress=context.progress,
                    global_batch=micro_batch.global_batch,
                )
                loss = self._weighted(forward, terms, micro_batch.share, means)
                gradients.add(loss * micro_batch.share, scale=self.updaters["classifier"].scaled)
                means.add("loss", loss, micro_batch.share)
                if "saliency" in forward.__dict__:
                    means.add("dead_cams", forward.dead.double().mean(), micro_batch.share)
            self._finish("classifier", gradients, context, means, "gradient_norm")

    @contextmanager
    def _learning(self, name: str, context: StepContext) -> Iterator[Gradients]:
        """Set up this network for training and freeze the other one inside the block."""
        other = {"classifier": self.masker, "masker": self.classifier}[name]
        updater = self.updaters[name]
        if self._schedule != "none":
            updater.set_rate(self.settings.learning_rate_factor(self.own_progress.get(name, context.progress)))
        self._buffers[name].save()
        # seeds dropout etc., so that a repeated step is the same
        seed_all(derived_seed(self.settings.seed, name, context.number, self.group.rank))
        with ExitStack() as stack:
            stack.enter_context(self.modes[name].training())
            if other is not None:
                stack.enter_context(self.modes[_OTHER[name]].evaluating())
                stack.enter_context(frozen_parameters(other))
            yield Gradients(updater.parameters)

    def _generator(self, context: StepContext) -> torch.Generator:
        """Return the generator of partners, noise etc., the same for both networks and all processes."""
        return torch.Generator().manual_seed(derived_seed(self.settings.seed, "step", context.number))

    def _weighted(self, forward: Any, terms: Sequence[tuple[Any, float]], share: float, means: StepMeans) -> Tensor:
        """Return the loss of a micro-batch: the weighted sum of the terms' means over its examples."""
        with autocast(self.device, self.settings.mixed_precision):
            values = [(term.name, weight, term(forward).mean()) for term, weight in terms]
        for name, _, value in values:
            means.add(name, value, share)
        return torch.stack([weight * value for _, weight, value in values]).sum()

    def _finish(self, name: str, gradients: Gradients, context: StepContext, means: StepMeans, norm_name: str) -> None:
        found, loss = gradients.total(self.group)
        try:
            norm = self.updaters[name].step(found, loss)
        except DivergedError as error:
            self._buffers[name].restore()
            raise DivergedError(
                f"{context.text}: {error}; no step was made. Give a smaller learning rate, or look for extreme "
                "values in the images"
            ) from None
        means.add(norm_name, norm, 1 / self.group.count)


_OTHER = {"classifier": "masker", "masker": "classifier"}


class MaskerWithSavedMasks(nn.Module):
    """Masker that reuses its masks of a micro-batch's images.

    Args:
        masker: the masker.
        micro_batch: the images, and their masks if there are any.
    """

    def __init__(self, masker: nn.Module, micro_batch: MicroBatch) -> None:
        super().__init__()
        self.masker = masker
        self._micro_batch = micro_batch

    def forward(self, images: Tensor) -> Tensor:
        """Return the masks of these images."""
        if self._micro_batch.masks is not None and images is self._micro_batch.batch.images:
            return self._micro_batch.masks
        masks: Tensor = self.masker(images.clone())
        return masks


@torch.no_grad()
def add_mask_statistics(forward: MaskerPass, share: float, means: StepMeans) -> None:
    """Add statistics of the masks and of the classifier's predictions with them to the means."""
    masks = forward.soft.detach().flatten(1)
    means.add("mask_mean", masks.mean(), share)
    means.add("mask_std", masks.std(1, correction=0).mean(), share)
    means.add("mask_high", (masks > HIGH).double().mean(), share)
    means.add("mask_low", (masks < LOW).double().mean(), share)
    if "probabilities" in forward.__dict__:
        means.add("p_keep", forward.p_keep.mean(), share)
        means.add("p_drop", forward.p_drop.mean(), share)


def single_step(trainer: TrainerState, raw: Any, *, name: Literal["classifier", "masker"]) -> dict[str, float]:
    """Make one step of a network for a custom training loop; see :class:`~xai_align.align.trainer.AlignTrainer`."""
    with preserved_state():
        trainer.check_first_batch(raw, "the batches")
        if name == "masker" and trainer.masker is None:
            raise ValueError(
                f"the recipe '{trainer.recipe.name}' trains no masker, so there is no step of it to make; "
                "make classifier_step alone"
            )
        state, means, group = trainer.assemble(), StepMeans(trainer.device), ProcessGroup()
        steps = Steps(trainer, group, schedule="none")  # the number of steps is not known
        micro_batches = steps.micro_batches(trainer.validator("the batches")(raw))
        context = StepContext(state.step, 0.0, f"step {state.step + 1}")
        if name == "masker":
            steps.masker_step(micro_batches, context, means=means)
        else:
            steps.classifier_step(micro_batches, context, with_masks=True, means=means)
        state.step += 1
    return {name: value for name, value in means.values(means.names, group).items() if value is not None}
