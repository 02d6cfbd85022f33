"""Weights of timm models from a file: the layouts of timm's own training script, of Lightning and of others.

timm's ``clean_state_dict`` removes the prefixes of data-parallel and compiled models, and its ``load_checkpoint`` reads
NumPy files of JAX models. The choice among the entries of a file is that of timm's loader: averaged weights
(EMA) first.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import timm
from timm.models import clean_state_dict, load_checkpoint
from torch import Tensor, nn

from xai_align.adapter_tools import (
    in_one_clause,
    load_all_weights,
    named_as,
    read_weights_file,
    tensor_called,
)

#: Suffixes of NumPy files of JAX models, which timm converts for the models that have such weights.
JAX = (".npz", ".npy")
#: Settings of timm's training script that say how images are prepared for evaluation.
_DATA_SETTINGS = ("input_size", "img_size", "mean", "std", "interpolation", "crop_pct", "crop_mode")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Weights from a file, and what the training script saved with them.

    Attributes:
        path: the file.
        tensors: the weights by name, without the prefixes of wrappers; empty for :data:`JAX`.
        data_settings: how images are prepared, as ``timm.data.resolve_data_config`` takes it.
        notes: remarks for the user on the choice.
    """

    path: Path
    tensors: dict[str, Tensor] = field(default_factory=dict)
    data_settings: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def create_options(self, name: str) -> dict[str, Any]:
        """Return the options of ``timm.create_model`` that follow from the weights: classes and input channels."""
        config = timm.get_pretrained_cfg(name)
        options: dict[str, Any] = {}
        classifier = self._tensor(getattr(config, "classifier", None))
        if classifier is not None and classifier.dim():
            options["num_classes"] = len(classifier)
        first = self._tensor(getattr(config, "first_conv", None), kinds=("weight",))
        if first is not None and first.dim() == 4 and first.shape[1] != _usual_channels(config):
            options["in_chans"] = first.shape[1]
        size = self.data_settings.get("img_size")
        if size is not None and getattr(config, "fixed_input_size", False):
            options["img_size"] = size
        if self.path.suffix.lower() in JAX:
            options["num_classes"] = _classes_of_jax(self.path)
        return options

    def load_into(self, model: nn.Module) -> tuple[str, ...]:
        """Load all weights; return notes on them.

        Raises:
            ValueError: the weights do not fit; the message names those that do not.
        """
        if self.path.suffix.lower() in JAX:
            try:
                load_checkpoint(model, str(self.path))
            except Exception as error:  # each architecture has a converter of its own
                raise ValueError(
                    f"timm can't read '{self.path}' as weights of this {type(model).__name__} ({in_one_clause(error)})"
                ) from error
            return self.notes
        renamed = named_as(self.tensors, model.state_dict().keys(), self.path)
        load_weights(model, renamed.tensors, source=str(self.path))
        return (*self.notes, *renamed.notes)

    def _tensor(self, module: Any, kinds: tuple[str, ...] = ("bias", "weight")) -> Tensor | None:
        module = module[0] if isinstance(module, tuple | list) and module else module
        if not isinstance(module, str) or not module:
            return None
        found = (tensor_called(self.tensors, f"{module}.{kind}") for kind in kinds)
        return next((one for one in found if one is not None), None)


def read_checkpoint(path: Path) -> Checkpoint:
    """Return the weights of a file and what was saved with them, without running code from it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds no weights.
    """
    if path.suffix.lower() in JAX:
        if not os.path.isfile(path):
            raise FileNotFoundError(f"no weights at '{path}'")
        return Checkpoint(path=path)
    found = read_weights_file(path)
    cleaned = clean_state_dict(found.tensors)
    tensors = cleaned if len(cleaned) == len(found.tensors) else found.tensors
    return Checkpoint(path=path, tensors=tensors, data_settings=_settings(found.settings), notes=found.notes(path))


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return a state dict from a file, without running code from it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a file of tensors.
    """
    return read_checkpoint(path).tensors


def load_weights(model: nn.Module, state: dict[str, Tensor], *, source: str) -> None:
    """Load every tensor, or raise an error that names those that do not fit.

    Raises:
        ValueError: keys are missing or unexpected, or tensors have another shape or dtype, or NaN or infinity.
    """
    load_all_weights(model, state, source)


def _settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the data settings of ``timm/train.py`` that were set, in the types that timm expects."""
    found = {name: given[name] for name in _DATA_SETTINGS if given.get(name)}
    for name in ("mean", "std", "input_size"):
        values = found.pop(name, None)
        if isinstance(values, list | tuple) and all(isinstance(one, int | float) for one in values):
            found[name] = tuple(values)
    if len(found.get("input_size", (1, 1, 1))) != 3:
        del found["input_size"]
    number = {"img_size": int, "crop_pct": float}
    kinds = {name: number.get(name, str) for name in found if name not in ("mean", "std", "input_size")}
    return {name: value for name, value in found.items() if isinstance(value, kinds.get(name, tuple))}


def _usual_channels(config: Any) -> int:
    return int((getattr(config, "input_size", None) or (3,))[0])


def _classes_of_jax(path: Path) -> int:
    """Return the number of classes of a NumPy file: the rows of its head's bias; none without a head."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            name = next((one for one in arrays.files if one.endswith("head/bias")), None)
            return 0 if name is None else len(arrays[name])
    except Exception as error:  # a damaged archive raises almost anything
        raise ValueError(f"'{path}' can't be read as a NumPy file of weights ({in_one_clause(error)})") from error
