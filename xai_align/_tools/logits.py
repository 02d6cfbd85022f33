"""Selection of the logits from a model's output: a tensor, a dictionary, a tuple or a ``ModelOutput``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn


class NoLogits(TypeError, ValueError):
    """Error for a model's output in which the logits cannot be found; the message lists its fields."""


def select_logits(returned: Any, output: str | int | None = None) -> Tensor:
    """Return the logits in a model's output, ``[N, ...]``; of a model with one number for each example, ``[N, 1]``.

    Args:
        returned: a tensor, a mapping, a (named) tuple or list, or a record such as a ``ModelOutput``.
        output: a key, field or position; of outputs within others their names joined by dots, such as ``"out.logits"``
            or ``"0.logits"``, where no field has this name itself. None: the field named "logits", or the only floating
            tensor.

    Raises:
        NoLogits: (a TypeError) there is no such tensor, or it is ambiguous; the message lists the fields.

    Example::

        select_logits({"loss": None, "logits": torch.zeros(2, 5)}).shape  # [2, 5]
    """
    return _with_outputs(_selected(returned, output))


def _selected(returned: Any, output: str | int | None) -> Tensor:
    if isinstance(returned, Tensor) and output is None:
        return returned
    fields = _fields(returned)
    if output is not None:
        return _tensor(_at(returned, output), output)
    if isinstance(fields.get("logits"), Tensor):
        return fields["logits"]
    floating = [value for value in fields.values() if isinstance(value, Tensor) and value.is_floating_point()]
    if len(floating) == 1:
        return floating[0]
    inner = [path for path, value in _leaves(returned) if "." in path and value.is_floating_point()]
    raise NoLogits(
        f"the model returned {_shown(fields, returned)}, and a readout needs logits [N, ...]: "
        "select the logits with output=... where there is such an option (on the command line --output-field)"
        + (f", e.g. {inner[0]}" if inner and not floating else "")
        + ", or wrap the model so that it returns them alone"
        if floating or inner
        else f"the model returned {_shown(fields, returned)}; a readout needs a floating tensor of logits [N, ...]"
    )


def _with_outputs(logits: Tensor) -> Tensor:
    """Return logits ``[N]``, as of a network that ends in ``squeeze``, with an axis of one output, ``[N, 1]``."""
    return logits.unsqueeze(1) if logits.dim() == 1 else logits


def _at(returned: Any, output: str | int) -> Any:
    """Return the field of this name or position; of nested outputs, that of a path such as ``"out.logits"``.

    Raises:
        NoLogits: there is none.
    """
    fields = _fields(returned)
    if output in fields:
        return fields[output]
    place = int(output) if isinstance(output, str) and re.fullmatch(r"-?\d+", output) else output
    if place in fields:
        return fields[place]
    if isinstance(place, int) and -len(fields) <= place < len(fields):
        return list(fields.values())[place]
    parts = output.split(".") if isinstance(output, str) else []
    for end in range(len(parts) - 1, 0, -1):  # names may hold dots themselves
        try:
            inner = _at(returned, ".".join(parts[:end]))
        except NoLogits:
            continue
        try:
            return _at(inner, ".".join(parts[end:]))
        except NoLogits as error:
            raise NoLogits(f"in {'.'.join(parts[:end])!r}, {error}") from None
    raise NoLogits(f"the model's output has no field {output!r}; it is {_shown(fields, returned)}")


def _leaves(returned: Any, path: str = "", depth: int = 3) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a nested output with their paths."""
    for name, value in _fields(returned).items():
        here = f"{path}{name}"
        if isinstance(value, Tensor):
            yield here, value
        elif depth:
            yield from _leaves(value, f"{here}.", depth - 1)


class LogitsOf(nn.Module):
    """Model that returns only the logits of another one, for networks that are trained.

    The names of its layers begin with ``model.``, and plugins do not know it. Explanations use
    :func:`~xai_align.features.returning_logits.returning_logits`.

    Args:
        model: used as it is.
        output: as for :func:`select_logits`.
    """

    def __init__(self, model: nn.Module, output: str | int | None = None) -> None:
        super().__init__()
        self.model = model
        self.output = output
        self.training = model.training  # not train(), which would change the model too

    def forward(self, *inputs: Any, **options: Any) -> Tensor:
        """Return the logits."""
        return select_logits(self.model(*inputs, **options), self.output)


def _fields(returned: Any) -> dict[Any, Any]:
    if isinstance(returned, Mapping):
        return dict(returned.items())
    if isinstance(returned, tuple) and hasattr(returned, "_fields"):
        return dict(zip(returned._fields, returned, strict=True))
    if isinstance(returned, list | tuple):
        return dict(enumerate(returned))
    if isinstance(returned, Tensor | str | int | float | None):
        return {}
    slots = [name for cls in type(returned).__mro__ for name in _names(getattr(cls, "__slots__", ()))]
    names = dict.fromkeys([*getattr(returned, "__dict__", ()), *slots, "logits"])  # which may be a property
    return {name: getattr(returned, name) for name in names if not name.startswith("_") and hasattr(returned, name)}


def _names(slots: Any) -> list[str]:
    return [slots] if isinstance(slots, str) else list(slots)


def _tensor(value: Any, output: str | int) -> Tensor:
    if not isinstance(value, Tensor):
        raise NoLogits(f"the model's output {output!r} is {type(value).__name__}, not a tensor of logits")
    return value


def _shown(fields: dict[Any, Any], returned: Any) -> str:
    if not fields:
        return type(returned).__name__
    parts = [
        f"{name!r}: {list(value.shape)}" if isinstance(value, Tensor) else f"{name!r}: {_kind(value)}"
        for name, value in list(fields.items())[:6]
    ]
    return f"{type(returned).__name__} with {', '.join(parts)}"


def _kind(value: Any) -> str:
    """Return what a field that is not a tensor holds: its type, and the names of its own fields."""
    inner = [] if isinstance(value, str) else list(_fields(value))[:4]
    return type(value).__name__ + (f" with {', '.join(map(repr, inner))}" if inner else "")
