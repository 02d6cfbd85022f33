"""The curve solver on networks that keep one grid of tokens: cells, start, patches that are left out, odd networks."""

from __future__ import annotations

import warnings

import pytest
import timm
import torch
from torch import nn
from torch.nn.functional import interpolate

from tests.networks import conv_net, filled, images, untouched
from tests.test_token_dropping import PLACES, SIDE, Pooled, dinov2, hf_vit, on_the_rest, swin, timm_vit, torchvision_vit
from xai_align import read_out
from xai_align.fei import optimize_masks
from xai_align.fei.quantile_masks import standardised
from xai_align.perturbation import TieWarning

pytestmark = pytest.mark.filterwarnings("ignore::xai_align.fei.optimised.AreaMissed")
HELD = {"n_iter": 1, "lr": 1e-12}
FEW = {"n_iter": 3, "lr": 0.2}


def pictures(count=2, channels=3, size=(SIDE, SIDE)):
    return torch.randn(count, channels, *size, generator=torch.Generator().manual_seed(0))


def same(a, b, atol=1e-5):
    torch.testing.assert_close(a, b, rtol=0, atol=atol)


@pytest.mark.parametrize("make", [timm_vit, torchvision_vit, hf_vit, dinov2, lambda: filled(Pooled())])
def test_cells_are_patches_and_the_search_starts_at_the_default_readout(make):
    model, x = make(), pictures()
    start = torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(1))
    given = optimize_masks(model, x, [1, 3], start=start, **HELD).attribution
    same(given, interpolate(standardised(start)[:, None], (SIDE, SIDE), mode="bilinear")[:, 0])
    readout = read_out(model, x, [1, 3]).map("smooth").detach()
    cells = standardised(interpolate(readout[:, None], (4, 4), mode="bilinear", antialias=True)[:, 0])
    for name in ("readout", "default readout"):
        found = optimize_masks(model, x, [1, 3], start=name, **HELD).attribution
        same(found, interpolate(cells[:, None], (SIDE, SIDE), mode="bilinear")[:, 0])


def test_a_network_of_convolutions_starts_at_its_last_map_unless_the_default_readout_is_wanted():
    model, x = conv_net(), images(2)
    for start, layer in (("readout", "conv2"), ("default readout", None)):
        readout = read_out(model, x, [1, 3], layer).map("smooth").detach()
        same(optimize_masks(model, x, [1, 3], start=start, shift=0, **HELD).attribution, standardised(readout))


def test_the_loss_is_that_of_the_network_on_the_tokens_that_are_left():
    """Four patches above all others, which are at the threshold: visibilities 1 and 0.5 are as two tokens and one."""
    model, x, high = filled(Pooled()), pictures(1), [1, 6, 7, 12]
    low = [place for place in range(PLACES) if place not in high]
    start = torch.zeros(PLACES)
    start[high] = 1
    found = optimize_masks(
        model, x, 2, removal="drop", start=start.reshape(1, 4, 4), temperatures=(1e-3, 1e-3), mirror="never",
        deviation_weight=0.0, **HELD,
    )  # fmt: skip
    with torch.no_grad():
        odds = [
            (z := on_the_rest(model, x, places)[0])[2] - z[[0, 1, 3, 4]].logsumexp(0)
            for places in (list(range(PLACES)), high + high + low, low)
        ]
    offset = odds[0].clamp(max=0)  # a class that is not predicted is judged relative to the image
    p_ins, p_del = (torch.sigmoid(one - offset) for one in odds[1:])
    same(found.losses[0, 0], p_del - p_ins)
    assert abs(float(p_del - p_ins)) > 1e-3
    assert found.notes == ("hidden patches were left out of the tokens, and no fill was used",)


@pytest.mark.parametrize("removal", ["fill", "drop", "either"])
def test_an_image_has_the_same_map_alone_and_nothing_of_the_callers_changes(removal):
    model, x = timm_vit().double(), pictures(3).double()
    with untouched(model):
        together = optimize_masks(model, x, [1, 3, 0], removal=removal, **FEW)
    alone = optimize_masks(model, x[1:2], [3], removal=removal, **FEW)
    same(together.attribution[1], alone.attribution[0], 1e-8)
    assert not torch.allclose(together.attribution[0], together.attribution[1], atol=1e-2)


def test_ways_to_hide_differ():
    model, x = timm_vit(), pictures()
    maps = [optimize_masks(model, x, [1, 3], removal=way, **FEW).attribution for way in ("fill", "drop")]
    assert (maps[0] - maps[1]).abs().max() > 1e-2


def test_a_fill_is_of_no_account_where_patches_are_left_out():
    model = timm_vit()
    a, b = (
        optimize_masks(model, pictures(), [1, 3], removal="drop", baselines=fill, **FEW).attribution
        for fill in (0.0, 5.0)
    )
    assert torch.equal(a, b)


def test_the_border_of_an_upsampled_map_is_no_tie():
    """Beyond the centres of 4 x 4 cells 7/16 of the pixels have a neighbour's value; the scores of cells all differ."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", TieWarning)
        found = optimize_masks(timm_vit(), pictures(3), [1, 3, 0], internal_batch_size=2, **FEW)
    assert found.tie_fraction.tolist() == [0, 0, 0]
    assert found.cells.shape == (3, 4, 4)


def test_masks_of_patches_are_shifted_by_whole_patches():
    model, x = timm_vit(), pictures()
    still, whole = (
        optimize_masks(model, x, [1, 3], shift=shift, **FEW | {"n_iter": 6}).attribution for shift in (0, 8)
    )
    for part in (7, 12):
        with pytest.raises(
            ValueError, match=rf"shift is {part} pixels, and the masks are of patches of 8; give a mult"
        ):
            optimize_masks(model, x, [1, 3], shift=part, **FEW)
    assert (still - whole).abs().max() > 1e-3


def test_dropping_under_clipping():
    model, x = timm_vit(), pictures()
    found = optimize_masks(model, x, [1, 3], removal="drop", clip="ibm", mirror="never", **FEW)
    assert found.clipped == tuple(f"blocks.{i}.mlp.act (gelu)" for i in range(3))
    plain = optimize_masks(model, x, [1, 3], removal="drop", mirror="never", **FEW)
    assert (found.attribution - plain.attribution).abs().max() > 1e-3


def test_an_unknown_way_to_hide_is_refused():
    with pytest.raises(ValueError, match="removal must be 'fill', 'drop' or 'either', got 'cut'"):
        optimize_masks(timm_vit(), pictures(), [1, 3], removal="cut", **FEW)


def small(name, size=SIDE, **options):
    return lambda: filled(timm.create_model(name, **{"img_size": size, "num_classes": 5} | options))


TINY = {"embed_dim": 24, "depth": 2, "num_heads": 2}
#: Makers of networks, sizes and channels of their images, and whether patches can be left out (None: any message).
ODD = {
    "one channel": (lambda: timm_vit(in_chans=1), (SIDE, SIDE), 1, True),
    "five channels": (lambda: timm_vit(in_chans=5), (SIDE, SIDE), 5, True),
    "not square": (lambda: timm_vit(img_size=(32, 48)), (32, 48), 3, True),
    "no whole patches": (lambda: timm_vit(img_size=(35, 35)), (35, 35), 3, True),
    "one patch": (lambda: timm_vit(img_size=8), (8, 8), 3, False),
    "four patches": (lambda: timm_vit(img_size=16), (16, 16), 3, True),
    "registers": (lambda: timm_vit(reg_tokens=4), (SIDE, SIDE), 3, True),
    "pooled": (lambda: timm_vit(class_token=False, global_pool="avg"), (SIDE, SIDE), 3, True),
    "pooled by attention": (lambda: timm_vit(class_token=False, global_pool="map"), (SIDE, SIDE), 3, True),
    "pooled by a maximum": (lambda: timm_vit(class_token=False, global_pool="max"), (SIDE, SIDE), 3, False),
    "distilled": (small("deit_tiny_distilled_patch16_224", 64, **TINY), (64, 64), 3, True),
    "parallel blocks": (small("vit_small_patch16_18x2_224", 64, **TINY), (64, 64), 3, True),
    "a bias for each pair": (small("beit_base_patch16_224", 64, **TINY), (64, 64), 3, True),
    "rotations": (small("eva02_tiny_patch14_224", 56, **TINY), (56, 56), 3, True),
    "weights with a bias behind softmax": (small("cait_xxs24_224", 64, **TINY), (64, 64), 3, False),
    "attention over channels": (
        small("xcit_nano_12_p16_224", 64, embed_dim=24, depth=2, num_heads=2),
        (64, 64),
        3,
        False,
    ),
    "windows": (lambda: swin().eval(), (SIDE, SIDE), 3, False),
    "pyramid": (small("pit_ti_224", 64), (64, 64), 3, False),
    "convolutions": (conv_net, (SIDE, SIDE), 3, False),
    "no spatial layer": (lambda: filled(nn.Sequential(nn.Flatten(), nn.Linear(192, 5))), (8, 8), 3, False),
}


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("removal", ["fill", "drop"])
def test_a_network_works_or_says_what_to_do(name, removal):
    make, size, channels, can = ODD[name]
    model, x = make(), pictures(2, channels, size)
    start = "flat" if name == "no spatial layer" else "readout"
    if removal == "drop" and not can:
        told = "sees the image as one patch, and none can" if name == "one patch" else "hide them by a fill"
        with pytest.raises(ValueError, match=told):
            optimize_masks(model, x, [1, 3], removal=removal, start=start, **FEW)
        return
    found = optimize_masks(model, x, [1, 3], removal=removal, start=start, **FEW)
    assert found.attribution.shape == (2, *size)
    assert found.attribution.isfinite().all()
    assert (found.attribution.flatten(1).std(1) > 0.5).all()


def test_a_network_without_a_spatial_layer_is_refused_in_words_at_its_readout():
    model = filled(nn.Sequential(nn.Flatten(), nn.Linear(192, 5)))
    with pytest.raises(ValueError, match="layer"):
        optimize_masks(model, pictures(2, 3, (8, 8)), [1, 3], **FEW)


class Scaled(nn.Module):
    """Multiplies every image's logits by a number of its own."""

    def __init__(self):
        super().__init__()
        self.inner = timm_vit()

    def forward(self, x, by, *, power=2):
        return self.inner(x) * by[:, None] ** power


@pytest.mark.parametrize("removal", ["fill", "drop"])
def test_further_arguments_go_along(removal):
    model, x, by = Scaled().eval().double(), pictures().double(), torch.tensor([1.0, 3.0]).double()
    whole = optimize_masks(model, x, [1, 3], removal=removal, additional_forward_args=by, **FEW)
    last = optimize_masks(model, x[1:], [3], removal=removal, additional_forward_args=by[1:], **FEW)
    same(whole.attribution[1:], last.attribution, 1e-8)
    bare = optimize_masks(model.inner, x[1:], [3], removal=removal, **FEW)
    assert (last.attribution - bare.attribution).abs().max() > 1e-6
