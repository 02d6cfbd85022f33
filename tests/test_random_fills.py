"""Fills that change from step to step: what each kind keeps of an image, and that no image knows of its batch mates."""

from __future__ import annotations

import pytest
import torch

from tests.networks import images
from xai_align.fei import random_fills as random_fills_module
from xai_align.fei.random_fills import GRAIN, fixed_fill, random_fills, scrambled
from xai_align.fei.solid_colours import references
from xai_align.perturbation.fills import GaussianBlur

ALL = ("blur", "zero", "mean", "noise", "colour", "texture")
SOLID = ("zero", "mean", "colour")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def pictures(count=3, size=24):
    """Of different brightness and contrast."""
    x = images(count, size, dtype=torch.float64)
    steps = torch.arange(1.0, count + 1, dtype=torch.float64)[:, None, None, None]
    return steps * x + 2 * steps


def drawn(x, kinds, seed=0, times=1, **options):
    fills = random_fills(x, kinds, generator(seed), **options)
    return [fills.draw().expand(x.shape) for _ in range(times)]


@pytest.mark.parametrize("kind", ALL)
def test_an_image_alone_gets_what_it_gets_in_a_batch(kind):
    x = pictures()
    together = drawn(x, (kind,), times=3)
    for i in range(3):
        for whole, alone in zip(together, drawn(x[i : i + 1], (kind,), times=3), strict=True):
            assert torch.equal(alone[0], whole[i])


@pytest.mark.parametrize("kind", ALL)
def test_a_seed_is_a_row_of_fills(kind):
    x = pictures()
    first, again, other = (torch.stack(drawn(x, (kind,), seed, times=2)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert torch.equal(first[0], first[1]) == torch.equal(first, other) == (kind == "blur")  # nothing random in it
    assert first.dtype == x.dtype
    assert first.isfinite().all()


@pytest.mark.parametrize("kind", ["zero", "mean", "noise", "colour"])
def test_a_seed_is_the_same_fill_in_later_versions(kind):
    """The generator gives the colours' seed, the kind, and then one number for each channel and pixel."""
    x, own = pictures(), generator(3)
    seed = int(torch.randint(2**31, (1,), generator=own))
    torch.randint(1, (1,), generator=own)
    noise = x.std((2, 3), keepdim=True) * torch.randn(3, 24, 24, generator=own).double()
    expected = {
        "zero": 0.01 * noise,
        "mean": x.mean((2, 3), keepdim=True) + 0.01 * noise,
        "noise": x.mean((2, 3), keepdim=True) + noise,
        "colour": references(x, seed=seed).draw(0) + 0.01 * noise,
    }
    torch.testing.assert_close(drawn(x, (kind,), 3)[0], expected[kind])


def test_kinds_change_at_random():
    """Of two kinds, told apart by their contrast, both come, in no fixed order."""
    x = pictures(1)
    rough = [bool(fill.std() > 0.5 * x.std()) for fill in drawn(x, ("noise", "mean"), times=40)]
    assert 8 < sum(rough) < 32
    assert len({tuple(rough[start : start + 3]) for start in range(38)}) == 8
    assert torch.equal(torch.stack(drawn(x, "noise", times=3)), torch.stack(drawn(x, ("noise",), times=3)))


@pytest.mark.parametrize("kind", SOLID)
def test_no_solid_fill_leaves_max_pooling_to_rounding(kind):
    x = pictures()
    for fill in drawn(x, (kind,), times=5):
        grain = fill - fill.mean((2, 3), keepdim=True)
        share = grain.std((2, 3)) / x.std((2, 3))
        torch.testing.assert_close(share, torch.full_like(share, GRAIN), rtol=0.2, atol=0)
        for axis in (2, 3):
            assert (fill.diff(dim=axis) != 0).all()


def test_what_a_kind_keeps_of_an_image():
    x = pictures()
    mean, deviation = x.mean((2, 3)), x.std((2, 3))
    near = {"rtol": 0, "atol": 0.3 * float(deviation.max())}  # of 24 x 24 random numbers
    assert torch.equal(drawn(x, ("blur",))[0], GaussianBlur()(x))
    torch.testing.assert_close(drawn(x, ("zero",))[0].mean((2, 3)), torch.zeros_like(mean), rtol=0, atol=0.01)
    torch.testing.assert_close(drawn(x, ("mean",))[0].mean((2, 3)), mean, rtol=0, atol=0.01)
    (noise,) = drawn(x, ("noise",))
    torch.testing.assert_close(noise.mean((2, 3)), mean, **near)
    torch.testing.assert_close(noise.std((2, 3)), deviation, rtol=0.15, atol=0)


def test_colours_come_from_the_images_own_range_or_from_all_that_a_picture_shows():
    x = pictures()
    own = torch.stack([fill.mean((2, 3)) for fill in drawn(x, ("colour",), times=20)])
    assert (own > x.amin((2, 3)) - 0.1).all()
    assert (own < x.amax((2, 3)) + 0.1).all()
    assert (own.amax(0) - own.amin(0) > 0.5 * (x.amax((2, 3)) - x.amin((2, 3)))).all()
    mean, std = torch.tensor([0.4, 0.5, 0.6], dtype=torch.float64), 0.25
    fills = drawn(x / 100, ("colour",), times=20, normalization=(mean, std))
    shown = torch.stack([fill[0].mean((1, 2)) * std + mean for fill in fills])
    torch.testing.assert_close(shown * 255, (shown * 255).round(), rtol=0, atol=0.2)
    assert (shown.amax(0) - shown.amin(0) > 0.5).all()


@pytest.mark.parametrize("shape", [(8, 8), (7, 9), (6, 11), (1, 8)])
def test_texture_keeps_the_strength_of_every_frequency_and_the_mean_colour(shape):
    x = torch.randn(2, 3, *shape, generator=generator(1), dtype=torch.float64) + 2
    texture = scrambled(x, generator())
    assert texture.shape == x.shape
    # with both halves of the spectrum, so that a result that is not real would show
    before, after = torch.fft.fft2(x), torch.fft.fft2(texture)
    torch.testing.assert_close(after.abs(), before.abs(), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(texture.mean((2, 3)), x.mean((2, 3)))
    torch.testing.assert_close(texture.std((2, 3)), x.std((2, 3)))
    assert (texture - x).abs().mean() > 0.2 * x.std()


@pytest.mark.parametrize("kind", ["noise", "zero", "mean", "colour"])
def test_noise_is_each_channels_own(kind):
    """Of any two channels it is uncorrelated."""
    fill = drawn(pictures(1), (kind,))[0][0]
    correlation = torch.corrcoef(fill.flatten(1))
    assert (correlation - torch.eye(3)).abs().max() < 0.25


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_noise_has_the_images_precision(dtype):
    assert drawn(pictures(1).to(dtype), ("noise",))[0].dtype == dtype


def test_colours_have_seeds_of_their_own(monkeypatch):
    """Drawn from the generator, so that two searches meet other colours."""
    seeds = []
    own = random_fills_module.references

    def recorded(*args, seed, **options):
        seeds.append(seed)
        return own(*args, seed=seed, **options)

    monkeypatch.setattr(random_fills_module, "references", recorded)
    for seed in range(200):
        random_fills(pictures(1, 2), ("colour",), generator(seed))
    assert len(set(seeds)) == 200


def test_texture_turns_all_channels_and_images_alike():
    """So two channels that are one another's opposite stay so, and grey stays grey."""
    grey = torch.randn(1, 1, 8, 8, generator=generator(1), dtype=torch.float64)
    x = torch.cat([grey, grey, -grey], 1)
    texture = scrambled(torch.cat([x, 3 * x]), generator())
    torch.testing.assert_close(texture[0, 0], texture[0, 1])
    torch.testing.assert_close(texture[0, 0], -texture[0, 2])
    torch.testing.assert_close(texture[1], 3 * texture[0])


def test_the_note_says_what_was_drawn():
    note = random_fills(pictures(), ("blur", "colour"), generator()).note
    assert "blur, colour at every step" in note
    assert "random solid colour" in note
    assert "colour" not in random_fills(pictures(), ("zero",), generator()).note


@pytest.mark.parametrize(
    ("kinds", "message"),
    [(("blur", "grey"), "the fill must be 'blur', 'zero', .* got 'grey'"), ((), "no fill was given; give")],
)
def test_fills_that_are_not_known_are_refused(kinds, message):
    with pytest.raises(ValueError, match=message):
        random_fills(pictures(), kinds, generator())


def test_a_fill_of_the_callers():
    x = pictures()
    assert torch.equal(fixed_fill(x, 0.5, 0).draw().expand(x.shape), torch.full_like(x, 0.5))
    assert torch.equal(fixed_fill(x, x.flip(0), 0).draw(), x.flip(0))
    assert fixed_fill(x, 0.5, 0).note == references(x, 0.5).note
    asked = []

    def other_each_time(inputs, step, own):
        asked.append(step)
        return torch.rand(1, 3, 1, 1, generator=own)

    fills = [fixed_fill(x, other_each_time, 4) for _ in range(2)]
    first = [fills[0].draw() for _ in range(3)]
    assert asked == [0, 1, 2]
    assert not torch.equal(first[0], first[1])
    assert torch.equal(torch.stack(first), torch.stack([fills[1].draw() for _ in range(3)]))
    with pytest.raises(ValueError, match="the baselines have shape"):
        fixed_fill(x, torch.ones(2, 3), 0)


def test_images_stay_as_they_are():
    x = pictures()
    before = x.clone()
    state = torch.get_rng_state()
    drawn(x, ALL, times=20)
    assert torch.equal(x, before)
    assert torch.equal(torch.get_rng_state(), state)
