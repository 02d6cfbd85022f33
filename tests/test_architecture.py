"""Order of the packages: imports point downwards, and there are no import cycles."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CORE, ADAPTERS = ROOT / "xai_align", ROOT / "adapters"
#: From the top down; packages of one layer may import each other's modules, but not in a cycle.
LAYERS = (
    {"__main__"},
    {"cli"},
    {"__init__"},
    {"report"},
    {"comparison"},
    {"testing"},
    {"explanation", "builtin"},
    {"align", "fei", "prototypes"},
    {"training", "evaluation", "export"},
    {"perturbation", "pinet"},
    {"features"},
    {"data", "plugins", "question", "hookspecs", "adapter_tools"},
    {"_tools"},
)
LAYER_OF = {package: len(LAYERS) - number for number, packages in enumerate(LAYERS) for package in packages}
#: The packages that only their own adapter knows.
ECOSYSTEMS = {
    "captum": "captum_align",
    "timm": "timm_align",
    "pytorch_grad_cam": "gradcam_align",
    "torchvision": "torchvision_align",
    "transformers": "hf_align",
}
#: ``attention_align`` knows PyTorch's own attention and no further package.
ADAPTER_NAMES = {*ECOSYSTEMS.values(), "attention_align"}
#: The public modules; nothing else lies at the root.
AT_THE_ROOT = {"__init__", "__main__", "adapter_tools", "builtin", "explanation", "hookspecs", "question"}


def name_of(file: Path) -> str:
    """The dotted name of a module; a package by its own name."""
    base = CORE.parent if file.is_relative_to(CORE) else ADAPTERS
    parts = file.relative_to(base).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def modules() -> dict[str, Path]:
    return {name_of(file): file for folder in (CORE, ADAPTERS) for file in folder.rglob("*.py")}


@cache
def imported(name: str) -> frozenset[str]:
    """Modules that a module imports anywhere: at its head, for types only, inside functions."""
    return frozenset(_imports(ast.parse(modules()[name].read_text("utf-8"))))


def _imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            for alias in node.names:
                inside = f"{node.module}.{alias.name}"
                yield inside if inside in modules() else str(node.module)


def package_of(name: str) -> str:
    """The package of a module of the core: the folder, or the file at the root."""
    parts = name.split(".")
    return "__init__" if len(parts) == 1 else parts[1]


def core() -> list[str]:
    return [name for name in modules() if name.split(".")[0] == "xai_align"]


def test_every_module_is_in_a_known_package():
    assert {package_of(name) for name in core()} == set(LAYER_OF)
    assert {file.stem for file in CORE.glob("*.py")} == AT_THE_ROOT


@pytest.mark.parametrize("package", sorted(LAYER_OF))
def test_imports_point_downwards(package):
    wrong = [
        f"{name} imports {other}"
        for name in core()
        if package_of(name) == package
        for other in imported(name)
        if other.split(".")[0] == "xai_align" and LAYER_OF[package_of(other)] > LAYER_OF[package]
    ]
    assert not wrong


@pytest.mark.parametrize("method", ["align", "fei", "prototypes"])
def test_methods_do_not_import_evaluation_or_reports(method):
    wrong = [
        f"{name} imports {other}"
        for name in core()
        if package_of(name) == method
        for other in imported(name)
        if other.split(".")[0] == "xai_align" and package_of(other) in {"evaluation", "comparison", "report"}
    ]
    assert not wrong


def test_there_are_no_import_cycles():
    assert not cycles({name: imported(name) & set(modules()) for name in modules()})


def cycles(graph: dict[str, frozenset[str]]) -> list[set[str]]:
    """Modules that reach each other: strongly connected, more than one of them."""
    reach: dict[str, set[str]] = {}
    for start in graph:
        seen: set[str] = set()
        left = [*graph[start]]
        while left:
            name = left.pop()
            if name not in seen:
                seen.add(name)
                left += graph[name]
        reach[start] = seen
    return [{name, other} for name in graph for other in reach[name] if name < other and name in reach[other]]


def test_cycles_are_found():
    graph = {"a": frozenset("b"), "b": frozenset("c"), "c": frozenset("b"), "d": frozenset("a")}
    assert cycles(graph) == [{"b", "c"}]


def test_the_curve_solver_knows_nothing_of_published_fei():
    """Entry points and the mean of both solvers import ``fei/published``; what both need lies in ``fei/`` itself."""
    published = "xai_align.fei.published"
    users = {
        name
        for name in core()
        if not name.startswith(published) and any(one.startswith(published) for one in imported(name))
    }
    assert users == {"xai_align.fei", "xai_align.fei.both", "xai_align.fei.optimize"}


@pytest.mark.parametrize("package", ["typer", "rich"])
def test_only_the_command_line_prints(package):
    users = {package_of(name) for name in core() if any(one.split(".")[0] == package for one in imported(name))}
    assert users <= {"cli"}


@pytest.mark.parametrize("package", [*ECOSYSTEMS])
def test_only_its_adapter_knows_an_ecosystem(package):
    users = {name.split(".")[0] for name in modules() if any(one.split(".")[0] == package for one in imported(name))}
    assert users <= {ECOSYSTEMS.get(package)}


def test_adapters_do_not_know_each_other():
    names = ADAPTER_NAMES
    assert names == {folder.parent.name for folder in ADAPTERS.glob("*/__init__.py")}
    wrong = [
        f"{name} imports {other}"
        for name in modules()
        for other in imported(name)
        if other.split(".")[0] in names - {name.split(".")[0]}
    ]
    assert not wrong


def test_adapters_know_only_public_names_of_the_core():
    wrong = [
        f"{name} imports {node.module}.{alias.name}"
        for name, file in modules().items()
        if not name.startswith("xai_align")
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("xai_align")
        for alias in node.names
        if any(part.startswith("_") for part in (*str(node.module).split("."), alias.name))
    ]
    assert not wrong


def test_no_method_is_known_by_name_outside_the_file_that_registers_it():
    """Neither pages nor the command line nor comparisons; a demo names what it shows."""
    from xai_align.plugins import attribution_methods

    registering = {"xai_align.builtin", "xai_align.evaluation.controls", "xai_align.cli.demo"}
    readers = [
        name
        for name in core()
        if package_of(name) in {"cli", "report", "comparison", "explanation", "evaluation", "testing", "plugins"}
        and name not in registering
    ]
    # words that mean other things too: a recipe, a preset, an order at random
    names = set(attribution_methods()) - {"align", "fei", "random"}
    wrong = [
        f"{name} names {found}"
        for name in readers
        for found in _strings(ast.parse(modules()[name].read_text("utf-8"))) & names
    ]
    assert not wrong


def _strings(tree: ast.AST) -> set[str]:
    return {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def test_random_state_is_set_in_one_package():
    """The process's generators are seeded and put back in ``_tools`` alone; generators of one's own are free."""
    touches = re.compile(
        r"torch\.manual_seed\(|fork_rng|np\.random\.(seed|set_state)\(|random\.(seed|setstate)\(|[sg]et_rng_state\("
    )
    wrong = [
        name
        for name in modules()
        if package_of(name) != "_tools" and touches.search(modules()[name].read_text("utf-8"))
    ]
    assert not wrong
