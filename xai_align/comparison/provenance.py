"""Provenance of a result: versions, weights, files, the machine."""

from __future__ import annotations

import hashlib
import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from xai_align.plugins import origin

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


def versions(methods: Iterable[str], metrics: Iterable[str]) -> dict[str, str]:
    """Return the versions of Python, PyTorch, NumPy, xai-align, and the distributions of these methods and metrics."""
    found = {"python": platform.python_version(), "torch": str(torch.__version__), "numpy": np.__version__}
    try:
        found["xai-align"] = version("xai-align")
    except PackageNotFoundError:  # run from a source folder
        found["xai-align"] = "not installed"
    for kind, names in (("attribution", methods), ("metric", metrics)):
        for name in names:
            plugin = origin(name, kind=kind)  # type: ignore[arg-type]
            found[plugin.distribution] = plugin.version
    for library in ("captum", "grad-cam", "timm"):  # the libraries behind our own adapters
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found


def weights_sha256(model: nn.Module) -> str:
    """Return the digest of all parameters and buffers of the state dict, with names, dtypes and shapes, in order."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        if not isinstance(tensor, Tensor):
            digest.update(f"{name}={tensor!r}".encode())
            continue
        digest.update(f"{name}:{tensor.dtype}:{list(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        if flat.numel():
            digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    """Return the digest of a file's content.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def device_name(device: torch.device) -> str:
    """Return the name of the device, e.g. ``"cpu (x86_64)"`` or the name of the GPU."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({platform.machine()})"


def command_line() -> str:
    """Return the command line of this program."""
    from shlex import join

    return join(sys.argv)


def now() -> str:
    """Return the date and time, in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")
