"""``xai-align fit-fei``: a network that gives a model's optimised maps in one pass, from photographs without labels."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from xai_align._tools.counted import counted
from xai_align._tools.files.legible import legible
from xai_align._tools.files.references import typed_on_the_command_line
from xai_align.cli.shared_options import (
    BatchSize,
    Device,
    ImageSize,
    InputChannels,
    LearningRate,
    Mean,
    ModelReference,
    OptionsFile,
    Patience,
    Range,
    Seed,
    Std,
    TrustCode,
    model_options,
    out_path,
)
from xai_align.cli.terminal import output, print_lines, print_notes, report_errors

if TYPE_CHECKING:
    from xai_align.fei import FEIFit


def fit_fei_command(
    model: ModelReference,
    images: Annotated[
        list[Path],
        typer.Option(
            "--images",
            metavar="FOLDER",
            help="Folder of photographs, searched with all folders below it; may be repeated. No labels are used. A "
            "few thousand photographs like those to be explained.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            parser=out_path,
            metavar="FILE.safetensors",
            help="The explainer; another file of this name is not replaced. Checkpoints and metrics go to the folder "
            "FILE-fit; an interrupted run is resumed.",
        ),
    ] = Path("fei.safetensors"),
    epochs: Annotated[int, typer.Option(min=1, help="Number of epochs.")] = 20,
    batch_size: BatchSize = 16,
    learning_rate: LearningRate = 2e-3,
    patience: Patience = None,
    value_range: Range = None,
    seed: Seed = 0,
    device: Device = None,
    img_size: ImageSize = None,
    in_chans: InputChannels = None,
    mean: Mean = None,
    std: Std = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Any option of FitFEIOptions, such as width=48, validation_share=0.2 or mixed_precision=bf16; may be "
            "repeated.",
        ),
    ] = None,
    options_file: OptionsFile = None,
    trust_code: TrustCode = False,
) -> None:
    """Fit a network that gives a model's FEI maps in one pass.

    The explainer is valid for this model only, with images of this size; for others an error is raised. Explain an
    image with `--model fei:FILE --method fei-amortised`.
    """
    from xai_align.cli.fit_fei_folder import fit_fei_folder
    from xai_align.cli.option_settings import option_settings
    from xai_align.fei import FitFEIOptions

    with report_errors(), typed_on_the_command_line():
        flags = {"patience": patience}
        fit = fit_fei_folder(
            model,
            images,
            out=out,
            device=device,
            trust=trust_code,
            value_range=value_range,
            model_options=model_options(img_size=img_size, in_chans=in_chans, mean=mean, std=std),
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            seed=seed,
            show_progress=True,
            **flags | option_settings(FitFEIOptions, settings, options_file, "fit-fei"),
        )
    _print_result(fit, out, model)


def _print_result(fit: FEIFit, out: Path, model: str) -> None:
    from xai_align.fei.amortised.reference import needs_trust

    numbers = fit.explainer.numbers
    lines = [
        f"{counted(numbers['images'], 'image')} to train on, {numbers['held_out']} held out",
        f"{counted(fit.epochs, 'epoch')}, {counted(fit.steps, 'step')}, {fit.seconds:.1f} s (stopped by: "
        f"{fit.stopped})",
    ]
    if numbers["held_out"]:
        reached, start = numbers["validation_loss"], numbers["validation_start"]
        lines.append(
            f"loss on held-out images (deletion less insertion, plus deviation; lower is better): {reached:.4f}; "
            f"of the readout's maps: {start:.4f}"
        )
        if reached >= start:
            lines.append("no epoch was better than the readout, whose maps this explainer gives: train for longer")
    trusted = " --trust-code" if needs_trust(model) else ""
    lines.append(
        f"explainer: {legible(out)}; explain an image with "
        f"`xai-align explain IMAGE --model {quote(f'fei:{legible(out)}')} --method fei-amortised{trusted}`"
    )
    console = output()
    print_notes(console, fit.notes)
    print_lines(console, lines)
