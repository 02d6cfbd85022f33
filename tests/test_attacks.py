"""Networks that once got a plausible wrong answer, or changed what the user passed in."""

from __future__ import annotations

import gc
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, fx, nn
from torch.utils.checkpoint import checkpoint

from tests.networks import conv_net, images
from xai_align import FeatureSpace, Split, read_out
from xai_align.pinet import CompletenessError


def number(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


class ByIdentity(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 3)
        self.scales = {id(self.fc): 2.0}

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) * self.scales.get(id(self.fc), 1.0)


class ByType(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 3)

    def features(self, x: Tensor) -> Tensor:
        return x * 1.0

    def head(self, z: Tensor) -> Tensor:
        return self.fc(z) * (2 if isinstance(self.fc.weight, nn.Parameter) else 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


def test_a_model_that_its_copy_is_not_is_refused():
    with pytest.raises(CompletenessError, match="structural copy"):
        read_out(ByIdentity().eval(), torch.randn(2, 6), 0)
    model = ByType().eval()
    for place in (None, FeatureSpace(layer="z", split=Split(model.features, model.head))):
        with pytest.raises(CompletenessError, match="structural copy"):
            read_out(model, torch.randn(2, 6), 0, place)


@pytest.mark.parametrize("hold", [lambda w: SimpleNamespace(w=w), lambda w: (lambda: w,)[0]])
def test_weights_that_were_made_before_are_no_evidence(hold):
    class Holds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(5, 3, bias=False)
            self.held = hold(self.a.weight.t() * 2)

        def forward(self, x: Tensor) -> Tensor:
            return x @ (self.held.w if isinstance(self.held, SimpleNamespace) else self.held())

    model, x = Holds().eval(), torch.randn(2, 5)
    readout = read_out(model, x, 1)
    assert torch.allclose(readout.contributions, 2 * x * model.a.weight[1], atol=1e-6)
    assert readout.bias.abs().max() < 1e-6


@pytest.mark.parametrize(
    "prefix",
    [
        lambda x: (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True),
        lambda x: x / x.norm(dim=1, keepdim=True),
        lambda x: x if bool(x.any()) else 1 / 0,
    ],
)
def test_evidence_goes_round_also_where_zeros_cannot_be_run(prefix):
    class Shortcut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.f, self.head = nn.Linear(4, 4, bias=False), nn.Linear(4, 3, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            x = prefix(x)
            return self.head(self.f(x).relu() + x)

    torch.manual_seed(0)
    model, x = Shortcut().double().eval(), number(1, 3, 4)
    readout = read_out(model, x, 1, "f")
    assert torch.allclose(readout.around, prefix(x) @ model.head.weight[1], rtol=1e-10)
    assert readout.bias.abs().max() < 1e-12


class WritesWeights(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.g = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        self.g.weight.data.copy_(x.detach().mean(0, keepdim=True).expand(2, -1))
        return self.g(x)


def test_a_network_that_writes_into_its_weights_is_refused():
    model, x = WritesWeights().eval(), torch.randn(3, 6)
    model(x)
    kept = model.g.weight.detach().clone()
    with pytest.raises(ValueError, match=r"writes into a parameter"):
        read_out(model, x, 0)
    assert torch.equal(model.g.weight, kept)


class WritesBuffer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.buffer, self.fc = torch.zeros(1, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        self.buffer[:, :3] = x[:, :3]
        return self.fc(self.buffer + x)


def test_plain_tensors_of_a_network_are_its_own():
    model, x = WritesBuffer().eval(), torch.randn(1, 6)
    readout = read_out(model, x, 0)
    assert not model.buffer.requires_grad  # the plain pass wrote x, and nothing else was written since
    assert torch.equal(model.buffer[:, :3], x[:, :3])
    weights = model.fc.weight[0] * torch.tensor([2.0, 2, 2, 1, 1, 1])
    assert torch.allclose(readout.contributions, weights * x, atol=1e-6)


def test_further_arguments_are_not_written_to():
    class Takes(nn.Module):
        def forward(self, x: Tensor, w: Tensor) -> Tensor:
            return x * w.mul_(2)

    w = torch.ones(3)
    readout = read_out(Takes().eval(), torch.tensor([[1.0, 2.0, 3.0]]), 1, additional_forward_args=w)
    assert readout.answer.tolist() == [4.0]
    assert w.tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("read", [lambda x, t: x.new_tensor(t), lambda x, t: float(f"{t}")])
def test_values_that_are_read_in_other_ways_are_counted(read):
    class Reads(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * read(x, x[0, 0])

    assert read_out(Reads().eval(), torch.tensor([[2.0, 3.0]]), 1).cut_off


def test_random_numbers_of_other_threads_are_not_drawn_twice():
    state = torch.get_rng_state()
    read_out(conv_net(), images(), 1)
    assert torch.equal(torch.get_rng_state(), state)


def test_traced_graphs_are_read_like_their_network():
    model, x = conv_net(), images()
    traced = fx.symbolic_trace(model).eval()
    assert torch.equal(read_out(traced, x, 1).contributions, read_out(model, x, 1).contributions)
    exported = torch.export.export(model, (x,)).module()
    at_input = (read_out(network, x, 1, "input") for network in (exported, model))
    assert torch.equal(*(readout.contributions for readout in at_input))


def test_a_context_that_is_collected_meanwhile_is_no_step_of_the_network():
    calls = []

    def suspended():
        with torch.no_grad():
            yield

    class Collects(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            calls.append(x)
            if len(calls) == 2:  # the pass that is recorded
                cycle = [suspended()]
                next(cycle[0])
                cycle.append(cycle)
                torch.set_grad_enabled(True)
                del cycle
            y = x.relu()
            gc.collect()
            torch.set_grad_enabled(True)
            return y * 2

    x = torch.tensor([[1.0, -1.0]])
    assert read_out(Collects().eval(), x, 0, "input").contributions.tolist() == [[2.0, 0.0]]


def test_hooks_on_gradients_are_left_out():
    seen = []

    class Hooked(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = x * 2
            if y.requires_grad:
                y.register_hook(seen.append)
                y.retain_grad()
            return y.relu()

    assert read_out(Hooked().eval(), torch.tensor([[1.0, -1.0]]), 0).contributions.tolist() == [[2.0, 0.0]]
    assert seen == []


class NoGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.relu()

    @staticmethod
    def backward(ctx, gradient):
        return torch.zeros_like(gradient)


class Apart(torch.autograd.Function):
    """A function whose forward pass has no ctx."""

    @staticmethod
    def forward(x):
        return x.relu()

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, gradient):
        return torch.zeros_like(gradient)


class Between(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.a, self.b, self.function = nn.Linear(6, 5), nn.Linear(5, 3), function

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.function(self.a(x)))


@pytest.mark.parametrize("function", [NoGradient, Apart])
def test_evidence_that_an_autograd_function_drops_is_cut_off_by_its_name(function):
    model = Between(lambda h: function.apply(h) + h).eval()
    (cut,) = read_out(model, torch.randn(2, 6), 1, "input").cut_off
    assert cut.how == f"autograd function {function.__name__}"
    assert "whose own backward decides which evidence passes" in str(cut)


def test_checkpointed_layers_are_refused_with_the_reason():
    for reentrant, error, message in (
        (True, ValueError, "calls torch.utils.checkpoint.*switch activation checkpointing off"),
        (False, CompletenessError, "activation checkpointing"),
    ):
        model = Between(lambda h, r=reentrant: checkpoint(nn.functional.gelu, h, use_reentrant=r)).eval()
        with pytest.raises(error, match=message):
            read_out(model, torch.randn(2, 6), 1, "input")


def test_attributes_in_slots_are_those_of_the_model():
    class Slotted(nn.Linear):
        __slots__ = ("__private", "inner", "scale", "unset")

        def __init__(self) -> None:
            super().__init__(6, 3)
            self.scale, self.__private, self.inner = 2.0, 3.0, nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * self.scale * self.__private + self.inner(x)

    model, x = Slotted().eval(), torch.randn(2, 6)
    readout = read_out(model, x, 1, "input")
    assert torch.allclose(readout.contributions, x * (6 * model.weight[1] + model.inner.weight[1]), atol=1e-5)
