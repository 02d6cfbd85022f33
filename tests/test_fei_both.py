"""Both solvers of FEI: the weighted mean of two maps."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn
from torch.nn.functional import interpolate

from tests.networks import conv_net, images
from xai_align import read_out
from xai_align.features.resolve_layer import resolve_layer
from xai_align.fei import CurveOptions, NothingToClip, optimize_masks
from xai_align.fei.both import UNGUARDED

# so few steps reach no area, and tie
pytestmark = pytest.mark.filterwarnings(
    "ignore::xai_align.fei.AreaMissed", "ignore::xai_align.perturbation.ranking.TieWarning"
)
FEW = {"n_iter": 3, "nested_iter": 2}


def net():
    """In float64, where rounding does not reach what is compared."""
    return conv_net(classes=5).double()


def pictures(count=2):
    return images(count, dtype=torch.float64)


def scaled(maps):
    """Maps at mean 0 and standard deviation 1."""
    return torch.stack([(one - one.mean()) / one.std() for one in maps])


@pytest.mark.parametrize("weight", [0.0, 0.7, 1.0])
def test_the_map_is_the_weighted_mean_of_the_maps_of_each(weight):
    model, x = net(), pictures()
    found = optimize_masks(model, x, 1, solver="both", weight=weight, seed=4, **FEW)
    curve = optimize_masks(model, x, 1, n_iter=3, seed=4)
    nested = optimize_masks(model, x, 1, solver="nested", n_iter=2, seed=4, fills=CurveOptions().fills)
    expected = weight * scaled(curve.attribution) + (1 - weight) * scaled(nested.attribution)
    torch.testing.assert_close(found.attribution, expected, rtol=0, atol=1e-12)
    assert found.passes == curve.passes + nested.passes == 2 * 3 + 5 * 2
    torch.testing.assert_close(found.losses, torch.cat([curve.losses, nested.losses], 1))
    assert found.clipped == nested.clipped
    assert found.notes == (*curve.notes, *(note for note in nested.notes if note not in curve.notes))


def patches(activation=nn.GELU):
    """A vision transformer with a grid of 4 x 4 tokens."""
    torch.manual_seed(0)
    made = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=12, depth=2, num_heads=2, num_classes=3,
        global_pool="avg", class_token=False, act_layer=activation,
    )  # fmt: skip
    return made.double().eval()


@pytest.mark.parametrize(
    ("network", "given", "weights"),
    [
        (net, {}, (0.8, 0.2, 0.0)),
        (net, {"start_weight": 0.5}, (0.3, 0.2, 0.5)),
        (net, {"start_weight": 0.8}, (0.0, 0.2, 0.8)),
        (patches, {}, (0.6, 0.2, 0.2)),
        (patches, {"weight": 0.1}, (0.0, 0.9, 0.1)),
        (patches, {"start_weight": 0}, (0.8, 0.2, 0.0)),
    ],
)
def test_the_start_counts_where_the_network_keeps_one_grid_of_tokens(network, given, weights):
    model, x = network(), images(2, size=32, dtype=torch.float64)
    found = optimize_masks(model, x, 1, solver="both", seed=4, **given, **FEW)
    curve = optimize_masks(model, x, 1, n_iter=3, seed=4)
    rule = "ibm" if network is net else "none"
    nested = optimize_masks(model, x, 1, solver="nested", n_iter=2, seed=4, fills=CurveOptions().fills, clip=rule)
    parts = zip(weights, (curve.attribution, nested.attribution, curve.start), strict=True)
    torch.testing.assert_close(found.attribution, sum(w * scaled(a) for w, a in parts), rtol=0, atol=1e-10)
    torch.testing.assert_close(found.start, curve.start, rtol=0, atol=0)


def test_the_start_is_the_readout_from_which_the_search_starts():
    model, x = net(), pictures()
    found = optimize_masks(model, x, 1, n_iter=1, mask_size=8)
    whole = read_out(model, x, [1, 1], resolve_layer(model, purpose="gradient", image=x[:1])).map("smooth")
    cells = interpolate(whole[:, None], (8, 8), mode="bilinear", antialias=True)
    assert found.start.shape == x[:, 0].shape
    torch.testing.assert_close(
        found.start, interpolate(scaled(cells[:, 0])[:, None], x.shape[2:], mode="bilinear")[:, 0]
    )
    flat = optimize_masks(model, x, 1, solver="both", start="flat", start_weight=0.4, **FEW)
    assert not flat.start.any()
    assert optimize_masks(model, x, 1, solver="nested", n_iter=1).start is None


@pytest.mark.parametrize("start_weight", [-0.1, 0.81, "much"])
def test_a_weight_of_the_start_above_that_of_both_is_refused(start_weight):
    with pytest.raises((TypeError, ValueError), match="start_weight"):
        optimize_masks(net(), pictures(), 1, solver="both", start_weight=start_weight, **FEW)


@pytest.mark.parametrize(("activation", "kind"), [(nn.GELU, "gelu"), (nn.SiLU, "silu"), (nn.Hardswish, "hardswish")])
def test_smooth_activations_are_clipped_only_if_clipping_is_asked_for(activation, kind):
    model, x = patches(activation), images(1, size=32, dtype=torch.float64)
    found = optimize_masks(model, x, 1, solver="both", **FEW)
    assert found.clipped == ()
    assert (
        f"nothing was clipped in the nested masks: the network calls {kind}, and clipping is for ReLUs; {UNGUARDED}"
        in found.notes
    )
    for asked in ({"clip": "ibm"}, {"clip_layers": ["blocks.1"]}):
        assert kind in optimize_masks(model, x, 1, solver="both", **asked, **FEW).clipped[0]


def test_relu6_is_clipped():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    found = optimize_masks(model.double().eval(), pictures(1), 1, solver="both", start="flat", **FEW)
    assert found.clipped == ("1 (relu6)",)


def test_masks_are_level_sets_of_the_wanted_shares_and_need_not_be_those_of_the_nested_solver():
    found = optimize_masks(net(), pictures(), 1, solver="both", quantiles=(0.25, 0.5), **FEW)
    assert found.masks.shape[1] == 2
    assert found.areas.tolist() == [pytest.approx([0.25, 0.5], abs=0.02)] * 2
    assert bool((found.masks[:, 0] <= found.masks[:, 1]).all())
    least_inside = found.attribution.where(found.masks[:, 0] == 1, torch.inf).amin((1, 2))
    assert bool((least_inside > found.attribution.where(found.masks[:, 0] == 0, -torch.inf).amax((1, 2))).all())


def test_a_network_without_activations_is_explained_without_clipping_unless_clipping_is_asked_for():
    flat = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 6 * 6, 3)).double().eval()
    found = optimize_masks(flat, pictures(), 1, solver="both", start="flat", **FEW)
    assert found.clipped == ()
    assert f"nothing was clipped in the nested masks: the network has no activation to clip; {UNGUARDED}" in found.notes
    plain = optimize_masks(flat, pictures(), 1, solver="both", start="flat", clip="none", **FEW)
    torch.testing.assert_close(found.attribution, plain.attribution, rtol=0, atol=0)
    for asked in ({"clip": "ibm"}, {"clip_layers": ["0"]}):
        with pytest.raises(NothingToClip):
            optimize_masks(flat, pictures(), 1, solver="both", start="flat", **FEW, **asked)


def test_further_options_are_those_of_the_curve_solver():
    model, x = net(), pictures(1)
    record = optimize_masks(model, x, 1, solver="both", options=CurveOptions(start="flat", restarts=2), **FEW)
    single = optimize_masks(model, x, 1, solver="both", start="flat", restarts=2, **FEW)
    torch.testing.assert_close(record.attribution, single.attribution, rtol=0, atol=0)
    assert record.passes == 2 * 2 * 3 + 5 * 2
    with pytest.raises(TypeError, match="no option 'area_weight'; solver='nested' has it"):
        optimize_masks(model, x, 1, solver="both", area_weight=1.0)


def test_the_bar_has_as_many_steps_as_are_made(monkeypatch):
    bars = []

    class Bar:
        def __init__(self, total):
            self.total, self.done = total, 0
            bars.append(self)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            return None

        def advance(self, done):
            self.done += done

    monkeypatch.setattr("xai_align.fei.optimize.progress_bar", lambda text, total, **options: Bar(total))
    optimize_masks(net(), pictures(3), 1, solver="both", internal_batch_size=2, restarts=2, start="flat", **FEW)
    (bar,) = bars
    assert bar.total == bar.done == 2 * (2 * 3 + 5 * 2)


@pytest.mark.parametrize("solver", ["curve", "nested", "both"])
def test_in_float32_one_image_at_a_time_an_image_alone_has_bitwise_the_map_that_it_has_in_a_batch(solver):
    model, x = net().float(), pictures(3).float()
    options = {"solver": solver, "internal_batch_size": 1, "n_iter": 10}
    together = optimize_masks(model, x, [1, 2, 3], **options).attribution
    alone = torch.cat([optimize_masks(model, x[i : i + 1], [1 + i], **options).attribution for i in range(3)])
    assert torch.equal(together, alone)
