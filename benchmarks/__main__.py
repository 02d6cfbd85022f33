"""List the benchmarks, or run one.

    python -m benchmarks                          # all of them, a line each
    python -m benchmarks readout.speed --help     # one of them, with its options

A benchmark is a script in a folder here. Its docstring's first line says what it measures, and a line that begins
with "Takes" the time it takes. `python -m benchmarks.readout.speed` runs it, too.
"""

from __future__ import annotations

import ast
import re
import runpy
import sys
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Benchmark:
    """A script: its name (``readout.speed``), the quantity it measures, and the time it takes, if stated."""

    name: str
    summary: str
    takes: str


def benchmarks() -> list[Benchmark]:
    """Return all scripts, in the order of their names. None is imported."""
    found = []
    for file in sorted(FOLDER.glob("*/*.py")):
        tree = ast.parse(source := file.read_text("utf-8"))
        if '\nif __name__ == "__main__":\n' in source:
            text = ast.get_docstring(tree) or ""
            takes = re.search(r"^Takes .+$", text, re.MULTILINE)
            found.append(
                Benchmark(f"{file.parent.name}.{file.stem}", text.partition("\n")[0], takes[0] if takes else "")
            )
    return found


def listing() -> str:
    """Return the list of benchmarks by folder, each folder under its description."""
    everything = benchmarks()
    width = max(len(one.name) for one in everything)
    lines = []
    for folder in dict.fromkeys(one.name.partition(".")[0] for one in everything):
        about = ast.get_docstring(ast.parse((FOLDER / folder / "__init__.py").read_text("utf-8")))
        lines.append(f"\n{about}")
        for one in everything:
            if one.name.startswith(f"{folder}."):
                lines += [f"  {one.name:{width}}  {one.summary}", f"  {'':{width}}  {one.takes}"][: 1 + bool(one.takes)]
    return "\n".join([*lines, "\nRun one with `python -m benchmarks NAME`; `--help` after the name shows its options."])


def main() -> None:
    """Run the command line."""
    name, *options = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        return print(listing())
    names = [one.name for one in benchmarks()]
    if name not in names:
        near = get_close_matches(name, names)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        sys.exit(f"there is no benchmark {name}.{hint} `python -m benchmarks` lists them.")
    sys.argv[1:] = options
    runpy.run_module(f"benchmarks.{name}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
