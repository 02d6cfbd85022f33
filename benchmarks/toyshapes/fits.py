"""Fits of the ToyShapes benchmark, each saved to a file, so that a stopped run resumes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import Dataset

from benchmarks.toyshapes.groups import (
    BATCH,
    EPOCHS,
    GROUPS,
    TRAINING_PICTURES,
    VALIDATE_EVERY,
    VALIDATION_PICTURES,
    Group,
    Sharpened,
    shown_masks,
)
from benchmarks.toyshapes.scores import accuracy, answers
from examples.toyshapes.generator import TEST_SEED, ToyShapes, toy_shapes
from xai_align._tools.files.whole_file import whole_file
from xai_align.training import Fit, fit_pinet
from xai_align.training.choices import Precision

TEST_PICTURES = 1000
#: Every fit has its own pictures, as in the paper.
SEEDS_APART = 10_000


@dataclass(frozen=True)
class Fitted:
    """A network after its fit.

    Attributes:
        model: the network in eval mode.
        accuracy: accuracy on validation pictures.
        epochs, seconds: length of the fit, including earlier stages.
    """

    model: nn.Module
    accuracy: float
    epochs: int
    seconds: float


@dataclass(frozen=True)
class Workshop:
    """Factory of the networks of fit ``number``, each made once.

    Attributes:
        out: folder of the networks.
        number: number of the fit; all its networks have the same training and validation pictures.
        precision: precision of the passes in training.
    """

    out: Path
    number: int
    precision: Precision

    def fitted(self, name: str, member: int = 0) -> Fitted:
        """Return the network of a group; ``member`` numbers those with other initial weights."""
        seed = 100 * self.number + member
        file = self.out / name / f"{self.number}-{member}.safetensors"
        if file.exists():
            return restored(file, self.untrained(name))
        train, validation = data_of(self.number)
        group = GROUPS[name]
        torch.manual_seed(seed)
        if isinstance(group, Sharpened):
            before = self.fitted(group.first, member)
            model = group.prepare(before.model)  # type: ignore[arg-type]
            done = second_stage(group, channels_last(model), train, validation, seed, self.precision)
        else:
            before, model = None, group.build()
            done = first_stage(group, channels_last(model), train, validation, seed, self.precision)
        made = Fitted(
            model.eval(),
            accuracy=validation_accuracy(model, validation),
            epochs=done.epochs + (before.epochs if before else 0),
            seconds=done.seconds + (before.seconds if before else 0.0),
        )
        save(file, made)
        return made

    def untrained(self, name: str) -> nn.Module:
        """Return a network of the group with random weights."""
        group = GROUPS[name]
        if isinstance(group, Sharpened):
            return group.prepare(self.untrained(group.first))  # type: ignore[arg-type]
        return group.build()


def channels_last(model: nn.Module) -> nn.Module:
    """Return the network in channels-last format, which is faster on CPUs."""
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def save(file: Path, made: Fitted) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    facts = {"accuracy": made.accuracy, "epochs": made.epochs, "seconds": made.seconds}
    weights = {name: value.contiguous() for name, value in made.model.state_dict().items()}
    with whole_file(file) as waiting:
        save_file(weights, waiting, {"facts": json.dumps(facts)})


def restored(file: Path, model: nn.Module) -> Fitted:
    with safe_open(file, "pt") as kept:
        facts = json.loads(kept.metadata()["facts"])
        model.load_state_dict({name: kept.get_tensor(name) for name in kept.keys()})  # noqa: SIM118
    return Fitted(channels_last(model).eval(), **facts)


class Pictures(Dataset[tuple[Tensor, ...]]):
    """Dataset for ``fit_pinet``: a picture, its label, and its mask if masks are given."""

    def __init__(self, shapes: ToyShapes, masks: Tensor | None = None) -> None:
        self.shapes, self.masks = shapes, masks

    def __len__(self) -> int:
        return len(self.shapes)

    def __getitem__(self, i: int) -> tuple[Tensor, ...]:
        pair = self.shapes.images[i], self.shapes.labels[i : i + 1]
        return pair if self.masks is None else (*pair, self.masks[i])


def data_of(number: int) -> tuple[ToyShapes, ToyShapes]:
    """Return the training and validation pictures of fit ``number``."""
    shapes = toy_shapes(TRAINING_PICTURES + VALIDATION_PICTURES, seed=SEEDS_APART * (number + 1))
    return shapes[:TRAINING_PICTURES], shapes[TRAINING_PICTURES:]


def unseen_pictures() -> ToyShapes:
    """Return the paper's test set (its seed, our drawing)."""
    return toy_shapes(TEST_PICTURES, seed=TEST_SEED)


def first_stage(
    group: Group, model: nn.Module, train: ToyShapes, validation: ToyShapes, seed: int, precision: Precision
) -> Fit:
    """Fit by the paper's recipe: stop when all validation pictures are right, and keep the best weights on them."""
    return fit_pinet(
        model,
        Pictures(train, shown_masks(train, group.masks) if group.masks else None),
        Pictures(validation),
        loss=group.loss,
        epochs=EPOCHS,
        batch_size=BATCH,
        learning_rate=group.learning_rate,
        betas=group.betas,
        validate_every=VALIDATE_EVERY,
        stop_at=1.0,
        seed=seed,
        mixed_precision=precision,
    )


def second_stage(
    group: Sharpened, model: nn.Module, train: ToyShapes, validation: ToyShapes, seed: int, precision: Precision
) -> Fit:
    """Fit for a fixed number of epochs with a falling rate, and keep the last weights."""
    return fit_pinet(
        model,
        Pictures(train),
        Pictures(validation),
        loss=group.loss,
        epochs=group.epochs,
        batch_size=BATCH,
        schedule="cosine",
        keep="last",
        seed=seed,
        mixed_precision=precision,
    )


def validation_accuracy(model: nn.Module, validation: ToyShapes) -> float:
    return accuracy(answers(lambda x: (model(x)[:, 0], x), validation.images)[0], validation)
