"""Train an aligned classifier and its masker from a folder of images: the work of ``xai-align fit-align``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader, Dataset

from xai_align._tools.devices import usable_device
from xai_align._tools.files.name_part import name_part
from xai_align._tools.files.outside_folder import check_folder_is_outside
from xai_align._tools.files.references import FOLDERS
from xai_align._tools.files.writable_folder import check_folder_is_writable
from xai_align._tools.random_state import fixed_random_state
from xai_align.align.forward_passes.training_batch import TrainingBatch
from xai_align.align.masker_loss import keep_and_drop
from xai_align.align.recipe_by_name import recipe, recipe_options
from xai_align.align.recipe_record import Recipe
from xai_align.align.saved_backbone import saved_backbone, with_classes
from xai_align.align.saved_fit import PREFIX, save_fit
from xai_align.align.trainer import AlignTrainer
from xai_align.cli.first_pass import first_output
from xai_align.cli.fit_align_data import check_data
from xai_align.cli.fit_align_files import draw_examples, write_curves, write_results
from xai_align.cli.fit_align_lengths import check_lengths, lengths
from xai_align.cli.fit_align_masker import check_kind, masker_for
from xai_align.cli.terminal import print_remarks, print_warnings
from xai_align.comparison.domain_scores import DomainScores, score_domain
from xai_align.data.domain_folder import Domains, Split, read_domains, split_domains
from xai_align.data.image_folder import (
    LabelledImage,
    LabelledImages,
    check_images,
    check_input_size,
    class_by_class,
    digest_of_files,
)
from xai_align.data.images import open_image
from xai_align.data.model_picture import scale_fields
from xai_align.data.prepared_image import prepared_picture
from xai_align.data.value_range import ValueRange, check_range
from xai_align.features.trained_head import freeze_all_but_head
from xai_align.plugins import load_model
from xai_align.training.digest import digest_of

if TYPE_CHECKING:
    from torch import nn

    from xai_align.align.align_fit import AlignFit
    from xai_align.hookspecs import LoadedModel


#: Defaults for options of recipes that have them. Networks that were trained on photographs recognise a picture
#: whose contrast a constant mask has lowered, so removed pixels are filled from another image; and with weights of 1
#: most of their CAMs collapse within a few epochs, since a CAM of zeros is consistent and sparse.
USUAL: Mapping[str, Any] = {"baseline": "another_image", "alignment": 0.1, "mixup": 0.1}
#: Learning rates of a whole classifier, and of a new head alone.
RATE, RATE_OF_HEAD = 3e-4, 3e-3


@dataclass(frozen=True, kw_only=True)
class FolderAlignment:
    """Result of :func:`fit_align_folder`.

    Attributes:
        fit: the fit of the classifier and the masker, which are on the device they were trained on.
        domains: the images by domain, the sources first.
        split: the images for training, validation and test.
        scores: for each domain; for a source, over the held-out images.
        pictures: files of the examples.
        needs_trust: whether the saved classifier is loaded only with ``--trust-code``.
    """

    fit: AlignFit
    domains: Domains
    split: Split
    scores: Mapping[str, DomainScores]
    pictures: Sequence[Path]
    needs_trust: bool = False


def fit_align_folder(
    folder: str | Path,
    *,
    backbone: str,
    out: Path,
    sources: Sequence[str] = (),
    recipe_name: str = "align",
    weights: Mapping[str, Any] | None = None,
    masks: Path | None = None,
    masker: str | None = None,
    layer: str | None = None,
    frozen: bool = False,
    validation_share: float = 0.15,
    test_share: float = 0.15,
    batch_size: int | None = None,
    epochs: int | None = None,
    warmup_epochs: int | None = None,
    masker_only_epochs: int | None = None,
    learning_rate: float | None = None,
    judged: int = 64,
    examples: int = 6,
    workers: int = 0,
    seed: int = 0,
    device: str | None = None,
    trust: bool = False,
    value_range: ValueRange | None = None,
    writes: bool = True,
    **options: Any,
) -> FolderAlignment:
    """Train on some domains of a folder, test on all of them, and write the results to ``out``.

    Args:
        folder: ``DOMAIN/CLASS/*.jpg``, or ``CLASS/*.jpg``; see :func:`~xai_align.data.domain_folder.read_domains`.
        backbone: a reference to a model, such as ``timm:NAME``, which gets a new head.
        out: gets ``classifier.safetensors``, ``masker.safetensors``, ``classes.json``, ``results.json``,
            ``metrics.csv``, ``curves.png``, ``examples/`` and checkpoints; called again, it resumes from these.
        sources: the domains that are trained on; none: there are no domains.
        recipe_name: name of a training recipe; ``xai-align methods`` lists them.
        weights: options of the recipe; :data:`USUAL` has the defaults of some.
        masks: folder of PNG masks of training images, for recipes that need them.
        masker: "stages": on frozen stages of the backbone as it was loaded; "plain": one that begins from nothing;
            None: on stages if the backbone is pretrained and has such.
        layer: the layer of the CAMs; None: found automatically.
        frozen: whether only the new head is trained; the rest then stays in eval mode.
        validation_share, test_share: shares of every class of every source.
        batch_size, epochs, warmup_epochs, masker_only_epochs: lengths of the fit; None: by the number of training
            images, see :func:`~xai_align.cli.fit_align_lengths.lengths`.
        learning_rate: of the classifier; None: :data:`RATE`, for a head alone :data:`RATE_OF_HEAD`.
        judged: number of images of each domain on which the maps are evaluated.
        examples: number of images of each domain that are drawn.
        workers: number of processes that load images.
        seed: seed of the split, the head's initial weights, and the training.
        device: the device to train on; None: a GPU if there is one.
        trust: whether a backbone's folder may name code, which is then run; see :func:`~xai_align.plugins.load_model`.
        value_range: the pixel values that are black and white; None: by each file.
        writes: whether this process writes the files.
        options: for :class:`~xai_align.align.AlignTrainer`.

    Raises:
        ValueError: the folder, the backbone or an option can't be used; the message has the reason.
        OSError: ``out`` cannot be written to.
    """
    check_folder_is_outside(out, folder, inner=["examples", "figures"])
    check_folder_is_writable(out)
    where = usable_device(device)
    check_kind(masker)
    chosen = _recipe(recipe_name, weights or {}, masks)
    value_range = check_range(value_range)
    domains = read_domains(folder, sources, masks)
    of_each_size = check_images([one for images in domains.images.values() for one in images], value_range)
    split = split_domains(domains, validation_share=validation_share, test_share=test_share, seed=seed)
    if chosen.needs_masks and not any(one.mask for one in split.train):
        raise ValueError(
            f"the recipe '{recipe_name}' needs masks, and no training image ({len(split.train)}) has one; give masks "
            "of more images, or another --seed for the split"
        )
    remarks = check_data(domains, split)
    planned = lengths(
        len(split.train),
        chosen,
        epochs=epochs,
        warmup_epochs=warmup_epochs,
        masker_only_epochs=masker_only_epochs,
        batch_size=batch_size,
    )
    remarks += check_lengths(planned, len(split.train), chosen)
    remarks += _unused(chosen, masks, masker)
    loaded, model, shape = _classifier(backbone, len(domains.classes), split.train[0], value_range, seed, trust)
    check_input_size(of_each_size, loaded.preprocess, value_range)
    fitted_to = _fitted_to(loaded, domains, split, shape, value_range, planned.batch_size)
    saved, of_backbone = saved_backbone(
        backbone, loaded, model, len(domains.classes), open_image(split.train[0].path, value_range)
    )
    if frozen:
        freeze_all_but_head(model, loaded.model)
        of_backbone += _untrained(loaded)
    model.to(where)
    own_masker, more = masker_for(masker, chosen, model, loaded, shape=shape, seed=seed)
    if writes:
        print_warnings(loaded)
        print_remarks([*domains.notes, *remarks, *of_backbone, *more])

    def loader(images: Sequence[LabelledImage], *, training: bool = False) -> DataLoader[TrainingBatch]:
        map_size = shape[1:] if training and masks is not None else None
        items = _Numbered(LabelledImages(images, loaded.preprocess, map_size, value_range))
        own = torch.Generator().manual_seed(seed)  # leaves the caller's random state unchanged
        # a last batch of a single image has no variance for batch norms over one position, and no partner to mix with
        single = training and 1 < planned.batch_size < len(images) and len(images) % planned.batch_size == 1
        return DataLoader(
            items,
            planned.batch_size,
            shuffle=training,
            drop_last=single,
            num_workers=workers,
            collate_fn=_as_batch,
            generator=own,
        )

    trainer = AlignTrainer(
        model,
        own_masker,
        layer,
        recipe=chosen,
        out=out,
        seed=seed,
        warmup_epochs=planned.warmup_epochs,
        masker_only_epochs=planned.masker_only_epochs,
        learning_rate=learning_rate if learning_rate is not None else RATE_OF_HEAD if frozen else RATE,
        normalization=loaded.scale,
        **options,
    )
    trainer.state.fitted_to = fitted_to
    fit = trainer.fit(loader(split.train, training=True), loader(split.validation), epochs=planned.epochs)
    tested = {name: class_by_class(images) for name, images in split.test.items()}
    scores = {
        name: score_domain(
            model,
            loader(images),
            masker=fit.masker,
            space=trainer.space,
            judged=judged,
            saliency=trainer.settings.saliency,
        )
        for name, images in tested.items()
    }
    pictures: list[Path] = []
    if writes:
        save_fit(out, model, fit.masker, backbone=saved, classes=domains.classes)
        about = {"backbone": backbone, "recipe": recipe_name, **scale_fields(loaded)}
        write_results(out, about, fit, domains, split, scores)
        write_curves(out, fit)
        for name, images in tested.items() if examples else ():
            path = out / "examples" / f"{name_part(name)}.png"
            pictures.append(draw_examples(path, fit, loader(images[:examples]), trainer, loaded, domains.classes))
    return FolderAlignment(
        fit=fit, domains=domains, split=split, scores=scores, pictures=pictures, needs_trust=saved.needs_trust
    )


class _Numbered(Dataset[Any]):
    """Dataset of items with their indices."""

    def __init__(self, items: LabelledImages) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, number: int) -> tuple[int, Any]:
        return number, self.items[number]


def _as_batch(items: Sequence[tuple[int, Any]]) -> TrainingBatch:
    """Collate examples to a batch; unknown masks are NaN."""
    images = torch.stack([item[0] for _, item in items])
    unknown = torch.full((1, *images.shape[-2:]), torch.nan)
    masked = any(len(item) > 2 for _, item in items)
    return TrainingBatch(
        images=images,
        labels=torch.tensor([item[1] for _, item in items]),
        masks=torch.stack([unknown if item[2] is None else item[2] for _, item in items]) if masked else None,
        indices=torch.tensor([number for number, _ in items]),
    )


def _recipe(name: str, weights: Mapping[str, Any], masks: Path | None) -> Recipe:
    known = recipe_options(name)
    usual = {option: value for option, value in USUAL.items() if option in known}
    try:
        chosen = recipe(name, **{**usual, **weights})
    except TypeError as error:  # an option of another recipe: the user's error
        raise ValueError(str(error)) from None
    # fail before the warm-up, not after it
    keep_and_drop(torch.zeros(2, 3, 8, 8), torch.ones(2, 1, 8, 8), chosen.baseline)
    if chosen.needs_masks and masks is None:
        raise ValueError(f"the recipe '{name}' needs masks; give a folder of them with --masks FOLDER")
    return chosen


def _classifier(
    backbone: str, classes: int, one: LabelledImage, value_range: ValueRange | None, seed: int, trust: bool
) -> tuple[LoadedModel, nn.Module, tuple[int, int, int]]:
    """Return the backbone, a copy of it with a head for these classes, and channels, rows and columns of its images."""
    if backbone.startswith(FOLDERS) and not backbone.startswith(PREFIX):
        raise ValueError(
            f"--backbone is '{backbone}', which was trained or fitted already, and the folder of results can't "
            "refer to another one; give the reference of the network that it was made from"
        )
    with fixed_random_state(seed):
        loaded = load_model(backbone, trust=trust)
        image = prepared_picture(open_image(one.path, value_range), one.path, loaded.preprocess)
        first_output(loaded.model, image[None], one.path)
        channels, rows, columns = image.shape[-3:]
        shape = (channels, rows, columns)
        return loaded, with_classes(loaded, classes, shape), shape


def _fitted_to(
    loaded: LoadedModel,
    domains: Domains,
    split: Split,
    shape: tuple[int, int, int],
    value_range: ValueRange | None,
    batch_size: int,
) -> dict[str, Any]:
    """Return what a fit in the folder of the results must share with this one to be resumed by it."""
    return {
        "backbone": digest_of(loaded.model.state_dict()),
        "input": {"shape": list(shape), "scale": [list(one) for one in loaded.scale or ()], "range": value_range},
        "classes": list(domains.classes),
        "batch_size": batch_size,
        "training_images": digest_of_files(split.train),
        "validation_images": digest_of_files(split.validation),
    }


def _unused(chosen: Recipe, masks: Path | None, masker: str | None) -> list[str]:
    """Return remarks on options that the recipe has no use for."""
    remarks = []
    if masks is not None and not chosen.needs_masks:
        remarks.append(
            f"the recipe '{chosen.name}' reads no masks, so those of --masks are not used; --recipe oracle aligns with "
            "given masks"
        )
    if masker is not None and not chosen.trains_masker:
        remarks.append(f"the recipe '{chosen.name}' trains no masker, so --masker {masker} is not used")
    return remarks


def _untrained(loaded: LoadedModel) -> list[str]:
    if not loaded.random_weights:
        return []
    return [
        "--frozen does not train the backbone's weights, which are random, so a head on them learns little; "
        "give a pretrained backbone, or leave --frozen out"
    ]
