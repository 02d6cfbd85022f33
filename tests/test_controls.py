"""The two controls: what they draw, for whom, and that nothing else moves."""

from __future__ import annotations

import math

import pytest
import torch

from xai_align.evaluation.controls import CONTROLS, CentreGaussianAttribution, RandomAttribution
from xai_align.testing import TinyNetwork, fixed_images
from xai_align.testing.traces import differences, snapshot, snapshot_of_inputs

BUILD = {spec.name: spec.build for spec in CONTROLS}


def test_they_are_offered_by_name():
    assert list(BUILD) == ["random", "centre_gaussian"]
    assert all(spec.summary.startswith("control: ") for spec in CONTROLS)


@pytest.mark.parametrize("name", BUILD)
def test_captums_call_in_the_inputs_shape_without_a_trace(name):
    model, images = TinyNetwork(), fixed_images()
    before, given = snapshot(model), snapshot_of_inputs((images,))
    maps = BUILD[name](model).attribute(images, target=[1, 3, 0])
    assert maps.shape == images.shape
    assert maps.dtype == images.dtype
    assert not maps.requires_grad
    assert differences(before, snapshot(model)) + differences(given, snapshot_of_inputs((images,))) == []
    assert torch.equal(maps, BUILD[name](model).attribute(images, target=2))
    maps.zero_()  # the caller's own, image by image
    assert bool((BUILD[name](model).attribute(images) != 0).any())


@pytest.mark.parametrize("name", BUILD)
def test_every_channel_gets_the_same(name):
    images = fixed_images(4)
    maps = BUILD[name]().attribute(images)
    assert torch.equal(maps, maps[:, :1].expand(maps.shape))
    several = BUILD[name]().attribute((images, images.double()[..., :6]))
    assert torch.equal(several[0], maps)
    assert several[1].dtype == torch.float64
    assert several[1].shape == (4, 3, 8, 6)


def test_the_bump_is_the_same_for_every_image_and_the_noise_is_each_images_own():
    images = fixed_images(4)
    bumps = CentreGaussianAttribution().attribute(images)
    assert torch.equal(bumps, bumps[:1].expand(bumps.shape))
    noise = RandomAttribution().attribute(images)
    assert not torch.equal(noise[0], noise[1])
    assert torch.equal(RandomAttribution().attribute(images[1:3].double()).float(), noise[1:3])


def test_random_numbers_are_uniform_independent_and_of_the_seed():
    field = RandomAttribution(seed=3).attribute(torch.zeros(1, 3, 200, 200))[0, 0]
    assert float(field.min()) >= 0
    assert float(field.max()) < 1
    histogram = torch.histc(field, 10, 0, 1) / field.numel()
    torch.testing.assert_close(histogram, torch.full((10,), 0.1), atol=0.01, rtol=0)
    neighbours = torch.corrcoef(torch.stack([field[:, 1:].flatten(), field[:, :-1].flatten()]))
    assert abs(float(neighbours[0, 1])) < 0.03
    other = RandomAttribution(seed=4).attribute(torch.zeros(1, 3, 200, 200))[0, 0]
    assert abs(float(torch.corrcoef(torch.stack([field.flatten(), other.flatten()]))[0, 1])) < 0.03
    assert RandomAttribution().attribute(torch.zeros(2, 7)).unique().numel() == 7
    assert RandomAttribution().attribute(torch.zeros(2, 5, 4)).unique().numel() == 20
    assert RandomAttribution().attribute(torch.zeros(2, 4, dtype=torch.long)).is_floating_point()


def test_the_bump_is_round_central_and_as_wide_as_said():
    bump = CentreGaussianAttribution(sigma=0.25).attribute(torch.zeros(1, 3, 41, 81))[0, 0]
    assert divmod(int(bump.argmax()), 81) == (20, 40)
    assert float(bump.max()) == 1
    sigma = 0.25 * 41
    assert float(bump[20, 50]) == pytest.approx(math.exp(-(10**2) / (2 * sigma**2)))
    assert float(bump[10, 40]) == pytest.approx(float(bump[20, 30]))
    assert torch.equal(bump, bump.flip(0))
    assert torch.equal(bump, bump.flip(1))
    wider = CentreGaussianAttribution(sigma=0.5).attribute(torch.zeros(1, 3, 41, 81))[0, 0]
    assert bool((wider >= bump).all())


def test_bad_input_is_said():
    with pytest.raises(ValueError, match="sigma must be a positive number, got 0"):
        CentreGaussianAttribution(sigma=0)
    with pytest.raises(ValueError, match=r"needs images \[N, C, H, W\], got inputs of shape \[2, 5\]"):
        CentreGaussianAttribution().attribute(torch.zeros(2, 5))
    with pytest.raises(TypeError, match="inputs are of type list"):
        RandomAttribution().attribute([1.0])
