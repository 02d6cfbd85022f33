"""Faithfulness metrics against hand-worked models, loops, and each other."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from tests.networks import conv_net, images
from xai_align.evaluation.completeness import completeness_gap
from xai_align.evaluation.curve_metric import CurveMetric
from xai_align.evaluation.faithfulness import (
    comprehensiveness,
    deletion,
    insertion,
    insertion_metric,
    removal,
    road,
    sufficiency,
)
from xai_align.evaluation.feature_by_feature import decision_flip, rank_deletion
from xai_align.evaluation.soft_masks import average_drop, average_increase
from xai_align.explanation import explain
from xai_align.perturbation.curve import perturbation_curve
from xai_align.perturbation.questioned import curve_values
from xai_align.question import Question, TargetError, answers


def maps(count=3, size=8, seed=3):
    return torch.randn(count, size, size, generator=torch.Generator().manual_seed(seed))


def linear_logits(weights):
    """Two logits, the first ``w . x`` and the second nothing: ``p_0 = sigmoid(w . x)``."""

    def model(x):
        z = x.double() @ torch.tensor(weights, dtype=torch.float64)
        return torch.stack([z, torch.zeros_like(z)], 1)

    return model


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def rise_loop(model, image, scores, target, game, steps, blurred):
    """RISE's evaluation, one image, in the order its authors describe."""
    best_first = np.argsort(-scores.numpy().reshape(-1), kind="stable")
    start, finish = (blurred, image) if game == "insertion" else (image, torch.zeros_like(image))
    shown = start.clone()
    p = []
    for step in range(steps + 1):
        p.append(float(model(shown[None]).softmax(1)[0, target].detach()))
        chosen = best_first[step * (scores.numel() // steps) : (step + 1) * (scores.numel() // steps)]
        shown.reshape(3, -1)[:, chosen] = finish.reshape(3, -1)[:, chosen]
    p = np.array(p)
    return (p.sum() - p[0] / 2 - p[-1] / 2) / steps


@pytest.mark.parametrize("game", ["insertion", "deletion"])
def test_rise_is_what_its_authors_loop_over(game):
    from xai_align.perturbation.fills import GaussianBlur

    model, x, a = conv_net(), images(3, 14), maps(3, 14)
    measured = {"insertion": insertion, "deletion": deletion}[game](model, x, a, target=[1, 2, 3])
    expected = [rise_loop(model, x[i], a[i], i + 1, game, 28, GaussianBlur()(x[i : i + 1])[0]) for i in range(3)]
    assert measured.tolist() == pytest.approx(expected, abs=1e-6)


def test_presets_differ_in_what_is_filled_in():
    model, x, a = conv_net(), images(2), maps(2)
    assert torch.equal(insertion(model, x, a, preset="fei"), insertion(model, x, a, preset="rise", baselines=0.0))
    assert torch.equal(insertion(model, x, a, preset="fei"), removal(model, x, a, order="lerf"))
    assert not torch.equal(insertion(model, x, a), insertion(model, x, a, preset="fei"))
    with pytest.raises(ValueError, match="preset must be 'rise' or 'fei', got 'RISE'"):
        insertion(model, x, a, preset="RISE")


def test_by_default_the_predicted_class_is_asked_about():
    model, x, a = conv_net(), images(3), maps()
    predicted = model(x).argmax(1)
    assert torch.equal(deletion(model, x, a), deletion(model, x, a, target=predicted))


def test_a_second_network_judges_the_first_ones_class():
    model, other, x, a = conv_net(), conv_net(seed=1), images(3), maps()
    transferred = deletion(model, x, a, transfer_to=other)
    assert torch.equal(transferred, deletion(other, x, a, target=model(x).argmax(1)))
    assert not torch.equal(transferred, deletion(model, x, a))
    # unless a class was named
    named = deletion(model, x, a, transfer_to=other, target=[1, 2, 3])
    assert torch.equal(named, deletion(other, x, a, target=[1, 2, 3]))
    assert not torch.equal(named, transferred)


def test_a_first_network_may_give_its_logits_in_a_dictionary():
    model, other, x, a = conv_net(), conv_net(seed=1), images(3), maps()
    found = deletion(lambda x: {"logits": model(x)}, x, a, transfer_to=other)
    assert torch.equal(found, deletion(model, x, a, transfer_to=other))


@pytest.mark.parametrize("metric", [insertion, deletion])
def test_both_networks_get_the_further_arguments(metric):
    """With its signs turned the first network calls another class the best."""
    model, other, x, a = conv_net(), conv_net(seed=1), images(3), maps()
    signs, options = torch.tensor([1.0, -1.0, 1.0]), {"num_steps": 4, "baselines": 0.0}

    def turned(network):
        return lambda x, by: network(x) * by[:, None]

    found = metric(turned(model), x, a, transfer_to=turned(other), additional_forward_args=signs, **options)
    best = (model(x) * signs[:, None]).argmax(1)
    expected = metric(turned(other), x, a, target=best, additional_forward_args=signs, **options)
    assert torch.equal(found, expected)
    assert not torch.equal(best, model(x).argmax(1))


def test_a_first_network_with_one_output_is_judged_by_another():
    """One number for each example, without an axis of classes."""
    x, best = torch.tensor([[1.0, 2.0], [3.0, 0.5]]), torch.tensor([[1.0, 2.0], [2.0, 1.0]])
    options = {"num_steps": 2, "baselines": 0.0}
    found = deletion(lambda x: x.sum(1), x, best, transfer_to=lambda x: 2 * x.sum(1), **options)
    assert torch.equal(found, deletion(lambda x: 2 * x.sum(1), x, best, target=0, **options))


def test_comprehensiveness_and_sufficiency_of_a_linear_model_by_hand():
    w, x = [2.0, -1.0, 1.0, 0.5], torch.tensor([[1.0, 1.0, 2.0, 2.0]])
    contributions = torch.tensor([[2.0, -1.0, 2.5, 1.0]])  # made distinct: the third is taken first
    z = [4.0, 2.0, 0.0, -1.0, 0.0]  # w . x with the top 0 ... 4 removed
    kept = [0.0, 2.0, 4.0, 5.0, 4.0]  # with only the top 0 ... 4 kept
    full = sigmoid(4.0)
    comp = comprehensiveness(linear_logits(w), x, contributions, target=0, bins=4)
    suff = sufficiency(linear_logits(w), x, contributions, target=0, bins=4)
    assert comp.item() == pytest.approx(np.mean([full - sigmoid(v) for v in z]), abs=1e-12)
    assert suff.item() == pytest.approx(np.mean([full - sigmoid(v) for v in kept]), abs=1e-12)
    twenty = comprehensiveness(linear_logits(w), x, contributions, target=0, bins=(0.5,))
    assert twenty.item() == pytest.approx(full - sigmoid(0.0), abs=1e-12)


def test_no_order_beats_the_contributions_of_a_linear_model():
    from itertools import permutations

    w, x = [2.0, -1.0, 1.5, 0.5], torch.ones(1, 4)
    best = comprehensiveness(linear_logits(w), x, torch.tensor([w]), target=0, bins=4)
    for order in permutations((1.0, 2.0, 3.0, 4.0)):
        assert comprehensiveness(linear_logits(w), x, torch.tensor([order]), target=0, bins=4) <= best + 1e-12


def test_rank_deletion_is_one_for_contributions_and_minus_one_for_their_opposite():
    w, x = [2.0, -1.0, 1.5, 0.5], torch.ones(1, 4)
    for method in ("spearman", "kendall"):
        assert rank_deletion(linear_logits(w), x, torch.tensor([w]), target=0, method=method).item() == pytest.approx(1)
        flipped = rank_deletion(linear_logits(w), x, -torch.tensor([w]), target=0, method=method)
        assert flipped.item() == pytest.approx(-1)


@pytest.mark.parametrize("metric", [comprehensiveness, sufficiency])
def test_a_number_of_bins_is_a_positive_integer(metric):
    model, x, a = conv_net(), images(2), maps(2)
    assert torch.equal(metric(model, x, a, bins=np.int64(4)), metric(model, x, a, bins=(0, 0.25, 0.5, 0.75, 1)))
    for bins in (0, 2.5, True):
        with pytest.raises(ValueError, match=f"bins must be a positive integer, got {bins}"):
            metric(model, x, a, bins=bins)


def test_rank_deletion_of_regions_that_differ_in_number():
    model, x, a = conv_net(), images(2), maps(2)
    mask = torch.stack([torch.arange(64).reshape(8, 8) // 8, torch.arange(64).reshape(8, 8) // 16])
    together = rank_deletion(model, x, a, feature_mask=mask, target=1)
    alone = [rank_deletion(model, x[i : i + 1], a[i : i + 1], feature_mask=mask[i], target=1) for i in (0, 1)]
    torch.testing.assert_close(together, torch.cat(alone))


@pytest.mark.parametrize("metric", [rank_deletion, decision_flip])
def test_regions_that_differ_in_number_go_with_their_own_fill_and_further_arguments(metric):
    model, x, a = conv_net(), images(2), maps(2)
    fill, weights = images(2, seed=9), torch.tensor([[1.0, 2.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, -2.0, 1.0]])
    mask = torch.stack([torch.arange(64).reshape(8, 8) // 8, torch.arange(64).reshape(8, 8) // 16])

    def weighted(x, by):
        return model(x) * by

    together = metric(weighted, x, a, feature_mask=mask, baselines=fill, additional_forward_args=weights)
    for i in range(2):
        one = slice(i, i + 1)
        options = {"feature_mask": mask[i], "baselines": fill[one], "additional_forward_args": weights[one]}
        torch.testing.assert_close(metric(weighted, x[one], a[one], **options), together[one])


def test_a_constant_model_is_documented():
    def constant(x):
        return x.new_tensor([[2.0, 1.0]]).expand(len(x), 2)

    x, a = torch.rand(2, 6), torch.rand(2, 6)
    assert rank_deletion(constant, x, a).isnan().all()
    assert decision_flip(constant, x, a).tolist() == [1, 1]  # never
    assert decision_flip(constant, x, a, kind="mit").tolist() == [0, 0]
    assert comprehensiveness(constant, x, a).tolist() == [0, 0]
    assert sufficiency(constant, x, a).tolist() == [0, 0]


def test_the_decision_flips_at_the_third_feature():
    model = linear_logits([1.0, 1.0, 1.0, -1.5, 0.0])  # 1.5 > 0.5 > -0.5
    x, a = torch.ones(1, 5), torch.tensor([[5.0, 4.0, 3.0, 2.0, 1.0]])
    assert decision_flip(model, x, a).item() == pytest.approx(2 / 5)
    assert decision_flip(model, x, a, kind="mit").item() == 0
    strong = linear_logits([2.0, 1.0, 1.0, -3.0, 0.5])
    assert decision_flip(strong, x, a, kind="mit").item() == 1


def test_road_combined_favours_the_right_order():
    model, x = conv_net(), images(4, 16)
    a = explain(model, x, [1] * 4, "pinet", layer="input").map
    good, bad = road(model, x, a, target=1), road(model, x, -a, target=1)
    torch.testing.assert_close(good, -bad, rtol=0, atol=1e-5)
    assert good.mean() > 0


def test_the_questioned_probability_is_the_sigmoid_of_the_answer():
    model, x, a = conv_net(), images(3).double(), maps()
    model = model.double()
    asked = [Question.why_not(1, 2), Question.why_group_not([0, 1], [2, 4]), Question.against_all(3)]
    curve = perturbation_curve(model, x, a)
    clean, _ = curve_values(curve, asked)
    torch.testing.assert_close(clean, answers(asked, model(x)).sigmoid())
    group, _ = curve_values(curve, [Question.why_group([0, 3])] * 3)
    torch.testing.assert_close(group, model(x).softmax(1)[:, [0, 3]].sum(1))
    logits = perturbation_curve(model, x, a, activation=None)
    torch.testing.assert_close(curve_values(logits, asked)[0], answers(asked, model(x)))


def test_a_class_that_the_model_lacks():
    with pytest.raises(TargetError, match="class 7 is out of range; this output has 5"):
        deletion(conv_net(), images(2), maps(2), target=7)
    with pytest.raises(TargetError, match="3 targets for 2 examples"):
        deletion(conv_net(), images(2), maps(2), target=[1, 2, 3])


@pytest.mark.filterwarnings("ignore::xai_align.perturbation.TieWarning")
@pytest.mark.parametrize("metric", [insertion, deletion, comprehensiveness, sufficiency, road, decision_flip])
def test_equal_maps_have_no_score(metric):
    x, a = images(2), maps(2)
    a[1] = 0
    values = metric(conv_net(), x, a)
    assert values[0].isfinite()
    assert values[1].isnan()


def test_drop_and_increase_by_hand():
    model = linear_logits([1.0, 1.0, -2.0])
    x = torch.ones(1, 3)
    full = 0.5
    # negative evidence is no part of the mask: (1, 0.5, 0)
    a = torch.tensor([[4.0, 2.0, -9.0]])
    assert average_increase(model, x, a, target=0).item() == 1
    assert average_drop(model, x, a, target=0).item() == 0
    b = torch.tensor([[0.0, 1.0, 1.0]])
    assert average_drop(model, x, b, target=0).item() == pytest.approx((full - sigmoid(-1.0)) / full)
    nothing = torch.tensor([[-1.0, -2.0, -3.0]])
    assert average_drop(model, x, nothing, target=0).isnan().all()
    assert average_increase(model, x, nothing, target=0).isnan().all()


def test_completeness_of_a_readout_and_of_a_map():
    model, x = conv_net(), images(3)
    explanation = explain(model, x, [0, 1, 2], "pinet", layer="input")
    exact = completeness_gap(model, x, explanation.attribution, target=[0, 1, 2], explanation=explanation)
    assert exact.max() < 1e-5
    gap = completeness_gap(model, x, explanation.attribution, target=[0, 1, 2])
    torch.testing.assert_close(gap, explanation.readout.bias.abs().double(), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="NaN"):
        completeness_gap(model, x, x * torch.nan)


def test_metrics_are_functions_of_curves():
    model, x, a = conv_net(), images(3), maps()
    metric = insertion_metric()
    (series,) = metric.specs
    curve = perturbation_curve(model, x, a, fractions=series.fractions, order=series.order, baselines=series.fill)
    torch.testing.assert_close(metric.score([curve], [1, 2, 3]), insertion(model, x, a, target=[1, 2, 3]))


def test_curves_of_a_few_examples_are_held_at_a_time():
    held = []
    metric = CurveMetric(
        specs=insertion_metric().specs,
        score=lambda curves, _: held.append(len(curves[0].clean)) or curves[0].clean[:, 0],
    )
    metric(nn.Sequential(nn.Flatten(), nn.Linear(192, 3)).eval(), images(40), maps(40))
    assert sum(held) == 40
    assert max(held) <= 16
