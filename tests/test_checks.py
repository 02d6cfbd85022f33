"""The two checks of a readout: the plain model's logits, and the sum; what rounding explains and what it doesn't."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.networks import conv_net, images, untouched
from xai_align import FeatureSpace, Split, read_out, read_out_all_classes
from xai_align.pinet import CompletenessError
from xai_align.pinet.gates import rule_registry
from xai_align.pinet.rounding import answer_of, misses, wide


def test_the_bound_is_that_of_a_random_walk():
    # 4 * 2^-23 * sqrt(100) * 3
    size, bound = torch.tensor(3.0), 4 * 2**-23 * 10 * 3
    assert not misses(torch.tensor(0.99 * bound), size, 100, torch.float32)
    assert misses(torch.tensor(1.01 * bound), size, 100, torch.float32)
    assert misses(torch.tensor(-1.01 * bound), size, 100, torch.float32)
    assert misses(torch.tensor(float("nan")), size, 100, torch.float32)


class Amplifies(nn.Module):
    """Subtracts two numbers that differ in their last digits only: rounding becomes a large share of the answer."""

    def forward(self, x: Tensor) -> Tensor:
        large = 1e4 + x.tanh()
        return (large * 3.0 - (3e4 + 2.999 * x.tanh())).sum(1, keepdim=True)


def test_in_float64_a_network_may_amplify_its_roundings_a_million_times():
    # 4 * 2^-52 * 2^20 * sqrt(25) * 0.5
    size, bound = torch.tensor(0.5, dtype=torch.float64), 4 * 2**-52 * 2**20 * 5 * 0.5
    assert not misses(0.99 * torch.tensor(bound), size, 25, torch.float64)
    assert misses(1.01 * torch.tensor(bound), size, 25, torch.float64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nothing_is_no_miss(dtype):
    assert not misses(torch.zeros(()), torch.zeros(()), 9, dtype)


def test_an_answer_is_the_weighted_sum_of_logits():
    logits = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    assert answer_of(torch.tensor([[1.0, 0.0, -1.0], [0.5, 0.0, 2.0]]), logits).tolist() == [-2.0, 14.0]
    assert answer_of(torch.tensor([2.0, -3.0]), torch.tensor([4.0, 5.0])).tolist() == [8.0, -15.0]


@pytest.mark.parametrize(("device", "dtype"), [("mps", "float32"), ("cpu", "float64"), ("cuda", "float64")])
def test_sums_are_in_float64_where_the_device_has_it(device, dtype):
    x = SimpleNamespace(device=torch.device(device), float=lambda: "float32", double=lambda: "float64")
    assert wide(x) == dtype


def test_what_rounding_explains_is_accepted_and_told():
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    readout = read_out(Amplifies().eval(), x, 0)
    by_hand = 0.001 * x.tanh()
    assert torch.allclose(readout.contributions, by_hand, atol=1e-6)
    assert torch.allclose(readout.total + readout.bias, readout.answer.double(), atol=1e-2)


class AlmostLinear(torch.autograd.Function):
    """Bends by a thousandth and says that it is linear."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x + 1e-3 * x * x

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return gradient


class Bends(nn.Module):
    def __init__(self, bias: float) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(6, 6), nn.Linear(6, 2)
        nn.init.constant_(self.head.bias, bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(AlmostLinear.apply(self.inner(x)))


@pytest.mark.parametrize("bias", [0.0, 50.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_a_function_that_is_not_linear_does_not_pass_in_any_precision(dtype, bias):
    torch.manual_seed(0)
    model, x = Bends(bias).to(dtype).eval(), torch.randn(3, 6).to(dtype)
    with untouched(model), pytest.raises(CompletenessError, match="custom autograd function"):
        read_out(model, x, 1)


class DependsOnPrecision(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x if x.dtype == torch.bfloat16 else -x).sum(1, keepdim=True)


def test_a_model_that_is_another_one_in_its_own_precision_is_refused():
    with pytest.raises(CompletenessError, match="does not compute one function in both"):
        read_out(DependsOnPrecision().eval(), torch.randn(2, 3).bfloat16(), 0)


def test_a_model_under_autocast_is_read_in_float32():
    model, x = conv_net(), images()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        readout = read_out(model, x, 1)
        plain = model(x)
    assert torch.equal(readout.logits, plain)
    assert torch.equal(readout.contributions, read_out(model, x, 1).contributions)


def test_a_split_that_is_not_the_model_is_refused():
    model, x = conv_net(), images()
    wrong = FeatureSpace(layer="wrong", split=Split(model.conv1, lambda z: model.fc(z.mean((2, 3)))))
    with pytest.raises(CompletenessError, match="differ from the plain model's"):
        read_out(model, x, 1, wrong)
    with pytest.raises(CompletenessError, match=r"'wrong'.*correct its Split"):
        read_out_all_classes(model, x, wrong)


class Second(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * (0.5 if torch.overrides._len_torch_function_stack() else 1.0)


def test_the_first_module_that_differs_is_named():
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.ReLU(), Second()), nn.Linear(4, 2)).eval()
    with pytest.raises(CompletenessError, match=r"first module that differs is '1\.1' \(Second\)"):
        read_out(model, torch.randn(3, 4), 0)


class Mixes(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x - x.mean(0)) + 1


def test_a_network_that_mixes_its_batch_is_told_so():
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    with pytest.raises(CompletenessError, match="mixes the examples of a batch"):
        read_out(Mixes().eval(), x, [0, 0, 0, 0])


@pytest.fixture
def rules(monkeypatch):
    """Rules registered in a test are forgotten after it."""
    for table in ("_rules", "_found"):
        monkeypatch.setattr(rule_registry, table, dict(getattr(rule_registry, table)))


@pytest.mark.parametrize("place", ["input", "1"])
def test_a_registered_rule_with_twice_the_operations_value_is_refused(rules, place):
    @rule_registry.register_rule("tanhshrink")
    def doubled(gates, func, x):
        return 2 * x * gates.save(lambda: func(x) / x)

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Tanhshrink(), nn.Linear(4, 2)).eval()
    x = torch.randn(3, 4)
    with untouched(model), pytest.raises(CompletenessError, match=r"first module that differs is '2' \(Tanhshrink\)"):
        read_out(model, x, 0, place)


def test_a_registered_rule_with_the_operations_value_is_used(rules):
    @rule_registry.register_rule("tanhshrink")
    def shared(gates, func, x):
        return x * gates.save(lambda: func(x) / x)

    torch.manual_seed(0)
    linear, x = nn.Linear(4, 2).double(), torch.randn(3, 4).double()
    by_hand = F.tanhshrink(x) * linear.weight[1]
    assert torch.allclose(read_out(nn.Sequential(nn.Tanhshrink(), linear).eval(), x, 1).contributions, by_hand)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("activation", [F.softplus, F.mish, F.gelu, torch.cos, F.hardswish])
def test_coefficients_of_a_half_precision_network_are_those_of_float64(dtype, activation):
    torch.manual_seed(0)
    first, last, x = nn.Linear(4, 6).to(dtype), nn.Linear(6, 2).to(dtype), torch.randn(3, 4).to(dtype)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = first, last

        def forward(self, x: Tensor) -> Tensor:
            return self.last(activation(self.first(x)))

    readout = read_out(Net().eval(), x, 1)
    with torch.no_grad():
        w, b, v = (value.double() for value in (first.weight, first.bias, last.weight[1]))
        h = x.double() @ w.T + b
        at_zero = activation(torch.zeros((), dtype=torch.float64))
        beta = ((activation(h) - at_zero) / h * v) @ w  # f(h) = (f(h) - f(0)) / h * h + f(0)
    assert torch.allclose(readout.contributions.double(), x.double() * beta, rtol=1e-4, atol=1e-5)
