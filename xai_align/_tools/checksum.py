"""Checksum of tensors, which detects changed values in less time than a digest.

PyTorch's version counters miss writes that bypass autograd: through ``.data``, NumPy or other shared memory. Here the
values themselves are read: all tensors in one row, multiplied by a pattern of random numbers and summed in pieces, so
that changed, exchanged and negated values are detected. Only a change smaller than the rounding of its piece is missed.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from xai_align._tools.drawn import normal

#: Length of the pattern, and of the pieces.
PERIOD = 1 << 14


@torch.no_grad()
def checksum_of(tensors: Iterable[Tensor]) -> tuple[float, ...]:
    """Return numbers that change with the tensors' values; equal tensors of one device give equal numbers."""
    rows: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for tensor in tensors:
        values = torch.view_as_real(tensor) if tensor.is_complex() else tensor
        rows.setdefault((values.device, values.dtype), []).append(values.detach().reshape(-1))
    sums: list[float] = []
    for (device, _), parts in rows.items():
        with torch.autocast(device.type, enabled=False):
            sums += _sums(torch.cat(parts)).tolist()
    return tuple(sums)


def _sums(values: Tensor) -> Tensor:
    values = values if values.dtype == torch.float64 else values.float()
    pattern = normal((PERIOD,), torch.Generator().manual_seed(0)).to(values)
    whole = len(values) - len(values) % PERIOD
    of_pieces = torch.mv(values[:whole].reshape(-1, PERIOD), pattern)
    of_rest = torch.dot(values[whole:], pattern[: len(values) - whole])
    return torch.cat([of_pieces, of_rest[None]])
