"""The ALIGN benchmark on digits: what its pictures must be like, and its scores and tables worked by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from benchmarks.align import digits_data
from benchmarks.align.digits_data import MEAN, SIDE, STD, Digits, domains, hue, noise, patch, pictures, unseen_textures
from benchmarks.align.digits_scores import iou
from benchmarks.align.digits_table import difference, fits_of, paired, table
from benchmarks.align.hard_auc import hard_auc


@pytest.fixture(scope="module")
def digits():
    """A filled square of 14 pixels stands for every digit."""
    images = np.zeros((120, 28, 28), np.uint8)
    images[:, 7:21, 7:21] = 255
    labels = np.arange(120) % 10
    return Digits(images, labels, images[:40], labels[:40])


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(digits_data, "TRAINING", 60)
    monkeypatch.setattr(digits_data, "VALIDATION", 20)
    monkeypatch.setattr(digits_data, "IN_DOMAIN", 20)


def test_masks_are_where_the_ink_is(digits):
    found = pictures(digits.test, digits.test_labels, noise, np.random.default_rng(0))
    assert found.images.shape == (40, 3, SIDE, SIDE)
    assert (found.masks.sum((1, 2, 3)) == 14 * 14).all()
    shown = found.images * STD + MEAN
    ink = shown.permute(1, 0, 2, 3)[:, found.masks[:, 0] > 0]
    assert torch.all((ink < 1e-6) | (ink > 1 - 1e-6))  # black or white
    assert len({tuple(mask.nonzero()[0].tolist()) for mask in found.masks[:, 0]}) > 5  # not always in one place
    assert shown.min() > -1e-5
    assert shown.max() < 1 + 1e-5


def test_every_texture_is_a_picture_and_unseen_ones_are_regular():
    rng = np.random.default_rng(0)
    labels = np.zeros(30, np.int64)
    for background in (noise, unseen_textures, hue(0.9), patch(0.9)):
        x = background(labels, rng)
        assert x.shape == (30, SIDE, SIDE, 3)
        assert x.min() >= 0
        assert x.max() <= 1
    regular, noisy = unseen_textures(labels, rng), noise(labels, rng)
    # next to each other, most pixels of stripes, checks and blocks are equal, and none of noise
    assert np.mean(np.all(regular[:, :, 1:] == regular[:, :, :-1], axis=-1)) > 0.5
    assert np.mean(np.all(noisy[:, :, 1:] == noisy[:, :, :-1], axis=-1)) < 0.01


@pytest.mark.parametrize(("told", "share"), [(0.9, 0.91), (0.0, 0.1)])
def test_a_hue_goes_with_the_label_as_often_as_said(told, share):
    """Told in 90 % of the pictures, and by chance in a tenth of the others."""
    labels = np.arange(2000) % 10
    colour = hue(told)(labels, np.random.default_rng(0)).mean((1, 2))
    most, least = colour.max(1), colour.min(1)
    r, g, b = colour.T
    turn = np.select(
        [most == r, most == g],
        [(g - b) / (most - least) % 6, (b - r) / (most - least) + 2],
        (r - g) / (most - least) + 4,
    )
    tenth = np.round(turn / 6 * 10) % 10
    assert np.mean(tenth == labels) == pytest.approx(share, abs=0.06)


def test_a_patch_lies_in_a_corner():
    plain = noise(np.full(50, 9), np.random.default_rng(0))
    marked = patch(1.0)(np.full(50, 9), np.random.default_rng(0))
    changed = np.any(plain != marked, axis=-1)
    assert (changed.sum((1, 2)) == 16).all()
    assert changed[:, 4:-4].sum() == 0
    assert np.all(marked[changed] == 1)  # nine of nine: white


@pytest.mark.usefixtures("small")
def test_a_seed_makes_the_same_pictures_and_another_others(digits):
    first, again, other = (domains("shift", digits, seed) for seed in (0, 0, 1))
    assert torch.equal(first.training.images, again.training.images)
    assert not torch.equal(first.training.images, other.training.images)
    assert [len(p) for p in (first.training, first.validation, first.in_domain, first.out_of_domain)] == [
        60,
        20,
        20,
        40,
    ]


def test_iou_by_hand():
    found, true = torch.zeros(3, 1, 4, 4, dtype=torch.bool), torch.zeros(3, 1, 4, 4, dtype=torch.bool)
    found[0, :, :2], true[0, :, 1:3] = True, True  # one row of three
    found[1], true[1, :, :1] = True, True
    assert iou(found, true).tolist() == pytest.approx([1 / 3, 1 / 4, 0])


def test_a_paired_difference_by_hand():
    """1, 2, 3: mean 2, standard error 1 / sqrt 3, t with two degrees of freedom 4.303."""
    assert difference([1.0, 2.0, 3.0]) == "+2.000 [-0.484, +4.484] 3/3"
    assert difference([-0.5]) == "-0.500 0/1"


def test_tables_come_from_files(tmp_path):
    names = ("ood_accuracy", "id_accuracy", "sufficiency_mean", "comprehensiveness_mean", "seconds")
    for method, value in (("erm", 0.5), ("align", 0.75)):
        (tmp_path / method).mkdir()
        for seed in range(2):
            scores = dict.fromkeys(names, value + seed / 100)
            (tmp_path / method / f"{seed}.json").write_text(json.dumps(scores))
    fits = {name: fits_of(tmp_path / name) for name in ("erm", "align")}
    assert "0.755 (0.750–0.760)" in table(fits)
    assert "+0.250 [+0.250, +0.250] 2/2" in paired(fits, "erm")


def test_the_hard_auc_by_hand():
    """Class 0: recall 1/2, specificity 1; class 1: recall 1, specificity 1/2."""
    assert hard_auc(torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1])) == pytest.approx(0.75)
    assert hard_auc(torch.tensor([0, 1, 2]), torch.tensor([0, 1, 2])) == 1
