"""A classifier and its masker in a folder, ready to be asked again by name: ``align:FOLDER``.

Beside the weights, the classifier's file holds in its header what the model was made from and what its classes are
called, so it needs no other file. Nothing is unpickled when it is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from xai_align import plugins
from xai_align.align.masker_file import save_masker
from xai_align.fitting.checkpoints import DamagedCheckpoint, Snapshot, read_checkpoint, write_checkpoint
from xai_align.hookspecs import LoadedModel
from xai_align.pinet.unwrapping import unwrapped
from xai_align.question import QuestionModel

#: What a reference to a saved fit starts with.
PREFIX = "align:"
CLASSIFIER_FILE, MASKER_FILE = "classifier.safetensors", "masker.safetensors"
#: What the header of a classifier's file says that it is.
KIND = "classifier"


def save_fit(
    folder: str | Path, classifier: nn.Module, masker: nn.Module | None, *, backbone: str, classes: Sequence[str]
) -> Path:
    """Write ``classifier.safetensors`` and, if there is one, ``masker.safetensors``.

    Args:
        folder: where to; it is made if need be.
        classifier: what :func:`~xai_align.plugins.classifier` made of the backbone, trained.
        masker: the masker that was trained beside it.
        backbone: the reference that the model was loaded by.
        classes: names of the classes.

    Returns:
        The folder.
    """
    from xai_align import __version__

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    about = {"kind": KIND, "backbone": backbone, "classes": list(classes), "version": __version__}
    write_checkpoint(folder / CLASSIFIER_FILE, Snapshot(classifier.state_dict(), about))
    if masker is not None:
        save_masker(masker, folder / MASKER_FILE)
    return folder


def load_fit(reference: str) -> LoadedModel | None:
    """The classifier that a reference ``align:FOLDER`` names, with its classes; None for other references.

    The method ``align`` finds its masker. The backbone that the file names is made by whichever plugin knows its
    reference; one like ``package.module:factory`` is imported and called, so open files of people you trust.

    Raises:
        ValueError: there is no such folder, or what is there can't be used; the message says why.
    """
    if not reference.startswith(PREFIX):
        return None
    folder = Path(reference.removeprefix(PREFIX)).expanduser()
    file = folder / CLASSIFIER_FILE
    if not file.is_file():
        raise ValueError(f"there is no '{file}'; write align:FOLDER with the folder that fit-align wrote into")
    try:
        saved = read_checkpoint(file)
    except DamagedCheckpoint as error:
        raise ValueError(f"{error}; copy it again, or train again") from None
    if saved.numbers.get("kind") != KIND:
        raise ValueError(f"'{file}' holds no classifier that fit-align wrote")
    backbone, classes = saved.numbers["backbone"], tuple(saved.numbers["classes"])
    with torch.random.fork_rng(devices=[]):  # the first weights of layers are drawn
        loaded = plugins.load_model(without_weights(backbone))
        model: Any = plugins.classifier(loaded.model, len(classes))
    try:
        model.load_state_dict(dict(saved.tensors))
    except RuntimeError as error:
        raise ValueError(f"the weights in '{file}' don't fit the model that '{backbone}' is here ({error})") from error
    if (folder / MASKER_FILE).is_file():
        model.align_masker = str((folder / MASKER_FILE).resolve())
    return replace(loaded, model=model.eval(), class_names=classes)


def masker_of(model: nn.Module) -> str | None:
    """The file of the masker that a model from ``align:FOLDER`` brings, also where a wrapper asks it questions."""
    inner = unwrapped(model)[0]
    while isinstance(inner, QuestionModel):
        inner = unwrapped(inner.model)[0]
    found = getattr(inner, "align_masker", None)
    return found if isinstance(found, str) else None


def without_weights(backbone: str) -> str:
    """A reference to the same architecture whose weights need not be fetched, since others take their place."""
    return f"{backbone.partition('@')[0]}@random" if backbone.startswith("timm:") else backbone
