"""One of several processes that share a run, when ``accelerate launch`` (or ``torchrun``) started them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import torch

#: How long the first to be done waits for the others: as long as it takes.
_PATIENCE = timedelta(days=30)


def _go_on() -> None:
    """Nobody to wait for."""


@dataclass(frozen=True)
class Process:
    """This process's number among how many, its device if one was dealt out, and how to wait for the others."""

    rank: int = 0
    world: int = 1
    device: torch.device | None = None
    wait: Callable[[], None] = _go_on

    @property
    def is_main(self) -> bool:
        """Whether it is the one that writes and prints."""
        return self.rank == 0


def is_main_process() -> bool:
    """The same before anything is set up: for what is printed."""
    return os.environ.get("RANK", "0") == "0"


def this_process(device: str | None = None) -> Process:
    """This process among those that were launched with it; a process by itself needs no ``accelerate``.

    Args:
        device: the one that was asked for. "cpu" keeps the processes off GPUs; None or "cuda" deals these out.

    Raises:
        ValueError: several processes are to share one GPU.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return Process()
    from accelerate import PartialState

    if device is not None and ":" in device:
        raise ValueError(f"several processes can't all use '{device}'; leave --device out, or give 'cuda' or 'cpu'")
    cpu = device == "cpu" or not torch.cuda.is_available()
    state = PartialState(cpu=cpu, timeout=_PATIENCE)
    where = torch.device("cpu") if cpu else state.device
    return Process(state.process_index, state.num_processes, where, state.wait_for_everyone)
