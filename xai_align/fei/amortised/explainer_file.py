"""Saved amortised explainers: one safetensors file, written atomically, with the fingerprint in its header.

The header also has a digest, which detects damage, and nothing is unpickled on reading.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, TypeAlias

import torch

from xai_align._tools.files.fields import (
    anything,
    check_fields,
    either,
    listed,
    nothing,
    number,
    one_of,
    record,
    table_of,
    text,
    whole,
)
from xai_align._tools.files.size_limit import no_larger_than
from xai_align._tools.files.tensor_file import check_weights
from xai_align._tools.version import __version__
from xai_align.fei.amortised.explainer import AmortisedExplainer
from xai_align.fei.amortised.fingerprint import Fingerprint
from xai_align.fei.amortised.score_network import ScoreNetwork
from xai_align.training.checkpoints import DamagedCheckpoint, Snapshot, read_checkpoint, write_checkpoint

#: An explainer, a fit that has one, or the path of a saved one.
HoldsExplainer: TypeAlias = "AmortisedExplainer | str | os.PathLike[str] | Any"
#: Kind of the file, in its header.
KIND = "amortised explainer"
_COUNT = whole(1, 65536)
_NAME = text(longest=500)
_DIGEST = text(r"[0-9a-f]{64}", expected="a digest")
_NUMBERS = listed(number(), 1, 65536)
_FINGERPRINT = record(
    {
        "network": _NAME,
        "structure": _DIGEST,
        "parameters": _DIGEST,
        "channels": _COUNT,
        "size": listed(_COUNT, 2, 2),
        "normalization": either(nothing, listed(_NUMBERS, 2, 2)),
        "layers": listed(_NAME, 1, 1000),
        "start": _NAME,
        "answer": listed(number(), 1, 1_000_000),
    }
)
_OPTIONS = record(
    {
        "channels": listed(_COUNT, 1, 1000),
        "in_channels": _COUNT,
        "width": whole(4, 65536),
        "depth": whole(1, 64),
    }
)
_MODEL = record(
    {
        "reference": text(longest=500),
        "img_size": either(nothing, listed(_COUNT, 2, 2)),
        "in_chans": either(nothing, _COUNT),
        "mean": either(nothing, _NUMBERS),
        "std": either(nothing, _NUMBERS),
    }
)
_HEADER = record(
    {
        "kind": one_of(KIND),
        "options": _OPTIONS,
        "fingerprint": _FINGERPRINT,
        "model": either(nothing, _MODEL),
        "numbers": table_of(anything),
        "version": text(longest=100),
    }
)


def save_explainer(explainer: HoldsExplainer, path: str | os.PathLike[str]) -> Path:
    """Write an amortised explainer to a safetensors file, atomically; an existing file is replaced.

    Args:
        explainer: a fit, or its explainer.
        path: the file; its folder is created if necessary.

    Returns:
        The file.

    Raises:
        ValueError: a field, such as ``loaded_by`` of the fit, has a value that a file cannot hold.

    Example::

        save_explainer(fit_fei(model, torch.rand(4, 3, 32, 32), epochs=1, batch_size=2), "fei.safetensors")
    """
    given = find_explainer(explainer)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_checkpoint(path, Snapshot(given.network.state_dict(), header_of(given)))
    return path


def header_of(explainer: AmortisedExplainer) -> dict[str, Any]:
    """Return the header of an explainer's file.

    Raises:
        ValueError: a field has a value that :func:`load_explainer` would refuse.
    """
    about = {
        "kind": KIND,
        "options": explainer.network.options,
        "fingerprint": explainer.fingerprint.values(),
        "model": explainer.model,
        "numbers": explainer.numbers,
        "version": __version__,
    }
    try:
        as_read: dict[str, Any] = json.loads(json.dumps(about))
    except TypeError as error:
        raise ValueError(f"the explainer cannot be saved: {error}") from None
    check_fields(as_read, _HEADER, "the explainer's header")
    return as_read


def load_explainer(path: str | os.PathLike[str]) -> AmortisedExplainer:
    """Load an explainer that :func:`save_explainer` wrote, in eval mode, on the CPU.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, holds something else, or does not match this version; the message says what to do.

    Example::

        save_explainer(fit_fei(model, torch.rand(4, 3, 32, 32), epochs=1, batch_size=2), "fei.safetensors")
        load_explainer("fei.safetensors").fingerprint.size  # (32, 32)
    """
    path = Path(path)
    if not path.is_file():
        inside = "; give the file in this folder, such as explainer.safetensors" if path.is_dir() else ""
        raise FileNotFoundError(f"there is no amortised explainer '{path}'{inside}")
    try:
        saved = read_checkpoint(path)
    except DamagedCheckpoint as error:
        raise ValueError(
            f"{error}; an amortised explainer is what save_explainer and `xai-align fit-fei` write: copy it again, or "
            "fit it again"
        ) from None
    kind = saved.numbers.get("kind")
    if kind != KIND:
        what = f"a {kind}" if isinstance(kind, str) else "a checkpoint of a fit"
        raise ValueError(
            f"'{path}' holds {what[:60]} and no amortised explainer; give the file that save_explainer or "
            "`xai-align fit-fei` wrote"
        )
    check_fields(saved.numbers, _HEADER, str(path))
    # without initial weights, which would advance the global random state
    with torch.device("meta"), no_larger_than(saved.tensors, str(path)):
        network = ScoreNetwork(**saved.numbers["options"])
    check_weights(network, saved.tensors, str(path))
    network.load_state_dict(dict(saved.tensors), assign=True)
    return AmortisedExplainer(
        network=network.eval(),
        fingerprint=Fingerprint.from_values(saved.numbers["fingerprint"]),
        model=saved.numbers["model"],
        numbers=dict(saved.numbers["numbers"]),
    )


def find_explainer(given: HoldsExplainer) -> AmortisedExplainer:
    """Return the explainer: itself, that of a fit, or that of a file.

    Raises:
        FileNotFoundError: there is no such file.
        TypeError: it is none of these.
        ValueError: the file can't be used.
    """
    if isinstance(given, AmortisedExplainer):
        return given
    if isinstance(given, str | os.PathLike):
        return load_explainer(Path(given))
    found = getattr(given, "explainer", None)
    if isinstance(found, AmortisedExplainer):
        return found
    raise TypeError(
        f"an amortised explainer is what fit_fei returns, or the path of a saved one; got {type(given).__name__}"
    )
