"""Tensors from a safetensors file, and whether they are the weights of a network."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from xai_align._tools.files.plain_json import in_one_clause


def read_tensor_file(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Return the texts in the header of a safetensors file, and its tensors by name, on the CPU.

    Raises:
        ValueError: it is damaged, truncated, or larger than the memory of this machine; the message names it.
    """
    from safetensors import SafetensorError, safe_open

    try:
        size, memory = path.stat().st_size, _memory()
        if size > memory:
            raise ValueError(f"'{path}' has {size} bytes, and this machine has {memory} bytes of memory")
        with safe_open(path, framework="pt") as file:
            header = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
    except (SafetensorError, OSError, RuntimeError, MemoryError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"'{path}' is damaged or truncated ({in_one_clause(error)})") from error
    return header, tensors


def check_weights(module: nn.Module, found: Mapping[str, Tensor], source: str) -> None:
    """Raise if tensors are not the weights of a module: other names, shapes, kinds of numbers, NaN or infinity.

    Infinity is allowed where the module has it as it is built, as in masks of attention.

    Args:
        module: as it is built, with weights of its own.
        found: the tensors by name.
        source: the file, for the message.

    Raises:
        ValueError: they are not; one sentence with the file and up to three names.
    """
    check_tensors(module.state_dict(), found, f"the weights in '{source}' do not fit {type(module).__name__}")


def check_tensors(own: Mapping[str, Tensor], found: Mapping[str, Tensor], complaint: str) -> None:
    """Raise if tensors have other names, shapes or kinds of numbers than one's own, or hold NaN or infinity.

    Args:
        own: what there has to be.
        found: what there is.
        complaint: how the message begins.

    Raises:
        ValueError: something differs; one sentence with up to three names of each kind.
    """
    both = sorted(own.keys() & found.keys())
    fitting = [name for name in both if own[name].shape == found[name].shape and _same_kind(own[name], found[name])]
    problems = {
        "missing": sorted(own.keys() - found.keys()),
        "left over": sorted(found.keys() - own.keys()),
        "of another shape": [name for name in both if own[name].shape != found[name].shape],
        "of another type": [name for name in both if not _same_kind(own[name], found[name])],
        "with NaN or infinity": [name for name in fitting if not _finite(found[name], own[name])],
    }
    told = "; ".join(f"{len(names)} {what} ({_some(names)})" for what, names in problems.items() if names)
    if told:
        raise ValueError(f"{complaint}: {told}")


def _some(names: list[str]) -> str:
    short = [name if len(name) <= 60 else name[:60] + "…" for name in map(_plain, names[:3])]
    return ", ".join(short) + (" …" if len(names) > 3 else "")


def _plain(name: str) -> str:
    return "".join(sign if sign.isprintable() and sign != " " else "?" for sign in name)


def _same_kind(own: Tensor, found: Tensor) -> bool:
    """Floating-point numbers may be wider or narrower; all others have to be what they were."""
    if own.is_floating_point():
        return found.dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    return own.dtype == found.dtype


def _finite(found: Tensor, own: Tensor) -> bool:
    if not (found.is_floating_point() or found.is_complex()):
        return True
    wrong = ~torch.isfinite(found)
    return not bool(wrong.any()) or (not own.is_meta and torch.equal(found[wrong], own.to(found)[wrong]))


def _memory() -> int:
    """Bytes of memory of this machine; a very large number where that is not known."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 2**62
