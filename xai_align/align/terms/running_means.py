"""Running means of a term's measurements, for the log."""

from __future__ import annotations

import torch
from torch import Tensor


class RunningMeans:
    """Running means by name, for a term's ``report()``.

    Sums stay on the device; values are read only for a report.

    Example::

        >>> import torch
        >>> from xai_align.align import RunningMeans
        >>> means = RunningMeans()
        >>> means.add("change", torch.tensor([1.0, 3.0]))
        >>> means.add("change", torch.tensor([5.0, 100.0]), torch.tensor([True, False]))
        >>> means.report()
        {'change': 3.0}
        >>> means.report()
        {}
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, Tensor] = {}

    def add(self, name: str, values: Tensor, counts: Tensor | None = None) -> None:
        """Add ``values`` ``[N]``, without those where ``counts`` (bool ``[N]``) is False."""
        values = values.detach().double() if values.device.type != "mps" else values.detach().float()
        counted = torch.ones_like(values) if counts is None else counts.to(values)
        total = torch.where(counted > 0, values, 0).sum()
        self._sums[name] = self._sums.get(name, torch.zeros_like(total)) + total
        self._counts[name] = self._counts.get(name, torch.zeros_like(total)) + counted.sum()

    def report(self) -> dict[str, float]:
        """Return the means since the last report, NaN where nothing was counted, and reset them."""
        means = {name: float(total / self._counts[name]) for name, total in self._sums.items()}
        self._sums, self._counts = {}, {}
        return means
