"""Resizing keeps the sum, for any sizes; grids have the image's proportions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from xai_align import FeatureSpace
from xai_align.spatial import contribution_map, proportional_grid, resize_keeping_sum

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
    with pytest.raises(ValueError, match="no place in an image"):
        contribution_map(torch.randn(2, 8), FeatureSpace(layer="fc"), (8, 8))
