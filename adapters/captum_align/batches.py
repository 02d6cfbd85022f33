"""A readout in batches of a given size, with Captum's progress bar."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from captum._utils.common import _format_additional_forward_args
from captum._utils.progress import progress
from torch import Tensor

from xai_align.pinet import Readout, read_out
from xai_align.question import QuestionModel, captum_target

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xai_align.pinet.places import Places


def read_out_in_batches(
    model: Any,
    inputs: tuple[Tensor, ...],
    target: Any,
    layer: Places,
    additional_forward_args: Any,
    *,
    internal_batch_size: int | None = None,
    show_progress: bool = False,
    **account: Any,
) -> list[Readout]:
    """One :class:`~xai_align.pinet.Readout` for each batch of at most ``internal_batch_size`` examples.

    ``account`` holds the options of :func:`~xai_align.read_out` that choose among exact accounts.

    Raises:
        ValueError: the batch size is not positive.
    """
    if internal_batch_size is not None and internal_batch_size < 1:
        raise ValueError(f"internal_batch_size is {internal_batch_size}; give a positive number of examples, or None")
    extra = _format_additional_forward_args(additional_forward_args)
    # a question travels as it is; Captum's forms are brought to ints, tensors and lists that can be cut
    target = target if isinstance(model, QuestionModel) and target is None else captum_target(target)
    count = len(inputs[0]) if inputs and inputs[0].dim() else 0
    size = internal_batch_size or max(count, 1)
    parts: Any = list(pieces(inputs, target, extra, count, size))
    if show_progress:
        parts = progress(parts, desc="PiNet readout", total=len(parts))
    return [
        read_out(model, part if len(part) > 1 else part[0], asked, layer, additional_forward_args=rest, **account)
        for part, asked, rest in parts
    ]


def pieces(
    inputs: tuple[Tensor, ...], target: Any, extra: tuple[Any, ...] | None, count: int, size: int
) -> Iterator[tuple[tuple[Tensor, ...], Any, tuple[Any, ...] | None]]:
    """Inputs, target and further arguments of each batch of at most ``size`` examples."""
    if count <= size:
        yield inputs, target, extra
        return
    for start in range(0, count, size):
        here = slice(start, start + size)
        asked = target[here] if _is_for_each(target, count) else target
        rest = None if extra is None else tuple(x[here] if _is_for_each(x, count) else x for x in extra)
        yield tuple(x[here] for x in inputs), asked, rest


def _is_for_each(value: Any, count: int) -> bool:
    """Whether ``value`` holds one thing for each of ``count`` examples."""
    if isinstance(value, Tensor):
        return value.dim() > 0 and len(value) == count and count > 1
    return isinstance(value, list) and len(value) == count
