"""Noisy linear imputation solves its system, whatever the mask, and adds the noise it says."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import interpolate

from xai_align.perturbation.masked_diffusion import fill_holes
from xai_align.perturbation.noisy_linear import NoisyLinear

QUIET = NoisyLinear(noise=0)


def exact(inputs, removed):
    """The system as the paper writes it, one row for each removed pixel, solved densely in float64."""
    solved = inputs.double().clone()
    height, width = inputs.shape[-2:]
    for image, mask in zip(solved, removed[:, 0], strict=True):
        unknown = {tuple(place): row for row, place in enumerate(mask.nonzero().tolist())}
        a, b = np.zeros((len(unknown), len(unknown))), np.zeros((len(unknown), len(image)))
        for (i, j), row in unknown.items():
            for di, dj in ((di, dj) for di in (-1, 0, 1) for dj in (-1, 0, 1) if (di, dj) != (0, 0)):
                weight, n = (1 / 6 if di * dj == 0 else 1 / 12), (i + di, j + dj)
                if not (0 <= n[0] < height and 0 <= n[1] < width):
                    continue
                a[row, row] += weight
                if n in unknown:
                    a[row, unknown[n]] -= weight
                else:
                    b[row] += weight * image[:, n[0], n[1]].numpy()
        image[:, mask] = torch.from_numpy(np.linalg.solve(a, b)).T
    return solved


def pictures(count, height, width, channels=3, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, channels, height, width, generator=generator, dtype=dtype)


def scattered(count, height, width, share, seed=0):
    """Pixels removed at random; the middle one is known."""
    generator = torch.Generator().manual_seed(seed)
    removed = torch.rand(count, 1, height, width, generator=generator) < share
    removed[..., height // 2, width // 2] = False
    return removed


def blobs(count, height, width, share, seed=0):
    """One large hole, or a few: the largest values of a smooth map."""
    generator = torch.Generator().manual_seed(seed)
    smooth = interpolate(torch.randn(count, 1, 4, 4, generator=generator), size=(height, width), mode="bicubic")
    return smooth > smooth.flatten(1).quantile(1 - share, dim=1)[:, None, None, None]


def largest_gap(filled, expected):
    """Relative to the range of each image."""
    values = expected.flatten(1)
    return ((filled - expected).flatten(1).abs().amax(1) / (values.amax(1) - values.amin(1))).max().item()


@settings(deadline=None)
@given(
    height=st.integers(1, 18),
    width=st.integers(2, 18),
    channels=st.integers(1, 4),
    share=st.floats(0.02, 1),
    make=st.sampled_from([scattered, blobs]),
    seed=st.integers(0, 1000),
)
def test_the_system_is_solved_for_any_mask(height, width, channels, share, make, seed):
    inputs, removed = pictures(2, height, width, channels, seed), make(2, height, width, min(share, 0.97), seed)
    kept = inputs.clone()
    filled = QUIET.impute(inputs, removed)
    assert torch.equal(inputs, kept)
    assert torch.equal(filled.masked_select(~removed), inputs.masked_select(~removed))
    expected = exact(inputs, removed)
    assert (filled - expected).abs().max() < 1e-3 * (inputs.amax() - inputs.amin())


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("make", [scattered, blobs])
def test_large_images_satisfy_the_sparse_system(make, share):
    sparse = pytest.importorskip("scipy.sparse")
    linalg = pytest.importorskip("scipy.sparse.linalg")
    height, width = 101, 160
    inputs, removed = pictures(1, height, width), make(1, height, width, share)

    # the nine-point operator as a sum of Kronecker products of "itself" and "next to", along each axis
    def along(size):
        return sparse.eye(size), sparse.diags([1.0, 1.0], [-1, 1], shape=(size, size))

    (same_i, next_i), (same_j, next_j) = along(height), along(width)
    w = (sparse.kron(next_i, same_j) + sparse.kron(same_i, next_j)) / 6 + sparse.kron(next_i, next_j) / 12
    laplacian = (sparse.diags(np.asarray(w.sum(1)).ravel()) - w).tocsr()
    hole, x = removed.flatten().numpy(), inputs[0].flatten(1).T.double().numpy()
    expected = x.copy()
    known_part = laplacian[hole][:, ~hole] @ x[~hole]
    expected[hole] = linalg.spsolve(laplacian[hole][:, hole].tocsc(), -known_part)
    filled = QUIET.impute(inputs, removed)
    assert largest_gap(filled, torch.from_numpy(expected.T).reshape(inputs.shape)) < 5e-4


def test_two_removed_pixels_by_hand():
    # a row 1 ? ? 4: each unknown is the mean of its two neighbours
    filled = QUIET.impute(torch.tensor([[[[1.0, 9.0, 9.0, 4.0]]]]), torch.tensor([[[[False, True, True, False]]]]))
    assert torch.allclose(filled, torch.tensor([[[[1.0, 2.0, 3.0, 4.0]]]]), atol=1e-5)
    # the middle of 3 x 3: direct neighbours 6, 0, 0, 0 and diagonal neighbours 12, 0, 0, 0
    square = torch.tensor([[12.0, 6.0, 0.0], [0.0, 99.0, 0.0], [0.0, 0.0, 0.0]])[None, None]
    middle = torch.zeros(1, 1, 3, 3, dtype=torch.bool)
    middle[..., 1, 1] = True
    assert QUIET.impute(square, middle)[0, 0, 1, 1].item() == pytest.approx(6 / 6 + 12 / 12, abs=1e-4)
    # its corner has three neighbours: (6 / 6 + 0 / 6 + 99 / 12) / (1 / 6 + 1 / 6 + 1 / 12)
    corner = torch.zeros(1, 1, 3, 3, dtype=torch.bool)
    corner[..., 0, 0] = True
    expected = (6 / 6 + 99 / 12) / (5 / 12)
    assert QUIET.impute(square, corner)[0, 0, 0, 0].item() == pytest.approx(expected, abs=1e-3)


def test_a_linear_ramp_goes_on_across_a_hole():
    rows, columns = torch.meshgrid(torch.arange(40.0), torch.arange(50.0), indexing="ij")
    ramp = (2 * rows - 3 * columns + 7)[None, None]
    hole = torch.zeros(1, 1, 40, 50, dtype=torch.bool)
    hole[..., 5:33, 8:45] = True
    filled = QUIET.impute(ramp.masked_fill(hole, 1000.0), hole)
    assert largest_gap(filled, ramp) < 5e-4


@pytest.mark.parametrize("value", [0.0, 0.1, -117.3, 1e-6])
def test_a_constant_image_stays_exactly_what_it_is(value):
    image = torch.full((1, 2, 37, 20), value)
    assert torch.equal(QUIET.impute(image, blobs(1, 37, 20, 0.6)), image)


def test_one_known_pixel_fills_everything():
    inputs, removed = pictures(1, 64, 64), torch.ones(1, 1, 64, 64, dtype=torch.bool)
    removed[..., 50, 3] = False
    assert torch.allclose(QUIET.impute(inputs, removed), inputs[..., 50:51, 3:4].expand_as(inputs))


def test_nothing_removed_gives_the_inputs_and_everything_removed_the_mean():
    inputs = pictures(2, 9, 7)
    removed = torch.zeros(2, 1, 9, 7, dtype=torch.bool)
    assert torch.equal(NoisyLinear().impute(inputs, removed), inputs)
    assert NoisyLinear().impute(inputs[:0], removed[:0]).shape == (0, 3, 9, 7)
    removed[1] = True
    filled = QUIET.impute(inputs, removed)
    assert torch.equal(filled[0], inputs[0])
    assert torch.allclose(filled[1], inputs[1].mean((1, 2), keepdim=True).expand(3, 9, 7), atol=1e-6)
    single = QUIET.impute(inputs[..., :1, :1], removed[..., :1, :1])
    assert torch.equal(single, inputs[..., :1, :1])


def test_what_stood_at_removed_pixels_does_not_matter():
    inputs, removed = pictures(2, 30, 31), blobs(2, 30, 31, 0.4)
    filled = NoisyLinear().impute(inputs, removed)
    assert torch.equal(NoisyLinear().impute(inputs.masked_fill(removed, math.nan), removed), filled)


def test_an_image_is_filled_as_if_it_were_alone():
    # masks that take few and many steps, among them an empty and a full one
    removed = torch.cat(
        [make(1, 45, 60, share) for make in (scattered, blobs) for share in (0.05, 0.5, 0.95)]
        + [torch.zeros(1, 1, 45, 60, dtype=torch.bool), torch.ones(1, 1, 45, 60, dtype=torch.bool)]
    )
    inputs = pictures(len(removed), 45, 60)
    together = NoisyLinear().impute(inputs, removed)
    alone = torch.cat([NoisyLinear().impute(x[None], mask[None]) for x, mask in zip(inputs, removed, strict=True)])
    assert torch.allclose(together, alone, atol=1e-6)
    assert torch.equal(together, NoisyLinear().impute(inputs, removed))


def test_the_noise_is_on_top_of_the_solution_and_as_strong_as_it_says():
    inputs, removed = pictures(2, 80, 90), scattered(2, 80, 90, 0.8)
    before = torch.random.get_rng_state()
    filled = NoisyLinear(noise=0.3, seed=5).impute(inputs, removed)
    assert torch.equal(torch.random.get_rng_state(), before)
    noise = filled - QUIET.impute(inputs, removed)
    assert torch.equal(noise.masked_select(~removed), torch.zeros(int((~removed).sum()) * 3))
    drawn = noise.masked_select(removed)
    # 34,560 draws: the standard error of the mean is 0.0016, that of the deviation 0.0011
    assert drawn.mean().abs() < 0.008
    assert abs(drawn.std() - 0.3) < 0.006
    # one field for both images, seen where both are removed
    both = (removed[0] & removed[1]).expand(3, -1, -1)
    assert torch.allclose(noise[0][both], noise[1][both], atol=1e-5)
    other = NoisyLinear(noise=0.3, seed=6).impute(inputs, removed)
    assert (other - filled).abs().max() > 0.3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtypes_are_kept_and_half_precision_is_solved_in_single(dtype):
    inputs, removed = pictures(1, 20, 21).to(dtype), blobs(1, 20, 21, 0.5)
    filled = NoisyLinear().impute(inputs, removed)
    assert filled.dtype == dtype
    if dtype != torch.float64:
        assert torch.equal(filled, NoisyLinear().impute(inputs.float(), removed).to(dtype))


def test_double_precision_can_be_asked_for_to_the_last_digits():
    inputs, removed = pictures(1, 20, 21, dtype=torch.float64), blobs(1, 20, 21, 0.5)
    filled = NoisyLinear(noise=0, tolerance=1e-12).impute(inputs, removed)
    assert torch.allclose(filled, exact(inputs, removed), rtol=0, atol=1e-11)


def test_the_result_does_not_depend_on_the_units():
    inputs, removed = pictures(1, 33, 40), blobs(1, 33, 40, 0.5)
    filled = QUIET.impute(inputs, removed)
    assert torch.allclose(QUIET.impute(inputs * 1e-12, removed) * 1e12, filled, atol=1e-5)
    assert torch.allclose(QUIET.impute(inputs * 255 + 1000, removed), filled * 255 + 1000, atol=2e-2)


def test_no_gradient_is_asked_for_and_none_is_kept():
    inputs = pictures(1, 8, 8).requires_grad_()
    filled = QUIET.impute(inputs, scattered(1, 8, 8, 0.5))
    assert not filled.requires_grad
    assert inputs.grad is None
    assert inputs.requires_grad


@pytest.mark.parametrize("make", [scattered, blobs])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_agrees_with_pytorch_grad_cam(make, share):
    road = pytest.importorskip("pytorch_grad_cam.metrics.road")
    inputs, removed = pictures(3, 32, 32), make(3, 32, 32, share)
    theirs = torch.stack(
        [road.NoisyLinearImputer(noise=0)(x, (~mask).float()) for x, mask in zip(inputs, removed[:, 0], strict=True)]
    )
    assert largest_gap(QUIET.impute(inputs, removed), theirs) < 5e-4


@pytest.mark.parametrize(
    ("inputs", "removed", "error", "words"),
    [
        (torch.ones(1, 3, 4, 4, dtype=torch.uint8), torch.ones(1, 1, 4, 4, dtype=torch.bool), TypeError, "uint8"),
        (torch.ones(1, 3, 4, 4), torch.ones(1, 1, 4, 4), TypeError, "must be a boolean mask"),
        (torch.ones(3, 4, 4), torch.ones(1, 4, 4, dtype=torch.bool), ValueError, r"\[M, C, H, W\]"),
        (torch.ones(2, 3, 4, 4), torch.ones(1, 1, 4, 4, dtype=torch.bool), ValueError, r"\[2, 1, 4, 4\]"),
        (torch.ones(2, 3, 4, 4), torch.ones(2, 3, 4, 4, dtype=torch.bool), ValueError, "one mask for each image"),
        (torch.full((1, 1, 4, 4), math.nan), torch.eye(4).bool()[None, None], ValueError, "the kept pixels"),
        (torch.full((1, 1, 4, 4), math.inf), torch.eye(4).bool()[None, None], ValueError, "the kept pixels"),
    ],
)
def test_what_cannot_be_filled_is_refused(inputs, removed, error, words):
    with pytest.raises(error, match=words):
        NoisyLinear().impute(inputs, removed)


@pytest.mark.parametrize("options", [{"noise": -1}, {"noise": math.nan}, {"tolerance": 0}, {"tolerance": math.nan}])
def test_options_without_meaning_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        NoisyLinear(**options)


def test_a_tolerance_that_is_never_reached_is_said(monkeypatch):
    monkeypatch.setattr("xai_align.perturbation.masked_diffusion.MOST_STEPS", 1)
    with pytest.raises(RuntimeError, match="after 1 steps"):
        fill_holes(pictures(1, 16, 16), blobs(1, 16, 16, 0.6), tolerance=1e-6)
