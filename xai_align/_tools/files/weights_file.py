"""Reading of weights saved by any training script: the tensors are found, and no code in the file is run.

A PyTorch file is read by ``torch.load(weights_only=True)``. Other objects that a training script saved, such as
its settings or callbacks, are replaced by empty placeholders; ``argparse.Namespace`` is read as it is.
"""

from __future__ import annotations

import argparse
import os
import warnings
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xai_align._tools.files.plain_json import in_one_clause
from xai_align._tools.files.tensor_file import read_tensor_file

#: Entries of a training script's file that hold the weights, in the order in which timm looks for them.
TIMM_ENTRIES = ("state_dict_ema", "model_ema", "state_dict", "model")
#: Further names of such entries: Lightning's, torchvision's and other scripts'. Averaged weights (EMA) come first.
OTHER_ENTRIES = (
    *("ema_state_dict", "model_state_dict_ema", "params_ema", "ema_model", "ema"),
    *("model_state_dict", "model_state", "net", "network", "module", "params", "weights"),
)
#: Entries with tensors that are not weights.
_STATE_OF_TRAINING = ("optim", "sched", "scaler", "callback", "loop", "hyper", "rng", "args", "config")
_DEEPEST = 4
#: Entry of timm's and torchvision's training scripts with their settings.
_SETTINGS = "args"


@dataclass(frozen=True, kw_only=True)
class WeightsFile:
    """Weights from a file.

    Attributes:
        tensors: the weights by name, as they are in the file.
        entry: the entry of the file that they come from; "" for a file of nothing but weights.
        others: further entries with tensors of the same shapes, which were not used; "" for those outside entries.
        settings: plain values of the training script's settings, such as ``mean`` or ``img_size``.
    """

    tensors: dict[str, Tensor]
    entry: str = ""
    others: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    def notes(self, path: str | Path) -> tuple[str, ...]:
        """Return remarks on the choice: which weights were read, if there are others."""
        if not self.others:
            return ()
        shown = ", ".join(f"'{one}'" if one else "those beside it" for one in self.others[:4])
        shown += " …" if len(self.others) > 4 else ""
        another = "to explain another set of weights, save it in a separate file"
        if is_averaged(self.entry):
            like = "; timm chooses the same" if self.entry in TIMM_ENTRIES else ""
            return (
                f"the averaged weights (EMA) of '{path}' are explained: its entry '{self.entry}', not {shown}{like}; "
                f"{another}",
            )
        return (
            f"the entry '{self.entry}' of '{path}' is explained; the file holds further weights, {shown}, which may be "
            f"averaged (EMA) or of another epoch: {another}",
        )


def read_weights_file(path: Path) -> WeightsFile:
    """Return the weights in a ``.safetensors`` file or a PyTorch file, without running code from it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, contains no weights, or contains several sets and none has a known name.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"no weights at '{path}'")
    if path.suffix == ".safetensors":
        return WeightsFile(tensors=read_tensor_file(path)[1])
    return _found_in(_read_plain(path), path)


def is_averaged(name: str) -> bool:
    """Return whether an entry or a prefix is named as averaged weights: "ema" is one of its words."""
    return "ema" in name.lower().replace(".", "_").split("_")


class _Placeholder:
    """An object of a class that is not loaded: it takes any arguments and any state, and keeps nothing."""

    def __new__(cls, *args: Any, **options: Any) -> _Placeholder:
        return object.__new__(cls)

    def __init__(self, *args: Any, **options: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def _no_entries(*args: Any) -> OrderedDict[Any, Any]:
    return OrderedDict()


def _read_plain(path: Path) -> Any:
    """Return the content of a PyTorch file, with placeholders for objects of classes that are not plain data."""
    stand_ins = {name: _stand_in(name) for name in _foreign_names(path)}
    try:
        return _load(path, stand_ins)
    except Exception as error:  # unpickling damaged files raises almost any exception
        dictionaries = {name for name in stand_ins if f"'{__name__}.{name}'" in str(error)}
        if dictionaries:  # a class that is a dictionary
            try:
                return _load(path, stand_ins | dict.fromkeys(dictionaries, OrderedDict))
            except Exception as again:
                error = again
        raise ValueError(
            f"'{path}' is not a file of plain tensors ({_reason(error)}); save it as .safetensors"
        ) from error


def _reason(error: Exception) -> str:
    """Return PyTorch's error, without its advice to run the file's code."""
    found = str(error).partition("WeightsUnpickler error: ")[2]
    return in_one_clause(ValueError(found.partition("Please use")[0])) if found.strip() else in_one_clause(error)


def _foreign_names(path: Path) -> list[str]:
    try:
        return torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
    except Exception:  # no zip file, or damaged: what is wrong is said when it is loaded
        return []


def _stand_in(name: str) -> Any:
    if name == "argparse.Namespace":
        return argparse.Namespace
    return _no_entries if name == "collections.defaultdict" else type(name, (_Placeholder,), {"__module__": __name__})


def _load(path: Path, stand_ins: Mapping[str, Any]) -> Any:
    allowed: list[Any] = [argparse.Namespace, *((one, name) for name, one in stand_ins.items())]
    with torch.serialization.safe_globals(allowed), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of other pickle protocols; what can't be read raises
        return torch.load(path, map_location="cpu", weights_only=True)


def _found_in(content: Any, path: Path) -> WeightsFile:
    """Return the weights in the content of a training script's file."""
    settings = _plain_settings(content)
    inner, names = content, []
    for _ in range(_DEEPEST):
        if not isinstance(inner, Mapping) or _is_flat(inner):
            break
        entries = _entries_with_tensors(inner)
        if not entries:
            break
        name = _chosen(inner, entries, path)
        names.append(name)
        inner = inner[name]
    if not isinstance(inner, Mapping) or not _is_flat(inner):
        raise ValueError(_no_weights(content, path))
    tensors = {str(key): value for key, value in inner.items() if isinstance(value, Tensor)}
    odd = next((key for key, value in tensors.items() if not _is_plain(value)), None)
    if odd is not None:
        raise ValueError(
            f"'{path}' is not a file of plain tensors: '{odd[:60]}' is sparse, quantised or larger than its data"
        )
    taken = ".".join(names)
    others = tuple(name for name, found in _sets_of_tensors(content) if name != taken and _are_alike(found, tensors))
    return WeightsFile(tensors=tensors, entry=taken, others=others, settings=settings)


def _sets_of_tensors(content: Any, name: str = "", depth: int = _DEEPEST + 1) -> Iterator[tuple[str, list[Tensor]]]:
    """Yield the tensors of each dictionary or list in a file, with the names that lead to it; no optimizer's."""
    if isinstance(content, argparse.Namespace):
        content = vars(content)
    if not isinstance(content, Mapping | list | tuple) or depth < 0:
        return
    parts = content.items() if isinstance(content, Mapping) else enumerate(content)
    tensors = []
    for key, value in parts:
        if isinstance(value, Tensor):
            tensors.append(value)
        elif not name and "optim" in str(key).lower():
            continue
        else:
            yield from _sets_of_tensors(value, f"{name}.{key}" if name else str(key), depth - 1)
    if tensors:
        yield name, tensors


def _are_alike(found: Sequence[Tensor], taken: Mapping[str, Tensor]) -> bool:
    """Return whether tensors may be weights of the same network: half of its shapes are among theirs."""
    ours = Counter(one.shape for one in taken.values() if one.dim())
    return 2 * (ours & Counter(one.shape for one in found if one.dim())).total() >= ours.total()


def _chosen(content: Mapping[Any, Any], entries: list[str], path: Path) -> str:
    """Return the entry with the weights: timm's choice, the known name, the averaged one, or the only one."""
    known = [name for name in (*TIMM_ENTRIES, *OTHER_ENTRIES) if name in entries]
    averaged = [name for name in entries if is_averaged(name)]
    likely = known[:1] or averaged[:1] or (entries if len(entries) == 1 else [])
    if likely:
        return likely[0]
    raise ValueError(
        f"'{path}' contains several sets of weights, {', '.join(map(repr, entries[:6]))}; save the one to explain in a "
        "separate file"
    )


def _entries_with_tensors(content: Mapping[Any, Any]) -> list[str]:
    return [
        name
        for name, value in content.items()
        if isinstance(name, str)
        and (name in (*TIMM_ENTRIES, *OTHER_ENTRIES) or not any(one in name.lower() for one in _STATE_OF_TRAINING))
        and _holds_weights(value)
    ]


def _holds_weights(value: Any, depth: int = _DEEPEST) -> bool:
    if not isinstance(value, Mapping) or not value or not all(isinstance(key, str) for key in value):
        return False
    return _is_flat(value) or (depth > 0 and any(_holds_weights(one, depth - 1) for one in value.values()))


def _is_flat(content: Mapping[Any, Any]) -> bool:
    """Return whether this is a state dict: names with tensors, and no further dictionaries with some."""
    return (
        all(isinstance(key, str) for key in content)
        and any(isinstance(value, Tensor) and value.dim() for value in content.values())
        and not any(isinstance(value, Mapping) and _holds_weights(value) for value in content.values())
    )


def _is_plain(value: Tensor) -> bool:
    """Return whether the tensor's storage holds all its elements; an expanded one may claim any size."""
    if value.layout != torch.strided or value.is_meta or value.is_quantized:
        return False
    return value.untyped_storage().nbytes() >= value.numel() * value.element_size()


def _plain_settings(content: Any) -> dict[str, Any]:
    given = content.get(_SETTINGS) if isinstance(content, Mapping) else None
    given = vars(given) if isinstance(given, argparse.Namespace) else given
    return {str(key): value for key, value in given.items()} if isinstance(given, Mapping) else {}


def _no_weights(content: Any, path: Path) -> str:
    if isinstance(content, _Placeholder):
        return (
            f"'{path}' is not a file of plain tensors: it holds a whole object of {type(content).__name__}, whose code "
            "is not run; save its weights, torch.save(model.state_dict(), FILE)"
        )
    if isinstance(content, Mapping):
        objects = [f"'{key}' ({type(value).__name__})" for key, value in list(content.items())[:6]]
        return (
            f"'{path}' is not a file of plain tensors: it has the entries {', '.join(objects) or 'none'}, and none is "
            "a state dict; save the weights, torch.save(model.state_dict(), FILE)"
        )
    return f"'{path}' is not a file of plain tensors: it holds a {type(content).__name__}, not a state dict"
