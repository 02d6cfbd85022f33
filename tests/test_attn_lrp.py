"""AttnLRP, against gradient times input of a network whose operations are rewritten by hand."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attention_align import AttnLRP
from tests.networks import conv_net, images
from xai_align import explain
from xai_align.question import Question
from xai_align.testing import check_attribution

WIDTH, PATCH = 6, 4


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 9), nn.Linear(9, WIDTH)

    def forward(self, x: Tensor, *, by_lrp: bool) -> Tensor:
        norm = self.normalise if by_lrp else lambda z, module: module(z)
        q, k, v = self.qkv(norm(x, self.norm1)).chunk(3, -1)
        if by_lrp:
            # a product passes half of the relevance to either factor
            scores = (q.detach() @ k.transpose(1, 2) + q @ k.detach().transpose(1, 2)) / 2
            p = (scores / WIDTH**0.5).softmax(-1)
            mixed = (p.detach() @ v + p @ v.detach()) / 2
        else:
            mixed = F.scaled_dot_product_attention(q, k, v)
        x = x + self.proj(mixed)
        inner = self.up(norm(x, self.norm2))
        inner = inner * (F.gelu(inner) / inner).detach() if by_lrp else F.gelu(inner)
        return x + self.down(inner)

    @staticmethod
    def normalise(z: Tensor, module: nn.LayerNorm) -> Tensor:
        centred = z - z.mean(-1, keepdim=True)
        sigma = (centred.square().mean(-1, keepdim=True) + module.eps).sqrt().detach()
        return centred / sigma * module.weight + module.bias


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches, self.start = nn.Conv2d(3, WIDTH, PATCH, PATCH), nn.Parameter(torch.randn(1, 1, WIDTH))
        self.first, self.second, self.head = Block(), Block(), nn.Linear(WIDTH, 3)

    def answers(self, z: Tensor, *, by_lrp: bool) -> Tensor:
        tokens = torch.cat([self.start.expand(len(z), -1, -1), z.flatten(2).transpose(1, 2)], 1)
        return self.head(self.second(self.first(tokens, by_lrp=by_lrp), by_lrp=by_lrp)[:, 0])

    def forward(self, x: Tensor) -> Tensor:
        return self.answers(self.patches(x), by_lrp=False)


def test_agrees_with_gradient_times_input_of_the_rewritten_network():
    torch.manual_seed(0)
    model, x = Transformer().double().eval(), images(2, 16).double()
    z = model.patches(x).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(model.answers(z, by_lrp=True)[:, 1].sum(), z)
    expected = (gradient * z).sum(1).detach()
    found = AttnLRP(model, gamma=0).attribute(x, target=1).sum(1)
    cells = found.unflatten(1, (4, 4)).unflatten(3, (4, 4)).sum((2, 4))
    assert torch.allclose(cells, expected, rtol=1e-9, atol=1e-12)
    assert not torch.allclose(AttnLRP(model).attribute(x, target=1).sum(1), found, rtol=1e-3)


def test_by_name_and_asked_a_question():
    model, x = timm.create_model("test_vit").eval(), images(1, 160)
    question = Question.why_not(1, 2)
    found = explain(model, x, question, "attn_lrp")
    assert torch.equal(found.attribution, AttnLRP(model).attribute(x, question))
    assert found.values == "contributions"
    assert found.readout is None


@pytest.mark.filterwarnings("ignore")
def test_conforms():
    skip = ["several_inputs"]
    outcomes = check_attribution("attn_lrp", build=AttnLRP, skip=skip)
    assert {one.check for one in outcomes if one.status == "failed"} == set()


def test_what_it_cannot_explain_is_said():
    with pytest.raises(TypeError, match=r"torch\.nn\.Module, got function"):
        AttnLRP(lambda x: x)
    with pytest.raises(ValueError, match="one batch of images"):
        AttnLRP(conv_net()).attribute(torch.ones(2, 3), target=0)
