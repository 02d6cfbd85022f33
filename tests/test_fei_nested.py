"""Nested masks against a loop one can read, and on networks whose best mask is known; what is promised and refused."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from torch import nn

from tests.networks import conv_net, images, untouched
from xai_align.fei.optimised import AreaMissed
from xai_align.fei.published.clipped_gradient import clipped_gradient
from xai_align.fei.published.nested import nested_masks
from xai_align.fei.random_fills import random_fills
from xai_align.fei.solid_colours import references
from xai_align.perturbation.ranking import TieWarning
from xai_align.question import Question, answers

#: Pixels are in [0, 1] already.
PLAIN = (0.0, 1.0)
FEW = {"quantiles": (0.3, 0.7), "n_iter": 8, "clip": "none"}


def why(*classes):
    return [Question.why(target) for target in classes]


def quarter():
    """The upper left quarter of 8 x 8 pixels."""
    region = torch.zeros(8, 8, dtype=torch.bool)
    region[:4, :4] = True
    return region


def brightness_of(region):
    """A linear network: logit 0 is the sum of all channels over the region, logit 1 the opposite."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * region.numel(), 2, bias=False)).eval()
    with torch.no_grad():
        weights = region.float().flatten().repeat(3)
        model[1].weight.copy_(torch.stack([weights, -weights]))
    return model


def quiet(call, *args, **options):
    """A call that is too short to reach its areas."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AreaMissed)
        warnings.simplefilter("ignore", TieWarning)
        return call(*args, **options)


def by_loop(model, x, target, fills, quantiles, n_iter, lr, beta):
    """One image [1, 3, H, W], Adam and the cosine written out; the masks and the losses."""
    alpha, masks, losses = torch.zeros(x.shape[2:], dtype=x.dtype), [], []
    for k, p in enumerate(quantiles):
        delta, m, v = torch.zeros_like(alpha), torch.zeros_like(alpha), torch.zeros_like(alpha)
        for t in range(n_iter):
            mask = (alpha + delta).requires_grad_()
            shown = mask * x + (1 - mask) * fills[k * n_iter + t]
            loss = -model(shown)[0, target] + beta * (mask.sum() - math.floor(p * mask.numel())).abs()
            (g,) = torch.autograd.grad(loss, mask)
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
            step = (m / (1 - 0.9 ** (t + 1))) / ((v / (1 - 0.999 ** (t + 1))).sqrt() + 1e-8)
            rate = lr * (1 + math.cos(math.pi * t / n_iter)) / 2
            delta = (delta - rate * step).clamp(min=0).minimum(1 - alpha)
            losses.append(loss.item())
        alpha = alpha + delta
        masks.append(alpha)
    return torch.stack(masks), losses


def test_the_solver_is_the_published_loop():
    model, x = conv_net().double(), images(1, dtype=torch.float64)
    fills = images(24, seed=5, dtype=torch.float64)[:, None]  # no solid colours: max pooling has no tie to break
    masks, losses = by_loop(model, x, 2, fills, (0.2, 0.5, 0.6), 8, 0.2, 0.05)
    found = quiet(
        nested_masks,
        model,
        x,
        why(2),
        quantiles=(0.2, 0.5, 0.6),
        n_iter=8,
        lr=0.2,
        area_weight=0.05,
        clip="none",
        baselines=lambda inputs, step, generator: fills[step],
    )
    torch.testing.assert_close(found.masks[0], masks, rtol=0, atol=1e-7)
    assert found.losses[0].tolist() == pytest.approx(losses, abs=1e-7)
    torch.testing.assert_close(found.attribution[0], masks.mean(0), rtol=0, atol=1e-7)
    assert found.passes == 24
    assert found.attribution.dtype == found.masks.dtype == torch.float64


def test_the_first_loss_by_hand():
    """Nothing is shown at the start: 48 values of 0.5 in the region, and 32 pixels of area are missing."""
    model, x = brightness_of(quarter()), torch.ones(1, 3, 8, 8)
    for objective, evidence in (("preserve", -24.0), ("delete", 48.0), ("both", 24.0)):
        options = {"quantiles": (0.5,), "n_iter": 1, "clip": "none", "baselines": 0.5}
        found = quiet(nested_masks, model, x, why(0), objective=objective, **options)
        assert found.losses.tolist() == [[pytest.approx(evidence + 0.1 * 32)]]
        assert found.masks.flatten().tolist() == pytest.approx([0.1] * 64)  # one step of Adam, upwards everywhere
        assert found.passes == (2 if objective == "both" else 1)


def test_every_image_is_asked_its_own_question():
    """Nothing is shown at the start, so the first loss is the answer for the colour, and the missing area."""
    model, x = conv_net(), images(5)
    asked = [
        Question.why(1),
        Question.why_not(1, 2),
        Question.why_group([0, 3]),
        Question.why_group_not([0, 1], [2, 4], score="max"),
        Question.against_all(4),
    ]
    found = quiet(nested_masks, model, x, asked, quantiles=(0.5, 0.75), n_iter=1, order="parallel", baselines=0.5)
    expected = -answers(asked, model(torch.full_like(x, 0.5))).detach()
    torch.testing.assert_close(found.losses, torch.stack([expected + 0.1 * 32, expected + 0.1 * 48], 1))


@pytest.mark.parametrize("order", ["sequential", "parallel"])
@pytest.mark.parametrize("objective", ["preserve", "delete", "both"])
def test_evidence_that_is_known_comes_first(objective, order):
    """A quarter of a white image is all that counts: the first mask is this quarter, for any darker colour."""
    region, x = quarter(), torch.ones(1, 3, 8, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("error", AreaMissed)
        warnings.simplefilter("ignore", TieWarning)  # the quarter is as good everywhere, and so is the rest
        found = nested_masks(
            brightness_of(region),
            x,
            why(0),
            quantiles=(0.25, 0.6),
            n_iter=60,
            objective=objective,
            order=order,
            clip="none",
            normalization=PLAIN,
        )
    assert found.masks[0, 0][region].min() > 0.9
    assert found.masks[0, 0][~region].max() < 0.1
    assert found.attribution[0][region].min() > found.attribution[0][~region].max() + 0.2


def test_the_other_class_wants_it_hidden():
    found = quiet(
        nested_masks,
        brightness_of(quarter()),
        torch.ones(1, 3, 8, 8),
        why(1),
        quantiles=(0.25, 0.6),
        clip="none",
        normalization=PLAIN,
    )
    assert found.attribution[0][quarter()].max() < found.attribution[0][~quarter()].min()


@pytest.mark.parametrize(
    "options",
    [{"clip": "none"}, {"clip": "ibm"}, {"area_schedule": "linear", "area_weight": 0.01}, {"order": "parallel"}],
)
def test_masks_are_nested_in_the_box_and_of_their_area(options):
    with warnings.catch_warnings():
        warnings.simplefilter("error", AreaMissed)
        found = nested_masks(conv_net(), images(2), why(1, 3), **{"clip": "none", **options})
    assert found.masks.shape == (2, 5, 8, 8)
    assert found.masks.min() >= 0
    assert found.masks.max() <= 1
    assert (found.masks.diff(dim=1) >= 0).all()
    torch.testing.assert_close(found.areas, found.masks.mean((2, 3)))
    torch.testing.assert_close(found.areas, torch.tensor([found.quantiles] * 2), rtol=0, atol=0.03)
    assert found.losses.shape == (2, 500)
    assert found.attribution.dtype == torch.float32


def test_nesting_and_box_hold_after_every_step():
    """One step more each time: the colours are the same, so these are the steps of one optimisation's last mask."""
    before = None
    for steps in range(1, 8):
        found = quiet(nested_masks, conv_net(), images(1), why(1), quantiles=(0.5,), n_iter=steps, lr=5.0, clip="none")
        assert found.masks.min() >= 0
        assert found.masks.max() <= 1
        assert before is None or not torch.equal(found.masks, before)
        before = found.masks


@pytest.mark.parametrize("order", ["sequential", "parallel"])
@pytest.mark.parametrize("objective", ["preserve", "both"])
@pytest.mark.parametrize("clip", ["none", "ibm", "ivm"])
def test_an_image_has_no_batch_mates(order, objective, clip):
    model, x, q = conv_net().double(), images(3, dtype=torch.float64), why(1, 3, 0)
    options = FEW | {"order": order, "objective": objective, "clip": clip}
    together = quiet(nested_masks, model, x, q, **options)
    for i in range(3):
        alone = quiet(nested_masks, model, x[i : i + 1], q[i : i + 1], **options)
        torch.testing.assert_close(together.masks[i], alone.masks[0], rtol=0, atol=1e-9)
        torch.testing.assert_close(together.losses[i], alone.losses[0], rtol=0, atol=1e-9)
    assert not torch.allclose(together.masks[0], together.masks[1], atol=1e-3)


def test_clipping_reaches_the_masks():
    """And it is named."""
    free = quiet(nested_masks, conv_net(), images(2), why(1, 3), **FEW)
    clipped = quiet(nested_masks, conv_net(), images(2), why(1, 3), **FEW | {"clip": "ibm"})
    assert not torch.allclose(free.masks, clipped.masks, atol=1e-4)
    assert free.clipped == ()
    assert clipped.clipped == ("act (relu)", "act (relu)")
    slopes = [quiet(clipped_gradient, conv_net(), images(2), why(1, 3), clip=clip) for clip in ("none", "ibm")]
    assert not torch.allclose(*slopes, atol=1e-6)


def test_a_seed_is_a_map():
    maps = [quiet(nested_masks, conv_net(), images(2), why(1, 3), seed=seed, **FEW).attribution for seed in (0, 0, 1)]
    assert torch.equal(maps[0], maps[1])
    assert not torch.equal(maps[0], maps[2])
    assert torch.equal(maps[0], quiet(nested_masks, conv_net(), images(2), why(1, 3), **FEW).attribution)


def test_precision_changes_little():
    narrow = quiet(nested_masks, conv_net(), images(1), why(1), **FEW)
    wide = quiet(nested_masks, conv_net().double(), images(1).double(), why(1), **FEW)
    torch.testing.assert_close(narrow.masks.double(), wide.masks, rtol=0, atol=1e-3)
    half = quiet(nested_masks, conv_net().bfloat16(), images(1).bfloat16(), why(1), **FEW)
    assert half.masks.dtype == half.losses.dtype == torch.float32


@pytest.mark.parametrize("objective", ["preserve", "both"])
def test_further_arguments_go_along(objective):
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = conv_net()

        def forward(self, x, by, power):
            return self.inner(x) * by[:, None] ** power

    x, by, options = images(2), torch.tensor([1.0, 3.0]), FEW | {"objective": objective, "order": "parallel"}
    whole = quiet(nested_masks, Scaled(), x, why(1, 1), additional_forward_args=(by, 2), **options)
    last = quiet(nested_masks, Scaled(), x[1:], why(1), additional_forward_args=(by[1:], 2), **options)
    torch.testing.assert_close(whole.losses[1:], last.losses)


def test_coarse_masks():
    """A cell weighs as much as its 16 pixels, so the area term must, too."""
    model, x = brightness_of(quarter()), torch.ones(1, 3, 8, 8)
    options = {"quantiles": (0.25, 0.75), "area_weight": 6.0, "clip": "none", "normalization": PLAIN}
    coarse = quiet(nested_masks, model, x, why(0), mask_size=2, **options)
    # bilinearly from 2 x 2 cells: the two outermost rows are equal
    assert torch.equal(coarse.masks[..., 0, :], coarse.masks[..., 1, :])
    assert coarse.attribution[0, 0, 0] > coarse.attribution[0, [0, 7, 7], [7, 0, 7]].max() + 0.2
    fine = quiet(nested_masks, model, x, why(0), mask_size=(8, 8), n_iter=8, **options)
    assert torch.equal(fine.masks, quiet(nested_masks, model, x, why(0), n_iter=8, **options).masks)


def test_binarising_leaves_fewer_greys():
    grey = {}
    for start in (None, 20):
        options = {"quantiles": (0.3, 0.7), "clip": "none", "binarise_from": start}
        masks = quiet(nested_masks, conv_net(), images(2), why(1, 3), **options).masks
        grey[start] = (masks * (1 - masks)).mean()
    assert grey[20] < 0.8 * grey[None]


def test_references_of_all_kinds():
    x = images(2)
    first = references(x, normalization=((0.5, 0.4, 0.3), 0.25), seed=3).draw(0)
    assert first.shape == (1, 3, 1, 1)
    levels = (first.flatten() * 0.25 + torch.tensor([0.5, 0.4, 0.3])) * 255
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-3)
    assert levels.min() > -0.1
    assert levels.max() < 255.1
    own = references(x, seed=3).draw(0)
    assert own.shape == (2, 3, 1, 1)
    assert ((own >= x.amin((2, 3), keepdim=True)) & (own <= x.amax((2, 3), keepdim=True))).all()
    torch.testing.assert_close(references(x[1:], seed=3).draw(0), own[1:])

    asked = []

    def drawn(inputs, step, generator):
        asked.append(step)
        return torch.rand(inputs.shape[0], 1, 1, 1, generator=generator)

    found = quiet(nested_masks, conv_net(), x, why(1, 1), baselines=drawn, **FEW)
    assert asked == list(range(16))
    assert "function that was given" in found.notes[0]
    numbers = [
        quiet(nested_masks, conv_net(), x, why(1, 1), baselines=r, **FEW) for r in (0.5, torch.full_like(x, 0.5))
    ]
    assert torch.equal(numbers[0].masks, numbers[1].masks)


def test_random_fills_instead_of_solid_colours():
    x = images(2)
    fills = random_fills(x, ("noise", "texture"), torch.Generator().manual_seed(3))
    drawn = quiet(nested_masks, conv_net(), x, why(1, 1), baselines=lambda *given: fills.draw().expand_as(x), **FEW)
    found = quiet(nested_masks, conv_net(), x, why(1, 1), fills=("noise", "texture"), seed=3, **FEW)
    assert torch.equal(found.masks, drawn.masks)
    assert "drawn from noise, texture" in found.notes[0]
    one = quiet(nested_masks, conv_net(), x, why(1, 1), fills=("noise", "texture"), baselines=0.5, **FEW)
    assert torch.equal(one.masks, quiet(nested_masks, conv_net(), x, why(1, 1), baselines=0.5, **FEW).masks)


def test_an_image_of_one_colour():
    x = torch.full((1, 3, 8, 8), 0.5)
    own = {"n_iter": 4, "clip": "none"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AreaMissed)
        with pytest.warns(TieWarning, match="100%"):
            nested_masks(conv_net(), x, why(1), **own)  # the only colour it has is its own
        warnings.simplefilter("ignore", TieWarning)
        found = nested_masks(conv_net(), x, why(1), normalization=PLAIN, **own)
    assert found.attribution.unique().numel() > 1
    assert found.tie_fraction.item() < 1


def test_a_class_of_probability_zero_is_explained():
    """Logits are optimised, so one that is lower by a million changes nothing."""
    model, low = conv_net().double(), conv_net().double()
    with torch.no_grad():
        low.fc.bias[1] -= 1e6
    x = images(1, dtype=torch.float64)
    assert low(x).softmax(1)[0, 1] == 0
    both = [quiet(nested_masks, net, x, why(1), **FEW).masks for net in (model, low)]
    torch.testing.assert_close(both[0], both[1], rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore::xai_align.perturbation.ranking.TieWarning")
def test_areas_that_were_missed_are_told():
    with pytest.warns(AreaMissed, match=r"example 0 for quantile 0\.9 marks 0\.1.*n_iter"):
        nested_masks(conv_net(), images(1), why(1), quantiles=(0.9,), n_iter=1, clip="none")


def test_nothing_is_told_where_no_warning_is_wanted():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nested_masks(conv_net(), images(1), why(1), quantiles=(0.9,), n_iter=1, clip="none", warn=False)


def test_images_that_are_not_square():
    """The first loss is the area that is missing, of 3 x 5 pixels 7; nothing is shown of zeros against zeros."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(45, 1, bias=False)).eval()
    found = quiet(
        nested_masks, model, torch.zeros(1, 3, 3, 5), why(0), quantiles=(0.5,), n_iter=1, clip="none", baselines=0.0
    )
    assert found.masks.shape == (1, 1, 3, 5)
    assert found.losses.tolist() == [[pytest.approx(0.1 * 7)]]


def test_it_works_where_no_gradients_are_wanted():
    expected = quiet(nested_masks, conv_net(), images(1), why(1), **FEW)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            found = quiet(nested_masks, conv_net_outside, images(1), why(1), **FEW)
            assert not torch.is_grad_enabled()
        assert torch.equal(found.masks, expected.masks)


#: Parameters made under inference_mode could not be differentiated through by anyone.
conv_net_outside = conv_net()


def test_every_step_is_told():
    for order, steps in (("sequential", 16), ("parallel", 8)):
        done = []
        quiet(nested_masks, conv_net(), images(1), why(1), order=order, progress=done.append, **FEW)
        assert done == [1] * steps


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("clip", ["none", "ibm"])
def test_nothing_of_the_callers_changes(error, clip):
    model, x = conv_net(), images(2).requires_grad_()
    before = x.detach().clone()
    options = FEW | {"clip": clip}
    with untouched(model):
        quiet(nested_masks, model, x, why(1, 3), **options)
        quiet(clipped_gradient, model, x, why(1, 3), clip=clip)
    calls = []

    def fifth(*args):
        calls.append(1)
        if len(calls) == 5:
            raise error("out of order")

    handle = model.conv2.register_forward_hook(fifth)
    with untouched(model), pytest.raises(error, match="out of order"):
        quiet(nested_masks, model, x, why(1, 3), **options)
    handle.remove()

    def stopped(done):
        raise error("enough")

    with untouched(model), pytest.raises(error, match="enough"):
        quiet(nested_masks, model, x, why(1, 3), progress=stopped, **options)
    assert torch.equal(x, before)
    assert x.grad is None
    assert len(calls) == 5


def test_the_clipped_gradient_of_a_linear_network_by_hand():
    """Wherever on the way, the slope at a pixel is sum_c w_c (x_c - r_c)."""
    x = torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]])  # two channels, two pixels
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 1)).eval()
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[2.0, -1.0, 1.0, 0.5]]))  # channel 0: 2, -1; channel 1: 1, 0.5
    r = torch.tensor([0.5, 1.0]).reshape(1, 2, 1, 1)
    found = clipped_gradient(model, x, why(0), clip="none", baselines=r)
    # left: 2 (1 - 0.5) + 1 (3 - 1) = 3;  right: -1 (2 - 0.5) + 0.5 (4 - 1) = 0
    torch.testing.assert_close(found, torch.tensor([[[3.0, 0.0]]]))
    colours = references(x, seed=4)
    mean = (colours.draw(0) + colours.draw(1) + colours.draw(2)) / 3
    expected = (model[1].weight.reshape(1, 2, 1, 2) * (x - mean)).sum(1)
    found = clipped_gradient(model, x, why(0), clip="none", seed=4, colours=3)
    torch.testing.assert_close(found, expected.detach())


@pytest.mark.parametrize(("sign", "free", "ibm"), [(1.0, -2.0, 0.0), (-1.0, 2.0, 2.0)])
def test_the_clipped_gradient_clips_what_would_raise_the_answer(sign, free, ibm):
    """One unit relu(x1 - 2 x2), silent for the image (1, 1), and active on the way from (1, 0).

    At alpha = 0.25 it is 1 - 2 / 4, and its slope along alpha2 is -2. Where the answer is the unit, a higher answer
    needs the unit recruited, which ibm forbids; where it is the unit's opposite, the unit may fall.
    """
    unit = nn.Conv2d(1, 1, (1, 2), bias=False)
    head = nn.Conv2d(1, 1, 1, bias=False)
    with torch.no_grad():
        unit.weight.copy_(torch.tensor([1.0, -2.0]).reshape(1, 1, 1, 2))
        head.weight.fill_(sign)
    model = nn.Sequential(unit, nn.ReLU(), head, nn.Flatten()).eval()
    x, r = torch.ones(1, 1, 1, 2), torch.tensor([1.0, 0.0]).reshape(1, 1, 1, 2)
    for clip, expected in (("none", free), ("ibm", ibm)):
        found = quiet(clipped_gradient, model, x, why(0), points=(0.25,), clip=clip, baselines=r)
        torch.testing.assert_close(found, torch.tensor([[[0.0, expected]]]))


@pytest.mark.parametrize("clip", ["none", "ibm", "ivm"])
def test_the_clipped_gradient_has_no_batch_mates(clip):
    model, x = conv_net().double(), images(3, dtype=torch.float64)
    together = clipped_gradient(model, x, why(1, 3, 0), clip=clip)
    assert together.shape == (3, 8, 8)
    for i, target in enumerate((1, 3, 0)):
        alone = clipped_gradient(model, x[i : i + 1], why(target), clip=clip)
        torch.testing.assert_close(together[i], alone[0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quantiles": (0.0, 0.5)}, "above 0 and below 1"),
        ({"quantiles": (0.5, 1.0)}, "above 0 and below 1"),
        ({"quantiles": (0.5, 0.3)}, "each larger"),
        ({"quantiles": (0.5, 0.5)}, "each larger"),
        ({"quantiles": ()}, "quantiles are"),
        ({"quantiles": (float("nan"),)}, "above 0 and below 1"),
        ({"n_iter": 0}, "n_iter must be a positive integer, got 0"),
        ({"n_iter": 2.5}, "n_iter must be a positive integer, got 2.5"),
        ({"lr": 0.0}, "lr must be a positive number, got 0.0"),
        ({"lr": float("inf")}, "lr must be a positive number, got inf"),
        ({"area_weight": -1.0}, "area_weight must be a non-negative number, got -1.0"),
        ({"area_schedule": "growing"}, "area_schedule must be 'constant' or 'linear', got 'growing'"),
        ({"objective": "hybrid"}, "objective must be 'preserve', 'delete' or 'both', got 'hybrid'"),
        ({"order": "random"}, "order must be 'sequential' or 'parallel', got 'random'"),
        ({"clip": "abm"}, "abm"),
        ({"mask_size": 9}, "mask_size is 9, the images have 8 x 8"),
        ({"mask_size": (0, 4)}, r"mask_size is \(0, 4\)"),
        ({"binarise_from": 8}, r"binarise_from is 8.*0 … 7"),
        ({"binarise_from": -1}, "binarise_from must be a non-negative integer, got -1"),
        ({"fills": ()}, "no fill was given"),
        ({"fills": ("blurred",)}, "the fill must be .* got 'blurred'"),
        ({"normalization": 0.5}, r"give \(mean, std\)"),
        ({"normalization": ((0.1, 0.2), 1.0)}, "mean of the normalization has 2 values for 3 channels"),
        ({"normalization": (0.0, 0.0)}, "std .* above 0"),
        ({"baselines": torch.zeros(2, 8, 8)}, r"baselines have shape \[2, 8, 8\]"),
        ({"baselines": torch.full((1, 3, 1, 1), torch.nan)}, "baselines must be finite"),
        ({"baselines": lambda inputs, step, generator: 0.0}, "returned float"),
    ],
)
def test_options_are_checked(options, message):
    model = conv_net()
    with untouched(model), pytest.raises(ValueError, match=message):
        nested_masks(model, images(2), why(1, 3), **FEW | options)


class Broken(nn.Module):
    """Logits that are NaN for the second image, or for images partly hidden."""

    def __init__(self, when):
        super().__init__()
        self.when = when

    def forward(self, x):
        z = x.mean((2, 3))
        return torch.where(self.when(x)[:, None], torch.nan, z)


class Detached(nn.Module):
    def forward(self, x):
        return x.detach().mean((2, 3))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda f: f(conv_net().train(), images(), why(1, 1)), ValueError, "train mode"),
        (lambda f: f(conv_net(), images(), why(1)), ValueError, "a list with 1 target for 2 examples"),
        (lambda f: f(conv_net(), images(), why(1, 9)), ValueError, "class 9 is out of range"),
        (lambda f: f(conv_net(), images() * torch.inf, why(1, 1)), ValueError, "NaN or infinity"),
        (lambda f: f(conv_net(), images()[0], why(1, 1, 1)), ValueError, r"must have the shape \[N, C, H, W\]"),
        (lambda f: f(conv_net(), images(0), []), ValueError, "at least one pixel"),
        (lambda f: f(conv_net(), images().double(), why(1, 1)), ValueError, "float64, the model is torch.float32"),
        (lambda f: f(lambda x: x, images(), why(1, 1)), TypeError, "Module"),
        (lambda f: f(Broken(lambda x: x[:, 0, 0, 0] == images()[1, 0, 0, 0]), images(), why(1, 1)), ValueError, "[1]"),
        (lambda f: f(Broken(lambda x: x.std((1, 2, 3)) < 0.9), images(), why(1, 1)), ValueError, r"NaN or infinity"),
        (lambda f: f(Detached(), images(), why(1, 1)), ValueError, "no gradient"),
        (lambda f: f(conv_net(), images(), why(1, 1), baselines="black"), TypeError, "str are not understood"),
    ],
)
@pytest.mark.parametrize("method", [nested_masks, clipped_gradient])
def test_what_does_not_fit_is_refused(method, call, error, message):
    with pytest.raises(error, match=message):
        call(lambda *args, **options: method(*args, clip="none", **options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"points": ()}, "one or more numbers"),
        ({"points": (1.5,)}, r"in \[0, 1\]"),
        ({"colours": 0}, "colours must be a positive integer, got 0"),
    ],
)
def test_points_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        clipped_gradient(conv_net(), images(), why(1, 3), clip="none", **options)
