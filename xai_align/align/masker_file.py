"""Saved maskers: one safetensors file, written atomically, with the constructor's options in its header.

The header also holds a digest, which detects damage, and nothing is unpickled on reading. A stage masker's file has the
weights of its frozen stages too. It doesn't have their structure, which is code: that comes from a network of the same
architecture, which is verified by the stages' outputs for a fixed image.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import nn

from xai_align._tools.files.fields import check_fields, listed, number, one_of, record, text, whole
from xai_align._tools.files.hub import push
from xai_align._tools.files.plain_json import in_one_clause
from xai_align._tools.files.size_limit import no_larger_than
from xai_align._tools.files.tensor_file import check_weights
from xai_align._tools.random_state import kept_random_state
from xai_align._tools.version import __version__
from xai_align.features.unwrapping import unwrapped
from xai_align.training.checkpoints import DamagedCheckpoint, Snapshot, read_checkpoint, write_checkpoint

if TYPE_CHECKING:
    from xai_align.align.masker import Masker
    from xai_align.align.stage_masker import StageMasker

#: Kinds of the files, in their headers.
KIND, STAGE_KIND = "masker", "stage masker"
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
_STAGE_OPTIONS = record(
    {
        "in_channels": whole(1, 65536),
        "size": listed(whole(1, 2048), 2, 2),
        "layers": listed(text(longest=500), 2, 100),
        "width": whole(1, 65536),
        "start": number(1e-30, 1 - 1e-12),
    }
)
_STAGE_HEADER = record(
    {
        "kind": one_of(STAGE_KIND),
        "options": _STAGE_OPTIONS,
        "version": text(longest=100),
        "answers": listed(listed(number(), 2, 2), 2, 100),
    }
)
#: Differences of the stages' answers, in standard deviations, that rounding may make, and that in half precision.
_ROUNDING, _HALF_ROUNDING = 1e-3, 0.05
#: A masker or an object that holds one: a module, a trainer, a fit, or the path of a file.
HoldsMasker: TypeAlias = "nn.Module | str | os.PathLike[str] | Any"


def save_masker(masker: HoldsMasker, path: str | os.PathLike[str]) -> Path:
    """Write a masker to a safetensors file, atomically; an existing file is replaced.

    Args:
        masker: a :class:`~xai_align.align.Masker` or :class:`~xai_align.align.StageMasker`, or a trainer or fit that
            has one.
        path: the file; its folder is created if necessary.

    Returns:
        The file.

    Raises:
        TypeError: it is another kind of module, which this library could not rebuild.

    Example::

        save_masker(Masker(), "masker.safetensors")
    """
    from xai_align.align.masker import Masker
    from xai_align.align.stage_masker import StageMasker

    module = unwrapped(find_masker(masker))[0]
    if not isinstance(module, Masker | StageMasker):
        raise TypeError(
            f"{type(module).__name__} is not an xai_align.align.Masker, so it could not be built again from a file; "
            "save its state_dict() with safetensors, and give the module itself where a masker is wanted"
        )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    about: dict[str, Any] = {"kind": KIND, "options": module.options, "version": __version__}
    if isinstance(module, StageMasker):
        about |= {"kind": STAGE_KIND, "answers": _answers(module)}
    write_checkpoint(path, Snapshot(module.state_dict(), about))
    return path


_CARD = """# A masker of ALIGN

It marks the evidence that a classifier uses, in one forward pass. Fetch `masker.safetensors`, then:

```python
from xai_align.align import load_masker

masks = load_masker("masker.safetensors")(images)  # [N, 1, H, W]
```

A masker on a network's stages needs one of that architecture, with any weights: `load_masker(FILE, network=...)`."""


def push_masker(masker: HoldsMasker, name: str, *, private: bool = False, token: str | None = None) -> str:
    """Upload what :func:`save_masker` writes to the Hugging Face hub; return the repository's address.

    Args:
        masker: as for :func:`save_masker`.
        name: ``owner/model``; the repository is created if it does not exist.
        private: whether a new repository is.
        token: the hub's access token; None: the one that ``hf auth login`` saved.

    Raises:
        TypeError: it is another kind of module.
        ValueError: the name does not have this form.
        OSError: the hub refuses, or cannot be reached.

    Example::

        try:
            push_masker(Masker(), "no-owner")
        except ValueError as error:
            print(error)  # 'no-owner' is not a name on the hub; give OWNER/MODEL
    """

    def write(folder: Path) -> None:
        save_masker(masker, folder / "masker.safetensors")

    return push(write, name, card=_CARD, tags=("masker",), private=private, token=token)


def load_masker(path: str | os.PathLike[str], network: nn.Module | None = None) -> Masker | StageMasker:
    """Load a masker that :func:`save_masker` wrote, in eval mode, on the CPU.

    Args:
        path: the file.
        network: for a :class:`~xai_align.align.StageMasker`, a network of the architecture that it was built on, such
            as the classifier that was trained with it. It gives the structure of the stages, and no weights.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, holds something else, or does not match this version or the network; the message
            says what to do.

    Example::

        save_masker(Masker(), "masker.safetensors")
        masks = load_masker("masker.safetensors")(images)  # [N, 1, H, W]
    """
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
    kind = saved.numbers.get("kind")
    if kind not in (KIND, STAGE_KIND):
        raise ValueError(
            f"'{path}' is a checkpoint, not a masker alone; resume the trainer from it, "
            "and save its masker: save_masker(trainer, FILE)"
        )
    check_fields(saved.numbers, _HEADER if kind == KIND else _STAGE_HEADER, str(path))
    return _plain_masker(saved, path) if kind == KIND else _stage_masker(saved, path, network)


def _plain_masker(saved: Snapshot, path: Path) -> Masker:
    from xai_align.align.masker import Masker

    # without initial weights, which would advance the global random state
    with torch.device("meta"), no_larger_than(saved.tensors, str(path)):
        masker = Masker(**saved.numbers["options"])
    check_weights(masker, saved.tensors, str(path))
    masker.load_state_dict(dict(saved.tensors), assign=True)  # keeps their dtype
    return masker.eval()


def _stage_masker(saved: Snapshot, path: Path, network: nn.Module | None) -> StageMasker:
    """Build a masker on a network's stages, with the weights of the file, and check the outputs of its stages."""
    from xai_align.align.stage_masker import StageMasker

    options = saved.numbers["options"]
    if network is None:
        raise ValueError(
            f"the masker in '{path}' reads stages of a network ({', '.join(options['layers'])}), and a file holds no "
            "code: give a network of that architecture, such as the classifier it was trained with: "
            "load_masker(FILE, network=classifier)"
        )
    other = f"'{path}' is of a masker on another network than this {type(network).__name__}"
    try:
        with kept_random_state(), no_larger_than(saved.tensors, str(path)):
            masker = StageMasker(network, **options)
    except ValueError as error:
        raise ValueError(f"{other}: {in_one_clause(error, length=600)}") from error
    check_weights(masker, saved.tensors, str(path))
    dtype = saved.tensors["last.weight"].dtype
    masker.to("cpu", dtype).load_state_dict(dict(saved.tensors), assign=True)
    masker.requires_grad_(False)
    for module in (masker.projected, masker.smooth, masker.last):
        module.requires_grad_(True)
    _check_answers(saved.numbers["answers"], _answers(masker), dtype, other)
    return masker.eval()


def _answers(masker: StageMasker) -> list[list[float]]:
    """Return mean and standard deviation of each of the stages' maps of one fixed image."""
    rows, columns = masker.options["size"]
    like = masker.last.weight
    waves = torch.arange(masker.in_channels * rows * columns, dtype=torch.float64, device="cpu").mul(0.37).sin()
    image = waves.view(1, masker.in_channels, rows, columns).to(like.device, like.dtype)
    return [[float(one.double().mean()), float(one.double().std(correction=0))] for one in masker.features(image)]


def _check_answers(
    saved: Sequence[Sequence[float]], own: Sequence[Sequence[float]], dtype: torch.dtype, complaint: str
) -> None:
    allowed = _HALF_ROUNDING if dtype in (torch.float16, torch.bfloat16) else _ROUNDING
    alike = len(saved) == len(own) and all(
        abs(ours - theirs) <= allowed * max(spread, 1e-12)
        for (*pair, spread), now in zip(((*one, one[1]) for one in saved), own, strict=False)
        for ours, theirs in zip(now, pair, strict=True)
    )
    if not alike:
        raise ValueError(
            f"{complaint}: with the same weights its layers give other values (mean and spread {_rounded(own)}, and "
            f"{_rounded(saved)} when it was saved); give a network of the same architecture"
        )


def _rounded(answers: Sequence[Sequence[float]]) -> list[list[float]]:
    return [[float(f"{value:.4g}") for value in one] for one in answers]


def find_masker(given: HoldsMasker, network: nn.Module | None = None) -> nn.Module:
    """Return the masker: the module itself, that of a trainer or fit, or that of a file.

    Args:
        given: what holds it.
        network: as for :func:`load_masker`.

    Raises:
        FileNotFoundError: there is no such file.
        TypeError: it is none of these.
        ValueError: the trainer has no masker (yet), or the file can't be used.
    """
    if isinstance(given, nn.Module):
        return given
    if isinstance(given, str | os.PathLike):
        return load_masker(given, network)
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
    return find_masker(given.masker, network)
