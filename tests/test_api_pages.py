"""The API reference has every public name, and its pages are made from docstrings that Markdown can show."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import xai_align

ROOT = Path(__file__).parents[1]
API = ROOT / "docs" / "api"
ADAPTERS = sorted(path.parent.name for path in (ROOT / "adapters").glob("*/__init__.py"))
#: Modules with a public interface: those with ``__all__``, and adapter_tools.
MODULES = ["xai_align", *(f"xai_align.{one.name}" for one in pkgutil.iter_modules(xai_align.__path__)), *ADAPTERS]


def shown() -> list[str]:
    """What the pages ask for: ``xai_align.pinet.read_out``, ..."""
    return [
        path for page in sorted(API.glob("*.md")) for path in re.findall(r"^::: (\S+)$", page.read_text("utf-8"), re.M)
    ]


def found(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def public() -> dict[str, Any]:
    names: dict[str, Any] = {}
    for name in MODULES:
        if not name.endswith(("__main__", "._tools", ".cli")):
            module = importlib.import_module(name)
            names |= {f"{name}.{one}": getattr(module, one) for one in getattr(module, "__all__", ())}
    return {path: value for path, value in names.items() if not isinstance(value, ModuleType)}


def test_every_public_name_is_in_the_reference():
    values = {path: found(path) for path in shown()}
    missing = []
    for path, value in public().items():
        is_thing = inspect.isclass(value) or inspect.isfunction(value)
        if path not in values and not (is_thing and any(value is other for other in values.values())):
            missing.append(path)
    assert [path for path in missing if path != "xai_align.hookimpl"] == []
    assert values["xai_align.hookspecs.hookimpl"] is xai_align.hookimpl


def leads_somewhere(path: str) -> bool:
    """Whether a path is a module, or a chain of attributes or fields of one."""
    module, names = path, []
    while module not in sys.modules:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError:
            module, _, name = module.rpartition(".")
            names.insert(0, name)
    value: Any = sys.modules[module]
    for name in names:
        if not hasattr(value, name):
            return name in getattr(value, "__dataclass_fields__", ())
        value = getattr(value, name)
    return True


def test_references_in_docstrings_lead_somewhere():
    files = [*(ROOT / "xai_align").rglob("*.py"), *(ROOT / "adapters").rglob("*.py")]
    paths = {path for one in files for path in re.findall(r":\w+:`~?(\w+_align\.[\w.]+)`", one.read_text("utf-8"))}
    assert len(paths) > 100
    assert [path for path in sorted(paths) if not leads_somewhere(path)] == []


def test_nothing_is_shown_twice():
    values = [id(found(path)) for path in shown()]
    assert len(values) == len(set(values))


@pytest.mark.parametrize("path", shown())
def test_a_function_is_not_taken_for_the_module_of_its_name(path):
    # the pages are made from files: there, xai_align.pinet.default_layers is the module
    assert not (ROOT / f"{path.replace('.', '/')}.py").is_file()


def test_the_first_page_names_all_of_the_package():
    text = (API / "index.md").read_text("utf-8")
    assert [name for name in xai_align.__all__ if f"[`{name}`](" not in text] == []


@pytest.fixture
def markdown_of(monkeypatch):
    pytest.importorskip("griffe", reason="the extra 'docs' is not installed")
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    yield importlib.import_module("docstring_markup").markdown_of
    sys.modules.pop("docstring_markup")


def test_roles_and_examples_become_markdown(markdown_of):
    docstring = "Find a :class:`~a.b.Layer`.\n\nExample::\n\n    one = 1\n\n    two = 2\n\nArgs:\n    x: a\n"
    assert markdown_of(docstring) == (
        'Find a <autoref identifier="a.b.Layer" optional><code>Layer</code></autoref>.\n\n'
        "**Example**\n\n```python\none = 1\n\ntwo = 2\n```\n\nArgs:\n    x: a"
    )


def test_no_docstring_of_the_reference_keeps_other_markup(markdown_of):
    for path in shown():
        text = markdown_of(inspect.getdoc(found(path)) or "")
        assert not re.search(r":[a-z]+:`|Example::", text), path
