"""Saved classifier and masker in a folder, referred to by name as ``align:FOLDER``.

Besides the weights, the classifier's file has the model's backbone and class names in its header, so it needs no
other file. It is data: an architecture of timm is built, and code that it names runs only if the reader trusts the
folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from xai_align import plugins
from xai_align._tools.files.fields import check_fields, flag, listed, one_of, record, text
from xai_align._tools.files.inside_folder import file_inside
from xai_align._tools.files.plain_json import in_one_clause
from xai_align._tools.files.references import check_reference_in_file, reading
from xai_align._tools.files.size_limit import no_larger_than
from xai_align._tools.files.tensor_file import check_weights
from xai_align._tools.random_state import kept_random_state
from xai_align._tools.version import __version__
from xai_align.align.masker_file import save_masker
from xai_align.features.unwrapping import unwrapped
from xai_align.hookspecs import LoadedModel
from xai_align.question import QuestionModel
from xai_align.training.checkpoints import DamagedCheckpoint, Snapshot, read_checkpoint, write_checkpoint

#: Prefix of a reference to a saved fit.
PREFIX = "align:"
CLASSIFIER_FILE, MASKER_FILE = "classifier.safetensors", "masker.safetensors"
#: Kind of a classifier's file, in its header.
KIND = "classifier"
#: Allowed fields of that header.
_HEADER = record(
    {
        "kind": one_of(KIND),
        "backbone": text(longest=500),
        "classes": listed(text(r"[\s\S]*", longest=10_000, expected="a text"), 2, 1_000_000),
        "version": text(longest=100),
    },
    {"masker": flag()},  # whether there is one; missing in the oldest files
)


def save_fit(
    folder: str | Path, classifier: nn.Module, masker: nn.Module | None, *, backbone: str, classes: Sequence[str]
) -> Path:
    """Write ``classifier.safetensors`` and, if there is one, ``masker.safetensors``.

    Args:
        folder: the target folder; it is created if necessary.
        classifier: the trained module that :func:`~xai_align.plugins.classifier` built on the backbone.
        masker: the masker that was trained with it.
        backbone: the reference that the model was loaded by; for ``align:FOLDER`` that folder's backbone is written.
        classes: names of the classes.

    Returns:
        The folder.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    backbone = getattr(classifier, "align_backbone", backbone)
    about = {
        "kind": KIND,
        "backbone": backbone,
        "classes": list(classes),
        "version": __version__,
        "masker": masker is not None,
    }
    write_checkpoint(folder / CLASSIFIER_FILE, Snapshot(classifier.state_dict(), about))
    if masker is not None:
        save_masker(masker, folder / MASKER_FILE)
    return folder


def load_fit(reference: str, *, trust: bool = False) -> LoadedModel | None:
    """Load the classifier of a reference ``align:FOLDER``, with its classes; return None for other references.

    The method ``align`` finds its masker.

    Args:
        reference: the user's reference.
        trust: whether the file may name a backbone ``package.module:factory``, which is then imported and called;
            otherwise only an architecture of timm.

    Raises:
        ValueError: there is no such folder, or its files can't be used; the message says why.
    """
    if not reference.startswith(PREFIX):
        return None
    folder = Path(reference.removeprefix(PREFIX)).expanduser()
    try:
        file = file_inside(folder, CLASSIFIER_FILE)
        saved = read_checkpoint(file)
    except FileNotFoundError:
        raise ValueError(
            f"there is no '{folder / CLASSIFIER_FILE}'; write align:FOLDER with the folder that fit-align wrote into"
        ) from None
    except DamagedCheckpoint as error:
        raise ValueError(f"{error}; copy it again, or train again") from None
    if saved.numbers.get("kind") != KIND:
        raise ValueError(f"'{file}' holds no classifier that fit-align wrote")
    check_fields(saved.numbers, _HEADER, str(file))
    masker = _masker_file(folder, saved.numbers.get("masker"))
    backbone = without_weights(saved.numbers["backbone"])
    loaded, model = _built(backbone, file, saved, trust)
    check_weights(model, saved.tensors, str(file))
    model.load_state_dict(dict(saved.tensors))
    model.align_backbone = saved.numbers["backbone"]
    if masker is not None:
        model.align_masker = str(masker.resolve())
    return replace(loaded, model=model.eval(), class_names=tuple(saved.numbers["classes"]))


def _masker_file(folder: Path, wanted: bool | None) -> Path | None:
    """Return the masker's file, if the classifier was trained with one."""
    if wanted is False or (wanted is None and not (folder / MASKER_FILE).exists()):
        return None
    try:
        return file_inside(folder, MASKER_FILE)
    except FileNotFoundError as error:
        raise ValueError(f"{error}, and this classifier was saved with a masker; copy the whole folder") from None


def _built(backbone: str, file: Path, saved: Snapshot, trust: bool) -> tuple[LoadedModel, Any]:
    """Build the backbone that a file names, and a copy of it with a head for the file's classes."""
    ours = backbone.startswith("timm:")
    check_reference_in_file(backbone.removesuffix("@random") if ours else backbone, file, trust=trust)
    try:
        with ExitStack() as stack:
            stack.enter_context(reading(file.parent))
            stack.enter_context(kept_random_state())  # initial weights of layers are random
            if ours:
                stack.enter_context(no_larger_than(saved.tensors, str(file)))
            loaded = plugins.load_model(backbone)
            return loaded, plugins.classifier(loaded.model, len(saved.numbers["classes"]))
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"'{file}' names a backbone that can't be had: {in_one_clause(error, length=600)}") from error


def masker_of(model: nn.Module) -> str | None:
    """Return the masker's file of a model from ``align:FOLDER``, also inside a ``QuestionModel``."""
    inner = unwrapped(model)[0]
    while isinstance(inner, QuestionModel):
        inner = unwrapped(inner.model)[0]
    found = getattr(inner, "align_masker", None)
    return found if isinstance(found, str) else None


def without_weights(backbone: str) -> str:
    """Return a reference to the same architecture without pretrained weights, which would be replaced anyway."""
    return f"{backbone.partition('@')[0]}@random" if backbone.startswith("timm:") else backbone
