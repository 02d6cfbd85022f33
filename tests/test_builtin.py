"""A model comes from a function of the user's, and what is wrong with that function is explained."""

from __future__ import annotations

import importlib
import sys
from functools import partial

import pytest
import torch
from PIL import Image
from torch import nn

from xai_align import builtin
from xai_align.hookspecs import LoadedModel

xai_align_load_model = partial(builtin.xai_align_load_model, trust=False)

FACTORIES = """
from torch import nn
from xai_align.hookspecs import LoadedModel

class Zoo:
    @staticmethod
    def tiny():
        return nn.Linear(2, 2)

record = LoadedModel(model=nn.Dropout(), preprocess=str)
ready = nn.Linear(2, 2)

def tiny_net(): return nn.Sequential(nn.Dropout())
def loaded(): return record
def number(): return 5
def needy(size): return nn.Linear(size, 2)
def failing(): raise OSError("no weights")
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Puts a module of this name and code where it can be imported."""
    written = []

    def write(name: str, code: str) -> str:
        (tmp_path / f"{name}.py").write_text(code)
        written.append(name)
        importlib.invalidate_caches()
        return name

    monkeypatch.syspath_prepend(str(tmp_path))
    yield write
    for name in written:
        sys.modules.pop(name, None)


@pytest.fixture
def factories(module):
    return module("factories_for_test", FACTORIES)


def test_factory_makes_a_model_in_eval_mode_that_takes_plain_pictures(factories):
    loaded = xai_align_load_model(f"{factories}:tiny_net")
    assert not any(module.training for module in loaded.model.modules())
    tensor = loaded.preprocess(Image.new("RGBA", (3, 2), (255, 0, 51, 255)))
    expected = torch.tensor([1.0, 0.0, 0.2]).view(3, 1, 1).expand(3, 2, 3)
    torch.testing.assert_close(tensor, expected)
    assert tensor.is_contiguous()


def test_record_of_a_factory_comes_back_as_it_is(factories):
    loaded = xai_align_load_model(f"{factories}:loaded")
    assert isinstance(loaded, LoadedModel)
    assert loaded is sys.modules[factories].record
    assert loaded.model.training


def test_factory_may_be_an_attribute_of_an_attribute(factories):
    assert isinstance(xai_align_load_model(f"{factories}:Zoo.tiny").model, nn.Linear)


@pytest.mark.parametrize("reference", ["timm:resnet50", "resnet50", "a b:c", "hub:owner/name", "x:", ":y"])
def test_other_references_are_left_to_other_plugins(reference):
    assert xai_align_load_model(reference) is None


@pytest.mark.parametrize(
    ("factory", "parts"),
    [
        ("tiny_nt", ["has no 'tiny_nt'; did you mean 'tiny_net'?"]),
        ("ready", ["is a Linear, not a function", "write a function"]),
        ("record", ["is a LoadedModel, not a function"]),
        ("number", ["returned an object of type int", "return a torch.nn.Module"]),
        ("needy", ["without arguments raised TypeError", "'size'"]),
        ("failing", ["raised OSError: no weights"]),
    ],
)
def test_unusable_factory_is_explained(factories, factory, parts):
    with pytest.raises(ValueError, match=factories) as caught:
        xai_align_load_model(f"{factories}:{factory}")
    assert [part for part in parts if part not in str(caught.value)] == []


def test_missing_module_and_missing_dependency_get_different_advice(module):
    module("needs_more", "import a_module_that_nobody_has")
    with pytest.raises(ValueError, match=r"No module named 'nowhere'.*PYTHONPATH"):
        xai_align_load_model("nowhere.models:net")
    with pytest.raises(ValueError, match=r"a_module_that_nobody_has.*is there but cannot be imported"):
        xai_align_load_model("needs_more:net")
