"""Size of a timm model's input images."""

from __future__ import annotations

from timm.data import resolve_data_config
from torch import nn


def input_size(model: nn.Module) -> tuple[int, int]:
    """Return rows and columns of a model's images: those it was built for, or else its configuration's.

    ``timm.create_model(name, img_size=224)`` leaves the size of the pretrained weights in the configuration.
    """
    built_for = getattr(getattr(model, "patch_embed", None), "img_size", None)
    rows, columns = built_for or resolve_data_config({}, model=model)["input_size"][-2:]
    return int(rows), int(columns)
