"""Public bug reports: each ends as its table says, in a right answer or in words."""

from __future__ import annotations

import pytest

pytest.importorskip("timm")
pytest.importorskip("transformers")
pytest.importorskip("torchvision")

from benchmarks.safety.public_reports import REPORTS, outcome


@pytest.mark.parametrize("one", REPORTS, ids=lambda one: one.thread)
def test_each_ends_as_stated(one):
    well, said = outcome(one)
    assert well, said


def test_there_are_many_and_each_once():
    assert len({one.thread for one in REPORTS}) == len(REPORTS) > 31
