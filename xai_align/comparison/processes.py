"""Processes that share a run, when ``accelerate launch`` (or ``torchrun``) started them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import torch

from xai_align._tools.optional_package import optional_package

#: Timeout of the first process to finish while it waits for the others: practically none.
_PATIENCE = timedelta(days=30)


def _go_on() -> None:
    """Return at once: there is no other process."""


@dataclass(frozen=True)
class Process:
    """Rank of this process, number of processes, assigned device if any, and a barrier."""

    rank: int = 0
    world: int = 1
    device: torch.device | None = None
    wait: Callable[[], None] = _go_on

    @property
    def is_main(self) -> bool:
        """True for the process that writes and prints."""
        return self.rank == 0


def is_main_process() -> bool:
    """Return :attr:`Process.is_main` from the environment, before processes are set up: for printing."""
    return os.environ.get("RANK", "0") == "0"


def this_process(device: str | None = None) -> Process:
    """Return this process among those that were launched with it; a single process needs no ``accelerate``.

    Args:
        device: the requested device. "cpu" keeps the processes off GPUs; None or "cuda" assigns one to each.

    Raises:
        ValueError: several processes are to share one GPU.
        ModuleNotFoundError: several processes were launched and ``accelerate`` is not installed.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return Process()
    with optional_package("compare", "accelerate", "comparisons over several processes"):
        from accelerate import PartialState

    if device is not None and ":" in device:
        raise ValueError(f"several processes can't all use '{device}'; leave --device out, or give 'cuda' or 'cpu'")
    cpu = device == "cpu" or not torch.cuda.is_available()
    state = PartialState(cpu=cpu, timeout=_PATIENCE)
    where = torch.device("cpu") if cpu else state.device
    return Process(state.process_index, state.num_processes, where, state.wait_for_everyone)
