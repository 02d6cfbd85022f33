"""Fits by several processes, compared with the same fit by one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from align_factory import fit_without_batch_norm, rows

TESTS = Path(__file__).parent

#: What terms report for themselves: means over processes, which have unequal parts here.
REPORTED = ("inside", "outside", "excess", "mixup_consistency", "mixup_sparsity", "mixup_classification", "dead_cams")


def launched(processes, *words, path=()):
    """``align_factory.py``, run by so many processes; ``path``: further folders that they import from."""
    paths = os.pathsep.join(map(str, [TESTS, TESTS.parent, TESTS.parent / "adapters", *path]))
    program = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return subprocess.run(
        [*program, str(TESTS / "align_factory.py"), *map(str, words)],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )


def check_two_processes_train_to_what_one_does(folder, recipe, path=()):
    """21 examples in steps of 8, 8 and 5: the processes' shards of a step are not even equal."""
    alone = fit_without_batch_norm(recipe=recipe)
    done = launched(2, "processes", folder, recipe, path=path)
    assert done.returncode == 0, done.stderr
    both = json.loads(done.stdout.splitlines()[-1])  # what connects the processes may have said something before
    for one, two in zip(rows(alone.history), both["rows"], strict=True):
        assert one.keys() == two.keys()
        numbers = [name for name in one if isinstance(one[name], float) and name not in REPORTED]
        for name in numbers:
            # the norm sums all gradients: rounding alone makes up to 1.6e-4 of it in four epochs
            rel = 1e-3 if name == "gradient_norm" else 1e-4
            assert two[name] == pytest.approx(one[name], rel=rel, abs=1e-6), name
    networks = [network for network in (alone.classifier, alone.masker) if network is not None]
    own = [value for network in networks for p in network.parameters() for value in p.flatten().tolist()]
    assert both["weights"] == pytest.approx(own, rel=1e-3, abs=1e-5)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert rows(lines) == both["rows"]  # one process writes
    with pytest.raises(ValueError, match="processes was 2, is 1"):
        fit_without_batch_norm(folder, recipe=recipe)
