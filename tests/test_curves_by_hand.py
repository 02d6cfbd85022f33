"""Orders, fractions, areas and scores of perturbation curves, worked by hand on four features."""

from __future__ import annotations

import math
import warnings
from itertools import pairwise

import pytest
import torch

from tests.networks import conv_net, images
from xai_align.evaluation.curve_metric import CurveMetric
from xai_align.evaluation.faithfulness import (
    ERASER_BINS,
    ROAD_BINS,
    aopc_metric,
    area,
    comprehensiveness,
    comprehensiveness_metric,
    comprehensiveness_of,
    deletion,
    deletion_metric,
    insertion,
    insertion_metric,
    removal,
    removal_metric,
    road,
    road_metric,
    sufficiency,
    sufficiency_metric,
    sufficiency_of,
)
from xai_align.perturbation.curve import Curve, perturbation_curve, perturbation_curves
from xai_align.perturbation.ranking import (
    Ranking,
    TieWarning,
    over_channels,
    position_scores,
    positions_of,
    rank,
    tie_rate,
    warn_of_ties,
)
from xai_align.perturbation.spec import TENTHS, PerturbationSpec, grid_mask, removed_count, steps

DOUBLE = torch.float64
#: Four features worth 4, 3, 2, 1, of which the third is called the best, then the first, the fourth, the second.
X = torch.tensor([[4.0, 3.0, 2.0, 1.0]], dtype=DOUBLE)
MAP = torch.tensor([[3.0, 1.0, 4.0, 2.0]])
#: What is left of the sum 10 when the best go first, and when the worst go first.
BEST_FIRST, WORST_FIRST = [10, 8, 4, 3, 0], [10, 7, 6, 2, 0]
STEPS = (0.0, 0.25, 0.5, 0.75, 1.0)


def total(x):
    """Logits ``(sum / 4, 0)``."""
    z = x.double().flatten(1).sum(1) / 4
    return torch.stack([z, torch.zeros_like(z)], 1)


def p(left):
    """The probability of class 0 when so much of the sum is left."""
    return 1 / (1 + math.exp(-left / 4))


def trapezoid(values, width):
    return sum((a + b) / 2 * width for a, b in pairwise(values))


@pytest.mark.parametrize(("order", "left"), [("morf", BEST_FIRST), ("lerf", WORST_FIRST)])
def test_orders(order, left):
    curve = perturbation_curve(total, X, MAP, fractions=STEPS, order=order)
    assert curve.masked[0, :, 0].tolist() == pytest.approx([p(value) for value in left], abs=1e-12)
    assert curve.clean.tolist() == [pytest.approx([p(10), 1 - p(10)], abs=1e-12)]
    assert curve.fractions.tolist() == list(STEPS)
    assert curve.fractions.dtype == DOUBLE
    assert curve.scores is None
    assert curve.deviations is None


def test_one_feature_alone():
    (curve,) = perturbation_curves(total, X, MAP, [PerturbationSpec(0.0, "single", (0.25, 0.5, 0.75, 1.0))])
    assert curve.masked[0, :, 0].tolist() == pytest.approx([p(left) for left in (8, 6, 9, 7)], abs=1e-12)
    assert curve.scores.tolist() == [[4, 3, 2, 1]]


def test_what_the_defaults_remove():
    """Tenths of ten features, most relevant first, to zero: 9, 8, ... 1 are left of ten ones."""
    x, best = torch.ones(1, 10), torch.arange(10.0, 0, -1)[None]
    curve = perturbation_curve(total, x, best)
    assert curve.fractions.tolist() == pytest.approx([k / 10 for k in range(1, 10)], abs=1e-15)
    assert curve.masked[0, :, 0].tolist() == pytest.approx([p(10 - k) for k in range(1, 10)], abs=1e-12)
    assert (PerturbationSpec().fill, PerturbationSpec().order, PerturbationSpec().fractions) == (0.0, "morf", TENTHS)
    assert (PerturbationSpec().grid, PerturbationSpec().layers) == (None, False)
    assert TENTHS == (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def test_a_part_of_a_feature_is_not_removed():
    curve = perturbation_curve(total, X, MAP, fractions=(0.24, 0.49, 0.99))
    assert curve.masked[0, :, 0].tolist() == pytest.approx([p(left) for left in (10, 8, 3)], abs=1e-12)
    assert [removed_count(fraction, 100) for fraction in (0.29, 0.57, 0.58, 1 / 3, 1.0, 0.0)] == [
        29,
        57,
        58,
        33,
        100,
        0,
    ]
    assert removed_count(1 / 3, 3) == 1  # and not 0, as the float is less than a third
    assert removed_count(0.7, 10) == 7
    assert steps(4) == STEPS
    assert steps(1) == (0.0, 1.0)
    with pytest.raises(ValueError, match="num_steps must be a positive integer, got 0"):
        steps(0)


def test_among_equals_the_earlier_goes_first_and_last_in_reverse():
    """Scores 1, 2, 2, 1, 2: taken as 1, 2, 4, 0, 3."""
    ranking = rank(torch.tensor([[1.0, 2.0, 2.0, 1.0, 2.0]]))
    assert ranking.ranks.tolist() == [[3, 0, 1, 4, 2]]
    assert ranking.scores.tolist() == [[2, 2, 2, 1, 1]]
    assert ranking.counts.tolist() == [5]
    # regions 3, 5 and 9 with sums 2, 2 and 1: the smaller label first
    regions = rank(torch.tensor([[1.0, 2.0, 1.0, 1.0]]), torch.tensor([[3, 5, 3, 9]]))
    assert regions.ranks.tolist() == [[0, 1, 0, 2]]
    assert regions.scores.tolist() == [[2, 2, 1]]


def test_labels_that_are_repeated_over_the_vectors_of_tokens():
    """Three tokens of two entries: the first and the last are one region, worth 1 + 3."""
    scores = torch.tensor([[1.0, 5.0, 3.0]])
    ranking = rank(scores, torch.tensor([[[7, 7], [2, 2], [7, 7]]]))
    assert ranking.ranks.tolist() == [[1, 0, 1]]
    assert ranking.scores.tolist() == [[5, 4]]
    with pytest.raises(ValueError, match="differs between channels"):
        rank(scores, torch.tensor([[[7, 2], [2, 2], [7, 7]]]))


def test_ties_are_warned_of_from_just_above_three_in_ten_and_five_examples_are_named():
    def score_of(tied):
        return torch.tensor([[0.0] * tied + [float(k) for k in range(1, 11 - tied)]])

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_ties(rank(score_of(3)))
    with pytest.warns(TieWarning, match=r"in example\(s\) 0 up to 40% of"):
        warn_of_ties(rank(score_of(4)))
    with pytest.warns(TieWarning, match=r"in example\(s\) 17 up to 40% of"):
        warn_of_ties(rank(torch.cat([score_of(0), score_of(4)])), torch.tensor([16, 17]))
    for count, named in ((5, "0, 1, 2, 3, 4 up"), (6, "0, 1, 2, 3, 4 … up")):
        with pytest.warns(TieWarning, match=rf"in example\(s\) {named} to 100% of"):
            warn_of_ties(rank(torch.zeros(count, 3)))
    assert tie_rate(torch.tensor([[1.0, 1.0, 2.0, 3.0], [1.0, 2.0, 3.0, 4.0]])).tolist() == [0.5, 0.0]


def test_a_map_of_another_shape_is_told_what_fits():
    with pytest.raises(ValueError, match=r"one score for each position, \[2, 4\]"):
        position_scores(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"one score for each position, \[2, 5, 6\]"):
        position_scores(torch.zeros(2), torch.zeros(2, 3, 5, 6))


def test_maps_that_say_nothing():
    assert rank(torch.tensor([[1.0, 1.0], [1.0, 2.0]])).is_constant.tolist() == [True, False]
    assert rank(torch.tensor([[1.0]])).is_constant.tolist() == [False]  # one feature has its order
    one_region = rank(torch.tensor([[1.0, 5.0]]), torch.tensor([[2, 2]]))
    assert one_region.is_constant.tolist() == [False]
    padded = Ranking(torch.zeros(1, 3), torch.tensor([2]), torch.tensor([[1.0, 1.0, math.nan]]))
    assert padded.is_constant.tolist() == [True]


def test_positions_and_channels():
    assert positions_of((2, 7)) == (7,)
    assert positions_of((2, 7, 3)) == (7,)
    assert positions_of((2, 3, 4, 5)) == (4, 5)
    assert positions_of((2, 3, 4, 5, 6)) == (4, 5, 6)
    with pytest.raises(ValueError, match=r"shape \[2\]; at least"):
        positions_of((2,))
    assert over_channels(torch.zeros(2, 7), 2).shape == (2, 7)
    assert over_channels(torch.zeros(2, 7), 3).shape == (2, 7, 1)
    assert over_channels(torch.zeros(2, 4, 5), 4).shape == (2, 1, 4, 5)
    scores = position_scores(torch.ones(1, 2, 3, requires_grad=True), torch.zeros(1, 2, 3))
    assert scores.tolist() == [[3.0, 3.0]]
    assert not scores.requires_grad
    one_channel = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    assert position_scores(one_channel, torch.zeros(1, 3, 2, 2)).tolist() == [[[1.0, 2.0], [3.0, 4.0]]]


def test_tie_rates():
    assert tie_rate(torch.tensor([[1.0, 2.0, 2.0, 3.0, 3.0, 3.0, 4.0, 5.0]])).item() == 5 / 8
    channels = torch.tensor([[[[1.0, 2.0]], [[1.0, 0.0]]]])  # sums 2 and 2
    assert tie_rate(channels).item() == 1
    assert tie_rate(torch.tensor([[1.0, 2.0, 1.0]]), torch.tensor([[0, 1, 0]])).item() == 1  # sums 2 and 2
    assert tie_rate(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[0, 1, 0]])).item() == 0


def test_areas():
    """Trapezoids 0.5 x 3, 0.25 x 3 and 0.25 x 1."""
    fractions = torch.tensor([0.0, 0.5, 0.75, 1.0])
    values = torch.tensor([[2.0, 4.0, 2.0, 0.0], [1.0, 1.0, 1.0, 1.0]], dtype=DOUBLE)
    assert area(fractions, values).tolist() == [1.5 + 0.75 + 0.25, 1.0]
    part = area(torch.tensor([0.25, 0.75]), values[:, :2])
    assert part.tolist() == [1.5, 0.5]
    assert area(fractions.double(), values.float()).dtype == torch.float32


def test_insertion_deletion_and_removal():
    """Areas of the five points; what is inserted first is what is removed last."""
    best, worst = (trapezoid([p(left) for left in order], 0.25) for order in (BEST_FIRST, WORST_FIRST))
    asked = {"target": 0, "num_steps": 4, "baselines": 0.0}
    assert deletion(total, X, MAP, **asked).item() == pytest.approx(best, abs=1e-12)
    assert insertion(total, X, MAP, **asked).item() == pytest.approx(worst, abs=1e-12)
    assert removal(total, X, MAP, order="morf", **asked).item() == pytest.approx(best, abs=1e-12)
    assert removal(total, X, MAP, order="lerf", **asked).item() == pytest.approx(worst, abs=1e-12)
    other = trapezoid([1 - p(left) for left in BEST_FIRST], 0.25)
    assert deletion(total, X, MAP, **asked | {"target": 1}).item() == pytest.approx(other, abs=1e-12)
    assert deletion(total, X, MAP, target=0, num_steps=4, preset="fei").item() == pytest.approx(best, abs=1e-12)
    assert removal(total, X, MAP, order="morf", **asked | {"target": 1}).item() == pytest.approx(other, abs=1e-12)
    # into ones, 8 + 1 and so on are left
    filled = trapezoid([p(left) for left in (10, 9, 6, 6, 4)], 0.25)
    assert deletion(total, X, MAP, **asked | {"baselines": 1.0}).item() == pytest.approx(filled, abs=1e-12)
    into_ones = removal(total, X, MAP, order="morf", **asked | {"baselines": 1.0})
    assert into_ones.item() == pytest.approx(filled, abs=1e-12)
    with pytest.raises(ValueError, match="preset must be 'rise' or 'fei', got 'FEI'"):
        deletion(total, X, MAP, target=0, preset="FEI")


def test_questions_and_options_reach_each_metric():
    """The other class has 1 - p, so what p loses it wins; without an activation the answer is a quarter of the sum."""
    bins = {"bins": (0.25, 0.5)}
    comp, suff = p(10) - (p(8) + p(4)) / 2, p(10) - (p(2) + p(6)) / 2
    combined = ((p(7) - p(8)) + (p(6) - p(4))) / 4

    def shared(**asked):
        """Of all metrics with these bins."""
        found = [metric(total, X, MAP, **bins, **asked).item() for metric in (comprehensiveness, sufficiency)]
        return [
            *found,
            aopc_metric(**bins)(total, X, MAP, **asked).item(),
            road(total, X, MAP, baselines=0.0, **bins, **asked).item(),
        ]

    assert shared(target=1) == pytest.approx([-comp, -suff, suff - comp, -combined], abs=1e-12)
    in_logits = [10 - (8 + 4) / 2, 10 - (2 + 6) / 2, (2 + 6) / 2 - (8 + 4) / 2, ((7 - 8) + (6 - 4)) / 4]
    assert shared(target=0, activation=None) == pytest.approx([value / 4 for value in in_logits], abs=1e-12)
    plain = {"target": 0, "num_steps": 4, "baselines": 0.0, "activation": None}
    for call, left in (
        (insertion(total, X, MAP, **plain), WORST_FIRST),
        (deletion(total, X, MAP, **plain), BEST_FIRST),
        (removal(total, X, MAP, order="morf", **plain), BEST_FIRST),
    ):
        assert call.item() == pytest.approx(trapezoid([value / 4 for value in left], 0.25), abs=1e-12)


def test_comprehensiveness_sufficiency_and_what_they_make_together():
    """Bins of one and two features: p(10) less p(8), p(4) without them, and less p(2), p(6) with them alone."""
    asked = {"target": 0, "bins": (0.25, 0.5)}
    comp, suff = p(10) - (p(8) + p(4)) / 2, p(10) - (p(2) + p(6)) / 2
    assert comprehensiveness(total, X, MAP, **asked).item() == pytest.approx(comp, abs=1e-12)
    assert sufficiency(total, X, MAP, **asked).item() == pytest.approx(suff, abs=1e-12)
    assert aopc_metric(bins=(0.25, 0.5))(total, X, MAP, target=0).item() == pytest.approx(comp - suff, abs=1e-12)
    four = p(10) - sum(map(p, BEST_FIRST)) / 5
    assert comprehensiveness(total, X, MAP, target=0, bins=4).item() == pytest.approx(four, abs=1e-12)
    into_ones = p(10) - (p(9) + p(6)) / 2
    assert comprehensiveness(total, X, MAP, **asked, baselines=1.0).item() == pytest.approx(into_ones, abs=1e-12)
    # the two worst features are 3 and 1; with ones in their place 6 + 2 is left, with one more for 4, 2 + 3
    kept_with_ones = p(10) - (p(2 + 3) + p(6 + 2)) / 2
    assert sufficiency(total, X, MAP, **asked, baselines=1.0).item() == pytest.approx(kept_with_ones, abs=1e-12)
    with_ones = aopc_metric(bins=(0.25, 0.5), baselines=1.0)(total, X, MAP, target=0)
    assert with_ones.item() == pytest.approx(into_ones - kept_with_ones, abs=1e-12)


def test_road():
    """(worst first - best first) / 2 at one and two features."""
    expected = ((p(7) - p(8)) + (p(6) - p(4))) / 4
    found = road(total, X, MAP, target=0, bins=(0.25, 0.5), baselines=0.0)
    assert found.item() == pytest.approx(expected, abs=1e-12)


def test_scores_of_a_curve_by_hand():
    """Two examples, two fractions; probabilities of three classes."""
    clean = torch.tensor([[0.5, 0.3, 0.2], [0.2, 0.7, 0.1]], dtype=DOUBLE)
    masked = torch.tensor([[[0.4, 0.4, 0.2], [0.1, 0.8, 0.1]], [[0.3, 0.3, 0.4], [0.2, 0.2, 0.6]]], dtype=DOUBLE)
    curve = Curve(torch.tensor([0.25, 0.5], dtype=DOUBLE), clean, masked)
    assert comprehensiveness_of(curve).tolist() == pytest.approx([0.25, 0.45])  # of the predicted classes 0 and 1
    assert comprehensiveness_of(curve, 2).tolist() == pytest.approx([0.05, -0.4])
    assert sufficiency_of(curve, [1, 0]).tolist() == pytest.approx([-0.3, -0.05])


def test_what_the_metrics_measure():
    def series(metric):
        return [(one.fill, one.order, one.fractions, one.grid) for one in metric.specs]

    assert series(insertion_metric()) == [("blur", "lerf", steps(28), None)]
    assert series(insertion_metric(preset="fei")) == [(0.0, "lerf", steps(28), None)]
    assert series(insertion_metric(baselines="noise", num_steps=3)) == [("noise", "lerf", steps(3), None)]
    for preset in ("rise", "fei"):
        assert series(deletion_metric(preset=preset)) == [(0.0, "morf", steps(28), None)]
    assert series(deletion_metric(baselines="mean", num_steps=2)) == [("mean", "morf", steps(2), None)]
    for order in ("morf", "lerf"):
        assert series(removal_metric(order=order)) == [(0.0, order, steps(28), None)]
    assert series(comprehensiveness_metric()) == [(0.0, "morf", (0.01, 0.05, 0.1, 0.2, 0.5), None)]
    assert series(sufficiency_metric()) == [(0.0, "lerf", (0.99, 0.95, 0.9, 0.8, 0.5), None)]
    assert series(aopc_metric()) == series(comprehensiveness_metric()) + series(sufficiency_metric())
    assert series(road_metric()) == [("noisy_linear", order, TENTHS, None) for order in ("morf", "lerf")]
    assert (ERASER_BINS, ROAD_BINS) == ((0.01, 0.05, 0.1, 0.2, 0.5), TENTHS)


def test_examples_are_scored_in_their_order_with_their_own_questions():
    """Twenty examples, worked on sixteen at a time."""
    x = X * torch.arange(1.0, 21, dtype=DOUBLE)[:, None] / 10
    asked = [k % 2 for k in range(20)]
    told = []

    def score(curves, target):
        told.append(len(target))
        return torch.stack([curve.masked[:, 0, 0] for curve in curves]).sum(0)

    metric = CurveMetric(
        specs=(PerturbationSpec(0.0, "morf", (0.25,)), PerturbationSpec(0.0, "lerf", (0.25,))), score=score
    )
    found = metric(total, x, MAP.expand(20, -1), target=asked)
    assert found.tolist() == pytest.approx([p(0.8 * k) + p(0.7 * k) for k in range(1, 21)], abs=1e-12)
    assert told == [16, 4]
    values = deletion(total, x, MAP.expand(20, -1), target=asked, num_steps=4, baselines=0.0)
    left = [[p(value * k / 10) for value in BEST_FIRST] for k in range(1, 21)]
    signed = [[1 - v for v in row] if k % 2 else row for k, row in enumerate(left)]
    assert values.tolist() == pytest.approx([trapezoid(row, 0.25) for row in signed], abs=1e-12)


def test_regions_of_each_example_in_more_than_one_piece():
    """Two regions for even examples, four for odd ones; scores are filled up with NaN."""
    masks = torch.tensor([[0, 0, 1, 1], [0, 1, 2, 3]]).repeat(9, 1)
    x, maps = X.expand(18, -1), MAP.expand(18, -1)
    (curve,) = perturbation_curves(total, x, maps, [PerturbationSpec(0.0, "single", (0.5,))], feature_mask=masks)
    # even: of regions worth 4 and 6 to the map the second goes, and 4 + 3 is left; odd: the second best of four goes
    assert curve.masked[:, 0, 0].tolist() == pytest.approx([p(7), p(6)] * 9, abs=1e-12)
    assert curve.scores.shape == (18, 4)
    assert curve.scores.isnan().sum(1).tolist() == [2, 0] * 9
    # no example of the first piece has more than two regions
    apart = torch.cat([masks[:1].expand(16, -1), masks[1:2].expand(2, -1)])
    (curve,) = perturbation_curves(total, x, maps, [PerturbationSpec(0.0, "single", (0.5,))], feature_mask=apart)
    assert curve.scores[[0, 16], :2].tolist() == [[6, 4], [4, 3]]
    assert curve.scores.isnan().tolist() == [[False, False, True, True]] * 16 + [[False] * 4] * 2
    shared = perturbation_curves(total, x, maps, [PerturbationSpec(0.0, "morf", (0.5,))], feature_mask=masks[0])[0]
    assert shared.masked[:, 0, 0].tolist() == pytest.approx([p(7)] * 18, abs=1e-12)


def test_labels_of_series_and_grids():
    assert PerturbationSpec("blur", "morf").label == "morf blur"
    assert PerturbationSpec("noise", "lerf", grid=(3, 4)).label == "lerf noise 3x4"
    assert grid_mask((2, 3), (2, 3)).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert grid_mask((5, 4), (2, 1)).tolist() == [[0] * 4] * 3 + [[1] * 4] * 2
    assert grid_mask((3, 5), (1, 2)).tolist() == [[0, 0, 0, 1, 1]] * 3
    for grid in ((0, 1), (3, 1), (1, 0), (1, 4)):
        with pytest.raises(ValueError, match=f"a grid of {grid[0]} x {grid[1]} cells does not fit 2 x 3"):
            grid_mask((2, 3), grid)
    with pytest.raises(ValueError, match=r"a grid of cells needs images, the inputs have positions \[4\]"):
        grid_mask((4,), (1, 1))
    assert PerturbationSpec(fractions=(0.0, 1.0)).fractions == (0.0, 1.0)


def test_examples_with_ties_are_numbered_as_the_caller_numbers_them():
    """Curves are computed for a few examples at a time."""
    maps = torch.rand(19, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    maps[17] = 0.5
    with pytest.warns(TieWarning, match=r"in example\(s\) 17 up to 100% of"):
        perturbation_curve(conv_net(), images(19), maps)
