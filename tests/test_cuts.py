"""Whether a layer cuts its network is measured; what goes round it is told; defaults are cuts."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from torch import Tensor, nn

from tests.networks import conv_net, images, untouched
from xai_align import read_out
from xai_align.features.head_input import head_input
from xai_align.pinet import cuts, default_layers
from xai_align.pinet.cuts import is_cut


class Shortcut(nn.Module):
    """``logits = head(relu(inner(x)) + x)``, without any bias."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(4, 4, bias=False), nn.Linear(4, 3, bias=False)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.inner(x).relu() + x)


class Branched(nn.Module):
    """``conv`` and a layer with a bias behind it, and a path of the image that bypasses both."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.after, self.side = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))
        self.fc = nn.Linear(3, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc((self.after(self.conv(x).relu()).relu() + self.side(x)).mean((2, 3)))


def test_what_goes_round_a_layer_is_a_number_of_its_own():
    model = Shortcut()
    x = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    readout = read_out(model, x, 2, "inner")
    # the branch is relu(W x), the shortcut x itself
    assert torch.allclose(readout.contributions, model.head.weight[2] * model.inner(x).relu(), rtol=1e-12)
    assert torch.allclose(readout.around, x @ model.head.weight[2], rtol=1e-12)
    assert torch.allclose(readout.bias, torch.zeros(3, dtype=torch.float64), atol=1e-14)
    assert torch.allclose(readout.total + readout.around + readout.bias, readout.answer, rtol=1e-12)
    assert readout.relative_error.max() < 1e-12


def test_the_error_counts_what_goes_round_the_layer_and_placed_biases():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, x = Branched().double().eval(), torch.rand(2, 3, 8, 8).double()
    readout = read_out(model, x, 2, "conv", biases="placed")
    contributions = readout.contributions.flatten(1).sum(1)
    placed = sum(maps.flatten(1).sum(1) for maps in readout.placed)
    for part in (contributions, placed, readout.around):
        assert part.abs().min() > 1e-3
    error = contributions + placed + readout.around + readout.bias - readout.answer
    assert torch.allclose(readout.completeness_error, error, rtol=0, atol=1e-14)
    assert readout.completeness_error.abs().max() < 1e-12
    on_map = readout.map().sum((1, 2)) + readout.prefix + readout.around + readout.bias
    assert torch.allclose(on_map, readout.answer, rtol=1e-12)
    mixture = read_out(model, x, 2, ["conv", "after"], biases="placed")
    assert torch.allclose(mixture.total + mixture.around + mixture.bias, mixture.answer, rtol=1e-12)


def test_nothing_goes_round_a_cut():
    model, x = conv_net(), images()
    for place in ("input", "conv1", "pool", "conv2"):
        assert read_out(model, x, 1, place).around.tolist() == [0.0, 0.0]


def test_layers_are_measured():
    model, x = conv_net(), images()
    assert is_cut(model, "conv2", (x,))
    assert is_cut(model, "fc", (x,))
    assert not is_cut(model, "act", (x,))  # runs twice
    assert not is_cut(Shortcut(), "inner", (torch.randn(1, 4, dtype=torch.float64),))
    with pytest.raises(ValueError, match="layer 'conv7' not found"):
        is_cut(model, "conv7", (x,))


class Detoured(nn.Module):
    """A twentieth of the largest logit goes around ``main``, which hides in the rounding of bfloat16, on no graph."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.main = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
        self.side, self.fc = nn.Linear(3, 5), nn.Linear(4, 5)
        with torch.no_grad():
            self.fc.bias.fill_(8.0)

    def forward(self, x: Tensor) -> Tensor:
        around = self.side(x.detach().mean((2, 3)))
        return self.fc(self.main(self.stem(x).relu()).relu().mean((2, 3))) + around


def test_low_precision_hides_nothing_that_goes_round_a_layer():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Detoured().eval()
    low, x = copy.deepcopy(model).bfloat16(), images(1)
    with untouched(low):
        assert [is_cut(low, name, (x.bfloat16(),)) for name in ("main", "fc")] == [False, False]
        with pytest.raises(ValueError, match="the image reaches the output around it"):
            read_out(low, x.bfloat16(), 1, "head")
    with torch.autocast("cpu", torch.bfloat16):
        assert not is_cut(model, "main", (x,))
    # and a cut is one in every precision
    assert is_cut(conv_net().bfloat16(), "conv2", (x.bfloat16(),))


def test_what_was_measured_is_kept_for_one_state_of_the_parameters():
    model, x = conv_net(), images(1)
    for _ in range(3):
        with torch.no_grad():
            model.fc.bias += 1
        assert [is_cut(model, name, (x,)) for name in ("conv2", "fc")] == [True, True]
    assert len(cuts._known[model][1]) == 2


def test_a_layer_inside_a_branch_is_no_cut():
    model, x = timm.create_model("resnet18").eval(), images(1, 64)
    assert not is_cut(model, "layer2.0.conv2", (x,))
    assert is_cut(model, "layer2.0", (x,))


@pytest.mark.parametrize(
    ("name", "place"),
    [("resnet18", "act1"), ("xception41", None), pytest.param("nasnetalarge", None, marks=pytest.mark.slow)],
)
def test_defaults_are_cuts(name, place):
    model = timm.create_model(name, num_classes=7).eval()
    size = 64 if name == "resnet18" else 96
    x = images(1, size)
    layers = default_layers(model, (x,))
    if place is not None:
        assert layers[0].feature_space.layer == place
    for one in layers:
        assert is_cut(model, one.feature_space.layer, (x,))
        assert read_out(model, x, 3, [one]).around.abs().max() == 0


def test_a_map_of_one_cell_warns():
    model, x = timm.create_model("resnet18", num_classes=7).eval(), images(1, 32)
    with pytest.warns(UserWarning, match=r"one cell.*layer="):
        read_out(model, x, 3, "head").map()


def test_a_module_that_runs_on_both_sides_of_a_split_runs_behind_it():
    """``ConvNet`` applies one activation before its last convolution and again after it."""
    model, x = conv_net(), images(3, 16)
    space = head_input(model, x[:1])
    assert space.layer == "conv2"
    assert space.split is not None
    with untouched(model), torch.no_grad():
        assert torch.equal(space.split.head(space.split.features(x)), model(x))
    assert read_out(model, x, 3, "head").kind == "frozen"  # the activation is behind it
