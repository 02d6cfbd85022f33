"""Fitting: what is refused before training starts, and what is warned of."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fit_factory import Plain, Squares
from networks import untouched
from torch import nn

from xai_align.pinet import conv_pinet
from xai_align.pinet.network.losses import PiNetLoss
from xai_align.training.diverged import DivergedError
from xai_align.training.pinet.dataset_validation import FittingDataWarning
from xai_align.training.pinet.fit import fit_pinet

BINARY = PiNetLoss("binary")
NAN = float("nan")


def quick(model=None, train=None, validation=None, **options):
    given = {"loss": BINARY, "epochs": 1, "batch_size": 4} | options
    return fit_pinet(model or Plain(), train or Squares(8), validation, **given)


def labelled(*labels, size=8):
    """A list of items with these labels."""
    dice = torch.Generator().manual_seed(0)
    return [(torch.rand(1, size, size, generator=dice), label) for label in labels]


MULTICLASS = PiNetLoss("multiclass")


def three_classes():
    return conv_pinet(3, width=2, depth=2)


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        ((0, 1, 3, 2), r"the training data, item 2: label 3 is out of range: the model has 3 classes, 0 to 2"),
        ((0, -1, 2, 1), "item 1: label -1 is out of range"),
        ((0, 1.0, 2, 1), "item 1: a label is float32"),
        ((0, True, 2, 1), "item 1: a label is bool"),
        ((0, [1, 0], 2, 1), "item 1: a label is int64 of shape"),
    ],
)
def test_impossible_labels_are_named_before_training(labels, told):
    with untouched(model := three_classes()), pytest.raises((ValueError, TypeError), match=told):
        quick(model, labelled(*labels), loss=MULTICLASS)


@pytest.mark.parametrize(
    ("task", "label", "told"),
    [
        ("binary", 2, r"a binary label is \[2.0\]; give 0 where the class isn't"),
        ("binary", NAN, "a target is NaN"),
        ("binary", [0, 1], r"a binary target has shape \[2\]; give \[\] or \[1\]"),
        ("regression", [1.0, 2.0], r"a regression target has shape \[2\]; give \[1\]"),
        ("segmentation", torch.zeros(4, 4, dtype=torch.long), r"shape \[4, 4\], but the model's maps ask for \[8, 8\]"),
        ("segmentation", torch.full((8, 8), 2), "holds the numbers 2 to 2; the model has the classes 0 to 1"),
    ],
)
def test_targets_of_other_tasks(task, label, told):
    with pytest.raises(ValueError, match=told):
        quick(train=labelled(label, label, label, label), loss=PiNetLoss(task))


@pytest.mark.parametrize(
    ("mask", "told"),
    [
        (torch.ones(1, 4, 4), r"a mask has shape \[1, 4, 4\], but the model's maps are 8 x 8; .*mode='area'"),
        (torch.ones(2, 8, 8), r"a mask has shape \[2, 8, 8\]"),
        (torch.full((1, 8, 8), 255.0), "a mask holds values between 255 and 255"),
        (np.ones((1, 8, 8)), "a mask is a ndarray"),
    ],
)
def test_masks_that_do_not_fit(mask, told):
    items = [(*item, mask) for item in labelled(0, 1, 0, 1)]
    with pytest.raises((ValueError, TypeError), match=told):
        quick(train=items, loss=PiNetLoss("binary", masks=1.0))


@pytest.mark.parametrize(
    ("image", "told"),
    [
        (torch.full((1, 8, 8), NAN), "item 1: an image holds NaN"),
        (torch.zeros(1, 8, 8, dtype=torch.uint8), "item 1: an image is torch.uint8; give a float tensor"),
        (torch.rand(8, 8), r"item 1: an image has shape \[8, 8\]"),
        (np.ones((1, 8, 8)), "item 1: an image is ndarray"),
    ],
)
def test_images_that_are_none(image, told):
    items = labelled(0, 1, 0, 1)
    items[1] = (image, 1)
    with pytest.raises((ValueError, TypeError), match=told):
        quick(train=items)


class Detached(Plain):
    def explain(self, x):
        with torch.no_grad():
            return super().explain(x)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"train": [], "validation": None}, "the training data are empty"),
        ({"validation": []}, "the validation data are empty"),
        ({"batch_size": 9}, r"a step takes 9 examples \(batch_size 9\), but the training data have 8"),
        ({"gradient_accumulation_steps": 3}, r"a step takes 12 examples \(batch_size 4 x 3 passes\)"),
        ({"train": iter([])}, "without length or items by number"),
        ({"train": [1, 2, 3, 4]}, "an image is int"),
        ({"train": [(torch.rand(1, 8, 8), 1, None, 0)] * 4}, r"item 0: an item of the data set is 4 parts"),
        ({"epochs": 0}, "epochs must be a positive integer, got 0"),
        ({"learning_rate": -1.0}, "learning_rate must be a positive number, got -1.0"),
        ({"schedule": "step"}, "schedule must be 'none', 'cosine' or 'plateau', got 'step'"),
        ({"patience": 2}, "patience needs validation data"),
        ({"resume": "yes"}, "resume must be 'auto', 'must' or 'never', got 'yes'"),
        ({"resume": "must"}, "no folder to resume from"),
        ({"loss": MULTICLASS}, "the task is multiclass and the model has one logit"),
        (
            {"model": conv_pinet(2, width=2, depth=2)},
            "the task is binary, so the model needs one logit; it has 2",
        ),
        ({"model": Plain().requires_grad_(False)}, "nothing to train"),
        ({"model": nn.Linear(2, 2)}, r"a Linear has no explain\(x\)"),
        ({"model": Detached()}, "depends on no parameter that requires grad"),
        ({"mixed_precision": "fp8"}, "mixed_precision must be 'no', 'bf16' or 'fp16', got 'fp8'"),
        ({"mixed_precision": "fp16"}, "fp16 is for GPUs; on a CPU choose"),
    ],
)
def test_what_cannot_be_done_is_said_before_training(options, told):
    with pytest.raises((ValueError, TypeError), match=told):
        fit_pinet(**{"model": Plain(), "train": Squares(8), "loss": BINARY, "batch_size": 4, "epochs": 1} | options)


@pytest.mark.parametrize(
    ("shape", "told"),
    [
        ((3, 8, 8), r"are \[1, 3, 8, 8\], and PiNet does not run on them.*takes 1 channel, and they have 3"),
        ((8, 8, 1), r"have 1 channel as the last dimension: give images.permute\(0, 3, 1, 2\)"),
    ],
)
def test_images_of_another_shape_than_the_models_are_named(shape, told):
    items = [(torch.rand(shape), label) for label in (0, 1, 2)]
    with untouched(model := three_classes()), pytest.raises(ValueError, match=told):
        quick(model, items, loss=MULTICLASS)


def test_images_made_in_inference_mode_are_taken_and_such_weights_are_not():
    with torch.inference_mode():
        items, model = [(image * 1, label) for image, label in labelled(0, 1, 2, 1)], three_classes()
    assert quick(three_classes(), items, loss=MULTICLASS).steps == 1
    with pytest.raises(ValueError, match=r"of the PiNet was made inside torch.inference_mode\(\)"):
        quick(model, items, loss=MULTICLASS)


def test_float16_is_refused_and_bfloat16_noted():
    with pytest.raises(ValueError, match=r"is float16, in which training diverges.*model.float\(\)"):
        quick(three_classes().half(), labelled(0, 1, 2), loss=MULTICLASS)
    done = quick(three_classes().bfloat16(), labelled(0, 1, 2, 1), loss=MULTICLASS)
    assert "is bfloat16: steps smaller than 1/512 of a weight are lost" in done.notes[0]


def test_a_term_for_masks_without_one_that_is_known(monkeypatch):
    """Of a few items all are checked; of many, some, so that others may have masks."""
    loss = PiNetLoss("binary", masks=1.0)
    items = Squares(8, masks=True)
    unknown = [(image, label, torch.full_like(mask, NAN)) for image, label, mask in items]
    for data in (Squares(8), unknown):
        with pytest.raises(ValueError, match=r"none of the 8 items that were checked has a mask that is known"):
            quick(train=data, loss=loss)
    assert quick(train=[*unknown[:7], items[7]], loss=loss).steps == 2
    monkeypatch.setattr("xai_align.training.pinet.dataset_validation.CHECKED_ITEMS", 2)
    with pytest.warns(FittingDataWarning, match=r"none of the 2 items"):
        quick(train=[unknown[0], *list(items)[1:7], unknown[7]], loss=loss)


def test_images_of_several_sizes_are_named():
    with pytest.raises(ValueError, match="several shapes"):
        quick(train=[*labelled(0, 1), *labelled(0, 1, size=6)], batch_size=4)


def test_classes_without_example_are_named():
    with pytest.warns(FittingDataWarning, match=r"the training data: 1 of 3 classes has no example \(class 1\)"):
        quick(three_classes(), labelled(0, 2, 0, 2), loss=MULTICLASS)
    with pytest.warns(FittingDataWarning, match=r"the validation data: 1 of 2 classes has no example \(class 0\)"):
        quick(validation=labelled(1, 1))


def test_constant_images_are_counted_and_nothing_but_them_is_refused():
    items = labelled(0, 1, 0, 1)
    items[2] = (torch.full((1, 8, 8), 0.3), 0)
    with pytest.warns(FittingDataWarning, match=r"1 of 4 images is constant \(item\(s\) 2\)"):
        quick(train=items)
    with pytest.raises(ValueError, match="every image is constant"):
        quick(train=[(torch.zeros(1, 8, 8), i % 2) for i in range(4)])


def test_a_label_beyond_those_that_were_looked_at_is_found_when_it_comes(monkeypatch):
    monkeypatch.setattr("xai_align.training.pinet.dataset_validation.CHECKED_ITEMS", 2)
    with pytest.warns(FittingDataWarning), pytest.raises(ValueError, match="label 7 is out of range"):
        quick(three_classes(), labelled(0, 1, 7, 2), loss=MULTICLASS)


def test_a_loss_that_is_no_number_ends_the_run_with_the_best_weights():
    model = Plain()
    with pytest.raises(DivergedError, match=r"the loss was nan between steps 1 and 2 \(epoch 1\)"):
        quick(model, validation=Squares(4), optimizer=lambda ps: torch.optim.SGD(ps, lr=float("inf")))
    assert model.w.item() == 1
