"""Options of FEI: a value of another type is refused in words that name the option, for every option there is."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.networks import conv_net, images, untouched
from xai_align.fei import FEIMethod, FitFEIOptions, clipped_gradient, fit_fei, optimize_masks
from xai_align.fei.optimize import find_solver
from xai_align.fei.published.clipped_gradient_method import ClippedGradientMethod
from xai_align.fei.solver import Solver
from xai_align.question import Question


class Junk:
    """A value that no option takes."""

    def __repr__(self) -> str:
        return "junk"


#: What a message calls an option where it is not called by its name.
CALLED = {
    "clip": "clipping mode",
    "clip_layers": "layers are",
    "deviation_layers": "layers are",
    "start_layer": "one layer",
    "quantiles": "quantiles must be",
    "fills": "fills are",
}
SOLVERS = {name: find_solver(name) for name in ("curve", "nested", "both")}
ALL = [(solver, option) for solver, found in SOLVERS.items() for option in found.defaults]


@pytest.mark.parametrize(("solver", "option"), ALL)
def test_every_option_of_a_solver(solver, option):
    model = conv_net()
    needed = {"start_layer": {"start": "readout"}}.get(option, {})
    with untouched(model), pytest.raises((TypeError, ValueError), match=CALLED.get(option, option)):
        optimize_masks(model, images(2), [1, 3], solver=solver, **{"n_iter": 1} | needed | {option: Junk()})


@pytest.mark.parametrize("option", Solver.of(clipped_gradient).defaults)
def test_every_option_of_the_clipped_gradient(option):
    with pytest.raises((TypeError, ValueError), match=CALLED.get(option, option)):
        ClippedGradientMethod(conv_net()).attribute(images(2), target=1, **{option: Junk()})


@pytest.mark.parametrize("option", [name for name in FitFEIOptions.__dataclass_fields__ if name != "log"])
def test_every_option_of_a_fit(option):
    with pytest.raises((TypeError, ValueError), match=CALLED.get(option, option)):
        fit_fei(conv_net(), images(2), epochs=1, **{option: Junk()})


@pytest.mark.parametrize("option", ["epochs", "batch_size", "learning_rate", "seed", "normalization"])
def test_every_argument_of_a_fit(option):
    with pytest.raises((TypeError, ValueError), match=option):
        fit_fei(conv_net(), images(2), **{"epochs": 1} | {option: Junk()})


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("seed", [1.5, True, None, "0", 2**64])
def test_seeds(solver, seed):
    with pytest.raises(ValueError, match=f"seed must be an integer of at most 64 bits, got {seed!r}"):
        optimize_masks(conv_net(), images(1), 1, solver=solver, seed=seed, n_iter=1)


@pytest.mark.parametrize("mask_size", [7.5, "4", (2, 2.5), (2, 2, 2), True])
def test_cells_of_the_nested_solver(mask_size):
    with pytest.raises(ValueError, match=r"mask_size is .* the images have 8 x 8 pixels; give rows and columns"):
        optimize_masks(conv_net(), images(1), 1, solver="nested", mask_size=mask_size)


def test_layers_to_clip_are_looked_for_where_nothing_is_clipped():
    with pytest.raises(ValueError, match="layer 'conv9' not found"):
        optimize_masks(conv_net(), images(1), 1, n_iter=1, clip_layers=["conv9"])
    found = optimize_masks(conv_net(), images(1), 1, n_iter=1, clip_layers=["act"])
    assert found.notes[-1] == "clip is 'none', so nothing was clipped in clip_layers"


@pytest.mark.parametrize("maps", [torch.zeros(1, 0, 0), torch.ones(1, 4, 4, dtype=torch.complex64)])
def test_starts_without_an_order(maps):
    with pytest.raises(ValueError, match="give finite maps"):
        optimize_masks(conv_net(), images(1), 1, n_iter=1, start=maps)


@pytest.mark.filterwarnings("ignore::xai_align.fei.AreaMissed")
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_function_that_works_in_place_has_a_copy_of_the_images(solver):
    def zeros(inputs, step, generator):
        return inputs.zero_()[:1]

    options = {"solver": solver, "n_iter": 2}
    x = images(1)
    expected = optimize_masks(conv_net(), x, 1, baselines=lambda inputs, step, generator: torch.zeros(1)[0], **options)
    found = optimize_masks(conv_net(), x, 1, baselines=zeros, **options)
    assert torch.equal(found.masks, expected.masks)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_function_that_returns_nan(solver):
    def nan(inputs, step, generator):
        return torch.tensor(float("nan"))

    with pytest.raises(ValueError, match="what the baselines' function returned must be finite"):
        optimize_masks(conv_net(), images(1), 1, solver=solver, n_iter=1, baselines=nan)


class FewerRows(nn.Module):
    """Answers about the first image only."""

    def __init__(self) -> None:
        super().__init__()
        self.network = conv_net()
        self.eval()

    def forward(self, x):
        return self.network(x)[:1]


@pytest.mark.parametrize("options", [{"solver": "nested"}, {"start": "flat"}])
def test_a_model_that_returns_fewer_rows_than_images(options):
    with pytest.raises(ValueError, match=r"returned \[1, .* for 2 images; it must return logits \[N, ...\]"):
        optimize_masks(FewerRows(), images(2), [1, 3], n_iter=1, **options)


def test_one_pixel_is_refused():
    with pytest.raises(ValueError, match="one pixel, and there is nothing to rank"):
        optimize_masks(conv_net(), torch.rand(2, 3, 1, 1), [1, 3], n_iter=1)


def test_a_network_without_convolutions_is_told_which_option_names_a_layer():
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 5)).eval()
    with pytest.raises(ValueError, match="no Conv2d") as raised:
        FEIMethod(network, n_iter=1).attribute(images(2), target=Question.why(1))
    assert "choose its layer with start_layer=..., or none with start='flat'" in " ".join(raised.value.__notes__)
    with pytest.raises(ValueError, match="no Conv2d") as raised:
        fit_fei(network, images(2), epochs=1)
    assert "use the method 'fei'" in " ".join(raised.value.__notes__)
    assert optimize_masks(network, images(2), 1, n_iter=1, start_layer="input").attribution.shape == (2, 8, 8)
