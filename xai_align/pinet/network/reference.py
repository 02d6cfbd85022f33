"""Loading a saved PiNet by reference: ``pinet:FOLDER``, or ``pinet:OWNER/MODEL`` on the hub."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from xai_align._tools.files.plain_json import read_json
from xai_align._tools.random_weights import RANDOM
from xai_align.hookspecs import LoadedModel
from xai_align.pinet.network.frozen_encoder import FrozenEncoder
from xai_align.pinet.network.module import PiNet
from xai_align.pinet.network.persistence import MODEL_FOLDER

#: Prefix of a reference to a saved PiNet.
PREFIX = "pinet:"
#: What ``fit-pinet`` writes of the classes and the backbone.
_ABOUT = "classes.json"


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
    source = reference.removeprefix(PREFIX)
    model = PiNet.from_pretrained(source, trust=trust)
    random = isinstance(model.encoder, FrozenEncoder) and _backbone(Path(source)).endswith("@random")
    how = getattr(model.encoder, "preprocessing", None) or Preprocessing(_plain(model))
    return LoadedModel(
        model=model,
        preprocess=how.preprocess,
        class_names=model.class_names,
        mean=how.mean,
        std=how.std,
        random_weights=random,
        notes=(f"{RANDOM}: those of the backbone, which was frozen while the head was trained",) if random else (),
    )


def _backbone(folder: Path) -> str:
    """Return the reference of the backbone that a fit saved, next to the model or one folder up; "" if none."""
    for place in (folder, folder.parent) if folder.name == MODEL_FOLDER else (folder,):
        try:
            found = read_json(place / _ABOUT)
        except (OSError, ValueError):  # a saved PiNet has no such file unless a fit wrote it
            continue
        if isinstance(found, dict) and isinstance(found.get("backbone"), str):
            return found["backbone"]
    return ""


def _plain(model: PiNet) -> Callable[[Any], Tensor]:
    """Return a preprocessing to pixels in [0, 1], grey or RGB as the model expects, without resizing."""
    grey = model.head.options["image_channels"] == 1

    def preprocess(picture: Any) -> Tensor:
        pixels = torch.from_numpy(np.array(picture.convert("L" if grey else "RGB"), dtype=np.float32) / 255)
        return pixels[None] if grey else pixels.permute(2, 0, 1).contiguous()

    return preprocess
