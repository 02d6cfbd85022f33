"""Single deletion: correlations worked by hand, scipy's, and the images where there is none."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tests.networks import conv_net, images
from xai_align import Question, plugins
from xai_align.evaluation import rank_deletion, single_deletion
from xai_align.question import TargetError

#: Four patches of one pixel; the logit is their weighted sum.
X = torch.tensor([[[[4.0, 3.0], [2.0, 1.0]]]], dtype=torch.float64)
WEIGHTS = torch.tensor([[1.0, 5.0], [-3.0, 2.0]], dtype=torch.float64)


def weighted(x):
    z = (x * WEIGHTS).flatten(1).sum(1)
    return torch.stack([z, torch.zeros_like(z)], 1)


def some_maps(*shape, seed=3):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_by_hand():
    # to the mean 2.5 the logit falls by w (x - 2.5): 1.5, 2.5, 1.5, -3
    # of the map 3, 4, 1, 2: ranks 3 4 1 2 against 2.5 4 2.5 1
    scores = torch.tensor([[[3.0, 4.0], [1.0, 2.0]]])
    a, b = np.array([3, 4, 1, 2]) - 2.5, np.array([2.5, 4, 2.5, 1]) - 2.5
    rho = (a @ b) / math.sqrt((a @ a) * (b @ b))
    assert float(single_deletion(weighted, X, scores, target=0, grid=(2, 2))) == pytest.approx(rho)
    # to 0 by w x: 4, 15, -6, 2: ranks 3 4 1 2, the map's own
    assert float(single_deletion(weighted, X, scores, target=0, grid=(2, 2), baselines=0.0)) == pytest.approx(1)
    assert float(single_deletion(weighted, X, -scores, target=0, grid=(2, 2), baselines=0.0)) == pytest.approx(-1)


def test_it_is_scipys_correlation_of_falls_measured_one_at_a_time():
    stats = pytest.importorskip("scipy.stats")
    net, x, maps = conv_net().requires_grad_(False), images(2, 16), some_maps(2, 3, 16, 16)
    labels = [1, 4]
    for i in range(2):
        sums, falls = [], []
        for row in range(0, 16, 4):
            for column in range(0, 16, 4):
                without = x[i : i + 1].clone()
                without[..., row : row + 4, column : column + 4] = x[i].mean((1, 2))[None, :, None, None]
                falls.append(float(net(x[i : i + 1])[0, labels[i]] - net(without)[0, labels[i]]))
                sums.append(float(maps[i, :, row : row + 4, column : column + 4].sum()))
        for method, theirs in (("spearman", stats.spearmanr), ("kendall", stats.kendalltau)):
            found = single_deletion(net, x, maps, target=labels, method=method)[i]
            assert float(found) == pytest.approx(theirs(sums, falls).statistic, abs=1e-6)


def test_it_is_rank_deletion_in_logits():
    net, x, maps = conv_net(), images(2, 16), some_maps(2, 16, 16)
    asked = {"target": 2, "grid": (4, 4), "baselines": "mean"}
    found = single_deletion(net, x, maps, target=2)
    torch.testing.assert_close(found, rank_deletion(net, x, maps, activation=None, **asked))
    # another class's logit moves the probability, but not this one's answer
    assert not torch.allclose(found, rank_deletion(net, x, maps, **asked))


def test_questions_and_the_predicted_class():
    net, x, maps = conv_net(), images(2, 16), some_maps(2, 16, 16)
    predicted = net(x).argmax(1).tolist()
    torch.testing.assert_close(single_deletion(net, x, maps), single_deletion(net, x, maps, target=predicted))
    pair = Question.why_not(1, 2)
    difference = single_deletion(lambda z: net(z)[:, [1]] - net(z)[:, [2]], x, maps, target=0)
    torch.testing.assert_close(single_deletion(net, x, maps, target=pair), difference, atol=1e-6, rtol=1e-5)


@pytest.mark.filterwarnings("ignore::xai_align.perturbation.TieWarning")
def test_a_constant_map_or_an_answer_that_never_falls_has_no_value_and_spoils_no_other():
    maps = torch.cat([torch.ones(1, 2, 2), WEIGHTS[None].float() * X[0].float()])
    x = torch.cat([X, X])
    found = single_deletion(weighted, x, maps, target=0, grid=(2, 2), baselines=0.0)
    assert found.isnan().tolist() == [True, False]
    assert float(found[1]) == pytest.approx(1)
    assert single_deletion(weighted, x, maps, target=1, grid=(2, 2)).isnan().all()


def test_the_registered_metric_is_this_function():
    spec = plugins.metric("single_deletion")
    assert spec.higher_is_better
    net, x, maps = conv_net(), images(2, 16), some_maps(2, 16, 16)
    torch.testing.assert_close(
        spec.evaluate(net, x, maps, target=[1, 2], internal_batch_size=3),
        single_deletion(net, x, maps, target=[1, 2], grid=(4, 4), baselines="mean"),
    )


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"method": "pearson"}, ValueError, "method must be 'spearman' or 'kendall', got 'pearson'"),
        ({"grid": (4, 4)}, ValueError, "4 x 4 cells does not fit 2 x 2 pixels"),
        ({"target": 2}, TargetError, "out of range"),
        ({"attributions": torch.ones(1, 4, 4)}, ValueError, r"attributions have shape \[1, 4, 4\]"),
        ({"attributions": torch.full((1, 2, 2), math.inf)}, ValueError, "attributions must be finite"),
        ({"inputs": X[0, 0], "attributions": X[0, 0]}, ValueError, "a grid of cells needs images"),
    ],
)
def test_bad_input_is_said(change, error, said):
    with pytest.raises(error, match=said):
        single_deletion(weighted, **{"inputs": X, "attributions": X, "target": 0, "grid": (2, 2), **change})
