"""Export of a masker to a program that runs without this library, in PyTorch or ONNX runtimes."""

from __future__ import annotations

import os
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from xai_align._tools.files.whole_file import whole_file
from xai_align._tools.thread_state import restores_thread_state
from xai_align.align.masker_file import HoldsMasker, find_masker
from xai_align.export.exported_program import trace, write_program
from xai_align.export.onnx_file import check_onnx_is_installed, write_onnx
from xai_align.export.to_file import checked_path
from xai_align.features.unwrapping import unwrapped


@restores_thread_state
def export_masker(
    masker: HoldsMasker,
    path: str | os.PathLike[str],
    *,
    size: tuple[int, int] = (224, 224),
    fixed_size: bool = False,
    network: nn.Module | None = None,
) -> Path:
    """Export the masker to a file that runs without this library: ``.pt2`` for PyTorch, ``.onnx`` for ONNX runtimes.

    The program takes images ``[N, C, H, W]``, normalised as in training, and returns masks ``[N, 1, H, W]``. Batch size
    and image size are free, from two of the masker's coarsest cells up (9 x 9 with ``Masker``'s defaults); smaller
    images raise an error in the program.

    Args:
        masker: a :class:`~xai_align.align.Masker` or a module like it, a trainer or fit that has one, or a file.
        path: ends in ``.pt2`` or ``.onnx``.
        size: rows and columns of the images for tracing.
        fixed_size: accept images of this size only, which some compilers optimise better, and which a masker on the
            stages of a transformer needs.
        network: for the file of a :class:`~xai_align.align.StageMasker`, a network of its architecture.

    Returns:
        The file.

    Raises:
        ImportError: ``.onnx`` needs the packages onnx and onnxscript (the extra ``export``).
        ValueError: the path has another suffix.

    Example::

        export_masker(Masker(width=8, depth=1), "masker.pt2", size=(32, 32))
        masks = torch.export.load("masker.pt2").module()(images)  # [N, 1, H, W]
    """
    path = checked_path(path, ".pt2", ".onnx")
    module = deepcopy(unwrapped(find_masker(masker, network))[0]).eval()  # the masker keeps its own mode
    images = _example(module, size)
    axes: dict[int, Any] = {0: torch.export.Dim.DYNAMIC}
    if not fixed_size:
        axes |= {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    path.parent.mkdir(parents=True, exist_ok=True)
    write = {".pt2": _write_program, ".onnx": _write_onnx}[path.suffix]
    with whole_file(path) as waiting, torch.no_grad():
        write(module, images, axes, waiting)
    return path


def _example(module: nn.Module, size: tuple[int, int]) -> Tensor:
    """Return two images for tracing; only their shape, dtype and device matter."""
    like = next(module.parameters())
    channels = getattr(module, "options", {}).get("in_channels", 3)
    return torch.zeros(2, channels, *size, dtype=like.dtype, device=like.device)


def _write_program(module: nn.Module, images: Tensor, axes: dict[int, Any], path: Path) -> None:
    write_program(trace(module, images, axes), path)


def _write_onnx(module: nn.Module, images: Tensor, axes: dict[int, Any], path: Path) -> None:
    check_onnx_is_installed()
    write_onnx(trace(module, images, axes), path, inputs=["images"], outputs=["masks"])
