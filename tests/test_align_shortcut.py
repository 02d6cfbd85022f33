"""Signs of a shortcut: classifiers and masks whose measures are known by hand."""

from __future__ import annotations

import math
import warnings

import pytest
import scipy.stats
import torch
from networks import conv_net, untouched
from torch import nn

from xai_align.align.binomial_tail import binomial_tail
from xai_align.align.masker import Masker
from xai_align.align.shortcut import (
    Limits,
    ShortcutWarning,
    find_shortcuts,
    marked_and_rest,
    shuffled,
)

SIDE = 16


class Colour(nn.Module):
    """Is there more red than green in the whole image?"""

    def forward(self, x):
        red, green, _ = x.mean((2, 3)).unbind(1)
        return torch.stack([red, green], 1)


class Layout(nn.Module):
    """Is the upper left quarter brighter than the lower right one?"""

    def forward(self, x):
        half = x.shape[-1] // 2
        return torch.stack([x[..., :half, :half].mean((1, 2, 3)), x[..., half:, half:].mean((1, 2, 3))], 1)


class Shows(nn.Module):
    """A masker that marks the same rows and columns in every image."""

    def __init__(self, rows, columns):
        super().__init__()
        self.place = rows, columns

    def forward(self, x):
        mask = x.new_zeros(len(x), 1, *x.shape[2:])
        mask[:, :, *self.place] = 1
        return mask


class Frame(nn.Module):
    def forward(self, x):
        mask = x.new_ones(len(x), 1, *x.shape[2:])
        mask[:, :, 2:-2, 2:-2] = 0
        return mask


def pictures(classifier, count=200, seed=0, side=SIDE):
    """Noise with the labels that the classifier gives, in batches of 50: accuracy 1."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 3, side, side, generator=generator)
    labels = classifier(x).argmax(1)
    return list(zip(x.split(50), labels.split(50), strict=True))


def test_one_who_reads_colours_loses_nothing_without_layout():
    found = find_shortcuts(Colour(), None, pictures(Colour()))
    assert found.measures["accuracy"] == 1
    assert found.measures["shuffled"] == pytest.approx(1)
    assert found.measures["plain_colour"] == pytest.approx(1)
    assert len(found.signs) == 2
    assert "shuffled" in str(found)


def test_one_who_reads_a_layout_is_left_with_guessing():
    half = SIDE // 2
    corner = Shows(slice(0, half), slice(0, half))
    found = find_shortcuts(Layout(), corner, pictures(Layout(), 500), limits=Limits(same_place=1.1))
    assert found.measures["shuffled"] < 0.2
    assert found.measures["plain_colour"] < 0.1
    # The other quarter remains: two in three answers, not half, since the sign of one of two equal parts is known.
    assert 0.3 < found.measures["removed"] < 0.7


def test_what_the_mask_marks_is_needed_or_isn_t():
    batches = pictures(Colour())
    needed, elsewhere = [(x.clone(), y) for x, y in batches], [(x.clone(), y) for x, y in batches]
    for x, _ in needed:
        x[..., 4:, :] = 0  # colours only in the first quarter
    labels = [Colour()(x).argmax(1) for x, _ in needed]
    top = Shows(slice(0, 4), slice(None))
    found = find_shortcuts(Colour(), top, [(x, y) for (x, _), y in zip(needed, labels, strict=True)])
    assert found.measures["removed"] == 0
    for x, _ in elsewhere:
        x[..., :4, :] = 0
    labels = [Colour()(x).argmax(1) for x, _ in elsewhere]
    found = find_shortcuts(Colour(), top, [(x, y) for (x, _), y in zip(elsewhere, labels, strict=True)])
    assert found.measures["removed"] == pytest.approx(1)
    assert any("does not depend on what the mask marks" in sign for sign in found.signs)


def test_a_mask_on_the_frame_that_is_the_same_everywhere():
    found = find_shortcuts(Layout(), Frame(), pictures(Layout()))
    # The frame is 2 of 16 wide: 1 - (12 / 16)^2 of the image.
    assert found.measures["mask_mean"] == pytest.approx(1 - 0.75**2)
    assert found.measures["on_frame"] == pytest.approx(1 / (1 - 0.75**2))
    assert found.measures["same_place"] == pytest.approx(1)
    assert any("frame" in sign for sign in found.signs)
    assert any("fixed position" in sign for sign in found.signs)


def test_a_flat_mask_has_no_place():
    full = Shows(slice(None), slice(None))
    found = find_shortcuts(Layout(), full, pictures(Layout()))
    assert all(math.isnan(found.measures[name]) for name in ("removed", "on_frame", "same_place"))
    assert not any("mask" in sign for sign in found.signs)


def test_a_classifier_that_guesses_shows_nothing():
    batches = [(x, torch.arange(len(x)) % 2) for x, _ in pictures(Colour())]
    found = find_shortcuts(Layout(), None, batches, limits=Limits(without_layout=0.0))
    assert found.signs == () or found.measures["accuracy"] - found.measures["guessing"] > 0.05


def test_without_accuracy_to_lose_nothing_is_said_of_what_the_mask_marks():
    """48 of 50 answers are right, and 48 of 50 labels are the same: removing anything can't be tested."""
    batches = [(x, torch.where(torch.arange(len(x)) < 48, 0, 1)) for x, _ in pictures(Colour(), 100)]
    found = find_shortcuts(ByLabels(), Shows(slice(0, 4), slice(None)), batches)
    assert math.isnan(found.measures["removed"])
    assert "removed" not in found.p_values
    assert "nan" not in str(found)


class ByLabels(nn.Module):
    """Always the first class, unless the first rows are empty."""

    def forward(self, x):
        empty = (x[:, :, 0] == 0).flatten(1).all(1)
        return torch.stack([1.0 - 2 * empty, 0.0 * empty], 1)


def test_shuffled_pixels_stay_whole_and_every_image_has_its_own_order():
    x = torch.arange(2 * 3 * 5 * 4, dtype=torch.float32).view(2, 3, 5, 4)
    x[1] = x[0]
    y = shuffled(x, torch.Generator().manual_seed(0))
    assert not torch.equal(y[0], y[1])
    for image in y:
        assert torch.equal(image.flatten(1).sort(1).values, x[0].flatten(1))
        assert torch.equal(image[1] - image[0], torch.full((5, 4), 20.0))


def removed(masks):
    return marked_and_rest(masks, torch.Generator().manual_seed(0))


def test_as_much_is_removed_as_the_mask_marks_but_not_too_little_or_too_much():
    masks = torch.rand(3, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    masks[0] *= 0.4  # marks nothing: a quarter goes
    masks[1] = 0.5 + masks[1] / 2  # marks everything: half goes
    masks[2] = masks[2].argsort(-1) / 7.5  # marks the two highest of six in each row: 12
    gone, rest = removed(masks)
    assert gone.sum((1, 2, 3)).tolist() == rest.sum((1, 2, 3)).tolist() == [9, 18, 12]
    for mask, taken, others in zip(masks, gone, rest, strict=True):
        assert mask[taken].min() > mask[~taken].max()
        assert mask[others].max() < mask[~others].min() or mask[others].max() == mask[~others].min()
        assert not (taken & others).any()


def test_equal_mask_values_go_in_random_order():
    masks = torch.zeros(400, 1, 4, 4)
    marked, rest = removed(masks)
    assert not (marked & rest).any()
    often = marked.double().mean(0)
    assert (often - 0.25).abs().max() < 5 * (0.25 * 0.75 / 400) ** 0.5


class MarksAtRandom(nn.Module):
    """A masker that knows nothing."""

    def __init__(self):
        super().__init__()
        self.generator = torch.Generator().manual_seed(0)

    def forward(self, x):
        return torch.rand(len(x), 1, *x.shape[2:], generator=self.generator)


class ColourOrLayout(nn.Module):
    """By colour where blue prevails, else by layout."""

    def forward(self, x):
        return torch.where((x[:, 2].mean((1, 2)) > 0)[:, None], Colour()(x), Layout()(x))


SEARCHES = 200
#: Three standard deviations of a rate of 5 % over so many searches.
NOISE = 3 * (0.05 * 0.95 / SEARCHES) ** 0.5


def test_one_search_in_twenty_at_most_gives_a_false_alarm():
    """Masks at random are no worse than the rest, and are on the frame half of the time."""
    masker = MarksAtRandom()
    searches = [find_shortcuts(Layout(), masker, pictures(Layout(), 50, seed, side=6)) for seed in range(SEARCHES)]
    assert sum(bool(found.signs) for found in searches) / SEARCHES <= 0.05 + NOISE
    for name in ("removed", "on_frame"):
        below = [sum(found.p_values[name] <= level for found in searches) / SEARCHES for level in (0.05, 0.5)]
        assert below[0] <= 0.05 + NOISE
        assert 0.2 < below[1] <= 0.61  # a test that never fires would be calibrated too


def test_a_share_at_its_limit_is_a_false_alarm_as_rarely():
    """Two in five images are answered by colour, and of the others half by chance: two fifths are left."""
    fired = 0
    for seed in range(SEARCHES):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(50, 3, 6, 6, generator=generator)
        x[:, 2] += torch.where(torch.rand(50, generator=generator) < 0.4, 3.0, -3.0)[:, None, None]
        found = find_shortcuts(ColourOrLayout(), None, [(x, ColourOrLayout()(x).argmax(1))])
        fired += found.p_values["shuffled"] <= 0.05
    assert fired / SEARCHES <= 0.05 + NOISE


def test_a_large_thing_of_which_much_remains_is_no_sign():
    """Evidence is in twelve of sixteen rows, and the mask marks eight of them."""
    batches = pictures(Colour(), 500)
    for x, _ in batches:
        x[..., :2, :], x[..., 14:, :] = 0, 0
    labelled = [(x, Colour()(x).argmax(1)) for x, _ in batches]
    found = find_shortcuts(Colour(), Shows(slice(4, 12), slice(None)), labelled)
    assert 0.2 < found.measures["removed"] < found.measures["rest_removed"]
    assert found.p_values["removed"] > 0.99


def test_tails_worked_by_hand():
    assert binomial_tail(9, 10, 0.5) == pytest.approx(11 / 1024)
    assert binomial_tail(2, 3, 0.1) == pytest.approx(3 * 0.01 * 0.9 + 0.001)
    assert binomial_tail(0, 0, 0.5) == 1
    assert binomial_tail(1, 1, 0.0) == 0
    assert binomial_tail(2000, 3000, 0.5) == pytest.approx(scipy.stats.binom.sf(1999, 3000, 0.5))


def test_only_so_many_images_are_asked_for():
    asked = []

    def batches():
        for number, batch in enumerate(pictures(Colour(), 300)):
            asked.append(number)
            yield batch

    found = find_shortcuts(Colour(), None, batches(), examples=70)
    assert asked == [0, 1]
    assert found.measures["examples"] == 70


def test_nothing_changes():
    classifier, masker = conv_net(), Masker(width=8)
    classifier.train()
    masker.train()
    batches = [(torch.randn(60, 3, SIDE, SIDE), torch.arange(60) % 3)]
    with untouched(classifier), untouched(masker):
        first = find_shortcuts(classifier, masker, batches)
        second = find_shortcuts(classifier, masker, batches)
    assert str(first.measures) == str(second.measures)


def test_another_kind_of_batch_is_read():
    batches = [{"image": x, "label": y} for x, y in pictures(Colour())]
    found = find_shortcuts(Colour(), None, batches, read_batch=lambda b: (b["image"], b["label"]))
    assert found.measures["accuracy"] == 1
    with pytest.raises(TypeError, match="read_batch"):
        find_shortcuts(Colour(), None, batches)


def test_what_can_t_be_checked():
    with pytest.raises(ValueError, match="no images"):
        find_shortcuts(Colour(), None, [])
    with pytest.raises(ValueError, match="at least 50"):
        find_shortcuts(Colour(), None, pictures(Colour()), examples=5)
    with pytest.raises(ValueError, match="masks of shape"):
        find_shortcuts(Colour(), nn.Identity(), pictures(Colour()))
    with pytest.raises(ValueError, match="but the classifier has classes 0 … "):
        find_shortcuts(Colour(), None, [(x, y + 100) for x, y in pictures(Colour())])


def test_the_warning_is_a_category_of_its_own():
    with warnings.catch_warnings():
        warnings.simplefilter("error", ShortcutWarning)
        with pytest.raises(ShortcutWarning):
            warnings.warn("a sign", ShortcutWarning, stacklevel=1)
