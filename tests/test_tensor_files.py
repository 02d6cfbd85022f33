"""Written safetensors files: the same content gives the same bytes, whatever the metadata holds."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from safetensors import safe_open

from xai_align._tools.files.tensor_file import read_tensor_file, write_tensor_file

TENSORS = {"b": torch.arange(6.0).reshape(2, 3).T, "a": torch.tensor([True, False]), "empty": torch.zeros(0, 3)}
TEXT = some.text(some.characters(exclude_categories=["Cs"]), max_size=12)


@settings(max_examples=60, deadline=None)
@given(about=some.dictionaries(TEXT, TEXT, max_size=8))
def test_metadata_are_sorted_and_come_back(about, tmp_path_factory):
    path = tmp_path_factory.mktemp("files") / "some.safetensors"
    write_tensor_file(path, TENSORS, about)
    found, tensors = read_tensor_file(path)
    assert found == about
    assert all(torch.equal(value, TENSORS[name]) for name, value in tensors.items())
    with safe_open(path, framework="pt") as file:
        assert set(file.keys()) == set(TENSORS)
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    assert list(header.get("__metadata__", {})) == sorted(about)


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path):
    path = tmp_path / "some.safetensors"
    write_tensor_file(path, TENSORS, {"format": "1"})
    before = path.read_bytes()
    with pytest.raises(TypeError):
        write_tensor_file(path, TENSORS, {"format": 1})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
