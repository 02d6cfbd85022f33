"""The curve solver against the curves it stands for, by hand, and on networks whose map is known."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.networks import conv_net, images
from xai_align.evaluation import deletion, insertion
from xai_align.fei.curve import curve_masks
from xai_align.fei.curve_search import LogOdds, log_odds
from xai_align.fei.quantile_masks import level_sets, share_at, standardised
from xai_align.fei.starting_map import starting_map
from xai_align.perturbation.curve import perturbation_curves
from xai_align.perturbation.questioned import curve_values
from xai_align.perturbation.spec import PerturbationSpec
from xai_align.question import Question, TargetError

#: Everything that could be random or coarse is off.
STILL = {"shift": 0, "mirror": "never", "baselines": 0.0}
#: Enough steps for a tiny network to find a map, and few enough to compare maps.
SEARCH = {"n_iter": 30, "lr": 0.2, "temperatures": (0.5, 0.15)}
FEW = SEARCH | {"n_iter": 6}
#: The map stays where it starts, and its masks are its level sets.
HELD = {"lr": 1e-12, "temperatures": (1e-6, 1e-6)}
#: The loss is that of the curves alone.
PLAIN = {"deviation_weight": 0.0}


def net(classes=5, *, sure=1.0):
    """In float64; ``sure`` of its answers by so many times."""
    model = conv_net(classes=classes).double()
    with torch.no_grad():
        model.fc.weight *= sure
    return model


def pictures(count=2, size=8, seed=0):
    return images(count, size, seed=seed, dtype=torch.float64)


def why(*classes):
    return [Question.why(target) for target in classes]


def quarter():
    """The upper left quarter of 8 x 8 pixels."""
    region = torch.zeros(8, 8, dtype=torch.bool)
    region[:4, :4] = True
    return region


def brightness_of(region, most=3.0, bias=0.0):
    """A linear network: logit 0 grows by ``most`` from a black region to a white one, logit 1 is 0."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * region.numel(), 2)).double().eval()
    with torch.no_grad():
        weights = most * region.double().flatten().repeat(3) / (3 * region.sum())
        model[1].weight.copy_(torch.stack([weights, torch.zeros_like(weights)]))
        model[1].bias.copy_(torch.tensor([bias, 0.0]))
    return model


def same(a, b, atol=1e-9):
    torch.testing.assert_close(a, b, rtol=0, atol=atol)


def differ(a, b):
    return not torch.allclose(a, b, rtol=0, atol=1e-4)


Z = torch.tensor([0.5, -1.0, 2.0, 0.0, 1.0], dtype=torch.float64)


@pytest.mark.parametrize(
    ("asked", "targets", "foils"),
    [
        (Question.why(2), [2], [0, 1, 3, 4]),
        (Question.why(-1), [4], [0, 1, 2, 3]),
        (Question.against_all(1), [1], [0, 2, 3, 4]),
        (Question.why_group([0, 3]), [0, 3], [1, 2, 4]),
        (Question.why_group([0, -2], score="max"), [0, 3], [1, 2, 4]),  # probabilities add up, whatever the score
        (Question.why_not(2, 4), [2], [4]),
        (Question.why_group_not([0, 1], [2, 4]), [0, 1], [2, 4]),
    ],
)
def test_log_odds_are_those_of_the_softmax(asked, targets, foils):
    p = Z.softmax(0)
    inside, outside = p[targets].sum(), p[foils].sum()
    same(log_odds(asked).answer(Z), (inside / outside).log())
    same(log_odds(asked).answer(Z).sigmoid(), inside / (inside + outside))


def test_log_odds_of_outputs_with_positions():
    """Classes are the last axis of two, and the first of three; a class stands against the others at its place."""
    anchors = torch.stack([Z, -Z])
    same(LogOdds(((1, 2),)).answer(anchors), (-Z).softmax(0)[2].logit())
    same(LogOdds(((-1, -3),)).answer(anchors), (-Z).softmax(0)[2].logit())
    dense = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    p = dense.softmax(0)
    same(LogOdds(((4, 1, -1),)).answer(dense), p[4, 1, 2].logit())
    same(LogOdds(((4, 1, 2), (0, 1, 2))).answer(dense), (p[4, 1, 2] + p[0, 1, 2]).logit())
    same(LogOdds(((4, 1, 2),), ((0, 1, 2),)).answer(dense), dense[4, 1, 2] - dense[0, 1, 2])


def test_one_output_is_its_own_log_odds():
    for target in (0, -1):
        assert log_odds(Question.why(target)).answer(torch.tensor([1.5])) == 1.5
    assert log_odds(Question(((),))).answer(torch.tensor(1.5)) == 1.5


@pytest.mark.parametrize(
    ("entries", "shape"),
    [
        *[(((5,),), (5,)), (((-6,),), (5,)), (((0, 1),), (5,)), (((1,),), (2, 5)), (((2, 0),), (2, 5)), (((),), (5,))],
        *[(tuple((k,) for k in range(5)), (5,)), (tuple((1, k) for k in range(5)), (2, 5))],
    ],
)
def test_classes_that_are_not_there_and_groups_of_all_classes_are_refused(entries, shape):
    with pytest.raises(TargetError):
        LogOdds(entries).answer(torch.zeros(shape))


def test_other_kinds_of_questions_keep_their_formula():
    class Doubled(Question):
        def answer(self, logits):
            return 2 * super().answer(logits)

    asked = Doubled(((2,),))
    assert log_odds(asked) is asked


def test_the_mean_loss_of_a_map_is_its_deletion_minus_its_insertion():
    """For hard masks and one fill; what is left is quadrature: a pixel here, a step there."""
    model, x, asked = net(sure=20), pictures(3, 12), why(0, 0, 0)
    maps = starting_map(model, x, asked, "readout", cells=(12, 12))
    maps[1] = pictures(1, 12, seed=5)[0, 0]
    found = curve_masks(model, x, asked, start=maps, mask_size=12, n_iter=150, **HELD, **STILL, **PLAIN)
    same(found.attribution, standardised(maps), 1e-8)
    curves = perturbation_curves(
        model, x, maps, [PerturbationSpec(0.0, order, tuple(k / 48 for k in range(49))) for order in ("morf", "lerf")]
    )
    clean = curve_values(curves[0], 0)[0]
    assert (clean > 0.5).all()  # so probabilities are what they are
    out, into = (torch.trapezoid(curve_values(curve, 0)[1], dx=1 / 48) for curve in curves)
    same(found.losses.mean(1), out - into, 0.004)
    assert (found.losses.mean(1) - (into - out)).abs().min() > 0.008  # and not the other way round


@pytest.mark.parametrize("bias", [-1.0, -6.0, -1000.0])
def test_the_loss_by_hand(bias):
    """The first share shows all of the quarter: it alone gives ``bias + 3``, and the rest gives ``bias``.

    A class that the network does not see is counted from the image as it is.
    """
    start = quarter().double()[None] + torch.arange(64, dtype=torch.float64).reshape(1, 8, 8) / 1000
    assert 0.25 < share_at(0) < 0.5
    model, x = brightness_of(quarter(), 3.0, bias), torch.ones(1, 3, 8, 8, dtype=torch.float64)
    found = curve_masks(model, x, why(0), start=start, mask_size=8, n_iter=1, **HELD, **STILL)
    zero = min(bias + 3, 0)
    expected = torch.tensor([bias - zero, bias + 3 - zero], dtype=torch.float64).sigmoid()
    assert found.losses.item() == pytest.approx(float(expected[0] - expected[1]), abs=1e-6)
    assert found.passes == 2


def test_the_deviation_by_hand():
    """At a flat start both composites are the image and the fill by halves, so their probabilities cancel."""
    model, x = net(), pictures()
    options = STILL | {"baselines": 0.5, "start": "flat", "n_iter": 1, "lr": 0.2}
    expected = []
    for name in ("conv1", "conv2"):
        seen = []
        handle = getattr(model, name).register_forward_hook(
            lambda module, args, out, seen=seen: seen.append(out.clone())
        )
        model(x)
        model((x + 0.5) / 2)
        handle.remove()
        a, b = (one.detach().flatten(1) for one in seen)
        expected.append((a - b).square().sum(1) / a.square().sum(1))
    found = curve_masks(model, x, why(1, 3), deviation_weight=0.3, deviation_layers=["conv1", "conv2"], **options)
    same(found.losses[:, 0], 0.3 * (expected[0] + expected[1]) / 2)
    same(curve_masks(model, x, why(1, 3), **options, **PLAIN).losses, torch.zeros(2, 1, dtype=torch.float64))


def test_a_mirrored_image_is_no_deviation():
    """The image stands where it is hidden, so every composite is the image or its mirror image."""
    model, x = net(), pictures(1)
    options = {"baselines": x, "shift": 0, "mirror": "random", "n_iter": 12} | HELD
    plain = curve_masks(model, x, why(1), **options, **PLAIN).losses
    watched = curve_masks(model, x, why(1), deviation_weight=5.0, deviation_layers=["conv1", "conv2"], **options).losses
    same(watched, plain)
    # only one of the two was mirrored in some steps, and the network tells left from right
    assert 0 < (plain.abs() > 1e-6).sum() < 12


@pytest.mark.filterwarnings("ignore::xai_align.perturbation.ranking.TieWarning")
@pytest.mark.parametrize("fills", [("zero", "colour"), ("zero",)])
def test_evidence_that_is_known_comes_first(fills):
    """A quarter of a white image is all that counts. The other class wants it last."""
    x, options = torch.ones(1, 3, 8, 8, dtype=torch.float64), SEARCH | {"start": "flat", "mirror": "never"}
    for target, best, rest in ((0, quarter(), ~quarter()), (1, ~quarter(), quarter())):
        found = curve_masks(brightness_of(quarter()), x, why(target), fills=fills, normalization=(0.0, 1.0), **options)
        assert found.attribution[0][best].min() > found.attribution[0][rest].max()


def test_a_map_is_better_than_where_it_started_and_than_chance():
    model, x, asked = net(sure=20), pictures(4), why(0, 0, 0, 0)

    def score(maps):
        return insertion(model, x, maps, target=0) - deletion(model, x, maps, target=0)

    found = curve_masks(model, x, asked, start="readout", fills=("blur", "zero"), **SEARCH)
    chance = torch.stack([score(pictures(4, seed=seed)[:, 0]) for seed in range(5)]).amax(0)
    start = starting_map(model, x, asked, "readout", cells=(8, 8))
    assert (score(found.attribution) > torch.maximum(score(start), chance) + 0.05).all()


def test_a_weight_on_the_deviation_lowers_it():
    model, x, layers = net(sure=20), pictures(4), ["conv1", "conv2"]
    series = [PerturbationSpec(0.0, order, (0.1, 0.3, 0.5, 0.7, 0.9), layers=True) for order in ("morf", "lerf")]

    def deviation(weight):
        found = curve_masks(
            model, x, why(0, 0, 0, 0), deviation_weight=weight, deviation_layers=layers, **SEARCH, **STILL
        )
        curves = perturbation_curves(model, x, found.attribution, series, layers=layers)
        return torch.stack([curve.deviations.of("relative").mean((1, 2)) for curve in curves]).mean(0)

    assert (deviation(3.0) < deviation(0.0) - 0.005).all()


def test_the_masks_are_the_maps_level_sets():
    found = curve_masks(net(), images(2, 10).double()[:, :, :7], why(1, 3), quantiles=(0.2, 0.6), **FEW)
    assert found.attribution.shape == (2, 7, 10)
    assert torch.equal(found.masks, level_sets(found.attribution, (0.2, 0.6)))
    assert (found.areas - torch.tensor([0.2, 0.6])).abs().max() <= 1 / 70
    assert found.quantiles == (0.2, 0.6)
    assert found.losses.shape == (2, 6)
    assert found.passes == 12
    assert found.attribution.dtype == found.losses.dtype == torch.float64
    half = curve_masks(conv_net().bfloat16(), images(1).bfloat16(), why(1), **FEW)
    assert half.attribution.dtype == half.masks.dtype == half.losses.dtype == torch.float32
