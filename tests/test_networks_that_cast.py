"""Networks that convert dtypes in their forward pass: read out in one wide dtype, with exact coefficients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.networks import untouched
from xai_align import read_out
from xai_align.pinet import CompletenessError
from xai_align.pinet.precision import OneDtype

LOW = (torch.float16, torch.bfloat16)


class Casting(nn.Module):
    """``b(softplus(a(x)))`` with the two layers in dtypes of their own."""

    def __init__(self, a: torch.dtype, b: torch.dtype, out: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Linear(6, 5).to(a), nn.Linear(5, 3).to(b), out
        self.dtypes = a, b

    def forward(self, x: Tensor) -> Tensor:
        h = F.softplus(self.a(x.to(self.dtypes[0])))
        return self.b(h.type(self.dtypes[1])).to(dtype=self.out)


class Spelt(Casting):
    def forward(self, x: Tensor) -> Tensor:
        cast = {torch.float16: Tensor.half, torch.bfloat16: Tensor.bfloat16, torch.float64: Tensor.double}
        return self.b(cast[self.dtypes[0]](F.softplus(self.a(cast[self.dtypes[0]](x)))).float()).float()


def by_hand(model: Casting, x: Tensor, target: int) -> Tensor:
    """``x * d(answer)/dx`` in float64, with the activation's slope held."""
    x = x.double().requires_grad_()
    a, b = ((layer.weight.double(), layer.bias.double()) for layer in (model.a, model.b))
    h = F.linear(x, *a)
    h = h * ((F.softplus(h) - F.softplus(h.new_zeros(()))) / h).detach()
    (gradient,) = torch.autograd.grad(F.linear(h, *b)[:, target].sum(), x)
    return (x * gradient).detach()


@pytest.mark.parametrize(
    ("model", "given"),
    [
        (Casting(torch.bfloat16, torch.float32), torch.float32),
        (Casting(torch.float32, torch.float16), torch.float32),
        (Casting(torch.bfloat16, torch.bfloat16), torch.float32),
        (Casting(torch.bfloat16, torch.float16, torch.float64), torch.bfloat16),
        (Casting(torch.float64, torch.float32), torch.float32),
        (Casting(torch.float32, torch.float32), torch.float64),
        (Casting(torch.float32, torch.float32), torch.bfloat16),
        (Spelt(torch.bfloat16, torch.float32), torch.float32),
        (Spelt(torch.float16, torch.float32), torch.float32),
        (Spelt(torch.float64, torch.float32), torch.float32),
    ],
)
def test_coefficients_are_of_a_wide_dtype(model, given):
    x = torch.randn(2, 6).to(given)
    with torch.no_grad():
        logits = model.eval()(x)
    with untouched(model):
        readout = read_out(model, x, 1, "input")
    assert readout.logits.dtype == logits.dtype
    assert torch.allclose(readout.logits, logits, rtol=1e-6, atol=1e-6)  # small logits are differences
    assert torch.allclose(readout.contributions.double(), by_hand(model, x, 1), rtol=2e-5, atol=2e-6)


def test_a_dtype_that_the_model_does_not_take_is_named():
    with pytest.raises(ValueError, match=r"inputs are torch\.float64, the model is torch\.float32; convert"):
        read_out(nn.Sequential(nn.Linear(6, 3)).eval(), torch.randn(2, 6).double(), 1, "input")


def test_float64_decides_on_networks_that_cast():
    """The decisive pass runs wholly in float64, so the activation of another value is found out, not the cast."""

    class Rounding(Casting):
        def forward(self, x: Tensor) -> Tensor:
            return self.b(Straight.apply(self.a(x.float())).float())

    class Straight(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.round()

        @staticmethod
        def backward(ctx, gradient):
            return gradient

    with pytest.raises(CompletenessError, match="miss the answer") as caught:
        read_out(Rounding(torch.float32, torch.float32).eval(), torch.randn(2, 6), 1, "input")
    assert "cannot decide" not in str(caught.value)


def test_modes_do_not_hide_a_network_that_looks_at_them():
    class Looks(Casting):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * (0.5 if torch.overrides._len_torch_function_stack() else 1.0)

    with pytest.raises(CompletenessError, match="differ from the plain model's"):
        read_out(Looks(torch.float32, torch.float32).eval(), torch.randn(2, 6), 1, "input")


@pytest.mark.parametrize("cast", [Tensor.half, Tensor.bfloat16, lambda x: x.to(torch.half), lambda x: x.type(LOW[1])])
def test_casts_give_the_wide_dtype_and_keep_the_value(cast):
    x = torch.tensor([1.0001], requires_grad=True)
    with OneDtype(torch.float32, narrow=LOW):
        y = cast(x)
        made = torch.zeros(1, dtype=LOW[1])
    assert y.dtype == made.dtype == torch.float32
    assert torch.equal(y, x)
    assert cast(x).dtype in LOW
