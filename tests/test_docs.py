"""What the documentation shows runs as it is shown."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from xai_align.hookspecs import HookSpecs

PLUGINS = Path(__file__).parents[1] / "docs" / "plugins.md"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path) -> list[pytest.ParameterSet]:
    """The Python blocks of a page, each padded so that errors give the line of the page."""
    text = page.read_text(encoding="utf-8")
    starts = [(text[: match.start(1)].count("\n"), match.group(1)) for match in BLOCK.finditer(text)]
    return [pytest.param("\n" * line + code, id=f"{page.stem}-line-{line + 1}") for line, code in starts]


@pytest.mark.parametrize("code", blocks(PLUGINS))
def test_example_runs(code):
    exec(compile(code, str(PLUGINS), "exec"), {"__name__": "example"})


@pytest.mark.parametrize("hook", [name for name in vars(HookSpecs) if name.startswith("xai_align_")])
def test_every_hook_has_its_heading_and_example(hook):
    text = PLUGINS.read_text(encoding="utf-8")
    _, found, section = text.partition(f"\n## `{hook}`")
    assert found
    assert f"def {hook}(" in BLOCK.search(section.partition("\n## ")[0]).group(1)
