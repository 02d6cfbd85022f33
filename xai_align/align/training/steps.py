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
from xai_align.align.recipe_record import Recipe
from xai_align.align.training.collapse_answers import CollapseAnswer
from xai_align.align.training.settings import AlignSettings
from xai_align.align.training.share_of_work import Crew, Gradients, Piece, on_device, pieces_of
from xai_align.align.training.tally import Tally
from xai_align.align.training.training_modes import KeptBuffers, TrainingModes
from xai_align.align.training.updates import Updater
from xai_align.align.twice_differentiable import twice_differentiable
from xai_align.align.views.batch import TrainingBatch
from xai_align.align.views.classifier_view import ClassifierView
from xai_align.align.views.masker_view import MaskerView
from xai_align.hookspecs import FeatureSpace
from xai_align.training.choices import Precision
from xai_align.training.diverged import DivergedError
from xai_align.training.epoch_plan import derived_seed

#: Mask values from which a pixel counts as kept, and up to which as dropped.
HIGH, LOW = 0.9, 0.1


@dataclass(frozen=True)
class Moment:
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
        answer: response to collapsed masks.
        crew: the processes.
        device: device of the networks.
    """

    classifier: nn.Module
    masker: nn.Module | None
    space: FeatureSpace
    settings: AlignSettings
    recipe: Recipe
    updaters: dict[str, Updater]
    modes: dict[str, TrainingModes]
    answer: CollapseAnswer
    crew: Crew
    device: torch.device
    _buffers: dict[str, KeptBuffers] = field(init=False)

    def __post_init__(self) -> None:
        networks = {"classifier": self.classifier, "masker": self.masker}
        self._buffers = {name: KeptBuffers(network) for name, network in networks.items() if network is not None}

    def pieces(self, step: TrainingBatch) -> list[Piece]:
        """Return this process's parts of a step's examples, on the device."""
        crew = self.crew
        return pieces_of(
            on_device(step, self.device), passes=self.settings.passes, processes=crew.count, rank=crew.rank
        )

    def masker_step(self, pieces: Sequence[Piece], moment: Moment, *, tally: Tally) -> None:
        """Make a step of the masker on this process's parts of a step's examples; its masks are stored in them.

        Args:
            pieces: the parts from :meth:`pieces`.
            moment: time of the step.
            tally: statistics are added to it.

        Raises:
            DivergedError: the loss or its gradient is NaN or infinite; weights are as before.
        """
        terms = self.answer.weighed(self.recipe.masker_terms)
        with self._learning("masker", moment) as gradients:
            for piece in pieces:
                view = MaskerView(
                    piece.batch,
                    classifier=self.classifier,
                    masker=needed(self.masker),
                    generator=self._generator(moment),
                    progress=moment.progress,
                    baseline=self.recipe.baseline,
                    masks_from=self.recipe.masks_from,
                    everyone=piece.everyone,
                )
                loss = self._weighted(view, terms, piece.share, tally)
                gradients.add(loss * piece.share, scale=self.updaters["masker"].scaled)
                tally.add("masker_loss", loss, piece.share)
                tell_of_masks(view, piece.share, tally)
                piece.masks = view.soft.detach()
            self._finish("masker", gradients, moment, tally, "masker_gradient_norm")

    def classifier_step(self, pieces: Sequence[Piece], moment: Moment, *, guided: bool, tally: Tally) -> None:
        """Make a step of the classifier; see :meth:`masker_step`.

        If the masker made a step on the same examples, its masks from that step are used: they are one update old,
        and free.
        """
        terms = [(term, term.weight) for term in self.recipe.terms if guided or not needs_guide(term)]
        twice = self.settings.order == "second" or any(differentiates_twice(term) for term, _ in terms)
        with self._learning("classifier", moment) as gradients, twice_differentiable() if twice else nullcontext():
            for piece in pieces:
                view = ClassifierView(
                    piece.batch,
                    classifier=self.classifier,
                    space=self.space,
                    order=self.settings.order,
                    normalise=self.settings.normalise,
                    masker=None if self.masker is None else Remembering(self.masker, piece),
                    guide=self.recipe.guide,
                    generator=self._generator(moment),
                    progress=moment.progress,
                    everyone=piece.everyone,
                )
                loss = self._weighted(view, terms, piece.share, tally)
                gradients.add(loss * piece.share, scale=self.updaters["classifier"].scaled)
                tally.add("loss", loss, piece.share)
                if "saliency" in view.__dict__:
                    tally.add("dead_cams", view.dead.double().mean(), piece.share)
            self._finish("classifier", gradients, moment, tally, "gradient_norm")

    @contextmanager
    def _learning(self, who: str, moment: Moment) -> Iterator[Gradients]:
        """Set up this network for training and freeze the other one inside the block."""
        other = {"classifier": self.masker, "masker": self.classifier}[who]
        updater = self.updaters[who]
        updater.set_rate(self.settings.share_of_rate(moment.progress))
        self._buffers[who].keep()
        # seeds dropout etc., so that a repeated step is the same
        seed_all(derived_seed(self.settings.seed, who, moment.number, self.crew.rank))
        with self.modes[who].training():
            with nullcontext() if other is None else self.modes[_OTHER[who]].evaluating():
                with nullcontext() if other is None else frozen_parameters(other):
                    yield Gradients(updater.parameters)

    def _generator(self, moment: Moment) -> torch.Generator:
        """Return the generator of partners, noise etc., the same for both networks, all parts and all processes."""
        return torch.Generator().manual_seed(derived_seed(self.settings.seed, "step", moment.number))

    def _weighted(self, view: Any, terms: Sequence[tuple[Any, float]], share: float, tally: Tally) -> Tensor:
        """Return the loss of a part: the weighted sum of the terms' means over its examples."""
        with autocast(self.device, self.settings.mixed_precision):
            values = [(term.name, weight, term(view).mean()) for term, weight in terms]
        for name, _, value in values:
            tally.add(name, value, share)
        return torch.stack([weight * value for _, weight, value in values]).sum()

    def _finish(self, who: str, gradients: Gradients, moment: Moment, tally: Tally, norm_name: str) -> None:
        found, loss = gradients.total(self.crew)
        try:
            norm = self.updaters[who].step(found, loss)
        except DivergedError as error:
            self._buffers[who].put_back()
            raise DivergedError(
                f"{moment.words}: {error}; no step was made. Give a smaller learning rate, or look for extreme "
                "values in the images"
            ) from None
        tally.add(norm_name, norm, 1 / self.crew.count)


_OTHER = {"classifier": "masker", "masker": "classifier"}


def differentiates_twice(term: Any) -> bool:
    """Return True if a term's loss contains a gradient."""
    return bool(getattr(term, "differentiates_twice", False))


class Remembering(nn.Module):
    """Masker that reuses its masks of a part's images.

    Args:
        masker: the masker.
        piece: the images, and their masks if there are any.
    """

    def __init__(self, masker: nn.Module, piece: Piece) -> None:
        super().__init__()
        self.masker = masker
        self._piece = piece

    def forward(self, images: Tensor) -> Tensor:
        """Return the masks of these images."""
        if self._piece.masks is not None and images is self._piece.batch.images:
            return self._piece.masks
        masks: Tensor = self.masker(images)
        return masks


def needed(masker: nn.Module | None) -> nn.Module:
    """Return the masker, which must exist."""
    assert masker is not None
    return masker


def needs_guide(term: Any) -> bool:
    """Return True if a term needs a mask, so that it is left out until there is one."""
    return bool(getattr(term, "needs_guide", False))


@torch.no_grad()
def tell_of_masks(view: MaskerView, share: float, tally: Tally) -> None:
    """Add statistics of the masks and of the classifier's predictions with them to the tally."""
    masks = view.soft.detach().flatten(1)
    tally.add("mask_mean", masks.mean(), share)
    tally.add("mask_std", masks.std(1, correction=0).mean(), share)
    tally.add("mask_high", (masks > HIGH).double().mean(), share)
    tally.add("mask_low", (masks < LOW).double().mean(), share)
    if "probabilities" in view.__dict__:
        tally.add("p_keep", view.p_keep.mean(), share)
        tally.add("p_drop", view.p_drop.mean(), share)


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[Any]:
    """Return the autocast context of forward passes."""
    if precision == "no":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16 if precision == "bf16" else torch.float16)
