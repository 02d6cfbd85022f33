"""The files around the code: they parse, they agree with each other, and what they link to is there."""

from __future__ import annotations

import configparser
import re
import tomllib
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

import xai_align
from xai_align.cli.app import app

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
YAML_FILES = sorted(
    path
    for pattern in ("*.yml", "*.yaml", "*.cff", ".github/**/*.yml", ".pre-commit-config.yaml")
    for path in ROOT.glob(pattern)
)
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.glob("**/*.md"), *(ROOT / ".github").glob("*.md")])

CODE = re.compile(r"^ *```.*?^ *```$|`[^`\n]*`", re.MULTILINE | re.DOTALL)
LINKS = (
    re.compile(r"\]\(\s*<?([^)>\s]+)>?(?:\s+[\"'(][^)]*)?\)"),  # [text](target), ![text](target "title")
    re.compile(r"^ {0,3}\[[^\]]+\]:\s*<?([^>\s]+)", re.MULTILINE),  # [label]: target
    re.compile(r"<(?:a|img|source)\b[^>]*?\b(?:href|src|srcset)=[\"']([^\"'\s]+)", re.IGNORECASE),
)
HEADING = re.compile(r"^ {0,3}#{1,6}\s+(.*?)\s*#*$", re.MULTILINE)


def parse(path: Path):
    return yaml.safe_load(path.read_text("utf-8"))


# ---------------------------------------------------------------- links


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to a page's headings, and those written as HTML."""
    text = re.sub(r"^ *```.*?^ *```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    found: set[str] = set()
    for match in HEADING.finditer(text):
        words = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", match[1]).replace("`", "").lower()
        slug = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        number = 0
        while (anchor := f"{slug}-{number}" if number else slug) in found:
            number += 1
        found.add(anchor)
    return found | set(re.findall(r"\b(?:id|name)=[\"']([^\"']+)", text))


def broken_links(page: Path) -> list[str]:
    """The relative links of a page that lead to no file, out of the repository, or to no heading."""
    text = CODE.sub("", page.read_text("utf-8"))
    broken = []
    for link in (match[1] for pattern in LINKS for match in pattern.finditer(text)):
        if re.match(r"[a-z][a-z0-9+.-]*:|//", link, re.IGNORECASE):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and (target.suffix != ".md" or anchor not in anchors(target))):
            broken.append(link)
    return broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    assert broken_links(page) == []


def test_broken_links_are_found(tmp_path):
    (tmp_path / "there.md").write_text("# One `heading`, twice\n\n# One heading twice\n\n```\n# no heading\n```\n")
    (tmp_path / "picture.svg").touch()
    good = (
        "[a](there.md) ![b](picture.svg) [c](there.md#one-heading-twice) [d](there.md#one-heading-twice-1) [e](#here)\n"
        "[f](https://example.org/nothing.md) `[g](nothing.md)`\n\n## Here\n\n```\n[h](nothing.md)\n```\n"
    )
    page = tmp_path / "page.md"
    page.write_text(good)
    assert broken_links(page) == []
    bad = (
        '[a](gone-1.md) ![b](gone-2.png "title") [c](there.md#no-heading) [d](#nowhere) <img src="gone-3.png">\n\n'
        "[label]: gone-4.md\n"
    )
    page.write_text(good + bad)
    assert sorted(broken_links(page)) == [
        "#nowhere", "gone-1.md", "gone-2.png", "gone-3.png", "gone-4.md", "there.md#no-heading",
    ]  # fmt: skip


# ---------------------------------------------------------------- the site


def entries(navigation) -> list[str]:
    """The pages of a navigation of MkDocs, sections included."""
    if isinstance(navigation, str):
        return [navigation]
    inner = navigation.values() if isinstance(navigation, dict) else navigation
    return [page for part in inner for page in entries(part)]


def test_every_page_is_in_the_navigation_once():
    pages = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.glob("**/*.md"))
    assert sorted(entries(parse(ROOT / "mkdocs.yml")["nav"])) == pages


@pytest.mark.parametrize("folder", [DOCS, DOCS / "api", DOCS / "start"], ids=lambda folder: folder.name)
def test_the_overview_links_to_every_page(folder):
    overview = (folder / "index.md").read_text("utf-8")
    assert {f"]({page.name})" for page in folder.glob("*.md") if page.name != "index.md"} <= set(
        re.findall(r"\]\([^)]*\)", overview)
    )


def test_the_site_is_built_with_what_its_extra_names():
    tox = configparser.ConfigParser(interpolation=None)
    tox.read(ROOT / "tox.ini")
    assert tox["testenv:docs"]["deps"].split() == PYPROJECT["project"]["optional-dependencies"]["docs"]


# ---------------------------------------------------------------- what the descriptions of the code name


@pytest.mark.parametrize("page", [DOCS / "architecture.md", ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_paths_that_are_named_exist(page):
    folders = "xai_align|adapters|tests|benchmarks|docs|scripts|examples"
    named = re.findall(rf"`((?:{folders})/[^`\s]*)`", page.read_text("utf-8"))
    assert named
    # in a path for a file to be written, NAME stands for its name: there is one like it already
    assert [path for path in named if not list(ROOT.glob(path.replace("NAME", "*").rstrip("/")))] == []


def test_the_architecture_lists_every_package():
    rows = re.findall(r"^\| `((?:xai_align|adapters)/\w+)/` \|", (DOCS / "architecture.md").read_text("utf-8"), re.M)
    packages = [path.parent for folder in ("xai_align", "adapters") for path in ROOT.glob(f"{folder}/*/__init__.py")]
    assert sorted(rows) == sorted(path.relative_to(ROOT).as_posix() for path in packages)


# ---------------------------------------------------------------- the version


def test_there_is_one_version():
    from hatchling.metadata.core import ProjectMetadata
    from hatchling.plugin.manager import PluginManager

    assert "version" not in PYPROJECT["project"]
    assert ProjectMetadata(str(ROOT), PluginManager()).version == xai_align.__version__
    assert CliRunner().invoke(app, ["--version"]).output.split() == ["xai-align", xai_align.__version__]
    assert "version" not in parse(ROOT / "CITATION.cff")


def test_the_changelog_is_in_order():
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    unreleased, *releases = re.findall(r"^## (.*)$", text, re.M)
    assert unreleased == "Unreleased"
    found = [re.fullmatch(r"(\d+)\.(\d+)\.(\d+) - \d{4}-\d\d-\d\d", release) for release in releases]
    versions = [tuple(map(int, match.groups())) for match in found]
    assert versions == sorted(versions, reverse=True)
    groups = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert set(re.findall(r"^### (.*)$", text, re.M)) <= groups


# ---------------------------------------------------------------- configuration


@pytest.mark.parametrize("path", YAML_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_yaml_parses(path):
    assert isinstance(parse(path), dict)


def test_the_citation_has_what_the_format_requires():
    citation = parse(ROOT / "CITATION.cff")
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["license"] == PYPROJECT["project"]["license"]
    for work in (citation, *citation["references"]):
        assert work["title"]
        assert all({"given-names", "family-names"} <= author.keys() or "name" in author for author in work["authors"])
    for reference in citation["references"]:
        assert reference["type"] in {"article", "conference-paper"}
        (identifier,) = (one["value"].removeprefix("arXiv:") for one in reference["identifiers"])
        assert reference["url"].endswith(f"/{identifier}")
        assert f"arXiv {identifier}" in (ROOT / "README.md").read_text("utf-8")  # the README names the same sources


def test_workflows_run_environments_that_exist_and_can_only_read():
    tox = configparser.ConfigParser(interpolation=None)
    tox.read(ROOT / "tox.ini")
    assert tox["tox"]["env_list"] == "py311"  # what `tox` runs, and so what the README's command runs
    known = {section.removeprefix("testenv:") for section in tox.sections()} - {"py{312,313}"} | {
        "py311",
        "py312",
        "py313",
    }
    run: set[str] = set()
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        workflow = parse(path)
        assert workflow["permissions"] == {"contents": "read"}
        for job in workflow["jobs"].values():
            matrix = job["strategy"]["matrix"]
            run |= {*matrix.get("env", ()), *(row["env"] for row in matrix.get("include", ()))}
            for step in job["steps"]:
                assert re.fullmatch(r"[\w-]+/[\w-]+@v\d+", step.get("uses", "actions/none@v0"))
    assert run <= known
    assert run >= {"py311", "py312", "py313", "lint", "types", "lowest", "coverage", "docs", "wheel"}


def test_every_installed_package_is_typed_and_measured():
    packages = {Path(path).name for path in PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]}
    assert set(PYPROJECT["tool"]["mypy"]["packages"]) == packages | {"xai_align_experiments"}  # an example
    assert set(PYPROJECT["tool"]["coverage"]["run"]["source_pkgs"]) == packages


def test_issue_forms_have_fields_with_names_of_their_own():
    forms = [path for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml"]
    assert len(forms) == 3
    for form in map(parse, forms):
        assert {"name", "description", "body"} <= form.keys()
        fields = [field for field in form["body"] if field["type"] != "markdown"]
        assert all(field["attributes"]["label"] for field in fields)
        assert len({field["id"] for field in fields}) == len(fields)
        assert any(field.get("validations", {}).get("required") for field in fields)
