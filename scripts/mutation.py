"""Change modules one operation at a time, and show the changes that no test notices.

    python scripts/mutation.py                     every module of [tool.mutation] in pyproject.toml
    python scripts/mutation.py question spatial    the modules with these words in their path
    python scripts/mutation.py nested --only _loss the functions with this word in their name

Everything happens in a copy of the tree, which is deleted at the end. mutmut changes functions and
methods without decorators; decorators of module-level functions are written as calls first, so that rules are
changed too. Module-level constants, decorated methods and the wording of errors stay as they are. Exits with 1
if less than 95 % of a module's mutants are caught.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

import libcst as cst

ROOT = Path(__file__).resolve().parents[1]
WANTED = 0.95
#: mutmut's codes for mutants that no test noticed: all tests passed; no test ran them.
SURVIVED = {0: "survived", 33: "no tests"}
#: Codes of mutants that were not judged.
LEFT_OUT = {34, None}
#: An error has to be raised; how it is worded is no matter of tests.
WORDING = [r"^\s*f?\".*\"\)?,?$", r"^\s*raise ", r"^\s*(found|told|wanted) = "]


def main() -> int:
    """Run mutmut module by module."""
    known = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["mutation"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="parts of the modules' paths; none: all")
    parser.add_argument("--only", default="", help="part of the names of functions")
    parser.add_argument("--children", type=int, default=os.cpu_count() or 1, help="processes at once")
    given = parser.parse_args()
    chosen = [module for module in known if not given.words or any(word in module for word in given.words)]
    if not chosen:
        parser.error(f"no module of [tool.mutation] has {' or '.join(given.words)} in its path")
    signal.signal(signal.SIGTERM, lambda *told: sys.exit(1))  # so that the copy is deleted
    missed = [module for module in chosen if judge(module, known[module], given.only, given.children) < WANTED]
    if missed:
        print(f"less than {WANTED:.0%} caught: {', '.join(missed)}")
    return 1 if missed else 0


def judge(module: str, tests: list[str], only: str, children: int) -> float:
    """Mutate one module in a copy of the tree; returns the share of mutants that were caught."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        copy = Path(folder)
        copy_tree(copy)
        configure(copy, module, tests)
        undecorate(copy / module)
        names = [f"*{only}*"] if only else []
        command = [sys.executable, "-m", "mutmut", "run", "--max-children", str(children), *names]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(copy / "adapters")}
        done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)
        found = copy / "mutants" / f"{module}.meta"
        if done.returncode or not found.exists():
            sys.exit(f"{module}: mutmut stopped\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
        codes = json.loads(found.read_text("utf-8"))["exit_code_by_key"]
        judged = {name: code for name, code in codes.items() if code not in LEFT_OUT}
        survivors = [name for name, code in judged.items() if code in SURVIVED]
        caught = len(judged) - len(survivors)
        share = caught / len(judged) if judged else 1.0
        print(f"{module}: {caught} of {len(judged)} caught, {share:.1%}, {time.monotonic() - began:.0f} s", flush=True)
        for name in survivors:
            shown = subprocess.run(
                [sys.executable, "-m", "mutmut", "show", name], cwd=copy, capture_output=True, text=True
            )
            changed = [
                line for line in shown.stdout.splitlines() if line[:1] in "+-" and line[:3] not in ("+++", "---")
            ]
            print(f"  {name.rpartition('.')[2]} ({SURVIVED[judged[name]]})", *changed, sep="\n    ", flush=True)
    return share


def copy_tree(target: Path) -> None:
    """Every file of the repository but ignored ones."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


class _DecoratorsAsCalls(cst.CSTTransformer):
    """``@d`` above a module-level function becomes ``f = d(f)`` below it, which means the same."""

    def leave_Module(self, original_node: cst.Module, updated_node: cst.Module) -> cst.Module:
        body: list[cst.BaseStatement] = []
        for statement in updated_node.body:
            if not isinstance(statement, cst.FunctionDef) or not statement.decorators:
                body.append(statement)
                continue
            value: cst.BaseExpression = statement.name
            for decorator in reversed(statement.decorators):
                value = cst.Call(decorator.decorator, [cst.Arg(value)])
            assign = cst.Assign([cst.AssignTarget(statement.name)], value)
            body += [statement.with_changes(decorators=[]), cst.SimpleStatementLine([assign])]
        return updated_node.with_changes(body=body)


def undecorate(module: Path) -> None:
    """Write the decorators of a module's functions as calls; mutmut leaves decorated functions out."""
    module.write_text(cst.parse_module(module.read_text("utf-8")).visit(_DecoratorsAsCalls()).code, "utf-8")


def configure(copy: Path, module: str, tests: list[str]) -> None:
    """Name the module and its tests to mutmut, in the copy."""
    settings = {
        "source_paths": ["xai_align"],
        "also_copy": ["adapters", "benchmarks", "examples", "docs", "README.md"],
        "only_mutate": [module],
        "do_not_mutate_patterns": WORDING,
        "pytest_add_cli_args_test_selection": [f"tests/{test}" for test in tests if (copy / "tests" / test).exists()],
        "pytest_add_cli_args": ["-q", "-m", "not slow and not gpu", "-p", "no:cacheprovider"],
        "use_git_change_detection": False,
    }
    lines = [f"{name} = {json.dumps(value)}" for name, value in settings.items()]
    with (copy / "pyproject.toml").open("a", encoding="utf-8") as file:
        file.write("\n[tool.mutmut]\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.exit(main())
