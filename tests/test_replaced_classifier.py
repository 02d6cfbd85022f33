"""A classifier put into a timm model by hand, without ``reset_classifier``, is the model's classifier."""

from __future__ import annotations

import warnings

import pytest
import timm
import torch
from torch import nn

import timm_align

X = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def replaced(make, name, attribute, **options):
    model = timm.create_model(name, **options).eval()
    holder, _, last = attribute.rpartition(".")
    parent = model.get_submodule(holder) if holder else model
    setattr(parent, last, make(model.num_features))
    return model.eval()


HEADS = {
    "linear": lambda channels: nn.Linear(channels, 7),
    "dropout and linear": lambda channels: nn.Sequential(nn.Dropout(0.5), nn.Linear(channels, 7)),
    "two linear layers": lambda channels: nn.Sequential(nn.Linear(channels, 9), nn.Linear(9, 7)),
}
MODELS = [("test_resnet", "fc"), ("resnet18", "fc"), ("test_efficientnet", "classifier"), ("test_byobnet", "head.fc")]


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize(("name", "attribute"), MODELS)
@pytest.mark.parametrize("given", [{}, {"num_classes": 7}], ids=["own number", "number given"])
def test_the_second_look_starts_with_the_models_own_logits(name, attribute, head, given):
    model = replaced(HEADS[head], name, attribute)
    assert model.num_classes == 1000  # what timm still says
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pinet = timm_align.retrofit(model, "second_look", image_size=(64, 64), **given)
    logits = pinet(X)
    torch.testing.assert_close(logits, model(X), rtol=1e-3, atol=1e-4)
    assert logits.shape == (2, 7)
    look = pinet.explain(X)
    torch.testing.assert_close(look.maps.sum((2, 3)) + look.bias, logits, rtol=1e-3, atol=1e-4)


def test_a_classifier_that_is_not_linear_is_told_of():
    model = replaced(lambda c: nn.Sequential(nn.Linear(c, 9), nn.ReLU(), nn.Linear(9, 7)), "test_resnet", "fc")
    with pytest.warns(UserWarning, match="it starts at zero, and so do the logits"):
        pinet = timm_align.retrofit(model, "second_look", image_size=(64, 64))
    assert pinet(X).shape == (2, 7)


@pytest.mark.parametrize("kind", ["exact", "second_look"])
def test_a_classifier_on_a_model_that_was_built_without_one(kind):
    model = replaced(HEADS["linear"], "test_resnet", "fc", num_classes=0)
    options = {"image_size": (64, 64)} if kind == "second_look" else {}
    pinet = timm_align.retrofit(model, kind, **options)
    torch.testing.assert_close(pinet(X), model(X), rtol=1e-3, atol=1e-4)
    without = timm.create_model("test_resnet", num_classes=0).eval()
    with pytest.raises(ValueError, match="num_classes is 0"):
        timm_align.retrofit(without, kind, **options)


def test_another_number_of_classes_is_a_new_head():
    pinet = timm_align.retrofit(replaced(HEADS["linear"], "test_resnet", "fc"), "second_look", num_classes=4)
    assert pinet(X).shape == (2, 4)


@pytest.mark.parametrize(
    ("name", "part"), [("test_resnet", "fc"), ("test_efficientnet", "classifier"), ("convnext_atto", "head")]
)
@pytest.mark.parametrize("head", ["exact", "second_look"])
def test_a_classifier_replaced_by_nothing_is_an_error_with_advice(name, part, head):
    model = timm.create_model(name).eval()
    setattr(model, part, nn.Identity())
    with pytest.raises(ValueError, match=r"has no classifier .*(reset_classifier|num_classes=)"):
        timm_align.retrofit(model, head)
