"""``xai-align fit-epic``: prototypes of a network's channels, from a folder of images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from xai_align._tools.counted import counted
from xai_align._tools.files.references import typed_on_the_command_line
from xai_align.cli.shared_options import (
    Device,
    ModelFlags,
    ModelReference,
    OptionsFile,
    Range,
    Seed,
    TrustCode,
    out_path,
    with_model_flags,
)
from xai_align.cli.terminal import output, print_lines, print_notes, report_errors

if TYPE_CHECKING:
    from xai_align.cli.fit_epic_folder import FolderPrototypes


@with_model_flags
def fit_epic_command(
    images: Annotated[
        Path, typer.Argument(metavar="IMAGE_FOLDER", help="Folder of images, also in sub-folders; labels are not used.")
    ],
    model: ModelReference,
    out: Annotated[
        Path,
        typer.Option(
            parser=out_path,
            metavar="FOLDER",
            help="Folder for the prototypes and the page. An interrupted run is resumed.",
        ),
    ] = Path("xai-align-epic"),
    layer: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="The layer whose channels are mixed. Default: the head's input, or last tokens."
        ),
    ] = None,
    matrix: Annotated[str, typer.Option(metavar="KIND", help="orthogonal or invertible.")] = "orthogonal",
    prototypes: Annotated[int, typer.Option(min=1, help="Prototypes of each channel.")] = 5,
    memory: Annotated[
        float, typer.Option(help="GiB for cached features; beyond them a sample of images is used.")
    ] = 2.0,
    held_out: Annotated[float, typer.Option(help="Share of the images that purity is measured on.")] = 0.2,
    examples: Annotated[int, typer.Option(min=0, help="Number of held-out images on the page.")] = 6,
    explain: Annotated[
        list[Path] | None, typer.Option(metavar="IMAGE", help="A further image for the page; may be repeated.")
    ] = None,
    value_range: Range = None,
    seed: Seed = 0,
    device: Device = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Any option of PrototypeOptions, such as rounds=40 or solver=gradient; may be repeated.",
        ),
    ] = None,
    options_file: OptionsFile = None,
    *,
    model_flags: ModelFlags,
    trust_code: TrustCode = False,
) -> None:
    """Fit prototypes: channels that each respond to one kind of part.

    The network is not changed. Writes the prototypes, pictures of them, and a page of held-out images with the parts
    that make the answer, each beside the parts that it looks like.
    """
    from xai_align.cli.fit_epic_folder import fit_epic_folder
    from xai_align.cli.option_settings import option_settings
    from xai_align.prototypes import PrototypeOptions

    flags = {"matrix": matrix, "prototypes": prototypes, "memory": memory, "seed": seed}
    with report_errors(), typed_on_the_command_line():
        done = fit_epic_folder(
            images,
            reference=model,
            out=out,
            layer=layer,
            held_out_share=held_out,
            examples=examples,
            explained=explain or (),
            device=device,
            trust=trust_code,
            model_options=model_flags.options(),
            value_range=value_range,
            show_progress=True,
            **flags | option_settings(PrototypeOptions, settings, options_file, "fit-epic"),
        )
    _print_result(done, out)


def _print_result(done: FolderPrototypes, out: Path) -> None:
    console, found = output(), done.prototypes
    layer = found.fingerprint["layer"]
    print_notes(console, done.notes)
    print_lines(
        console,
        [
            f"{counted(found.channels, 'channel')} at {layer}, {counted(done.fitted, 'image')}, {done.held_out} held "
            "out",
            f"mean purity on held-out images: {done.purity[0]:.3f} before, {done.purity[1]:.3f} after "
            f"(on the images of the fit {float(found.purity[0].mean()):.3f}, {float(found.purity[1].mean()):.3f})",
            f"logits of the network with mixed channels: largest relative difference {done.logits:.1e}",
            f"prototypes: {out / 'prototypes.safetensors'}, pictures: {out / 'parts'}, "
            f"all numbers: {out / 'results.json'}",
            f"page: {done.page}",
        ],
    )
