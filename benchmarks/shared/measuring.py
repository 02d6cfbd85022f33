"""Seconds of calls and memory of processes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import TypeVar

Answer = TypeVar("Answer")


def timed(call: Callable[[], Answer], *, clock: Callable[[], float] = perf_counter) -> tuple[float, Answer]:
    """Seconds that a call takes, and its answer. ``clock=process_time`` counts this process's own time alone."""
    start = clock()
    answer = call()
    return clock() - start, answer


def memory_mib(entry: str) -> float:
    """MiB of this process (Linux): ``VmRSS`` now, ``VmHWM`` at its highest.

    The ``ru_maxrss`` of a child process would begin at its parent's.
    """
    status = Path("/proc/self/status").read_text("utf-8")
    return int(next(line for line in status.splitlines() if line.startswith(entry)).split()[1]) / 1024


def printed_by(module: str, *arguments: object) -> str:
    """Run a benchmark in a process of its own and return what it prints."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
