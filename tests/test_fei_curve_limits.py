"""The curve solver: batch mates, seeds and starts, images and classes at the edge, and what it leaves alone."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from tests.networks import conv_net, images, untouched
from xai_align.features.stage_layers import stage_layers
from xai_align.fei.optimised import AreaMissed
from xai_align.fei.optimize import find_solver
from xai_align.fei.quantile_masks import standardised
from xai_align.perturbation.ranking import TieWarning
from xai_align.question import Question

#: The curve solver, which may clip gradients.
curve_masks = find_solver("curve").run

FEW = {"n_iter": 6, "lr": 0.2, "temperatures": (0.5, 0.15)}
#: Two layers that run once.
LAYERS = {"deviation_weight": 0.5, "deviation_layers": ["conv1", "conv2"]}


def net():
    return conv_net().double()


def pictures(count=2, size=8):
    return images(count, size, dtype=torch.float64)


def why(*classes):
    return [Question.why(target) for target in classes]


def found(model, x, asked, **options):
    return curve_masks(model, x, asked, **FEW | options)


def same(a, b, atol=1e-9):
    torch.testing.assert_close(a, b, rtol=0, atol=atol)


def differ(a, b):
    return not torch.allclose(a, b, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"start": "flat", "mirror": "never", "fills": ("texture", "mean")},
        {"clip": "ibm", "mirror": "never"},
        {"clip": "silent", "mirror": "never", "baselines": 0.5},
        LAYERS,
    ],
)
def test_an_image_has_no_batch_mates(options):
    model, x, q = net(), pictures(3), [Question.why(1), Question.why_not(3, 0), Question.why_group([0, 2])]
    together = found(model, x, q, **options)
    for i in range(3):
        alone = found(model, x[i : i + 1], q[i : i + 1], **options)
        same(together.attribution[i], alone.attribution[0])
        same(together.losses[i], alone.losses[0])
    assert differ(together.attribution[0], together.attribution[1])


def test_an_image_that_is_done_keeps_its_map():
    """One is done earlier than the other: each map is as if the image had been alone, and no step is taken in vain."""
    model, x, options = net(), pictures(3), {"n_iter": 40, "stable_at": 0.98}
    with torch.no_grad():
        model.fc.weight *= 20
    together = found(model, x, why(0, 0, 0), **options)
    alone = [found(model, x[i : i + 1], why(0), **options) for i in range(3)]
    steps = [one.losses.shape[1] for one in alone]
    assert min(steps) < max(steps) < 40
    assert together.losses.shape[1] == max(steps)
    assert [one.passes for one in (*alone, together)] == [2 * step for step in (*steps, max(steps))]
    for i in range(3):
        same(together.attribution[i], alone[i].attribution[0])
    free = found(model, x, why(0, 0, 0), n_iter=40)
    assert free.losses.shape[1] == 40
    assert differ(free.attribution, together.attribution)


def test_a_map_that_does_not_move_is_stable_as_soon_as_that_can_be_seen():
    counted = []
    options = {"n_iter": 40, "lr": 1e-12, "stable_at": 0.9999, "progress": counted.append}
    assert found(net(), pictures(), why(1, 3), **options).losses.shape == (2, 5)
    assert counted == [1] * 5


def test_a_seed_is_a_map():
    maps = [found(net(), pictures(), why(1, 3), seed=seed).attribution for seed in (0, 0, 1)]
    assert torch.equal(maps[0], maps[1])
    assert differ(maps[0], maps[2])


def test_layers_that_nobody_named_are_the_networks_stages():
    model, x = net(), pictures()
    layers = stage_layers(model, x)
    assert layers
    named, own = (found(model, x, why(1, 3), deviation_weight=0.5, deviation_layers=n).losses for n in (layers, None))
    assert torch.equal(named, own)
    assert differ(found(model, x, why(1, 3)).losses, own)


class Scaled(nn.Module):
    """Multiplies every image's logits by a number of its own."""

    def __init__(self):
        super().__init__()
        self.inner = net()

    def forward(self, x, by, power):
        return self.inner(x) * by[:, None] ** power


def test_further_arguments_go_along():
    x, by = pictures(), torch.tensor([1.0, 3.0], dtype=torch.float64)
    whole = found(Scaled(), x, why(1, 1), additional_forward_args=(by, 2), start_layer="inner.conv2")
    last = found(Scaled(), x[1:], why(1), additional_forward_args=(by[1:], 2), start_layer="inner.conv2")
    same(whole.attribution[1:], last.attribution)


def test_clipping_reaches_the_search_but_not_the_readout_and_is_named():
    model, x = net(), pictures(3)
    held = {clip: found(model, x, why(1, 3, 0), clip=clip, lr=1e-12, mirror="never") for clip in ("none", "ibm")}
    same(held["none"].attribution, held["ibm"].attribution, 1e-8)
    maps = {clip: found(model, x, why(1, 3, 0), clip=clip, mirror="never") for clip in ("none", "ibm", "silent")}
    assert maps["none"].clipped == ()
    assert maps["ibm"].clipped == maps["silent"].clipped == ("act (relu)", "act (relu)")
    assert differ(maps["none"].attribution, maps["ibm"].attribution)
    assert differ(maps["silent"].attribution, maps["ibm"].attribution)


def test_a_start_of_the_callers():
    """On any grid and scale; where nothing moves it, it is the map."""
    x, held = pictures(), {"lr": 1e-12, "shift": 0}
    maps = 7 * torch.randn(2, 8, 8, generator=torch.Generator().manual_seed(1)) + 3
    before = maps.clone()
    same(found(net(), x, why(1, 3), start=maps, **held).attribution, standardised(maps.double()), 1e-8)
    assert torch.equal(maps, before)
    coarse = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]] * 2)
    grown = found(net(), x, why(1, 3), start=coarse, **held).attribution[0]
    assert grown.diff(dim=0).min() > -1e-9
    assert grown.diff(dim=1).min() > -1e-9
    assert grown[-1, -1] - grown[0, 0] > 2
    starts = [found(net(), x, why(1, 3), start=start).attribution for start in ("readout", "flat", maps)]
    assert differ(starts[0], starts[1])
    assert differ(starts[1], starts[2])


def test_one_fill_for_all_steps():
    x = pictures()
    first, *others = (
        found(net(), x, why(1, 3), baselines=fill, fills=kinds).attribution
        for fill, kinds in [
            (0.5, ("noise",)),
            (torch.full_like(x, 0.5), ("blur",)),
            (lambda inputs, step, generator: torch.full_like(inputs[:1], 0.5), ("zero",)),
        ]
    )
    for other in others:
        assert torch.equal(other, first)
    assert differ(found(net(), x, why(1, 3), baselines=0.0).attribution, first)


@pytest.mark.filterwarnings("ignore::xai_align.perturbation.ranking.TieWarning")
@pytest.mark.parametrize("shape", [(9, 14), (15, 6), (2, 5)])
@pytest.mark.parametrize("mask_size", [None, 2])
def test_images_that_are_not_square(shape, mask_size):
    x = torch.randn(2, 3, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    one = found(net(), x, why(1, 3), mask_size=mask_size, start="flat", quantiles=(0.5,))
    assert one.attribution.shape == (2, *shape)
    assert one.masks.shape == (2, 1, *shape)
    assert (one.attribution.flatten(1).std(1) > 0.5).all()


def test_an_image_of_one_colour():
    """Against fills that differ from it there is a map; against its own colour none, and a warning says so."""
    x = torch.full((1, 3, 8, 8), 0.5, dtype=torch.float64)
    assert found(net(), x, why(1), fills=("blur", "colour"), normalization=(0.0, 1.0)).attribution.isfinite().all()
    with pytest.warns(TieWarning, match="100%"), pytest.warns(AreaMissed):
        own = found(net(), x, why(1), start="flat", baselines=0.5)
    assert (own.attribution == 0).all()


def test_a_class_of_probability_zero_is_explained_as_if_it_were_seen():
    """Its log-odds count from the image as it is, so a logit that is lower by a thousand changes nothing."""
    model, low, x = net(), net(), pictures(1)
    with torch.no_grad():
        low.fc.bias[1] -= 1000
    assert low(x).softmax(1)[0, 1] == 0
    assert model(x).softmax(1)[0, 1] < 0.5
    start = torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(1))
    both = [found(one, x, why(1), start=start).attribution for one in (model, low)]
    same(both[0], both[1], 1e-8)
    assert differ(both[1], standardised(start.double()))


class Roots(nn.Module):
    """Its slope is infinite where a pixel is black."""

    def forward(self, x):
        return x.sqrt().mean((2, 3))


@pytest.mark.parametrize("n_iter", [1, 2])
def test_slopes_and_logits_that_are_not_finite_are_refused(n_iter):
    """Also in the last step, whose loss is still finite."""
    x = pictures(2).abs()
    x[1, :, :4] = 0
    still = {"start": "flat", "shift": 0, "mirror": "never", "n_iter": n_iter}
    assert found(Roots(), x[:1], why(0), baselines=0.0, **still).attribution.isfinite().all()
    with pytest.raises(ValueError, match=r"example\(s\) \[1\] produced NaN or infinity"):
        found(Roots(), x, why(0, 0), baselines=0.0, **still)
    with pytest.raises(ValueError, match=r"example\(s\) \[0, 1\] produced NaN or infinity"):
        found(Roots(), x, why(0, 0), baselines=-100.0, **still)
    broken = net()
    broken.fc.bias.data[2] = math.nan
    for start in ("flat", "readout"):
        with pytest.raises(ValueError, match=r"NaN|infinit"):
            found(broken, x, why(1, 3), start=start)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("options", [{}, {"clip": "ibm", "mirror": "never"}, LAYERS])
def test_nothing_of_the_callers_changes(error, options):
    model, x = conv_net(), images(2).requires_grad_()
    before = x.detach().clone()
    with untouched(model):
        found(model, x, why(1, 3), **options)
    calls = []

    def fifth(*args):
        calls.append(1)
        if len(calls) == 5:
            raise error("out of order")

    handle = model.conv2.register_forward_hook(fifth)
    for start in ("flat", "readout"):
        calls.clear()
        with untouched(model), pytest.raises(error, match="out of order"):
            found(model, x, why(1, 3), start=start, **options)
        assert len(calls) == 5
    handle.remove()

    def stopped(done):
        raise error("enough")

    with untouched(model), pytest.raises(error, match="enough"):
        found(model, x, why(1, 3), progress=stopped, **options)
    assert torch.equal(x, before)
    assert x.grad is None


@pytest.mark.parametrize("start", ["readout", "flat"])
def test_it_works_where_no_gradients_are_wanted(start):
    model = net()
    expected = found(model, pictures(), why(1, 3), start=start)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            inside = found(model, pictures(), why(1, 3), start=start)
            assert not torch.is_grad_enabled()
        assert torch.equal(inside.attribution, expected.attribution)


def test_restarts_are_averaged():
    model, x = net(), pictures(2)
    first, second = (found(model, x, why(1, 3), seed=seed) for seed in (4, 5))
    both = found(model, x, why(1, 3), seed=4, restarts=2)
    assert torch.equal(both.losses, torch.cat([first.losses, second.losses], 1))
    same(both.attribution, standardised(first.attribution + second.attribution))
    assert both.passes == first.passes + second.passes
