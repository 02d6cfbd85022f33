"""A classifier and its masker in a folder, ready to be asked again by name: ``align:FOLDER``.

Beside the weights, the classifier's file holds in its header what the model was made from and what its classes are
called, so it needs no other file. It is data: an architecture of timm is built, and code that it names is run only
where the reader says that the folder is trusted.
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

#: What a reference to a saved fit starts with.
PREFIX = "align:"
CLASSIFIER_FILE, MASKER_FILE = "classifier.safetensors", "masker.safetensors"
#: What the header of a classifier's file says that it is.
KIND = "classifier"
#: What that header may say.
_HEADER = record(
    {
        "kind": one_of(KIND),
        "backbone": text(longest=500),
        "classes": listed(text(r"[\s\S]*", longest=10_000, expected="a text"), 2, 1_000_000),
        "version": text(longest=100),
    },
    {"masker": flag()},  # whether there is one; not in the first files
)


def save_fit(
    folder: str | Path, classifier: nn.Module, masker: nn.Module | None, *, backbone: str, classes: Sequence[str]
) -> Path:
    """Write ``classifier.safetensors`` and, if there is one, ``masker.safetensors``.

    Args:
        folder: where to; it is made if need be.
        classifier: what :func:`~xai_align.plugins.classifier` made of the backbone, trained.
        masker: the masker that was trained beside it.
        backbone: the reference that the model was loaded by; of ``align:FOLDER`` what that folder stands on is written.
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
    """The classifier that a reference ``align:FOLDER`` names, with its classes; None for other references.

    The method ``align`` finds its masker.

    Args:
        reference: what was typed.
        trust: whether the file may name a backbone ``package.module:factory``, which is then imported and called;
            without, an architecture of timm.

    Raises:
        ValueError: there is no such folder, or what is there can't be used; the message says why.
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
    """The file of the masker, where the classifier was trained with one."""
    if wanted is False or (wanted is None and not (folder / MASKER_FILE).exists()):
        return None
    try:
        return file_inside(folder, MASKER_FILE)
    except FileNotFoundError as error:
        raise ValueError(f"{error}, and this classifier was saved with a masker; copy the whole folder") from None


def _built(backbone: str, file: Path, saved: Snapshot, trust: bool) -> tuple[LoadedModel, Any]:
    """The backbone that a file names, and a copy of it with a head for the file's classes."""
    ours = backbone.startswith("timm:")
    check_reference_in_file(backbone.removesuffix("@random") if ours else backbone, file, trust=trust)
    try:
        with ExitStack() as stack:
            stack.enter_context(reading(file.parent))
            stack.enter_context(kept_random_state())  # the first weights of layers are drawn
            if ours:
                stack.enter_context(no_larger_than(saved.tensors, str(file)))
            loaded = plugins.load_model(backbone)
            return loaded, plugins.classifier(loaded.model, len(saved.numbers["classes"]))
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"'{file}' names a backbone that can't be had: {in_one_clause(error, length=600)}") from error


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
