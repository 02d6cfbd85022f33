"""Attention half and half: the first-order account of softmax, against its derivative, in each form of attention."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.networks import images
from xai_align import read_out
from xai_align.pinet import ReadoutLayer

FLOWING = ReadoutLayer(feature_space="input", attention="flowing")


class Attends(nn.Module):
    """Self-attention of three tokens of width 4, and the mean of the result."""

    def __init__(self, form: str, mask: Tensor | None = None) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.q, self.k, self.v = (
            nn.Parameter(torch.randn(4, 4, generator=generator, dtype=torch.float64)) for _ in range(3)
        )
        self.form, self.mask = form, mask
        self.mha = nn.MultiheadAttention(4, 1, bias=False, batch_first=True, dtype=torch.float64)
        with torch.no_grad():
            self.mha.in_proj_weight.copy_(torch.cat([self.q.T, self.k.T, self.v.T]))
            self.mha.out_proj.weight.copy_(torch.eye(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = x @ self.q, x @ self.k, x @ self.v
        if self.form == "fused":
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask)
        elif self.form == "causal":
            out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        elif self.form == "module":
            out = self.mha(x, x, x, need_weights=False)[0]
        else:
            scores = q @ k.transpose(1, 2) / 2
            scores = scores if self.mask is None else scores + self.mask
            out = scores.softmax(-1) @ v
        return out.mean(1)


def by_hand(model: Attends, x: Tensor, unit: int, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Contributions and bias: half through the values, a quarter each through query and key."""
    x = x.clone().requires_grad_()
    q, k, v = x @ model.q, x @ model.k, x @ model.v
    scores = q @ k.transpose(1, 2) / 2 + mask
    half = (q.detach() @ k.transpose(1, 2) + q @ k.detach().transpose(1, 2)) / 4  # of the scores, either way
    p = scores.softmax(-1).detach()
    change = p * (half - (p * half).sum(-1, keepdim=True))  # J s
    constant = (
        p - p * (scores - (p * scores.nan_to_num(neginf=0)).sum(-1, keepdim=True)).nan_to_num(neginf=0)
    ).detach()
    out = (p @ v + change @ v.detach()) / 2
    (gradient,) = torch.autograd.grad(out.mean(1)[:, unit].sum(), x)
    bias = ((constant @ v.detach()) / 2).mean(1)[:, unit]
    return gradient * x.detach(), bias


MASKED = torch.tensor([[0.0, float("-inf"), 0.0], [0.0, 0.0, float("-inf")], [0.0, 0.0, 0.0]], dtype=torch.float64)
CAUSAL = torch.zeros(3, 3, dtype=torch.float64).masked_fill(~torch.ones(3, 3).bool().tril(), float("-inf"))
NO_MASK = torch.zeros(3, 3, dtype=torch.float64)
FORMS = {
    "fused": ("fused", None, NO_MASK),
    "written out": ("written out", None, NO_MASK),
    "module": ("module", None, NO_MASK),
    "fused, masked": ("fused", MASKED, MASKED),
    "fused, boolean mask": ("fused", MASKED == 0, MASKED),
    "written out, masked": ("written out", MASKED, MASKED),
    "causal": ("causal", None, CAUSAL),
}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("unit", [0, 3])
def test_each_form_of_attention_by_hand(name, unit):
    form, given, mask = FORMS[name]
    model = Attends(form, given).eval()
    x = torch.randn(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    readout = read_out(model, x, unit, FLOWING)
    contributions, bias = by_hand(model, x, unit, mask)
    assert torch.allclose(readout.contributions, contributions, rtol=1e-9, atol=1e-12)
    assert torch.allclose(readout.bias, bias, rtol=1e-9, atol=1e-12)
    assert readout.relative_error.max() < 1e-12
    held = read_out(model, x, unit, "input")
    assert not torch.allclose(held.contributions, readout.contributions, rtol=1e-2)


@pytest.mark.parametrize("name", ["test_vit", "test_vit4", "swin_tiny_patch4_window7_224"])
def test_networks_add_up(name):
    model = timm.create_model(name, num_classes=5).eval().double()
    x = images(1, model.pretrained_cfg["input_size"][-1]).double()
    for parameter in model.parameters():
        parameter.data.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    for options in ({}, {"rule": "gamma", "gamma": 0.05}, {"residual": 1.0}):
        readout = read_out(model, x, 3, ReadoutLayer(feature_space="input", attention="flowing", **options))
        assert readout.relative_error.max() < 1e-10


def test_there_are_two_treatments():
    with pytest.raises(ValueError, match="attention is 'half'; it is 'held' or 'flowing'"):
        ReadoutLayer(attention="half")
