"""Two processes train to what one does with twice the batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fit_factory import Plain, Squares, fit_without_batch_norm, rows

from xai_align.pinet.network.losses import PiNetLoss
from xai_align.training.pinet.fit import fit_pinet

TESTS = Path(__file__).parent


def launched(processes, *words):
    """What ``fit_factory.py`` says, run by so many processes."""
    paths = os.pathsep.join([str(TESTS), str(TESTS.parent), str(TESTS.parent / "adapters")])
    program = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return subprocess.run(
        [*program, str(TESTS / "fit_factory.py"), *map(str, words)],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )


@pytest.mark.slow
def test_two_processes_train_to_what_one_does_with_twice_the_batch(tmp_path):
    """21 examples in steps of 8 at most: the processes' shares of a step are not even equal."""
    alone = fit_without_batch_norm(tmp_path / "alone", 8)
    done = launched(2, "processes", tmp_path / "both", 4)
    assert done.returncode == 0, done.stderr
    both = json.loads(done.stdout.splitlines()[-1])  # what connects the processes may have said something before
    for one, two in zip(rows(alone.history), both["rows"], strict=True):
        assert two == pytest.approx(one, rel=1e-5, abs=1e-6)
    assert both["weights"] == pytest.approx([p.item() for p in alone.model.parameters()], rel=1e-5)
    lines = [json.loads(line) for line in (tmp_path / "both/metrics.jsonl").read_text().splitlines()]
    assert rows(lines) == both["rows"]  # one process writes
    with pytest.raises(ValueError, match="batch_size was 4, is 8; processes was 2, is 1"):
        fit_without_batch_norm(tmp_path / "both", 8)


def test_a_process_that_is_alone_launches_nothing(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    import torch.distributed

    fit_pinet(Plain(), Squares(8), loss=PiNetLoss("binary"), epochs=1, batch_size=4)
    assert not torch.distributed.is_initialized()
