"""Agreement of two explanations: worked by hand, brute force, and what must not matter."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xai_align._tools.correlation import average_ranks, dense_ranks, inversions, kendall, pearson, spearman
from xai_align.evaluation.agreement import MEASURES, agreement


def measure(name, a, b, k=1):
    return agreement(a, b, k=k, metrics=(name,))[name]


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_four_features_by_hand():
    a = [[4.0, -3.0, 2.0, 1.0]]  # order 0 1 2 3
    b = [[-5.0, 2.0, 1.0, 4.0]]  # order 0 3 1 2
    values = {name: float(value) for name, value in agreement(a, b, k=3).items()}
    # top 3 of a: 0 1 2; of b: 0 3 1. Shared 0, 1: signs + -, - +. Same rank: 0 (first), signs differ
    assert values["fa"] == pytest.approx(2 / 3)
    assert values["iou"] == pytest.approx(2 / 4)
    assert values["ra"] == pytest.approx(1 / 3)
    assert values["sa"] == values["sra"] == 0
    # of the pairs 01 02 03 12 13 23, b turns 13 and 23 round
    assert values["pra"] == pytest.approx(4 / 6)
    # dense ranks, smallest 0: a 3 2 1 0, b 3 1 0 2; deviations multiplied and summed: (2.25 - .25 + .75 - .75) / 5
    assert values["rc"] == pytest.approx(0.4)


def test_signs_by_hand():
    values = agreement([[3.0, -2.0, 1.0]], [[3.0, 2.0, -1.0]], k=2, metrics=("sa", "sra", "fa"))
    assert {name: float(value) for name, value in values.items()} == {"sa": 0.5, "sra": 0.5, "fa": 1.0}


def brute_force(a, b, k):
    """As the definitions read, with sets and loops; no ties."""
    order_a, order_b = ([int(i) for i in np.argsort(-np.abs(x))] for x in (a, b))
    top_a, top_b = set(order_a[:k]), set(order_b[:k])
    sign = {i for i in range(len(a)) if np.sign(a[i]) == np.sign(b[i])}
    same_rank = {i for i, j in zip(order_a[:k], order_b[:k], strict=True) if i == j}
    turned = list(itertools.combinations(range(len(a)), 2))
    same = [(abs(a[i]) > abs(a[j])) == (abs(b[i]) > abs(b[j])) for i, j in turned]
    ranks = [[order.index(i) for i in range(len(a))] for order in (order_a, order_b)]
    return {
        "fa": len(top_a & top_b) / k,
        "ra": len(same_rank) / k,
        "sa": len(top_a & top_b & sign) / k,
        "sra": len(same_rank & sign) / k,
        "pra": sum(same) / len(same),
        "rc": np.corrcoef(*ranks)[0, 1],
        "iou": len(top_a & top_b) / len(top_a | top_b),
    }


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 9), st.data())
def test_as_the_definitions_read(seed, features, data):
    k = data.draw(st.integers(1, features))
    a, b = numbers(1, features, seed=seed), numbers(1, features, seed=seed + 1)
    expected = brute_force(a[0].numpy(), b[0].numpy(), k)
    found = agreement(a, b, k=k)
    assert {name: float(value) for name, value in found.items()} == pytest.approx(expected)


def test_an_explanation_agrees_with_itself_and_with_any_other_of_the_same_order():
    a = numbers(3, 5, 7)
    assert all(bool((value == 1).all()) for name, value in agreement(a, a, k=0.2).items() if name != "rc")
    torch.testing.assert_close(measure("rc", a, a), torch.ones(3, dtype=torch.float64))
    b, other = numbers(3, 5, 7, seed=1), 5 * a.abs() ** 3 * a.sign()
    before, after = agreement(a, b, k=9), agreement(other, b, k=9)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_measures_are_symmetric():
    a, b = numbers(4, 20), numbers(4, 20, seed=1)
    there, back = agreement(a, b, k=6), agreement(b, a, k=6)
    for name in there:
        torch.testing.assert_close(there[name], back[name])


def test_of_ties_the_earlier_feature_comes_first():
    constant, falling = [[1.0, 1, 1, 1]], [[4.0, 3, 2, 1]]
    values = agreement(constant, falling, k=2)
    assert float(values["fa"]) == float(values["ra"]) == float(values["pra"]) == 1
    assert math.isnan(values["rc"])
    assert float(measure("pra", constant, [[1.0, 2, 3, 4]])) == 0


def test_chance_agreement_of_a_share_k_is_about_k():
    a, b = numbers(200, 400), numbers(200, 400, seed=1)
    values = agreement(a, b, k=0.25)
    assert float(values["fa"].mean()) == pytest.approx(0.25, abs=0.01)
    assert float(values["sa"].mean()) == pytest.approx(0.125, abs=0.01)
    assert float(values["pra"].mean()) == pytest.approx(0.5, abs=0.01)
    assert float(values["rc"].mean()) == pytest.approx(0, abs=0.02)


@pytest.mark.parametrize("name", MEASURES)
def test_each_measure_by_itself(name):
    a, b = numbers(3, 11), numbers(3, 11, seed=1)
    assert torch.equal(measure(name, a, b, k=4), agreement(a, b, k=4)[name])


def test_lists_arrays_and_tensors_are_the_same_and_no_example_minds_the_others():
    a, b = numbers(3, 10).float().requires_grad_(), numbers(3, 10, seed=1).float()
    expected = agreement(a, b, k=3)
    for name, value in agreement(a.tolist(), b.numpy(), k=3).items():
        assert torch.equal(value, expected[name])
        assert value.shape == (3,)
    for i in range(3):
        alone = agreement(a[i : i + 1], b[i : i + 1], k=3)
        assert all(torch.equal(alone[name], expected[name][i : i + 1]) for name in alone)


def test_pixels_are_features_whatever_the_number_of_channels():
    a, b = numbers(2, 3, 4, 5), numbers(2, 4, 5, seed=1)
    assert torch.equal(agreement(a, b, k=5)["fa"], agreement(a.sum(1), b[:, None], k=5)["fa"])


def test_regions_add_up_and_may_differ_from_image_to_image():
    mask = torch.tensor([[[0, 0, 7], [3, 3, 3]], [[1, 1, 1], [1, 2, 2]]])
    pixels = torch.tensor([[[1.0, 2, 9], [1, 1, 2]], [[1, 1, 1], [1, 5, 6]]])
    regions = [[3.0, 4, 9], [4.0, 11]]  # by ascending label
    for i in range(2):
        found = agreement(pixels[i : i + 1], [regions[i]], k=2, feature_mask=mask[i : i + 1], metrics=("ra", "rc"))
        assert float(found["ra"]) == 1
        assert float(found["rc"]) == pytest.approx(1)
    together = agreement(pixels, 2 * pixels + 0.01, k=1.0, feature_mask=mask)
    assert bool((together["ra"] == 1).all())
    other = agreement(pixels, numbers(2, 2, 3), k=1, feature_mask=mask)
    alone = agreement(pixels[1:], numbers(2, 2, 3)[1:], k=1, feature_mask=mask[1:])
    assert all(torch.equal(other[name][1:], alone[name]) for name in other)
    assert torch.equal(
        agreement(pixels, 2 * pixels, k=1, feature_mask=mask[0])["fa"],
        agreement(pixels, 2 * pixels, k=1, feature_mask=mask[:1, None].expand(1, 3, 2, 3))["fa"],
    )


def test_a_photograph_of_pixels_takes_no_square_of_memory():
    a, b = numbers(1, 224, 224), numbers(1, 224, 224, seed=1)  # P^2 booleans would be 2.5 GB
    assert float(measure("pra", a, b)) == pytest.approx(0.5, abs=0.01)
    assert float(measure("pra", a, -3 * a)) == 1


@pytest.mark.parametrize(
    ("a", "b", "options", "error", "said"),
    [
        ([[1.0, 2]], [[1.0, 2, 3]], {}, ValueError, "not about the same features"),
        ([[1.0, 2]], [[1.0, 2]] * 2, {}, ValueError, "one explanation is of 1 examples, the other of 2"),
        ([1.0, 2], [1.0, 2], {}, ValueError, "one row for each example"),
        ([[1.0, math.nan]], [[1.0, 2]], {}, ValueError, "NaN or infinity"),
        ([[1.0, 2]], [[1.0, 2]], {"k": 3}, ValueError, "k is 3, there are 2 features"),
        ([[1.0, 2]], [[1.0, 2]], {"k": 0}, ValueError, "k is 0"),
        ([[1.0, 2]], [[1.0, 2]], {"k": 1.5}, ValueError, r"k is the share 1.5; give a float in \(0, 1\]"),
        ([[1.0, 2]], [[1.0, 2]], {"k": True}, TypeError, "k is True"),
        ([[1.0, 2]], [[1.0, 2]], {"metrics": ("fa", "fb")}, ValueError, "must be 'fa', 'ra', .* got 'fb'"),
        ([[1.0, 2]], [[1.0, 2]], {"feature_mask": [0.5, 1]}, TypeError, "give integers"),
        ([[1.0, 2]], [[1.0, 2]], {"feature_mask": [0, 1, 2]}, ValueError, "does not fit importances"),
        ([[1.0, 2, 3]], [[1.0, 2]], {"feature_mask": [0, 0, 0]}, ValueError, "nor one for each of its 1 features"),
    ],
)
def test_bad_input_is_said(a, b, options, error, said):
    with pytest.raises(error, match=said):
        agreement(a, b, **{"k": 1, **options})


def test_the_names_are_those_of_the_definitions():
    assert tuple(MEASURES) == ("fa", "ra", "sa", "sra", "pra", "rc", "iou")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-3, 3), max_size=40))
def test_inversions_are_the_pairs_that_stand_the_wrong_way_round(values):
    expected = sum(x > y for x, y in itertools.combinations(values, 2))
    assert inversions(torch.tensor(values, dtype=torch.float64)) == expected


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 30), st.integers(0, 1000), st.booleans())
def test_correlations_are_scipys(length, seed, coarse):
    stats = pytest.importorskip("scipy.stats")
    a, b = numbers(1, length, seed=seed), numbers(1, length, seed=seed + 1)
    if coarse:
        a, b = a.round(), b.round()
    if a.unique().numel() == 1 or b.unique().numel() == 1:
        assert all(math.isnan(measure(a, b)) for measure in (pearson, spearman, kendall))
        return
    x, y = a[0].numpy(), b[0].numpy()
    assert float(pearson(a, b)) == pytest.approx(stats.pearsonr(x, y)[0], abs=1e-9)
    assert float(spearman(a, b)) == pytest.approx(stats.spearmanr(x, y)[0], abs=1e-9)
    assert float(kendall(a, b)) == pytest.approx(stats.kendalltau(x, y)[0], abs=1e-9)
    assert average_ranks(a)[0].tolist() == stats.rankdata(x).tolist()
    assert (dense_ranks(a)[0] + 1).tolist() == stats.rankdata(x, method="dense").tolist()
