"""Output files of ``xai-align fit-align`` beside the models: JSON, curves, pictures."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from xai_align._tools.files.whole_file import write_whole
from xai_align._tools.model_state import evaluating
from xai_align.comparison.domain_scores import DomainScores, maps_of

if TYPE_CHECKING:
    from xai_align.align import AlignTrainer
    from xai_align.align.align_fit import AlignFit
    from xai_align.align.forward_passes.training_batch import TrainingBatch
    from xai_align.data.domain_folder import Domains, Split
    from xai_align.hookspecs import LoadedModel


def write_results(
    out: Path,
    about: Mapping[str, Any],
    fit: AlignFit,
    domains: Domains,
    split: Split,
    scores: Mapping[str, DomainScores],
) -> None:
    """Write ``classes.json``, the description of the model, and ``results.json``, that and every number of the test."""
    about = {"classes": list(domains.classes), "sources": list(domains.sources), **about}
    results = {
        **about,
        "images": {"train": len(split.train), "validation": len(split.validation)},
        "epochs": fit.epochs,
        "seconds": fit.seconds,
        "best": fit.best,
        "notes": [*domains.notes, *fit.notes],
        "domains": {name: {"source": name in domains.sources, **asdict(one)} for name, one in scores.items()},
    }
    for name, content in {"classes.json": about, "results.json": results}.items():
        write_whole(out / name, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def write_curves(out: Path, fit: AlignFit) -> None:
    """Write ``curves.png``: cross-entropy in training and validation, and validation accuracy."""
    from xai_align._tools.png import png
    from xai_align.report.fit_figure import fit_figure

    # not the loss, a sum to which some terms are added only later
    rows = [{**row, "loss": row.get("classification", row.get("loss"))} for row in fit.history]
    write_whole(out / "curves.png", png(fit_figure(rows, "accuracy", fit.best)))


def draw_examples(
    path: Path,
    fit: AlignFit,
    batches: Iterable[TrainingBatch],
    trainer: AlignTrainer,
    loaded: LoadedModel,
    classes: Sequence[str],
) -> Path:
    """Draw images with the CAM of the predicted class and, if there is a masker, their mask; return the file."""
    from xai_align._tools.png import png
    from xai_align.align.figure import align_figure

    where = next(fit.classifier.parameters()).device
    whole = list(batches)
    images, labels = torch.cat([one.images for one in whole]), torch.cat([one.labels for one in whole])
    with evaluating(fit.classifier), torch.no_grad():
        predicted = torch.cat([fit.classifier(one.images.to(where)).argmax(1) for one in whole])
    maps = maps_of(fit.classifier, fit.masker, images.to(where), predicted, trainer.space, trainer.settings.saliency)
    pairs = zip(predicted.tolist(), labels.tolist(), strict=True)
    figure = align_figure(
        images,
        maps["cam"],
        maps.get("mask"),
        titles=[f"{classes[k]}" if k == y else f"{classes[k]}\n(label: {classes[y]})" for k, y in pairs],
        normalization=loaded.scale,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, png(figure))
    return path
