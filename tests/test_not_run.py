"""A run's last lines count every test that did not run, with the reason."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).with_name("conftest.py")
TESTS = """
import pytest

@pytest.mark.skipif(True, reason="needs a CUDA device")
@pytest.mark.parametrize("n", range(3))
def test_device(n): ...

def test_package():
    pytest.importorskip("a_package_that_nobody_has")

def test_runs(): ...

@pytest.mark.xfail(reason="runs, and fails as expected")
def test_fails(): assert False
"""


def lines_of(folder, *options):
    """The summary of a run of these tests, in a process of its own."""
    (folder / "conftest.py").write_text(CONFTEST.read_text("utf-8"), "utf-8")
    (folder / "pytest.ini").write_text("[pytest]\naddopts = -ra\n")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options, str(folder)]
    alone = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # the plugins of other packages are slow to import
    out = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=alone).stdout.splitlines()
    last = out[-1]
    assert "passed" in last  # nothing but pytest's own last line comes after the summary
    found = [line for line in out if line.startswith("not run: ")]
    assert out[-1 - len(found) : -1] == found
    return found


def test_every_reason_is_counted(tmp_path):
    (tmp_path / "test_some.py").write_text(TESTS)
    (tmp_path / "test_whole.py").write_text(
        'import pytest\npytest.importorskip("nor_this_one")\ndef test_it(): ...\ndef test_more(): ...\n'
    )
    assert lines_of(tmp_path) == [
        "not run: 3 tests: needs a CUDA device",
        "not run: 1 test: could not import 'a_package_that_nobody_has': No module named 'a_package_that_nobody_has'",
        "not run: all of test_whole.py: could not import 'nor_this_one': No module named 'nor_this_one'",
    ]
    assert lines_of(tmp_path, "-k", "runs or package", "--ignore", str(tmp_path / "test_whole.py")) == [
        "not run: 4 tests: deselected by -k 'runs or package'",
        "not run: 1 test: could not import 'a_package_that_nobody_has': No module named 'a_package_that_nobody_has'",
    ]


def test_a_run_in_which_every_test_ran_says_so(tmp_path):
    (tmp_path / "test_some.py").write_text("def test_runs(): ...")
    assert lines_of(tmp_path) == ["not run: nothing; every test ran"]


def test_continuous_integration_repeats_the_summary():
    """What it looks for is what the summary writes."""
    script = (CONFTEST.parents[1] / ".ci" / "run").read_text("utf-8")
    assert "grep '^not run: '" in script
    assert 'f"not run: ' in CONFTEST.read_text("utf-8")


@pytest.mark.parametrize("package", ["quantus", "lightning", "onnx", "onnxscript", "scipy"])
def test_packages_that_tests_import_if_they_can_are_in_the_extra_test(package):
    import tomllib

    project = tomllib.loads((CONFTEST.parents[1] / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    (others,) = [line for line in extras["test"] if line.startswith("xai-align[")]
    lines = extras["test"] + [line for name in others[10:-1].split(",") for line in extras[name]]
    assert any(line.startswith(f"{package}>=") for line in lines)
