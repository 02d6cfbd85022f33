"""Run the notebooks of examples/notebooks and save them with their outputs.

    pip install nbclient ipykernel
    python scripts/run_notebooks.py [NAME ...]

Needs the extra ``demo``. The tests run the same cells without Jupyter.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).resolve().parents[1] / "examples" / "notebooks"
#: No larger, so that a clone stays small.
LARGEST = 400_000


def main(names: list[str]) -> None:
    """Run the notebooks with these names, or all."""
    os.environ["PYTHONWARNINGS"] = "ignore"
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        if names and path.stem not in names:
            continue
        notebook = nbformat.read(path, as_version=4)
        with TemporaryDirectory() as folder:
            NotebookClient(notebook, timeout=600, resources={"metadata": {"path": folder}}).execute()
        for cell in notebook.cells:
            cell.metadata.pop("execution", None)  # times, which differ in every run
        notebook.metadata = {"kernelspec": notebook.metadata.get("kernelspec"), "language_info": {"name": "python"}}
        text = nbformat.writes(notebook)
        if len(text) > LARGEST:
            raise SystemExit(f"{path.name} has {len(text):,} characters; make its pictures smaller")
        path.write_text(text + "\n", encoding="utf-8")
        print(f"{path.name}: {len(text):,} characters")


if __name__ == "__main__":
    main(sys.argv[1:])
