"""Saved prototypes: one safetensors file, written atomically, with names and fingerprint in its header.

The header also holds a digest, which detects damage, and nothing is unpickled on reading.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import get_args

import torch

from xai_align._tools.counted import counted
from xai_align._tools.files.fields import check_fields, either, listed, nothing, number, one_of, record, text, whole
from xai_align._tools.files.tensor_file import check_tensors
from xai_align._tools.version import __version__
from xai_align.prototypes.options import MatrixKind
from xai_align.prototypes.record import Prototypes
from xai_align.training.checkpoints import DamagedCheckpoint, Snapshot, read_checkpoint, write_checkpoint

#: Kind of the file, in its header.
KIND = "prototypes"
_TENSORS = ("matrix", "images", "positions", "activations", "purity")
_TEXT = text(r"[\s\S]*", longest=10_000, expected="a text")
_SIZE = listed(whole(1, 2**20), 2, 2)
_FINGERPRINT = record(
    {
        "network": text(),
        "weights": text(r"[0-9a-f]{64}", expected="a SHA-256"),
        "layer": text(),
        "channels": whole(1, 2**20),
        "grid": _SIZE,
        "image_size": _SIZE,
    },
    {"features": either(nothing, listed(number(), 2, 2))},  # missing in the oldest files
)
_HEADER = record(
    {
        "kind": one_of(KIND),
        "matrix_kind": one_of(*get_args(MatrixKind)),
        "layer": either(nothing, text()),
        "names": listed(_TEXT, 1, 2**26),
        "fingerprint": _FINGERPRINT,
        "output": either(nothing, text(), whole(-1000, 1000)),
        "notes": listed(_TEXT),
        "history": listed(number()),
        "version": text(longest=100),
    }
)


def save_prototypes(prototypes: Prototypes, path: str | os.PathLike[str]) -> Path:
    """Write prototypes to a safetensors file, atomically, and return its path; an existing file is replaced.

    Example::

        save_prototypes(fit_prototypes(model, list(images), "conv2", prototypes=2), "prototypes.safetensors")
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    about = {
        "kind": KIND,
        "matrix_kind": prototypes.kind,
        "layer": prototypes.layer,
        "names": list(prototypes.names),
        "fingerprint": prototypes.fingerprint,
        "output": prototypes.output,
        "notes": list(prototypes.notes),
        "history": list(prototypes.history),
        "version": __version__,
    }
    write_checkpoint(path, Snapshot({name: getattr(prototypes, name) for name in _TENSORS}, about))
    return path


def load_prototypes(path: str | os.PathLike[str]) -> Prototypes:
    """Load what :func:`save_prototypes` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or holds something else; the message says what to do.

    Example::

        save_prototypes(fit_prototypes(model, list(images), "conv2", prototypes=2), "prototypes.safetensors")
        load_prototypes("prototypes.safetensors").of(0)
    """
    path = Path(path)
    if not path.is_file():
        inside = "; give the file in this folder, such as prototypes.safetensors" if path.is_dir() else ""
        raise FileNotFoundError(f"there is no file of prototypes '{path}'{inside}")
    try:
        saved = read_checkpoint(path)
    except DamagedCheckpoint as error:
        raise ValueError(f"{error}; copy the file of prototypes again, or fit them again: xai-align fit-epic") from None
    about = saved.numbers
    if about.get("kind") != KIND:
        raise ValueError(f"'{path}' holds no prototypes; give the file that xai-align fit-epic wrote")
    check_fields(about, _HEADER, str(path))
    fingerprint = about["fingerprint"]
    channels, cells = fingerprint["channels"], fingerprint["grid"][0] * fingerprint["grid"][1]
    count = saved.tensors["images"].shape[-1] if "images" in saved.tensors and saved.tensors["images"].dim() else 0
    integers, floats = (partial(torch.empty, dtype=dtype, device="meta") for dtype in (torch.int64, torch.float32))
    expected = {
        "matrix": floats(channels, channels),
        "images": integers(2, channels, count),
        "positions": integers(2, channels, count),
        "activations": floats(2, channels, count),
        "purity": floats(2, channels),
    }
    check_tensors(expected, saved.tensors, f"'{path}' holds no prototypes of {counted(channels, 'channel')}")
    for name, limit in (("images", len(about["names"])), ("positions", cells)):
        if count == 0 or not bool(((saved.tensors[name] >= 0) & (saved.tensors[name] < limit)).all()):
            raise ValueError(f"'{path}' is invalid: {name} are not numbers from 0 to {limit - 1}; fit again")
    return Prototypes(
        **{name: saved.tensors[name] for name in _TENSORS},
        kind=about["matrix_kind"],
        layer=about["layer"],
        names=tuple(about["names"]),
        fingerprint=fingerprint,
        output=about["output"],
        notes=tuple(about["notes"]),
        history=tuple(about["history"]),
    )
