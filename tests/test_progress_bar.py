"""The library's progress bar."""

from __future__ import annotations

from xai_align._tools.progress import progress_bar


def test_a_fraction_of_a_step_is_shown_with_two_decimals(capsys):
    with progress_bar("training", 3, shown=True, timed="epoch") as bar:
        bar.move_to(1 / 3)
        bar._bar.refresh()
        first = capsys.readouterr().err
        bar.move_to(2)
        bar._bar.refresh()
        second = capsys.readouterr().err
    assert "0.33/3 " in first
    assert "2/3 " in second
    assert "333" not in first + second
