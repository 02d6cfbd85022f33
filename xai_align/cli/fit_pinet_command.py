"""``xai-align fit-pinet``: train a PiNet head, with fine maps that sum to the logits, from a folder of images."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from xai_align._tools.counted import counted
from xai_align._tools.files.references import typed_on_the_command_line
from xai_align.cli.shared_options import (
    BackboneReference,
    Device,
    LearningRate,
    OptionsFile,
    Patience,
    Range,
    Seed,
    TrustCode,
    Workers,
    out_path,
)
from xai_align.cli.terminal import output, print_lines, print_notes, report_errors

if TYPE_CHECKING:
    from xai_align.cli.fit_pinet_folder import FolderFit


def fit_pinet_command(
    images: Annotated[Path, typer.Argument(metavar="IMAGE_FOLDER", help="Folder with a sub-folder for each class.")],
    backbone: BackboneReference,
    out: Annotated[
        Path,
        typer.Option(
            parser=out_path,
            metavar="FOLDER",
            help="Folder for the model, metrics and pictures. An interrupted run is resumed.",
        ),
    ] = Path("xai-align-pinet"),
    fine_tune: Annotated[
        bool, typer.Option("--fine-tune/--frozen", help="Train the backbone too, or the head alone.")
    ] = False,
    masks: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="PNG masks of some images, with the images' names; maps are trained to match them.",
        ),
    ] = None,
    head: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="Option of SecondLookHead, such as size=28 or activation=softmax; may be repeated. Default: "
            "z=evidence.",
        ),
    ] = None,
    loss: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=WEIGHT",
            help="Weight of a loss term (PiNetLoss): feedback, parsimony, masks, distillation, erasing, edges; may be "
            "repeated. Default: 0, for masks 100.",
        ),
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Maximum number of epochs.")] = 20,
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, help="Number of images in a batch. Default: 32, or all training images if they are fewer."),
    ] = None,
    learning_rate: LearningRate = 1e-3,
    validation_share: Annotated[float, typer.Option(help="Share of each class that is used for validation.")] = 0.2,
    patience: Patience = None,
    examples: Annotated[int, typer.Option(min=0, help="Number of validation images to draw maps of.")] = 6,
    value_range: Range = None,
    seed: Seed = 0,
    workers: Workers = 0,
    device: Device = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Any option of FitOptions, such as weight_decay=0.01 or mixed_precision=bf16; may be repeated. "
            "Default: schedule=cosine.",
        ),
    ] = None,
    options_file: OptionsFile = None,
    trust_code: TrustCode = False,
) -> None:
    """Train a PiNet head on a backbone.

    Its maps are fine, and sum to the logits. Writes the model, curves and pictures of maps.
    """
    from xai_align._tools.options import parse_options
    from xai_align.cli.fit_pinet_folder import fit_pinet_folder
    from xai_align.cli.option_settings import option_settings
    from xai_align.comparison.processes import is_main_process
    from xai_align.training import FitOptions

    main = is_main_process()
    flags = {"schedule": "cosine", "patience": patience, "num_workers": workers}
    with report_errors(), typed_on_the_command_line():
        done = fit_pinet_folder(
            images,
            backbone=backbone,
            out=out,
            masks=masks,
            weights=({} if masks is None else {"masks": 100.0}) | parse_options(loss or ()),
            head={"z": "evidence"} | parse_options(head or ()),
            frozen=not fine_tune,
            validation_share=validation_share,
            seed=seed,
            device=device,
            trust=trust_code,
            examples=examples,
            value_range=value_range,
            writes=main,
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            show_progress=main,
            **flags | option_settings(FitOptions, settings, options_file, "fit-pinet"),
        )
    if main:
        _print_result(done, out)


def _print_result(done: FolderFit, out: Path) -> None:
    fit = done.fit
    masked = f" ({done.masks} with a mask)" if done.masks else ""
    lines = [
        f"{counted(len(done.classes), 'class')}; {counted(done.train, 'training image')}{masked}, "
        f"{counted(done.validation, 'validation image')}",
        f"{counted(fit.epochs, 'epoch')}, {counted(fit.steps, 'step')}, {fit.seconds:.1f} s (stopped by: "
        f"{fit.stopped})",
    ]
    if fit.best is not None:
        lines.append(f"best validation {fit.metric}: {fit.best[fit.metric]:.4f}, in epoch {fit.best['epoch']}")
    if done.pictures:
        lines.append(f"logit minus the sum of its terms, in the examples: relative error at most {done.error:.1e}")
    lines += [
        f"curves: {out / 'curves.png'}, maps: {out / 'examples'}, log: {out / 'metrics.csv'}",
        f"model: {out / 'model'}; explain an image with `xai-align explain IMAGE --model "
        f"{quote(f'pinet:{out}/model')}{' --trust-code' if done.needs_trust else ''}`",
    ]
    console = output()
    print_notes(console, fit.notes)
    print_lines(console, lines)
