"""Training steps of the classifier and the masker: terms of the loss, gradients, and checks.

While one network trains, the other is in eval mode, its parameters do not require
grad, and its batch statistics do not change.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from xai_align._tools.model_state import frozen_parameters
from xai_align._tools.random_state import seed_all
from xai_align.align.forward_passes.classifier_pass import ClassifierPass
from xai_align.align.forward_passes.masker_pass import MaskerPass
from xai_align.align.forward_passes.training_batch import TrainingBatch
from xai_align.align.recipe_record import Recipe
from xai_align.align.training.collapse_responses import CollapseResponse
from xai_align.align.training.micro_batches import Gradients, MicroBatch, ProcessGroup, micro_batches_of, on_device
from xai_align.align.training.settings import AlignSettings
from xai_align.align.training.step_means import StepMeans
from xai_align.align.training.training_modes import SavedBuffers, TrainingModes
from xai_align.align.training.updates import Updater
from xai_align.align.twice_differentiable import twice_differentiable
from xai_align.hookspecs import FeatureSpace
from xai_align.training.choices import Precision
from xai_align.training.diverged import DivergedError
from xai_align.training.epoch_plan import derived_seed

#: Mask values from which a pixel counts as kept, and up to which as dropped.
HIGH, LOW = 0.9, 0.1


@dataclass(frozen=True)
class StepContext:
    """Time of a step.

    Attributes:
        number: number of the step, from 0.
        progress: the share of the fit that is done, 0 to 1.
        words: text for messages, e.g. "epoch 3, batch 17".
    """

    number: int
    progress: float
    words: str


@dataclass(kw_only=True)
class Steps:
    """Training steps of both networks.

    Attributes:
        classifier: the network itself, without wrappers.
        masker: the masker; None if the recipe has none.
        space: feature space of the CAMs.
        settings: the options.
        recipe: the training recipe.
        updaters: optimisers of "classifier" and, if there is one, "masker".
        modes: training modes of both networks.
        response: response to collapsed masks.
        group: the processes.
        device: device of the networks.
    """

    classifier: nn.Module
    masker: nn.Module | None
    space: FeatureSpace
    settings: AlignSettings
    recipe: Recipe
    updaters: dict[str, Updater]
    modes: dict[str, TrainingModes]
    response: CollapseResponse
    group: ProcessGroup
    device: torch.device
    _buffers: dict[str, SavedBuffers] = field(init=False)

    def __post_init__(self) -> None:
        networks = {"classifier": self.classifier, "masker": self.masker}
        self._buffers = {name: SavedBuffers(network) for name, network in networks.items() if network is not None}

    def micro_batches(self, step: TrainingBatch) -> list[MicroBatch]:
        """Return this process's parts of a step's examples, on the device."""
        group = self.group
        return micro_batches_of(
            on_device(step, self.device), passes=self.settings.passes, processes=group.count, rank=group.rank
        )

    def masker_step(self, micro_batches: Sequence[MicroBatch], context: StepContext, *, means: StepMeans) -> None:
        """Make a step of the masker on this process's parts of a step's examples; its masks are stored in them.

        Args:
            micro_batches: the parts from :meth:`micro_batches`.
            context: time of the step.
            means: statistics are added to it.

        Raises:
            DivergedError: the loss or its gradient is NaN or infinite; weights are as before.
        """
        terms = self.response.weighted_terms(self.recipe.masker_terms)
        with self._learning("masker", context) as gradients:
            for micro_batch in micro_batches:
                forward = MaskerPass(
                    micro_batch.batch,
                    classifier=self.classifier,
                    masker=needed(self.masker),
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
        twice = self.settings.order == "second" or any(differentiates_twice(term) for term, _ in terms)
        with self._learning("classifier", context) as gradients, twice_differentiable() if twice else nullcontext():
            for micro_batch in micro_batches:
                forward = ClassifierPass(
                    micro_batch.batch,
                    classifier=self.classifier,
                    space=self.space,
                    order=self.settings.order,
                    normalise=self.settings.normalise,
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
        updater.set_rate(self.settings.learning_rate_factor(context.progress))
        self._buffers[name].save()
        # seeds dropout etc., so that a repeated step is the same
        seed_all(derived_seed(self.settings.seed, name, context.number, self.group.rank))
        with self.modes[name].training():
            with nullcontext() if other is None else self.modes[_OTHER[name]].evaluating():
                with nullcontext() if other is None else frozen_parameters(other):
                    yield Gradients(updater.parameters)

    def _generator(self, context: StepContext) -> torch.Generator:
        """Return the generator of partners, noise etc., the same for both networks, all parts and all processes."""
        return torch.Generator().manual_seed(derived_seed(self.settings.seed, "step", context.number))

    def _weighted(self, forward: Any, terms: Sequence[tuple[Any, float]], share: float, means: StepMeans) -> Tensor:
        """Return the loss of a part: the weighted sum of the terms' means over its examples."""
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
                f"{context.words}: {error}; no step was made. Give a smaller learning rate, or look for extreme "
                "values in the images"
            ) from None
        means.add(norm_name, norm, 1 / self.group.count)


_OTHER = {"classifier": "masker", "masker": "classifier"}


def differentiates_twice(term: Any) -> bool:
    """Return True if a term's loss contains a gradient."""
    return bool(getattr(term, "differentiates_twice", False))


class MaskerWithSavedMasks(nn.Module):
    """Masker that reuses its masks of a part's images.

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
        masks: Tensor = self.masker(images)
        return masks


def needed(masker: nn.Module | None) -> nn.Module:
    """Return the masker, which must exist."""
    assert masker is not None
    return masker


def needs_mask_source(term: Any) -> bool:
    """Return True if a term needs a mask, so that it is left out until there is one."""
    return bool(getattr(term, "needs_mask_source", False))


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


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[Any]:
    """Return the autocast context of forward passes."""
    if precision == "no":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16 if precision == "bf16" else torch.float16)
