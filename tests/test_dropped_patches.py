"""Curves in which removed patches are left out of a transformer's tokens."""

from __future__ import annotations

import pytest
import torch

from tests.networks import conv_net, filled, images, untouched
from tests.test_token_dropping import PLACES, SIDE, Pooled, hf_vit, masks, on_the_rest, timm_vit, torchvision_vit
from xai_align.evaluation import symmetric_relevance_gain
from xai_align.perturbation import PerturbationSpec, perturbation_curves
from xai_align.question import Question, ask

GRID = (4, 4)
SHARES = (0.0, 0.25, 0.5, 1.0)


def scores():
    """For each image an order of its patches, best first, and maps with it."""
    order = [torch.randperm(PLACES, generator=torch.Generator().manual_seed(seed)).tolist() for seed in (1, 2)]
    maps = sum(masks([row[: k + 1] for row in order]) for k in range(PLACES))
    return order, maps[:, 0]


@pytest.mark.parametrize("make", [timm_vit, torchvision_vit, hf_vit])
def test_curves_are_those_of_the_network_on_the_tokens_that_are_left(make):
    model, x = make(), images(2, SIDE)
    order, maps = scores()
    specs = [PerturbationSpec(fill, way, SHARES, GRID) for fill in ("drop", "mean") for way in ("morf", "lerf")]
    with untouched(model):
        curves = perturbation_curves(model, x, maps, specs, activation=None)
    with torch.no_grad():
        for way, curve in zip((1, -1), curves, strict=False):
            for n, row in enumerate(order):
                for k, share in enumerate(SHARES):
                    keep = row[::way][int(share * PLACES) :]
                    expected = on_the_rest(model, x[n : n + 1], sorted(keep))[0]
                    torch.testing.assert_close(curve.masked[n, k], expected, rtol=0, atol=1e-5)
    alone = perturbation_curves(model, x, maps, specs[2:], activation=None)
    for with_drop, without in zip(curves[2:], alone, strict=True):
        torch.testing.assert_close(with_drop.masked, without.masked, rtol=0, atol=1e-6)


def test_other_doors_take_it_too():
    model, x = timm_vit(), images(2, SIDE)
    _, maps = scores()
    gain = symmetric_relevance_gain(model, x, maps, target=1, grid=GRID, num_steps=4, baselines="drop")
    lerf, morf = perturbation_curves(
        model, x, maps, [PerturbationSpec("drop", way, (0, 0.25, 0.5, 0.75, 1), GRID) for way in ("lerf", "morf")],
        activation=None,
    )  # fmt: skip
    by_hand = torch.trapezoid((lerf.masked - morf.masked)[..., 1].double(), dx=0.25, dim=1)
    torch.testing.assert_close(gain.double(), by_hand, rtol=0, atol=1e-5)


def test_a_question_model_is_taken():
    model, x = timm_vit(), images(2, SIDE)
    _, maps = scores()
    asked, _ = ask(model, Question.why_not(1, 3), len(x))
    (curve,) = perturbation_curves(asked, x, maps, [PerturbationSpec("drop", "morf", (0.5,), GRID)], activation=None)
    (plain,) = perturbation_curves(model, x, maps, [PerturbationSpec("drop", "morf", (0.5,), GRID)], activation=None)
    torch.testing.assert_close(curve.masked[..., 0], plain.masked[..., 1] - plain.masked[..., 3], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "options", "words"),
    [
        (
            timm_vit,
            {"grid": (2, 2)},
            r"patches, which are 4 x 4 here, and the spec has grid=\(2, 2\); give grid=\(4, 4\)",
        ),
        (timm_vit, {"grid": None}, "grid=None; give"),
        (timm_vit, {"grid": GRID, "layers": True}, "hidden layers cannot be compared"),
        (conv_net, {"grid": GRID}, "keeps no grid of tokens"),
        (lambda: filled(Pooled()), {"grid": GRID}, "every patch of an image is left out"),
    ],
)
def test_what_cannot_be_left_out_is_refused(make, options, words):
    model, x = make(), images(2, SIDE)
    with untouched(model), pytest.raises(ValueError, match=words):
        perturbation_curves(model, x, scores()[1], [PerturbationSpec("drop", "morf", SHARES, **options)])


def test_what_is_no_network_is_refused():
    with pytest.raises(TypeError, match=r"inside a torch.nn.Module; got function"):
        perturbation_curves(
            lambda x: x.mean((2, 3)), images(2, SIDE), scores()[1], [PerturbationSpec("drop", grid=GRID)]
        )
