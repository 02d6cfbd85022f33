"""The notebooks run from the first cell to the last, and are saved with the outputs of a whole run."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "examples" / "notebooks").glob("*.ipynb"))
NAMES = {"retrofit_a_timm_model", "from_captum_to_aligned", "judge_five_methods", "align_on_your_folders"}
#: The comparison takes the longest.
RUNS = [
    pytest.param(path, id=path.stem, marks=[pytest.mark.slow] if path.stem == "judge_five_methods" else [])
    for path in NOTEBOOKS
]


def code_cells(path: Path) -> list[dict]:
    return [cell for cell in json.loads(path.read_text("utf-8"))["cells"] if cell["cell_type"] == "code"]


def test_they_are_all_there():
    assert {path.stem for path in NOTEBOOKS} == NAMES


@pytest.mark.timeout(240)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", RUNS)
def test_notebook_runs(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PHOTOGRAPHS", "1")
    names = {"__name__": "__main__"}
    with plt.rc_context():
        for number, cell in enumerate(code_cells(path), start=1):
            exec(compile("".join(cell["source"]), f"{path.name}, code cell {number}", "exec"), names)
    plt.close("all")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_saved_with_the_outputs_of_one_run(path):
    cells = code_cells(path)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    kinds = {kind for output in outputs for kind in output.get("data", {})}
    assert "image/png" in kinds
    assert [output for output in outputs if output["output_type"] == "error" or output.get("name") == "stderr"] == []
    assert path.stat().st_size < 400_000
