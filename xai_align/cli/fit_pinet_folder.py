"""Train a PiNet from a folder of images: the work of ``xai-align fit-pinet``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from xai_align._tools.devices import usable_device
from xai_align._tools.did_you_mean import did_you_mean
from xai_align._tools.files.name_part import name_part
from xai_align._tools.files.outside_folder import check_folder_is_outside
from xai_align._tools.files.references import is_code
from xai_align._tools.files.whole_file import write_whole
from xai_align._tools.files.writable_folder import check_folder_is_writable
from xai_align._tools.random_state import fixed_random_state
from xai_align.cli.first_pass import first_output
from xai_align.cli.terminal import print_warnings
from xai_align.data.image_folder import (
    LabelledImages,
    check_images,
    class_by_class,
    read_image_folder,
    stratified_split,
)
from xai_align.data.images import open_image, plain_name
from xai_align.data.model_picture import picture_of, scale_fields
from xai_align.data.prepared_image import prepared_picture
from xai_align.data.value_range import ValueRange, check_range
from xai_align.pinet.network.losses import PiNetLoss
from xai_align.plugins import load_model, second_look
from xai_align.training.pinet.fit import Fit, fit_pinet

#: Images in a batch, if there are as many.
BATCH = 32

if TYPE_CHECKING:
    from xai_align.hookspecs import LoadedModel
    from xai_align.pinet.network.module import PiNet


@dataclass(frozen=True, kw_only=True)
class FolderFit:
    """Result of :func:`fit_pinet_folder`.

    Attributes:
        fit: the fit of the PiNet, which is on the device it was trained on.
        classes: their names.
        train, validation: number of images in each; ``masks``: number of training images with a mask.
        error: the largest relative difference between a logit and the sum of its terms, over the example pictures.
        pictures: files of the maps.
        needs_trust: whether the saved PiNet is loaded only with ``--trust-code``.
    """

    fit: Fit
    classes: Sequence[str]
    train: int
    validation: int
    masks: int
    error: float
    pictures: Sequence[Path]
    needs_trust: bool = False


def fit_pinet_folder(
    folder: str | Path,
    *,
    backbone: str,
    out: Path,
    masks: Path | None = None,
    weights: dict[str, Any] | None = None,
    head: dict[str, Any] | None = None,
    frozen: bool = True,
    validation_share: float = 0.2,
    seed: int = 0,
    device: str | None = None,
    trust: bool = False,
    examples: int = 6,
    value_range: ValueRange | None = None,
    writes: bool = True,
    batch_size: int | None = None,
    **options: Any,
) -> FolderFit:
    """Train a second look on a backbone with the images of a folder, and write the results to ``out``.

    Args:
        folder: a sub-folder of images for each class.
        backbone: a reference to a model on which a plugin can build a second look, such as ``timm:NAME``.
        out: gets the files of :func:`~xai_align.training.fit_pinet`, ``classes.json``, ``curves.png``, ``examples/``.
        masks: folder of PNG masks.
        weights: weights of the terms of the loss, besides the prediction loss.
        head: options of :class:`~xai_align.pinet.SecondLookHead`.
        frozen: whether the backbone's weights are frozen.
        validation_share: share of every class.
        seed: seed of the split, the head's initial weights, and the training.
        device: the device to train on; None: a GPU if there is one.
        trust: whether a backbone's folder may name code, which is then run; see :func:`~xai_align.plugins.load_model`.
        examples: number of validation images whose maps are drawn.
        value_range: the pixel values that are black and white; None: by each file.
        writes: whether this process writes the pictures.
        batch_size: images in a batch; None: 32, or all training images if they are fewer.
        options: for :func:`~xai_align.training.fit_pinet`.

    Raises:
        ValueError: the folder, the backbone or an option can't be used; the message has the reason.
        OSError: ``out`` cannot be written to.
    """
    check_folder_is_outside(out, folder, inner=["examples"])
    check_folder_is_writable(out)
    where = usable_device(device)
    value_range = check_range(value_range)
    classes, images = read_image_folder(folder, masks)
    check_images(images, value_range)
    train, validation = stratified_split(images, validation_share, seed)
    loaded, model = _second_look(backbone, len(classes), trust=trust, frozen=frozen, seed=seed, **head or {})
    if writes:
        print_warnings(loaded)
    model.to(where)
    model.class_names = tuple(classes)  # saved with it
    preprocess = loaded.preprocess
    first = train[0].path
    image = prepared_picture(open_image(first, value_range), first, preprocess)
    first_output(model, image[None].to(where), first)
    map_size = None if masks is None else _map_size(model, image, where)
    loss = _loss(loaded, weights or {})
    fit = fit_pinet(
        model,
        LabelledImages(train, preprocess, map_size, value_range),
        LabelledImages(validation, preprocess, value_range=value_range),
        loss=loss,
        out=out,
        seed=seed,
        batch_size=min(BATCH, len(train)) if batch_size is None else batch_size,
        **options,
    )
    model.eval()
    shown = [one for i, one in enumerate(class_by_class(validation)) if i < examples]
    error, pictures = 0.0, []
    if writes:
        from xai_align._tools.png import png
        from xai_align.report.fit_figure import fit_figure

        about = {"classes": classes, "backbone": backbone, **scale_fields(loaded)}
        write_whole(out / "classes.json", json.dumps(about, indent=1, ensure_ascii=False) + "\n")
        write_whole(out / "curves.png", png(fit_figure(fit.history, fit.metric, fit.best)))
        for number, one in enumerate(shown):
            parts = (f"{number:02d}", *map(name_part, (plain_name(classes[one.label]), plain_name(one.path.stem))))
            path = out / "examples" / f"{'-'.join(parts)}.png"
            image = preprocess(open_image(one.path, value_range))
            error = max(error, _draw(model, image, one.label, loaded, classes, path))
            pictures.append(path)
    return FolderFit(
        fit=fit,
        classes=classes,
        train=len(train),
        validation=len(validation),
        masks=sum(one.mask is not None for one in train),
        error=error,
        pictures=pictures,
        needs_trust=is_code(getattr(model.encoder, "reference", None) or ""),
    )


def _loss(loaded: LoadedModel, weights: Mapping[str, Any]) -> PiNetLoss:
    known = PiNetLoss("multiclass").weights
    for name, weight in weights.items():
        if name not in known:
            raise ValueError(f"there is no loss term '{name}'{did_you_mean(name, known)} Known: {', '.join(known)}")
        if not isinstance(weight, int | float):
            raise ValueError(f"the weight of '{name}' is {weight!r}; give a number")
    scale = scale_fields(loaded)
    numbers: dict[str, Any] = {name: float(weight) for name, weight in weights.items()}
    return PiNetLoss("multiclass", mean=scale["mean"], std=scale["std"], **numbers)


def _second_look(
    backbone: str, classes: int, *, trust: bool, frozen: bool, seed: int, **head: Any
) -> tuple[LoadedModel, PiNet]:
    """Return the loaded backbone, and a PiNet on it."""
    with fixed_random_state(seed):
        loaded = load_model(backbone, trust=trust)
        model: Any = second_look(loaded.model, classes, {"frozen": frozen, **head})
    return loaded, model


def _map_size(model: PiNet, image: torch.Tensor, where: torch.device) -> tuple[int, int]:
    with torch.no_grad():
        rows, columns = model.eval().explain(image[None].to(where)).coefficients.shape[-2:]
    return rows, columns


@torch.no_grad()
def _draw(
    model: PiNet, image: torch.Tensor, label: int, loaded: LoadedModel, classes: Sequence[str], path: Path
) -> float:
    """Draw the contributions to the predicted class over the photograph; return the relative error of the sum."""
    from xai_align._tools.png import png
    from xai_align.report.number_format import number_format
    from xai_align.report.overlay import photograph_and_overlay

    where = next(model.parameters()).device
    look = model.explain(image[None].to(where))
    k = int(look.logits[0].argmax())
    weights = torch.nn.functional.one_hot(torch.tensor([k], device=where), len(classes)).to(look.logits)
    contributions = look.contributions_to(weights)[0].sum(0)
    places, bias, logit = (float(one) for one in (contributions.double().sum(), look.bias[k], look.logits[0, k]))
    number = number_format([logit, places, bias])
    figure = photograph_and_overlay(
        picture_of(image, loaded),
        contributions,
        title=f"{classes[k]}" if k == label else f"{classes[k]} (label: {classes[label]})",
        caption=f"logit {number(logit)} = {number(places)} (contributions) + {number(bias)} (bias)",
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, png(figure))
    return abs(places + bias - logit) / max(abs(logit), 1.0)
