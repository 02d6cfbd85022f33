"""Side effects of a method: a snapshot before, a snapshot after, and their differences as text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from xai_align._tools.random_state import RandomState

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Recorded state: name and value of each item.
Snapshot = dict[str, Any]


def snapshot(model: nn.Module) -> Snapshot:
    """Return everything about a model, and the random state, that a method must leave unchanged."""
    seen: Snapshot = {}
    for name, module in model.named_modules():
        where = f"module '{name}'" if name else "the model"
        seen[f"train/eval mode of {where}"] = module.training
        seen[f"attributes of {where}"] = sorted(module.__dict__)
        seen[f"in-place flag of {where}"] = getattr(module, "inplace", None)
        seen[f"hooks on {where}"] = _hooks(module.__dict__)
    for name, parameter in model.named_parameters():
        where = f"parameter '{name}'"
        seen[f"identity of {where}"] = id(parameter)
        seen[f"requires_grad of {where}"] = parameter.requires_grad
        seen[f"values of {where}"] = _copy(parameter)
        seen[f".grad of {where}"] = _copy(parameter.grad)
        seen[f"hooks on {where}"] = len(parameter._backward_hooks or ())
    for name, buffer in model.named_buffers():
        seen[f"values of buffer '{name}'"] = _copy(buffer)
    seen["hooks on all modules of torch"] = _hooks(vars(torch.nn.modules.module))
    drawn = RandomState.now()
    seen["random state of torch"] = drawn.cpu
    if drawn.cuda:
        seen["random state of CUDA"] = torch.stack(drawn.cuda)
    seen["random state of numpy"] = _numpy_state(drawn.numpy)
    seen["random state of Python"] = drawn.python
    seen["gradient mode"] = torch.is_grad_enabled()
    return seen


def snapshot_of_inputs(inputs: Sequence[Tensor]) -> Snapshot:
    """Return the state of the input tensors that a method must leave unchanged."""
    seen: Snapshot = {}
    for position, x in enumerate(inputs):
        seen[f"values of input {position}"] = _copy(x)
        seen[f"requires_grad of input {position}"] = x.requires_grad
        seen[f".grad of input {position}"] = _copy(x.grad)
    return seen


def differences(before: Snapshot, after: Snapshot) -> list[str]:
    """Return the changes, one phrase per item."""
    found = [
        f"{name} changed{_shown(before[name], after[name])}"
        for name in before
        if name in after
        if not _same(before[name], after[name])
    ]
    return found + [f"{name} is gone" for name in before if name not in after]


def _hooks(attributes: dict[str, Any]) -> dict[str, int]:
    """Count the hooks of every kind."""
    return {name: len(value) for name, value in attributes.items() if "hooks" in name and isinstance(value, dict)}


def _numpy_state(state: Any) -> tuple[Any, ...]:
    """Return the generator's key and position; the key alone changes only every 624 draws."""
    return (state[0], state[1].tobytes(), *state[2:])


def _copy(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.detach().clone()


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and bool(torch.equal(a, b))
    return type(a) is type(b) and bool(a == b)


def _shown(a: Any, b: Any) -> str:
    if isinstance(a, dict) and isinstance(b, dict):
        kinds = [kind for kind in b if a.get(kind) != b[kind]]
        return f" ({', '.join(f'{kind}: {a.get(kind)} to {b[kind]}' for kind in kinds)})"
    if isinstance(a, list) and isinstance(b, list):
        return f" (more: {sorted(set(b) - set(a))}, fewer: {sorted(set(a) - set(b))})"
    return f" ({a} to {b})" if isinstance(a, bool) and isinstance(b, bool) else ""
