"""References of composites: colours worked by hand, what is drawn anew, and what is refused."""

from __future__ import annotations

import pytest
import torch

from xai_align.fei.solid_colours import references, solid_colour

DOUBLE = torch.float64
#: Two images of two channels, whose least and largest values are all different.
X = torch.tensor(
    [[[[0.0, 4.0]], [[-1.0, 1.0]]], [[[10.0, 11.0]], [[5.0, 5.0]]]],
    dtype=DOUBLE,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_a_number_for_each_channel_places_the_colour_in_each_images_own_range():
    """The same two numbers u for both images: 4 u and 2 u - 1, 10 + u and 5."""
    drawn = references(X, seed=3).draw(0)
    assert drawn.shape == (2, 2, 1, 1)
    assert drawn.dtype == DOUBLE
    u, v = drawn[0, 0].item() / 4, (drawn[0, 1].item() + 1) / 2
    assert 0 < u < 1
    assert 0 < v < 1
    assert u != v
    assert drawn[1].flatten().tolist() == pytest.approx([10 + u, 5])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, DOUBLE])
@pytest.mark.parametrize("normalization", [None, (0.0, 1.0)])
def test_colours_have_the_images_precision(dtype, normalization):
    assert references(X.to(dtype), normalization=normalization).draw(0).dtype == dtype


def test_colours_of_the_own_range_are_uniform():
    from_own_range = references(torch.tensor([0.0, 1.0], dtype=DOUBLE).reshape(1, 1, 1, 2))
    drawn = torch.stack([from_own_range.draw(step) for step in range(2000)])
    for edge in (0.1, 0.5, 0.9):
        assert (drawn < edge).double().mean().item() == pytest.approx(edge, abs=0.05)


def test_colours_are_all_that_a_picture_can_show():
    """Of 20000 channels, each level from 0 to 255 comes, before the mean is taken off and the deviation divided by."""
    one = torch.ones(1, 20000, 1, 1, dtype=DOUBLE)
    drawn = solid_colour(0.25 * one, 2 * one, generator())
    assert drawn.shape == one.shape
    levels = (2 * drawn + 0.25) * 255
    assert levels.round().unique().tolist() == list(range(256))
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-9)


def test_normalisations_are_numbers_for_each_channel_or_one_for_all():
    """Undone, all of them give the same levels."""
    shown = [
        references(X, normalization=normalization, seed=5).draw(0) * torch.tensor(std).reshape(1, -1, 1, 1)
        + torch.tensor(mean).reshape(1, -1, 1, 1)
        for normalization, mean, std in [
            ((0.0, 1.0), [0.0], [1.0]),
            ([[0.5, -0.25], [2.0, 4.0]], [0.5, -0.25], [2.0, 4.0]),
            ((torch.tensor([0.5]), torch.tensor([[3.0], [0.5]])), [0.5], [3.0, 0.5]),
        ]
    ]
    assert shown[0].shape == (1, 2, 1, 1)
    for other in shown[1:]:
        torch.testing.assert_close(other, shown[0])


@pytest.mark.parametrize(
    ("normalization", "message"),
    [
        (0.5, r"normalization is 0.5; give \(mean, std\)"),
        ((0.5,), r"give \(mean, std\)"),
        ((0.5, 1.0, 1.0), r"give \(mean, std\)"),
        (((0.1, 0.2, 0.3), 1.0), "mean of the normalization has 3 values for 2 channels"),
        ((0.5, ()), "std of the normalization has 0 values for 2 channels"),
        ((float("nan"), 1.0), "mean of the normalization must be finite, got .*nan"),
        (((0.5, float("inf")), 1.0), "mean of the normalization must be finite, got .*inf"),
        ((0.5, (1.0, float("inf"))), "std of the normalization must be finite and above 0, got .*inf"),
        ((0.5, (1.0, 0.0)), r"must be finite and above 0, got \[1.0, 0.0\]"),
        ((0.5, (1.0, -1.0)), r"must be finite and above 0, got \[1.0, -1.0\]"),
    ],
)
def test_normalisations_that_do_not_fit_are_refused(normalization, message):
    with pytest.raises(ValueError, match=message):
        references(X, normalization=normalization)


@pytest.mark.parametrize(
    ("baselines", "expected"),
    [
        (0.5, [[[[0.5]]]]),
        (3, [[[[3.0]]]]),
        (torch.tensor(2.0), [[[[2.0]]]]),
        (torch.tensor([7, 8]).reshape(1, 2, 1, 1), [[[[7.0]], [[8.0]]]]),
        (torch.tensor([1.0, 2.0]).reshape(1, 1, 1, 2), [[[[1.0, 2.0]]]]),
        (X, X.tolist()),
    ],
)
def test_what_is_given_is_the_same_at_every_step(baselines, expected):
    given = references(X, baselines)
    for step in (0, 1):
        assert given.draw(step).tolist() == expected
        assert given.draw(step).dtype == DOUBLE
    assert given.varies is False
    assert given.note == "the reference was given, and is the same at every step"


def test_what_is_given_takes_no_part_in_gradients():
    assert not references(X, X.clone().requires_grad_()).draw(0).requires_grad


def test_a_function_is_asked_at_every_step_with_one_generator():
    asked = []

    def drawn(inputs, step, own):
        asked.append((inputs, step, own.initial_seed()))
        return torch.rand(1, 1, 1, 1, generator=own)

    given = references(X, drawn, seed=4)
    values = [given.draw(step).item() for step in (2, 7)]
    assert [(step, seed) for _, step, seed in asked] == [(2, 4), (7, 4)]
    assert all(torch.equal(inputs, X) and inputs is not X for inputs, _, _ in asked)
    assert values == pytest.approx(torch.rand(2, generator=generator(4)).tolist())
    assert given.varies
    assert "seed 4" in given.note


@pytest.mark.parametrize(("normalization", "words"), [(None, "own range"), ((0.0, 1.0), "full range of an image")])
def test_random_colours_vary_and_come_from_the_seed(normalization, words):
    first, again, other, default = (
        references(X, normalization=normalization, **seed) for seed in ({"seed": 6}, {"seed": 6}, {"seed": 7}, {})
    )
    assert first.varies
    assert words in first.note
    assert "seed 6" in first.note
    assert "seed 0" in default.note
    colours = [one.draw(0) for one in (first, again, other, default)]
    assert torch.equal(colours[0], colours[1])
    assert not torch.equal(colours[0], colours[2])
    assert torch.equal(colours[3], references(X, normalization=normalization, seed=0).draw(0))
    assert not torch.equal(first.draw(1), colours[0])


@pytest.mark.parametrize("baselines", [True, "black", [0.5], {}])
def test_baselines_of_another_type_are_refused(baselines):
    with pytest.raises(TypeError, match=f"baselines of type {type(baselines).__name__} are not understood"):
        references(X, baselines)


@pytest.mark.parametrize("shape", [(2, 2, 1), (2, 2, 1, 2, 1), (3, 1, 1, 1), (1, 3, 1, 1), (1, 1, 2, 1), (1, 1, 1, 3)])
def test_baselines_of_another_shape_are_refused(shape):
    for baselines in (torch.zeros(shape), lambda inputs, step, own: torch.zeros(shape)):
        with pytest.raises(ValueError, match="the baselines have shape"):
            references(X, baselines).draw(0)


def test_baselines_that_are_not_finite_or_no_tensor_are_refused():
    for value in (float("nan"), float("inf"), torch.tensor([1.0, float("nan")]).reshape(1, 2, 1, 1)):
        with pytest.raises(ValueError, match="must be finite"):
            references(X, value)
    with pytest.raises(ValueError, match="function returned float; it must give a tensor"):
        references(X, lambda inputs, step, own: 0.5).draw(0)
