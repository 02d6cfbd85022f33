"""One ranking for everything: its order, its ties, its regions, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xai_align.perturbation import ranking as ranking_module
from xai_align.perturbation.curve import perturbation_curve
from xai_align.perturbation.ranking import (
    TieWarning,
    descending_ranks,
    position_scores,
    rank,
    tie_rate,
    warn_of_ties,
)


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=30))
@settings(max_examples=50, deadline=None)
def test_ranks_are_numpys_stable_order(values):
    ranks = descending_ranks(torch.tensor([values], dtype=torch.float64))[0]
    order = np.argsort(-np.array(values), kind="stable")
    assert ranks[torch.tensor(order)].tolist() == list(range(len(values)))


def test_signed_values_are_ranked_not_sizes():
    assert descending_ranks(torch.tensor([[-5.0, 1.0, 0.0]])).tolist() == [[2, 0, 1]]


def test_channels_are_summed():
    inputs = torch.zeros(1, 2, 1, 2)
    attributions = torch.tensor([[[[1.0, 0.0]], [[-2.0, 0.5]]]])
    assert position_scores(attributions, inputs).tolist() == [[[-1.0, 0.5]]]
    assert position_scores(attributions[:, :1], inputs).tolist() == [[[1.0, 0.0]]]
    tokens = torch.ones(1, 3, 4)  # [N, L, C]
    assert position_scores(tokens, tokens).tolist() == [[4.0, 4.0, 4.0]]


def test_regions_go_by_the_sum_of_their_scores():
    scores = torch.tensor([[[3.0, 0.0], [2.0, 2.0]]])
    mask = torch.tensor([[7, 7], [5, 5]])
    ranking = rank(scores, mask)
    assert ranking.ranks.tolist() == [[[1, 1], [0, 0]]]
    assert ranking.counts.tolist() == [2]
    assert ranking.scores.tolist() == [[4.0, 3.0]]


def test_examples_may_have_different_numbers_of_regions():
    scores = torch.tensor([[1.0, 1.0, 3.0], [1.0, 2.0, 3.0]])
    ranking = rank(scores, torch.tensor([[0, 0, 1], [4, 2, 3]]))
    assert ranking.counts.tolist() == [2, 3]
    assert ranking.ranks.tolist() == [[1, 1, 0], [2, 1, 0]]
    assert torch.equal(ranking.scores.isnan(), torch.tensor([[False, False, True], [False, False, False]]))


@pytest.mark.parametrize(
    ("values", "share"), [([1.0, 2.0, 3.0], 0.0), ([1.0, 1.0, 3.0, 4.0], 0.5), ([0.0, 0.0, 0.0], 1.0), ([1.0], 0.0)]
)
def test_tie_rate(values, share):
    assert tie_rate(torch.tensor([values])).item() == share


def test_many_ties_are_warned_of():
    x = torch.randn(1, 1, 4, 4)
    attributions = torch.zeros(1, 4, 4)
    attributions[0, 0] = torch.arange(4.0)
    with pytest.warns(TieWarning, match=r"example\(s\) 0 .*% of the features"):
        perturbation_curve(lambda x: x.flatten(1)[:, :2], x, attributions)


def test_the_warning_of_ties_names_no_line_of_the_library():
    """See also test_callers_level.py."""
    with pytest.warns(TieWarning) as told:
        warn_of_ties(rank(torch.zeros(1, 3)))
    assert [one.filename == ranking_module.__file__ for one in told] == [False]


def test_many_regions_are_ranked_in_a_stable_order():
    """Sixty regions with three sums; PyTorch's sort is stable by itself up to sixteen."""
    values = np.arange(60) % 3
    ranking = rank(torch.tensor(values[None]).double(), torch.arange(60)[None])
    assert ranking.ranks[0, torch.tensor(np.argsort(-values, kind="stable"))].tolist() == list(range(60))


def test_a_ranking_lies_where_the_scores_are():
    ranking = rank(torch.zeros(2, 3, device="meta"))
    assert {part.device.type for part in (ranking.ranks, ranking.counts, ranking.scores)} == {"meta"}


@pytest.mark.parametrize(
    ("attributions", "message"),
    [
        (torch.zeros(2, 3, 4, 5), r"shape \[2, 3, 4, 5\], the inputs \[2, 3, 4, 4\]"),
        (torch.zeros(1, 3, 4, 4), r"shape \[1, 3, 4, 4\]"),
        (torch.zeros(2, 2, 4, 4), r"shape \[2, 2, 4, 4\]"),
        (torch.full((2, 3, 4, 4), torch.nan), r"example\(s\) 0, 1 hold NaN"),
        (torch.full((2, 3, 4, 4), torch.inf), "hold NaN or infinity"),
    ],
)
def test_maps_that_do_not_fit_are_refused(attributions, message):
    with pytest.raises(ValueError, match=message):
        position_scores(attributions, torch.zeros(2, 3, 4, 4))


@pytest.mark.parametrize("shape", [(2, 1), (2, 1, 4), (2, 4, 1), (2, 4, 4)])
def test_vectors_have_no_channels_to_sum(shape):
    with pytest.raises(ValueError, match=r"the inputs \[2, 4\]"):
        position_scores(torch.zeros(shape), torch.zeros(2, 4))


def test_a_map_must_be_a_tensor():
    with pytest.raises(TypeError, match="ndarray"):
        position_scores(np.zeros((2, 4)), torch.zeros(2, 4))


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        (torch.zeros(4, 5, dtype=torch.long), ValueError, r"\[4, 5\]; give \[4, 4\]"),
        (torch.zeros(3, 4, 4, dtype=torch.long), ValueError, r"\[3, 4, 4\]"),
        (torch.zeros(4, 4), TypeError, "integer labels"),
        (torch.arange(48).reshape(1, 3, 4, 4), ValueError, "differs between channels"),
    ],
)
def test_feature_masks_that_do_not_fit_are_refused(mask, error, message):
    with pytest.raises(error, match=message):
        rank(torch.zeros(2, 4, 4), mask)


def test_captums_repeated_labels_are_taken():
    labels = torch.arange(16).reshape(4, 4) // 4
    scores = torch.randn(2, 4, 4, dtype=torch.float64)
    for channels in (1, 3):
        assert torch.equal(rank(scores, labels.expand(1, channels, 4, 4)).ranks, rank(scores, labels).ranks)
