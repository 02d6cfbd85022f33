"""The masker: any size, values in [0, 1], one image at a time, alive from the start, rebuilt from options."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.networks import images
from xai_align.align.masker import Masker


def masker(seed=0, **options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Masker(**options).eval()


@given(height=st.integers(8, 41), width=st.integers(8, 41), stride=st.sampled_from([1, 2, 4]))
@settings(max_examples=25, deadline=None)
def test_any_size_gives_masks_of_that_size(height, width, stride):
    x = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        masks = masker(width=4, stride=stride)(x)
    assert masks.shape == (2, 1, height, width)
    assert masks.min() >= 0
    assert masks.max() <= 1
    assert masks.isfinite().all()


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_even_a_few_pixels_do(size):
    assert masker(stride=4)(images(1, size)).shape == (1, 1, size, size)


@pytest.mark.parametrize("start", [0.2, 0.6, 0.9])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_masks_start_where_they_are_told(start, seed):
    masks = masker(seed, start=start)(images(4, 32, seed=seed))
    assert (masks - start).abs().max() < 0.1


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_it_is_light(stride):
    assert 50_000 <= sum(p.numel() for p in masker(stride=stride).parameters()) <= 300_000


def test_images_do_not_depend_on_their_mates_in_either_mode():
    x = images(5, 19)
    for mode in (True, False):
        net = masker().train(mode)
        together = net(x)
        for i in range(5):
            torch.testing.assert_close(net(x[i : i + 1]), together[i : i + 1], rtol=0, atol=1e-6)
        assert not list(net.buffers())


def test_every_parameter_learns_from_the_first_step():
    net = masker()
    net(images(4, 32)).square().mean().backward()
    assert all(p.grad.abs().sum() > 0 for p in net.parameters())


def test_it_can_learn_a_mask():
    """A bright square on noise is found from examples, in a few dozen steps."""
    generator = torch.Generator().manual_seed(0)
    x, wanted = torch.randn(16, 1, 24, 24, generator=generator), torch.zeros(16, 1, 24, 24)
    for i, (row, column) in enumerate(torch.randint(0, 16, (16, 2), generator=generator).tolist()):
        wanted[i, :, row : row + 8, column : column + 8] = 1
    x = x + 3 * wanted
    net = masker(in_channels=1, width=8, depth=1, stride=1)
    adam = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(40):
        adam.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(net.logits(x), wanted).backward()
        adam.step()
    found = net(x) > 0.5
    overlap = (found & wanted.bool()).sum() / (found | wanted.bool()).sum()
    assert overlap > 0.8


def test_options_build_the_like():
    net = masker(in_channels=1, width=12, depth=2, stride=4, start=0.3)
    other = Masker(**net.options)
    other.load_state_dict(net.state_dict())
    x = images(2, 21)[:, :1]
    torch.testing.assert_close(other(x), net(x), rtol=0, atol=0)
    assert net.options == {"in_channels": 1, "width": 12, "depth": 2, "stride": 4, "start": 0.3}


def test_a_mask_is_the_sigmoid_of_its_logits():
    net, x = masker(), images(2, 17)
    torch.testing.assert_close(net.logits(x).sigmoid(), net(x), rtol=0, atol=0)


def test_masks_are_single_precision_under_autocast_and_follow_the_images_otherwise():
    net, x = masker(), images(2, 16)
    exact = net(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = net(x)
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed, exact, rtol=0, atol=0.02)
    assert net.double()(x.double()).dtype == torch.float64
    assert net.bfloat16()(x.bfloat16()).dtype == torch.bfloat16


def test_it_can_be_exported_for_any_size():
    sizes = (("batch", 2), ("height", 9), ("width", 9))  # a map of one coarse cell would be another program
    net = masker(width=8)
    batch, height, width = (torch.export.Dim(name, min=least, max=512) for name, least in sizes)
    program = torch.export.export(net, (images(2, 32),), dynamic_shapes=({0: batch, 2: height, 3: width},))
    for x in (images(3, 32), images(2, 21), torch.randn(2, 3, 64, 33)):
        torch.testing.assert_close(program.module()(x), net(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "width must be a positive integer, got 0"),
        ({"width": 2.5}, "width must be a positive integer, got 2.5"),
        ({"depth": -1}, "depth must be a non-negative integer, got -1"),
        ({"in_channels": 0}, "in_channels must be a positive integer, got 0"),
        ({"stride": 3}, "stride is 3; give 1, 2 or 4"),
        ({"start": 1.0}, r"start must be a number in \(0, 1\), got 1.0"),
        ({"start": float("nan")}, "start must be .* got nan"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Masker(**options)


@pytest.mark.parametrize("x", [images(2)[:, :1], images(2)[0], images(2)[..., 0]])
def test_images_of_another_shape_are_refused(x):
    with pytest.raises(ValueError, match=r"made for images \[N, 3, H, W\] and got"):
        masker()(x)
