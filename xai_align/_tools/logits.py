"""Selection of the logits from a model's output: a tensor, a dictionary, a tuple or a ``ModelOutput``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn


class NoLogits(TypeError, ValueError):
    """Error for a model's output in which the logits cannot be found; the message lists its fields."""


def select_logits(returned: Any, output: str | int | None = None) -> Tensor:
    """Return the logits in a model's output.

    Args:
        returned: a tensor, a mapping, a (named) tuple or list, or a record such as a ``ModelOutput``.
        output: a key, field or position. None: the field named "logits", or the only floating tensor.

    Raises:
        NoLogits: (a TypeError) there is no such tensor, or it is ambiguous; the message lists the fields.

    Example::

        select_logits({"loss": None, "logits": torch.zeros(2, 5)}).shape  # [2, 5]
    """
    if isinstance(returned, Tensor) and output is None:
        return returned
    fields = _fields(returned)
    if output is not None:
        if output in fields:
            return _tensor(fields[output], output)
        if isinstance(output, int) and -len(fields) <= output < len(fields):
            return _tensor(list(fields.values())[output], output)
        raise NoLogits(f"the model's output has no field {output!r}; it is {_shown(fields, returned)}")
    if isinstance(fields.get("logits"), Tensor):
        return fields["logits"]
    floating = [value for value in fields.values() if isinstance(value, Tensor) and value.is_floating_point()]
    if len(floating) == 1:
        return floating[0]
    raise NoLogits(
        f"the model returned {_shown(fields, returned)}, and a readout needs logits [N, ...]: "
        "say which of them are the logits with output=... (on the command line --output-field), "
        "or wrap the model so that it returns them alone"
        if floating
        else f"the model returned {_shown(fields, returned)}; a readout needs a floating tensor of logits [N, ...]"
    )


class LogitsOf(nn.Module):
    """Model that returns only the logits of another one, for methods without an ``output`` option.

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
    if hasattr(returned, "__dict__") and not isinstance(returned, Tensor):
        return {name: value for name, value in vars(returned).items() if not name.startswith("_")}
    return {}


def _tensor(value: Any, output: str | int) -> Tensor:
    if not isinstance(value, Tensor):
        raise NoLogits(f"the model's output {output!r} is {type(value).__name__}, not a tensor of logits")
    return value


def _shown(fields: dict[Any, Any], returned: Any) -> str:
    if not fields:
        return type(returned).__name__
    parts = [
        f"{name!r}: {list(value.shape)}" if isinstance(value, Tensor) else f"{name!r}: {type(value).__name__}"
        for name, value in list(fields.items())[:6]
    ]
    return f"{type(returned).__name__} with {', '.join(parts)}"
