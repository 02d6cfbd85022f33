"""Distributions for tests, on a path of their own, as an installer would put them there."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points
from pathlib import Path
from textwrap import dedent

from xai_align import plugins

HEADER = """
from torch import nn
from xai_align.hookspecs import AttributionSpec, FeatureSpace, LoadedModel, MetricSpec, TrainingRecipeSpec, hookimpl

def method(name):
    return AttributionSpec(name=name, build=dict, summary="a test's")

def measure(name):
    return MetricSpec(name=name, evaluate=dict, higher_is_better=True, summary="a test's")

def training(name, build=dict):
    return TrainingRecipeSpec(name=name, build=build, summary="a test's")
"""


class Site:
    """A folder on the path with distributions in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.modules: list[str] = []

    def add(self, name: str, code: str, *, distribution: str = "", version: str = "1.2") -> str:
        """Install a distribution with one module and one plugin ``name`` that is this module."""
        distribution = distribution or f"{name}-dist"
        module = f"module_of_{distribution}_{name}".replace("-", "_")
        self.module(module, HEADER + dedent(code))
        self.distribution(distribution, version, {name: module})
        return module

    def module(self, module: str, code: str) -> None:
        (self.folder / f"{module}.py").write_text(dedent(code))
        self.modules.append(module)
        importlib.invalidate_caches()

    def distribution(self, distribution: str, version: str, plugins_of_it: dict[str, str]) -> None:
        """Write what an installer writes, without a module; further plugins are added to those that are there."""
        info = self.folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        stanza = info / "entry_points.txt"
        so_far = stanza.read_text() if stanza.exists() else "[xai_align]\n"
        stanza.write_text(so_far + "".join(f"{name} = {module}\n" for name, module in plugins_of_it.items()))
        importlib.invalidate_caches()
        plugins.reset_plugins()


@contextmanager
def site_in(folder: Path, monkeypatch, *, keep: tuple[str, ...] = ()) -> Iterator[Site]:
    """Inside, the only plugins in use are the test's, and those of the environment that are named in ``keep``."""
    installed = {entry_point.name for entry_point in entry_points(group="xai_align")}
    monkeypatch.setenv("XAI_ALIGN_DISABLED_PLUGINS", ",".join(sorted(installed - {*keep})))
    monkeypatch.delenv("XAI_ALIGN_STRICT", raising=False)
    monkeypatch.syspath_prepend(str(folder))
    plugins.reset_plugins()
    site = Site(folder)
    try:
        yield site
    finally:
        for module in site.modules:
            sys.modules.pop(module, None)
        plugins.reset_plugins()
