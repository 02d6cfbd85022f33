"""The documentation site is built without a warning, and its pages are where they should be."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("mkdocstrings", reason="the extra 'docs' is not installed")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    built = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    )
    assert built.returncode == 0, built.stderr
    return folder


@pytest.mark.slow
def test_the_first_page_is_the_overview_and_not_the_readme(site):
    assert "Start here" in (site / "index.html").read_text("utf-8")
    assert "See it" in (site / "project" / "index.html").read_text("utf-8")


@pytest.mark.slow
def test_a_name_of_the_reference_has_signature_and_example(site):
    page = (site / "api" / "pinet" / "index.html").read_text("utf-8")
    _, found, section = page.partition('id="xai_align.pinet.read_out"')
    assert found
    section = section.partition('class="doc doc-heading"')[2].partition('class="doc doc-heading"')[0]
    assert "feature_space" in section
    assert "<strong>Example</strong>" in section
    assert "Example::" not in page


@pytest.mark.slow
def test_pages_ask_no_other_host_for_anything(site):
    for page in (site / "index.html", site / "api" / "pinet" / "index.html"):
        text = page.read_text("utf-8")
        assert 'src="http' not in text
        assert "fonts.googleapis" not in text
