"""Loading a saved PiNet by reference: ``pinet:FOLDER``, or ``pinet:OWNER/MODEL`` on the hub."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from xai_align.hookspecs import LoadedModel
from xai_align.pinet.network.module import PiNet

#: Prefix of a reference to a saved PiNet.
PREFIX = "pinet:"


class Preprocessing(NamedTuple):
    """Preprocessing of an encoder's images; the encoder may have it as an attribute ``preprocessing``.

    Attributes:
        preprocess: maps a PIL image to a tensor ``[C, H, W]``.
        mean: with ``std``, the normalisation to undo for an image in [0, 1].
        std: see ``mean``.
    """

    preprocess: Callable[[Any], Tensor]
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)


def load_pinet(reference: str, *, trust: bool = False) -> LoadedModel | None:
    """Return the PiNet that a reference ``pinet:FOLDER`` names, with its classes, or None for other references.

    Args:
        reference: the text that names a model.
        trust: whether the folder may name code of other packages.

    Raises:
        FileNotFoundError: there is no such folder, or it holds no saved PiNet.
        ValueError: the saved PiNet can't be used; the message names the reason.
    """
    if not reference.startswith(PREFIX):
        return None
    model = PiNet.from_pretrained(reference.removeprefix(PREFIX), trust=trust)
    how = getattr(model.encoder, "preprocessing", None) or Preprocessing(_plain(model))
    return LoadedModel(
        model=model, preprocess=how.preprocess, class_names=model.class_names, mean=how.mean, std=how.std
    )


def _plain(model: PiNet) -> Callable[[Any], Tensor]:
    """Return a preprocessing to pixels in [0, 1], grey or RGB as the model takes them, without resizing."""
    grey = model.head.options["image_channels"] == 1

    def preprocess(picture: Any) -> Tensor:
        pixels = torch.from_numpy(np.array(picture.convert("L" if grey else "RGB"), dtype=np.float32) / 255)
        return pixels[None] if grey else pixels.permute(2, 0, 1).contiguous()

    return preprocess
