"""``xai-align fit-align``: train a classifier with aligned CAMs, and its masker, from a folder of images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from xai_align._tools.counted import counted
from xai_align._tools.files.references import typed_on_the_command_line
from xai_align.cli.shared_options import (
    BackboneReference,
    Device,
    OptionsFile,
    Patience,
    Range,
    Seed,
    TrustCode,
    Workers,
    out_path,
    split_names,
)
from xai_align.cli.terminal import output, print_lines, print_notes, report_errors, warnings_in_lines

if TYPE_CHECKING:
    from xai_align.cli.fit_align_folder import FolderAlignment
    from xai_align.comparison.domain_scores import DomainScores

_MAPS = {"mask": "mask", "cam": "CAM"}


def fit_align_command(
    images: Annotated[
        Path,
        typer.Argument(
            metavar="IMAGE_FOLDER", help="Folder of CLASS/images, or DOMAIN/CLASS/images if --source is given."
        ),
    ],
    backbone: BackboneReference,
    source: Annotated[
        list[str] | None,
        typer.Option(metavar="DOMAIN[,DOMAIN...]", help="Domains to train on; the others are used for the test only."),
    ] = None,
    out: Annotated[
        Path,
        typer.Option(
            parser=out_path,
            metavar="FOLDER",
            help="Folder for the models, metrics and pictures. An interrupted run is resumed.",
        ),
    ] = Path("xai-align-aligned"),
    recipe: Annotated[
        str, typer.Option(metavar="NAME", help="Training recipe; `xai-align methods` lists them.")
    ] = "align",
    recipe_options: Annotated[
        list[str] | None,
        typer.Option(
            "--recipe-set",
            metavar="NAME=VALUE",
            help="Any option of the recipe, such as sparsity=0.5 or baseline=blur; may be repeated. Default, if the "
            "recipe has them: alignment=0.1, mixup=0.1, baseline=another_image.",
        ),
    ] = None,
    masks: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="PNG masks of training images, for recipes that need them."),
    ] = None,
    masker: Annotated[
        str | None,
        typer.Option(
            metavar="stages|plain",
            help="The masker: on the backbone's first stages, frozen as they are before training, or trained from "
            "scratch. Default: stages, if the backbone is pretrained and has suitable ones.",
        ),
    ] = None,
    saliency: Annotated[
        str | None,
        typer.Option(
            metavar="gradcam|readout",
            help="The map that is aligned with the masks: Grad-CAM, or the exact readout of the label's logit, which "
            "is signed and complete. Default: gradcam.",
        ),
    ] = None,
    layer: Annotated[
        str | None, typer.Option(metavar="NAME", help="The layer of the maps. Default: automatic.")
    ] = None,
    fine_tune: Annotated[
        bool, typer.Option("--fine-tune/--frozen", help="Train the backbone too, or only its new head.")
    ] = True,
    epochs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Total number of epochs. Default: those of the next two options, plus at least 7 and 100 steps.",
        ),
    ] = None,
    warmup_epochs: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Epochs at the start in which only the classifier is trained. Default: at least 2, and 100 steps.",
        ),
    ] = None,
    masker_only_epochs: Annotated[
        int | None,
        typer.Option(
            min=0, help="Epochs after that in which only the masker is trained. Default: at least 1, and 75 steps."
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, help="Number of images in a batch. Default: 16, and 32 from 1000 training images on."),
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(help="Initial learning rate of the classifier. Default: 0.0003; with --frozen, 0.003."),
    ] = None,
    masker_learning_rate: Annotated[float, typer.Option(help="Initial learning rate of the masker.")] = 3e-3,
    validation_share: Annotated[
        float, typer.Option(help="Share of each class of a source domain that is used for validation.")
    ] = 0.15,
    test_share: Annotated[
        float, typer.Option(help="Share of each class of a source domain that is used for the test.")
    ] = 0.15,
    patience: Patience = None,
    judged: Annotated[int, typer.Option(min=0, help="Number of images per domain to evaluate the maps on.")] = 64,
    examples: Annotated[int, typer.Option(min=0, help="Number of images per domain to draw maps of.")] = 6,
    value_range: Range = None,
    seed: Seed = 0,
    workers: Workers = 0,
    device: Device = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Any option of AlignOptions, such as weight_decay=0.01, alternation=epoch or figure_every=5; may be "
            "repeated. Default: schedule=cosine_each.",
        ),
    ] = None,
    options_file: OptionsFile = None,
    trust_code: TrustCode = False,
) -> None:
    """Train a classifier and a masker with ALIGN.

    Evaluates both on every domain. Writes both networks, curves, pictures and all numbers.
    """
    from xai_align._tools.options import parse_options
    from xai_align.align import AlignOptions, CollapseWarning, ShortcutWarning
    from xai_align.cli.fit_align_folder import fit_align_folder
    from xai_align.cli.option_settings import option_settings
    from xai_align.comparison.processes import is_main_process

    main = is_main_process()
    flags: dict[str, Any] = {"schedule": "cosine_each", "patience": patience}
    if saliency is not None:
        flags.update(saliency=saliency)
    with (
        report_errors(),
        typed_on_the_command_line(),
        warnings_in_lines(CollapseWarning, ShortcutWarning) as told,
    ):
        done = fit_align_folder(
            images,
            backbone=backbone,
            out=out,
            sources=split_names(source),
            recipe_name=recipe,
            weights=parse_options(recipe_options or ()),
            masks=masks,
            masker=masker,
            layer=layer,
            frozen=not fine_tune,
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
            value_range=value_range,
            writes=main,
            warmup_epochs=warmup_epochs,
            masker_only_epochs=masker_only_epochs,
            learning_rate=learning_rate,
            masker_learning_rate=masker_learning_rate,
            show_progress=main,
            **flags | option_settings(AlignOptions, settings, options_file, "fit-align"),
        )
    if main:
        print_notes(output(), [note for note in done.fit.notes if note not in told])
        _print_result(done, out)


def _print_result(done: FolderAlignment, out: Path) -> None:
    console, fit, split = output(), done.fit, done.split
    lines = [
        f"{counted(len(done.domains.classes), 'class')}; {counted(len(split.train), 'training image')}, "
        f"{counted(len(split.validation), 'validation image')}",
        f"{counted(fit.epochs, 'epoch')}, {counted(fit.steps, 'step')}, {fit.seconds:.1f} s (stopped by: "
        f"{fit.stopped})",
    ]
    if fit.best is not None:
        lines.append(f"best validation accuracy: {fit.best['accuracy']:.4f}, in epoch {fit.best['epoch']}")
    print_lines(console, lines)
    console.print(_table(done.scores, done.domains.sources))
    further = " --method align" if fit.masker is not None else ""
    further += " --trust-code" if done.needs_trust else ""
    lines = [
        "Sufficiency (lower is better) and comprehensiveness (higher is better): drop of the predicted class's",
        "probability when only the top 1, 5, 10, 20, 50 % of a map are kept, and when they are removed.",
        f"curves: {out / 'curves.png'}, maps: {out / 'examples'}, log: {out / 'metrics.csv'}, "
        f"all numbers: {out / 'results.json'}",
        f"model: {out}; explain an image with `xai-align explain IMAGE --model {quote(f'align:{out}')}{further}`",
    ]
    print_lines(console, lines)


def _table(scores: Mapping[str, DomainScores], sources: Sequence[str]) -> Table:
    """Return a table with a row for each domain, and columns for the existing maps only."""
    shown = [name for name in _MAPS if any(name in one.maps for one in scores.values())]
    table = Table()
    for column in ("domain", "", "images", "accuracy", "macro", "worst class"):
        table.add_column(column, justify="left" if column in ("domain", "") else "right")
    for name in shown:
        for column in ("area", "suff.", "compr."):
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
