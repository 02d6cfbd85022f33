"""Pointing at the object: figures worked by hand, and properties of every measure."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xai_align.evaluation.boxes import boxes_to_masks, pixel_boxes_to_masks
from xai_align.evaluation.detection_rates import (
    DETECTION_THRESHOLDS,
    best_detection_threshold,
    detection_scale,
    detection_score,
    true_abstraction_rate,
    true_detection_rate,
)
from xai_align.evaluation.intersection_over_union import best_threshold, iou_at_best_threshold, iou_at_threshold
from xai_align.evaluation.localisation import (
    area_share,
    centre_gaussian_mass,
    energy_inside,
    pointing_game,
    positive_mass,
)

MEASURES = {
    "pointing_game": lambda a, m: pointing_game(a, m, tolerance=2),
    "positive_mass": positive_mass,
    "iou_at_threshold": lambda a, m: iou_at_threshold(a, m, threshold=0.3),
    "iou_at_best_threshold": iou_at_best_threshold,
    "true_detection_rate": lambda a, m: true_detection_rate(a, m, scale=10),
    "true_abstraction_rate": lambda a, m: true_abstraction_rate(a, m, scale=10, threshold=0.1),
}


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def some_masks(count=4, size=12):
    return numbers(count, size, size, seed=5) > 0.8


@pytest.fixture
def by_hand():
    """One image of 2 x 3: the object is the left column."""
    attributions = torch.tensor([[[4.0, 2, -1], [1, 3, 0]]])
    mask = torch.tensor([[[True, False, False], [True, False, False]]])
    return attributions, mask


def test_positive_mass_by_hand(by_hand):
    assert float(positive_mass(*by_hand)) == float(energy_inside(*by_hand)) == 5 / 10
    # centre at a sixth of the width, a third wide: the left of three columns; and with it the middle of the first row
    left, middle = [1 / 6, 0.5, 1 / 3, 1], [0.5, 0.25, 1 / 3, 0.5]
    assert float(positive_mass(by_hand[0], boxes=[[left]])) == 5 / 10
    assert float(positive_mass(by_hand[0], boxes=[[left, middle]])) == 7 / 10
    assert math.isnan(positive_mass(by_hand[0], boxes=[[]]))


def test_the_controls_of_positive_mass_are_that_of_a_constant_map_and_of_a_bump_in_the_middle(by_hand):
    assert area_share(by_hand[1]).tolist() == [pytest.approx(2 / 6)]
    # 2 rows, 3 columns, sigma half a pixel: exp(-2 d^2) with d^2 = 1 + 1/4 on the sides, 1/4 in the middle
    side, middle = math.exp(-2.5), math.exp(-0.5)
    assert centre_gaussian_mass(by_hand[1]).tolist() == [pytest.approx(2 * side / (4 * side + 2 * middle))]
    assert centre_gaussian_mass(by_hand[1], sigma=1e3).tolist() == [pytest.approx(2 / 6)]
    masks = some_masks()
    masks[1] = False
    for control in (area_share, centre_gaussian_mass):
        assert control(masks).isnan().tolist() == [False, True, False, False]
    constant = torch.full((4, 12, 12), 0.3)
    torch.testing.assert_close(area_share(masks), positive_mass(constant, masks), equal_nan=True)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "ours"), [("AttributionLocalisation", positive_mass), ("PointingGame", None)])
def test_quantus_finds_the_same(name, ours):
    quantus = pytest.importorskip("quantus")
    maps, masks = numbers(4, 12, 12).double(), some_masks()
    options = {"positive_attributions": True} if ours else {}
    metric = getattr(quantus, name)(
        abs=False, normalise=False, disable_warnings=True, display_progressbar=False, **options
    )
    found = metric(
        model=torch.nn.Identity(),
        x_batch=np.zeros((4, 1, 12, 12), np.float32),
        y_batch=np.zeros(4, int),
        a_batch=maps[:, None].numpy(),
        s_batch=masks[:, None].numpy(),
    )
    expected = ours(maps, masks) if ours else pointing_game(maps, masks, tolerance=0)
    assert len({float(value) for value in expected}) > 1
    np.testing.assert_allclose(np.asarray(found, float), expected.numpy(), rtol=1e-6)


def test_iou_by_hand(by_hand):
    # above 0.6 of the maximum: 4 and 3; the object is 4 and 1
    assert float(iou_at_threshold(*by_hand, threshold=0.6)) == pytest.approx(1 / 3)
    assert float(iou_at_threshold(*by_hand, threshold=0.75)) == 1 / 2  # 3 / 4 is not above
    # cuts: {4} 1/2, {4,3} 1/3, {4,3,2} 1/4, {4,3,2,1} 2/4; never the ones at 0 and below
    assert float(iou_at_best_threshold(*by_hand)) == 1 / 2
    assert best_threshold(*by_hand, thresholds=[0.2, 0.6, 0.8]) == 0.2


def test_detection_by_hand(by_hand):
    # pi~ = pi / 8: object .5 and .125; the rest .25, 0, .375, 0
    assert float(true_detection_rate(*by_hand, scale=8)) == pytest.approx((0.5 + 0.125) / 2)
    assert float(true_abstraction_rate(*by_hand, scale=8)) == pytest.approx((0.75 + 1 + 0.625 + 1) / 4)
    assert float(true_detection_rate(*by_hand, scale=8, threshold=0.3)) == 1 / 2
    assert float(true_abstraction_rate(*by_hand, scale=8, threshold=0.3)) == 3 / 4
    assert detection_score(*by_hand, scale=8, threshold=0.3) == pytest.approx(3 / 8)
    assert detection_scale(by_hand[0]) == 4


def test_the_score_is_the_product_of_the_means_and_tdr_counts_images_with_the_object_only(by_hand):
    attributions, mask = by_hand
    maps, masks = torch.cat([attributions, attributions]), torch.cat([mask, torch.zeros_like(mask)])
    tdr = true_detection_rate(maps, masks, scale=4, threshold=0.6)
    tar = true_abstraction_rate(maps, masks, scale=4, threshold=0.6)
    assert tdr.tolist()[0] == 1 / 2
    assert math.isnan(tdr[1])
    assert tar.tolist() == [3 / 4, pytest.approx(4 / 6)]
    assert detection_score(maps, masks, scale=4, threshold=0.6) == pytest.approx(0.5 * (3 / 4 + 4 / 6) / 2)


def test_a_perfect_map_detects_all_and_leaves_out_all():
    masks = some_masks()
    maps = masks.float() * 7
    assert detection_score(maps, masks, scale=detection_scale(maps)) == 1
    assert bool((iou_at_best_threshold(maps, masks) == 1).all())
    assert bool((energy_inside(maps, masks) == 1).all())
    assert bool((pointing_game(maps, masks, tolerance=0) == 1).all())


def test_the_best_detection_threshold_is_the_best_of_all_tried():
    maps, masks = numbers(4, 12, 12) + 2 * some_masks(), some_masks()
    scale = detection_scale(maps)
    best = best_detection_threshold(maps, masks, scale=scale)
    scores = [detection_score(maps, masks, scale=scale, threshold=t) for t in DETECTION_THRESHOLDS]
    assert detection_score(maps, masks, scale=scale, threshold=best) == max(scores) > min(scores)
    assert DETECTION_THRESHOLDS[0] == pytest.approx(1e-4)
    assert DETECTION_THRESHOLDS[-1] == pytest.approx(1)
    assert len(DETECTION_THRESHOLDS) == 100


def point_at(row, column, size=40):
    attributions = torch.zeros(1, size, size)
    attributions[0, row, column] = 1
    return attributions


def test_pointing_within_the_tolerance_is_euclidean_and_includes_its_edge():
    mask = torch.zeros(1, 40, 40, dtype=torch.bool)
    mask[0, 20, 20] = True
    for row, column, hit in [(20, 35, 1), (20, 36, 0), (29, 32, 1), (30, 32, 0), (32, 11, 1), (5, 20, 1), (4, 20, 0)]:
        assert pointing_game(point_at(row, column), mask).tolist() == [hit], (row, column)
    assert pointing_game(point_at(20, 21), mask, tolerance=0).tolist() == [0]
    assert pointing_game(point_at(20, 20), mask, tolerance=0).tolist() == [1]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1000), st.integers(0, 20))
def test_pointing_is_what_distances_to_every_pixel_of_the_object_say(seed, tolerance):
    maps = numbers(1, 9, 13, seed=seed)
    masks = numbers(1, 9, 13, seed=seed + 5000) > 1.8
    index = int(maps.argmax())
    row, column = divmod(index, 13)
    distances = [((y - row) ** 2 + (x - column) ** 2) ** 0.5 for _, y, x in masks.nonzero().tolist()]
    value = float(pointing_game(maps, masks, tolerance=tolerance))
    assert math.isnan(value) if not distances else value == float(min(distances) <= tolerance)


def test_of_a_plateau_the_share_that_hits_counts():
    mask = torch.zeros(1, 10, 10, dtype=torch.bool)
    mask[0, :, :3] = True
    assert float(pointing_game(torch.zeros(1, 10, 10), mask, tolerance=0)) == pytest.approx(0.3)
    assert float(pointing_game(torch.zeros(1, 10, 10), mask, tolerance=1)) == pytest.approx(0.4)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.booleans())
def test_the_best_cut_is_the_best_of_all_thresholds_at_the_maps_own_values(seed, coarse):
    maps = numbers(1, 6, 6, seed=seed)
    maps = maps.round() if coarse else maps
    masks = numbers(1, 6, 6, seed=seed + 1) > 0.5
    if not masks.any() or maps.max() <= 0:
        return
    cuts = {0.0} | {float(value) for value in maps[maps > 0]} - {float(maps.max())}
    ious = []
    for cut in cuts:
        shown = maps > cut
        ious.append(float((shown & masks).sum() / (shown | masks).sum()))
    assert float(iou_at_best_threshold(maps, masks)) == pytest.approx(max(ious))


def test_the_best_threshold_is_best_on_average_and_no_image_beats_its_own_best():
    masks = some_masks()
    maps = numbers(4, 12, 12) + 2 * masks
    t = best_threshold(maps, masks)
    at_best = iou_at_threshold(maps, masks, threshold=t)
    assert all(at_best.mean() >= iou_at_threshold(maps, masks, threshold=u / 100).mean() for u in range(100))
    assert bool((at_best <= iou_at_best_threshold(maps, masks) + 1e-12).all())


@pytest.mark.parametrize("name", MEASURES)
def test_an_image_has_the_same_value_alone_and_channels_are_summed(name):
    measure, maps, masks = MEASURES[name], numbers(4, 3, 12, 12), some_masks()
    together = measure(maps, masks)
    assert together.shape == (4,)
    for i in range(4):
        torch.testing.assert_close(measure(maps[i : i + 1], masks[i : i + 1]), together[i : i + 1])
    torch.testing.assert_close(measure(maps.double().sum(1), masks), together)
    torch.testing.assert_close(measure(maps.double().sum(1, keepdim=True), masks), together)


@pytest.mark.parametrize("name", MEASURES)
def test_what_is_given_stays_as_it_is(name):
    maps, masks = numbers(4, 12, 12).requires_grad_(), some_masks()
    before = maps.detach().clone(), masks.clone()
    assert not MEASURES[name](maps, masks).requires_grad
    assert torch.equal(maps, before[0])
    assert torch.equal(masks, before[1])


@pytest.mark.parametrize("name", ["pointing_game", "positive_mass", "iou_at_threshold", "iou_at_best_threshold"])
def test_without_an_object_there_is_no_value(name):
    masks = some_masks()
    masks[1] = False
    assert MEASURES[name](numbers(4, 12, 12), masks).isnan().tolist() == [False, True, False, False]


@pytest.mark.parametrize("name", ["positive_mass", "iou_at_threshold", "iou_at_best_threshold"])
def test_a_map_without_positive_values_has_no_value(name):
    maps = numbers(4, 12, 12)
    maps[2] = -maps[2].abs()
    maps[3] = 0
    assert MEASURES[name](maps, some_masks()).isnan().tolist() == [False, False, True, True]


def test_where_the_object_fills_the_image_nothing_can_be_left_out():
    masks = torch.ones(1, 4, 4, dtype=torch.bool)
    assert math.isnan(true_abstraction_rate(torch.zeros(1, 4, 4), masks, scale=1))


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize(
    ("maps", "masks", "error", "said"),
    [
        (torch.zeros(1, 4, 4), torch.ones(1, 4, 4), TypeError, "masks are of torch.float32; give booleans"),
        (torch.zeros(1, 4, 4), torch.ones(1, 5, 4, dtype=torch.bool), ValueError, r"masks have shape \[1, 5, 4\]"),
        (torch.zeros(4, 4), torch.ones(4, 4, dtype=torch.bool), ValueError, r"give \[N, H, W\] or"),
        (torch.full((1, 4, 4), math.nan), torch.ones(1, 4, 4, dtype=torch.bool), ValueError, "NaN or infinity"),
    ],
)
def test_bad_input_is_said(name, maps, masks, error, said):
    with pytest.raises(error, match=said):
        MEASURES[name](maps, masks)


def test_bad_options_are_said(by_hand):
    for options in ({}, {"masks": by_hand[1], "boxes": [[[0.5, 0.5, 1, 1]]]}):
        with pytest.raises(ValueError, match="give either masks or boxes"):
            positive_mass(by_hand[0], **options)
    with pytest.raises(ValueError, match="boxes for 2 images were given, and 1 map"):
        positive_mass(by_hand[0], boxes=[[], []])
    with pytest.raises(ValueError, match="has no area"):
        positive_mass(by_hand[0], boxes=[[[0.5, 0.5, 0, 1]]])
    for control in (area_share, centre_gaussian_mass):
        with pytest.raises(ValueError, match=r"masks have shape \[2, 3\]; give \[N, H, W\]"):
            control(by_hand[1][0])
        with pytest.raises(TypeError, match=r"masks are of torch\.float32; give booleans"):
            control(by_hand[0])
    with pytest.raises(ValueError, match="sigma must be a positive number, got 0"):
        centre_gaussian_mass(by_hand[1], sigma=0)
    with pytest.raises(ValueError, match="tolerance must be a non-negative number, got -1"):
        pointing_game(*by_hand, tolerance=-1)
    with pytest.raises(ValueError, match=r"threshold must be a number in \[0, 1\), got 1"):
        iou_at_threshold(*by_hand, threshold=1)
    with pytest.raises(ValueError, match="a map reaches 4, above scale 2; give the maximum of all maps"):
        true_detection_rate(*by_hand, scale=2)
    with pytest.raises(ValueError, match="scale must be a positive number, got 0"):
        true_abstraction_rate(*by_hand, scale=0)
    with pytest.raises(ValueError, match="no map has a positive value"):
        detection_scale(torch.zeros(2, 3, 3))
    empty = torch.zeros(1, 2, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match="there is no best threshold"):
        best_threshold(by_hand[0], empty)
    with pytest.raises(ValueError, match="detection score needs an image with the object"):
        best_detection_threshold(by_hand[0], empty, scale=4)


def test_boxes_by_hand():
    # centre (.5, .25) of an image of 4 rows and 8 columns, 4 columns wide, 2 rows high
    masks = boxes_to_masks([[[0.5, 0.25, 0.5, 0.5]], [], [[0.25, 0.5, 0.5, 1], [0.9, 0.9, 0.1, 0.1]]], (4, 8))
    expected = torch.zeros(3, 4, 8, dtype=torch.bool)
    expected[0, :2, 2:6] = True
    expected[2, :, :4] = True
    expected[2, 3, 7] = True  # thinner than a pixel: the one it lies in
    assert torch.equal(masks, expected)
    corners = [[[2, 0, 6, 2]], torch.zeros(0, 4), torch.tensor([[0, 0, 4, 4], [6.8, 3.4, 7.6, 3.8]])]
    assert torch.equal(pixel_boxes_to_masks(corners, (4, 8)), expected)


@settings(max_examples=50, deadline=None)
@given(st.floats(0.1, 0.9), st.floats(0.1, 0.9), st.floats(0.05, 0.2), st.floats(0.05, 0.2))
def test_a_box_covers_its_share_of_the_image(x, y, w, h):
    mask = boxes_to_masks([[[x, y, w, h]]], (200, 300))[0]
    assert abs(float(mask.any(0).sum()) - min(w, x + w / 2, 1 - x + w / 2) * 300) <= 1 + 1e-9
    assert abs(float(mask.any(1).sum()) - min(h, y + h / 2, 1 - y + h / 2) * 200) <= 1 + 1e-9


@pytest.mark.parametrize(
    ("make", "box", "said"),
    [
        (boxes_to_masks, [30, 40, 10, 10], "centre outside the image"),
        (boxes_to_masks, [0.5, 0.5, 0, 0.1], "has no area"),
        (boxes_to_masks, [0.5, 0.5, 0.1], r"have shape \[1, 3\]; give \[n, 4\]"),
        (boxes_to_masks, [0.5, math.nan, 0.1, 0.1], "finite"),
        (pixel_boxes_to_masks, [5, 1, 2, 3], "has no area"),
        (pixel_boxes_to_masks, [9, 1, 12, 3], "lies outside an image of 4 x 8"),
    ],
)
def test_boxes_that_make_no_sense_are_said(make, box, said):
    with pytest.raises(ValueError, match=said):
        make([[box]], (4, 8))
