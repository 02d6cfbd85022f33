"""Fit prototypes to a folder of images: the work of ``xai-align fit-epic``."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from xai_align._tools.checks import check_number
from xai_align._tools.counted import counted
from xai_align._tools.devices import usable_device
from xai_align._tools.files.legible import legible
from xai_align._tools.files.outside_folder import check_folder_is_outside
from xai_align._tools.files.whole_file import write_whole
from xai_align._tools.files.writable_folder import check_folder_is_writable
from xai_align._tools.logits import select_logits
from xai_align._tools.random_state import fixed_random_state
from xai_align.cli.first_pass import first_output
from xai_align.cli.terminal import print_warnings
from xai_align.data.image_folder import LabelledImage, LabelledImages, check_images, check_input_size
from xai_align.data.images import images_in
from xai_align.data.model_picture import picture_of
from xai_align.data.output_description import describe_output
from xai_align.data.value_range import ValueRange, check_range
from xai_align.explanation import logits_of
from xai_align.plugins import ModelOptions, load_model
from xai_align.prototypes import (
    MixedNetwork,
    PrototypeOptions,
    Prototypes,
    channel_purity,
    channel_shares,
    fit_prototypes,
)
from xai_align.prototypes.feature_cache import gather_features, stacked
from xai_align.prototypes.layer_maps import LayerMaps, mixing_space
from xai_align.question import Question
from xai_align.report.part_picture import write_sheets
from xai_align.report.prototype_page import PartsOfPhotograph, parts_of_photograph, write_prototype_page

if TYPE_CHECKING:
    from xai_align.hookspecs import LoadedModel


@dataclass(frozen=True, kw_only=True)
class FolderPrototypes:
    """Result of :func:`fit_epic_folder`.

    Attributes:
        prototypes: the fitted prototypes.
        fitted: number of images of the fit; ``held_out``: of those that purity was measured on besides.
        purity: on held-out images, the mean over channels, without and with the matrix.
        logits: largest difference between the logits of the network with mixed channels and the model's, over the
            largest logit.
        page: the page.
        notes: remarks.
    """

    prototypes: Prototypes
    fitted: int
    held_out: int
    purity: tuple[float, float]
    logits: float
    page: Path
    notes: Sequence[str]


def fit_epic_folder(
    folder: str | Path,
    *,
    reference: str,
    out: Path,
    layer: str | None = None,
    held_out_share: float = 0.2,
    examples: int = 6,
    explained: Sequence[Path] = (),
    device: str | None = None,
    trust: bool = False,
    value_range: ValueRange | None = None,
    model_options: ModelOptions | None = None,
    show_progress: bool = False,
    **changed: Any,
) -> FolderPrototypes:
    """Fit prototypes to most images of a folder, measure purity on the others, and write the page.

    Args:
        folder: images, also in sub-folders; classes are not used.
        reference: the model.
        out: gets ``prototypes.safetensors``, a sheet of parts for each channel, ``index.html``, ``results.json``.
        layer: as for :func:`~xai_align.prototypes.fit_prototypes`.
        held_out_share: share of the images that purity is measured on, and that examples are from.
        examples: number of held-out images on the page.
        explained: further images for the page.
        device: the device of the model; None: a GPU if there is one.
        trust: whether a model's folder may name code, which is then run.
        value_range: the pixel values that are black and white; None: by each file.
        model_options: what is stated about the model: its input, its outputs, their names.
        show_progress: show progress bars.
        **changed: options of :class:`~xai_align.prototypes.PrototypeOptions`.

    Raises:
        ValueError: folder, model or options can't be used; the message has the reason.
        OSError: ``out`` cannot be written to.
    """
    check_folder_is_outside(out, folder, inner=["parts"])
    check_folder_is_writable(out)
    where = usable_device(device)
    value_range = check_range(value_range)
    check_number("held_out", held_out_share, above=0, below=1)
    options = PrototypeOptions(**changed)
    fit_files, other_files = _parts(Path(folder).expanduser(), held_out_share, options)
    for path in explained:
        if not path.is_file():
            raise ValueError(f"there is no image '{path}' to explain")
    of_each_size = check_images(
        [*fit_files, *other_files, *(LabelledImage(path, 0) for path in explained)], value_range
    )
    with fixed_random_state(options.seed):  # of models without weights
        loaded = load_model(reference, trust=trust, options=model_options)
    print_warnings(loaded)
    check_input_size(of_each_size, loaded.preprocess, value_range)
    model = loaded.model.to(where)
    data, others = (
        LabelledImages(files, loaded.preprocess, value_range=value_range) for files in (fit_files, other_files)
    )
    first = data[0][0][None].to(where)
    found = first_output(model, first, fit_files[0].path)
    describe_output(loaded, select_logits(found, loaded.output_field))  # do the names fit?
    prototypes = fit_prototypes(
        model,
        data,
        layer,
        names=[_name(one.path, folder) for one in fit_files],
        out=out,
        output=loaded.output_field,
        options=options,
        show_progress=show_progress,
    )
    write_sheets(out / "parts", prototypes, lambda number: picture_of(data[number][0], loaded))
    purity, held_out = _held_out_purity(model, others, prototypes, options, where)
    notes = (*prototypes.notes, *_overfitted(purity, len(fit_files), prototypes.channels))
    shown = [(_name(one.path, folder), others[number][0]) for number, one in enumerate(other_files[:examples])]
    extra = LabelledImages([LabelledImage(path, 0) for path in explained], loaded.preprocess, value_range=value_range)
    shown += [(legible(path), extra[number][0]) for number, path in enumerate(explained)]
    photographs = [_photograph(model, image.to(where), name, prototypes, loaded, out) for name, image in shown]
    logits = _difference(
        model, torch.stack([others[number][0] for number in range(min(8, held_out))]).to(where), prototypes
    )
    purities = f"{purity[0]:.3f} before, {purity[1]:.3f} after"
    lead = [
        f"{reference}, layer {prototypes.fingerprint['layer']}: {counted(prototypes.channels, 'channel')}, fitted to "
        f"{counted(len(fit_files), 'picture')}. Mean purity on {counted(held_out, 'held-out picture')}: {purities}. "
        "Purity: at the channel’s strongest position, the channel’s share of the length of the feature vector; 1: "
        "nothing else is there.",
        *(f"Note: {note}." for note in notes),
    ]
    page = out / "index.html"
    write_prototype_page(page, photographs, title="This part looks like these", lead=lead)
    results = {
        "model": reference,
        "layer": prototypes.fingerprint["layer"],
        "images": {"fit": len(fit_files), "held out": held_out},
        "purity": {"fit": prototypes.purity.mean(1).tolist(), "held out": list(purity)},
        "history": list(prototypes.history),
        "condition": prototypes.condition,
        "logits": logits,
        "notes": list(notes),
    }
    write_whole(out / "results.json", json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    return FolderPrototypes(
        prototypes=prototypes,
        fitted=len(fit_files),
        held_out=held_out,
        purity=purity,
        logits=logits,
        page=page,
        notes=notes,
    )


def _overfitted(purity: tuple[float, float], fitted: int, channels: int) -> list[str]:
    """Return a note if channels are purer on the images of the fit only."""
    if purity[1] > purity[0]:
        return []
    return [
        f"channels are not purer on held-out images than before ({purity[0]:.3f} before, {purity[1]:.3f} after), so "
        f"the result holds for the images of the fit only; give more than {counted(fitted, 'image')} for "
        f"{counted(channels, 'channel')}, or choose a layer with fewer channels (--layer)"
    ]


def _parts(folder: Path, share: float, options: PrototypeOptions) -> tuple[list[LabelledImage], list[LabelledImage]]:
    """Return the images of the fit and those that are held out, in a random order; both have enough for prototypes.

    Raises:
        ValueError: there is no such folder, or it has too few images.
    """
    if not folder.is_dir():
        raise ValueError(f"the image folder '{folder}' does not exist, or is not a folder")
    images = [LabelledImage(path, 0) for path in images_in(folder, recursive=True)]
    needed = options.prototypes
    random.Random(options.seed).shuffle(images)
    count = max(needed, round(share * len(images)))
    if len(images) - count < needed:
        raise ValueError(
            f"'{folder}' holds {counted(len(images), 'image')}; {counted(needed, 'prototype')} for each channel "
            f"need{'s' * (needed == 1)} {counted(needed, 'image')} to fit and {needed} that "
            f"{'is' if needed == 1 else 'are'} held out: give {2 * needed} images or more, or fewer prototypes"
        )
    held_out = images[:count]
    return sorted(images[count:], key=lambda one: one.path), held_out


def _held_out_purity(
    model: Any, others: LabelledImages, prototypes: Prototypes, options: PrototypeOptions, where: torch.device
) -> tuple[tuple[float, float], int]:
    """Return mean purity without and with the matrix, and the number of images whose maps fit into the budget."""
    first = stacked(others, [0]).to(where)
    maps_of = LayerMaps(model, mixing_space(model, prototypes.layer, first, prototypes.output))
    features = gather_features(
        maps_of,
        others,
        memory=options.memory,
        least=options.prototypes,
        batch_size=options.internal_batch_size,
        device=where,
    )
    count = options.prototypes
    before, after = (
        float(channel_purity(features.maps, matrix, count).mean())
        for matrix in (torch.eye(prototypes.channels), prototypes.matrix)
    )
    return (before, after), len(features.maps)


def _photograph(
    model: Any, image: torch.Tensor, name: str, prototypes: Prototypes, loaded: LoadedModel, out: Path
) -> PartsOfPhotograph:
    logits = logits_of(model, image[None], prototypes.output)
    output = describe_output(loaded, logits)
    side = 0 if output.kind == "regression" else output.predicted(logits[0])
    question = output.on_outputs(Question.why(side))
    shares = channel_shares(model, image[None], question, prototypes)
    return parts_of_photograph(
        shares,
        prototypes,
        picture_of(image.cpu(), loaded),
        out / "parts",
        title=name,
        question=output.text(question),
    )


def _difference(model: Any, images: torch.Tensor, prototypes: Prototypes) -> float:
    with torch.no_grad():
        plain, mixed = select_logits(model(images), prototypes.output), MixedNetwork(model, prototypes, images)(images)
    return float((mixed - plain).abs().max() / plain.abs().max().clamp_min(1e-30))


def _name(path: Path, folder: str | Path) -> str:
    """Return an image's path below the folder."""
    base = Path(folder).expanduser()
    return legible(path.relative_to(base) if path.is_relative_to(base) else path)
