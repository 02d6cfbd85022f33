"""FEI with Captum's call, pytorch-grad-cam's, and by name: shapes, questions, seeds, sizes, and no trace."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from captum.attr import Attribution
from torch import nn
from tqdm.auto import tqdm

from captum_align import ClippedGradientAttribution, FEIAttribution
from gradcam_align import FEICAM
from tests.networks import conv_net, images, two_layers, untouched
from xai_align import Question, explain, plugins
from xai_align.fei import CurveOptions, NothingToClip, OptimisedMasks, clipped_gradient
from xai_align.fei.published.nested import nested_masks
from xai_align.question import TargetError, ask
from xai_align.testing import check_attribution, conformance_checks

FEW = {"quantiles": (0.3, 0.7), "n_iter": 4}
#: From a mask of nothing, four steps say more with a light area term.
SOLVERS = {
    "curve": FEW,
    "nested": FEW | {"area_weight": 0.01, "solver": "nested"},
    "both": FEW | {"nested_iter": 2, "solver": "both"},
}
# so few steps reach no area, and tie
pytestmark = pytest.mark.filterwarnings(
    "ignore::xai_align.fei.AreaMissed", "ignore::xai_align.perturbation.ranking.TieWarning"
)


def net(classes=5):
    """In float64, where rounding does not reach what is compared."""
    return conv_net(classes=classes).double()


def pictures(count=2):
    return images(count, dtype=torch.float64)


def same(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def differ(a, b):
    return not torch.allclose(a, b, rtol=0, atol=1e-4)


def fei(model, solver="nested", **options):
    return FEIAttribution(model, **SOLVERS[solver] | options)


@pytest.mark.parametrize(
    ("build", "not_kept"),
    [
        (partial(FEIAttribution, quantiles=(0.5,), n_iter=2), {"several_inputs"}),
        (partial(FEIAttribution, solver="nested", quantiles=(0.5,), n_iter=2), {"several_inputs"}),
        (partial(FEIAttribution, solver="both", quantiles=(0.5,), n_iter=2, nested_iter=1), {"several_inputs"}),
        (partial(ClippedGradientAttribution, points=(0.6,), colours=1), {"several_inputs"}),
    ],
    ids=["curve", "nested", "both", "clipped-gradient"],
)
def test_conventions(build, not_kept):
    require = ["numpy_targets", "detached", "inputs_after_error"]
    outcomes = check_attribution(build, require=require, skip=not_kept)
    assert {one.check for one in outcomes if one.status == "passed"} == set(conformance_checks()) - not_kept


def test_it_is_captums_kind():
    for method, name in ((fei(net()), "FEI"), (ClippedGradientAttribution(net()), "Clipped Gradient")):
        assert isinstance(method, Attribution)
        assert method.get_name() == name
        assert method.has_convergence_delta() is False
    assert fei(net()).multiplies_by_inputs is False


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_map_is_spread_over_the_channels_and_masks_and_info_come_with_it(solver):
    model, x = net(), pictures()
    attributions, masks, info = fei(model, solver).attribute(x, target=[1, 3], return_masks=True, return_info=True)
    assert isinstance(info, OptimisedMasks)
    assert attributions.shape == x.shape
    assert masks.shape == (2, 2, 1, 8, 8)
    assert torch.equal(masks[:, :, 0], info.masks)
    same(attributions.sum(1), info.attribution)
    assert torch.equal(attributions[:, 0], attributions[:, 2])
    assert (info.attribution.flatten(1).std(1) > 0).all()
    (in_tuple,), only_masks = fei(model, solver).attribute((x,), target=[1, 3], return_masks=True)
    assert torch.equal(in_tuple, attributions)
    assert torch.equal(only_masks, masks)


def test_it_is_what_the_solver_finds():
    """With Captum's order of arguments: inputs, baselines, target, further ones."""
    model, x = net(), pictures()
    questions = [Question.why(1), Question.why(3)]
    found = nested_masks(model, x, questions, baselines=0.5, seed=4, objective="both", area_weight=0.01, **FEW)
    for baselines in (0.5, torch.full_like(x, 0.5), (torch.full_like(x[:1], 0.5),), lambda *given: torch.tensor(0.5)):
        same(fei(model, objective="both").attribute(x, baselines, [1, 3], seed=4).sum(1), found.attribution)
    slopes = clipped_gradient(model, x, questions, seed=4, colours=3)
    same(ClippedGradientAttribution(model, colours=3).attribute(x, None, [1, 3], seed=4).sum(1), slopes)


@pytest.mark.parametrize("solver", SOLVERS)
def test_every_form_of_a_question(solver):
    model, x = net(), pictures()
    method = fei(model, solver)
    with pytest.raises(TargetError, match="no target was given"):  # Captum's word for an output with one entry
        method.attribute(x)
    plain = method.attribute(x, target=[1, 3])
    for form in (torch.tensor([1, 3]), np.array([1, 3]), [(1,), (3,)], [Question.why(1), Question.why(3)]):
        assert torch.equal(method.attribute(x, target=form), plain)
    asked, target = ask(nn.DataParallel(model), [1, 3], 2)
    assert torch.equal(fei(asked, solver).attribute(x, target=target), plain)
    contrast = method.attribute(x, target=[Question.why_not(1, 0), Question.why(3)])
    assert differ(contrast[0], plain[0])
    same(contrast[1], plain[1])
    for wrong in (9, [1], 1.5, Question.why(-9)):
        with untouched(model), pytest.raises(TargetError):
            method.attribute(x, target=wrong)


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_seed_is_fixed_given_or_drawn(solver):
    model, x = net(), pictures(1)

    def found(**options):
        return fei(model, solver).attribute(x, target=1, **options)

    def drawn(start):
        return found(generator=torch.Generator().manual_seed(start))

    assert torch.equal(found(), found(seed=0))
    assert torch.equal(drawn(5), drawn(5))
    assert differ(drawn(5), drawn(6))
    assert differ(found(seed=1), found())
    with pytest.raises(TypeError, match="a generator and a seed"):
        found(seed=1, generator=torch.Generator())
    with pytest.raises(TypeError, match=r"generator must be a torch\.Generator, got int"):
        found(generator=3)


class Shifted(nn.Module):
    """Adds to every image its own pattern."""

    def __init__(self):
        super().__init__()
        self.net = net()

    def forward(self, x, pattern, scale):
        return scale * self.net(x + pattern)


def test_a_call_overrides_each_option_of_the_constructor():
    x, quick = pictures(1), {"start": "flat", "n_iter": 2, "return_info": True}
    three = FEIAttribution(net(), options=CurveOptions(restarts=3), seed=1, removal="fill")
    for given, passes in (({}, 12), ({"restarts": 1}, 4), ({"options": CurveOptions(restarts=2)}, 8)):
        assert three.attribute(x, target=1, **quick | given)[1].passes == passes
    drawn = three.attribute(x, target=1, **quick, generator=torch.Generator().manual_seed(4))[0]
    again = three.attribute(x, target=1, **quick, generator=torch.Generator().manual_seed(4))[0]
    seeded = three.attribute(x, target=1, **quick)[0]
    assert torch.equal(drawn, again)
    assert not torch.equal(drawn, seeded)
    nested = three.attribute(x, target=1, solver="nested", n_iter=2)
    same(nested, FEIAttribution(net(), solver="nested", seed=1).attribute(x, target=1, n_iter=2))


@pytest.mark.parametrize(
    "build", [partial(fei, solver="curve"), fei, ClippedGradientAttribution], ids=["curve", "nested", "gradient"]
)
def test_the_size_of_the_pieces_changes_nothing(build):
    model, x = Shifted().eval(), pictures(3)
    pattern, fills = (images(3, seed=seed, dtype=torch.float64) for seed in (1, 2))
    given = {"target": [1, 3, 0], "additional_forward_args": (pattern, 2.0)}
    # three numbers for three channels, which belong to no image
    given["normalization"] = (torch.tensor([0.1, 0.2, 0.3]), 0.5)
    for baselines in (None, fills):
        whole, *pieces = (
            build(model).attribute(x, baselines, generator=torch.Generator(), internal_batch_size=size, **given)
            for size in (None, 2, 1)
        )
        for one in pieces:
            same(one, whole)
        assert whole.dtype == torch.float64


def test_what_is_not_fit_is_refused():
    model, x = net(), pictures()
    unknown = r"nested_masks has no option 'n_itre'; did you mean 'n_iter'\? It has quantiles, n_iter"
    refused = [
        (TypeError, unknown, {"n_itre": 3}),
        (ValueError, "solver must be 'curve', 'nested' or 'both', got 'greedy'", {"solver": "greedy"}),
        (ValueError, "internal_batch_size must be a positive integer, got 0", {"internal_batch_size": 0}),
        (ValueError, "n_iter must be a positive integer, got 0", {"n_iter": 0}),
        (ValueError, "the quantiles are", {"quantiles": (0.5, 0.2)}),
        (ValueError, "2 baselines were given", {"baselines": (0, 0)}),
    ]
    for error, message, options in refused:
        with untouched(model), pytest.raises(error, match=message):
            fei(model).attribute(x, target=1, **options)
    with pytest.raises(TypeError, match="solver='nested' has no option 'removal'; solver='curve' has it"):
        fei(model).attribute(x, target=1, removal="drop")
    with pytest.raises(TypeError, match="nested_masks has no option 'layer'"):
        fei(model, layer="conv2")
    with pytest.raises(TypeError, match="clipped_gradient has no option 'n_iter'"):
        ClippedGradientAttribution(model, n_iter=3)
    with pytest.raises(TypeError, match="clipped_gradient has no option 'point'; did you mean 'points'"):
        ClippedGradientAttribution(model).attribute(x, target=1, point=0.5)
    with pytest.raises(ValueError, match="2 inputs were given; a mask covers one tensor"):
        fei(model).attribute((x, x), target=1)
    with pytest.raises(ValueError, match="train mode"):
        fei(net().train()).attribute(x, target=1)
    with pytest.raises(ValueError, match=r"must have the shape \[N, C, H, W\]"):
        fei(two_layers()).attribute(torch.ones(2, 2), target=1)
    with pytest.raises(TypeError, match=r"torch\.nn\.Module itself, got function"):
        fei(lambda x: x).attribute(x, target=1)


@pytest.mark.parametrize("solver", SOLVERS)
def test_nothing_of_the_callers_changes_when_it_is_interrupted(solver):
    model, x = net(), pictures(3)
    calls = []

    def tenth(*args):
        calls.append(1)
        if len(calls) == 10:
            raise KeyboardInterrupt

    handle = model.conv2.register_forward_hook(tenth)
    with untouched(model), pytest.raises(KeyboardInterrupt):
        fei(model, solver).attribute(x, target=1, internal_batch_size=1, show_progress=True)
    handle.remove()
    with untouched(model):
        fei(model, solver).attribute(x, target=1)
        ClippedGradientAttribution(model).attribute(x, target=1)
    assert not x.requires_grad


@pytest.mark.parametrize("method", ["fei", "fei-nested", "clipped-gradient"])
def test_by_name(method):
    model, x = net(), pictures()
    options = {"fei": FEW, "fei-nested": FEW, "clipped-gradient": {}}[method]
    asked = [Question.why_not(1, 0), Question.why(3)]
    with untouched(model):
        found = explain(model, x, asked, method, **options)
    same(found.map, found.attribution.sum(1))
    built = plugins.attribution_method(method).build(model, **options, internal_batch_size=1)
    same(found.attribution, built.attribute(x, target=asked))
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert torch.equal(explain(model, pictures(), asked, method, **options).attribution, found.attribution)
    smooth = nn.Sequential(nn.Conv2d(3, 2, 1), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).double().eval()
    with pytest.raises(NothingToClip, match="'none'"):  # no other method in its place
        explain(smooth, x, 1, method, clip="ibm", **options)
    explain(smooth, x, 1, method, clip="none", **options)


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_progress_bar_counts_every_step(solver, monkeypatch):
    bars, leave = [], tqdm.__exit__
    monkeypatch.setattr(tqdm, "__exit__", lambda bar, *error: (bars.append((bar.n, bar.total)), leave(bar, *error))[1])
    fei(net(), solver).attribute(pictures(3), target=1, internal_batch_size=2, show_progress=True)
    assert bars == [{"curve": (8, 8), "nested": (16, 16), "both": (28, 28)}[solver]]


def test_a_cam_is_the_positive_part_of_the_map_scaled():
    model, x = net(), pictures()
    options = FEW | {"normalization": (0.0, 1.0)}
    with untouched(model), FEICAM(model, **options) as cam:
        picture = cam(x, [Question.why_not(1, 0), 3])
        smooth = cam(x, 1, aug_smooth=True)
    found = FEIAttribution(model, **options).attribute(x, target=[Question.why_not(1, 0), Question.why(3)]).sum(1)
    same(cam.attributions(x, [Question.why_not(1, 0), 3]), found)
    positive = found.clamp(min=0)
    least, most = positive.amin((1, 2), keepdim=True), positive.amax((1, 2), keepdim=True)
    same(torch.from_numpy(picture), ((positive - least) / (most - least)).float())
    assert smooth.shape == (2, 8, 8)
    assert smooth.min() == 0
    assert smooth.max() == pytest.approx(1)
    assert not np.allclose(smooth, cam(x, 1), atol=1e-2)
    with pytest.warns(UserWarning, match="takes no layer"):
        FEICAM(model, [model.conv2], **options)
