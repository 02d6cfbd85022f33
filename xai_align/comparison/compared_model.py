"""The model of a comparison: loaded, on its device, in the form that metrics take."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import Tensor, nn

from xai_align._tools.model_state import check_evaluation_mode
from xai_align.features.returning_logits import returning_logits
from xai_align.hookspecs import LoadedModel
from xai_align.plugins import ModelOptions, load_model


def on_device(
    model: str | LoadedModel, where: torch.device, *, given: bool, trust: bool, options: ModelOptions | None = None
) -> LoadedModel:
    """Return the model in evaluation mode on its device; the caller's own object is not moved."""
    if isinstance(model, str):
        loaded = load_model(model, trust=trust, options=options)
        loaded.model.to(where)
    elif isinstance(model, LoadedModel):
        elsewhere = given and device_of(model.model, where) != where
        loaded = replace(model, model=copy.deepcopy(model.model).to(where)) if elsewhere else model
        loaded = loaded if options is None else _stated(loaded, options)
    else:
        raise TypeError(
            f"the model is a {type(model).__name__}; give a reference such as 'timm:NAME', or a LoadedModel"
        )
    check_evaluation_mode(loaded.model)
    return loaded


def _stated(loaded: LoadedModel, options: ModelOptions) -> LoadedModel:
    if options.of_input.left:
        raise ValueError(f"{' and '.join(options.of_input.left)} can't be changed in a model that is already loaded")
    return options.stated(loaded)


def device_of(model: nn.Module, otherwise: torch.device) -> torch.device:
    """Return the device of the model's parameters, or another one if it has none."""
    tensor = next(model.parameters(), None)
    return otherwise if tensor is None else tensor.device


def name_of(model: str | LoadedModel) -> str:
    """Return the name of the model in results: its reference, or its class."""
    return model if isinstance(model, str) else type(model.model).__name__


def of_logits(loaded: LoadedModel, probe: Tensor) -> nn.Module:
    """Return the model for metrics, which take one that returns logits alone."""
    with torch.no_grad():
        found = loaded.model(probe)
        alone = loaded.output_field is None and isinstance(found, Tensor) and found.dim() > 1
    return loaded.model if alone else returning_logits(loaded.model, loaded.output_field).module
