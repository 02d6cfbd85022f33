"""A hook of MkDocs: files outside docs/ that pages link to become part of the site.

On GitHub, pages link to scripts, licences and tables of results beside docs/. The site holds copies of what is
linked to, and of what those files link to, under the path that it has in the repository, and the links lead there.
A link to a folder leads to its README. MkDocs itself names links that lead nowhere.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
#: The path of a relative link, without its anchor.
PATH = re.compile(r"(?<=\]\()(?![a-z][a-z0-9+.-]*:|/)[^)\s#]+")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what the pages link to outside of docs/."""
    pages = list(files.documentation_pages())
    while pages:
        page = pages.pop()
        for match in PATH.finditer(page.content_string):
            path = _target(page, match.group())
            if path and files.get_file_from_path(_on_site(path)) is None:
                copy = File.generated(config, _on_site(path), abs_src_path=str(ROOT / path))
                files.append(copy)
                if copy.is_documentation_page():
                    pages.append(copy)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links lead to where their targets are on the site."""
    here = posixpath.dirname(page.file.src_uri) or "."

    def moved(match: re.Match[str]) -> str:
        path = _target(page.file, match.group())
        return posixpath.relpath(_on_site(path), here) if path else match.group()

    return PATH.sub(moved, markdown)


def _target(page: File, link: str) -> str | None:
    """The file of the repository that a page links to, by its path there; None if there is none."""
    folder = posixpath.dirname(page.src_uri if page.generated_by else f"docs/{page.src_uri}")
    path = posixpath.normpath(posixpath.join(folder, link))
    if (ROOT / path).is_dir():
        path = f"{path}/README.md"
    return path if (ROOT / path).is_file() else None


def _on_site(path: str) -> str:
    # MkDocs takes README.md for the first page, which is docs/index.md
    return "project.md" if path == "README.md" else path.removeprefix("docs/")
