"""Pictures of the gallery: every title stays within its own panel."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))
from make_gallery import row_of_pictures

TITLES = (
    "exact readout",
    "Why drilling platform and not missile?",
    "Why Chesapeake Bay retriever and not German short-haired pointer, or any of the other sporting dogs there are?",
    "Why " + "W" * 60 + " and not $x_1$?",
)


@pytest.mark.parametrize("title", TITLES)
def test_a_title_stays_within_its_panel(title):
    figure = row_of_pictures([np.zeros((10, 10, 3))] * 3, ["photograph", title, title])
    figure.set_dpi(110)
    figure.canvas.draw()
    for axes in figure.axes:
        panel, text = axes.get_window_extent(), axes.title.get_window_extent()
        assert text.x0 >= panel.x0 - 1
        assert text.x1 <= panel.x1 + 1
        assert text.y0 >= panel.y1
        assert text.y1 <= figure.bbox.y1
    words = [axes.title.get_text().replace("\n", " ") for axes in figure.axes]
    assert words == ["photograph", title, title]
