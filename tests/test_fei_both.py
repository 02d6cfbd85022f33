"""Both solvers of FEI: the weighted mean of two maps."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.networks import conv_net, images
from xai_align.fei import CurveOptions, NothingToClip, optimize_masks

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
    assert "nothing was clipped in the nested masks: the network has no activation to clip" in found.notes
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
