"""RFxG's scores and CWOX's: a toy worked by hand, what must hold of any curve, what is refused."""

from __future__ import annotations

import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from xai_align import Question
from xai_align.evaluation.cwox import cauc, cdrop, salient_fraction
from xai_align.evaluation.does_not_apply import MetricDoesNotApply
from xai_align.evaluation.question_forms import class_and_rest, contrast_classes, group_classes, group_contrast
from xai_align.evaluation.rfxg import ExhaustiveGroupsWarning, ccs, cgc, cgs, pgs
from xai_align.perturbation.curve import Curve, perturbation_curve

# a linear network on 10 x 10 ones: classes A, B, C, D live in the first five rows
WEIGHTS = torch.zeros(4, 10, 10, dtype=torch.float64)
WEIGHTS[0, 0], WEIGHTS[0, 2:4] = 0.30, 0.15
WEIGHTS[1, 1:4] = 0.15
WEIGHTS[2:, 4] = 0.10
A, B, C, D = range(4)
LOGITS = WEIGHTS.sum((1, 2))


def toy(image: Tensor) -> Tensor:
    return image.flatten(1) @ WEIGHTS.flatten(1).T


def toy_curve(attribution: Tensor, fractions: tuple[float, ...] = tuple(a / 10 for a in range(1, 10))) -> Curve:
    """The curve of one map, ``[10, 10]``, in plain steps."""
    order = sorted(range(100), key=lambda pixel: -float(attribution.flatten()[pixel]))  # sorted() is stable
    masked = []
    for fraction in fractions:
        image = torch.ones(100, dtype=torch.float64)
        image[order[: round(fraction * 100)]] = 0
        masked.append(toy(image[None])[0].softmax(0))
    return Curve(torch.tensor(fractions, dtype=torch.float64), LOGITS.softmax(0)[None], torch.stack(masked)[None])


def map_for(question: Question) -> Tensor:
    """Gradient times input, the exact attribution of a linear network."""
    return torch.einsum("k,khw->hw", question.linear_form(LOGITS)[0], WEIGHTS)


MAPS = {
    "pointwise A": map_for(Question.why(A)),
    "contrast A-B": map_for(Question.why_not(A, B)),
    "group": map_for(Question.why_group([A, B])),
    "group contrast": map_for(Question.why_group_not([A, B], [C, D])),
    "sum target": WEIGHTS[A] - WEIGHTS[B] - WEIGHTS[C] - WEIGHTS[D],
    "inverted": map_for(Question.why_not(B, A)),
}
# CCS published, CCS, PGS mean, PGS sum, CGS published, CGS (both with means)
TOY = {
    "pointwise A": (-0.1142, 0.3084, 0.1798, 0.3597, 0, 0.1798),
    "contrast A-B": (-0.3701, 0.4363, 0.1043, 0.2086, 0, 0.1043),
    "group": (-0.1142, 0.3084, 0.1798, 0.3597, 0, 0.1798),
    "group contrast": (-0.1142, 0.3084, 0.2318, 0.4636, 0, 0.2318),
    "sum target": (-0.2736, 0.3881, 0.1735, 0.3471, 0, 0.1735),
    "inverted": (0.6569, -0.0772, 0.0328, 0.0655, 0, 0.0328),
}

pytestmark = pytest.mark.filterwarnings("ignore::xai_align.evaluation.rfxg.ExhaustiveGroupsWarning")


def by_library(attribution: Tensor) -> Curve:
    ones = torch.ones(1, 1, 10, 10, dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # whole rows are tied, on purpose
        return perturbation_curve(toy, ones, attribution[None, None])


@pytest.mark.parametrize("curve_of", [toy_curve, by_library])
@pytest.mark.parametrize("name", MAPS)
def test_the_toy_gives_the_figures_worked_out_for_it(name, curve_of):
    assert LOGITS.softmax(0).tolist() == pytest.approx([0.8087, 0.1804, 0.0054, 0.0054], abs=5e-5)
    curve = curve_of(MAPS[name])
    found = (
        ccs(curve, A, B, variant="published"),
        ccs(curve, A, B),
        pgs(curve, [A, B], group_reduce="mean"),
        pgs(curve, [A, B]),
        cgs(curve, [A, B], [C, D], variant="published", group_reduce="mean"),
        cgs(curve, [A, B], [C, D], group_reduce="mean"),
    )
    assert [float(one) for one in found] == pytest.approx(TOY[name], abs=5.01e-5)
    for reduce in ("sum", "mean"):  # a group of two has one foil
        assert torch.allclose(cgc(curve, A, [A, B], group_reduce=reduce), ccs(curve, A, B), atol=1e-12)
        published = cgc(curve, A, [A, B], variant="published", group_reduce=reduce)
        assert torch.allclose(published, -pgs(curve, [A, B], group_reduce="mean"), atol=1e-12)


def test_a_map_made_for_the_question_scores_best():
    best = {"contrast A-B": lambda c: ccs(c, A, B), "group contrast": lambda c: pgs(c, [A, B])}
    for name, metric in best.items():
        scores = {other: float(metric(toy_curve(MAPS[other]))) for other in MAPS}
        assert max(scores, key=scores.get) == name


def test_the_formulas_by_hand():
    # two fractions, 0.2 apart: the area is the mean of both values times 0.2
    curve = Curve(
        torch.tensor([0.2, 0.4], dtype=torch.float64),
        torch.tensor([[0.5, 0.2, 0.2, 0.1]]),
        torch.tensor([[[0.3, 0.3, 0.3, 0.1], [0.1, 0.2, 0.4, 0.3]]]),
    )
    expected = [
        # d_0 = -.2, -.4; d_1 = .1, 0; d_2 = .1, .2; d_3 = 0, .2
        (ccs(curve, 0, 2), 0.2 * ((0.2 + 0.1) / 2 + (0.4 + 0.2) / 2) / 2),
        (ccs(curve, 0, 2, variant="published"), 0.2 * ((0.3 - 0.3) + (0.1 - 0.4)) / 2),
        (ccs(curve, 0, 2, area="normalised"), ((0.2 + 0.1) / 2 + (0.4 + 0.2) / 2) / 2),
        (cgc(curve, 0, [0, 1, 2]), 0.2 * ((0.2 + 0.2) / 2 + (0.4 + 0.2) / 2) / 2),
        (cgc(curve, 0, [1, 2]), 0.2 * ((0.2 + 0.2) / 2 + (0.4 + 0.2) / 2) / 2),
        (cgc(curve, 0, [0, 1, 2], group_reduce="mean"), 0.2 * ((0.2 + 0.1) / 2 + (0.4 + 0.1) / 2) / 2),
        (cgc(curve, 0, [0, 1, 2], members="all"), 0.2 * ((0.2 + 0.0) / 2 + (0.4 - 0.2) / 2) / 2),
        (cgc(curve, 0, [0, 1, 2], variant="published", group_reduce="mean"), 0.2 * ((0.1 - 0.2) + (0.1 - 0.4)) / 4),
        (pgs(curve, [0, 1]), 0.2 * (0.1 + 0.4) / 2),
        (pgs(curve, [0, 1], group_reduce="mean"), 0.2 * (0.1 + 0.4) / 4),
        (cgs(curve, [0, 1], [2]), 0.2 * ((0.1 + 0.1) / 2 + (0.4 + 0.2) / 2) / 2),
        (cgs(curve, [0, 1], [2], group_reduce="mean"), 0.2 * ((0.05 + 0.1) / 2 + (0.2 + 0.2) / 2) / 2),
        (cgs(curve, [0, 1], [2], variant="published"), 0.2 * ((-0.1 + 0.1) / 2 + (-0.4 + 0.2) / 2) / 2),
    ]
    for found, value in expected:
        assert float(found) == pytest.approx(value, abs=1e-7)


def random_curve(seed: int, examples: int = 3, classes: int = 7) -> Curve:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(examples, 10, classes, generator=generator, dtype=torch.float64)
    outputs = logits.softmax(-1)
    fractions = torch.rand(9, generator=generator, dtype=torch.float64).sort().values
    return Curve(fractions, outputs[:, 0], outputs[:, 1:])


seeds = st.integers(0, 10_000)
ALL = {
    "ccs": lambda c, o, **k: ccs(c, o[0], o[1], **k),
    "cgc": lambda c, o, **k: cgc(c, o[0], [o[0], o[1], o[2]], **k),
    "pgs": lambda c, o, **k: pgs(c, [o[0], o[1], o[2]], **k),
    "cgs": lambda c, o, **k: cgs(c, [o[0], o[1]], [o[2], o[3], o[4]], **k),
    "cauc": lambda c, o: cauc(c, [o[0], o[1]], [o[2]], salient=torch.full((len(c.clean),), 0.5) * c.fractions[-1]),
    "cdrop": lambda c, o: cdrop(c, o[0], [o[2], o[3]], salient=torch.full((len(c.clean),), 0.5) * c.fractions[-1]),
}


@given(seed=seeds)
def test_both_directions_of_a_contrast_cancel(seed):
    curve = random_curve(seed)
    assert torch.allclose(ccs(curve, 2, 5), -ccs(curve, 5, 2), atol=1e-12)
    assert torch.allclose(cgs(curve, [1, 2], [0, 5, 6]), -cgs(curve, [0, 5, 6], [1, 2]), atol=1e-12)


@given(seed=seeds)
def test_the_published_ccs_is_a_flip_of_the_consistent_one(seed):
    curve = random_curve(seed)
    width = curve.fractions[-1] - curve.fractions[0]
    flipped = (width * (curve.clean[:, 2] - curve.clean[:, 5]) - ccs(curve, 2, 5, variant="published")) / 2
    assert torch.allclose(ccs(curve, 2, 5), flipped, atol=1e-12)


@pytest.mark.parametrize("name", ALL)
def test_classes_may_be_renumbered(name):
    curve, order = random_curve(1), torch.tensor([3, 0, 6, 1, 2, 5, 4])
    renumbered = Curve(curve.fractions, curve.clean[:, order], curve.masked[..., order])
    places = order.argsort().tolist()
    assert torch.allclose(ALL[name](curve, range(7)), ALL[name](renumbered, places), atol=1e-12)


@pytest.mark.parametrize("name", ALL)
def test_an_example_does_not_depend_on_its_batch(name):
    curve = random_curve(2)
    alone = [Curve(curve.fractions, curve.clean[n : n + 1], curve.masked[n : n + 1]) for n in range(3)]
    batch = ALL[name](curve, range(7))
    assert batch.shape == (3,)
    assert batch.dtype == torch.float64
    assert batch.unique().numel() == 3
    assert torch.allclose(batch, torch.cat([ALL[name](one, range(7)) for one in alone]), rtol=0, atol=1e-14)


def test_a_network_that_never_changes_its_mind_scores_zero():
    curve = random_curve(3)
    constant = Curve(curve.fractions, curve.clean, curve.clean[:, None].expand(-1, 9, -1))
    for name in ("cgc", "pgs", "cgs"):
        for options in ({}, {"group_reduce": "mean"}, {"area": "normalised"}):
            assert ALL[name](constant, range(7), **options).abs().max() == 0
    assert ccs(constant, 0, 1).abs().max() == 0
    # a flat s: nothing drops, and the area under it is s times the width
    assert ALL["cdrop"](constant, range(7)).abs().max() < 1e-15
    s = constant.clean[:, :2].sum(1) * (1 - constant.clean[:, 2])
    assert torch.allclose(ALL["cauc"](constant, range(7)), s * 0.5 * curve.fractions[-1])


@pytest.mark.parametrize("name", ["ccs", "cgc", "pgs", "cgs"])
def test_the_normalised_area_is_the_mean_height(name):
    curve = random_curve(4)
    width = float(curve.fractions[-1] - curve.fractions[0])
    normalised = ALL[name](curve, range(7), area="normalised")
    assert torch.allclose(normalised * width, ALL[name](curve, range(7)), atol=1e-12)


@given(seed=seeds)
def test_in_a_closed_world_the_group_contrast_is_the_group_score(seed):
    curve = random_curve(seed, classes=6)
    g1, g2 = [0, 2, 3], [1, 4, 5]
    assert torch.allclose(cgs(curve, g1, g2), pgs(curve, g1), atol=1e-12)
    # and as published it is nothing at all, whatever the map
    for reduce in ("sum", "mean"):
        assert cgs(curve, g1, g2, variant="published", group_reduce=reduce).abs().max() < 1e-12


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("classes", "call"),
    [
        (4, lambda c: cgs(c, [0, 1], [2, 3])),
        (4, lambda c: cgs(c, [[0], [0, 1], [2]], [[3], [2, 3], [1]])),  # so it is for the second example
        (4, lambda c: cgc(c, 0, [0, 1, 2, 3])),
        (2, lambda c: ccs(c, 0, 1)),
    ],
)
def test_sides_that_are_all_classes_are_warned_of(classes, call):
    curve = random_curve(5, classes=classes)
    with pytest.warns(ExhaustiveGroupsWarning, match="all classes together") as caught:
        call(curve)
    assert caught[0].filename == __file__
    # not where a class is left over
    call(random_curve(5, classes=classes + 1))
    # nor where outputs are independent of each other, as sigmoids are
    call(Curve(curve.fractions, curve.clean * 0.9, curve.masked * 0.9))


def test_each_example_may_have_its_own_classes():
    curve = random_curve(6)
    one = Curve(curve.fractions, curve.clean[1:2], curve.masked[1:2])
    assert torch.allclose(ccs(curve, torch.tensor([0, 3, 2]), [1, 5, 6])[1:2], ccs(one, 3, 5))
    assert torch.allclose(cgs(curve, [[0], [1, 2], [3]], [5, 6])[1:2], cgs(one, [1, 2], [5, 6]))
    assert torch.allclose(pgs(curve, torch.tensor([[0, 1], [2, 4], [5, 6]]))[1:2], pgs(one, [2, 4]))
    assert torch.allclose(cgc(curve, [0, 1, 2], [[0, 4], (1, 5, 6), {2, 3}])[1:2], cgc(one, 1, [5, 6]))
    # three numbers for three examples are one group where a group is meant
    assert torch.allclose(pgs(curve, [0, 1, 2])[1:2], pgs(one, [0, 1, 2]))


def test_a_map_that_ranks_nothing_has_no_score():
    curve = random_curve(7)
    curve.masked[1] = torch.nan
    for metric in ALL.values():
        assert metric(curve, range(7)).isnan().tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda c: ccs(c, 2, 2), ValueError, r"classes \[2\] are on both sides"),
        (lambda c: ccs(c, [0, 1, 2], [3, 1, 4]), ValueError, r"classes \[1\] .* example 1"),
        (lambda c: ccs(c, 7, 0), ValueError, "the target class names class 7; there are 7, numbered 0 … 6"),
        (lambda c: ccs(c, 0, -1), ValueError, "the foil class names class -1"),
        (lambda c: ccs(c, 0, 1.0), TypeError, "integers"),
        (lambda c: ccs(c, True, 1), TypeError, "integers"),
        (lambda c: ccs(c, [0, 1], 2), ValueError, "2 target classes for 3 examples"),
        (lambda c: ccs(c, 0, 1, variant="repo"), ValueError, "variant must be 'consistent' or 'published', got 'repo'"),
        (lambda c: ccs(c, 0, 1, area="mean"), ValueError, "area must be .* got 'mean'"),
        (lambda c: pgs(c, [0, 1], group_reduce="max"), ValueError, "group_reduce must be .* got 'max'"),
        (lambda c: cgc(c, 0, [0, 1], members="none"), ValueError, "members must be .* got 'none'"),
        (lambda c: cgc(c, 0, [0]), ValueError, "target class alone"),
        (lambda c: cgc(c, [0, 1, 2], [[0, 1], [1], [2, 3]]), ValueError, "example 1 is the target class alone"),
        (lambda c: pgs(c, []), ValueError, "empty"),
        (lambda c: pgs(c, [[0], [], [1]]), ValueError, "empty"),
        (lambda c: pgs(c, [[0], [1]]), ValueError, "2 groups for 3 examples"),
        (lambda c: pgs(c, [0, 0]), ValueError, r"names \[0\] more than once"),
        (lambda c: pgs(c, [0, 9]), ValueError, "class 9"),
        (lambda c: pgs(c, "01"), TypeError, "str"),
        (lambda c: pgs(c, {"dogs": [0]}), TypeError, "dict"),
        (lambda c: cgs(c, [0, 1], [1, 2]), ValueError, r"classes \[1\] are on both sides"),
        (lambda c: cauc(c, 0, [0, 1], salient=torch.ones(3) / 9), ValueError, r"classes \[0\] are"),
        (lambda c: cauc(c, 0, 1, salient=torch.ones(3)), ValueError, "the curve must reach them all"),
        (lambda c: cauc(c, 0, 1, salient=torch.zeros(3)), ValueError, "must be over 0"),
        (lambda c: cauc(c, 0, 1, salient=torch.ones(2) / 9), ValueError, r"shape \[2\]"),
        (lambda c: cauc(c, 0, 1, salient=0.1), TypeError, "float"),
        (lambda c: cdrop(c, 0, 1, salient=torch.ones(3) / 9, tau=0), ValueError, "tau must be a number in"),
    ],
)
def test_what_makes_no_sense_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call(random_curve(8))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: Curve(c.fractions, c.clean[:, :1], c.masked[..., :1]), "one class"),
        (lambda c: Curve(c.fractions, c.clean.log(), c.masked.log()), "not probabilities; compute the curve with"),
        (lambda c: Curve(c.fractions, c.clean, c.masked + torch.inf), "not probabilities"),
        (lambda c: Curve(c.fractions, c.clean * torch.nan, c.masked), "NaN"),
        (lambda c: Curve(c.fractions[:5], c.clean, c.masked), "5 fractions"),
        (lambda c: Curve(c.fractions.flip(0), c.clean, c.masked), "ascending"),
        (lambda c: Curve(c.fractions[:1], c.clean, c.masked[:, :1]), "two or more"),
    ],
)
def test_curves_that_tell_no_area_of_probabilities_are_refused(change, message):
    curve = change(random_curve(9))
    with pytest.raises(ValueError, match=message):
        pgs(curve, [0])
    with pytest.raises(ValueError, match=message):
        cauc(curve, [0], [1], salient=torch.full((3,), 1e-3))


def test_cwox_by_hand():
    # s = p_0 (1 - p_1): .5 clean, .3 at a half, .1 * .8 at all
    clean = torch.tensor([[0.5, 0.0, 0.5]])
    masked = torch.tensor([[[0.3, 0.0, 0.7], [0.1, 0.2, 0.7]]])
    curve = Curve(torch.tensor([0.5, 1.0], dtype=torch.float64), clean, masked)
    quarter, most = torch.tensor([0.25]), torch.tensor([0.75])
    # at a quarter s is .4, half-way between .5 and .3
    assert float(cauc(curve, 0, 1, salient=quarter)) == pytest.approx(0.25 * (0.5 + 0.4) / 2)
    assert float(cauc(curve, 0, 1, salient=most)) == pytest.approx(0.5 * 0.4 + 0.25 * (0.3 + 0.19) / 2)
    # log2(1 + .25 / .05) and log2(1 + 1) for what is smaller than tau
    assert float(cdrop(curve, 0, 1, salient=quarter)) == pytest.approx(0.1 / 2.584963)
    assert float(cdrop(curve, 0, 1, salient=quarter, tau=0.5)) == pytest.approx(0.1)
    assert float(cdrop(curve, 0, 1, salient=torch.tensor([1.0]))) == pytest.approx((0.5 - 0.08) / 4.392317)
    # a curve that begins with nothing removed says the same
    longer = Curve(torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64), clean, torch.cat([clean[:, None], masked], 1))
    for metric in (cauc, cdrop):
        assert torch.equal(metric(longer, 0, 1, salient=most), metric(curve, 0, 1, salient=most))


def test_cauc_is_cwoxs_sum_over_pixels_but_for_half_a_step_at_each_end():
    """CWOX: ``1/n sum_{r=1..n_d} s(r)``."""
    noise = torch.rand(10, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    attribution = noise + MAPS["contrast A-B"]
    salient = salient_fraction(attribution[None])
    n_d = round(float(salient) * 100)
    curve = toy_curve(attribution, tuple(r / 100 for r in range(1, 101)))
    s = curve.masked[0, :, A] * (1 - curve.masked[0, :, B])
    s_clean = curve.clean[0, A] * (1 - curve.clean[0, B])
    steps = float(s[:n_d].sum()) / 100
    assert float(cauc(curve, A, B, salient=salient)) == pytest.approx(steps + float(s_clean - s[n_d - 1]) / 200)


def test_the_salient_part_is_counted_from_the_middle_of_the_range():
    maps = torch.tensor([[[0.0, 4.0], [2.0, 1.0]], [[-8.0, -1.0], [0.0, -3.0]], [[5.0, 5.0], [5.0, 5.0]]])
    found = salient_fraction(maps)
    assert found[:2].tolist() == [0.5, 0.75]  # 4 and 2 of 0 … 4; -1, 0 and -3 of -8 … 0
    assert found[2].isnan()
    assert salient_fraction(maps, delta=1.0)[:2].tolist() == [0.25, 0.25]
    channels = torch.stack([maps[:2] * 0.25, maps[:2] * 0.75], 1)
    assert salient_fraction(channels).tolist() == [0.5, 0.75]
    # a map without a salient part has no score, as it has no curve
    curve = random_curve(10)
    salient = torch.tensor([0.5, torch.nan, 0.5]) * curve.fractions[-1]
    assert cauc(curve, 0, 1, salient=salient).isnan().tolist() == [False, True, False]
    assert cdrop(curve, 0, 1, salient=salient).isnan().tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("attributions", "delta", "message"),
    [
        (torch.ones(4, 4), 0.5, "shape"),
        (torch.ones(0, 4, 4), 0.5, "shape"),
        (torch.full((1, 4, 4), torch.nan), 0.5, "NaN"),
        (torch.rand(1, 4, 4), 0.0, "delta"),
        (torch.rand(1, 4, 4), 1.5, "delta"),
    ],
)
def test_bad_maps_have_no_salient_part(attributions, delta, message):
    with pytest.raises(ValueError, match=message):
        salient_fraction(attributions, delta=delta)


WHY, WHY_NOT = Question.why(3), Question.why_not(3, 5)
REST = Question.why_not_rest(3, [3, 4, 5])
GROUP, GROUPS = Question.why_group([3, 4]), Question.why_group_not([3, 4], [5])
FORMS = {
    contrast_classes: {WHY_NOT: (3, 5)},
    class_and_rest: {WHY_NOT: (3, (5,)), REST: (3, (4, 5))},
    group_classes: {WHY: (3,), GROUP: (3, 4)},
    group_contrast: {GROUPS: ((3, 4), (5,))},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("question", [WHY, WHY_NOT, REST, GROUP, GROUPS, Question.against_all(3)], ids=str)
def test_a_metric_takes_questions_of_its_form_only(form, question):
    if question in FORMS[form]:
        assert form(question) == FORMS[form][question]
    else:
        with pytest.raises(MetricDoesNotApply, match=r"this metric needs .*Question\.why_.*; got 'why 3.*\?'"):
            form(question)


def test_positions_of_dense_outputs_are_no_classes():
    for question in (Question.why((3, 0, 1)), Question(((),))):
        with pytest.raises(MetricDoesNotApply, match="which are not classes"):
            group_classes(question)
