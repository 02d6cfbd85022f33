"""``xai-align fit-pinet``: train a PiNet head, with fine maps that sum to the logits, from a folder of images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from xai_align._tools.files.references import typed_on_the_command_line
from xai_align.cli.reference_options import BACKBONE_REFERENCES, TrustCode
from xai_align.cli.terminal import errors_in_words, output
from xai_align.cli.training_options import Device, MixedPrecision, OptionsFile, Patience, Seed, Workers


def fit_pinet_command(
    images: Annotated[
        Path, typer.Argument(metavar="IMAGE_FOLDER", help="Holds a sub-folder of images for each class.")
    ],
    backbone: Annotated[
        str,
        typer.Option(metavar="REF", help=BACKBONE_REFERENCES),
    ],
    out: Annotated[
        Path, typer.Option(help="Folder for the model, metrics, pictures; a run that was stopped goes on.")
    ] = Path("xai-align-pinet"),
    fine_tune: Annotated[
        bool, typer.Option("--fine-tune/--frozen", help="Whether the backbone is trained along with the head.")
    ] = False,
    masks: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="PNG masks of some images, by the images' names.")
    ] = None,
    z: Annotated[
        str, typer.Option(help="What is looked at twice: evidence, ones, pixels, pixels_and_inverse, patch_means, ...")
    ] = "evidence",
    activation: Annotated[
        str, typer.Option(help="Of the coefficients: sigmoid, softmax, tanh or identity.")
    ] = "sigmoid",
    size: Annotated[int | None, typer.Option(min=1, help="Rows and columns of the maps.")] = None,
    epochs: Annotated[int, typer.Option(min=1, help="At most so many.")] = 20,
    batch_size: Annotated[int, typer.Option(min=1, help="Images at once.")] = 32,
    learning_rate: Annotated[float, typer.Option(help="At the start.")] = 1e-3,
    weight_decay: Annotated[float, typer.Option(help="Of AdamW.")] = 0.0,
    schedule: Annotated[str, typer.Option(metavar="none|cosine|plateau", help="Of the learning rate.")] = "cosine",
    feedback: Annotated[float, typer.Option(help="Weight of the recursive feedback.")] = 0.0,
    parsimony: Annotated[float, typer.Option(help="Weight of the squared coefficients.")] = 0.0,
    erasing: Annotated[float, typer.Option(help="Weight of: the class is gone without its signal.")] = 0.0,
    edges: Annotated[float, typer.Option(help="Weight of the maps' edges where the picture has none.")] = 0.0,
    mask_weight: Annotated[float, typer.Option(help="Weight of the masks, where there are some.")] = 100.0,
    validation_share: Annotated[float, typer.Option(help="Of every class, for validation.")] = 0.2,
    patience: Patience = None,
    seed: Seed = 0,
    examples: Annotated[int, typer.Option(min=0, help="Of how many validation images maps are drawn.")] = 6,
    mixed_precision: MixedPrecision = "no",
    workers: Workers = 0,
    device: Device = None,
    changed: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="Any option of FitOptions, e.g. validate_every=2; values as in TOML."
        ),
    ] = None,
    options_file: OptionsFile = None,
    trust_code: TrustCode = False,
) -> None:
    """Train a PiNet head on a backbone, with fine maps that sum to the logits; save it with curves and maps."""
    from xai_align.cli.fit_folder import fit_folder
    from xai_align.cli.option_settings import option_settings
    from xai_align.comparison.processes import is_main_process
    from xai_align.training import FitOptions

    main = is_main_process()
    weights = {"feedback": feedback, "parsimony": parsimony, "erasing": erasing, "edges": edges}
    flags = {
        "weight_decay": weight_decay,
        "schedule": schedule,
        "patience": patience,
        "mixed_precision": mixed_precision,
        "num_workers": workers,
    }
    with errors_in_words(), typed_on_the_command_line():
        done = fit_folder(
            images,
            backbone=backbone,
            out=out,
            masks=masks,
            weights=weights if masks is None else {**weights, "masks": mask_weight},
            head={"z": z, "activation": activation} | ({} if size is None else {"size": size}),
            frozen=not fine_tune,
            validation_share=validation_share,
            seed=seed,
            device=device,
            trust=trust_code,
            examples=examples,
            writes=main,
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            show_progress=main,
            **flags | option_settings(FitOptions, changed, options_file, "fit-pinet"),
        )
    if not main:
        return
    terminal, fit = output(), done.fit
    for note in fit.notes:
        terminal.print(f"note: {escape(note)}", style="dim", highlight=False, soft_wrap=True)
    masked = f" ({done.masks} with a mask)" if done.masks else ""
    lines = [
        f"{len(done.classes)} classes; {done.train} images to train with{masked}, {done.validation} to validate with",
        f"{fit.epochs} epochs, {fit.steps} steps, {fit.seconds:.1f} s (ended by: {fit.stopped})",
    ]
    if fit.best is not None:
        lines.append(f"validation {fit.metric} {fit.best[fit.metric]:.4f}, in epoch {fit.best['epoch']}")
    if done.pictures:
        lines.append(f"every logit is the sum of its terms: largest relative error {done.error:.1e}")
    lines.append(f"curves: {out / 'curves.png'}, maps: {out / 'examples'}, rows: {out / 'metrics.csv'}")
    lines.append(f"the model: {out / 'model'}; `xai-align explain IMAGE --model pinet:{out / 'model'}` asks it why")
    for line in lines:
        terminal.print(escape(line), highlight=False, soft_wrap=True)
