"""The benchmarks' peers: answers worked by hand, and no more passes than they are given."""

from __future__ import annotations

import math
from functools import partial
from itertools import permutations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from benchmarks.peers import igos, lima, mda, phasewin, rise
from benchmarks.peers.blurring import blurred
from benchmarks.peers.by_name import PEERS, PUBLISHED
from benchmarks.peers.regions import slico
from benchmarks.peers.shown_regions import PassesSpent, ShownRegions, as_map

SIZE = 24


def square(size: int = SIZE) -> tuple[slice, slice]:
    """One of 3 x 3 parts of a picture."""
    return slice(size // 3, 2 * size // 3), slice(2 * size // 3, size)


class Square(nn.Module):
    """Class 0 is the brightness of one part of the picture; every input is counted."""

    def __init__(self, gain: float = 6.0) -> None:
        super().__init__()
        self.gain, self.count = gain, 0

    def forward(self, x: Tensor) -> Tensor:
        self.count += len(x)
        light = x[:, :, *square(x.shape[-1])].mean((1, 2, 3))
        return self.gain * torch.stack([light, torch.full_like(light, 0.5)], 1)


def picture(size: int = SIZE) -> Tensor:
    """That part is bright, and so is another; noise lies over all."""
    x = 0.05 * torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    x[:, :, *square(size)] += 1
    x[..., : size // 3, : size // 3] += 1
    return x


ALL = {**PEERS, "mda": partial(mda.mda, prior=picture()[0].mean(0), largest=6)}
CASES = [(name, passes) for name in ALL if name != "extremal" for passes in (100, 400)]


@pytest.mark.parametrize(("name", "passes"), [*CASES, ("extremal", 60)])
def test_the_part_that_makes_the_answer_comes_first(name, passes):
    # masks of extremal perturbations are no finer than 21 pixels, and their areas weigh as much as tens of a logit
    size, gain = (84, 100) if name == "extremal" else (SIZE, 6)
    model = Square(gain).eval()
    found = ALL[name](model, picture(size), 0, passes=passes)
    assert found.shape == (size, size)
    assert found.isfinite().all()
    assert 0.2 * passes < model.count <= passes
    parts = found.reshape(3, size // 3, 3, size // 3).mean((1, 3))
    best = parts[1, 2].clone()
    parts[1, 2] = -math.inf
    assert best > 1.05 * parts.max()


@pytest.mark.parametrize("name", ALL)
def test_the_same_call_gives_the_same_map(name):
    first, second = (ALL[name](Square().eval(), picture(), 0, passes=16) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("name", ALL)
def test_too_few_passes_are_refused(name):
    passes = 0 if name == "rise" else 1
    with pytest.raises(ValueError, match=f"passes is {passes};"):
        ALL[name](Square().eval(), picture(), 0, passes=passes)


def test_published_budgets():
    assert PUBLISHED == {"rise": 4000, "extremal": 3200, "lima": 1594, "phasewin": 2450, "igos": 1200}
    assert PUBLISHED.keys() == PEERS.keys()


# ---------------------------------------------------------------- RISE


def test_rise_is_the_weighted_sum_of_its_masks():
    """``1 / (E[M] N) sum_i f(x M_i) M_i``, one mask after another."""
    model, x = Square().eval(), picture()
    found = rise.rise(model, x, 0, passes=20, batch=16, seed=3)
    expected = torch.zeros(SIZE, SIZE)
    for masks in rise.random_masks(20, (SIZE, SIZE), grid=7, p=0.5, batch=16, seed=3):
        for m in masks[:, 0]:
            light = float((x[0] * m)[:, *square()].mean())
            expected += m / (1 + math.exp(3 - 6 * light)) / (0.5 * 20)
    torch.testing.assert_close(found, expected)


def test_masks_of_rise_are_on_with_their_probability():
    masks = torch.cat(list(rise.random_masks(2000, (21, 28), grid=7, p=0.3, batch=500, seed=0)))
    assert masks.shape == (2000, 1, 21, 28)
    assert masks.min() >= 0
    assert masks.max() <= 1
    assert masks.mean((0, 1)).sub(0.3).abs().max() < 0.05


# ---------------------------------------------------------------- regions, and searches over them


def test_regions_follow_colours():
    x = torch.zeros(1, 3, 24, 24)
    x[..., 10:] = 1  # the grid's cells end at 8 and 16
    regions = slico(x, 9)
    for k in range(int(regions.max()) + 1):
        (colours,) = (x[0, 0][regions == k].unique(),)
        assert len(colours) == 1
    assert len(regions.unique()) == int(regions.max()) + 1 <= 9


def test_regions_of_one_colour_are_the_grid():
    expected = 3 * (torch.arange(12) // 4)[:, None] + torch.arange(12) // 4
    assert torch.equal(slico(torch.ones(1, 3, 12, 12), 9), expected)
    with pytest.raises(ValueError, match="count is 0, the image has 144 pixels"):
        slico(torch.ones(1, 3, 12, 12), 0)


WEIGHTS = (0.1, 0.5, 0.2, 0.9, 0.3, 0.7)


def modular(sets):
    return [sum(WEIGHTS[a] for a in one) for one in sets]


def test_greedy_search_of_a_modular_function_is_the_best_of_all_orders():
    best = max(permutations(range(6)), key=lambda order: sum(modular([order[:k] for k in range(7)])))
    assert list(best) == [3, 5, 1, 4, 2, 0]
    for pending in (1, 2, 6):
        assert lima.bidirectional_greedy(modular, 6, pending) == list(best)
    assert phasewin.in_phases(modular, 6) == list(best)


def test_greedy_search_without_a_back_is_plain_greedy():
    generator = np.random.default_rng(0)
    covers = [frozenset(generator.integers(0, 30, 6).tolist()) for _ in range(8)]

    def covered(sets):
        return [float(len(frozenset().union(*(covers[a] for a in one)))) for one in sets]

    plain: list[int] = []
    while len(plain) < 8:
        plain.append(max(set(range(8)) - set(plain), key=lambda a: covered([[*plain, a]])[0]))
    assert lima.bidirectional_greedy(covered, 8, pending=8) == plain


def test_the_back_is_chosen_from_what_is_worst_in_front():
    """Regions 0 and 1 are the same thing twice: after 0, 1 adds nothing, and it goes to the back."""

    def twice(sets):
        return [float(bool({0, 1} & set(one))) + 0.4 * (2 in one) + 0.3 * (3 in one) for one in sets]

    # round 1: gains 1, 1, .4, .3: 0 to the front; of the two worst, 3 and 2, 3 to the back
    # then plain greedy: 2 (.4), 1 (0)
    assert lima.bidirectional_greedy(twice, 4, pending=2) == [0, 2, 1, 3]


def test_values_of_regions_by_hand():
    regions = torch.zeros(SIZE, SIZE, dtype=torch.long)
    regions[square()] = 1
    model, x = Square().eval(), torch.ones(1, 3, SIZE, SIZE)
    search = ShownRegions(model, x, 0, regions, passes=4)
    shown, hidden = 1 / (1 + math.exp(3 - 6)), 1 / (1 + math.exp(3))
    found = search.values([frozenset(), frozenset({0}), frozenset({1}), frozenset({0, 1})])
    expected = [hidden + 1 - shown, hidden + 1 - shown, shown + 1 - hidden, shown + 1 - hidden]
    assert found == pytest.approx(expected, abs=1e-6)
    assert model.count == 4  # each set and its complement, once
    short = ShownRegions(model, x, 0, regions, passes=3)
    with pytest.raises(PassesSpent):
        short.values([frozenset(), frozenset({0})])


@pytest.mark.parametrize("count", [1, 7, 8, 9, 10, 20, 49])
def test_no_search_runs_more_sets_than_it_says(count):
    weights, known = np.random.default_rng(count).random(count), set()

    def values(sets):
        everything = frozenset(range(count))
        known.update(sets, (everything - one for one in sets))
        return [float(weights[list(one)].sum() ** 0.5) for one in sets]

    lima.bidirectional_greedy(values, count)
    assert len(known) <= lima.most_passes(count)


def test_windows_take_fewer_sets_than_greedy_search():
    weights, asked = np.repeat([1.0, 0.95, 0.05], 8) + np.linspace(0.02, 0, 24), set()

    def values(sets):
        asked.update(sets)
        return [float(weights[list(one)].sum()) for one in sets]

    assert phasewin.in_phases(values, 24) == list(range(24))
    assert len(asked) < 24 * 25 / 2 / 2


def test_where_passes_end_the_last_gains_order_the_rest():
    left = 7

    def values(sets):
        nonlocal left
        left -= len(sets)
        if left < 0:
            raise PassesSpent
        return modular(sets)

    assert phasewin.in_phases(values, 6) == [3, 5, 1, 4, 2, 0]
    assert left < 0


def test_scores_fall_along_the_order():
    regions = torch.tensor([[0, 1], [2, 3]])
    assert as_map([2, 0, 3, 1], regions).tolist() == [[0.75, 0.25], [1.0, 0.5]]


# ---------------------------------------------------------------- iGOS++


def test_steps_and_points_of_igos():
    assert igos.steps_and_points(1200) == (15, 20)
    assert igos.steps_and_points(100) == (4, 6)
    assert igos.steps_and_points(4) == (1, 1)


def test_regularisation_of_igos_by_hand():
    m = torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]]])
    flat, edge = torch.zeros(1, 3, 2, 2), torch.tensor([[0.0, 0.1], [0.0, 0.1]]).expand(1, 3, 2, 2)
    # half of the mask is 0; columns differ by 1 as cells and as pixels, rows do not
    assert float(igos.regularisation(m, flat)) == pytest.approx(0.5 + 20 * 0.5 * (1 + 1))
    assert float(igos.regularisation(m, edge)) == pytest.approx(0.5 + 20 * 0.5 * (1 + math.exp(-0.01 / 0.01)))


def test_a_step_of_igos_goes_down_its_loss(monkeypatch):
    """One step with one point, against the gradient of the loss as it is written."""
    monkeypatch.setattr(igos, "NOISE", 0.0)
    model, x = Square().eval(), picture()
    b = blurred(x, 50.0, 25)
    m_d, m_i = (torch.ones(1, 1, 28, 28, requires_grad=True) for _ in range(2))
    d, i = (nn.functional.interpolate(m, (SIZE, SIZE), mode="bilinear", align_corners=True) for m in (m_d, m_i))

    def p(shown, behind, m):
        return model(m * shown + (1 - m) * behind).softmax(1)[0, 0]

    loss = 0.5 * (p(x, b, d * i) - p(b, x, d * i) + p(x, b, d) - p(b, x, i)) + igos.regularisation(m_d * m_i, x)
    by_d, by_i = torch.autograd.grad(loss, [m_d, m_i])
    expected = (1 - by_d).clamp(0, 1) * (1 - by_i).clamp(0, 1)
    expected = 1 - nn.functional.interpolate(expected, (SIZE, SIZE), mode="bilinear", align_corners=True)[0, 0]
    assert expected.max() > 1e-4
    torch.testing.assert_close(igos.igos(model, x, 0, passes=4, rate=1.0), expected, rtol=1e-3, atol=1e-7)


# ---------------------------------------------------------------- MDA


def test_patches_are_inserted_up_to_90_percent_and_the_rest_is_deleted():
    """Weights .5, .3, .15, .05: after the third, 95 % is reached; one is left for deletion."""
    weights, asked = [0.05, 0.5, 0.15, 0.3], []

    def on_blur(sets):
        asked.append(("blur", [sorted(one) for one in sets]))
        return [0.1 + 0.8 * sum(weights[a] for a in one) for one in sets]

    def on_black(sets):
        asked.append(("black", sets))
        return on_blur(sets)

    assert mda.patch_order(on_blur, on_black, [0, 1, 2, 3]) == [1, 3, 2, 0]
    assert asked == [
        ("blur", [[], [0, 1, 2, 3]]),
        ("blur", [[0], [1], [2], [3]]),
        ("blur", [[0, 1], [1, 2], [1, 3]]),
        ("blur", [[0, 1, 3], [1, 2, 3]]),
    ]


def test_deletion_takes_the_least_from_the_end():
    """Nothing is inserted where the picture answers no more than its blur."""
    weights = [0.4, 0.3, 0.2, 0.1]

    def on_black(sets):
        return [sum(weights[a] for a in one) for one in sets]

    assert mda.patch_order(lambda sets: [0.5] * len(sets), on_black, [3, 2, 1, 0]) == [0, 1, 2, 3]


def test_only_the_short_list_of_the_prior_is_searched():
    weights = [1.0, 0, 0, 0, 0, 0, 0, 0, 5.0]  # the best is the prior's last, behind a short list of six

    def on_blur(sets):
        return [sum(weights[a] for a in one) for one in sets]

    order = mda.patch_order(on_blur, on_blur, list(range(9)))
    assert order[0] == 0
    assert order.index(8) == 3  # found when the list has moved up by three


def test_passes_of_mda():
    assert [mda.most_passes(side) for side in (2, 3, 4)] == [2 + 9, 2 + 4 * 6 + 14, 2 + 9 * 8 + 27]
    assert (mda.side_for(100), mda.side_for(mda.PUBLISHED), mda.side_for(10**6)) == (3, 16, 16)


# ---------------------------------------------------------------- blur


def test_blur_is_scipys():
    x = torch.randn(1, 2, 20, 24, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = np.stack([gaussian_filter(one, 2.0, mode="mirror", radius=6) for one in x[0].numpy()])
    np.testing.assert_allclose(blurred(x, 2.0, 6)[0].numpy(), expected, atol=1e-12)
    assert blurred(x, 0, 6) is x
