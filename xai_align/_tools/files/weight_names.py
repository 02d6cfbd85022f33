"""Names of weights as in the network's state dict, without the prefixes that wrappers and training scripts add."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from xai_align._tools.counted import counted
from xai_align._tools.files.tensor_file import check_weights
from xai_align._tools.files.weights_file import is_averaged

#: Part that ``torch.compile`` inserts anywhere in a name; prefix that data-parallel wrappers add.
COMPILED, PARALLEL = "_orig_mod.", "module."
#: Counters of batch norm, which files of other libraries leave out and PyTorch fills in.
_COUNTER = "num_batches_tracked"
#: Counter beside the weights in the state dict of PyTorch's ``AveragedModel``.
_AVERAGED = "n_averaged"
_DEEPEST_PREFIX = 4


class Renamed(NamedTuple):
    """Weights under the network's names, and remarks for the user on the choice."""

    tensors: dict[str, Tensor]
    notes: tuple[str, ...] = ()


def without_wrappers(name: str) -> str:
    """Return a name without the prefixes of data-parallel and compiling wrappers, in any order.

    Example::

        >>> without_wrappers("module._orig_mod.layer1._orig_mod.weight")
        'layer1.weight'
    """
    while name.startswith((COMPILED, PARALLEL)):
        name = name.removeprefix(COMPILED).removeprefix(PARALLEL)
    return name.replace("." + COMPILED, ".")


def tensor_called(found: Mapping[str, Tensor], name: str) -> Tensor | None:
    """Return the tensor of a name under any prefix, under the shortest if there are several."""
    names = [one for one in found if one == name or one.endswith("." + name)]
    return found[min(names, key=len)] if names else None


def named_as(found: Mapping[str, Tensor], own: Collection[str], path: str | Path) -> Renamed:
    """Return the tensors of a file under a network's own names.

    A prefix is removed if the remaining names are all the network's names: ``model.`` of Lightning's modules,
    ``module.``, ``backbone.`` and any other. Tensors that do not belong to the network are left out.

    Args:
        found: the tensors by their names in the file.
        own: the names of the network's state dict.
        path: the file, for messages.

    Raises:
        ValueError: several prefixes lead to all the names, and none of them is named as averaged weights (EMA).
    """
    found = {name: one for name, one in found.items() if name != _AVERAGED or name in own}
    plain = {without_wrappers(name): one for name, one in found.items()}
    if len(plain) == len(found) and _are(plain, own):
        return Renamed(plain)
    fitting = {prefix: inner for prefix in _prefixes(found) if _are(inner := _behind(found, prefix), own)}
    if not fitting:
        return Renamed(plain)
    # "model." and "model.module." may lead to the same tensors
    distinct = {frozenset(map(id, inner.values())): prefix for prefix, inner in fitting.items()}
    prefixes = list(distinct.values())
    averaged = [prefix for prefix in prefixes if is_averaged(prefix)]
    if len(prefixes) > 1 and len(averaged) != 1:
        raise ValueError(
            f"'{path}' contains the weights of several such networks, under {', '.join(map(repr, prefixes[:6]))}; save "
            "those of the network to explain in a separate file"
        )
    chosen = (averaged or prefixes)[0]
    return Renamed(fitting[chosen], tuple(_notes(found, chosen, prefixes, path)))


def _notes(found: Collection[str], chosen: str, prefixes: Sequence[str], path: str | Path) -> Iterator[str]:
    others = tuple(prefix for prefix in prefixes if prefix != chosen)
    if others:
        yield (
            f"the averaged weights (EMA) of '{path}' are explained: those under '{chosen}', not under "
            f"{', '.join(map(repr, others))}"
        )
    beside = [name for name in found if not name.startswith((chosen, *others))]
    if beside:
        more = " …" if len(beside) > 3 else ""
        were = "is not part of the network and was" if len(beside) == 1 else "are not part of the network and were"
        yield f"{counted(len(beside), 'tensor')} of '{path}' {were} left out: " + (
            ", ".join(one[:60] for one in beside[:3]) + more
        )


def load_all_weights(model: nn.Module, found: Mapping[str, Tensor], source: str) -> None:
    """Load every tensor into a network that no one else uses, or raise an error that names those that do not fit.

    Counters of batch norm may be missing, as for PyTorch. The tensors are of this version of the network's classes, as
    they have its names and shapes.

    Raises:
        ValueError: names are missing or left over, or tensors have another shape or type, or NaN or infinity.
    """
    own = model.state_dict()
    whole = OrderedDict({name: one for name, one in own.items() if name.endswith(_COUNTER)} | dict(found))
    check_weights(model, whole, source)
    whole._metadata = getattr(own, "_metadata", {})  # type: ignore[attr-defined]  # some classes ask for their version
    model.load_state_dict(whole)


def _are(inner: Collection[str], own: Collection[str]) -> bool:
    """Return whether these are the network's names, all of them and no others; counters may be missing."""
    names, ours = set(inner), set(own)
    return names <= ours and all(name.endswith(_COUNTER) for name in ours - names)


def _prefixes(found: Collection[str]) -> list[str]:
    """Return possible prefixes of the network's names, the shortest first."""
    parts = [name.split(".") for name in found]
    several = {".".join(one[:depth]) + "." for one in parts for depth in range(1, min(len(one), _DEEPEST_PREFIX + 1))}
    return sorted(several, key=lambda prefix: (prefix.count("."), prefix))


def _behind(found: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {without_wrappers(name[len(prefix) :]): one for name, one in found.items() if name.startswith(prefix)}
