"""An extension of Griffe, which reads docstrings for the site: roles of Sphinx and ``Example::`` become Markdown."""

from __future__ import annotations

import re
from textwrap import dedent
from typing import Any

from griffe import Extension, Object

#: ``:class:`~package.Name```, with the part that is shown.
ROLE = re.compile(r":[a-z]+:`~?(?:!)?([\w.]+)`")
#: The code behind ``Example::``, indented below it.
EXAMPLE = re.compile(r"^( *)Example::\n\n((?:\1 +.*\n|\n)+)", re.MULTILINE)


class DocstringMarkup(Extension):
    """Rewrites every docstring before its sections are read."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Rewrite the docstring of an object."""
        if obj.docstring is not None:
            obj.docstring.value = markdown_of(obj.docstring.value)


def markdown_of(docstring: str) -> str:
    """The docstring with links to what roles name, and its example as a block of Python."""
    return EXAMPLE.sub(_example, ROLE.sub(_link, docstring) + "\n").rstrip()


def _link(match: re.Match[str]) -> str:
    path = match[1]
    # optional: what is no part of the reference is shown without a link
    return f'<autoref identifier="{path}" optional><code>{path.rpartition(".")[2]}</code></autoref>'


def _example(match: re.Match[str]) -> str:
    return f"**Example**\n\n```python\n{dedent(match[2]).strip()}\n```\n\n"
