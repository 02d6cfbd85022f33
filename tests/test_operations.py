"""Every rule keeps its operation's value and makes it linear: the sum is exact in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xai_align import read_out

weights = torch.randn(8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

#: name -> an operation on x [N, 8, 6, 6]; what comes out is averaged to the logits
OPERATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "x * x": lambda x: x * x,
    "x.square()": lambda x: x.square(),
    "relu squared": lambda x: F.relu(x) ** 2,
    "cube": lambda x: x**3,
    "x / (1 + |x|)": lambda x: x / (1 + x.abs()),
    "1 / (x^2 + 1) * x": lambda x: 1 / (x**2 + 1) * x,
    "self gating": lambda x: x[:, :4] * torch.sigmoid(x[:, 4:]),
    "glu": lambda x: F.glu(x, 1),
    "swiglu": lambda x: F.silu(x[:, :4]) * x[:, 4:],
    "prelu": lambda x: F.prelu(x, torch.full((8,), 0.3, dtype=x.dtype)),
    "softplus": F.softplus,
    "clamp to [1, 2]": lambda x: x.clamp(1, 2),
    "hardswish": F.hardswish,
    "in-place silu": lambda x: F.silu(x.clone(), inplace=True),
    "clamp to a tensor": lambda x: x.clamp(weights[0].view(8, 1, 1), weights[0].view(8, 1, 1) + 0.5),
    "in-place methods": lambda x: x.clone().clamp_(-0.2, 0.7).tanh_(),
    "in-place softplus by hand": lambda x: torch.clamp_(x * 2, min=0.3),
    "relu6 past its bounds": lambda x: F.relu6(8 * x),
    "hardtanh": lambda x: F.hardtanh(3 * x, -1, 2),
    "hardtanh that is a relu1": lambda x: F.hardtanh(3 * x, 0.0, 1.0, inplace=True),
    "relu6 at zero": lambda x: F.relu6(x.masked_fill(x < 0.1, 0.0) + x.clamp(max=0)),
    "in-place relu6": lambda x: F.relu6(x + 3, inplace=True),
    "leaky relu positional": lambda x: F.leaky_relu(x.clone(), 0.2, True),
    "softmax times values": lambda x: x.flatten(2).softmax(-1) * x.flatten(2),
    "q k^T v": lambda x: (x.flatten(2) @ x.flatten(2).transpose(1, 2)).softmax(-1) @ x.flatten(2),
    "q k^T without softmax": lambda x: (x.flatten(2) @ x.flatten(2).transpose(1, 2)) @ x.flatten(2),
    "sdpa": lambda x: F.scaled_dot_product_attention(x, x, x),
    "sdpa with a mask from the query": lambda x: F.scaled_dot_product_attention(
        x, x, x, attn_mask=x @ x.transpose(-1, -2)
    ),
    "einsum": lambda x: torch.einsum("nchw,nchv->nhwv", x, x),
    "einsum of a list": lambda x: torch.einsum("nchw,nchv,nchu->nhwvu", [x, x, x]),
    "einsum with a constant": lambda x: torch.einsum("nchw,kc->nkhw", x, weights),
    "bmm": lambda x: torch.bmm(x[:, 0], x[:, 1]),
    "baddbmm": lambda x: torch.baddbmm(x[:, 2], x[:, 0], x[:, 1], beta=0.5, alpha=2),
    "addcmul": lambda x: torch.addcmul(x, x, x.tanh(), value=0.3),
    "lerp": lambda x: torch.lerp(x, 2 * x, x.sigmoid()),
    "dynamic convolution": lambda x: F.conv2d(x[:1], x[0].mean(0).view(1, 1, 6, 6).expand(8, 8, 6, 6) + 1, padding=2),
    "convolution with a dependent bias": lambda x: F.conv2d(x, weights[:, :, None, None], x.mean((0, 2, 3))),
    "transposed convolution with a dependent bias": lambda x: F.conv_transpose2d(
        x, x[0, 0].mean() * weights[:, :, None, None], x.mean((0, 2, 3))
    ),
    "layer norm": lambda x: F.layer_norm(x, (6,), weights[0, :6], weights[1, :6]),
    "layer norm over two axes": lambda x: F.layer_norm(x, (6, 6)),
    "torch.layer_norm": lambda x: torch.layer_norm(x, (6,)),
    "group norm": lambda x: F.group_norm(x, 2, weights[0], weights[1]),
    "torch.group_norm": lambda x: torch.group_norm(x, 4, weights[0]),
    "instance norm": lambda x: F.instance_norm(x),
    "batch norm": lambda x: F.batch_norm(x, weights[0], weights[1].abs() + 0.1, weights[2], weights[3]),
    "batch norm without weights": lambda x: F.batch_norm(x, weights[0], weights[1].abs() + 0.1),
    "rms norm": lambda x: F.rms_norm(x, (6,), weights[0, :6]),
    "normalize": lambda x: F.normalize(x, dim=1),
    "local response norm": lambda x: F.local_response_norm(x, 3),
    "norm by hand": lambda x: (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True) + 1e-5).sqrt(),
    "l2 by hand": lambda x: x / x.norm(dim=1, keepdim=True),
    "std_mean by hand": lambda x: (lambda s, m: (x - m) / s)(*torch.std_mean(x, 1, keepdim=True)),
    "max_pool2d": lambda x: F.max_pool2d(x, 3, 2, 1),
    "max_pool2d with indices": lambda x: F.max_pool2d(x, 2, return_indices=True)[0],
    "max_pool1d": lambda x: F.max_pool1d(x.flatten(2), 2),
    "adaptive_max_pool2d": lambda x: F.adaptive_max_pool2d(x, 2),
    "adaptive_avg_pool2d": lambda x: F.adaptive_avg_pool2d(x, 4),
    "lp_pool2d": lambda x: F.lp_pool2d(x.abs() + 0.1, 2, 2),
    "amax": lambda x: x.amax((2, 3), keepdim=True),
    "amin": lambda x: x.amin(1),
    "max over a dimension": lambda x: x.max(1)[0],
    "max over a dimension kept": lambda x: x.max(dim=-1, keepdim=True).values,
    "min of everything": lambda x: x.min() + x,
    "maximum": lambda x: torch.maximum(x, x.flip(1)),
    "max of two": lambda x: torch.max(x, -x),
    "minimum": lambda x: torch.minimum(x, x.roll(1, 2)),
    "topk": lambda x: x.topk(3, dim=1)[0],
    "sort": lambda x: x.sort(dim=2, descending=True)[0] * torch.arange(6, dtype=x.dtype)[:, None],
    "median": lambda x: x.median(dim=1).values,
    "where": lambda x: torch.where(x > 0.3, 2 * x, -x),
    "masked_fill": lambda x: x.masked_fill(x < 0, 0.5),
    "indexing by argsort": lambda x: x.flatten(1).gather(1, x.flatten(1).argsort(1))[:, :10],
    "rounding": lambda x: x.round() + x,
    "detach": lambda x: x.detach() * x,
    "asking for the type": lambda x: x * 2 if x.type() == "torch.DoubleTensor" else x,
    "whole numbers": lambda x: x * x.long(),
    "python value": lambda x: x * float(x.abs().max()) + x[0, 0, 0, 0].item() + float(x.amin()),
    "grid_sample": lambda x: F.grid_sample(x, x[:, :2].permute(0, 2, 3, 1).tanh(), align_corners=False),
    "interpolate": lambda x: F.interpolate(x, size=(9, 11), mode="bicubic", align_corners=False),
    "fourier": lambda x: torch.fft.irfft2(
        torch.fft.rfft2(x) * torch.view_as_complex(weights[:6, :8].reshape(6, 4, 2).contiguous())
    ),
    "unfold and fold": lambda x: F.fold(F.unfold(x, 2), (6, 6), 2),
    "pad, roll, cat, chunk": lambda x: torch.cat(F.pad(x.roll(1, 1), (1, 1)).chunk(2, 1)[::-1], 1),
    "cumsum": lambda x: x.cumsum(1),
    "writing into a buffer": lambda x: torch.zeros_like(x).index_add_(1, torch.tensor([1, 3]), x[:, :2]).add_(x),
    "slices written": lambda x: _written(x),
    "exp as a gate": lambda x: x * torch.exp(-x.abs()),
    "cosine similarity as a gate": lambda x: x * F.cosine_similarity(x, x.flip(1), dim=1).unsqueeze(1),
    "tensor exponents": lambda x: x * x.abs().pow(torch.tensor(0.5, dtype=x.dtype)),
    "linear": lambda x: F.linear(x, weights[:5, :6], weights[0, :5]),
    "rdiv and rsub": lambda x: (1.0 - x) * (2.0 / (x.abs() + 1)),
    "dropout that is off": lambda x: F.dropout(x, 0.5, training=False),
    "channel shuffle": lambda x: F.channel_shuffle(x, 2),
}

#: Operations that here mix the examples of a batch.
ONE_EXAMPLE = {
    "dynamic convolution",
    "convolution with a dependent bias",
    "transposed convolution with a dependent bias",
    "min of everything",
    "python value",
}


def _written(x: Tensor) -> Tensor:
    out = torch.ones_like(x)
    out[:, ::2] = x[:, 1::2].tanh()
    out[..., 0] += x[..., 1]
    return out


class Applied(nn.Module):
    def __init__(self, operation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.operation = operation

    def forward(self, x: Tensor) -> Tensor:
        y = self.operation(x)
        y = y.real if y.is_complex() else y
        weight = torch.linspace(-1, 1, y[0].numel(), dtype=y.dtype).view(y[0].shape)
        return (y * weight).flatten(1).sum(1, keepdim=True)


@pytest.mark.parametrize("name", OPERATIONS)
def test_operation_is_exact(name):
    model = Applied(OPERATIONS[name]).eval()
    count = 1 if name in ONE_EXAMPLE else 2
    x = torch.randn(count, 8, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    readout = read_out(model, x)
    assert torch.allclose(readout.logits, model(x), rtol=1e-11, atol=1e-12), "the operation's value changed"
    assert readout.relative_error.max() < 1e-11
    assert readout.contributions.abs().sum() > 0


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_lstm(layers, bidirectional, batch_first):
    torch.manual_seed(0)
    lstm = nn.LSTM(5, 4, layers, batch_first=batch_first, bidirectional=bidirectional).double()

    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = lstm

        def forward(self, x):
            out, (h, c) = self.lstm(x if batch_first else x.transpose(0, 1))
            return (out if batch_first else out.transpose(0, 1)).flatten(1) + (h + c).sum((0, 2))[:, None]

    model, x = Last().eval(), torch.randn(3, 6, 5, dtype=torch.float64)
    readout = read_out(model, x, 4)
    assert torch.allclose(readout.logits, model(x), rtol=1e-11)
    assert readout.relative_error.max() < 1e-11


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("masked", ["no", "bool", "float", "keys"])
@pytest.mark.parametrize("batch_first", [True, False])
def test_multi_head_attention_module(need_weights, masked, batch_first):
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(8, 2, batch_first=batch_first).double()
    mask = {
        "no": {},
        "bool": {"attn_mask": torch.ones(5, 5, dtype=torch.bool).triu(1)},
        "float": {"attn_mask": torch.randn(5, 5, dtype=torch.float64)},
        "keys": {"key_padding_mask": torch.tensor([[False, False, False, True, True]] * 2)},
    }[masked]

    class Attends(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = attention

        def forward(self, x):
            x = x if batch_first else x.transpose(0, 1)
            out, _ = self.attention(x, x, x, need_weights=need_weights, **mask)
            return (out if batch_first else out.transpose(0, 1)).flatten(1)

    model, x = Attends().eval(), torch.randn(2, 5, 8, dtype=torch.float64)
    readout = read_out(model, x, 3)
    assert torch.allclose(readout.logits, model(x), rtol=1e-10)
    assert readout.relative_error.max() < 1e-11


def test_transformer_layer_of_torch():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, activation="gelu").double()
    model = nn.Sequential(layer, nn.Flatten()).eval()
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    readout = read_out(model, x, 3)
    assert torch.allclose(readout.logits, model(x), rtol=1e-10)
    assert readout.relative_error.max() < 1e-11


def test_a_norm_after_pooling_has_its_closed_form():
    # logit = W LN(mean_p F_p): c_p = sum_k W_k gamma_k (F_pk - mean_k F_p) / (P sigma), bias = W beta + b
    torch.manual_seed(0)
    norm, fc = nn.LayerNorm(8).double(), nn.Linear(8, 3).double()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)

    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.fc = norm, fc

        def forward(self, x):
            return self.fc(self.norm(x.mean((2, 3))))

    features = torch.randn(2, 8, 4, 4, dtype=torch.float64)
    readout = read_out(Pooled().eval(), features, 1)
    pooled = features.mean((2, 3))
    sigma = (pooled.var(1, correction=0) + norm.eps).sqrt()
    centred = features - features.mean(1, keepdim=True)
    expected = torch.einsum("c,c,nchw->nhw", fc.weight[1], norm.weight, centred) / 16 / sigma[:, None, None]
    assert torch.allclose(readout.contributions.sum(1), expected, rtol=1e-10, atol=1e-12)
    assert torch.allclose(readout.bias, (fc.weight @ norm.bias + fc.bias)[1].expand(2), rtol=1e-10)


def test_a_tie_goes_to_one_winner():
    x = torch.tensor([[2.0, 2.0, 1.0]], dtype=torch.float64)

    class Best(nn.Module):
        def forward(self, x):
            return x.amax(1, keepdim=True)

    assert read_out(Best().eval(), x).contributions.tolist() == [[2.0, 0.0, 0.0]]


def test_dropout_at_work_is_refused():
    class Drops(nn.Module):
        def forward(self, x):
            return F.dropout(x, 0.5)

    with pytest.raises(ValueError, match=r"model\.eval\(\)"):
        read_out(Drops().eval(), torch.randn(2, 3), 0)
