"""``xai-align fit-align``: train a classifier with aligned CAMs, and its masker, from a folder of images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from xai_align._tools.files.references import typed_on_the_command_line
from xai_align.cli.reference_options import BACKBONE_REFERENCES, TrustCode
from xai_align.cli.terminal import errors_in_words, output
from xai_align.cli.training_options import Device, MixedPrecision, OptionsFile, Patience, Seed, Workers

if TYPE_CHECKING:
    from xai_align.align.domain_scores import DomainScores
    from xai_align.cli.fit_align_folder import FolderAlignment

_MAPS = {"mask": "mask", "cam": "CAM"}


def fit_align_command(
    images: Annotated[
        Path,
        typer.Argument(
            metavar="IMAGE_FOLDER", help="DOMAIN/CLASS/images with --source; CLASS/images where there are no domains."
        ),
    ],
    backbone: Annotated[
        str,
        typer.Option(metavar="REF", help=BACKBONE_REFERENCES),
    ],
    source: Annotated[
        list[str] | None,
        typer.Option(metavar="DOMAIN[,DOMAIN...]", help="Domains to train on; the others are for the test."),
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Folder for models, metrics, pictures; a run that was stopped goes on.")
    ] = Path("xai-align-aligned"),
    recipe: Annotated[
        str,
        typer.Option(metavar="NAME", help="Training recipe; `xai-align methods` lists them."),
    ] = "align",
    masks: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="PNG masks of training images, for recipes that learn from given masks."),
    ] = None,
    layer: Annotated[
        str | None, typer.Option(metavar="NAME", help="Where Grad-CAM is taken. Default: found by itself.")
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="In all.")] = 10,
    warmup_epochs: Annotated[int, typer.Option(min=0, help="Of them, for the classifier alone, at the start.")] = 2,
    masker_only_epochs: Annotated[int, typer.Option(min=0, help="Then, for the masker alone.")] = 1,
    alternation: Annotated[
        str, typer.Option(metavar="batch|epoch", help="How the two take turns after that.")
    ] = "batch",
    batch_size: Annotated[int, typer.Option(min=1, help="Images in a step.")] = 32,
    learning_rate: Annotated[float, typer.Option(help="Of the classifier.")] = 3e-4,
    masker_learning_rate: Annotated[float, typer.Option(help="Of the masker.")] = 3e-3,
    weight_decay: Annotated[float, typer.Option(help="Of the classifier.")] = 0.0,
    schedule: Annotated[str, typer.Option(metavar="none|cosine", help="Of the learning rates.")] = "cosine",
    alignment: Annotated[
        float | None, typer.Option(help="Weight of: the CAM lies where the mask is. Default: 0.1.")
    ] = None,
    mixup: Annotated[
        float | None, typer.Option(help="Weight of the mixup regulariser. Default: 0.1; with 1 CAMs may die.")
    ] = None,
    sparsity: Annotated[float | None, typer.Option(help="Weight of the mask's mean.")] = None,
    smoothness: Annotated[float | None, typer.Option(help="Weight of the mask's jumps.")] = None,
    backgrounds: Annotated[
        float | None,
        typer.Option(help="Weight of: the label stays on other backgrounds (experimental)."),
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(
            metavar="NUMBER|NAME",
            help="What stands where the mask removes: another_image (the default), 0 (mean colour), blur, ...",
        ),
    ] = None,
    freeze_batch_norm: Annotated[
        bool, typer.Option("--freeze-batch-norm", help="Keep the backbone's batch statistics.")
    ] = False,
    validation_share: Annotated[float, typer.Option(help="Of every class of a source, to choose weights.")] = 0.15,
    test_share: Annotated[float, typer.Option(help="Of every class of a source, kept apart for the test.")] = 0.15,
    patience: Patience = None,
    judged: Annotated[int, typer.Option(min=0, help="Of how many images of each domain maps are judged.")] = 64,
    examples: Annotated[int, typer.Option(min=0, help="How many images of each domain are drawn.")] = 6,
    figure_every: Annotated[
        int | None, typer.Option(min=1, help="Draw image, CAM and mask after every so many epochs.")
    ] = None,
    seed: Seed = 0,
    mixed_precision: MixedPrecision = "no",
    workers: Workers = 0,
    device: Device = None,
    changed: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="Any option of AlignOptions, e.g. gradient_clip=0.5; values as in TOML."
        ),
    ] = None,
    options_file: OptionsFile = None,
    trust_code: TrustCode = False,
) -> None:
    """Train a classifier and a masker together on your images, test them in every domain, save both."""
    from xai_align.align.options import AlignOptions
    from xai_align.cli.fit_align_folder import fit_align_folder
    from xai_align.cli.option_settings import option_settings
    from xai_align.comparison.processes import is_main_process

    main = is_main_process()
    weights = {
        "alignment": alignment,
        "mixup": mixup,
        "sparsity": sparsity,
        "smoothness": smoothness,
        "backgrounds": backgrounds,
        "baseline": _number_or_name(baseline),
    }
    flags = {
        "alternation": alternation,
        "weight_decay": weight_decay,
        "schedule": schedule,
        "freeze_batch_norm": freeze_batch_norm,
        "patience": patience,
        "figure_every": figure_every,
        "mixed_precision": mixed_precision,
    }
    with errors_in_words(), typed_on_the_command_line():
        done = fit_align_folder(
            images,
            backbone=backbone,
            out=out,
            sources=[name.strip() for one in source or () for name in one.split(",") if name.strip()],
            recipe_name=recipe,
            weights={name: value for name, value in weights.items() if value is not None},
            masks=masks,
            layer=layer,
            validation_share=validation_share,
            test_share=test_share,
            batch_size=batch_size,
            epochs=epochs,
            judged=judged,
            examples=examples,
            workers=workers,
            seed=seed,
            device=device,
            trust=trust_code,
            writes=main,
            warmup_epochs=warmup_epochs,
            masker_only_epochs=masker_only_epochs,
            learning_rate=learning_rate,
            masker_learning_rate=masker_learning_rate,
            show_progress=main,
            **flags | option_settings(AlignOptions, changed, options_file, "fit-align"),
        )
    if main:
        _show(done, out)


def _number_or_name(given: str | None) -> float | str | None:
    try:
        return None if given is None else float(given)
    except ValueError:
        return given


def _show(done: FolderAlignment, out: Path) -> None:
    terminal, fit, split = output(), done.fit, done.split
    for note in [*done.domains.notes, *fit.notes]:
        terminal.print(f"note: {escape(note)}", style="dim", highlight=False, soft_wrap=True)
    lines = [
        f"{len(done.domains.classes)} classes; {len(split.train)} images to train with, "
        f"{len(split.validation)} to validate with",
        f"{fit.epochs} epochs, {fit.steps} steps, {fit.seconds:.1f} s (ended by: {fit.stopped})",
    ]
    if fit.best is not None:
        lines.append(f"validation accuracy {fit.best['accuracy']:.4f}, in epoch {fit.best['epoch']}")
    for line in lines:
        terminal.print(escape(line), highlight=False, soft_wrap=True)
    terminal.print(_table(done.scores, done.domains.sources))
    lines = [
        "Sufficiency (lower is better) and comprehensiveness (higher): how far the predicted class falls when only the",
        "top 1, 5, 10, 20, 50 % of a map are kept, and when they are removed.",
        f"curves: {out / 'curves.png'}, maps: {out / 'examples'}, rows: {out / 'metrics.csv'}, "
        f"all numbers: {out / 'results.json'}",
        f"the model: `xai-align explain IMAGE --model align:{out}"
        f"{' --method align' if fit.masker is not None else ''}` asks it where it looks",
    ]
    for line in lines:
        terminal.print(escape(line), highlight=False, soft_wrap=True)


def _table(scores: Mapping[str, DomainScores], sources: Sequence[str]) -> Table:
    """Return a table with a row for each domain, and columns for the existing maps only."""
    shown = [name for name in _MAPS if any(name in one.maps for one in scores.values())]
    table = Table()
    for column in ("domain", "", "images", "accuracy", "macro", "worst class"):
        table.add_column(column, justify="left" if column in ("domain", "") else "right")
    for name in shown:
        for column in ("covers", "suff.", "compr."):
            table.add_column(f"{_MAPS[name]} {column}", justify="right")
    for domain, one in scores.items():
        role = "trained on" if domain in sources else "new"
        cells = [one.accuracy, one.macro_accuracy, one.worst_class]
        for name in shown:
            found = one.maps.get(name)
            cells += [found.mean, found.sufficiency, found.comprehensiveness] if found else [math.nan] * 3
        table.add_row(escape(domain), role, str(one.images), *(_number(value) for value in cells))
    return table


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}".replace("-", "−")
