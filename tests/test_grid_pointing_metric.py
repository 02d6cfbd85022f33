"""The grid pointing game by name: grids around each image, the same in every batch, also in a comparison."""

from __future__ import annotations

import csv
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from xai_align import LoadedModel, compare, plugins
from xai_align.evaluation import MetricDoesNotApply, cell_share
from xai_align.question import Question, TargetError

CLASSES = 10
#: The picture of class k is 1 in channel k.
COLOURS = torch.eye(CLASSES)[:, :, None, None].expand(CLASSES, CLASSES, 6, 9).contiguous()
evaluate = {n: plugins.metric(name).evaluate for n, name in ((2, "grid_pointing_game"), (3, "grid_pointing_game_3x3"))}


def channels(x):
    return 10 * x.mean((2, 3))


def own_channel(grids, target):
    return torch.stack([grid[question.targets[0][0]] for grid, question in zip(grids, target, strict=True)])


def seen(n, inputs, target=None, pool=COLOURS):
    """The grids and questions of a call."""
    kept = []

    def explain(grids, target):
        kept.append((grids, target))
        return torch.ones(len(grids), 6, 9)

    values = evaluate[n](channels, inputs, inputs, target=target, explain=explain, other_images=pool)
    (grids, questions), *more = kept
    assert not more
    return values, grids, questions


@pytest.mark.parametrize("n", [2, 3])
def test_each_image_lies_in_a_grid_of_different_classes_and_is_asked_about_alone(n):
    values, grids, questions = seen(n, COLOURS[:4], target=[0, 1, 2, 3])
    assert grids.shape == (4, CLASSES, 6, 9)
    assert questions == [Question.why(k) for k in range(4)]
    for row, grid in enumerate(grids):
        light = grid.flatten(1).sum(1)  # a colour in one cell each
        shown = light.nonzero().flatten().tolist()
        assert len(shown) == n * n
        assert row in shown
        assert float(values[row]) == pytest.approx(float(light[row]) / 54)  # a constant map: the cell's share
    assert seen(n, COLOURS[:4])[2] == questions  # None: the predicted classes
    perfect = evaluate[n](channels, COLOURS, COLOURS, explain=own_channel, other_images=COLOURS)
    assert perfect.tolist() == pytest.approx([1] * CLASSES)


def test_an_images_value_does_not_depend_on_its_batch_mates_and_is_repeated():
    x = COLOURS + 0.1 * torch.rand(COLOURS.shape, generator=torch.Generator().manual_seed(0))

    def explain(grids, target):
        return (13 * grids.sum(1)).sin()

    whole = evaluate[2](channels, x, x, explain=explain, other_images=x)
    assert len({round(value, 6) for value in whole.tolist()}) == CLASSES
    for i in range(CLASSES):
        alone = evaluate[2](channels, x[i : i + 1], x[i : i + 1], explain=explain, other_images=x)
        torch.testing.assert_close(alone, whole[i : i + 1])
    torch.testing.assert_close(evaluate[2](channels, x.flip(0), x, explain=explain, other_images=x).flip(0), whole)


def test_cells_vary_and_the_score_is_of_the_images_own_cell():
    x = COLOURS + 0.1 * torch.rand(COLOURS.shape, generator=torch.Generator().manual_seed(0))
    cells = []
    for row, grid in enumerate(seen(2, x)[1]):
        (cell,) = (c for c in range(4) if float(cell_share(grid[row][None] ** 4, torch.tensor([c]))) > 0.9)
        cells.append(cell)
    assert len(set(cells)) > 1


def test_images_that_are_not_predicted_as_asked_or_are_doubtful_have_no_value_and_are_in_no_grid():
    pool = COLOURS.clone()
    pool[9] *= 0.1  # e^1 / (e^1 + 9): predicted, but doubtful
    values, grids, questions = seen(2, torch.cat([COLOURS[:2], pool[9:]]), target=[0, 5, 9], pool=pool)
    assert values.isnan().tolist() == [False, True, True]
    assert questions == [Question.why(0)]
    assert not grids[:, 9].any()


def test_classes_may_be_counted_from_the_end():
    values, grids, questions = seen(2, COLOURS[-2:], target=[-2, -1])
    assert questions == [Question.why(8), Question.why(9)]
    counted = seen(2, COLOURS[-2:], target=[8, 9])
    assert torch.equal(values, counted[0])
    assert torch.equal(grids, counted[1])


def test_a_pool_of_exactly_the_other_classes_is_enough_for_those_beyond_it():
    values, grids, _ = seen(2, COLOURS[:4], pool=COLOURS[1:4])
    assert values.isnan().tolist() == [False, True, True, True]
    assert set(grids[0].flatten(1).sum(1).nonzero().flatten().tolist()) == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("n", "change", "error", "said"),
    [
        (2, {"other_images": COLOURS[:2]}, MetricDoesNotApply, "needs 3 classes beside .* the 2 other images have 2"),
        (3, {"other_images": COLOURS[:7]}, MetricDoesNotApply, "needs 8 classes beside the image's own; the 7"),
        (2, {"target": Question.why_not(0, 1)}, MetricDoesNotApply, "questions about one class"),
        (2, {"target": Question.why_group([0, 1])}, MetricDoesNotApply, "questions about one class"),
        (2, {"target": 10}, TargetError, "class 10 is out of range; this output has 10"),
        (2, {"other_images": COLOURS[..., :6]}, ValueError, r"the pool has images \[10, 6, 6\], the inputs are"),
        (2, {"explain": lambda grids, target: grids[..., :3]}, ValueError, "in the size of the grids"),
        (2, {"explain": lambda grids, target: grids * math.nan}, ValueError, "attributions must be finite"),
    ],
)
def test_where_it_does_not_apply_and_bad_input(n, change, error, said):
    given = {"explain": own_channel, "other_images": COLOURS, **change}
    with pytest.raises(error, match=said):
        evaluate[n](channels, COLOURS, COLOURS, **given)


# --- in a comparison --------------------------------------------------------------------------------


class Corners(nn.Module):
    """Classes are the eight corners of the colour cube."""

    def __init__(self):
        super().__init__()
        self.look = nn.Conv2d(3, 8, 1)
        signs = torch.tensor([[(k >> bit & 1) * 2.0 - 1 for bit in range(3)] for k in range(8)])
        with torch.no_grad():
            self.look.weight.copy_(12 * signs[:, :, None, None])
            self.look.bias.copy_(-6 * signs.sum(1))

    def forward(self, x):
        return self.look(x).mean((2, 3))


def preprocess(picture):
    return torch.from_numpy(np.asarray(picture, np.float32) / 255).permute(2, 0, 1)


@pytest.fixture
def folder(tmp_path):
    for k in range(8):
        picture = Image.new("RGB", (8, 8), tuple(255 * (k >> bit & 1) for bit in range(3)))
        picture.putpixel((k, 0), (120, 130, 140))
        picture.save(tmp_path / f"{k}.png")
    return tmp_path


def test_compare_fills_the_grids_with_its_images_whatever_the_batches(folder, tmp_path):
    model = LoadedModel(model=Corners().eval(), preprocess=preprocess)
    tables = []
    for size in (1, 3, 8):
        out = tmp_path / f"out{size}"
        found = compare(
            model,
            folder,
            methods=["input_x_gradient", "centre_gaussian"],
            metrics=list(map("grid_pointing_game{}".format, ("", "_3x3"))),
            out=out,
            batch_size=size,
            pictures=0,
            table_format="csv",
            device="cpu",
        )
        with (out / "values.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        tables.append({(r["image"], r["method"], r["metric"]): float(r["value"]) for r in rows})
        assert not found.problems
    first, *others = tables
    for other in others:
        assert other == pytest.approx(first, nan_ok=True)
    for (_, method, metric), value in first.items():
        if metric == "grid_pointing_game_3x3":
            assert math.isnan(value)  # eight classes are too few
        elif method == "centre_gaussian":
            assert value == pytest.approx(1 / 4)  # the same in every quarter
    assert any("needs 8 classes beside" in note for note in found.notes)
