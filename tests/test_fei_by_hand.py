"""FEI's solvers step by step: losses worked by hand, steps written out, shifts of masks, and the defaults."""

from __future__ import annotations

import math
from collections import Counter
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from tests.networks import conv_net, images
from xai_align.fei import curve, curve_search
from xai_align.fei.curve_loss import CurveLoss, StageDeviations
from xai_align.fei.curve_search import LogOdds, Search
from xai_align.fei.optimize import find_solver
from xai_align.fei.published import nested as nested_module
from xai_align.fei.published.nested import _Optimisation as Nested
from xai_align.fei.published.nested import nested_masks
from xai_align.fei.random_fills import random_fills
from xai_align.question import Question

#: The curve solver, which may clip gradients.
curve_masks = find_solver("curve").run

DOUBLE = torch.float64
#: The share of the first step.
P = 0.5 * 0.6180339887498949
#: A few steps reach no area, and a network of zeros leaves all tied.
pytestmark = [
    pytest.mark.filterwarnings("ignore::xai_align.fei.optimised.AreaMissed"),
    pytest.mark.filterwarnings("ignore::xai_align.perturbation.ranking.TieWarning"),
]


class Asked:
    """Stands for a network: the answer to composites ``[N, M, C, H, W]`` is the sum of all values times ``slope``."""

    def __init__(self, inputs, slope=1.0):
        self.inputs, self.slope = inputs, slope

    def __call__(self, composites):
        return self.slope * composites.flatten(2).sum(2)


def search(**changed):
    """With the defaults of the curve solver, but still."""
    settings = {
        "n_iter": 3,
        "lr": 0.1,
        "temperatures": (0.5, 0.125),
        "scales": ((0.0, 1.0),),
        "stable_at": None,
        "loss": loss(),
    }
    return Search(**settings | changed)


def loss(**changed):
    """Still, and without deviations."""
    return CurveLoss(**{"shift": 0, "mirrors": False, "deviation_weight": 0.0} | changed)


def fills(*values):
    """One solid fill after another."""
    left = [torch.tensor(value, dtype=DOUBLE).reshape(1, 1, 1, 1) for value in values]
    return SimpleNamespace(draw=lambda: left.pop(0))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def sigmoid(z):
    return 1 / (1 + math.exp(-z))


def test_the_loss_of_the_curve_solver_by_hand():
    """One channel, 2 x 2 pixels; share 0.309, so one pixel: Q is the second score, 1.

    tau 0.5: m = sigmoid(2 (s - 1)) = sigmoid(4), sigmoid(0), sigmoid(-2), sigmoid(-4); x = 1, 2, 3, 4.
    """
    x = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]], dtype=DOUBLE)
    s = torch.tensor([[[3.0, 1.0], [0.0, -1.0]]], dtype=DOUBLE)
    m = [sigmoid(4), 0.5, sigmoid(-2), sigmoid(-4)]
    inserted = sum(a * v + (1 - a) * 0.25 for a, v in zip(m, (1, 2, 3, 4), strict=True))
    deleted = sum((1 - a) * v + a * -0.75 for a, v in zip(m, (1, 2, 3, 4), strict=True))
    offset = 5.0
    expected = sigmoid(deleted - offset) - sigmoid(inserted - offset)
    found = loss()(Asked(x), s, P, 0.5, fills(0.25, -0.75), None, torch.tensor([offset], dtype=DOUBLE), generator())
    assert found.tolist() == [pytest.approx(expected, abs=1e-12)]


@pytest.mark.parametrize(("share", "p"), [(0.999, 0.98), (0.97, 0.97), (0.001, 0.02), (0.03, 0.03)])
def test_the_share_stays_two_hundredths_from_nothing_and_from_everything(monkeypatch, share, p):
    monkeypatch.setattr(curve_search, "share_at", lambda t: share)
    asked, s, told = Asked(torch.ones(1, 1, 2, 2, dtype=DOUBLE)), torch.randn(1, 2, 2, dtype=DOUBLE), []
    asked.questions = [Question.why(0)]

    def recorded(asked, s, p, *further):
        told.append(p)
        return s.flatten(1).sum(1)

    search(n_iter=2, loss=recorded).run(asked, s, fills(), None, generator(), lambda done: None)
    assert told == [p, p]


def test_scores_of_cells_are_interpolated_linearly_between_their_centres():
    """Two cells with scores 0 and 8 over four pixels: 0, 2, 6, 8; the threshold at share 0.309 is the second, 6."""
    x = torch.tensor([[[[1.0, 2.0, 3.0, 4.0]]]], dtype=DOUBLE)
    s = torch.tensor([[[0.0, 8.0]]], dtype=DOUBLE)
    m = [sigmoid(2 * (value - 6)) for value in (0, 2, 6, 8)]
    inserted = sum(a * v for a, v in zip(m, (1, 2, 3, 4), strict=True))
    expected = sigmoid(10 - inserted) - sigmoid(inserted)
    found = loss()(Asked(x), s, P, 0.5, fills(0.0, 0.0), None, torch.zeros(1, dtype=DOUBLE), generator())
    assert found.tolist() == [pytest.approx(expected, abs=1e-12)]


def test_the_deviation_is_added_with_its_weight():
    x, s = torch.ones(1, 1, 2, 2, dtype=DOUBLE), torch.zeros(1, 2, 2, dtype=DOUBLE)
    told = []

    class Stages:
        """Deviations of 0.5 for what is inserted into and 0.25 for what is deleted from."""

        hooks = SimpleNamespace(calling=lambda call: nullcontext({}))

        def deviations(self, seen, mirrored):
            told.append(mirrored)
            return torch.tensor([[0.5, 0.25]], dtype=DOUBLE)

    nothing = torch.zeros(1, dtype=DOUBLE)
    args = (Asked(x), s, P, 0.5, fills(0.0, 0.0), Stages(), nothing, generator())
    found = loss(deviation_weight=4.0)(*args)
    # the composites are equal, as the mask is a half everywhere: what is left is 4 (0.5 + 0.25) / 2
    assert found.tolist() == [pytest.approx(1.5, abs=1e-12)]
    assert told == [[False, False]]


def test_deviations_by_hand():
    """Relative to the layer's energy for the image, or for its mirror image; a layer that was silent counts as it is.

    "a" has energy 0.25: the first composite is off by 0.25, the second, of the mirrored image, by nothing.
    "b" is silent for the image and 2 x 2 in size; composites are off by 4 and by 1.
    """
    clean = {
        "a": torch.tensor([[[0.3, 0.4], [0.4, 0.3]]], dtype=DOUBLE),
        "b": torch.zeros(1, 2, 2, 2, dtype=DOUBLE),
    }
    seen = {
        "a": torch.tensor([[0.3, 0.9], [0.4, 0.3]], dtype=DOUBLE),
        "b": torch.tensor([[[2.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 1.0]]], dtype=DOUBLE),
    }
    found = StageDeviations(None, clean).deviations(seen, [False, True])
    assert found.tolist() == [pytest.approx([(1 + 4) / 2, (0 + 1) / 2])]


def test_temperature_and_rate_fall_as_documented():
    """Geometrically from 0.5 to 0.125; along a cosine from lr to a twentieth of it."""
    found = search(n_iter=5, lr=0.2)
    assert [found._temperature(t) for t in range(5)] == pytest.approx([0.5 * 4 ** (-t / 4) for t in range(5)])
    cosine = [0.5 + math.sqrt(0.5) / 2, 0.5, 0.5 - math.sqrt(0.5) / 2]
    rates = [1.0, *(0.05 + 0.95 * c for c in cosine), 0.05]
    assert [found._rate(t) for t in range(5)] == pytest.approx([0.2 * rate for rate in rates])
    two = search(n_iter=2)
    assert [two._temperature(t) for t in range(2)] == pytest.approx([0.5, 0.125])
    assert two._rate(1) == pytest.approx(0.05 * 0.1)
    alone = search(n_iter=1)
    assert alone._temperature(0) == 0.5
    assert alone._rate(0) == pytest.approx(0.1)


@pytest.mark.parametrize("n_iter", [1, 3, 4])
def test_the_search_is_a_loop(n_iter):
    """Momentum 0.9, steps of root mean square 1 times the rate, in a network and with autograd."""
    model, x = conv_net().double(), images(1, dtype=DOUBLE)
    start = torch.randn(1, 8, 8, generator=generator(1), dtype=DOUBLE)

    def odds(image):
        z = model(image)[0]
        return z[2] - z[[0, 1, 3, 4]].logsumexp(0)

    def standard(s):
        return (s - s.mean()) / s.std()

    offset = min(odds(x).item(), 0.0)
    s, velocity, losses = standard(start), torch.zeros_like(start), []
    for t in range(n_iter):
        s = s.detach().requires_grad_()
        part = t / max(n_iter - 1, 1)
        tau, rate = 0.5 * 0.3**part, 0.1 * (0.05 + 0.95 * (1 + math.cos(math.pi * part)) / 2)
        share = ((t + 0.5) * (math.sqrt(5) - 1) / 2) % 1
        u = standard(s)
        threshold = u.detach().flatten().sort(descending=True).values[round(min(max(share, 0.02), 0.98) * 64)]
        m = torch.sigmoid((u - threshold) / tau)
        loss = torch.sigmoid(odds((1 - m) * x + m * 0.5) - offset) - torch.sigmoid(odds(m * x + (1 - m) * 0.5) - offset)
        (g,) = torch.autograd.grad(loss, s)
        velocity = 0.9 * velocity + 8 * g / g.norm()
        s = s - rate * velocity
        losses.append(loss.item())
    found = curve_masks(
        model,
        x,
        [Question.why(2)],
        n_iter=n_iter,
        start=start,
        temperatures=(0.5, 0.15),
        scales=((0.0, 1.0),),
        deviation_weight=0,
        shift=0,
        mirror="never",
        baselines=0.5,
    )
    assert found.losses[0].tolist() == pytest.approx(losses, abs=1e-9)
    torch.testing.assert_close(found.attribution, standard(s.detach()), rtol=0, atol=1e-7)


@pytest.mark.parametrize(("correlation", "steps"), [(0.75, 5), (0.7499, 12)])
def test_a_map_is_compared_with_the_one_five_steps_before(monkeypatch, correlation, steps):
    """And it is done when the rank correlation is at least the one that was asked for."""
    now, before = [], []

    def compared(a, b):
        now.append(a)
        before.append(b)
        return torch.full((len(a),), correlation)

    monkeypatch.setattr(curve_search, "spearman", compared)
    asked = Asked(torch.rand(2, 1, 4, 4, generator=generator(), dtype=DOUBLE), 0.1)
    asked.questions = [Question.why(0)] * 2
    start = torch.randn(2, 4, 4, generator=generator(), dtype=DOUBLE)
    solid = SimpleNamespace(draw=lambda: torch.zeros(1, 1, 1, 1, dtype=DOUBLE))
    counted = []
    _, losses = search(n_iter=12, stable_at=0.75).run(asked, start, solid, None, generator(), counted.append)
    assert losses.shape == (2, steps)
    assert counted == [1] * steps
    # the maps after steps 5, 6, ... with those before step 1, after step 1, ...
    assert torch.equal(before[0], start.flatten(1))
    assert len(now) == steps - 4
    for earlier, later in zip(now, before[5:], strict=False):
        assert torch.equal(earlier, later)


@pytest.mark.parametrize("reach", [0, 1, 2])
def test_masks_are_shifted_by_all_distances_up_to_the_reach(reach):
    """Pixel (i, j) of the shifted mask is the one ``down`` and ``right`` of it, held to the mask's border."""
    m = torch.arange(12, dtype=DOUBLE).reshape(1, 1, 3, 4)
    by_hand = {}
    for down in range(-reach, reach + 1):
        for right in range(-reach, reach + 1):
            rows = [min(max(i + down, 0), 2) for i in range(3)]
            columns = [min(max(j + right, 0), 3) for j in range(4)]
            by_hand[tuple(m[0, 0][rows][:, columns].flatten().tolist())] = (down, right)
    assert len(by_hand) == (2 * reach + 1) ** 2
    one, draws = generator(), 60 * len(by_hand)
    seen = Counter(by_hand[tuple(loss(shift=reach)._shifted(m, one)[0, 0].flatten().tolist())] for _ in range(draws))
    assert set(seen) == set(by_hand.values())
    assert max(seen.values()) < 2 * 60
    assert min(seen.values()) > 60 / 2


def test_the_shift_reaches_the_composites():
    """With the shift on, the same scores give the losses of shifted masks, and not always that of the mask itself."""
    x = torch.arange(9, dtype=DOUBLE).reshape(1, 1, 3, 3)
    s = x[0] - 4
    nothing, one = torch.zeros(1, dtype=DOUBLE), generator()

    def of_shift(shift):
        return loss(shift=shift)(Asked(x, 0.1), s, P, 0.5, fills(0.0, 0.0), None, nothing, one).item()

    still = of_shift(0)
    moved = [of_shift(1) for _ in range(60)]
    assert len({round(value, 9) for value in moved}) == 9
    assert any(value == pytest.approx(still, abs=1e-12) for value in moved)


def test_half_of_the_composites_are_mirrored():
    one = generator()
    tossed = [loss(mirrors=True)._tossed(one) for _ in range(400)]
    assert 160 < sum(tossed) < 240
    assert not any(loss(mirrors=False)._tossed(one) for _ in range(50))


@pytest.mark.parametrize(("size", "shift"), [((55, 80), 0), ((56, 80), 1), ((120, 112), 2), ((224, 300), 4)])
def test_masks_are_shifted_by_a_56th_of_the_shorter_side_by_default(size, shift):
    assert curve._shift(None, size, None) == shift


@pytest.mark.parametrize(
    ("mask_size", "image", "cells"),
    [(None, (224, 224), (28, 28)), (None, (20, 30), (20, 30)), (None, (56, 84), (28, 42)), (4, (8, 10), (4, 5))],
)
def test_cells_are_about_square(mask_size, image, cells):
    assert curve._cells(mask_size, image, None) == cells


@pytest.mark.parametrize(
    ("mask_size", "cells"), [(None, (4, 6)), (3, (3, 3)), ((2, 5), (2, 5)), ((1, 1), (1, 1)), ((4, 6), (4, 6))]
)
def test_cells_of_the_nested_solver_are_as_asked(mask_size, cells):
    assert nested_module._cells(mask_size, (4, 6)) == cells


@pytest.mark.parametrize("mask_size", [(0, 2), (5, 2), (2, 0), (2, 7), 5])
def test_more_cells_than_pixels_are_refused(mask_size):
    with pytest.raises(ValueError, match="from 1 up to the image's own"):
        nested_module._cells(mask_size, (4, 6))


@pytest.mark.parametrize("rows", [1, 2])
def test_masks_of_few_rows_are_made_as_high_as_the_image(rows):
    """Row by row, linearly between the middles of cells."""
    alpha = torch.tensor([[0.0, 8.0], [8.0, 0.0]], dtype=DOUBLE)[:rows].reshape(1, 1, rows, 2)
    grown = nested_module._on_image(alpha, torch.zeros(1, 3, 4, 2))[0, 0]
    assert grown.T.tolist() == ([[0] * 4, [8] * 4] if rows == 1 else [[0, 2, 6, 8], [8, 6, 2, 0]])


def two_activations():
    """A network with two ReLUs, for images of 7 x 7 pixels."""
    layers = [torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Conv2d(4, 4, 3), torch.nn.ReLU()]
    return torch.nn.Sequential(*layers, torch.nn.Flatten(), torch.nn.Linear(36, 2)).eval()


@pytest.mark.parametrize("solver", [nested_masks, curve_masks])
def test_gradients_are_clipped_in_the_layers_that_were_named(solver):
    asked = {"n_iter": 1, "clip": "ibm"}
    for layers, clipped in ((None, ("1 (relu)", "3 (relu)")), (["3"], ("3 (relu)",))):
        found = solver(two_activations(), images(1, 7), [Question.why(0)], clip_layers=layers, **asked)
        assert found.clipped == clipped


@pytest.mark.parametrize(("order", "steps"), [("sequential", 6), ("parallel", 3)])
def test_each_step_of_the_nested_solver_has_a_reference_of_its_own(order, steps):
    drawn = []

    def black(inputs, step, own):
        drawn.append((step, own.initial_seed()))
        return torch.zeros(1, 1, 1, 1)

    asked = {"quantiles": (0.3, 0.6), "n_iter": 3, "order": order, "baselines": black, "seed": 5, "clip": "none"}
    nested_masks(two_activations(), images(1, 7), [Question.why(0)], **asked)
    assert drawn == [(step, 5) for step in range(steps)]


def test_each_search_has_fills_of_its_own():
    drawn = []

    def black(inputs, step, own):
        drawn.append((step, own.initial_seed()))
        return torch.zeros(1, 1, 1, 1)

    asked = {"n_iter": 1, "restarts": 2, "baselines": black, "seed": 5, "start": "flat"}
    curve_masks(two_activations(), images(1, 7), [Question.why(0)], **asked)
    assert drawn == [(0, 5), (1, 5), (0, 6), (1, 6)]


@pytest.mark.parametrize(
    ("mirror", "clip", "mirrors"),
    [("random", "none", True), ("never", "none", False), ("random", "ibm", False), ("never", "ibm", False)],
)
def test_composites_are_mirrored_where_no_gradients_are_clipped(monkeypatch, mirror, clip, mirrors):
    made, run = [], Search.run

    def recorded(self, *args):
        made.append(self.loss.mirrors)
        return run(self, *args)

    monkeypatch.setattr(curve_search.Search, "run", recorded)
    asked = {"n_iter": 1, "start": "flat", "mirror": mirror, "clip": clip}
    curve_masks(two_activations(), images(1, 7), [Question.why(0)], **asked)
    assert made == [mirrors]


def test_a_note_says_where_no_layer_was_watched():
    """Unless none was wanted."""
    asked = {"n_iter": 1, "start": "flat", "fills": ("zero",)}
    fills_alone = ("fills were drawn from zero at every step",)
    for options, notes in (
        ({"deviation_weight": 0.0}, fills_alone),
        ({"deviation_layers": ["0"]}, fills_alone),
        ({"deviation_layers": []}, (*fills_alone, curve._NO_STAGES)),
    ):
        assert curve_masks(two_activations(), images(1, 7), [Question.why(0)], **asked, **options).notes == notes


def test_rank_correlations_go_up_to_one():
    asked = {"n_iter": 1, "start": "flat", "fills": ("zero",)}
    for given in (None, 1.0, 0.5, 1e-9):
        curve_masks(two_activations(), images(1, 7), [Question.why(0)], **asked, stable_at=given)
    for given in (0.0, -0.5, 1.0001, math.inf, -math.inf, math.nan):
        with pytest.raises(ValueError, match=r"stable_at must be a number in \(0, 1\]"):
            curve_masks(two_activations(), images(1, 7), [Question.why(0)], **asked, stable_at=given)


def test_grey_may_cost_from_the_first_step_to_the_last():
    for given in (None, 0, 3):
        nested_module._check_binarise(given, 4)
    for given in (-1, 4):
        with pytest.raises(ValueError, match=f"binarise_from .*{given}"):
            nested_module._check_binarise(given, 4)


def test_the_defaults_of_the_curve_solver(monkeypatch):
    """As documented: 50 steps, tau from 0.5 to 0.15, half a cell of shift, deviations with weight 1."""
    made, run = [], Search.run

    def recorded(self, *args):
        made.append(self)
        return run(self, *args)

    monkeypatch.setattr(curve_search.Search, "run", recorded)
    found = curve_masks(conv_net(), images(1, 56), [Question.why(1)])
    (settings,) = made
    assert (settings.n_iter, settings.lr, settings.temperatures) == (50, 0.1, (0.5, 0.15))
    assert (settings.loss.shift, settings.loss.mirrors) == (1, False)
    assert (settings.loss.deviation_weight, settings.stable_at) == (1.0, None)
    assert settings.scales == ((0.0, 0.7), (1.0, 0.5), (2.5, 0.5))
    assert found.losses.shape == (1, 50)
    assert found.passes == 100
    assert found.quantiles == (0.1, 0.3, 0.5, 0.7, 0.9)
    assert found.notes[0].startswith("fills were drawn from blur, zero, noise, colour, texture at every step")


def test_the_offset_is_the_images_own_log_odds_where_the_class_is_not_seen():
    """By class: seen, not seen, and a question that has no log-odds."""

    class Other(Question):
        pass

    asked = Asked(torch.tensor([2.0, -3.0, 4.0], dtype=DOUBLE).reshape(3, 1, 1, 1))
    asked.questions = [LogOdds(((0,),)), LogOdds(((0,),)), Other(((0,),))]
    assert curve_search._offsets(asked).tolist() == [0.0, -3.0, 4.0]


def nested(asked, **changed):
    """An optimisation of one mask for each image, with a weight of 0.5 on the area."""
    settings = {
        "asked": asked,
        "references": None,
        "signs": (1,),
        "beta": 0.5,
        "beta_at": lambda weight, t: weight,
        "n_iter": 5,
        "lr": 0.1,
        "binarise_from": None,
        "progress": lambda done: None,
    }
    return Nested(**settings | changed)


ALPHA = torch.tensor([[[[0.5, 0.25], [0.0, 1.0]]]], dtype=DOUBLE)
PIXELS = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]], dtype=DOUBLE)


@pytest.mark.parametrize(
    ("signs", "evidence"),
    [
        # alpha x + (1 - alpha) 10: 5.5, 8, 10, 4
        ((1,), 27.5),
        # (1 - alpha) x + alpha 10: 5.5, 4, 3, 10
        ((-1,), -22.5),
        ((1, -1), 5.0),
    ],
)
@pytest.mark.parametrize(("target", "missed"), [(1, 0.75), (2, 0.25), (3, 1.25)])
def test_the_loss_of_the_nested_solver_by_hand(signs, evidence, target, missed):
    """The area is 1.75, and 0.5 a pixel is paid for what it misses."""
    r, wanted = torch.full((1, 1, 1, 1), 10.0, dtype=DOUBLE), torch.tensor([float(target)], dtype=DOUBLE)
    found = nested(Asked(PIXELS), signs=signs)._loss(ALPHA, wanted, 0, r)
    assert found.tolist() == [[pytest.approx(0.5 * missed - evidence, abs=1e-12)]]


@pytest.mark.parametrize(("t", "greys"), [(2, 0.0), (3, 3 * 0.5 * 0.4375), (4, 4 * 0.5 * 0.4375)])
def test_grey_costs_from_the_step_on_that_was_named(t, greys):
    """alpha (1 - alpha) is 0.25 and 0.1875, times t and beta; the answer is 27.5 and 0.25 of area are missing."""
    r, wanted = torch.full((1, 1, 1, 1), 10.0, dtype=DOUBLE), torch.tensor([2.0], dtype=DOUBLE)
    found = nested(Asked(PIXELS), binarise_from=3)._loss(ALPHA, wanted, t, r)
    assert found.tolist() == [[pytest.approx(0.125 - 27.5 + greys, abs=1e-12)]]


def test_grey_costs_each_mask_its_own():
    """Two images with two masks each: alpha (1 - alpha) is 0.25 or 0, of four cells, times t = 3 and beta = 0.5."""
    grey = torch.tensor([[0.5, 0.0], [1.0, 0.5]], dtype=DOUBLE)[..., None, None].expand(2, 2, 2, 2)
    x, r = torch.zeros(2, 1, 2, 2, dtype=DOUBLE), torch.zeros(1, 1, 1, 1, dtype=DOUBLE)
    wanted = torch.tensor([2.0, 2.0], dtype=DOUBLE)
    found = nested(Asked(x), binarise_from=0)._loss(grey, wanted, 3, r)
    # areas are 2, 0, 4 and 2, of which 0, 2, 2 and 0 are missed
    assert found.tolist() == [[1.5, 1.0], [1.0, 1.5]]


def test_the_weight_of_the_area_grows_with_the_step_if_linear():
    """Nothing is shown of an image of zeros against zeros: the loss is the area that is missing, 6 of 9."""
    x = torch.zeros(1, 3, 3, 3)
    options = {"quantiles": (0.7,), "n_iter": 3, "lr": 1e-9, "clip": "none", "baselines": 0.0, "area_weight": 0.25}
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(27, 2, bias=False)).eval()
    found = {
        schedule: nested_masks(model, x, [Question.why(0)], area_schedule=schedule, **options).losses[0].tolist()
        for schedule in ("constant", "linear")
    }
    assert found["constant"] == pytest.approx([1.5, 1.5, 1.5], abs=1e-6)
    assert found["linear"] == pytest.approx([0.0, 1.5, 3.0], abs=1e-6)


def test_the_defaults_of_the_nested_solver():
    """Nothing is shown at first: the loss is a tenth of the area. There are 100 steps for each of five quantiles."""
    layers = (torch.nn.Conv2d(3, 1, 1), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(25, 2, bias=False))
    model = torch.nn.Sequential(*layers).eval()
    with torch.no_grad():
        model[3].weight.zero_()
    found = nested_masks(model, images(1, 5), [Question.why(0)])
    assert found.quantiles == (0.1, 0.3, 0.5, 0.7, 0.9)
    assert found.losses.shape == (1, 500)
    assert found.losses[0, 0].item() == pytest.approx(0.1 * 2)  # floor(0.1 * 25)
    assert found.clipped == ("1 (relu)",)
    # one step of Adam moves every cell by the rate
    once = nested_masks(model, images(1, 5), [Question.why(0)], quantiles=(0.9,), n_iter=1)
    torch.testing.assert_close(once.masks, torch.full_like(once.masks, 0.1), rtol=1e-3, atol=0)


def test_a_mask_gives_nothing_back_that_a_smaller_one_marks():
    """White against black wants to be shown, three steps of about 0.1 at falling rates; then white against
    what is brighter still wants to be hidden, and the second mask stays where the first ended.
    """
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 1, bias=False)).eval().double()
    with torch.no_grad():
        model[1].weight.fill_(1.0)
    found = nested_masks(
        model,
        torch.ones(1, 3, 2, 2, dtype=DOUBLE),
        [Question.why(0)],
        quantiles=(0.3, 0.8),
        n_iter=3,
        area_weight=0.0,
        clip="none",
        baselines=lambda inputs, step, generator: torch.full((1, 1, 1, 1), 0.0 if step < 3 else 2.0, dtype=DOUBLE),
    )
    # the gradient is -3 in each step, so each of Adam's steps is its rate: 0.1 times 1, 3/4, 1/4
    expected = torch.full((2, 2, 2), 0.2, dtype=DOUBLE)
    torch.testing.assert_close(found.masks[0], expected, rtol=0, atol=1e-6)
    # showing alpha of white and hiding the rest by black is 12 alpha; by brightness 2 it is 24 - 12 alpha
    assert found.losses[0].tolist() == pytest.approx([0.0, -1.2, -2.1, -21.6, -21.6, -21.6], abs=1e-6)


def test_masks_side_by_side_also_mark_what_smaller_ones_do():
    alphas = torch.tensor([[0.5, 0.2], [0.3, 0.6], [0.7, 0.1]], dtype=DOUBLE).reshape(1, 3, 1, 2)
    losses = torch.arange(6.0).reshape(1, 3, 2)
    optimisation = SimpleNamespace(run=lambda start, targets, first: (alphas, losses))
    masks, flat = nested_module._side_by_side(optimisation, torch.zeros(1, 1, 1, 2), torch.zeros(3))
    assert masks.tolist() == [[[[0.5, 0.2]], [[0.5, 0.6]], [[0.7, 0.6]]]]
    assert flat.tolist() == [[0, 1, 2, 3, 4, 5]]


@pytest.mark.parametrize("kind", ["blur", "zero", "mean", "noise", "colour", "texture"])
def test_a_kind_of_fill_is_what_its_name_says(kind):
    """Told apart by mean, contrast and spectrum, each worked out from the image."""
    x = 3 * torch.randn(1, 3, 16, 16, generator=generator(2), dtype=DOUBLE) + 5
    drawn = random_fills(x, (kind,), generator(3)).draw().expand(x.shape)
    mean, std = drawn.mean((2, 3)), drawn.std((2, 3))
    own_mean, own_std = x.mean((2, 3)), x.std((2, 3))
    grain = 0.01 * own_std
    if kind == "zero":
        assert mean.abs().max() < 0.01
    if kind == "mean":
        assert (mean - own_mean).abs().max() < 0.01
    if kind == "colour":
        assert ((mean - own_mean).abs() > 0.1).any()
    if kind in ("zero", "mean", "colour"):
        torch.testing.assert_close(std, grain, rtol=0.2, atol=0)
    if kind == "noise":
        torch.testing.assert_close(std, own_std, rtol=0.25, atol=0)
        assert (mean - own_mean).abs().max() < 1
        assert not torch.allclose(torch.fft.fft2(drawn).abs(), torch.fft.fft2(x).abs(), rtol=0.1)
    if kind == "texture":
        torch.testing.assert_close(torch.fft.fft2(drawn).abs(), torch.fft.fft2(x).abs())
        assert (drawn - x).abs().mean() > 1
    if kind == "blur":
        impulse = np.zeros((11, 11))
        impulse[5, 5] = 1
        kernel = torch.from_numpy(gaussian_filter(impulse, 5))  # as RISE makes it
        torch.testing.assert_close(drawn[0, 0, 8, 7], (x[0, 0, 3:14, 2:13] * kernel).sum())
