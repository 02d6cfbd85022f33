"""One of a thing is told in the singular, in every message, table and page."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from xai_align._tools.counted import counted

ROOT = Path(__file__).resolve().parents[1]
#: What commands and errors count, where one of them is an ordinary case.
THINGS = "image|picture|photograph|class|channel|layer|epoch|step|problem|explanation|prototype|score"
PLURAL = re.compile(rf" (?:(?:class|training|validation|held-out|labelled) )?(?:{THINGS})(?:e?s|\(e?s\))\b|^\(e?s\)")
#: Places where the number is two or more, or no number, by the file's name.
NEVER_ONE = {
    "__init__.py: {NUM_CLASSES}", "__init__.py: {at_least}", "batch_validation.py: {self.classes}",
    "class_sides.py: {what}", "classifier_terms.py: {logits.shape[1]}", "comparison_sentences.py: {JUDGED_FROM}",
    "comparison_table.py: {JUDGED_FROM}", "comparison_table.py: {asked}", "dataset_validation.py: {len(expected)}",
    "dataset_validation.py: {len(numbers)}", "ensemble.py: {classes}", "explain_files.py: {explained}",
    "fit.py: {len(features.sums)}", "fit_epic_folder.py: {2 * needed}", "grid_pointing_game.py: {n * n}",
    "grid_pointing_game.py: {p.shape[1]}", "grid_pointing_metric.py: {n * n - 1}", "items.py: {self.classes}",
    "masked_diffusion.py: {MOST_STEPS}", "module.py: {tuple(channels)}",
    "program.py: {self.classes}", "prototype_page.py: {left_over}", "second_look_head.py: {num_classes}",
    "summary.py: {JUDGED_FROM}", "usable_images.py: {tried}",
}  # fmt: skip


@pytest.mark.parametrize(
    ("number", "things", "told"),
    [
        (0, ("image",), "0 images"),
        (1, ("image",), "1 image"),
        (2, ("image",), "2 images"),
        (1, ("class",), "1 class"),
        (3, ("class",), "3 classes"),
        (2, ("batch",), "2 batches"),
        (2, ("epoch",), "2 epochs"),
        (2, ("entry", "entries"), "2 entries"),
        (1, ("entry", "entries"), "1 entry"),
    ],
)
def test_one_is_singular(number, things, told):
    assert counted(number, *things) == told


def plurals():
    """Yield the numbers of the code's own texts that stand before a plural whatever they are."""
    for file in sorted((ROOT / "xai_align").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.JoinedStr):
                for value, after in zip(node.values, node.values[1:], strict=False):
                    number = ast.unparse(value.value) if isinstance(value, ast.FormattedValue) else ""
                    text = after.value if isinstance(after, ast.Constant) else ""
                    place = f"{file.name}: {{{number}}}"
                    if number and PLURAL.match(text) and place not in NEVER_ONE:
                        yield f"{place}{text[:30]}"


def test_no_text_counts_one_image_as_images():
    assert list(plurals()) == []
