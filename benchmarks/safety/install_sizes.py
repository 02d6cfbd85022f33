"""Print the number of packages and megabytes of an installation, by extra, from the packages of this environment.

    python -m benchmarks.safety.install_sizes

PyTorch with its dependencies (on Linux the CUDA libraries, unless its CPU wheels were installed first) is separate.
"""

from __future__ import annotations

import argparse
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from benchmarks.shared.markdown import heading, row

EXTRAS = ("gradcam", "train", "lightning", "compare", "hf", "export", "serve", "demo", "all")


def closure(name: str, extras: frozenset[str], found: dict[str, set[str]]) -> None:
    """Add a package and all that it needs to ``found``: its name and the extras of it that were followed."""
    name = canonicalize_name(name)
    new = {"", *extras} - found.get(name, set())
    if not new:
        return
    found.setdefault(name, set()).update(new)
    for line in distribution(name).requires or ():
        requirement = Requirement(line)
        if requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in new):
            try:
                closure(requirement.name, frozenset(requirement.extras), found)
            except PackageNotFoundError:
                found.setdefault(f"{canonicalize_name(requirement.name)} (not installed here)", set())


def names(package: str, *extras: str) -> set[str]:
    found: dict[str, set[str]] = {}
    closure(package, frozenset(extras), found)
    return set(found)


def megabytes(packages: set[str]) -> float:
    return sum(_size(name) for name in packages if "not installed" not in name) / 1e6


def _size(name: str) -> int:
    files = [Path(str(file.locate())) for file in distribution(name).files or ()]
    return sum(file.stat().st_size for file in files if file.is_file())


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    torch, base = names("torch"), names("xai-align")
    known = distribution("xai-align").metadata.get_all("Provides-Extra") or []
    print(heading("installation", "packages", "MB", "brings"))
    print(row("torch", len(torch), f"{megabytes(torch):,.0f}", ""))
    print(row("xai-align, beside torch", len(base - torch), f"{megabytes(base - torch):,.0f}", ""))
    for extra in (one for one in EXTRAS if one in known):
        more = names("xai-align", extra) - base
        largest = sorted(more, key=lambda name: -_size(name) if "not installed" not in name else 0)[:4]
        print(row(f"[{extra}] adds", len(more), f"{megabytes(more):,.0f}", ", ".join(largest)))


if __name__ == "__main__":
    main()
