"""Intervals of means and verdicts of tables: error rates under "no difference", independent code, answers by hand."""

from __future__ import annotations

from math import nan

import numpy as np
import pytest

from benchmarks.judging.small_samples import DIFFERENCES, SIZES, error_rates
from xai_align.comparison.intervals import mean_intervals
from xai_align.comparison.student_t import critical_value, two_sided_p
from xai_align.comparison.verdicts import JUDGED_FROM, holm, judged_p, verdict_of

RNG = np.random.default_rng(3)
RATES = error_rates(samples=2000, seed=0)
#: Three standard deviations of a rate of 5 % over 2000 samples.
NOISE = 3 * (0.05 * 0.95 / 2000) ** 0.5


# --- how often they are wrong ----------------------------------------------------------------------


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("name", DIFFERENCES)
def test_marks_of_no_difference_are_as_rare_as_they_say(name, n):
    rate = RATES[name, n].marks
    assert rate <= 0.05 + NOISE
    assert (rate == 0) == (n < JUDGED_FROM)


@pytest.mark.parametrize("n", SIZES)
def test_intervals_of_normal_differences_miss_as_rarely_as_they_say(n):
    assert 0.02 < RATES["normal", n].intervals <= 0.05 + NOISE


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("name", DIFFERENCES)
def test_intervals_of_skewed_differences_miss_little_more_often(name, n):
    # nothing can be known of the skewness from two values; from 8 on, the rate is nominal
    assert RATES[name, n].intervals <= (0.10 if n < 8 else 0.06) + NOISE


def test_the_percentile_bootstrap_was_wrong_far_more_often():
    assert RATES["normal", 2].percentile_bootstrap > 0.45
    assert RATES["exponential", 8].percentile_bootstrap > 0.12


def test_a_table_of_comparisons_has_a_false_mark_as_rarely_as_one_comparison():
    generator = np.random.default_rng(1)
    tables, comparisons, n = 300, 20, 20
    wrong = alone = 0
    for values in generator.normal(size=(tables, n, comparisons)):
        found = mean_intervals(values)
        p = [judged_p(float(one), n) for one in found.p]
        wrong += min(holm(p)) < 0.05
        alone += min(p) < 0.05
    assert wrong / tables <= 0.05 + 3 * (0.05 * 0.95 / tables) ** 0.5
    assert alone / tables > 0.4  # without the correction


@pytest.mark.parametrize("n", range(2, 13))
def test_equal_differences_of_either_sign_are_significant_as_rarely_as_they_say(n):
    # each image is better or worse by the same amount, with probability 1/2: of all 2^n cases, counted exactly
    cases = np.array(np.meshgrid(*[[-0.1, 0.1]] * n)).reshape(n, -1)
    found = mean_intervals(cases)
    assert np.mean(found.p < 0.05) <= 0.05
    assert np.mean([judged_p(float(p), n) < 0.05 for p in found.p]) <= 0.05
    alike = np.ptp(cases, axis=0) == 0
    assert found.p[alike] == pytest.approx(2.0 ** (1 - n))  # how often all have one sign


def test_a_true_difference_is_marked():
    values = np.random.default_rng(2).normal(1.0, 1.0, (20, 200))
    assert np.mean(mean_intervals(values).p < 0.05) > 0.95


# --- the numbers -----------------------------------------------------------------------------------


def test_without_skewness_the_interval_is_scipys():
    stats = pytest.importorskip("scipy.stats")
    half = RNG.normal(0, 2, 20)
    for values in (np.array([1.0, 4.0]), np.concatenate([3 + half, 3 - half])):
        theirs = stats.ttest_1samp(values, 0.0)
        interval = theirs.confidence_interval(0.9)
        ours = mean_intervals(values[:, None], coverage=0.9)
        assert (ours.low[0], ours.high[0]) == pytest.approx((interval.low, interval.high))
        if len(values) == 2:  # the transformation of a mean off 0 is the identity, too
            assert ours.p[0] == pytest.approx(theirs.pvalue)


@pytest.mark.parametrize("freedom", [1, 2, 3, 9, 49, 400, 20_000])
def test_students_distribution_is_scipys(freedom):
    stats = pytest.importorskip("scipy.stats")
    for t in (0.0, 0.01, 1.0, -2.5, 9.0, 30.0):
        assert two_sided_p(t, freedom) == pytest.approx(2 * stats.t.sf(abs(t), freedom), rel=1e-9)
    for coverage in (0.5, 0.95, 0.999):
        assert critical_value(coverage, freedom) == pytest.approx(stats.t.ppf((1 + coverage) / 2, freedom), rel=1e-9)


def test_of_two_values_the_interval_is_known():
    found = mean_intervals([[0.0], [1.0]])  # 1/2 +- 12.706 s / sqrt(2), s = 1 / sqrt(2)
    assert (found.low[0], found.high[0]) == pytest.approx((0.5 - 12.706 / 2, 0.5 + 12.706 / 2), abs=1e-3)


def test_the_skewed_side_is_the_wider_one():
    found = mean_intervals([[0.0], [0.1], [0.2], [0.1], [3.0]])
    assert found.high[0] - found.mean[0] > 1.2 * (found.mean[0] - found.low[0])


def test_p_is_below_five_percent_where_the_interval_leaves_out_zero():
    values = RNG.exponential(1, (6, 400)) - RNG.uniform(0, 2, 400)
    found = mean_intervals(values)
    np.testing.assert_array_equal(found.p < 0.05, (found.low > 0) | (found.high < 0))
    assert 20 < (found.p < 0.05).sum() < 380


def test_turning_the_sign_turns_the_interval():
    x = RNG.exponential(1, (20, 1))
    plus, minus = mean_intervals(x), mean_intervals(-x)
    assert (plus.low[0], plus.high[0]) == pytest.approx((-minus.high[0], -minus.low[0]))
    assert plus.p[0] == pytest.approx(minus.p[0])


def test_missing_values_are_left_out():
    x = RNG.normal(3, 1, (60, 1))
    holes = np.vstack([x, np.full((20, 1), np.nan)])
    holes[-1] = np.inf
    full, some = mean_intervals(x), mean_intervals(holes)
    assert some.n.tolist() == [60]
    assert (some.mean[0], some.low[0], some.high[0], some.p[0]) == (full.mean[0], full.low[0], full.high[0], full.p[0])


def test_too_few_values_have_no_interval():
    found = mean_intervals([[1.0, np.nan], [np.nan, np.nan]])
    assert found.n.tolist() == [1, 0]
    assert found.mean[0] == 1.0
    assert np.isnan([found.mean[1], *found.low, *found.high, *found.p]).all()
    assert mean_intervals(np.empty((0, 2))).n.tolist() == [0, 0]


@pytest.mark.parametrize("n", [2, 7, 30])
def test_equal_values_have_no_interval(n):
    found, zero = mean_intervals(np.full((n, 1), 0.1)), mean_intervals(np.zeros((n, 1)))
    assert found.mean[0] == pytest.approx(0.1)
    assert np.isnan([found.low[0], found.high[0], zero.low[0], zero.high[0]]).all()
    assert (found.p[0], zero.p[0]) == (2 ** (1 - n), 1)


def test_a_large_offset_costs_no_digits():
    x = RNG.normal(0, 1, (25, 1))
    near, far = mean_intervals(x), mean_intervals(x + 1e9)
    assert far.high[0] - 1e9 == pytest.approx(near.high[0], abs=1e-5)


@pytest.mark.parametrize(("values", "options"), [([1.0, 2.0], {}), ([[1.0]], {"coverage": 1})])
def test_what_makes_no_interval_is_refused(values, options):
    with pytest.raises(ValueError, match=r"give \[images, columns\]|must be a"):
        mean_intervals(values, **options)


# --- verdicts --------------------------------------------------------------------------------------


def test_holm_by_hand():
    # 0.01 * 3, 0.03 * 2, 0.04 * 1 but no less than the one before
    assert holm([0.01, nan, 0.04, 0.03]) == pytest.approx([0.03, nan, 0.06, 0.06], nan_ok=True)
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_a_few_images_are_not_judged_and_some_say_no_more_than_their_signs_can():
    assert np.isnan([judged_p(0.0, JUDGED_FROM - 1), judged_p(nan, 50)]).all()
    assert judged_p(0.0, 11) == 1 / 1024  # all of one sign, on either side
    assert judged_p(0.02, 50) == 0.02


@pytest.mark.parametrize(
    ("difference", "p", "higher", "expected"),
    [
        (0.2, 0.049, True, "better"),
        (0.2, 0.049, False, "worse"),
        (-0.2, 0.049, False, "better"),
        (-0.2, 0.049, True, "worse"),
        (0.2, 0.05, True, ""),
        (0.2, nan, True, ""),
        (0.2, 0.001, None, ""),
    ],
)
def test_the_verdict_follows_the_direction_of_the_metric(difference, p, higher, expected):
    assert verdict_of(difference, p, higher_is_better=higher) == expected
