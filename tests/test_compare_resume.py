"""A comparison that is stopped goes on; several processes make the same as one."""

from __future__ import annotations

import csv
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from compare_factory import save_pictures, use_test_metrics

from xai_align.report.compare import compare

TESTS = Path(__file__).parent
module = importlib.import_module("xai_align.report.compare")
ASKED = {"methods": ["pinet", "input_x_gradient"], "metrics": ["mass", "insertion_area", "chance"]}
WORDS = [
    *("compare", "--model", "cli_factory:load", "--device", "cpu", "--images", "pictures", "--batch-size", "1"),
    *("--methods", ",".join(ASKED["methods"]), "--metrics", ",".join(ASKED["metrics"]), "--format", "csv"),
    *("--pictures", "1"),
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(TESTS))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    use_test_metrics(monkeypatch.setitem)
    monkeypatch.setattr(module, "write_comparison_page", lambda comparison, folder: None)  # it has its own tests
    save_pictures(tmp_path / "pictures")
    return tmp_path


def run(out, **options):
    given = {**ASKED, "batch_size": 1, "table_format": "csv", "pictures": 1, "device": "cpu"} | options
    return compare("cli_factory:load", "pictures", out=out, **given)


def numbers(out):
    """All values, but for the seconds."""
    with Path(out, "values.csv").open(newline="", encoding="utf-8") as file:
        return {
            (one["image"], one["question"], one["method"], one["metric"]): float(one["value"])
            for one in csv.DictReader(file)
        }


def parts(out):
    return sorted(file.name for file in Path(out, "parts").glob("*.json"))


def count_parts(monkeypatch):
    """The numbers of the parts that are computed from here on."""
    made, known = [], module.run_part
    monkeypatch.setattr(
        module, "run_part", lambda plan, number, **more: made.append(number) or known(plan, number, **more)
    )
    return made


def environment(**more):
    paths = os.pathsep.join([str(TESTS), str(TESTS.parent), str(TESTS.parent / "adapters")])
    return {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"} | more


def test_a_killed_run_goes_on_and_gives_the_same_values(folder, monkeypatch):
    whole = run("whole")
    program = [sys.executable, str(TESTS / "compare_factory.py"), *WORDS, "--out", "killed"]
    process = subprocess.Popen(program, env=environment(COMPARE_SLOWLY="0.2"), stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while len(parts("killed")) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, process.stderr.read()
    done = parts("killed")
    assert 2 <= len(done) < 7
    assert not Path("killed/results.json").exists()
    made = count_parts(monkeypatch)
    again = run("killed")
    assert made == list(range(len(done), 7))  # nothing twice
    assert numbers("killed") == numbers("whole")
    assert str(again.summaries) == str(whole.summaries)  # NaN is like NaN
    assert str(again.curves) == str(whole.curves)


def test_a_finished_run_is_only_read(folder, monkeypatch):
    first = run("out")
    made = count_parts(monkeypatch)
    again = run("out", reference="input_x_gradient", internal_batch_size=3)
    assert made == []
    assert again.seconds == first.seconds
    assert again.reference == "input_x_gradient"
    assert [one.mean for one in again.summaries] == [one.mean for one in first.summaries]


@pytest.mark.parametrize("damage", ["cut", "changed", "empty"])
def test_a_damaged_part_is_computed_again_and_noted(folder, monkeypatch, damage):
    run("out")
    before = numbers("out")
    path = Path("out/parts/part-00003.json")
    text = path.read_text("utf-8")
    changed = text.replace('"value": ', '"value": 1', 1)
    path.write_text({"cut": text[: len(text) // 2], "changed": changed, "empty": ""}[damage], "utf-8")
    made = count_parts(monkeypatch)
    again = run("out")
    assert made == [3]
    assert numbers("out") == before
    assert any("damaged" in note for note in again.notes)


def test_a_part_whose_picture_is_gone_is_computed_again(folder, monkeypatch):
    got = run("out")
    Path("out", got.pictures[0].file).unlink()
    made = count_parts(monkeypatch)
    run("out")
    assert made == [0]
    assert Path("out", got.pictures[0].file).exists()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"seed": 3}, "seed was 0, is 3"),
        ({"metrics": ["mass"]}, 'metrics was ["mass", "insertion_area", "chance"], is ["mass"]'),
        ({"methods": ["pinet"]}, 'is ["pinet"]'),
        ({"limit": 3}, "images was"),
        ({"question": "why-not"}, 'questions was ["why"], is ["why-not"]'),
        ({"classes": ["red"]}, "classes was [], is [0]"),
    ],
)
def test_other_settings_in_the_same_folder_are_refused(folder, options, told):
    run("out")
    files = {path: path.read_bytes() for path in Path("out").rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match="holds a comparison with other settings") as caught:
        run("out", **options)
    assert told in str(caught.value)
    assert {path: path.read_bytes() for path in Path("out").rglob("*") if path.is_file()} == files


def test_other_weights_are_other_settings(folder):
    import torch
    from cli_factory import load

    loaded = load()
    compare(loaded, "pictures", out="out", methods=["pinet"], metrics=["mass"], pictures=0)
    with torch.no_grad():
        loaded.model.judge.bias[1] += 0.01
    with pytest.raises(ValueError, match="weights_sha256 was"):
        compare(loaded, "pictures", out="out", methods=["pinet"], metrics=["mass"], pictures=0)


def test_parts_of_other_settings_do_not_count(folder, monkeypatch):
    run("out", seed=1)
    Path("out/settings.json").unlink()
    made = count_parts(monkeypatch)
    run("out")
    assert made == list(range(7))
    assert json.loads(Path("out/settings.json").read_text())["seed"] == 0


def test_several_processes_need_a_folder(folder, monkeypatch):
    from xai_align.comparison.processes import Process

    monkeypatch.setattr(module, "this_process", lambda device: Process(rank=0, world=2))
    with pytest.raises(ValueError, match="name one"):
        run(None)


@pytest.mark.slow
def test_two_processes_give_what_one_gives(folder):
    whole = run("whole")
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    done = subprocess.run(
        [*launch, str(TESTS / "compare_factory.py"), *WORDS, "--out", "shared"],
        env=environment(COMPARE_SLOWLY="0.05"),
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Page: ") == 1  # one process prints
    assert numbers("shared").keys() == numbers("whole").keys()
    assert list(numbers("shared").values()) == pytest.approx(list(numbers("whole").values()), abs=1e-6)
    written = {json.loads(path.read_text())["content"]["number"] for path in Path("shared/parts").glob("*.json")}
    assert written == set(range(7))
    record = json.loads(Path("shared/results.json").read_text("utf-8"))
    assert [one["mean"] for one in record["summaries"]] == pytest.approx([one.mean for one in whole.summaries])
