"""Saved classifier and masker in a folder, referred to by name as ``align:FOLDER``.

Besides the weights, the classifier's file has the model's backbone and class names in its header, so it needs no
other file, except for the configuration of a model of transformers, which lies beside it. It is data: an architecture
of timm, torchvision or transformers is built, and code that it names runs only if the reader trusts the folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from xai_align._tools.files.fields import check_fields, flag, listed, one_of, record, text
from xai_align._tools.files.inside_folder import file_inside
from xai_align._tools.files.tensor_file import check_weights
from xai_align._tools.version import __version__
from xai_align.align.masker_file import save_masker
from xai_align.align.saved_backbone import IMAGE, INPUT, SavedBackbone, read_backbone, rebuilt
from xai_align.features.unwrapping import network_of
from xai_align.hookspecs import LoadedModel
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
    # whether there is one; missing in the oldest files, as is what is said of the images
    {"masker": flag(), "image": IMAGE, "input": INPUT},
)


def save_fit(
    folder: str | Path,
    classifier: nn.Module,
    masker: nn.Module | None,
    *,
    backbone: str | SavedBackbone,
    classes: Sequence[str],
) -> Path:
    """Write ``classifier.safetensors``, the backbone's configuration and, if there is one, ``masker.safetensors``.

    Args:
        folder: the target folder; it is created if necessary.
        classifier: the trained module that :func:`~xai_align.align.saved_backbone.with_classes` built on the backbone.
        masker: the masker that was trained with it.
        backbone: what is saved of it, or the reference alone; for ``align:FOLDER`` that folder's backbone is written.
        classes: names of the classes.

    Returns:
        The folder.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    given = SavedBackbone(reference=backbone) if isinstance(backbone, str) else backbone
    saved = getattr(classifier, "align_backbone", given)
    about = {
        "kind": KIND,
        **saved.header(),
        "classes": list(classes),
        "version": __version__,
        "masker": masker is not None,
    }
    saved.write_files(folder)
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
            otherwise only an architecture of timm or torchvision, or one by a configuration beside it.

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
        raise ValueError(f"'{file}' holds no classifier that fit-align wrote; give the folder that it wrote into")
    check_fields(saved.numbers, _HEADER, str(file))
    masker = _masker_file(folder, saved.numbers.get("masker"))
    backbone = read_backbone(saved.numbers, folder)
    loaded, model = rebuilt(backbone, file, len(saved.numbers["classes"]), saved.tensors, trust=trust)
    check_weights(model, saved.tensors, str(file))
    model.load_state_dict(dict(saved.tensors))
    model.align_backbone = backbone
    if masker is not None:
        model.align_masker = str(masker.resolve())
    # the new head's outputs are logits of classes, whatever the backbone's own were
    of_classes: dict[str, Any] = {"output_kind": None, "output_field": None, "unit": ""}
    return replace(loaded, model=model.eval(), class_names=tuple(saved.numbers["classes"]), **of_classes)


def _masker_file(folder: Path, wanted: bool | None) -> Path | None:
    """Return the masker's file, if the classifier was trained with one."""
    if wanted is False or (wanted is None and not (folder / MASKER_FILE).exists()):
        return None
    try:
        return file_inside(folder, MASKER_FILE)
    except FileNotFoundError as error:
        raise ValueError(f"{error}, and this classifier was saved with a masker; copy the whole folder") from None


def masker_of(model: nn.Module) -> str | None:
    """Return the masker's file of a model from ``align:FOLDER``, also inside a ``QuestionModel``."""
    found = getattr(network_of(model)[0], "align_masker", None)
    return found if isinstance(found, str) else None
