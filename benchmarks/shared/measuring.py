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
    """Return the seconds of a call and its result. ``clock=process_time`` counts this process's own time alone."""
    start = clock()
    answer = call()
    return clock() - start, answer


def memory_mib(entry: str) -> float:
    """Return the memory of this process in MiB (Linux): ``VmRSS`` now, ``VmHWM`` at its peak.

    The ``ru_maxrss`` of a child process would begin at its parent's.
    """
    status = Path("/proc/self/status").read_text("utf-8")
    return int(next(line for line in status.splitlines() if line.startswith(entry)).split()[1]) / 1024


def printed_by(module: str, *arguments: object) -> str:
    """Run a benchmark in a separate process and return its output."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
