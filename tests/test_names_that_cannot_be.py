"""Names that no file can have, as a person may type them: too long for the system, or with a zero byte in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from xai_align._tools.files.name_part import LONGEST_PART, distinct, name_part
from xai_align._tools.files.weights_file import read_weights_file
from xai_align.align.masker_file import load_masker
from xai_align.comparison.asked_questions import read_groups
from xai_align.comparison.outside_methods import named_file
from xai_align.data.class_names_file import read_class_names
from xai_align.data.domain_folder import read_domains
from xai_align.data.image_folder import read_image_folder
from xai_align.data.images import distinct_stems, expand_paths
from xai_align.data.outside_scores import read_scores
from xai_align.pinet import PiNet
from xai_align.report.record import file_name

DOORS = {
    "an image": lambda name: expand_paths([name]),
    "a pattern": lambda name: expand_paths([f"{name}/*.png"]),
    "class names": read_class_names,
    "a PiNet": PiNet.from_pretrained,
    "a masker": load_masker,
    "weights": lambda name: read_weights_file(Path(name)),
    "groups": lambda name: read_groups(name, ("a", "b")),
    "an image folder": read_image_folder,
    "masks": lambda name: read_image_folder(".", name),
    "domains": lambda name: read_domains(name, ["a"]),
    "scores": lambda name: read_scores(f"{name}.json"),
}


@pytest.mark.parametrize("name", ["n" * 300, "deep/" * 2000, "zero\0byte"], ids=["long", "deep", "zero"])
@pytest.mark.parametrize("door", DOORS)
def test_a_name_that_no_file_can_have_is_refused_in_words(door, name):
    with pytest.raises((ValueError, FileNotFoundError)) as found:
        DOORS[door](name)
    assert "Errno" not in str(found.value)
    assert "null byte" not in str(found.value)


def test_a_long_name_of_scores_is_a_name():
    assert named_file("n" * 300 + "=human.csv") == ("n" * 300, Path("human.csv"))


@pytest.mark.parametrize("letter", ["n", "é", "鯨"])
def test_parts_of_file_names_fit_and_differ(letter):
    names = [letter * 300 + end for end in ("a", "b")]
    parts = [name_part(name) for name in names]
    assert len(set(parts)) == 2
    assert all(len(part.encode()) <= LONGEST_PART for part in parts)
    stems = distinct_stems([Path(f"{name}.png") for name in names])
    whole = f"{stems[0]}.{file_name(names[0], names[1])}.json.tmp"
    assert len(whole.encode()) <= 255
    assert distinct(["a-2", "a", "A"]) == ["a-2", "a", "A-3"]
