"""Seed every test, count the tests that did not run, with the reason, and make what several files use."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch


@pytest.hookimpl(tryfirst=True)  # before fixtures of any scope
def pytest_runtest_setup(item):
    """Seed the global generators, so that a test's numbers do not depend on the tests before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory, with one picture, where the network of ``cli_factory`` can be imported from."""
    from cli_factory import save_half_red_half_blue  # not needed where other tests use this file

    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.chdir(tmp_path)
    save_half_red_half_blue(tmp_path / "half.png")
    return tmp_path


@pytest.hookimpl(wrapper=True, tryfirst=True)  # outermost: after pytest's own summary
def pytest_terminal_summary(terminalreporter, config):
    """Print one line for each reason, so that a test that never runs cannot go unseen."""
    result = yield
    terminalreporter.section("not run")
    for line in not_run(terminalreporter.stats, config.getoption("markexpr"), config.getoption("keyword")):
        terminalreporter.write_line(line)
    return result


def not_run(stats, markexpr="", keyword="") -> list[str]:
    """Lines such as "not run: 3 tests: needs a CUDA device", most tests first."""
    tests, lines = Counter(), []
    for report in stats.get("skipped", ()):
        reason = _reason(report)
        if isinstance(report, pytest.CollectReport):  # how many tests the file has is not known
            lines.append(f"not run: all of {report.nodeid}: {reason}")
        else:
            tests[reason] += 1
    chosen = [f"{flag} {given!r}" for flag, given in (("-m", markexpr), ("-k", keyword)) if given]
    tests["deselected" + (f" by {' and '.join(chosen)}" if chosen else "")] += len(stats.get("deselected", ()))
    counted = [f"not run: {count} test{'s' * (count > 1)}: {reason}" for reason, count in tests.most_common() if count]
    return [*counted, *sorted(lines)] or ["not run: nothing; every test ran"]


def _reason(report) -> str:
    """Why it was skipped, in one line."""
    told = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return " ".join(told.split()).removeprefix("Skipped: ")
