"""Saved maskers: one safetensors file, written atomically, with the constructor's options in its header.

The header also holds a digest, which detects damage, and nothing is unpickled on reading.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import nn

from xai_align._tools.files.fields import check_fields, number, one_of, record, text, whole
from xai_align._tools.files.hub import push
from xai_align._tools.files.size_limit import no_larger_than
from xai_align._tools.files.tensor_file import check_weights
from xai_align._tools.version import __version__
from xai_align.features.unwrapping import unwrapped
from xai_align.training.checkpoints import DamagedCheckpoint, Snapshot, read_checkpoint, write_checkpoint

if TYPE_CHECKING:
    from xai_align.align.masker import Masker

#: Kind of the file, in its header.
KIND = "masker"
#: Allowed types of a masker's options in a file.
OPTIONS = record(
    {
        "in_channels": whole(1, 65536),
        "width": whole(1, 65536),
        "depth": whole(0, 16),
        "stride": one_of(1, 2, 4),
        "start": number(1e-30, 1 - 1e-12),
    }
)
_HEADER = record({"kind": one_of(KIND), "options": OPTIONS, "version": text(longest=100)})
#: A masker or an object that holds one: a module, a trainer, a fit, or the path of a file.
HoldsMasker: TypeAlias = "nn.Module | str | os.PathLike[str] | Any"


def save_masker(masker: HoldsMasker, path: str | os.PathLike[str]) -> Path:
    """Write a masker to a safetensors file, atomically; an existing file is replaced.

    Args:
        masker: a :class:`~xai_align.align.Masker`, or a trainer or fit that has one.
        path: the file; its folder is created if necessary.

    Returns:
        The file.

    Raises:
        TypeError: it is another kind of module, which this library could not rebuild.

    Example::

        save_masker(Masker(), "masker.safetensors")
    """
    from xai_align.align.masker import Masker

    module = unwrapped(find_masker(masker))[0]
    if not isinstance(module, Masker):
        raise TypeError(
            f"{type(module).__name__} is no xai_align.align.Masker, so it could not be built again from a file; "
            "save its state_dict() with safetensors, and give the module itself where a masker is wanted"
        )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    about = {"kind": KIND, "options": module.options, "version": __version__}
    write_checkpoint(path, Snapshot(module.state_dict(), about))
    return path


_CARD = """# A masker of ALIGN

It marks the evidence that a classifier uses, in one forward pass. Fetch `masker.safetensors`, then:

```python
from xai_align.align import load_masker

masks = load_masker("masker.safetensors")(images)  # [N, 1, H, W]
```"""


def push_masker(masker: HoldsMasker, name: str, *, private: bool = False, token: str | None = None) -> str:
    """Upload what :func:`save_masker` writes to the Hugging Face hub; return the repository's address.

    Args:
        masker: as for :func:`save_masker`.
        name: ``owner/model``; the repository is made if it is not there.
        private: whether a new repository is.
        token: the hub's access token; None: the one that ``hf auth login`` saved.

    Raises:
        TypeError: it is another kind of module.
        ValueError: the name has not this form.
        OSError: the hub refuses, or cannot be reached.

    Example::

        try:
            push_masker(Masker(), "no-owner")
        except ValueError as error:
            print(error)  # 'no-owner' is no name on the hub; give OWNER/MODEL
    """

    def write(folder: Path) -> None:
        save_masker(masker, folder / "masker.safetensors")

    return push(write, name, card=_CARD, tags=("masker",), private=private, token=token)


def load_masker(path: str | os.PathLike[str]) -> Masker:
    """Load a masker that :func:`save_masker` wrote, in eval mode, on the CPU.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, holds something else, or does not match this version; the message says what to do.

    Example::

        save_masker(Masker(), "masker.safetensors")
        masks = load_masker("masker.safetensors")(images)  # [N, 1, H, W]
    """
    from xai_align.align.masker import Masker

    path = Path(path)
    if not os.path.isfile(path):
        inside = "; give the file in this folder, such as masker.safetensors" if os.path.isdir(path) else ""
        raise FileNotFoundError(f"there is no masker's file '{path}'{inside}")
    try:
        saved = read_checkpoint(path)
    except DamagedCheckpoint as error:
        raise ValueError(
            f"{error}; a masker's file is what save_masker wrote: copy it again, or save it again"
        ) from None
    if saved.numbers.get("kind") != KIND:
        raise ValueError(
            f"'{path}' is a checkpoint, not a masker alone; let the trainer go on from it, "
            "and save its masker: save_masker(trainer, FILE)"
        )
    check_fields(saved.numbers, _HEADER, str(path))
    # without initial weights, which would advance the global random state
    with torch.device("meta"), no_larger_than(saved.tensors, str(path)):
        masker = Masker(**saved.numbers["options"])
    check_weights(masker, saved.tensors, str(path))
    masker.load_state_dict(dict(saved.tensors), assign=True)  # keeps their dtype
    return masker.eval()


def find_masker(given: HoldsMasker) -> nn.Module:
    """Return the masker: the module itself, that of a trainer or fit, or that of a file.

    Raises:
        FileNotFoundError: there is no such file.
        TypeError: it is none of these.
        ValueError: the trainer has no masker (yet), or the file can't be used.
    """
    if isinstance(given, nn.Module):
        return given
    if isinstance(given, str | os.PathLike):
        return load_masker(given)
    if not hasattr(given, "masker"):
        raise TypeError(
            f"a masker is a torch.nn.Module, the path of a saved one, or a trainer or fit that has one; "
            f"got {type(given).__name__}"
        )
    if given.masker is None:
        raise ValueError(
            f"this {type(given).__name__} has no masker: it is made by the first batch, and only by recipes that "
            "train one, such as 'align'"
        )
    return find_masker(given.masker)
