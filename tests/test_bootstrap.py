"""Means and their bootstrap intervals, against known answers and independent code."""

from __future__ import annotations

import numpy as np
import pytest

from xai_align.comparison import bootstrap
from xai_align.comparison.bootstrap import bootstrap_means

RNG = np.random.default_rng(3)


def test_the_interval_is_scipys():
    stats = pytest.importorskip("scipy.stats")
    for values in (RNG.normal(5, 2, 40), RNG.exponential(1, 25), RNG.random(7)):
        theirs = stats.bootstrap(
            (values,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(1)
        ).confidence_interval
        ours = bootstrap_means(values[:, None], resamples=20_000)
        assert ours.mean[0] == pytest.approx(values.mean())
        near = 0.15 * values.std() / len(values) ** 0.5  # five deviations of two quantiles of 20 000 resamples each
        assert (ours.low[0], ours.high[0]) == pytest.approx((theirs.low, theirs.high), abs=near)


def test_two_values_have_an_interval_that_can_be_counted():
    # means of two draws from {0, 1}: 0 with 1/4, 1/2 with 1/2, 1 with 1/4
    ninety, half = (bootstrap_means([[0.0], [1.0]], coverage=share) for share in (0.9, 0.4))
    assert (ninety.low[0], ninety.high[0]) == (0.0, 1.0)
    assert (half.low[0], half.high[0]) == (0.5, 0.5)


def test_the_interval_holds_the_truth_as_often_as_it_says():
    held = 0
    samples = np.random.default_rng(0).normal(2.0, 1.0, (400, 50))
    for seed, sample in enumerate(samples):
        found = bootstrap_means(sample[:, None], resamples=1000, seed=seed)
        held += found.low[0] <= 2.0 <= found.high[0]
    assert 0.90 <= held / 400 <= 0.98  # binomial: 0.95 ± 0.022 is two deviations; percentile intervals are a bit short


def test_columns_are_paired():
    x = RNG.normal(0, 10, (30, 1))
    found = bootstrap_means(np.hstack([x, x + 1, x - (x + 1)]))
    assert found.high[0] - found.low[0] > 3
    assert (found.low[1], found.high[1]) == pytest.approx((found.low[0] + 1, found.high[0] + 1))
    assert (found.low[2], found.mean[2], found.high[2]) == pytest.approx((-1, -1, -1))


def test_turning_the_sign_turns_the_interval():
    x = RNG.exponential(1, (20, 1))
    plus, minus = bootstrap_means(x, seed=4), bootstrap_means(-x, seed=4)
    assert (plus.low[0], plus.high[0]) == pytest.approx((-minus.high[0], -minus.low[0]))


def test_missing_values_are_left_out():
    x = RNG.normal(3, 1, (60, 1))
    holes = np.vstack([x, np.full((20, 1), np.nan)])
    holes[-1] = np.inf
    full, some = bootstrap_means(x), bootstrap_means(holes)
    assert some.n.tolist() == [60]
    assert some.mean[0] == pytest.approx(x.mean())
    assert (some.low[0], some.high[0]) == pytest.approx((full.low[0], full.high[0]), abs=0.05)


def test_too_few_values_have_no_interval():
    found = bootstrap_means([[1.0, np.nan], [np.nan, np.nan]])
    assert found.n.tolist() == [1, 0]
    assert found.mean[0] == 1.0
    assert np.isnan([found.mean[1], *found.low, *found.high]).all()
    assert bootstrap_means(np.empty((0, 2))).n.tolist() == [0, 0]


def test_the_seed_decides_and_blocks_of_resamples_do_not(monkeypatch):
    x = RNG.normal(0, 1, (11, 2))
    whole, other = bootstrap_means(x, seed=1), bootstrap_means(x, seed=2)
    np.testing.assert_array_equal(whole.low, bootstrap_means(x, seed=1).low)
    assert (whole.low != other.low).all()
    monkeypatch.setattr(bootstrap, "_AT_ONCE", 100)
    np.testing.assert_allclose(whole.low, bootstrap_means(x, seed=1).low)


def test_a_large_offset_costs_no_digits():
    x = RNG.normal(0, 1, (25, 1))
    near, far = bootstrap_means(x), bootstrap_means(x + 1e9)
    assert far.high[0] - 1e9 == pytest.approx(near.high[0], abs=1e-5)


@pytest.mark.parametrize(
    ("values", "options"), [([1.0, 2.0], {}), ([[1.0]], {"resamples": 0}), ([[1.0]], {"coverage": 1})]
)
def test_what_makes_no_interval_is_refused(values, options):
    with pytest.raises(ValueError, match=r"give \[images, columns\]|must be a"):
        bootstrap_means(values, **options)
