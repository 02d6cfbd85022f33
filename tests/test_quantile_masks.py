"""Level sets of a wanted area and their soft forms, and gradients seen at several scales."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xai_align.fei.quantile_masks import level_sets, quantile_masks, share_at, standardised
from xai_align.fei.scales import at_scales, check_scales, smoothed

SHARES = (0.1, 0.3, 0.5, 0.8)
SCALES = ((0.0, 0.6), (1.0, 0.3), (2.0, 0.9))


def scores(count=2, height=6, width=7, seed=0):
    """Distinct whole numbers, shuffled: what is added or multiplied leaves no rounding."""
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randperm(height * width, generator=generator) for _ in range(count)]
    return torch.stack(rows).double().reshape(count, height, width)


def gradients(count=3, height=6, width=9):
    return torch.randn(count, height, width, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def root_mean_square(cells):
    return cells.square().mean((1, 2)).sqrt()


@given(
    st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=60, unique=True),
    st.floats(0, 1),
)
@settings(max_examples=200, deadline=None)
def test_the_area_is_the_share_up_to_one_pixel(values, share):
    masks = level_sets(torch.tensor(values, dtype=torch.float64).reshape(1, 1, -1), (share,))
    assert abs(float(masks.sum()) - share * len(values)) <= 1 + 1e-9


def test_the_marked_pixels_are_the_highest():
    s = torch.tensor([[[3.0, 1.0, 2.0, 5.0]]])
    assert level_sets(s, (0.25, 0.5, 0.75))[0, :, 0].tolist() == [[0, 0, 0, 1], [1, 0, 0, 1], [1, 0, 1, 1]]


def test_a_soft_mask_by_hand():
    """Two of four pixels: Q is the third score, 2, and tau is 0.5."""
    s = torch.tensor([[[3.0, 1.0, 2.0, 5.0]]])
    expected = torch.tensor([2.0, -2.0, 0.0, 6.0]).sigmoid()
    torch.testing.assert_close(quantile_masks(s, (0.5,), 0.5)[0, 0, 0], expected)


@pytest.mark.parametrize("tau", [1e-3, 0.5, 20.0])
def test_masks_of_one_map_are_nested(tau):
    s = scores()
    for masks in (quantile_masks(s, SHARES, tau), level_sets(s, SHARES)):
        assert masks.shape == (2, 4, 6, 7)
        assert (masks.diff(dim=1) >= 0).all()
        assert masks.min() >= 0
        assert masks.max() <= 1
    assert (quantile_masks(s, SHARES, tau).flatten(2).diff(dim=1).amax(2) > 0).all()


def test_as_tau_goes_to_zero_only_the_threshold_is_left_grey():
    s = scores()
    hard, soft = level_sets(s, SHARES), quantile_masks(s, SHARES, 1e-3)
    grey = (hard - soft).abs() > 1e-9
    assert (grey.sum((2, 3)) == 1).all()
    assert (soft[grey] == 0.5).all()


def test_the_threshold_has_no_gradient():
    """Each pixel's mask depends on its own score alone, also for the pixel that sets the threshold: 1 / (4 tau)."""
    tau, s = 0.5, torch.tensor([[[3.0, 1.0, 2.0, 5.0]]], requires_grad=True)
    m = quantile_masks(s, (0.5,), tau)
    (g,) = torch.autograd.grad(m.sum(), s)
    torch.testing.assert_close(g, (m * (1 - m) / tau)[:, 0].detach())
    assert g[0, 0, 2] == 0.25 / tau


def test_shares_fill_the_unit_interval_evenly():
    """After any number of steps, no stretch from 0 holds many more or fewer shares than its length asks for."""
    shares = torch.tensor([share_at(step) for step in range(300)], dtype=torch.float64)
    assert ((shares > 0) & (shares < 1)).all()
    assert shares.unique().numel() == 300
    for taken in range(1, 301):
        ordered, counted = shares[:taken].sort().values, torch.arange(taken, dtype=torch.float64)
        excess = torch.maximum((counted + 1 - taken * ordered).abs(), (counted - taken * ordered).abs())
        assert excess.max() < 2.5


def test_the_first_shares_by_hand():
    """Halves of the golden section 0.618034: 1/2, 3/2 and 5/2 of it, whole numbers left out."""
    assert [share_at(step) for step in range(3)] == pytest.approx([0.309017, 0.927051, 0.545085], abs=1e-6)


@pytest.mark.parametrize("size", [1e-6, 0.1, 1.0, 1e6])
def test_maps_of_any_size_are_standardised(size):
    """1, 2, 3, 4 have mean 5/2 and variance 5/3."""
    s = size * torch.tensor([[[1.0, 2.0], [3.0, 4.0]]], dtype=torch.float64)
    expected = torch.tensor([-1.5, -0.5, 0.5, 1.5], dtype=torch.float64) / (5 / 3) ** 0.5
    torch.testing.assert_close(standardised(s).flatten(), expected)


def test_standardised_maps():
    s = torch.cat([scores(), torch.full((1, 6, 7), 3.0, dtype=torch.float64)])
    found = standardised(s)
    torch.testing.assert_close(found[:2].mean((1, 2)), torch.zeros(2, dtype=torch.float64))
    torch.testing.assert_close(found[:2].flatten(1).std(1), torch.ones(2, dtype=torch.float64))
    assert (found[2] == 0).all()
    flat = torch.zeros(1, 2, 2, requires_grad=True)
    (g,) = torch.autograd.grad((standardised(flat) * torch.tensor([[1.0, 2.0], [3.0, 4.0]])).sum(), flat)
    # a flat map moves, along the gradient less its mean
    assert g.flatten().tolist() == [-1.5, -0.5, 0.5, 1.5]


def test_only_the_order_and_the_distances_of_the_scores_count():
    s = scores()
    same = 3 * s - 40
    assert torch.equal(level_sets(same, SHARES), level_sets(s, SHARES))
    soft = [quantile_masks(standardised(one), SHARES, 0.3) for one in (s, same)]
    torch.testing.assert_close(*soft, rtol=0, atol=1e-12)
    assert torch.equal(level_sets(s**3, SHARES), level_sets(s, SHARES))


def test_a_mask_does_not_know_of_other_maps():
    s = scores(3)
    for i in range(3):
        assert torch.equal(quantile_masks(s, SHARES, 0.5)[i], quantile_masks(s[i : i + 1], SHARES, 0.5)[0])


def test_a_step_has_the_same_size_for_every_image():
    g = gradients() * torch.tensor([1e-6, 1.0, 1e6], dtype=torch.float64)[:, None, None]
    found = at_scales(g, SCALES)
    torch.testing.assert_close(root_mean_square(found), torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(found, at_scales(gradients(), SCALES), rtol=0, atol=1e-9)
    torch.testing.assert_close(at_scales(-g, SCALES), -found)
    torch.testing.assert_close(at_scales(g[1:2], SCALES)[0], found[1])


def test_no_gradient_no_step():
    g = gradients()
    g[1] = 0
    found = at_scales(g, SCALES)
    assert (found[1] == 0).all()
    torch.testing.assert_close(found[[0, 2]], at_scales(gradients(), SCALES)[[0, 2]])


def test_a_gradient_that_is_the_same_everywhere_stays_so():
    g = torch.full((1, 6, 9), -4.0, dtype=torch.float64)
    torch.testing.assert_close(smoothed(g, 2.0), g)
    torch.testing.assert_close(at_scales(g, SCALES), torch.full_like(g, -1.0))


def test_two_scales_by_hand():
    """A single cell: what is smoothed away from it is 1 less the kernel's middle."""
    g = torch.zeros(1, 9, 9, dtype=torch.float64)
    g[0, 4, 4] = 2.0
    kernel = torch.exp(-torch.arange(-3.0, 4, dtype=torch.float64).square() / 2)
    blurred = torch.outer(kernel / kernel.sum(), kernel / kernel.sum())
    torch.testing.assert_close(smoothed(g, 1.0)[0, 1:8, 1:8], 2 * blurred)
    expected = torch.zeros(9, 9, dtype=torch.float64)
    expected[1:8, 1:8] = 0.25 * blurred / blurred.norm()
    expected[4, 4] += 0.5
    torch.testing.assert_close(at_scales(g, ((0.0, 0.5), (1.0, 0.25)))[0], 9 * expected / expected.norm())


def test_smoothing_moves_nothing_in_or_out():
    """Away from the borders the sum stays; at them values are repeated, so the range stays."""
    inside = torch.zeros(1, 19, 21, dtype=torch.float64)
    inside[0, 7:12, 7:14] = gradients(1, 5, 7)[0]
    found = smoothed(inside, 2.0)
    torch.testing.assert_close(found.sum(), inside.sum())
    assert found.abs().max() < inside.abs().max()
    g = gradients()
    assert smoothed(g, 3.0).max() <= g.max()
    assert smoothed(g, 0.0) is g


@pytest.mark.parametrize("sigma", [9.01, 1e9])
def test_a_gaussian_wider_than_the_grid_is_the_mean(sigma):
    g = gradients()
    torch.testing.assert_close(smoothed(g, sigma), g.mean((1, 2), keepdim=True).expand_as(g))


def test_neighbours_that_differ_move_the_map_less_than_those_that_agree():
    """Of two patches with gradients of the same size, one chequered: it moves by less at several scales."""
    g = torch.zeros(1, 16, 16, dtype=torch.float64)
    rows, columns = torch.meshgrid(torch.arange(5), torch.arange(5), indexing="ij")
    g[0, 2:7, 2:7] = ((rows + columns) % 2 * 2 - 1).double()
    g[0, 9:14, 9:14] = 1.0
    found = at_scales(g, ((0.0, 0.5), (1.0, 0.5))).abs()
    assert found[0, 3:6, 3:6].max() < 0.7 * found[0, 10:13, 10:13].min()


@pytest.mark.parametrize(
    "scales",
    [
        (),
        ((-1.0, 1.0),),
        ((1.0, -1.0),),
        ((0.0, 0.0), (2.0, 0.0)),
        ((float("nan"), 1.0),),
        ((1.0, float("inf")),),
        (1,),
    ],
)
def test_scales_that_do_not_fit_are_refused(scales):
    with pytest.raises(ValueError, match=r"scales are .*give pairs \(sigma in cells, weight\)"):
        check_scales(scales)


def test_scales_become_pairs_of_floats():
    assert check_scales([[0, 1], (2, 0)]) == ((0.0, 1.0), (2.0, 0.0))
