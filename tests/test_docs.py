"""What the documentation shows runs as it is shown."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from xai_align.cli.app import app
from xai_align.data.photographs import FOLDER as PHOTOGRAPHS
from xai_align.hookspecs import HookSpecs
from xai_align.pinet.gates import rule_registry

ROOT = Path(__file__).parents[1]
PLUGINS = ROOT / "docs" / "plugins.md"
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md")))
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path) -> list[pytest.ParameterSet]:
    """The Python blocks of a page, each padded so that errors give the line of the page."""
    text = page.read_text(encoding="utf-8")
    starts = [(text[: match.start(1)].count("\n"), match.group(1)) for match in BLOCK.finditer(text)]
    return [
        pytest.param(page, "\n" * line + code, id=f"{page.relative_to(ROOT)}-line-{line + 1}") for line, code in starts
    ]


@pytest.mark.filterwarnings("error::xai_align.align.training.collapse.CollapseWarning")  # no first sight for a newcomer
@pytest.mark.parametrize(("page", "code"), [block for page in PAGES for block in blocks(page)])
def test_example_runs(page, code, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # an example may write files
    monkeypatch.setattr(rule_registry, "_rules", dict(rule_registry._rules))  # an example may teach a rule
    monkeypatch.setattr(rule_registry, "_found", {})
    exec(compile(code, str(page), "exec"), {"__name__": "example"})


STARTS = sorted((ROOT / "docs" / "start").glob("*.md"))
SHELL = re.compile(r"^```(python|bash)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SAVED = re.compile(r'\.save(?:fig)?\("(.*?\.png)"')
COMMAND = re.compile(r"^xai-align (explain .*)$", re.MULTILINE)


@pytest.mark.parametrize(
    "page", [page for page in STARTS if COMMAND.search(page.read_text("utf-8"))], ids=lambda page: page.stem
)
def test_start_leaves_the_pictures_that_it_says(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(PHOTOGRAPHS / "chelsea.jpg", "photo.jpg")
    for language, code in SHELL.findall(page.read_text("utf-8")):
        if language == "python":
            exec(compile(code, str(page), "exec"), {"__name__": "example"})
            assert [name for name in SAVED.findall(code) if not Path(name).stat().st_size] == []
            continue
        for command in COMMAND.findall(code):
            shutil.rmtree("explained", ignore_errors=True)
            result = CliRunner().invoke(app, shlex.split(command, comments=True))
            assert result.exit_code == 0, result.output
            methods = re.search(r"--method (\S+)", command)
            assert len(list(Path("explained").glob("*.png"))) == len(methods[1].split(",") if methods else ["pinet"])


@pytest.mark.parametrize("hook", [name for name in vars(HookSpecs) if name.startswith("xai_align_")])
def test_every_hook_has_its_heading_and_example(hook):
    text = PLUGINS.read_text(encoding="utf-8")
    _, found, section = text.partition(f"\n## `{hook}`")
    assert found
    assert f"def {hook}(" in BLOCK.search(section.partition("\n## ")[0]).group(1)


def test_continuous_integration_runs_the_commands_of_the_readme():
    readme, script = (
        (ROOT / "README.md").read_text(encoding="utf-8"),
        (ROOT / ".ci" / "run").read_text(encoding="utf-8"),
    )
    for command in ("demo", "tests"):
        assert f"<!-- command: {command} -->" in readme
        assert f"run_readme_command {command}" in script
