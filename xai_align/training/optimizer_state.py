"""An optimiser's state in a checkpoint: tensors by name, and values of JSON types."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def optimizer_state(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors, by ``NUMBER/KEY``, and everything else.

    Raises:
        TypeError: it holds something that is neither a tensor nor of a JSON type.
    """
    state = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    plain: dict[str, dict[str, Any]] = {}
    for number, values in state["state"].items():
        for key, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"{number}/{key}"] = value
            else:
                plain.setdefault(str(number), {})[key] = plain_value(value, f"the optimiser's '{key}'")
    return tensors, {"state": plain, "param_groups": plain_value(state["param_groups"], "the optimiser's groups")}


def restore_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]
) -> None:
    """Restore a state from :func:`optimizer_state`."""
    state: dict[int, dict[str, Any]] = {int(key): dict(values) for key, values in numbers["state"].items()}
    for name, tensor in tensors.items():
        number, _, key = name.partition("/")
        state.setdefault(int(number), {})[key] = tensor
    groups = [  # JSON has only lists, and an optimiser's options must keep their types
        {key: tuple(value) if isinstance(own.get(key), tuple) else value for key, value in group.items()}
        for own, group in zip(optimizer.param_groups, numbers["param_groups"], strict=True)
    ]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    for parameter, values in optimizer.state.items():
        for key, value in values.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:  # in the parameter's memory format
                values[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def plain_value(value: Any, what: str) -> Any:
    """Return the value, if it is of a JSON type.

    Raises:
        TypeError: it is not.
    """
    if isinstance(value, Mapping):
        return {str(key): plain_value(one, what) for key, one in value.items() if not callable(one)}
    if isinstance(value, list | tuple):
        return [plain_value(one, what) for one in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(
        f"{what} holds a {type(value).__name__}, which a checkpoint can't keep; "
        "give another optimiser, or train without checkpoints (out=None)"
    )
