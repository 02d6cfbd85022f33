"""What stands where something was removed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.networks import images
from xai_align.perturbation.curve import perturbation_curve
from xai_align.perturbation.fills import GaussianBlur, Noise, channel_means, filler, label_of, noise_from
from xai_align.perturbation.noisy_linear import NoisyLinear

EVERYTHING = torch.ones(1, 1, 1, 1, dtype=torch.bool)


def test_blur_is_the_published_kernel():
    """RISE filters a unit impulse with scipy (reflecting borders) and convolves with zeros beyond the border."""
    ndimage = pytest.importorskip("scipy.ndimage")
    impulse = np.zeros((11, 11))
    impulse[5, 5] = 1
    kernel = torch.from_numpy(ndimage.gaussian_filter(impulse, 5))
    x = images(2, 20, dtype=torch.float64)
    expected = torch.nn.functional.conv2d(x.flatten(0, 1)[:, None], kernel[None, None], padding=5).reshape(x.shape)
    torch.testing.assert_close(GaussianBlur()(x), expected, rtol=0, atol=1e-12)


def test_noise_is_the_same_for_every_example_and_call():
    x = images(3)
    noise = Noise()(x)
    assert torch.equal(noise[0], noise[2])
    assert torch.equal(Noise()(x[1:2])[0], noise[0])
    assert not torch.equal(Noise(seed=1)(x), noise)
    assert 0 <= Noise("uniform")(x).min() < Noise("uniform")(x).max() <= 1


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Noise("gaussian"), "distribution must be 'normal' or 'uniform', got 'gaussian'"),
        (lambda: Noise(seed=0.5), "seed"),
        (lambda: GaussianBlur(size=4), "the size of a blur is 4; give an odd number"),
        (lambda: GaussianBlur(size=0), "size"),
        (lambda: GaussianBlur(sigma=0), "sigma"),
    ],
)
def test_a_fill_that_cannot_be_is_refused_when_it_is_made(make, said):
    with pytest.raises((TypeError, ValueError), match=said):
        make()


def test_a_generator_decides_the_noise():
    x = images(1)
    first, again = (noise_from(torch.Generator().manual_seed(7))(x) for _ in range(2))
    assert torch.equal(first, again)


def test_means_are_each_examples_and_channels_own():
    x = images(2)
    assert torch.equal(channel_means(x)[1, 2], x[1, 2].mean().expand(8, 8))
    tokens = torch.randn(2, 5, 3)
    assert torch.equal(channel_means(tokens)[1, 4], tokens[1].mean(0))


@pytest.mark.parametrize("fill", [0, 0.5, "zero", "mean", "blur", "noise", "uniform", "noisy_linear"])
def test_what_is_not_removed_stays(fill):
    x = images(2)
    removed = torch.zeros(2, 1, 8, 8, dtype=torch.bool)
    removed[:, :, :4] = True
    filled = filler(fill, x)(torch.tensor([1, 0]), removed)
    assert torch.equal(filled[:, :, 4:], x[[1, 0], :, 4:])
    assert not torch.equal(filled[:, :, :4], x[[1, 0], :, :4])


def test_tensors_and_functions():
    x = images(2)
    own = images(2, seed=1)
    rows = torch.tensor([0, 1])
    assert torch.equal(filler(own, x)(rows, EVERYTHING), own)
    assert torch.equal(filler(own[:1], x)(rows, EVERYTHING), own[:1].expand_as(x))
    assert torch.equal(filler(lambda x: -x, x)(rows, EVERYTHING), -x)


@pytest.mark.parametrize(
    ("fill", "error", "message"),
    [
        ("black", ValueError, r"'zero', .* 'noisy_linear' or 'drop', got 'black'"),
        (torch.zeros(2, 3, 4, 4), ValueError, r"the fill has shape \[2, 3, 4, 4\]"),
        (lambda x: x[:, :1], ValueError, "the fill has shape"),
        (lambda x: 3, ValueError, "returned int"),
        (torch.full((1, 3, 8, 8), torch.nan), ValueError, "NaN"),
        (True, TypeError, "boolean"),
        ([1, 2], TypeError, "list"),
        (np.zeros((1, 3, 8, 8), np.float32), TypeError, r"is a NumPy array; give a tensor, e\.g\. torch\.from_numpy"),
        (np.float32("nan"), ValueError, "fill must be a finite number"),
    ],
)
def test_fills_that_do_not_fit_are_refused(fill, error, message):
    with pytest.raises(error, match=message):
        perturbation_curve(lambda x: x.flatten(1), images(2), images(2), baselines=fill)


def test_blur_needs_images():
    with pytest.raises(ValueError, match=r"blur needs images .* \[2, 5\]"):
        perturbation_curve(lambda x: x, torch.randn(2, 5), torch.randn(2, 5), baselines="blur")


def test_numbers_of_numpy_are_numbers():
    given = [np.float32(0.5), np.float64(0.5), 0.5, np.int64(1), 1]
    half, also, plain, one, whole = (
        perturbation_curve(lambda x: x.flatten(1), images(2), images(2), baselines=fill).masked for fill in given
    )
    assert torch.equal(half, plain)
    assert torch.equal(also, plain)
    assert torch.equal(one, whole)
    assert [label_of(fill) for fill in given] == ["0.5", "0.5", "0.5", "1", "1"]


def test_labels_name_what_is_not_the_default():
    assert [label_of(one) for one in (Noise(), GaussianBlur(), NoisyLinear(), "noise", 0.0, 0.5, channel_means)] == [
        *("noise", "gaussianblur", "noisylinear", "noise", "zero", "0.5", "channel_means")
    ]
    assert label_of(Noise("uniform", seed=1)) == "noise distribution=uniform seed=1"
    assert label_of(NoisyLinear(noise=0.1)) == "noisylinear noise=0.1"
