"""Fits of the ALIGN benchmark on digits: one classifier, one schedule, and a recipe for each row of the table.

Every method makes the same number of classifier steps on the same pictures in the same order, from the same first
weights. A fit leaves a JSON with its scores and a file with its networks; existing fits are not repeated.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.align.digits_data import CLASSES, Domains, Pictures
from benchmarks.align.digits_scores import scores
from xai_align._tools.files.whole_file import whole_file
from xai_align.align import AlignTrainer, CollapseWarning, Masker, Recipe, ShortcutWarning, find_shortcuts, recipe
from xai_align.align.forward_passes.training_batch import GlobalBatch, TrainingBatch
from xai_align.align.recipes import aligned_to
from xai_align.comparison.store import write_whole

BATCH = 64
#: Epochs of the classifier; the first ones are without masks. Then the masker is trained alone, in additional epochs.
EPOCHS, WARMUP, MASKER_ONLY = 12, 3, 2
RATE = 3e-3
WIDTHS = (16, 32, 32, 64, 64)
STRIDES = (1, 2, 1, 2, 1)
#: lambda1, lambda3, lambda4 of all methods that have them, but DRE's, which is as published; lambda2 is the library's.
SPARSITY, ALIGNMENT, MIXUP = 2.25, 2.0, 0.3
#: Value of lambda1 at which hardly any mask is too large.
WIDE = 0.05


#: Options of the trainer for single methods: the scale of the CAMs that their authors' code has.
SCALES: dict[str, dict[str, Any]] = {"gradia": {"normalise": "minmax"}, "care": {"normalise": "signed"}}


@dataclass(frozen=True)
class Everywhere:
    """A mask source that marks the whole image: a control for the size of the inverse mask, without its position."""

    needs_masks: bool = field(default=False, init=False)
    needs_masker: bool = field(default=False, init=False)

    def __call__(
        self, batch: TrainingBatch, masker: nn.Module | None, generator: torch.Generator, global_batch: GlobalBatch
    ) -> Tensor:
        """Return ones ``[N, 1, H, W]``."""
        return torch.ones_like(batch.images[:, :1])


def methods() -> dict[str, Recipe]:
    """Methods: the rows of the table.

    CAMs are aligned with masks of zeros and ones, above and below one half: the faint values that the masker leaves
    on nine tenths of a picture would otherwise pull evidence there. "align, soft" is without this.
    """
    common: dict[str, Any] = {"alignment": ALIGNMENT, "mixup": MIXUP, "mixup_share": 0.5}
    found = {name: recipe(name) for name in ("erm", "sgt", "dre", "gradia", "care")} | {"align": _align(**common)}
    found |= {name: recipe(name, **common) for name in ("oracle", "random", "inverse", "grey")}
    found["everywhere"] = aligned_to("everywhere", Everywhere(), **common)
    found["align, soft"] = recipe("align", sparsity=SPARSITY, **common)
    found["align, no mixup"] = _align(**(common | {"mixup": 0.0}))
    found["align, wide"] = replace(found["align"], masker_terms=recipe("align", sparsity=WIDE).masker_terms)
    with_backgrounds = {"align": _align(backgrounds=1.0, **common)}
    with_backgrounds["align 3"] = _align(backgrounds=1.0, **(common | {"alignment": 3.0}))
    with_backgrounds |= {name: recipe(name, backgrounds=1.0, **common) for name in ("oracle", "inverse")}
    return found | {f"{name} + backgrounds": one for name, one in with_backgrounds.items()}


def _align(**options: Any) -> Recipe:
    return recipe("align", sparsity=SPARSITY, targets="binary", **options)


def toy_network() -> nn.Sequential:
    """Five 3 x 3 convolutions with batch norms, the mean over the map, a linear head."""
    layers: list[nn.Module] = []
    for inside, outside, stride in zip((3, *WIDTHS), WIDTHS, STRIDES, strict=False):
        layers += [nn.Conv2d(inside, outside, 3, stride, 1, bias=False), nn.BatchNorm2d(outside), nn.ReLU()]
    return nn.Sequential(nn.Sequential(*layers), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(WIDTHS[-1], CLASSES))


def toy_masker() -> Masker:
    """The library's masker, a little narrower."""
    return Masker(width=16)


def loader(pictures: Pictures, *, shuffle: bool) -> DataLoader[tuple[Tensor, ...]]:
    """Batches of images, labels and masks; only the oracle and related methods use masks."""
    images = pictures.images.to(memory_format=torch.channels_last)
    return DataLoader(TensorDataset(images, pictures.labels, pictures.masks), BATCH, shuffle=shuffle)


def one_fit(
    method: Recipe, domains: Domains, seed: int, *, epochs: int = EPOCHS, **options: Any
) -> tuple[dict[str, Any], nn.Module, Any]:
    """Train, measure and check for shortcuts: the scores, the classifier and the masker.

    Args:
        method: the row of the table.
        domains: the pictures.
        seed: seed of weights, order and random draws.
        epochs: epochs of the classifier.
        **options: options of the trainer, in place of the benchmark's.
    """
    torch.manual_seed(seed)
    classifier = toy_network().to(memory_format=torch.channels_last)
    masker = toy_masker().to(memory_format=torch.channels_last) if method.trains_masker else None
    settings: dict[str, Any] = {
        "warmup_epochs": WARMUP,
        "masker_only_epochs": MASKER_ONLY,
        "masker_every": 2,
        "learning_rate": RATE,
        "masker_learning_rate": RATE,
        "schedule": "cosine",
        "mixed_precision": "bf16",
    }
    trainer = AlignTrainer(classifier, masker, recipe=method, seed=seed, **(settings | options))
    validation = loader(domains.validation, shuffle=False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit = trainer.fit(
            loader(domains.training, shuffle=True),
            validation,
            epochs=epochs + (MASKER_ONLY if method.trains_masker else 0),
        )
    classifier.eval()
    found = scores(classifier, fit.masker, domains)
    shortcuts = find_shortcuts(classifier, fit.masker, loader(domains.in_domain, shuffle=False))
    return (
        found
        | {
            "seconds": fit.seconds,
            "best_epoch": None if fit.best is None else fit.best.get("epoch"),
            "collapses": sum(issubclass(w.category, CollapseWarning) for w in caught),
            "shortcut_warnings": sum(issubclass(w.category, ShortcutWarning) for w in caught),
            "signs": list(shortcuts.signs),
            "shortcuts": {name: None if value != value else value for name, value in shortcuts.measures.items()},
        },
        classifier,
        fit.masker,
    )


def keep_fit(folder: Path, method: Recipe, domains: Callable[[], Domains], seed: int, **options: Any) -> bool:
    """Make a fit in a method's folder unless its file exists; return whether it was made."""
    file = folder / f"{seed}.json"
    if file.exists():
        return False
    found, classifier, masker = one_fit(method, domains(), seed, **options)
    file.parent.mkdir(parents=True, exist_ok=True)
    tensors = _named("classifier", classifier) | ({} if masker is None else _named("masker", masker))
    with whole_file(file.with_suffix(".safetensors")) as waiting:
        save_file(tensors, waiting)
    write_whole(file, json.dumps(found, indent=1))
    return True


def _named(prefix: str, network: nn.Module) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": value.contiguous() for name, value in network.state_dict().items()}
