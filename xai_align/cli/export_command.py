"""``xai-align export``: a network with its maps as an ONNX file or a program of ``torch.export``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from xai_align._tools.files.legible import legible
from xai_align._tools.files.references import typed_on_the_command_line
from xai_align.cli.shared_options import (
    ClassNames,
    ImageSize,
    InputChannels,
    ModelReference,
    OutputField,
    TrustCode,
    model_options,
    out_path,
)
from xai_align.cli.terminal import output, print_lines, print_warnings, report_errors

if TYPE_CHECKING:
    from xai_align.export import Exported


def export_command(
    model: ModelReference,
    out: Annotated[
        Path,
        typer.Option(
            parser=out_path,
            metavar="FILE.onnx|FILE.pt2",
            help="The file: .onnx for ONNX runtimes, .pt2 for torch.export.",
        ),
    ],
    layer: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="The layer of the maps; what follows it must be affine. Default: the head's."
        ),
    ] = None,
    example: Annotated[
        Path | None,
        typer.Option(
            metavar="IMAGE", help="Image that the file is checked with. Default: a photograph of this package."
        ),
    ] = None,
    tolerance: Annotated[
        float, typer.Option(min=0, help="Largest relative difference of the file's outputs from the network's.")
    ] = 1e-5,
    img_size: ImageSize = None,
    in_chans: InputChannels = None,
    class_names: ClassNames = None,
    output_field: OutputField = None,
    trust_code: TrustCode = False,
) -> None:
    """Export a network with its explanations.

    The outputs of the file are the logits, the maps of all classes and the bias: logits = sum of maps + bias. It
    needs neither gradients nor this package. For networks with an affine head and trained PiNets. The file is run and
    compared with the network before it is kept.
    """
    from xai_align.cli.export_file import export_file

    with report_errors(), typed_on_the_command_line():
        loaded, exported = export_file(
            model,
            out,
            layer=layer,
            example=example,
            tolerance=tolerance,
            trust=trust_code,
            options=model_options(
                class_names=class_names, output_field=output_field, img_size=img_size, in_chans=in_chans
            ),
        )
    print_warnings(loaded)
    print_lines(output(), _lines(exported))


def _lines(exported: Exported) -> list[str]:
    shapes = {name: list(shape) for name, shape in exported.shapes.items()}
    outputs = [f"{name} {_named(shape) if name != 'bias' else shape}" for name, shape in shapes.items()]
    differences = exported.differences
    return [
        f"input: images {_named(list(exported.image))}; outputs: {', '.join(outputs)}",
        f"logits = sum of maps + bias; the maps are contributions at '{exported.layer}'",
        f"run by {exported.checked_with}; largest relative differences from the network: "
        f"logits {differences.logits:.1e}, maps {differences.maps:.1e}, sum {differences.sum:.1e}",
        f"file: {legible(exported.path)}, {exported.path.stat().st_size / 1e6:.1f} MB",
    ]


def _named(shape: list[int]) -> str:
    return f"[{', '.join(['N', *map(str, shape[1:])])}]"
