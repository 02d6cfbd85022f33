"""The runner of the benchmarks lists each with a line and runs it, and no page names a script that is not there."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from argparse import ArgumentTypeError
from pathlib import Path

import pytest

from benchmarks.__main__ import benchmarks, listing, main
from benchmarks.shared.positive_integer import positive_integer

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "benchmarks").rglob("*.py"))
NAMES = [one.name for one in benchmarks()]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
    *(page for folder in ("benchmarks", "docs", "examples") for page in (ROOT / folder).rglob("*.md")),
]
SOURCES = [*FILES, *(ROOT / "xai_align").rglob("*.py")]
#: Imports modules one after the other and prints which are missing something and what else the imports did.
IMPORTS = """
import importlib, json, os, sys, threading
import torch
missing, before = {}, (torch.get_rng_state().tolist(), torch.get_num_threads(), torch.get_default_dtype(), sys.argv[:])
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing[name] = error.name
after = (torch.get_rng_state().tolist(), torch.get_num_threads(), torch.get_default_dtype(), sys.argv)
print(json.dumps([missing, before == after, os.listdir(), threading.active_count()]))
"""


def test_every_script_is_listed_with_a_line():
    scripts = [file for file in FILES if "ArgumentParser(" in file.read_text("utf-8") or file.stem == "inversion"]
    assert len(scripts) > 20
    assert {f"{file.parent.name}.{file.stem}" for file in scripts} <= set(NAMES)
    text = listing()
    lines = text.splitlines()
    for one in benchmarks():
        assert one.summary.endswith(".")
        assert not re.match(r"(What|How|When|Where|Why|Is|Does|Can)\b", one.summary), one.name
        (line,) = [line for line in lines if line.split()[:1] == [one.name]]
        assert line.endswith(one.summary)
        assert not one.takes or one.takes in text


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_a_module_only_defines(file):
    first, *others = ast.parse(file.read_text("utf-8")).body
    assert isinstance(first, ast.Expr)
    assert isinstance(first.value, ast.Constant), "no docstring"
    expressions = [one.value for one in others if isinstance(one, ast.Expr)]
    assert [ast.unparse(one) for one in expressions if not isinstance(one, ast.Constant)] == []


def test_imports_do_nothing_else(tmp_path):
    modules = [f"benchmarks.{name}" for name in NAMES]
    command = [sys.executable, "-c", IMPORTS, *modules]
    path = [str(ROOT), str(ROOT / "adapters"), *sys.path]
    environment = {"PYTHONPATH": ":".join(filter(None, path)), "PATH": "", "HOME": str(tmp_path / "home")}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, env=environment)
    (line,) = done.stdout.splitlines()
    missing, is_same, files, threads = json.loads(line)
    ours = ("benchmarks", "xai_align", "captum_align", "timm_align", "gradcam_align")
    assert {name: module for name, module in missing.items() if module.partition(".")[0] in ours} == {}
    assert (is_same, [file for file in files if file != "home"], threads) == (True, [], 1)


def problems(text: str) -> list[str]:
    """Commands and paths of a text that lead to no script."""
    quoted = re.findall(r"python -m benchmarks[. ]([a-z_]+(?:\.[a-z_]+)?)", text)
    paths = re.findall(r"\bbenchmarks/[\w/]+\.\w+", text)
    found = [name for name in quoted if name not in NAMES] + [path for path in paths if not (ROOT / path).exists()]
    return found + re.findall(r"python benchmarks/[\w/.]+", text)  # scripts of a package run by `python -m`


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_name_of_a_script_on_a_page_is_one(page):
    assert problems(page.read_text("utf-8")) == []


def test_every_name_of_a_script_in_the_sources_is_one():
    assert {str(file): found for file in SOURCES if (found := problems(file.read_text("utf-8")))} == {}


def test_names_of_scripts_that_are_gone_are_found():
    text = "`python -m benchmarks.fei_cost`, `python benchmarks/readout_speed.py`, `benchmarks/align.py`"
    gone = ["fei_cost", "benchmarks/readout_speed.py", "benchmarks/align.py", "python benchmarks/readout_speed.py"]
    assert problems(text) == gone


@pytest.mark.parametrize(("page", "least"), [("RESULTS.md", 20), ("CLAIMS.md", 12)])
def test_every_claim_names_its_script(page, least):
    text = (ROOT / "benchmarks" / page).read_text("utf-8")
    folders = "|".join({name.partition(".")[0] for name in NAMES})
    quoted = set(re.findall(rf"`((?:{folders})\.[a-z_]+)`", text))
    assert len(quoted) > least
    assert quoted <= set(NAMES)


def faults_of_claims(text: str) -> list[str]:
    """Rows on claims of papers without a verdict, or whose command is no benchmark and no test."""
    found = []
    for line in text.splitlines():
        if not line.startswith("| ") or line.startswith("| theirs "):
            continue
        cells = line.strip("| ").split(" | ")
        commands = cells[-1].split(", ")
        is_tried = not cells[-2].startswith("**not tried**")
        if len(cells) != 4 or not re.match(r"\*\*(confirmed|not confirmed|the opposite|not tried)\*\*", cells[-2]):
            found.append(line)
        elif is_tried or commands != ["–"]:
            found += [one for one in commands if not is_command(one)]
    return found


def is_command(quoted: str) -> bool:
    """Whether a name in backticks is a benchmark, a file of tests or a test in one."""
    file, _, test = quoted.strip("`").partition("::")
    if not re.fullmatch(r"`[^`]+`", quoted) or not file.startswith("tests/"):
        return quoted.strip("`") in NAMES
    return (ROOT / file).is_file() and (not test or f"\ndef {test}(" in (ROOT / file).read_text("utf-8"))


def test_every_claim_of_a_paper_has_a_verdict_and_a_command():
    text = (ROOT / "benchmarks" / "CLAIMS.md").read_text("utf-8")
    assert text.count("\n| theirs | ours | | command |\n") == text.count("\n## ") > 5
    assert faults_of_claims(text) == []


def test_claims_without_a_verdict_or_with_a_command_that_is_gone_are_found():
    rows = [
        "| a | b | **confirmed** | `readout.speed`, `tests/test_readout.py` |",
        "| a | b | **not tried**: no data | – |",
        "| a | b | **confirmed** | – |",
        "| a | b | confirmed | `readout.speed` |",
        "| a | **confirmed** | `readout.speed` |",
        "| a | b | **the opposite** | `readout.sped`, `tests/test_gone.py`, `tests/test_readout.py::test_` |",
    ]
    gone = ["`readout.sped`", "`tests/test_gone.py`", "`tests/test_readout.py::test_`"]
    assert faults_of_claims("\n".join(rows)) == ["–", rows[3], rows[4], *gone]


@pytest.mark.parametrize(
    "page", sorted((ROOT / "benchmarks").rglob("*.md")), ids=lambda page: str(page.relative_to(ROOT))
)
def test_links_between_results_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text("utf-8")):
        file, _, anchor = target.partition("#")
        text = (page.parent / file).read_text("utf-8") if file else page.read_text("utf-8")
        headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
        anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
        assert not anchor or anchor in anchors, target


def test_a_benchmark_runs_with_its_options(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmarks", "fei.variants", "--help"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert "--network" in capsys.readouterr().out


def test_an_unknown_name_is_refused_with_the_nearest(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["benchmarks", "readout.sped"])
    with pytest.raises(SystemExit, match=r"no benchmark readout\.sped\. Did you mean readout\.speed"):
        main()


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_without_a_name_it_lists(monkeypatch, capsys, arguments):
    monkeypatch.setattr(sys, "argv", ["benchmarks", *arguments])
    main()
    assert capsys.readouterr().out == listing() + "\n"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_that_is_not_made_again_is_written_as_a_whole(path):
    """Of ``file.exists()``: a program that is stopped while it writes would go on with half a file."""
    calls = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)]
    called = [(call, ast.unparse(call.func)) for call in calls]
    kept = {name.removesuffix(".exists") for _, name in called if name.endswith(".exists")}
    written = {name.removesuffix(".write_text") for _, name in called if name.endswith(".write_text")}
    written |= {ast.unparse(call.args[1]) for call, name in called if name == "torch.save" and len(call.args) > 1}
    assert not kept & written


@pytest.mark.parametrize("text", ["-3", "0", "1.5", "", "ten", "1_000", "²"])
def test_a_count_is_a_positive_integer(text):
    assert positive_integer("12") == 12
    with pytest.raises(ArgumentTypeError, match="is not a positive integer; give 1 or more"):
        positive_integer(text)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_whole_numbers_that_are_no_seeds_are_counts(file):
    for call in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "add_argument":
            types = [ast.unparse(one.value) for one in call.keywords if one.arg == "type"]
            assert types != ["int"] or "seed" in ast.unparse(call.args[0]), ast.unparse(call)
