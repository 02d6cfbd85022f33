"""Process group of a fit: this process, and those that ``accelerate launch`` or ``torchrun`` started with it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from xai_align._tools.optional_package import optional_package


@dataclass(frozen=True)
class ProcessGroup:
    """Processes that share a fit; by default this one only.

    Attributes:
        count: number of processes.
        rank: rank of this process.
        device: device that was assigned to this process; None for a single process, which trains where the model is.
    """

    count: int = 1
    rank: int = 0
    device: torch.device | None = None

    @staticmethod
    def launched() -> ProcessGroup:
        """Return the processes that were launched together; a single process needs no ``accelerate``.

        Raises:
            ModuleNotFoundError: several were launched and ``accelerate`` is not installed.
        """
        if int(os.environ.get("WORLD_SIZE", "1")) < 2:
            return ProcessGroup()
        with optional_package("train", "accelerate", "fits over several processes"):
            from accelerate import PartialState

        state = PartialState(cpu=not torch.cuda.is_available())
        return ProcessGroup(state.num_processes, state.process_index, state.device)

    @property
    def is_main(self) -> bool:
        """True for the process that writes files."""
        return self.rank == 0

    def wait(self) -> None:
        """Wait for all processes."""
        if self.count > 1:
            from accelerate import PartialState

            PartialState().wait_for_everyone()

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum over all processes."""
        if self.count == 1:
            return values
        from accelerate.utils import reduce

        summed: Tensor = reduce(values, "sum")
        return summed

    def sum_all(self, values: Sequence[Tensor | None], like: Sequence[Tensor]) -> list[Tensor | None]:
        """Return the sums of several tensors over all processes, in one reduction.

        Args:
            values: None counts as zero; the sum is None if it is None in every process.
            like: tensors of the same shapes and dtypes.
        """
        if self.count == 1:
            return list(values)
        dtype = torch.float64 if any(one.dtype == torch.float64 for one in like) else torch.float32
        given = like[0].new_tensor([float(value is not None) for value in values], dtype=dtype)
        parts = [torch.zeros_like(one) if value is None else value for one, value in zip(like, values, strict=True)]
        flat = self.sum(torch.cat([given, *(part.reshape(-1).to(dtype) for part in parts)]))
        sums = flat[len(parts) :].split([part.numel() for part in parts])
        return [
            total.view_as(part).to(part.dtype) if known else None
            for total, part, known in zip(sums, parts, flat[: len(parts)].tolist(), strict=True)
        ]

    def mean_of_reports(self, report: dict[str, float]) -> dict[str, float]:
        """Return the mean over all processes of the values that each of them reports."""
        if self.count == 1:
            return report
        from accelerate.utils import gather_object

        reports: list[dict[str, float]] = gather_object([report])
        names = list(dict.fromkeys(name for one in reports for name in one))
        known = {name: [one[name] for one in reports if name in one] for name in names}
        return {name: sum(values) / len(values) for name, values in known.items()}

    @torch.no_grad()
    def broadcast_buffers(self, model: nn.Module) -> None:
        """Copy the first process's batch statistics to all."""
        self._broadcast(list(model.buffers()))

    @torch.no_grad()
    def broadcast_weights(self, model: nn.Module) -> None:
        """Copy the first process's parameters and buffers to all."""
        self._broadcast([*model.parameters(), *model.buffers()])

    def _broadcast(self, tensors: Sequence[Tensor]) -> None:
        if self.count == 1:
            return
        from accelerate.utils import broadcast

        for tensor in tensors:
            tensor.copy_(broadcast(tensor.detach().clone()))
