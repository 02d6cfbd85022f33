"""Networks found by attack: NaN that passed a check, shared containers, half precision inside, stale verdicts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from tests.networks import images
from xai_align import read_out
from xai_align.pinet import CompletenessError, read_out_all_classes


def number(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Between(nn.Module):
    """``head(function(layer(x)))``, without biases if asked."""

    def __init__(self, function, *, bias: bool = True, width: int = 5) -> None:
        super().__init__()
        self.a, self.h, self.function = nn.Linear(6, 5, bias=bias), nn.Linear(width, 3, bias=bias), function

    def forward(self, x: Tensor) -> Tensor:
        return self.h(self.function(self.a(x)))


def safe_ratio(h: Tensor) -> Tensor:
    """A quotient whose gradient is NaN where the divisor is 0, although its value is not."""
    n = h.relu()
    return torch.where(n > 0, h / n, torch.zeros(()))


def test_nan_is_no_rounding():
    with pytest.raises((CompletenessError, ValueError)):
        read_out(Between(safe_ratio).eval(), number(0, 2, 6), 1, "input")


class Bent(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x.sigmoid()

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        s = x.sigmoid()
        return gradient * (s + x * s * (1 - s))


def test_nan_in_one_example_does_not_hide_another():
    def function(h: Tensor) -> Tensor:
        y = Bent.apply(h)
        return y + safe_ratio(y.sum(1, keepdim=True))

    model, x = Between(function).eval(), number(1, 8, 6)
    with pytest.raises((CompletenessError, ValueError)):
        read_out(model, x, 1, "input")


def test_logits_of_another_shape_are_another_function():
    def function(h: Tensor) -> Tensor:
        return torch.cat([h, h], 1) if torch.overrides._len_torch_function_stack() else h

    model = Between(function).eval()
    model.h = nn.Identity()
    with pytest.raises(CompletenessError, match="shape"):
        read_out(model, number(2, 2, 6), 1, "input")


class Attends(nn.Module):
    def __init__(self, mask: Tensor, module: bool = False) -> None:
        super().__init__()
        self.q, self.h, self.mask = nn.Linear(6, 6), nn.Linear(6, 3), mask
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True) if module else None

    def forward(self, x: Tensor) -> Tensor:
        q = self.q(x)
        if self.attention is not None:
            out = self.attention(q, q, q, attn_mask=~self.mask, need_weights=False)[0]
        else:
            out = F.scaled_dot_product_attention(q, q, q, attn_mask=self.mask)
        return self.h((x + out).mean(1))


def masks() -> dict[str, Tensor]:
    padded = torch.ones(4, 4).tril().bool()
    padded[:, 0] = False  # the first query may attend to nothing
    return {"padded": padded, "of keys": torch.tensor([True, False, True, True])}


@pytest.mark.parametrize(("name", "module"), [("padded", False), ("padded", True), ("of keys", False)])
def test_queries_that_attend_to_nothing_give_nothing(name, module):
    model, x = Attends(masks()[name], module).double().eval(), number(3, 2, 4, 6).double()
    readout = read_out(model, x, 1, "input")
    with torch.no_grad():
        q = model.q(x)
        if model.attention is None:
            full = masks()[name].expand(4, 4)
            pattern = (q @ q.mT / 6**0.5).masked_fill(~full, float("-inf")).softmax(-1).nan_to_num(0)
            beta = model.h.weight[1] / 4 + (pattern.sum(1)[..., None] * (model.h.weight[1] / 4)) @ model.q.weight
            assert torch.allclose(readout.contributions, x * beta, rtol=1e-9)
    assert bool(torch.isfinite(readout.contributions).all())


class Writes(nn.Module):
    def __init__(self, store) -> None:
        super().__init__()
        self.l, self.store = nn.Linear(6, 5, bias=False), store

    def forward(self, x: Tensor) -> Tensor:
        self.store["skip"] = y = self.l(x)
        return y


class Reads(nn.Module):
    def __init__(self, store) -> None:
        super().__init__()
        self.l, self.store = nn.Linear(5, 3, bias=False), store

    def forward(self, y: Tensor) -> Tensor:
        return self.l(y.relu() + self.store["skip"])


def in_closure(store):
    return lambda module, args, output: store.__setitem__("skip", output)


def as_default(store):
    def hook(module, args, output, store=store):
        store["skip"] = output

    return hook


@pytest.mark.parametrize("by", [None, in_closure, as_default])
def test_containers_that_modules_and_hooks_share_stay_shared(by):
    store: dict[str, Tensor] = {}
    first = Writes(store) if by is None else nn.Linear(6, 5, bias=False)
    if by is not None:
        first.register_forward_hook(by(store))
    model, x = nn.Sequential(first, Reads(store)).eval(), number(4, 2, 6)
    for _ in range(2):
        readout = read_out(model, x, 1, "input")
        assert readout.bias.abs().max() < 1e-6
        assert torch.allclose(readout.contributions.sum(1), model(x)[:, 1], atol=1e-6)


def rough(h: Tensor) -> Tensor:
    return 0 * h.bfloat16().relu().float().sum()


@pytest.mark.parametrize(
    "function",
    [
        lambda h: Bent.apply(h) + rough(h),
        lambda h: h * (1 + 0.1 * torch.rand(1)) + rough(h),
    ],
)
def test_half_precision_inside_does_not_loosen_the_checks(function):
    with pytest.raises(CompletenessError):
        read_out(Between(function).eval(), number(5, 2, 6), 1, "input")


def test_coefficients_of_a_region_under_autocast_have_the_digits_of_float32():
    class Region(Between):
        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                h = F.relu(self.a(x))
            return self.h(h.float())

    model, x = Region(None).eval(), number(6, 2, 6)
    with torch.no_grad():
        logits = model(x)
        expected = x * ((model.h.weight[1] * (model.a(x) > 0)) @ model.a.weight)
    readout = read_out(model, x, 1, "input")
    assert torch.equal(readout.logits, logits)
    assert torch.allclose(readout.contributions, expected, rtol=1e-5, atol=1e-6)


def test_a_changed_head_is_probed_again():
    body = nn.Conv2d(3, 4, 3)
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = body, head

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.body(x))

    from xai_align import FeatureSpace, Split

    model = Net().eval()
    space = FeatureSpace(layer="body", layout="NCHW", split=Split(model.body, model.head))
    read_out_all_classes(model, images(), space)
    handle = model.head[2].register_forward_hook(lambda module, args, output: output.tanh())
    with pytest.raises(ValueError, match="local"):
        read_out_all_classes(model, images(), space)
    handle.remove()
    read_out_all_classes(model, images(), space)


def test_evidence_that_bypasses_a_layer_on_some_inputs_alone():
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.h = nn.Linear(6, 5), nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.h(self.a(x).relu() + (x > 0).float().mean(1, keepdim=True))

    x = torch.tensor([[1.0, 1, 1, 1, -1, -1], [1.0, -1, -1, -1, -1, -1]])
    for given in (x, x.flip(0)):
        model = Counts().eval()
        readout = read_out(model, given, 1, "a")
        total = readout.contributions.sum(1) + readout.bias + readout.around
        assert torch.allclose(total, model(given)[:, 1], atol=1e-6)


def test_inputs_that_are_no_numbers_stay_as_they_are():
    class WithIds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.e, self.h = nn.Linear(6, 5), nn.Embedding(4, 5), nn.Linear(5, 3)

        def forward(self, x: Tensor, ids: Tensor, keep: Tensor) -> Tensor:
            return self.h((self.a(x) + self.e(ids)).relu().masked_fill(~keep, 0.0))

    model, x, ids = WithIds().eval(), number(7, 2, 6), torch.tensor([1, 3])
    keep = torch.tensor([[True, False, True, True, True]] * 2)
    both = read_out(model, (x, ids, keep), 1, "input")
    alone = read_out(model, x, 1, "input", additional_forward_args=(ids, keep))
    assert torch.equal(both.contributions[0], alone.contributions)
    assert torch.equal(both.bias, alone.bias)


@pytest.mark.parametrize(
    ("x", "message"),
    [(torch.zeros(2, 6, dtype=torch.complex64), "complex.*view_as_real"), (torch.eye(2, 6).to_sparse(), "to_dense")],
)
def test_inputs_of_other_kinds_are_named(x, message):
    with pytest.raises(TypeError, match=message):
        read_out(Between(F.relu).eval(), x, 1, "input")


def test_layers_that_are_checkpointed_are_named_when_they_run_again():
    inner = nn.Sequential(nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 5))
    model = Between(lambda h: checkpoint(inner, h, use_reentrant=False)).eval()
    model.inner = inner.eval()
    with pytest.raises((ValueError, CompletenessError), match="checkpoint"):
        read_out(model, number(8, 2, 6), 1, "input")
