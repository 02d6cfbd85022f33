"""Grid pointing game: shares worked by hand, the choice of the pictures, and what may not be given."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.networks import conv_net, untouched
from xai_align.evaluation import PictureGrids, cell_share, draw_grids, grid_pointing_game, tile_pictures

#: A picture of class k is 1 in channel k; the network's logits are ten times the mean of each channel.
CLASSES = 10


def pictures(labels, size=(4, 6), strength=1.0) -> Tensor:
    x = torch.zeros(len(labels), CLASSES, *size)
    x[range(len(labels)), labels] = torch.as_tensor(strength, dtype=torch.float32).reshape(-1, 1, 1)
    return x


def channels(x: Tensor) -> Tensor:
    return 10 * x.mean((2, 3))


def own_channel(model, images, target):
    """The perfect map: light in the channel of the class."""
    return images[range(len(target)), target]


def test_a_share_by_hand():
    # rows 0, 1 | 2 and columns 0, 1 | 2: a map of 3 x 3 has cells of 4, 2, 2 and 1 pixels
    maps = torch.tensor([[[1.0, 2, 3], [-9, 4, 5], [6, -7, 8]]])
    total = 1 + 2 + 3 + 4 + 5 + 6 + 8
    shares = [float(cell_share(maps, torch.tensor([cell]))) for cell in range(4)]
    assert shares == pytest.approx([7 / total, 8 / total, 6 / total, 8 / total])
    assert cell_share(-maps.abs(), torch.tensor([0])).tolist() == [0]
    assert float(cell_share(maps[:, None] / torch.ones(1, 3, 1, 1), torch.tensor([1]))) == pytest.approx(8 / total)


def test_cells_lie_row_by_row_and_keep_their_size():
    x = torch.arange(4.0).reshape(1, 4, 1, 1, 1).expand(1, 4, 2, 2, 3)
    tiled = tile_pictures(x)
    assert tiled.shape == (1, 2, 4, 6)
    assert tiled[0, 1].tolist() == [[0, 0, 0, 1, 1, 1]] * 2 + [[2, 2, 2, 3, 3, 3]] * 2


@pytest.mark.parametrize(("size", "n"), [((5, 7), 2), ((8, 10), 3), ((7, 4), 4), ((6, 9), 3)])
def test_scaled_cells_are_exactly_those_that_are_scored(size, n):
    values = torch.arange(1.0, n * n + 1)
    x = values.reshape(1, -1, 1, 1, 1).expand(1, n * n, 1, *size)
    tiled = tile_pictures(x, scaled=True)
    assert tiled.shape == (1, 1, *size)
    for cell in range(n * n):
        own = (tiled - values[cell]).abs() < 1e-5  # a picture of one colour keeps it
        assert own.any()
        assert cell_share(own[0].float(), torch.tensor([cell]), n=n).tolist() == [1]


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("n", [2, 3])
def test_a_perfect_map_scores_one_and_a_constant_one_is_chance(n, scaled):
    labels = torch.arange(CLASSES).repeat(2)
    x = pictures(labels, size=(6, 12))
    asked = {"n": n, "scaled": scaled}
    perfect = grid_pointing_game(channels, x, labels, own_channel, **asked)
    assert perfect.tolist() == pytest.approx([1] * len(perfect))
    assert len(perfect) >= 2
    constant = grid_pointing_game(channels, x, labels, lambda model, images, target: images * 0 + 1, **asked)
    assert constant.tolist() == pytest.approx([1 / n**2] * len(constant))


def test_the_mean_over_the_classes_of_a_grid_by_hand():
    labels = torch.tensor([3, 5, 7, 9])
    grids = PictureGrids(members=torch.tensor([[0, 1, 2, 3]]), labels=labels[None])

    def half_right(model, images, target):
        """All in the own cell for classes 3 and 5, three quarters outside for 7, nothing for 9."""
        maps = own_channel(model, images, target).clone()
        for row, label in enumerate(target):
            if label == 7:
                maps[row] = 1
            if label == 9:
                maps[row] = -1
        return maps

    found = grid_pointing_game(channels, pictures(labels), labels, half_right, grids=grids)
    assert found.tolist() == [pytest.approx((1 + 1 + 1 / 4 + 0) / 4)]


def test_every_class_of_every_grid_is_asked_about_once_whatever_the_batches():
    labels = torch.arange(CLASSES).repeat(2)
    x = pictures(labels)
    grids = draw_grids(channels, x, labels)
    noise = torch.Generator().manual_seed(0)
    maps = {(g, c): torch.rand(8, 12, generator=noise) for g in range(len(grids)) for c in range(4)}
    asked = []

    def by_number(model, images, target):
        assert images.shape[1:] == (CLASSES, 8, 12)
        rows = []
        for image, label in zip(images, target, strict=True):
            shown = {int(k) for k in image.flatten(1).sum(1).nonzero()}
            (grid,) = (g for g in range(len(grids)) if set(grids.labels[g].tolist()) == shown and label in shown)
            rows.append((grid, grids.labels[grid].tolist().index(label)))
        asked.extend(rows)
        return torch.stack([maps[row] for row in rows])

    whole = grid_pointing_game(channels, x, labels, by_number)
    assert sorted(asked) == sorted(maps)
    for size in (1, 3, 100):
        batched = grid_pointing_game(channels, x, labels, by_number, grids=grids, internal_batch_size=size)
        torch.testing.assert_close(batched, whole)
    share = [float(cell_share(maps[1, c][None], torch.tensor([c]))) for c in range(4)]
    assert float(whole[1]) == pytest.approx(sum(share) / 4)


def test_only_pictures_that_are_right_and_confident_are_drawn_the_most_confident_first():
    labels = torch.tensor([0, 0, 0, 1, 2, 3, 4, 4])
    x = pictures(labels, strength=[0.4, 1.0, 0.5, 1.0, 1.0, 1.0, 1.0, 0.1])
    x[3] = pictures([5])[0]  # class 1 is taken for class 5
    grids = draw_grids(channels, x, labels)
    # class 4's second picture: e^1 / (e^1 + 9) = 0.23; class 1 has none; so only 0, 2, 3, 4 are left, once
    assert len(grids) == 1
    assert sorted(grids.members[0].tolist()) == [1, 4, 5, 6]
    assert torch.equal(labels[grids.members], grids.labels)
    again = draw_grids(channels, x, labels, count=3, reuse=True)
    of_class_0 = [int(row[labels == 0][0]) for labels, row in zip(again.labels, again.members, strict=True)]
    assert of_class_0 == [1, 2, 0]
    lower = draw_grids(channels, x, labels, confidence=0.2)
    assert {int(m) for m in lower.members.flatten()} <= {0, 1, 2, 4, 5, 6, 7}


def test_no_class_twice_in_a_grid_no_picture_twice_at_all_and_seeds():
    labels = torch.arange(CLASSES).repeat(6)
    x = pictures(labels)
    grids = draw_grids(channels, x, labels, n=3)
    members = grids.members.flatten().tolist()
    assert len(set(members)) == len(members)
    assert len(grids) == 6  # of 60 pictures, with 9 of 10 classes in each
    assert all(len(set(row)) == 9 for row in grids.labels.tolist())
    assert torch.equal(grids.members, draw_grids(channels, x, labels, n=3).members)
    assert not torch.equal(grids.members, draw_grids(channels, x, labels, n=3, seed=1).members)
    assert len(draw_grids(channels, x, labels, count=2)) == 2


def test_a_module_stays_as_it_is():
    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(CLASSES, CLASSES)).eval()
    with torch.no_grad():
        net[2].weight.copy_(10 * torch.eye(CLASSES))
        net[2].bias.zero_()
    known = torch.arange(CLASSES)
    with untouched(net):
        found = grid_pointing_game(net, pictures(known), known, own_channel)
    torch.testing.assert_close(found, grid_pointing_game(channels, pictures(known), known, own_channel))


def test_the_model_is_run_on_single_pictures_only():
    sizes = []

    def watched(images):
        sizes.append(tuple(images.shape))
        return channels(images)

    known = torch.arange(4)
    grid_pointing_game(watched, pictures(known), known, own_channel)
    assert sizes == [(4, CLASSES, 4, 6)]


def test_channels_are_summed_before_the_positive_part_is_taken():
    known = torch.arange(4)
    x = pictures(known)

    def signed(model, images, target):
        maps = torch.zeros_like(images)
        maps[:, 0], maps[:, 1] = 2, -2  # nothing together
        maps[range(len(target)), target] += images[range(len(target)), target]
        return maps

    assert grid_pointing_game(channels, x, known, signed).tolist() == [pytest.approx(1)]


FOUR = torch.arange(4)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"images": torch.zeros(4, 3)}, r"images are \[4, 3\]; give one tensor of pictures"),
        ({"images": [pictures([0])[0], pictures([1], size=(3, 3))[0]]}, "images are list; give one tensor"),
        ({"images": pictures(FOUR) * math.inf}, "images must be finite"),
        ({"labels": FOUR.float()}, "labels are torch.float32"),
        ({"labels": [0, 1, 2, 3]}, "labels are list"),
        ({"labels": FOUR[:3]}, r"labels have shape \[3\]"),
        ({"labels": FOUR - 1}, "start at -1"),
        ({"labels": FOUR * 0}, "4 pictures of 1 class were given"),
        ({"images": pictures(FOUR[:3]), "labels": FOUR[:3]}, "needs 4 pictures of different classes; 3 pictures of 3"),
        ({"n": 3}, "a grid of 3 x 3 needs 9 pictures"),
        ({"n": 1}, "n must be an integer of at least 2, got 1"),
        ({"count": 0}, "count must be a positive integer, got 0"),
        ({"labels": FOUR + 7}, "class 10 is not among the network's 10 classes"),
        ({"labels": FOUR.flip(0)}, "of the 4 given, only 0 have a picture that the network classifies correctly"),
        ({"model": conv_net().train()}, "mode"),
        ({"model": lambda x: x.mean((1, 2, 3))}, r"gave \[4\] for 4 pictures; logits"),
        ({"model": nn.Sequential(nn.Flatten(), nn.Linear(240, 1)).eval()}, r"gave \[4, 1\] for 4 pictures"),
        ({"explain": lambda model, images, target: images[:, 0, :4]}, r"in the size of the grids"),
        ({"explain": lambda model, images, target: images[:1, 0]}, r"explain gave \[1, 8, 12\] for grids"),
        ({"explain": lambda model, images, target: None}, "explain gave NoneType"),
        ({"explain": lambda model, images, target: images[:, 0] * math.nan}, "attributions must be finite"),
        ({"internal_batch_size": 0}, "must be a positive integer, got 0"),
        ({"grids": PictureGrids(members=FOUR[None, :3], labels=FOUR[None, :3])}, r"give \[G, n \* n\] for both"),
        ({"grids": PictureGrids(members=FOUR[None], labels=FOUR[None]), "n": 3, "seed": 0}, "either grids or n, seed"),
        ({"grids": PictureGrids(members=FOUR[None] + 1, labels=FOUR[None])}, "name pictures 1 to 4; there are 4"),
        ({"grids": PictureGrids(members=FOUR[None], labels=FOUR[None] // 2)}, "names a class twice"),
    ],
)
def test_bad_input_is_said(change, said):
    given = {"model": channels, "images": pictures(FOUR), "labels": FOUR, "explain": own_channel, **change}
    with pytest.raises(ValueError, match=said):
        grid_pointing_game(given.pop("model"), **given)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: tile_pictures(torch.zeros(1, 5, 3, 4, 4)), "a square number"),
        (lambda: tile_pictures(torch.zeros(4, 3, 4, 4)), "a square number"),
        (lambda: tile_pictures(torch.zeros(1, 9, 3, 2, 4), scaled=True), "2 x 4 pixels have no room for 3 x 3 cells"),
        (lambda: cell_share(torch.zeros(2, 4, 4), torch.tensor([0])), "one whole number for each map"),
        (lambda: cell_share(torch.zeros(1, 4, 4), torch.tensor([4])), "has the cells 0 to 3"),
        (lambda: cell_share(torch.zeros(1, 4, 4), torch.tensor([0.0])), "one whole number for each map"),
        (lambda: cell_share(torch.zeros(1, 1, 4), torch.tensor([0])), "does not fit 1 x 4 pixels"),
        (lambda: draw_grids(channels, pictures(FOUR), FOUR, confidence=1), r"confidence must be a number in \[0, 1\)"),
    ],
)
def test_bad_grids_are_said(call, said):
    with pytest.raises(ValueError, match=said):
        call()


@pytest.mark.filterwarnings("ignore")
def test_a_share_is_quantus_attribution_localisation_with_the_cell_as_mask():
    quantus = pytest.importorskip("quantus")
    maps = torch.randn(4, 9, 9, generator=torch.Generator().manual_seed(1)).double()
    cells = torch.tensor([0, 4, 5, 8])
    masks = np.zeros((4, 1, 9, 9), dtype=bool)
    for row, cell in enumerate(cells.tolist()):
        r, c = divmod(cell, 3)
        masks[row, 0, 3 * r : 3 * r + 3, 3 * c : 3 * c + 3] = True
    metric = quantus.AttributionLocalisation(
        positive_attributions=True, abs=False, normalise=False, disable_warnings=True, display_progressbar=False
    )
    theirs = metric(
        model=conv_net(),
        x_batch=np.zeros((4, 3, 9, 9), np.float32),
        y_batch=np.zeros(4, int),
        a_batch=maps[:, None].numpy(),
        s_batch=masks,
    )
    np.testing.assert_allclose(cell_share(maps, cells, n=3).numpy(), np.asarray(theirs), rtol=1e-6)
