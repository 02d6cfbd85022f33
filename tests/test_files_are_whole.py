"""Files that a full disk or a second run must not leave half-written or doubled, and messages that name them."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from xai_align._tools.files.folder_lock import LOCK, locked_folder
from xai_align._tools.files.whole_file import whole_file, write_whole, writing
from xai_align.training.checkpoints import Snapshot, read_checkpoint, write_checkpoint
from xai_align.training.training_log import TrainingLog

ROOT = Path(__file__).resolve().parents[1]
FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # as write() raises it: without a name


def test_a_file_that_cannot_be_finished_is_as_before_and_named(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"before")

    def half():
        with whole_file(path) as waiting:
            waiting.write_bytes(b"half")
            raise FULL

    with pytest.raises(OSError, match=r"No space left on device.*a\.png") as caught:
        half()
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(path))
    assert [one.name for one in tmp_path.iterdir()] == ["a.png"]
    assert path.read_bytes() == b"before"


def test_two_writers_of_one_file_each_write_a_whole_one(tmp_path):
    path = tmp_path / "a.onnx"
    with whole_file(path) as first:
        first.write_bytes(b"first, half")
        with whole_file(path) as second:
            second.write_bytes(b"second")
        assert path.read_bytes() == b"second"
        assert first.read_bytes() == b"first, half"
    assert path.read_bytes() == b"first, half"

    def fails():
        with whole_file(path) as first:
            first.write_bytes(b"third")
            with whole_file(path) as second:
                second.write_bytes(b"fourth")
            raise RuntimeError

    with pytest.raises(RuntimeError):  # it takes nothing from the other
        fails()
    assert path.read_bytes() == b"fourth"
    assert [one.name for one in tmp_path.iterdir()] == ["a.onnx"]


def test_a_name_that_the_system_just_takes_is_written(tmp_path):
    write_whole(tmp_path / ("n" * 255), "text")
    assert (tmp_path / ("n" * 255)).read_text() == "text"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no full disk to write to")
def test_a_full_disk_is_told_with_the_files_name(tmp_path):
    path = tmp_path / "log.csv"
    path.symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"No space left.*log\.csv"), writing(path), path.open("w") as file:
        file.write("x" * 100_000)


@pytest.mark.parametrize("content", ["text", b"bytes", "surrogate \udce9"])
def test_what_is_written_is_there(tmp_path, content):
    write_whole(tmp_path / "a", content)
    written = (tmp_path / "a").read_bytes()
    assert written == (content if isinstance(content, bytes) else content.encode("utf-8", "backslashreplace"))


def test_a_checkpoint_on_a_full_disk_is_as_before_and_named(tmp_path, monkeypatch):
    import safetensors.torch

    path = tmp_path / "epoch.safetensors"
    write_checkpoint(path, Snapshot({"a": torch.ones(2)}, {"kind": "test"}))

    def full(tensors, waiting, metadata):
        Path(waiting).write_bytes(b"half")
        raise safetensors.SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(OSError, match=r"epoch\.safetensors' cannot be written: .*No space left"):
        write_checkpoint(path, Snapshot({"a": torch.zeros(2)}, {"kind": "test"}))
    assert read_checkpoint(path).tensors["a"].tolist() == [1, 1]
    assert len(list(tmp_path.iterdir())) == 1


def test_no_result_is_written_but_as_a_whole():
    """No module writes a file of results by itself; logs are appended to, with the file named."""
    direct = re.compile(r"\.write_bytes\(|\.write_text\(|\.open\(\"w|savez(_compressed)?\(path|savefig\(path")
    inside = ("waiting", ">>>", "_tools/files/whole_file.py", "_tools/png.py")
    found = [
        f"{file.relative_to(ROOT)}: {line.strip()}"
        for file in (ROOT / "xai_align").rglob("*.py")
        for line in file.read_text("utf-8").splitlines()
        if direct.search(line) and not any(one in f"{file} {line}" for one in inside)
    ]
    assert found == ['xai_align/comparison/files.py: with path.open("w", newline="", encoding="utf-8") as file:']


# --- two fits, one folder --------------------------------------------------------------------------


def test_a_folder_has_one_fit_at_a_time(tmp_path):
    with locked_folder(tmp_path):
        code = "import sys, pathlib; from xai_align._tools.files.folder_lock import locked_folder as lock\n"
        code += "with lock(pathlib.Path(sys.argv[1])): pass"
        other = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True)
        assert f"another run (process {os.getpid()}) is writing to" in other.stderr
        with pytest.raises(ValueError, match="choose another folder"), locked_folder(tmp_path):
            pass
        with locked_folder(tmp_path / "other"), locked_folder(None):
            pass
    with locked_folder(tmp_path):  # free again
        pass
    assert not (tmp_path / LOCK).exists()


def test_a_lock_that_a_killed_fit_left_behind_holds_nobody(tmp_path):
    (tmp_path / LOCK).write_text("123456")
    with locked_folder(tmp_path):
        assert (tmp_path / LOCK).read_text() == str(os.getpid())


@pytest.mark.filterwarnings("ignore::xai_align.align.training.collapse.CollapseWarning")
def test_a_second_fit_into_a_folder_is_refused_while_the_first_runs(tmp_path):
    from xai_align.align import AlignTrainer

    def trainer():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        return AlignTrainer(network, out=tmp_path / "out", log=during)

    batches = [(torch.randn(4, 3, 16, 16), torch.tensor([0, 1, 0, 1]))]
    refused = []

    def during(row):
        if not refused:
            refused.append(True)
            with pytest.raises(ValueError, match="is writing to"):
                trainer().fit(batches, epochs=2)

    trainer().fit(batches, epochs=2)
    assert refused
    epochs = [line.split(",")[0] for line in (tmp_path / "out/metrics.csv").read_text("utf-8").splitlines()[1:]]
    assert epochs == ["1", "2"]


def test_the_log_of_a_fit_names_its_file_on_a_full_disk(tmp_path):
    log = TrainingLog(tmp_path)
    log.begin([])
    log.add({"step": 1, "epoch": 1})
    if Path("/dev/full").exists():
        (tmp_path / "metrics.csv").unlink()
        (tmp_path / "metrics.csv").symlink_to("/dev/full")
        with pytest.raises(OSError, match=r"No space left.*metrics\.csv"):
            log.add({"step": 2, "epoch": 2})


def test_arrays_of_a_record_are_whole(tmp_path, monkeypatch):
    from test_words_follow_the_method import record_by

    from xai_align.report.record import save_arrays

    def full(file, **arrays):
        file.write(b"half")
        raise FULL

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(OSError, match=r"a\.npz"):
        save_arrays(record_by("random"), tmp_path / "a.npz")
    assert list(tmp_path.iterdir()) == []
