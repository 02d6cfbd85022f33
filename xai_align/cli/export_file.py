"""Export of a model by reference, checked with a photograph."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from torch import nn

from xai_align._tools.files.writable_folder import check_folder_is_writable
from xai_align.cli.first_pass import first_output
from xai_align.data import photographs
from xai_align.data.prepared_image import prepared_image
from xai_align.export import Exported, to_exported_program, to_onnx
from xai_align.export.onnx_file import check_onnx_is_installed
from xai_align.export.to_file import checked_path
from xai_align.hookspecs import LoadedModel
from xai_align.plugins import ModelOptions, load_model

#: The photograph that files are checked with.
PHOTOGRAPH = Path(photographs.__file__).with_name("chelsea.jpg")
#: References of models that take images of any size, and no size when they are loaded.
ANY_SIZE = "pinet:"


def export_file(
    reference: str,
    out: Path,
    *,
    layer: str | None = None,
    example: Path | None = None,
    tolerance: float = 1e-5,
    trust: bool = False,
    options: ModelOptions | None = None,
) -> tuple[LoadedModel, Exported]:
    """Write the model of a reference with its maps to ``out``, and return it with what was written.

    Raises:
        ValueError: model, example or file are not fit for it; the message says why.
        ImportError: packages for ONNX files are missing.
        OSError: the file cannot be written.
    """
    path = checked_path(out, ".onnx", ".pt2")
    check_folder_is_writable(path.parent)
    if path.suffix == ".onnx":
        check_onnx_is_installed()
    options = options or ModelOptions()
    size = options.img_size if reference.startswith(ANY_SIZE) else None
    loaded = load_model(reference, trust=trust, options=replace(options, img_size=None) if size else options)
    file = example or PHOTOGRAPH
    image = prepared_image(file, loaded)[0][None]
    if size:
        image = nn.functional.interpolate(image, size, mode="bilinear", antialias=True)
    first_output(loaded.model, image, file)
    write = to_onnx if path.suffix == ".onnx" else to_exported_program
    exported = write(
        loaded.model,
        image,
        path,
        feature_space=layer,
        output=loaded.output_field,
        class_names=loaded.class_names,
        metadata=_metadata(reference, loaded),
        tolerance=tolerance,
    )
    return loaded, exported


def _metadata(reference: str, loaded: LoadedModel) -> dict[str, str]:
    said = {"model": reference}
    if loaded.scale is not None:
        mean, std = loaded.scale
        said |= {"mean": str(list(mean)), "std": str(list(std))}
    return {f"xai_align.{name}": text for name, text in said.items()}
