"""Statements of the user about a model: class names, meaning of the outputs, size and scale of the input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf, isfinite
from pathlib import Path
from typing import Any, get_args

from xai_align.hookspecs import InputOptions, LoadedModel, OutputKind


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Statements of the user about a model, which take precedence over its configuration.

    Attributes:
        class_names: names in the order of the outputs: a list, a dictionary like ``id2label``, or a file or folder, see
            :func:`~xai_align.data.class_names_file.read_class_names`.
        output_kind: "classes", "one logit", "multi-label", "regression" or "dense".
        output_field: which of several outputs are the logits, by field or position.
        unit: the unit of a regression's outputs.
        img_size: rows and columns of the input, or one number for both.
        in_chans: number of channels of the input.
        mean: per channel, with ``std``: for the pictures that are drawn; models of timm and torchvision are given
            inputs normalised with them.
        std: see ``mean``.

    Raises:
        ValueError: there is no such kind, a size is not a positive number, the mean or std is not finite, or the std
            not above 0.

    Example::

        options = ModelOptions(class_names={"0": "cat", "1": "dog"}, output_kind="multi-label")
        options.output_kind  # "multi-label"
    """

    class_names: str | Path | Sequence[str] | Mapping[Any, Any] | None = None
    output_kind: str | None = None
    output_field: str | int | None = None
    unit: str | None = None
    img_size: int | Sequence[int] | None = None
    in_chans: int | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None

    def __post_init__(self) -> None:
        if self.output_kind is not None:
            object.__setattr__(self, "output_kind", output_kind(self.output_kind))
        size = self.img_size
        if size is not None:
            pair = (size, size) if isinstance(size, int) else tuple(size)
            if len(pair) != 2 or not all(isinstance(one, int) and one > 0 for one in pair):
                raise ValueError(f"img_size is {size!r}; give one positive number, or rows and columns")
            object.__setattr__(self, "img_size", pair)
        if self.in_chans is not None and self.in_chans < 1:
            raise ValueError(f"in_chans is {self.in_chans}; give a positive number")
        for name, given, least in (("mean", self.mean, -inf), ("std", self.std, 0.0)):
            if given is not None and not all(isfinite(one) and one > least for one in given):
                wanted = "finite numbers" if name == "mean" else "finite numbers above 0"
                raise ValueError(f"{name} is {', '.join(f'{float(one):g}' for one in given)}; give {wanted}")

    @property
    def of_input(self) -> InputOptions:
        """Return the options that have to be applied when the model is loaded."""
        mean, std = (None if one is None else tuple(one) for one in (self.mean, self.std))
        return InputOptions(in_chans=self.in_chans, img_size=self.img_size, mean=mean, std=std)  # type: ignore[arg-type]

    def stated(self, loaded: LoadedModel) -> LoadedModel:
        """Return the model with what was stated.

        Raises:
            ValueError: the class names can't be read.
        """
        changes: dict[str, Any] = {
            name: tuple(value) if name in ("mean", "std") else value
            for name in ("output_kind", "output_field", "unit", "mean", "std")
            if (value := getattr(self, name)) is not None
        }
        if self.class_names is not None:
            changes["class_names"] = self._names()
        return replace(loaded, **changes) if changes else loaded

    def _names(self) -> Any:
        if not isinstance(self.class_names, str | Path):
            return self.class_names
        from xai_align.data.class_names_file import read_class_names

        return read_class_names(self.class_names)


def output_kind(written: str) -> OutputKind:
    """Return the kind of a text; signs between words do not matter.

    Raises:
        ValueError: there is no such kind.
    """
    plain = "".join(written.lower().split()).replace("-", "").replace("_", "")
    for kind in get_args(OutputKind):
        if plain == kind.replace("-", "").replace(" ", ""):
            return kind
    known = ", ".join(f"'{kind}'" for kind in get_args(OutputKind))
    raise ValueError(f"there is no output kind '{written}'; it is one of {known}")
