"""Training in one process and in two, and the difference of their results."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from typing import Any

Log = list[dict[str, Any]]


def in_processes(count: int, module: str, *arguments: object) -> dict[str, Any]:
    """Run a benchmark in this number of processes on the CPU; return the JSON that the first prints last."""
    launch = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(count), "-m"] if count > 1 else []
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", *launch, module, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def print_once(result: dict[str, Any]) -> None:
    """Print a JSON, in the first process only."""
    if os.environ.get("RANK", "0") == "0":
        print(json.dumps(result))


def largest_difference(one: Log, two: Log, compared: Iterable[str]) -> float:
    """Return the largest relative difference over all rows and all compared columns that exist."""
    assert len(one) == len(two)
    rows = list(zip(one, two, strict=True))
    pairs = [(a[name], b[name]) for name in compared for a, b in rows if a.get(name) is not None]
    return max(abs(a - b) / max(abs(a), 1e-12) for a, b in pairs)


def ends(runs: Iterable[dict[str, Any]]) -> tuple[str, str]:
    """Return the last losses of runs, and their seconds, each separated by a slash."""
    runs = list(runs)
    losses = " / ".join(f"{run['rows'][-1]['loss']:.5f}" for run in runs)
    return losses, " / ".join(f"{run['seconds']:.0f}" for run in runs)
