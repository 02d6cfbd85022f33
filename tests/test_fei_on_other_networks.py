"""FEI on networks with branches for training alone, and with layers that work on windows of the images."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torchvision
from hf_networks import Logits, swin
from networks import CentresItsBatch, conv_net, filled, images
from torch import nn
from transformers import MobileViTConfig, MobileViTForImageClassification

from captum_align import ClippedGradientAttribution, FEIAttribution
from xai_align import Question
from xai_align.evaluation import completeness_error, hidden_activations, sufficiency
from xai_align.features.resolve_layer import resolve_layer
from xai_align.features.stage_layers import last_at_each_resolution
from xai_align.fei import fit_fei, optimize_masks


def made(make):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make().eval()


def googlenet():
    return torchvision.models.googlenet(weights=None, init_weights=False, num_classes=5, aux_logits=True)


def mobilevit():
    config = MobileViTConfig(image_size=32, num_labels=5, hidden_sizes=[16, 24, 32])
    config.neck_hidden_sizes = [8, 8, 16, 24, 32, 32, 48]
    return Logits(MobileViTForImageClassification(config))


@pytest.mark.parametrize(("make", "size"), [(googlenet, 64), (swin, 32), (mobilevit, 32)])
def test_the_methods_run_and_an_image_has_the_same_map_alone(make, size):
    # in float32 these networks answer almost the same to every mask, and rounding decides
    model, x = filled(made(make)).double(), images(2, size).double()
    together = FEIAttribution(model, n_iter=2).attribute(x, target=1)
    alone = FEIAttribution(model, n_iter=2).attribute(x[1:], target=1)
    assert bool(torch.isfinite(together).all())
    assert float(torch.corrcoef(torch.stack([together[1].flatten(), alone.flatten()]))[0, 1]) > 0.99
    for found in (
        FEIAttribution(model, solver="nested", n_iter=2).attribute(x, target=1),
        ClippedGradientAttribution(model, points=(0.5,), colours=1).attribute(x, target=1),
    ):
        assert bool(torch.isfinite(found).all())


class Branched(nn.Module):
    """Its last convolutions by name run in training alone, or are computed and not used."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4, 5)
        self.twice = nn.Conv2d(4, 4, 1)
        self.unused, self.auxiliary = nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3)

    def forward(self, x):
        z = self.twice(self.twice(self.first(x).relu()))
        self.unused(z)
        if self.training:
            z = z + self.auxiliary(z).mean()
        return self.head(self.last(z).relu().mean((2, 3)))


@pytest.mark.parametrize("purpose", ["gradient", "map"])
def test_the_last_convolution_is_one_that_the_answer_depends_on(purpose):
    model, x = filled(Branched()), images()
    assert resolve_layer(model, purpose=purpose, image=x[:1]).layer in (
        "last",
        "unused" if purpose == "map" else "last",
    )
    assert resolve_layer(model, purpose="gradient", image=x[:1]).layer == "last"


class Windowed(nn.Module):
    """It works on four windows of each image, one after the other along the first axis."""

    def __init__(self):
        super().__init__()
        self.first, self.window, self.last = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, 2, 1)
        self.head = nn.Linear(4, 5)

    def forward(self, x):
        z = self.first(x).relu()
        n, c, h, w = z.shape
        z = z.reshape(n, c, 2, h // 2, 2, w // 2).permute(0, 2, 4, 1, 3, 5).reshape(4 * n, c, h // 2, w // 2)
        z = self.window(z).relu()
        z = z.reshape(n, 2, 2, c, h // 2, w // 2).permute(0, 3, 1, 4, 2, 5).reshape(n, c, h, w)
        return self.head(self.last(z).mean((2, 3)))


@pytest.mark.parametrize("count", [1, 2, 4])
def test_layers_of_windows_are_no_stages(count):
    model = filled(Windowed())
    assert last_at_each_resolution(model, images(count)) == ("first", "last")
    assert FEIAttribution(model, n_iter=2).attribute(images(count), target=1).shape == (count, 3, 8, 8)


def test_a_layer_of_windows_that_is_named_is_refused_in_words():
    model, x = filled(Windowed()), images()
    with pytest.raises(ValueError, match=r"the output of layer 'window' has shape .* its first axis is not the batch"):
        hidden_activations(model, x, x.abs(), layers=["window"])


@pytest.mark.parametrize("solver", ["curve", "nested", "both"])
def test_under_autocast_and_in_bfloat16_the_map_is_about_that_in_float32(solver):
    model, x = filled(Branched()), images()
    plain = FEIAttribution(model, solver=solver, n_iter=3).attribute(x, target=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = FEIAttribution(model, solver=solver, n_iter=3).attribute(x, target=1)
    assert half.dtype == plain.dtype
    assert float(torch.corrcoef(torch.stack([half.flatten(), plain.flatten()]))[0, 1]) > 0.9


class DropsOut(nn.Module):
    """Dropout that eval mode does not switch off, before the network or behind it."""

    def __init__(self, where):
        super().__init__()
        self.inner, self.where = conv_net(), where

    def forward(self, x):
        if self.where == "before":
            return self.inner(nn.functional.dropout(x, 0.3))
        return nn.functional.dropout(self.inner(x), 0.3)


@pytest.mark.parametrize("where", ["before", "behind"])
@pytest.mark.parametrize("options", [{"solver": "nested"}, {"solver": "curve", "start": "flat"}])
def test_a_network_that_draws_random_numbers_is_refused(where, options):
    with pytest.raises(ValueError, match=r"other logits at a second pass on the same inputs.*F.dropout\(x\)"):
        optimize_masks(DropsOut(where).eval(), images(2), Question.why(1), n_iter=1, **options)


@pytest.mark.parametrize("where", ["before", "behind"])
def test_no_explainer_is_fitted_to_a_network_that_draws_random_numbers(where):
    with pytest.raises(ValueError, match="other logits at a second pass on the same inputs"):
        fit_fei(DropsOut(where).eval(), images(4), epochs=1, batch_size=2)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("solver", ["nested", "curve", "both"])
def test_a_network_that_mixes_the_images_of_a_batch_is_refused(solver, count):
    with pytest.raises(ValueError, match="mixes the examples of a batch"):
        optimize_masks(CentresItsBatch().eval(), images(count), Question.why(1), n_iter=1, solver=solver)


def test_no_explainer_is_fitted_to_a_network_that_mixes_the_images_of_a_batch():
    with pytest.raises(ValueError, match="mixes the examples of a batch"):
        fit_fei(CentresItsBatch().eval(), images(4), epochs=1, batch_size=2)


class Shifted(nn.Module):
    """The network of images less one half, which are written into the input or not."""

    def __init__(self, inner, in_place):
        super().__init__()
        self.inner, self.in_place = inner, in_place

    def forward(self, x):
        return self.inner(x.sub_(0.5) if self.in_place else x - 0.5)


@pytest.mark.filterwarnings("ignore::xai_align.fei.AreaMissed")
@pytest.mark.parametrize("target", [None, 1])
@pytest.mark.parametrize("options", [{"solver": "nested"}, {"solver": "nested", "clip": "none"}, {"solver": "curve"}])
def test_a_network_that_writes_into_its_input_has_the_map_of_one_that_does_not(options, target):
    inner, x = conv_net(), images(2)
    given = x.clone()
    question = None if target is None else Question.why(target)
    writes, plain = (
        optimize_masks(Shifted(inner, in_place).eval(), given, question, n_iter=2, **options)
        for in_place in (True, False)
    )
    assert torch.equal(given, x)
    assert torch.equal(writes.attribution, plain.attribution)
    assert torch.equal(writes.answer_ranges, plain.answer_ranges)


@pytest.mark.parametrize("measure", [sufficiency, partial(completeness_error, baselines=0.0)])
def test_metrics_of_a_network_that_writes_into_its_input(measure):
    inner, x = conv_net(), images(2)
    given = x.clone()
    writes, plain = (measure(Shifted(inner, in_place).eval(), given, images(2)) for in_place in (True, False))
    assert torch.equal(given, x)
    assert torch.equal(writes, plain)
