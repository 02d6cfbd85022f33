"""What the documentation shows runs as it is shown."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from xai_align.hookspecs import HookSpecs
from xai_align.pinet.gates import rule_registry

ROOT = Path(__file__).parents[1]
PLUGINS = ROOT / "docs" / "plugins.md"
PAGES = (
    ROOT / "README.md",
    *(
        ROOT / "docs" / f"{name}.md"
        for name in (
            "readout",
            "models",
            "pinet",
            "align",
            "fei",
            "judging",
            "gradcam",
            "attention",
            "export",
            "training",
        )
    ),
    PLUGINS,
)
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path) -> list[pytest.ParameterSet]:
    """The Python blocks of a page, each padded so that errors give the line of the page."""
    text = page.read_text(encoding="utf-8")
    starts = [(text[: match.start(1)].count("\n"), match.group(1)) for match in BLOCK.finditer(text)]
    return [pytest.param(page, "\n" * line + code, id=f"{page.stem}-line-{line + 1}") for line, code in starts]


@pytest.mark.filterwarnings("error::xai_align.align.training.collapse.CollapseWarning")  # no first sight for a newcomer
@pytest.mark.parametrize(("page", "code"), [block for page in PAGES for block in blocks(page)])
def test_example_runs(page, code, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # an example may write files
    monkeypatch.setattr(rule_registry, "_rules", dict(rule_registry._rules))  # an example may teach a rule
    monkeypatch.setattr(rule_registry, "_found", {})
    exec(compile(code, str(page), "exec"), {"__name__": "example"})


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
