"""ToyShapes: what its pictures must be like, and the benchmark's scores on maps worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.toyshapes import areas, erasing
from benchmarks.toyshapes.fits import SEEDS_APART, TEST_PICTURES, Fitted, Workshop, save
from benchmarks.toyshapes.groups import (
    FIRST_STAGES,
    GROUPS,
    PAPER_GROUPS,
    START,
    TRAINING_PICTURES,
    VALIDATION_PICTURES,
    shown_masks,
)
from benchmarks.toyshapes.recipe import Contrast, looking_at, sharp_pinet, with_held_scale
from benchmarks.toyshapes.scores import (
    honest_score,
    intersection_over_union,
    per_image,
    score_at_thresholds,
    scores,
    width_above,
)
from benchmarks.toyshapes.table import rows
from examples.toyshapes.generator import BLOCK, TEST_SEED, ToyShapes, circle, inside, square, toy_shapes, triangle
from tests.networks import filled
from xai_align.evaluation.detection_rates import DETECTION_THRESHOLDS, detection_score


@pytest.fixture(scope="module")
def shapes():
    return toy_shapes(500, seed=TEST_SEED)


def test_a_triangle_is_in_as_many_pictures_as_its_probability_says(shapes):
    """1 - (15/16)^16 = 0.644; 500 pictures have a standard deviation of 0.02. And one triangle a picture on average."""
    assert float(shapes.labels.mean()) == pytest.approx(1 - (15 / 16) ** 16, abs=0.06)
    assert float(shapes.triangles.double().mean()) == pytest.approx(1, abs=0.12)
    assert torch.equal(shapes.labels > 0, shapes.triangles > 0)


def test_masks_and_greys_are_those_of_the_published_data(shapes):
    """The mask is 1.4 % of a picture with a triangle, the mean pixel 0.49, and 6 % of triangle pixels are black."""
    assert float(shapes.masks[shapes.labels > 0].double().mean()) == pytest.approx(0.014, abs=0.002)
    assert float(shapes.images.double().mean()) == pytest.approx(0.49, abs=0.02)
    assert float((shapes.images[:, 0][shapes.masks] == 0).double().mean()) == pytest.approx(0.06, abs=0.02)
    assert torch.equal(shapes.masks.any(2).any(1), shapes.labels > 0)
    assert float(shapes.images.min()) >= 0
    assert float(shapes.images.max()) <= 1


def test_every_shape_is_visible_and_triangles_may_be_lighter_or_darker(shapes):
    background = shapes.images[:, 0].flatten(1).mode().values[:, None, None]
    contrast = (shapes.images[:, 0] - background)[shapes.masks]
    assert float(contrast.abs().min()) * 255 >= 49.5  # 256 is 0 in eight bits: 50 away from a background of 50
    assert 0.3 < float((contrast > 0).double().mean()) < 0.7


def test_a_seed_gives_the_same_pictures_and_leaves_numpys_state_alone():
    before = np.random.get_state()[1].copy()
    first, second, later = toy_shapes(3, seed=5), toy_shapes(3, seed=5), toy_shapes(2, seed=6)
    assert torch.equal(first.images, second.images)
    assert torch.equal(first.masks, second.masks)
    assert torch.equal(first.images[1:], later.images)  # picture i has seed + i
    assert not torch.equal(first.images[0], first.images[1])
    assert (np.random.get_state()[1] == before).all()


@pytest.mark.parametrize(("count", "seed"), [(0, 1), (-1, 1), (3, -1)])
def test_a_set_that_can_not_be_drawn_is_refused(count, seed):
    with pytest.raises(ValueError, match="at least one picture"):
        toy_shapes(count, seed=seed)


def test_a_triangle_has_its_apex_on_top():
    drawn = triangle(4, slope=1.0)
    widths = drawn.sum(1)
    assert widths[widths > 0].tolist() == [1, 3, 5, 7]
    assert np.flatnonzero(widths)[0] == (BLOCK - 4) // 2
    assert drawn[:, BLOCK // 2].sum() == 4


def test_squares_and_circles_have_their_size():
    assert square(10).sum() == 100
    assert (circle(10)[BLOCK // 2]).sum() == 2 * 5 + 1


def test_the_inside_of_a_hollow_square_is_what_its_thickness_leaves():
    assert inside(square(10), thickness=2).sum() == 6 * 6
    assert not inside(square(4), thickness=2).any()


def one_picture(mask: torch.Tensor, image: torch.Tensor | None = None) -> ToyShapes:
    pictures = torch.ones(len(mask), 1, *mask.shape[1:]) if image is None else image
    labels = mask.any(2).any(1).float()
    return ToyShapes(pictures, labels, mask, labels.long())


def test_the_curve_of_scores_is_the_librarys(shapes):
    maps = torch.rand(8, 80, 80, generator=torch.Generator().manual_seed(0), dtype=torch.float64) ** 6
    maps = maps / maps.max()
    curve = score_at_thresholds(maps, shapes.masks[:8])
    for t, found in list(zip(DETECTION_THRESHOLDS, curve, strict=True))[::11]:
        assert found == pytest.approx(detection_score(maps, shapes.masks[:8], scale=1.0, threshold=t), abs=1e-12)


def test_scores_of_maps_worked_by_hand():
    """Two pictures of 2 x 2, the first with an object of two pixels; the maximum of all maps is 0.8.

    pi~ = [1, .5 | .25, 0] and [0, 0 | 0, 1]. Naive: TDR = (1 + .5) / 2, TAR = mean((.75 + 1) / 2, 3 / 4).
    Best threshold: .25 <= t < .5: TDR 1, TAR = mean(1, 3/4).
    """
    mask = torch.tensor([[[True, True], [False, False]], [[False, False], [False, False]]])
    maps = torch.tensor([[[0.8, 0.4], [0.2, 0.0]], [[0.0, 0.0], [0.0, 0.8]]])

    def look(x):
        """Says yes where the sum is above one half; its maps are these, whatever it is shown."""
        return x.flatten(1).sum(1) - 1.5, maps

    set_of_two = one_picture(mask)
    found = scores(look, set_of_two, set_of_two)
    assert found.naive == pytest.approx(0.75 * (0.875 + 0.75) / 2)
    assert found.optimal == pytest.approx((1 + 0.75) / 2)
    assert found.tdr == pytest.approx(1)
    assert found.tar == pytest.approx(0.875)
    assert 0.25 <= found.threshold < 0.5
    assert found.honest == pytest.approx(found.optimal)
    assert found.iou == pytest.approx(0.5)  # above .5: the first pixel alone
    assert found.maximum == pytest.approx(0.8)
    assert found.accuracy == 0.5  # it says yes to both pictures of ones
    # sums of |pi| / max: 1.75 and 1
    assert found.recursive_image == 1
    assert found.recursive_published == 1


def test_the_honest_threshold_knows_nothing_of_the_test_set():
    """On validation pictures the object is above 0.1 and all else below; test maps are ten times weaker."""
    mask = torch.tensor([[[True, False]]])
    validation, weak = torch.tensor([[[1.0, 0.1]]]), torch.tensor([[[0.08, 0.0]]])
    assert honest_score(weak, one_picture(mask), validation, one_picture(mask)) == 0
    assert honest_score(validation, one_picture(mask), validation, one_picture(mask)) == 1


def test_each_map_is_divided_by_its_own_maximum():
    maps = torch.tensor([[[0.2, 0.1]], [[0.0, 0.0]], [[-4.0, 2.0]]])
    assert per_image(maps).tolist() == [
        [[1.0, 0.5]],
        [[0.0, 0.0]],
        [[1.0, 0.5]],
    ]


def test_the_width_is_in_decades():
    curve = [0.0] * 100
    assert width_above(0.9, curve) == 0
    curve[10:60] = [0.95] * 50
    assert width_above(0.9, curve) == pytest.approx(49 * 4 / 99)


def test_the_overlap_counts_pictures_with_an_object_only():
    mask = torch.tensor([[[True, True, False]], [[False, False, False]]])
    found = torch.tensor([[[True, False, True]], [[True, True, True]]])
    assert intersection_over_union(found, mask) == pytest.approx(1 / 3)


def test_contrast_is_the_distance_from_the_median_colour():
    image = torch.tensor([[[[0.5, 0.5, 0.9], [0.5, 0.5, 0.0]]]])
    z = Contrast(1)(image, [], (2, 3)).z
    torch.testing.assert_close(z[0, 0], torch.tensor([[[0.0, 0.0, 0.4], [0.0, 0.0, 0.5]]]))


def test_what_is_not_drawn_adds_nothing():
    torch.manual_seed(0)
    model = filled(sharp_pinet(START))
    shapes = toy_shapes(4, seed=9)
    background = shapes.images[:, 0].flatten(1).mode().values[:, None, None]
    empty = shapes.images[:, 0] == background
    maps = model.explain(shapes.images).maps[:, 0]
    assert maps[empty].abs().max().item() == 0
    assert maps[~empty].abs().max().item() > 0


def test_a_scale_that_is_held_leaves_answers_about_as_they_were():
    torch.manual_seed(0)
    model = sharp_pinet(START).eval()
    pictures = toy_shapes(4, seed=9).images
    before = model.explain(pictures)
    after = with_held_scale(model, 1 / 8, positions=6400).explain(pictures)
    assert after.scale.item() == pytest.approx(1 / 8)
    assert not model.head.aggregator.b.requires_grad
    torch.testing.assert_close(after.logits, before.logits, rtol=0, atol=0.02)
    assert after.coefficients.mean().item() == pytest.approx(before.coefficients.mean().item() / 2, rel=0.02)


@pytest.mark.parametrize(("z", "value"), [("ones", 1.0), ("pixels", 0.25), ("contrast", 0.0)])
def test_each_z_is_what_it_says(z, value):
    model = looking_at(sharp_pinet(START).eval(), z)
    assert float(model.explain(torch.full((1, 1, 80, 80), 0.25)).z.unique()) == value


def test_as_many_masks_are_shown_as_were_asked_for():
    shapes = toy_shapes(64, seed=1)
    masks = shown_masks(shapes, 4)
    shown = ~masks.isnan().flatten(1).any(1)
    assert shown.sum() == 4
    assert bool(shapes.labels[shown].all())
    assert torch.equal(masks[shown][:, 0].bool(), shapes.masks[shown])


@pytest.mark.parametrize("name", [*PAPER_GROUPS, *FIRST_STAGES])
def test_every_group_adds_up(name):
    torch.manual_seed(0)
    model: nn.Module = GROUPS[name].build().eval()
    seen = model.explain(toy_shapes(2, seed=9).images)
    total = seen.bias + seen.contributions.double().sum((2, 3, 4))
    torch.testing.assert_close(seen.logits.double(), total, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["default", "naive", "cnn", "sharp", "sharp-no-shortcuts", "sharp-free-scale"])
def test_a_network_that_was_kept_is_not_fitted_again(name, tmp_path):
    shop = Workshop(tmp_path, number=0, precision="no")
    torch.manual_seed(1)
    trained = filled(shop.untrained(name))
    save(tmp_path / name / "0-0.safetensors", Fitted(trained, accuracy=0.99, epochs=7, seconds=1.5))
    again = shop.fitted(name)
    pictures = toy_shapes(2, seed=9).images
    torch.testing.assert_close(again.model.explain(pictures).logits, trained.explain(pictures).logits)
    assert (again.accuracy, again.epochs, again.seconds) == (0.99, 7, 1.5)


def test_pictures_of_fits_and_of_the_test_are_all_different():
    starts = [SEEDS_APART * (number + 1) for number in range(30)]
    assert SEEDS_APART >= TRAINING_PICTURES + VALIDATION_PICTURES
    assert all(start + SEEDS_APART <= TEST_SEED or start >= TEST_SEED + TEST_PICTURES for start in starts)


def test_areas_and_where_they_are_worked_by_hand():
    """Object of two of four pixels; a map [1, .4 | .2, 0] sums to 1.6. The second picture has none, its map .1 each."""
    mask = torch.tensor([[[True, True], [False, False]], [[False, False], [False, False]]])
    maps = torch.tensor([[[1.0, 0.4], [0.2, 0.0]], [[0.1, 0.1], [0.1, 0.1]]])
    found = areas.measured(maps.sum((1, 2)), maps, one_picture(mask))
    assert found["error"] == pytest.approx((0.4 + 0.4) / 2)
    assert found["relative"] == pytest.approx(0.4 / 1)
    assert found["iou"] == pytest.approx(1 / 2)
    assert found["tdr"] == pytest.approx(0.7)
    assert found["tar"] == pytest.approx((0.9 + 0.9) / 2)


def test_areas_as_labels_add_up_to_the_picture():
    shapes = toy_shapes(3, seed=4)
    of_areas, of_masks = areas.Labelled(shapes, "areas"), areas.Labelled(shapes, "masks")
    assert all(float(of_areas[i][1].sum()) == 6400 for i in range(3))
    assert all(float((of_masks[i][1] == 0).sum()) == float(of_areas[i][1][0]) for i in range(3))


def test_a_dark_object_is_lost_on_black_and_not_on_its_background():
    """The network says yes where any pixel is darker than 0.1, and finds exactly that; black is no object to it."""
    image = torch.full((1, 1, 3, 3), 0.6)
    image[0, 0, 1, 1] = 0.05

    def look(x):
        dark = (x < 0.1) & (x.amax((2, 3), keepdim=True) > 0.5)
        return dark.flatten(1).any(1).float() - 0.5, dark[:, 0].float()

    on_black, shown, erased, brightest = erasing.measured(look, one_picture(look(image)[1].bool(), image))
    assert (on_black, shown, erased) == (0, 1, 0)
    assert brightest == pytest.approx(0.05)


def test_fits_that_failed_are_counted_and_not_averaged():
    values = dict.fromkeys(
        ["accuracy", "naive", "optimal", "honest", "tdr", "tar", "iou", "width", "recursive_image"], 0.5
    )
    good = {"fit": {"accuracy": 0.99, "epochs": 3}, "scores": {"pi": {**values, "recursive_published": 0.5}}}
    bad = {"fit": {"accuracy": 0.6, "epochs": 50}, "scores": {"pi": {**values, "recursive_published": 0.0}}}
    line = rows("somebody", [good, bad])[0]
    assert "1 of 2" in line
    assert "0.000" not in line
