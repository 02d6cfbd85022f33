"""How long ``fit-align`` trains by the folder's size, and rates that fall by each network's own steps."""

from __future__ import annotations

import math

import pytest

from tests.align_factory import bends, fit, loader, rows, trainer, weights
from xai_align.align import recipe
from xai_align.align.training.phases import Plan, own_progress
from xai_align.cli.fit_align_lengths import ALONE, TOGETHER, WARMUP, Lengths, check_lengths, lengths

ALIGN, ERM = recipe("align"), recipe("erm")


@pytest.mark.parametrize("images", [1, 10, 98, 392, 999, 1000, 50_000])
def test_every_folder_has_the_steps_of_each_phase_and_erm_those_of_the_classifier(images):
    found, erm = lengths(images, ALIGN), lengths(images, ERM)
    steps = math.ceil(images / found.batch_size)
    together = found.epochs - found.warmup_epochs - found.masker_only_epochs
    assert steps * found.warmup_epochs >= WARMUP
    assert steps * found.masker_only_epochs >= ALONE
    assert steps * together >= TOGETHER
    assert erm.epochs == found.warmup_epochs + together
    assert check_lengths(found, images, ALIGN) == []


def test_large_folders_have_the_fewest_epochs_and_what_is_given_is_taken():
    assert lengths(50_000, ALIGN) == Lengths(epochs=10, warmup_epochs=2, masker_only_epochs=1, batch_size=32)
    given = {"epochs": 3, "warmup_epochs": 0, "masker_only_epochs": 1, "batch_size": 7}
    assert lengths(98, ALIGN, **given) == Lengths(**given)
    halved = lengths(98, ALIGN, epochs=10)  # 7 steps in an epoch: 15 of warm-up and 11 of the masker otherwise
    assert halved == Lengths(epochs=10, warmup_epochs=4, masker_only_epochs=2, batch_size=16)
    assert lengths(98, ALIGN, epochs=1) == Lengths(epochs=1, warmup_epochs=0, masker_only_epochs=0, batch_size=16)


def test_a_fit_that_is_too_short_is_told_of_or_refused():
    short = lengths(98, ALIGN, epochs=10)  # 28 steps of warm-up
    (told,) = check_lengths(short, 98, ALIGN)
    assert "makes only 28 steps before the masker begins" in told
    assert check_lengths(short, 98, ERM) == check_lengths(short, 98, recipe("grey")) == []
    nothing = lengths(98, ALIGN, epochs=2, warmup_epochs=1, masker_only_epochs=1)
    with pytest.raises(ValueError, match="of 2 epochs, 1 for warm-up and 1 for the masker only leave none"):
        check_lengths(nothing, 98, ALIGN)


def test_steps_of_the_masker_alone_take_nothing_from_the_classifiers_rate():
    plan = Plan(warmup_epochs=2, masker_only_epochs=3, masker_every=2)
    found, erm = own_progress(plan, 3, 8), own_progress(Plan(with_masker=False), 3, 5)
    of_classifier = found["classifier"][:6] + found["classifier"][15:]  # all but the nine steps of the masker alone
    assert of_classifier == pytest.approx(erm["classifier"])
    assert set(found["classifier"][6:15]) == {6 / 15}
    assert set(found["masker"][:7]) == {0.0}
    assert found["masker"][15:18] == pytest.approx([9 / 14, 10 / 14, 10 / 14])  # 9 alone, 5 of 9 in turn


def test_the_trainer_uses_it():
    options = {"schedule": "cosine_each", "learning_rate": 1e-3}
    made = trainer(warmup_epochs=1, masker_only_epochs=2, **options)
    rates = [row["learning_rate"] for row in made.fit(loader(), epochs=5).history]
    plain = trainer(recipe="erm", **options).fit(loader(), epochs=3).history
    assert [rates[0], *rates[3:]] == pytest.approx([row["learning_rate"] for row in plain])
    assert rates[1] == rates[2] == rates[0]
    last = (1 + math.cos(math.pi * 8 / 9)) / 2
    assert rates[-1] == pytest.approx(1e-3 * last)


def test_it_goes_on_where_it_stopped(tmp_path):
    class Stop(Exception):
        pass

    def stop(row):
        if row["epoch"] == 3:
            raise Stop

    options = {"schedule": "cosine_each"}
    whole, part = bends(), bends()
    done = fit(None, whole, **options)
    with pytest.raises(Stop):
        fit(tmp_path, part, log=stop, **options)
    again = bends()
    resumed = fit(tmp_path, again, **options)
    assert rows(resumed.history) == rows(done.history)
    assert all(value.equal(weights(again)[name]) for name, value in weights(whole).items())
