"""The residual rule: sums of two branches, by hand, in every spelling, and within its bound."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor, nn

from tests.networks import images
from xai_align import read_out
from xai_align.pinet import ReadoutLayer


class Two(nn.Module):
    """``combine(3 x_0, -2 x_1)``, as one logit."""

    def __init__(self, combine) -> None:
        super().__init__()
        self.combine = combine

    def forward(self, x: Tensor) -> Tensor:
        return self.combine(3 * x[:, :1], -2 * x[:, 1:])


def in_place(a: Tensor, b: Tensor) -> Tensor:
    a = a.clone()
    a += b
    return a


SUMS = {
    "operator": lambda a, b: a + b,
    "function": torch.add,
    "method": lambda a, b: a.add(b),
    "in place": in_place,
    "in place method": lambda a, b: a.clone().add_(b),
    "out": lambda a, b: torch.add(a, b, out=torch.empty_like(a)),
    "alpha": lambda a, b: torch.add(a, 0.5 * b, alpha=2),
    "difference": lambda a, b: a - (-b),
    "difference as a function": lambda a, b: torch.sub(a, -b),
    "aten": torch.ops.aten.add.Tensor,
}


@pytest.mark.parametrize("spelling", SUMS)
@pytest.mark.parametrize(("gamma", "expected"), [(0.0, [3.0, -2.0]), (1.0, [1.5, -0.5]), (3.0, [1.2, -0.2])])
def test_the_branch_that_agrees_counts_more(spelling, gamma, expected):
    # 3 - 2 = 1: the first branch agrees with the sum; m = (1 + gamma) 3 - 2
    x = torch.ones(1, 2, dtype=torch.float64)
    readout = read_out(Two(SUMS[spelling]).eval(), x, 0, ReadoutLayer(feature_space="input", residual=gamma))
    assert torch.allclose(readout.contributions, torch.tensor([expected], dtype=torch.float64))
    assert readout.answer.item() == pytest.approx(1)
    assert readout.bias.item() == 0


def test_what_is_constant_is_no_branch():
    class Biased(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x + torch.tensor([-5.0, 7.0])) * 2

    layer = ReadoutLayer(feature_space="input", residual=1.0)
    readout = read_out(Biased().eval(), torch.tensor([[1.0, 2.0]]), 1, layer)
    assert readout.contributions.tolist() == [[0.0, 4.0]]
    assert readout.bias.tolist() == [14.0]


@pytest.mark.parametrize("gamma", [0.5, 1.0, 4.0])
def test_no_sum_amplifies_beyond_the_bound(gamma):
    class Sums(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[:, :500] + x[:, 500:]

    x = torch.randn(1, 1000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x[0, 500:] = -x[0, :500] * (1 + 1e-9)  # nearly all cancels
    x[0, 700] = -x[0, 200]  # all of it does
    layer = ReadoutLayer(feature_space="input", residual=gamma)
    answer = Sums()(x)[0]
    for unit in (0, 100, 200):
        readout = read_out(Sums().eval(), x, unit, layer)
        assert readout.contributions.abs().sum() <= (1 + 2 / gamma) * answer[unit].abs() * (1 + 1e-6)
        assert torch.allclose(readout.contributions.sum(), answer[unit], atol=1e-15)


def test_branches_of_different_shapes():
    class Broadcast(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x + x.mean((2, 3), keepdim=True)).relu().mean((2, 3))

    x = images(2, 6)[:, :3].double()
    readout = read_out(Broadcast().eval(), x, 1, ReadoutLayer(feature_space="input", residual=1.0))
    assert readout.relative_error.max() < 1e-12


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext"])
@pytest.mark.parametrize("rule", ["gate", "gamma"])
def test_networks_with_shortcuts_add_up_and_cancel_less(name, rule):
    model, x = timm.create_model(name).eval().double(), images(2, 160).double()
    for parameter in model.parameters():
        parameter.data.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    space = {"test_resnet": "layer1", "test_vit": "blocks.1", "test_convnext": "stages.0"}[name]
    plain, residual = (
        read_out(model, x, 3, ReadoutLayer(feature_space=space, rule=rule, residual=gamma)) for gamma in (0.0, 1.0)
    )
    assert residual.relative_error.max() < 1e-10
    assert not torch.allclose(residual.contributions, plain.contributions, rtol=1e-2)


@pytest.mark.parametrize("gamma", [-1.0, float("inf"), float("nan")])
def test_a_strength_that_is_none_is_refused(gamma):
    with pytest.raises(ValueError, match=r"residual is .*; give a finite number, 0"):
        read_out(Two(torch.add).eval(), torch.ones(1, 2), 0, ReadoutLayer(feature_space="input", residual=gamma))
