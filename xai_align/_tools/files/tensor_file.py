"""Reading and writing of safetensors files, and checks that their tensors are the weights of a network."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from xai_align._tools.files.plain_json import in_one_clause
from xai_align._tools.files.whole_file import whole_file


def read_tensor_file(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Return the metadata of a safetensors file, and its tensors by name, on the CPU.

    Raises:
        ValueError: it is damaged, truncated, or larger than this machine's memory; the message names it.
    """
    from safetensors import SafetensorError, safe_open

    try:
        size, memory = path.stat().st_size, _memory()
        if size > memory:
            raise ValueError(f"'{path}' has {size} bytes, but this machine has only {memory} bytes of memory")
        with safe_open(path, framework="pt") as file:
            header = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError, RuntimeError, MemoryError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"'{path}' is damaged or truncated ({in_one_clause(error)})") from error
    return header, tensors


def write_tensor_file(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file, atomically; the same tensors and metadata always give the same bytes.

    The tensors are detached, and copied to the CPU.

    Raises:
        OSError: it cannot be written; the message names it.
    """
    from safetensors.torch import save_file

    plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    with whole_file(path) as waiting:
        save_file(plain, waiting, metadata=dict(metadata))
        _sort_metadata(waiting)


def _sort_metadata(path: Path) -> None:
    """Sort the keys of the metadata, which the library writes in the random order of a hash table.

    A file begins with the length of its header in 8 bytes; the header is JSON, padded with spaces.
    """
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) <= length:
            file.seek(8)
            file.write(text.ljust(length))


def check_weights(module: nn.Module, found: Mapping[str, Tensor], source: str) -> None:
    """Raise if tensors are not the weights of a module: other names, shapes or types, NaN or infinity.

    Infinity is allowed where the module has it when it is built, as in attention masks.

    Args:
        module: the module as built, with its initial weights.
        found: the tensors by name.
        source: the file, for the message.

    Raises:
        ValueError: they are not; one sentence with the file and up to three names of each kind of problem.
    """
    check_tensors(module.state_dict(), found, f"the weights in '{source}' do not fit {type(module).__name__}")


def check_tensors(own: Mapping[str, Tensor], found: Mapping[str, Tensor], complaint: str) -> None:
    """Raise if tensors have other names, shapes or types than expected, or hold NaN or infinity.

    Args:
        own: the expected tensors.
        found: the tensors to check.
        complaint: the beginning of the message.

    Raises:
        ValueError: something differs; one sentence with up to three names of each kind of problem.
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
    listed = "; ".join(f"{len(names)} {what} ({_some(names)})" for what, names in problems.items() if names)
    if listed:
        raise ValueError(f"{complaint}: {listed}")


def _some(names: list[str]) -> str:
    short = [name if len(name) <= 60 else name[:60] + "…" for name in map(_plain, names[:3])]
    return ", ".join(short) + (" …" if len(names) > 3 else "")


def _plain(name: str) -> str:
    return "".join(sign if sign.isprintable() and sign != " " else "?" for sign in name)


def _same_kind(own: Tensor, found: Tensor) -> bool:
    """Return whether types are compatible: any floating-point types, otherwise equal ones."""
    if own.is_floating_point():
        return found.dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    return own.dtype == found.dtype


def _finite(found: Tensor, own: Tensor) -> bool:
    if not (found.is_floating_point() or found.is_complex()):
        return True
    wrong = ~torch.isfinite(found)
    return not bool(wrong.any()) or (not own.is_meta and torch.equal(found[wrong], own.to(found)[wrong]))


def _memory() -> int:
    """Return this machine's memory in bytes; a very large number if it is not known."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 2**62
