"""Networks that depend on the memory format of their inputs are run in the format that the caller's inputs have."""

from __future__ import annotations

import pytest
import torch
from networks import conv_net, images
from torch import nn

from captum_align import ClippedGradientAttribution, FEIAttribution
from xai_align._tools.memory_format import fastest_format, memory_format_of
from xai_align.perturbation import perturbation_curve
from xai_align.plugins import metric


class Tutorial(nn.Module):
    """The network of PyTorch's and Captum's CIFAR tutorials, with its ``view``."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 5), nn.Conv2d(6, 16, 5)
        self.pool = nn.MaxPool2d(2, 2)
        self.fc1, self.fc2, self.fc3 = nn.Linear(16 * 5 * 5, 120), nn.Linear(120, 84), nn.Linear(84, 10)
        self.relu1, self.relu2, self.relu3, self.relu4 = (nn.ReLU() for _ in range(4))

    def forward(self, x):
        x = self.pool(self.relu1(self.conv1(x)))
        x = self.pool(self.relu2(self.conv2(x)))
        x = self.flat(x)
        return self.fc3(self.relu4(self.fc2(self.relu3(self.fc1(x)))))

    def flat(self, x):
        return x.view(-1, 16 * 5 * 5)


class ByCount(Tutorial):
    def flat(self, x):
        return x.view(x.size(0), -1)


class AtTheInput(Tutorial):
    def forward(self, x):
        return super().forward(x.view(len(x), -1).view(x.shape))


class LastOnly(Tutorial):
    """It runs on channels-last inputs alone."""

    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1).view(len(x), -1, 3).view(len(x), 32, 32, 3).permute(0, 3, 1, 2))

    def flat(self, x):
        return x.flatten(1)


class Strided(Tutorial):
    """It computes something else on channels-last inputs, without an error."""

    def forward(self, x):
        return super().forward(torch.as_strided(x, x.shape, (3 * 32 * 32, 32 * 32, 32, 1)))

    def flat(self, x):
        return x.flatten(1)


NETWORKS = [Tutorial, ByCount, AtTheInput, Strided, LastOnly]


def network(cls):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return cls().eval()


def given(cls, count=2):
    x = images(count, 32)
    return x.contiguous(memory_format=torch.channels_last) if cls is LastOnly else x


class Flat(Tutorial):
    """The same function in any format."""

    def flat(self, x):
        return x.flatten(1)


@pytest.mark.parametrize("cls", NETWORKS)
def test_curves_are_those_of_the_same_function_in_any_format(cls):
    model, x = network(cls), given(cls)
    curve = perturbation_curve(model, x, x.abs())
    with torch.no_grad():
        torch.testing.assert_close(curve.clean, model(x).softmax(1), rtol=1e-4, atol=1e-5)
    same = perturbation_curve(network(Flat), x, x.abs())
    torch.testing.assert_close(curve.masked, same.masked, rtol=1e-3, atol=1e-5)


#: What a metric needs beyond network, inputs and maps, and what it asks of the question, is tested elsewhere.
NAMED = (
    "insertion deletion morf road srg comprehensiveness decision_flip rank_deletion average_drop pgs infidelity".split()
)


@pytest.mark.parametrize("name", NAMED)
def test_metrics_are_those_of_the_same_function_in_any_format(name):
    x = given(Tutorial)
    found = [metric(name).evaluate(network(cls), x, x.abs(), target=3) for cls in (Tutorial, Flat)]
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("cls", NETWORKS)
def test_fei_and_clipped_gradients_run(cls):
    model, x = network(cls), given(cls)
    for found in (
        FEIAttribution(model, n_iter=2).attribute(x, target=3),
        FEIAttribution(model, solver="nested", n_iter=2).attribute(x, target=3),
        ClippedGradientAttribution(model, points=(0.5,), colours=1).attribute(x, target=3),
    ):
        assert found.shape == x.shape
        assert bool(torch.isfinite(found).all())


def test_the_clipped_gradient_does_not_depend_on_how_the_network_flattens():
    x = given(Tutorial)
    maps = [
        ClippedGradientAttribution(network(cls), points=(0.5,), colours=1).attribute(x, target=3)
        for cls in (Tutorial, ByCount)
    ]
    torch.testing.assert_close(*maps)


def test_the_format_is_found_for_each_network():
    x = images(2, 32)
    assert fastest_format(network(Tutorial), x) is torch.contiguous_format
    assert fastest_format(network(Strided), x) is torch.contiguous_format
    assert fastest_format(conv_net(), images()) is torch.channels_last
    assert fastest_format(lambda x: x.flatten(1), x) is torch.contiguous_format  # a function may count its calls
    last = x.contiguous(memory_format=torch.channels_last)
    assert fastest_format(network(LastOnly), last) is torch.channels_last
    assert fastest_format(conv_net(), x.flatten(2)) is torch.contiguous_format
    volume = torch.zeros(2, 3, 4, 4, 4)
    assert memory_format_of(volume) is torch.contiguous_format
    assert memory_format_of(volume.contiguous(memory_format=torch.channels_last_3d)) is torch.channels_last_3d


def test_a_network_is_tried_once_for_each_state():
    model, calls = conv_net(), []
    model.register_forward_hook(lambda *args: calls.append(1))
    for _ in range(3):
        fastest_format(model, images())
    assert len(calls) == 2  # once in each format
    with torch.no_grad():
        model.fc.weight.mul_(2)
    fastest_format(model, images())
    assert len(calls) == 4


def test_the_networks_own_error_is_the_one_that_is_raised():
    class Broken(nn.Module):
        def forward(self, x):
            raise RuntimeError("always")

    with pytest.raises(RuntimeError, match="always"):
        perturbation_curve(Broken().eval(), images(), images().abs())
