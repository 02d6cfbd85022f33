"""Resizing keeps the sum, for any sizes; grids have the image's proportions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from xai_align import FeatureSpace
from xai_align._tools.sum_keeping import collect_keeping_sum, resize_keeping_sum
from xai_align.features.spatial import contribution_map, layout_of, on_grid, prefix_part, proportional_grid, token_grid

sizes = st.integers(1, 40)


@given(h=sizes, w=sizes, height=sizes, width=sizes, spread=st.sampled_from(["area", "smooth"]))
def test_any_resize_keeps_the_sum(h, w, height, width, spread):
    cells = torch.randn(2, h, w, dtype=torch.float64)
    resized = resize_keeping_sum(cells, (height, width), spread)
    assert resized.shape == (2, height, width)
    assert torch.allclose(resized.sum((1, 2)), cells.sum((1, 2)), atol=1e-10)


def test_area_spreads_a_cell_over_the_pixels_it_covers():
    cells = torch.tensor([[4.0, 8.0]])
    assert resize_keeping_sum(cells, (2, 4)).tolist() == [[1, 1, 2, 2], [1, 1, 2, 2]]
    # three pixels under two cells: the middle pixel has a third of each
    assert torch.allclose(resize_keeping_sum(torch.tensor([[3.0, 6.0]]), (1, 3)), torch.tensor([[2.0, 3.0, 4.0]]))


def test_same_size_is_identity():
    cells = torch.randn(1, 5, 7)
    assert torch.allclose(resize_keeping_sum(cells, (5, 7)), cells)
    assert torch.allclose(resize_keeping_sum(cells, (5, 7), "smooth"), cells)


@given(rows=st.integers(1, 30), columns=st.integers(1, 30), patch=st.sampled_from([4, 14, 16, 32]))
def test_grids_of_whole_patches_are_found(rows, columns, patch):
    assert proportional_grid((rows * patch, columns * patch), rows * columns) == (rows, columns)


def test_a_number_of_tokens_without_a_grid_is_refused():
    with pytest.raises(ValueError, match="7 tokens form no grid"):
        proportional_grid((224, 224), 7)


def test_layouts_put_the_same_numbers_in_the_same_places():
    nchw = torch.randn(2, 3, 4, 6)
    expected = nchw.sum(1)
    size = (8, 12)
    assert torch.allclose(contribution_map(nchw, FeatureSpace(layer="z"), size), expected)
    nhwc = nchw.permute(0, 2, 3, 1)
    assert torch.allclose(contribution_map(nhwc, FeatureSpace(layer="z", layout="NHWC"), size), expected)
    tokens = torch.cat([torch.ones(2, 5, 3), nchw.flatten(2).transpose(1, 2)], 1)
    assert torch.allclose(contribution_map(tokens, FeatureSpace(layer="z", prefix_tokens=5), size), expected)
    ncl = nchw.flatten(2)
    assert torch.allclose(contribution_map(ncl, FeatureSpace(layer="z", layout="NCL"), size), expected)


def test_a_space_without_a_place_is_refused():
    with pytest.raises(ValueError, match="no position in an image"):
        contribution_map(torch.randn(2, 8), FeatureSpace(layer="fc"), (8, 8))


#: ``R[pixel][cell]`` worked by hand.
SPREADING = {
    # edges 0, 2, 4: two pixels for each cell
    ("area", 2, 4): [[1 / 2, 0], [1 / 2, 0], [0, 1 / 2], [0, 1 / 2]],
    # cells end at 5/3, 10/3 and 5: overlaps 1, 2/3 | 1/3, 1, 1/3 | 2/3, 1, over 5/3
    ("area", 3, 5): [[0.6, 0, 0], [0.4, 0.2, 0], [0, 0.6, 0], [0, 0.2, 0.4], [0, 0, 0.6]],
    # cells end at 0.6, 1.2, 1.8, 2.4 and 3: the second has 0.4 of pixel 0 and 0.2 of pixel 1, over 0.6
    ("area", 5, 3): [[1, 2 / 3, 0, 0, 0], [0, 1 / 3, 1, 1 / 3, 0], [0, 0, 0, 2 / 3, 1]],
    ("area", 1, 3): [[1 / 3], [1 / 3], [1 / 3]],
    ("area", 3, 1): [[1, 1, 1]],
    # centres -0.25, 0.25, 0.75, 1.25 held to [0, 1]: hats 1, 0.75, 0.25, 0, whose sum is 2
    ("smooth", 2, 4): [[1 / 2, 0], [3 / 8, 1 / 8], [1 / 8, 3 / 8], [0, 1 / 2]],
    # centres -1/6, 1/2, 7/6 held to [0, 1]
    ("smooth", 2, 3): [[2 / 3, 0], [1 / 3, 1 / 3], [0, 2 / 3]],
    # centres -0.2, 0.4, 1, 1.6, 2.2 held to [0, 2]: hats 1, 0.6 | 0.4, 1, 0.4 | 0.6, 1
    ("smooth", 3, 5): [[5 / 8, 0, 0], [3 / 8, 2 / 9, 0], [0, 5 / 9, 0], [0, 2 / 9, 3 / 8], [0, 0, 5 / 8]],
    # centres 0.5, 2.5
    ("smooth", 4, 2): [[1, 1, 0, 0], [0, 0, 1, 1]],
    # centres 0.75, 3.25: no hat meets cell 2, which is spread by area
    ("smooth", 5, 2): [[1, 1, 1 / 2, 0, 0], [0, 0, 1 / 2, 1, 1]],
    # centres 1/3, 2, 11/3
    ("smooth", 5, 3): [[1, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 1, 1]],
    ("smooth", 1, 3): [[1 / 3], [1 / 3], [1 / 3]],
    ("smooth", 3, 1): [[1, 1, 1]],
}


@pytest.mark.parametrize(("spread", "cells", "pixels"), SPREADING)
def test_spreading_by_hand(spread, cells, pixels):
    expected = torch.tensor(SPREADING[spread, cells, pixels], dtype=torch.float64)
    one = torch.eye(cells, dtype=torch.float64)
    down = resize_keeping_sum(one[..., None], (pixels, 1), spread)[..., 0].T
    across = resize_keeping_sum(one[:, None, :], (1, pixels), spread)[:, 0].T
    for found in (down, across):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    # and the transpose collects: each cell is what it would have given
    pixel = torch.eye(pixels, dtype=torch.float64)
    up = collect_keeping_sum(pixel[..., None], (cells, 1), spread)[..., 0]
    back = collect_keeping_sum(pixel[:, None, :], (1, cells), spread)[:, 0]
    for found in (up, back):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("spread", ["foo", "", None])
def test_an_unknown_spread_is_refused(spread):
    for resize in (resize_keeping_sum, collect_keeping_sum):
        with pytest.raises(ValueError, match="spread must be 'area' or 'smooth', got"):
            resize(torch.ones(2, 2), (4, 4), spread)


def test_area_is_the_default_of_both():
    cells, pixels = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 2.0, 4.0, 8.0]])
    assert resize_keeping_sum(cells, (1, 4)).tolist() == [[0.5, 0.5, 0, 0]]
    assert collect_keeping_sum(pixels, (1, 2)).tolist() == [[1.5, 6.0]]
    assert resize_keeping_sum(cells.double(), (1, 4)).dtype == torch.float64
    assert resize_keeping_sum(cells, (1, 4)).dtype == torch.float32


def test_rows_and_columns_are_not_mixed_up():
    """2 x 3 cells to 4 x 3 pixels: only rows are shared out."""
    cells = torch.arange(6.0).reshape(1, 2, 3)
    expected = (cells / 2).repeat_interleave(2, 1)
    assert torch.equal(resize_keeping_sum(cells, (4, 3)), expected)
    assert torch.equal(collect_keeping_sum(expected, (2, 3)), cells / 2)


def test_cells_of_every_layout_on_a_grid():
    """Cells [N, K, P] in the order of the positions of z."""
    cells = torch.arange(24.0).reshape(2, 2, 6)
    grid = cells.reshape(2, 2, 2, 3)
    for z, layout, prefix in (
        (torch.zeros(2, 5, 2, 3), "auto", 0),
        (torch.zeros(2, 5, 2, 3), "NCHW", 0),
        (torch.zeros(2, 2, 3, 5), "NHWC", 0),
        (torch.zeros(2, 8, 5), "NLC", 2),
        (torch.zeros(2, 5, 6), "NCL", 0),
    ):
        space = FeatureSpace(layer="z", layout=layout, prefix_tokens=prefix)
        # maps have a grid of their own, and no need of the image's proportions
        image = (4, 4) if z.dim() == 4 else (4, 6)
        assert torch.equal(on_grid(cells, z, space, image), grid), layout


def test_a_space_tells_its_own_grid_and_order():
    tokens = torch.tensor([[[10.0, 5.0], [1.0, 0.0], [2.0, 0.0], [3.0, 0.0], [4.0, 0.0], [5.0, 0.0], [6.0, 1.0]]])
    asked = []

    def grid(image_size, count):
        asked.append((image_size, count))
        return 3, 2

    space = FeatureSpace(layer="z", prefix_tokens=1, grid=grid, to_raster=lambda cells: cells.flip(1))
    assert contribution_map(tokens, space, (4, 6)).tolist() == [[[7, 5], [4, 3], [2, 1]]]
    assert asked == [((4, 6), 6)]
    cells = torch.arange(1.0, 7).reshape(1, 1, 6)
    assert on_grid(cells, tokens, space, (4, 6)).tolist() == [[[[6, 5], [4, 3], [2, 1]]]]


def test_the_part_of_prefix_tokens():
    nlc = torch.arange(24.0).reshape(2, 4, 3)
    space = FeatureSpace(layer="z", prefix_tokens=2)
    assert prefix_part(nlc, space).tolist() == [15.0, 87.0]  # 0 + ... + 5, 12 + ... + 17
    ncl = FeatureSpace(layer="z", layout="NCL", prefix_tokens=2)
    assert prefix_part(nlc.transpose(1, 2).contiguous(), ncl).tolist() == [15.0, 87.0]
    assert prefix_part(nlc, FeatureSpace(layer="z")).tolist() == [0.0, 0.0]
    assert prefix_part(torch.ones(2, 3, 4, 4), space).tolist() == [0.0, 0.0]


def test_a_layout_of_another_number_of_axes_is_not_taken():
    assert layout_of(torch.zeros(1, 2, 3), FeatureSpace(layer="z", layout="NHWC")) == "NLC"
    assert layout_of(torch.zeros(1, 2, 3, 4), FeatureSpace(layer="z", layout="NCL")) == "NCHW"
    assert layout_of(torch.zeros(1, 2, 3, 4), FeatureSpace(layer="z", layout="NHWC")) == "NHWC"
    for shape in ((2, 3), (1, 2, 3, 4, 5)):
        with pytest.raises(ValueError, match="no position in an image"):
            layout_of(torch.zeros(shape), FeatureSpace(layer="z"))


@pytest.mark.parametrize(
    ("image", "tokens", "grid"),
    [
        ((224, 224), 49, (7, 7)),
        ((224, 448), 98, (7, 14)),
        ((448, 224), 98, (14, 7)),
        ((96, 128), 48, (6, 8)),
        ((100, 101), 49, (7, 7)),  # no whole cells: the divisors nearest to the image's proportions
        ((100, 120), 30, (5, 6)),
        ((120, 100), 30, (6, 5)),
        ((97, 89), 12, (4, 3)),  # 4/3 over 97/89 is 1.22
        ((89, 97), 12, (3, 4)),
        ((10, 31), 3, (1, 3)),
        ((31, 10), 3, (3, 1)),
    ],
)
def test_grids_by_hand(image, tokens, grid):
    found = proportional_grid(image, tokens)
    assert found == grid
    assert all(isinstance(number, int) for number in found)
    assert token_grid(FeatureSpace(layer="z"), tokens, image) == grid


@pytest.mark.parametrize(
    ("image", "tokens"),
    [((224, 224), 12), ((100, 101), 2), ((224, 224), 8), ((64, 32), 7), ((4, 3), 1), ((100, 133), 1)],
)
def test_grids_out_of_proportion_are_refused(image, tokens):
    """A cell of 4 x 3 pixels is off by 0.75 and one of 100 x 133 by 1.33: both are too far."""
    with pytest.raises(ValueError, match=f"{tokens} tokens form no grid like an image of {image[0]} x {image[1]}"):
        proportional_grid(image, tokens)


def test_no_tokens_form_no_grid():
    with pytest.raises(ValueError, match="a grid has 1 cell or more, and there are 0 tokens"):
        proportional_grid((16, 16), 0)
