"""Whatever cannot be read is told by its true cause; and much that once could not be read can."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.networks import conv_net, images, untouched
from xai_align import Question, explain, read_out


def number(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


class Between(nn.Module):
    """A linear layer, a function, and a linear layer."""

    def __init__(self, function) -> None:
        super().__init__()
        self.backbone, self.head, self.function = nn.Linear(5, 4), nn.Linear(4, 3), function
        with torch.no_grad():
            for seed, parameter in enumerate(self.parameters()):
                parameter.copy_(number(seed, *parameter.shape))
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


# ---------------------------------------------------------------- linear probes


def under_no_grad(model, x):
    with torch.no_grad():
        z = model.backbone(x)
    return model.head(z)


def under_inference_mode(model, x):
    with torch.inference_mode():
        z = model.backbone(x)
    return model.head(z.clone())


def detached(model, x):
    return model.head(model.backbone(x).detach())


def through_data(model, x):
    return model.head(model.backbone(x).data)


@pytest.mark.parametrize(
    ("probe", "cause"),
    [
        (under_no_grad, r"'backbone' \(Linear\) runs under torch\.no_grad\(\)"),
        (under_inference_mode, r"'backbone' \(Linear\) runs under torch\.inference_mode\(\)"),
        (detached, "detaches its input"),
        (through_data, r"reads \.data"),
    ],
)
def test_a_linear_probe_is_told_where_its_evidence_ends(probe, cause):
    model, x = Between(probe), number(9, 2, 5)
    with untouched(model), pytest.raises(ValueError, match=f"{cause}.*feature_space"):
        read_out(model, x, 1)


@pytest.mark.parametrize("probe", [under_no_grad, under_inference_mode])
def test_a_linear_probe_can_be_read_behind_its_backbone(probe):
    model, x = Between(probe), number(9, 2, 5)
    readout = read_out(model, x, 1, "backbone")
    expected = model.head.weight[1] * model.backbone(x)
    assert torch.allclose(readout.contributions, expected, rtol=1e-12)
    assert torch.allclose(readout.bias, model.head.bias[1].expand(2))


def test_a_branch_that_is_cut_off_lies_in_the_bias_and_is_told():
    model = Between(lambda model, x: model.head(model.backbone(x) + model.backbone(2 * x).detach()))
    x = number(9, 2, 5)
    readout = read_out(model, x, 1)
    # only the first of the two is evidence: c = (W_head W_backbone) x
    coefficient = model.head.weight[1] @ model.backbone.weight
    assert torch.allclose(readout.contributions, coefficient * x, rtol=1e-12)
    assert [str(cut) for cut in readout.cut_off] == ["the forward pass of Between detaches its input"]
    assert readout.relative_error.max() < 1e-12


# ---------------------------------------------------------------- heads and activations that work


def test_gem_pooling_hands_its_evidence_on():
    # (mean x^3)^(1/3) with x^3 = x * x^2 and y^(1/3) = y * y^(-2/3), all held: c_i = x_i^3 / n * mean^(-2/3)
    model = Between(lambda model, x: x.clamp(min=1e-6).pow(3).mean(1, keepdim=True).pow(1 / 3))
    x = number(1, 2, 5).abs() + 0.1
    readout = read_out(model, x, 0)
    expected = x**3 / 5 * (x**3).mean(1, keepdim=True) ** (-2 / 3)
    assert torch.allclose(readout.contributions, expected, rtol=1e-4)  # but for the clamp's own value at 0, 1e-6
    assert torch.allclose(readout.contributions.sum(1), readout.answer, rtol=1e-4)


def test_cosine_similarity_is_normalise_and_dot():
    model = Between(lambda model, x: F.cosine_similarity(model.backbone(x)[:, None], model.head.weight[None], dim=-1))
    by_hand = Between(
        lambda model, x: F.normalize(model.backbone(x), dim=-1) @ F.normalize(model.head.weight, dim=-1).T
    )
    x = number(1, 2, 5)
    assert torch.allclose(model(x), by_hand(x))
    readout, expected = read_out(model, x, 2), read_out(by_hand, x, 2)
    assert torch.allclose(readout.contributions, expected.contributions, rtol=1e-10)
    assert torch.allclose(readout.bias, expected.bias, rtol=1e-10)


def test_distances_to_prototypes_flow_where_nothing_else_does():
    model = Between(lambda model, x: -torch.cdist(model.backbone(x), model.head.weight))
    x = number(1, 2, 5)
    readout = read_out(model, x, 2)
    assert readout.gates_flow
    # |h - p| = sum_j (h_j - p_j) stop((h_j - p_j) / |h - p|)
    difference = model.backbone(x) - model.head.weight[2]
    share = difference / difference.norm(dim=1, keepdim=True)
    expected = -(share @ model.backbone.weight) * x
    assert torch.allclose(readout.contributions, expected, rtol=1e-10)


def test_sigmoids_flow_where_nothing_else_does():
    model = Between(lambda model, x: model.head(torch.sigmoid(model.backbone(x))))
    x = number(1, 2, 5)
    readout = read_out(model, x, 1)
    assert readout.gates_flow
    # sigmoid(h) = h * stop((sigmoid(h) - 1/2) / h) + 1/2
    h = model.backbone(x)
    gate = (torch.sigmoid(h) - 0.5) / h
    expected = ((model.head.weight[1] * gate) @ model.backbone.weight) * x
    assert torch.allclose(readout.contributions, expected, rtol=1e-10)


def test_sigmoids_are_gates_where_something_else_flows():
    model = Between(lambda model, x: model.head(model.backbone(x) * torch.sigmoid(model.backbone(x))))
    x = number(1, 2, 5)
    readout = read_out(model, x, 1)
    assert not readout.gates_flow
    h = model.backbone(x)
    expected = ((model.head.weight[1] * torch.sigmoid(h)) @ model.backbone.weight) * x
    assert torch.allclose(readout.contributions, expected, rtol=1e-10)


def test_log_softmax_cancels_in_a_comparison_of_classes():
    logits = Between(lambda model, x: model.head(model.backbone(x).relu()))
    model = Between(lambda model, x: model.head(model.backbone(x).relu()).log_softmax(-1))
    x = number(1, 2, 5)
    for question in (Question.why_not(0, 2), Question.why_group_not([0], [1, 2])):
        readout, expected = read_out(model, x, question), read_out(logits, x, question)
        assert torch.allclose(readout.contributions, expected.contributions, rtol=1e-9, atol=1e-12)
        assert torch.allclose(readout.bias, expected.bias, rtol=1e-9, atol=1e-12)


def test_softmax_at_the_end_is_the_cause_that_is_named():
    model = nn.Sequential(nn.Linear(5, 4), nn.Sigmoid(), nn.Linear(4, 2), nn.Softmax(-1)).eval()
    with pytest.raises(ValueError, match=r"module '3' \(Softmax\).*probabilities.*returns logits"):
        read_out(model, torch.randn(2, 5), 0)


def test_a_decision_at_the_end_is_named():
    model = nn.Sequential(nn.Linear(5, 4), Rounded()).eval()
    with pytest.raises(ValueError, match=r"'round' in module '1' \(Rounded\)"):
        read_out(model, torch.randn(2, 5), 0)


class Rounded(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.round()


# ---------------------------------------------------------------- inputs


def test_batch_norm_without_statistics_is_told_to_keep_some():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.Flatten()).eval()
    with pytest.raises(ValueError, match=r"'1' keeps no running statistics.*others in its batch"):
        read_out(model, images(), 0)


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.fc = nn.Embedding(7, 4), nn.Linear(4, 3)

    def forward(self, ids: Tensor) -> Tensor:
        return self.fc(self.embed(ids).mean(1).tanh())


def test_token_ids_are_read_at_the_embedding():
    model, ids = Words().eval(), torch.tensor([[1, 2, 3], [4, 5, 6]])
    readout = read_out(model, ids, 1, "embed")
    assert readout.contributions.shape == (2, 3, 4)
    assert torch.allclose(readout.total + readout.bias, model(ids)[:, 1].double(), atol=1e-6)
    with pytest.raises(TypeError, match=r"token ids.*embedding"):
        read_out(model, ids, 1)


class Scalars(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([x, 3 * x.relu() + 1], 1)


def test_inputs_of_one_number_each():
    readout = read_out(Scalars().eval(), torch.tensor([1.0, -2.0, 0.5]), 1)
    assert readout.contributions.tolist() == [3.0, 0.0, 1.5]
    assert readout.bias.tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("place", [None, "conv2"])
def test_tensors_of_inference_mode_are_read_like_others(place):
    model, x = conv_net(), images()
    with torch.inference_mode():
        made = images()
        inferred = conv_net()
    expected = read_out(model, x, 1, place)
    assert torch.equal(read_out(model, made, 1, place).contributions, expected.contributions)
    assert torch.equal(read_out(inferred, x, 1, place).contributions, expected.contributions)


def test_one_image_without_a_batch_is_told_so():
    model, x = conv_net(), images()[0]
    for call in (lambda: read_out(model, x, 0), lambda: explain(model, x), lambda: explain(model, x, 0)):
        with pytest.raises((RuntimeError, ValueError)) as caught:
            call()
        assert "x[None]" in str(caught.value) + " ".join(getattr(caught.value, "__notes__", []))


@pytest.mark.parametrize("bad", [(images(), images()), {"pixel_values": images()}, [images()], "photo.jpg"])
def test_inputs_that_are_no_tensor_are_told_so(bad):
    with pytest.raises(TypeError, match="inputs are"):
        explain(conv_net(), bad)


# ---------------------------------------------------------------- outputs


@dataclass
class ModelOutput:
    loss: Tensor | None
    logits: Tensor
    hidden: Tensor


Named = namedtuple("Named", "hidden logits")

OUTPUTS = {
    "dict": (lambda z, h: {"hidden": h, "logits": z}, None),
    "record": (lambda z, h: ModelOutput(None, z, h), None),
    "namespace": (lambda z, h: SimpleNamespace(aux=h, logits=z), None),
    "named tuple": (lambda z, h: Named(h, z), None),
    "tuple of one": (lambda z, h: (z, None), None),
    "by field": (lambda z, h: {"hidden": h, "scores": z}, "scores"),
    "by position": (lambda z, h: (h, z), 1),
    "by position in a dict": (lambda z, h: {"hidden": h, "scores": z}, 1),
}


class Wrapped(nn.Module):
    def __init__(self, wrap) -> None:
        super().__init__()
        self.model, self.wrap = conv_net(), wrap
        self.eval()

    def forward(self, x: Tensor):
        logits = self.model(x)
        return self.wrap(logits, torch.ones(len(x), 7))


@pytest.mark.parametrize("name", OUTPUTS)
def test_logits_are_found_in_what_a_model_returns(name):
    wrap, output = OUTPUTS[name]
    model, x = Wrapped(wrap), images()
    expected = read_out(conv_net(), x, 1)
    assert torch.equal(read_out(model, x, 1, output=output).contributions, expected.contributions)
    assert torch.equal(explain(model, x, 1, output=output).attribution, expected.on_images(3))


@pytest.mark.parametrize("name", OUTPUTS)
def test_other_methods_explain_the_logits_too(name):
    wrap, output = OUTPUTS[name]
    x = images()
    expected = explain(conv_net(), x, 1, "integrated_gradients", n_steps=4)
    found = explain(Wrapped(wrap), x, 1, "integrated_gradients", output=output, n_steps=4)
    assert torch.allclose(found.attribution, expected.attribution, atol=1e-6)
    assert torch.equal(found.logits, expected.logits)


@pytest.mark.parametrize("output", ["scores", 5])
def test_an_output_that_is_not_there_is_told_with_those_that_are(output):
    with pytest.raises(TypeError, match=r"no field .*'hidden': \[2, 7\], 'logits': \[2, 5\]"):
        read_out(Wrapped(OUTPUTS["dict"][0]), images(), 1, output=output)
