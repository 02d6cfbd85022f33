"""The decomposition at one layer, its notes and its size, worked by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from xai_align import FeatureSpace, read_out
from xai_align.pinet.decomposition import Decomposition, decomposition_of, size_of


class OneOfTwo(nn.Module):
    """Runs two layers and uses the first."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.Linear(3, 2), nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        out = self.used(x)
        self.unused(x)
        return out


def test_a_tensor_that_reaches_nothing_contributes_nothing():
    torch.manual_seed(0)
    model, x = OneOfTwo().eval(), torch.randn(2, 3)
    used, unused = read_out(model, x, 1, FeatureSpace(layer=("used", "unused"))).contributions
    z = model.used(x)
    assert torch.allclose(used, torch.stack([torch.zeros(2), z[:, 1]], 1))
    assert unused.tolist() == [[0.0] * 4] * 2


class RefusesZeros(nn.Module):
    """Adds what it sees around its layer, and refuses an input of zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.beside = nn.Linear(3, 2, bias=False), nn.Linear(3, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if not x.any():
            raise ValueError("an empty image")
        return self.layer(x) + self.beside(x)


def test_evidence_around_the_layer_of_a_network_that_refuses_zeros_is_found():
    torch.manual_seed(0)
    model, x = RefusesZeros().eval(), torch.randn(2, 3)
    readout = read_out(model, x, 1, "layer")
    assert torch.allclose(readout.contributions[:, 1], model.layer(x)[:, 1])
    assert torch.allclose(readout.around, model.beside(x)[:, 1], atol=1e-6)
    assert readout.bias.abs().max() < 1e-6


class Detaches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        z = self.first(x)
        return self.last(z) + z.detach().sum(1, keepdim=True)


def test_what_was_cut_off_is_noted_with_the_decomposition():
    readout = read_out(Detaches().eval(), torch.ones(1, 3), 0, "first")
    assert [cut.how for cut in readout.cut_off] == ["detach"]


def account(**changed) -> Decomposition:
    given = {
        "logits": torch.tensor([[1.0, 2.0], [3.0, 4.0]]),
        "weights": torch.tensor([[1.0, 0.0], [0.0, 1.0]]),
        "rest": torch.tensor([0.5, -0.5]),
        "contributions": (torch.tensor([[3.0, 0.0], [0.0, 4.0]]),),
        "at_zero": torch.tensor([-2.0, 0.0]),
    }
    return decomposition_of(**given | changed)


def test_an_account_by_hand():
    found = account()
    assert found.answer.tolist() == [1.5, 3.5]
    assert found.bias.tolist() == [-1.5, -0.5]
    assert found.error.tolist() == [0.0, 0.0]
    assert found.around.tolist() == [0.0, 0.0]
    around = account(around=torch.tensor([1.0, 2.0], dtype=torch.float64))
    assert around.error.tolist() == [1.0, 2.0]
    assert around.around.dtype == around.bias.dtype
    assert account(coefficients=torch.ones(2, 1, 1, 1)).coefficients.shape == (2, 1, 1, 1)


def test_the_size_is_the_root_of_all_squares_of_an_example():
    # 3^2 + bias 1.5^2 + answer 1.5^2; 4^2 + 0.5^2 + 3.5^2
    assert size_of(account()).tolist() == pytest.approx([13.5**0.5, 28.5**0.5])
