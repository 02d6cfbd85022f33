"""Atomic restoration of a checkpoint: its content is checked first, and a failure changes nothing."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from xai_align._tools.files.fields import (
    Rule,
    either,
    flag,
    like,
    listed,
    nothing,
    number,
    one_of,
    record,
    record_with_more,
    shown,
    table_of,
    text,
    whole,
)
from xai_align._tools.files.plain_json import in_one_clause
from xai_align._tools.files.tensor_file import check_tensors
from xai_align.training.checkpoints import same
from xai_align.training.optimizer_state import plain_value

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xai_align.training.checkpoints import Snapshot

COUNT = whole(0, 2**53)
_TEXT = text(r"[\s\S]*", longest=100_000, expected="a text")
#: A row of the log, which may have values that are not finite.
ROW = record_with_more({"epoch": COUNT, "step": COUNT})
_CELLS = table_of(either(nothing, flag(), number(finite=False), _TEXT))
NOTES = listed(_TEXT)
_OPTIMIZER_TENSOR = re.compile(r"(\d{1,9})/([^/]+)")


def row(value: Any, name: str) -> str | None:
    """Allow a row of the log: its epoch, its step, and other numbers and texts."""
    return ROW(value, name) or _CELLS(value, name)


#: Fields on the progress of a fit, common to all checkpoints.
PROGRESS: dict[str, Rule] = {
    "epoch": COUNT,
    "step": COUNT,
    "seconds": number(0),
    "history": listed(row),
    "best": either(nothing, row),
    "since_best": COUNT,
    "stopped": one_of(None, "stop_at", "patience", "plateau"),
}


def check_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], numbers: Any, name: str, source: str
) -> None:
    """Raise if this is not a state of an optimiser with the same parameters.

    Raises:
        ValueError: it is not; the message names the source.
    """
    groups = plain_value(optimizer.state_dict()["param_groups"], "the optimiser's groups")
    plain = table_of(table_of(either(nothing, flag(), number(), _TEXT, listed(number()))))
    complaint = record({"state": plain, "param_groups": like(groups)})(numbers, name) or _other_options(
        groups, numbers, name
    )
    parameters = [one for group in optimizer.param_groups for one in group["params"]]
    for key, value in tensors.items():
        match = _OPTIMIZER_TENSOR.fullmatch(key)
        if complaint or match is None or int(match[1]) >= len(parameters):
            complaint = complaint or f"{name} has a tensor {key[:60]!r} that belongs to no parameter"
            break
        own = parameters[int(match[1])]
        # moments may be factored, so that they have fewer numbers; never more
        if value.numel() > max(own.numel(), 1) or not bool(torch.isfinite(value).all()):
            complaint = f"{name}/{key} has another size than its parameter, or holds NaN or infinity"
    if not complaint and isinstance(numbers, dict):
        wrong = [key for key in numbers["state"] if not re.fullmatch(r"\d{1,9}", key) or int(key) >= len(parameters)]
        complaint = f"{name} has a state {wrong[0][:60]!r} that belongs to no parameter" if wrong else None
    if not complaint:
        complaint = _uneven(parameters, tensors, numbers["state"], name)
    if complaint:
        raise ValueError(f"{source} is invalid: {complaint}")


def _other_options(groups: list[dict[str, Any]], numbers: Mapping[str, Any], name: str) -> str | None:
    """The first option of a group that is another than the optimiser's own; the learning rate follows a schedule."""
    for group, (own, found) in enumerate(zip(groups, numbers["param_groups"], strict=True)):
        for key in own.keys() - {"lr"}:
            if not same(found[key], own[key]):
                here = f"{name}.param_groups.{group}.{key}"
                return f"{here} is {shown(found[key])}, and the optimiser's is {shown(own[key])}"
    return None


def _uneven(
    parameters: list[Tensor], tensors: Mapping[str, Tensor], plain: Mapping[str, Mapping[str, Any]], name: str
) -> str | None:
    """Return entries saved for one parameter but not for a similar one; a parameter without a step has none."""
    kept: dict[int, set[str]] = {}
    for number_of, key in [one.split("/") for one in tensors] + [[n, key] for n, keys in plain.items() for key in keys]:
        kept.setdefault(int(number_of), set()).add(key)
    for matrices in (False, True):  # some optimisers treat these differently
        alike = {n: keys for n, keys in kept.items() if (parameters[n].dim() > 1) == matrices}
        every = set().union(*alike.values()) if alike else set()
        for n, keys in alike.items():
            if keys != every:
                return f"{name}/{n} lacks {', '.join(sorted(every - keys))[:100]}"
    return None


def check_kept(own: Mapping[str, Tensor], found: Mapping[str, Tensor], source: str, *, subset: bool = False) -> None:
    """Raise if saved tensors do not match the networks that are trained.

    Args:
        own: tensors of the networks.
        found: tensors of the checkpoint.
        source: source for the message.
        subset: whether there may also be none.

    Raises:
        ValueError: they do not.
    """
    if not (subset and not found):
        check_tensors(own, found, f"{source} is of other networks")


@contextmanager
def atomically(undo: Callable[[], None], source: str) -> Iterator[None]:
    """Undo all changes if the block fails, and raise a readable error.

    Raises:
        ValueError: something inside failed.
    """
    try:
        yield
    except Exception as error:  # optimisers, schedules and terms may be the user's, and raise anything
        undo()
        raise ValueError(f"{source} can't be restored ({in_one_clause(error)}); nothing was changed") from error


def below(prefix: str, snapshot: Snapshot) -> dict[str, Tensor]:
    """Return the tensors whose names start with the prefix, with the prefix removed."""
    return {name.removeprefix(prefix): one for name, one in snapshot.tensors.items() if name.startswith(prefix)}
