"""Image, CAM and mask one above the other, in one scale."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.networks import images
from xai_align._tools.png import png
from xai_align.align.figure import align_figure
from xai_align.data.overlay import grey


def shown(figure):
    """The pictures of a figure, in rows."""
    return [np.asarray(axes.get_images()[0].get_array()) for axes in figure.axes]


def test_a_row_for_each_kind_and_a_column_for_each_image():
    x, cams, masks = images(3, 12), torch.rand(3, 1, 3, 3), torch.rand(3, 1, 12, 12)
    figure = align_figure(x, cams, masks, titles=["a", "b", "c"])
    assert len(figure.axes) == 9
    assert [axes.get_title() for axes in figure.axes] == ["a", "b", "c"] + [""] * 6
    assert [figure.axes[i].get_ylabel() for i in (0, 3, 6)] == ["image", "CAM", "mask"]
    assert all(picture.shape == (12, 12, 3) for picture in shown(figure))
    assert len(align_figure(x, None, masks).axes) == 6
    assert len(align_figure(x).axes) == 3
    assert png(figure).startswith(b"\x89PNG")


def test_one_scale_for_all_that_ends_at_one():
    x = torch.zeros(2, 3, 8, 8)
    masks = torch.stack([torch.full((1, 8, 8), 0.5), torch.zeros(1, 8, 8)])
    masks[1, :, :4] = 0.5
    masks[1, :, 4:] = 1.0
    figure = align_figure(x, masks, masks)
    plain, half, mixed, half_mask, mixed_mask = (shown(figure)[i] for i in (0, 2, 3, 4, 5))
    np.testing.assert_array_equal(half, half_mask)
    np.testing.assert_array_equal(mixed, mixed_mask)
    np.testing.assert_allclose(half[0, 0], mixed[0, 0])  # whatever else the map holds
    assert not np.allclose(mixed[0, 0], mixed[7, 0])
    assert [axes.get_xlabel() for axes in figure.axes[2:]] == ["50 %", "75 %"] * 2
    nothing = shown(align_figure(x[:1], None, torch.zeros(1, 1, 8, 8)))[1]
    np.testing.assert_allclose(nothing, grey(plain))


def test_pictures_are_led_back_or_shown_from_darkest_to_brightest():
    pixels = torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    x = (pixels - 0.25) / 0.5
    led_back = shown(align_figure(x, normalization=((0.25,) * 3, (0.5,) * 3)))[0]
    np.testing.assert_allclose(led_back, pixels[0].permute(1, 2, 0).numpy(), atol=1e-6)
    stretched = shown(align_figure(x))[0]
    assert (stretched.min(), stretched.max()) == (0, 1)
    assert np.isfinite(shown(align_figure(torch.ones(1, 1, 6, 6)))[0]).all()


def test_what_does_not_belong_together():
    x = images(2, 8)
    for given in ({"cams": torch.rand(3, 1, 2, 2)}, {"masks": torch.rand(1, 1, 8, 8)}, {"titles": ["a"]}):
        with pytest.raises(ValueError, match="one of everything for each; 2 images"):
            align_figure(x, **given)
    with pytest.raises(ValueError, match="one or more images"):
        align_figure(x[:0])
