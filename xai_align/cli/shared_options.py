"""Options that several commands share."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

if TYPE_CHECKING:
    from xai_align.plugins import ModelOptions

_REFERENCES = (
    "timm:NAME, timm:NAME@weights.safetensors, timm:NAME@random, timm:hf-hub:OWNER/NAME, timm:local-dir:FOLDER, "
    "torchvision:NAME[@FILE], hf:NAME_OR_FOLDER"
)


def out_path(written: str | Path) -> Path:
    """Parse an ``--out``: an empty one, as of a variable that is not set, is not the current folder.

    Raises:
        BadParameter: it is empty.
    """
    if not str(written):
        raise typer.BadParameter("it is empty; give a name, or '.' for the current folder")
    return Path(written)


ModelReference = Annotated[
    str,
    typer.Option(
        "--model",
        metavar="REF",
        help=f"The model: {_REFERENCES}, pinet:FOLDER, align:FOLDER, fei:FILE, or package.module:factory, a "
        "function that is imported and called.",
    ),
]
BackboneReference = Annotated[
    str,
    typer.Option(
        "--backbone",
        metavar="REF",
        help=f"The network to start from: {_REFERENCES}, or package.module:factory, a function that is imported and "
        "called.",
    ),
]
TrustCode = Annotated[
    bool,
    typer.Option(
        "--trust-code",
        help="Run the code that a model's folder or file (pinet:FOLDER, align:FOLDER, fei:FILE) names as "
        "package.module:function. Without this option, files and folders that name code are refused.",
    ),
]
Device = Annotated[str | None, typer.Option("--device", help="cpu, cuda, cuda:1, ... Default: a GPU if there is one.")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of all random numbers.")]
Workers = Annotated[int, typer.Option("--workers", min=0, help="Number of processes that load images.")]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1, help="Number of images in a batch.")]
LearningRate = Annotated[float, typer.Option("--learning-rate", help="Initial learning rate.")]
Patience = Annotated[
    int | None,
    typer.Option("--patience", min=1, help="Stop after this many validations without improvement. Default: never."),
]
Recursive = Annotated[bool, typer.Option("--recursive", help="Search sub-folders, too.")]
Range = Annotated[
    tuple[float, float] | None,
    typer.Option(
        "--range",
        metavar="LOW HIGH",
        help="The pixel values that are black and white, such as 0 4095 for 12 bits or -1000 1000 for "
        "Hounsfield units. Default: by each file's type and largest number.",
    ),
]
OptionsFile = Annotated[
    Path | None,
    typer.Option("--options", metavar="FILE.toml", help="File of the options that --set sets; --set takes precedence."),
]


ClassNames = Annotated[
    str | None,
    typer.Option(
        "--class-names",
        metavar="FILE",
        help="Names of the classes, in the order of the outputs: a file of lines, CSV or JSON (a list, or a dictionary "
        "like id2label), or a folder with a sub-folder for each class.",
    ),
]
OutputKindName = Annotated[
    str | None,
    typer.Option(
        "--output-kind",
        metavar="KIND",
        help="The meaning of the outputs: classes, one-logit (of two classes), multi-label, regression, dense. "
        "Default: from the model's configuration.",
    ),
]
OutputField = Annotated[
    str | None,
    typer.Option(
        "--output-field",
        metavar="NAME|POSITION",
        help="Which of several outputs has the logits. Default: 'logits', or the only floating tensor.",
    ),
]
Unit = Annotated[
    str | None,
    typer.Option("--unit", metavar="TEXT", help="The unit of a regression, such as years; other outputs have none."),
]
ImageSize = Annotated[
    str | None,
    typer.Option("--img-size", metavar="N|ROWSxCOLUMNS", help="Size of the model's input. Default: the model's own."),
]
InputChannels = Annotated[
    int | None,
    typer.Option("--in-chans", min=1, help="Number of channels of the model's input. Default: the model's own."),
]
Mean = Annotated[
    str | None,
    typer.Option(
        "--mean",
        metavar="X[,X...]",
        help="Mean of the input, per channel, for pixels from 0 to 1. Inputs of timm's and torchvision's models are "
        "normalised with it; for other models, it is only used to draw pictures. Default: the preprocessing's.",
    ),
]
Std = Annotated[
    str | None, typer.Option("--std", metavar="X[,X...]", help="Standard deviation of the input; see --mean.")
]


@dataclass(frozen=True, kw_only=True)
class ModelFlags:
    """Statements of the user about the model, as they were typed; see ``with_model_flags``."""

    class_names: ClassNames = None
    output_kind: OutputKindName = None
    output_field: OutputField = None
    unit: Unit = None
    img_size: ImageSize = None
    in_chans: InputChannels = None
    mean: Mean = None
    std: Std = None

    def options(self) -> ModelOptions:
        """Return what was stated.

        Raises:
            ValueError: a number or a kind can't be read.
        """
        return model_options(**asdict(self))


def with_model_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of ``ModelFlags``, at the place of its parameter ``model_flags``.

    Typer reads the options of a command from its signature and has no groups of options.
    """
    hints = get_type_hints(ModelFlags, include_extras=True)
    keyword_only = inspect.Parameter.KEYWORD_ONLY
    flags = [
        inspect.Parameter(one.name, keyword_only, default=one.default, annotation=hints[one.name])
        for one in fields(ModelFlags)
    ]
    signature = inspect.signature(command, eval_str=True)
    parameters: list[inspect.Parameter] = []
    for parameter in signature.parameters.values():
        parameters += flags if parameter.name == "model_flags" else [parameter]

    @wraps(command)
    def with_flags(**given: Any) -> None:
        stated = ModelFlags(**{one.name: given.pop(one.name) for one in flags})
        command(model_flags=stated, **given)

    with_flags.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    with_flags.__annotations__ = {one.name: one.annotation for one in parameters}
    return with_flags


def model_options(
    *,
    class_names: str | None = None,
    output_kind: str | None = None,
    output_field: str | None = None,
    unit: str | None = None,
    img_size: str | None = None,
    in_chans: int | None = None,
    mean: str | None = None,
    std: str | None = None,
) -> ModelOptions:
    """Return what the user states about the model, from the options of a command.

    Raises:
        ValueError: a number or a kind can't be read.
    """
    from xai_align.plugins import ModelOptions

    position = output_field is not None and output_field.removeprefix("-").isdecimal()
    return ModelOptions(
        class_names=class_names,
        output_kind=output_kind,
        output_field=int(output_field) if position and output_field is not None else output_field,
        unit=unit,
        img_size=None if img_size is None else _size(img_size),
        in_chans=in_chans,
        mean=_numbers("--mean", mean),
        std=_numbers("--std", std),
    )


def _size(written: str) -> tuple[int, int]:
    sides = written.lower().replace("×", "x").replace(",", "x").split("x")
    if not 1 <= len(sides) <= 2 or not all(side.strip().isdecimal() for side in sides):
        raise ValueError(f"--img-size is '{written}'; write one number, or rows and columns like 224x320")
    return int(sides[0]), int(sides[-1])


def _numbers(option: str, written: str | None) -> tuple[float, ...] | None:
    if written is None:
        return None
    try:
        return tuple(float(one) for one in written.split(","))
    except ValueError:
        raise ValueError(f"{option} is '{written}'; write numbers like 0.485,0.456,0.406") from None


def split_names(given: Iterable[str] | None) -> list[str]:
    """Split ``["a,b", "c"]`` into ``["a", "b", "c"]``."""
    return [name.strip() for one in given or () for name in one.split(",") if name.strip()]
