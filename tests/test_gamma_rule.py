"""The gamma rule and placed biases: other exact accounts of the same answer, worked by hand, naively, and at random."""

from __future__ import annotations

from fractions import Fraction

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from tests.networks import conv_net, images, two_layers, untouched
from xai_align import read_out

GAMMAS = [0.25, 10.0]


# ---------------------------------------------------------------- worked by hand


def test_terms_of_two_layers_worked_by_hand():
    # x = (2, 1), gamma = 1. Unit 1: 2 + 2 = 4, both agree, so each term counts as it is; h_1 = 4 + 1 = 5.
    # Unit 2: 6 - 1 = 5; z_gamma = 2 * 6 - 1 = 11, so its terms count 5/11 * (12, -1); h_2 = 5 - 2 = 3.
    # logit_0 = 2 * 5 + 1 * 3 + 1/2: both agree. Bias: 2 * 1 + 1 * (-2) + 1/2.
    readout = read_out(two_layers().double(), torch.tensor([[2.0, 1.0]]).double(), 0, "input", rule="gamma", gamma=1)
    first, second = 4 + Fraction(60, 11), 4 - Fraction(5, 11)
    assert readout.contributions[0].tolist() == pytest.approx([float(first), float(second)], rel=1e-12)
    assert readout.bias.tolist() == pytest.approx([0.5], rel=1e-12)
    assert readout.answer.tolist() == [13.5]
    # logit_1 = -5 + 12 - 1/2: z = 7, z_gamma = -5 + 24 = 19, so the units count -7/19 and 8 * 7/19.
    readout = read_out(two_layers().double(), torch.tensor([[2.0, 1.0]]).double(), 1, "input", rule="gamma", gamma=1)
    one, two = Fraction(-7, 19), Fraction(56, 19)
    expected = [one * 2 + two * Fraction(60, 11), one * 2 - two * Fraction(5, 11)]
    assert readout.contributions[0].tolist() == pytest.approx([float(value) for value in expected], rel=1e-12)
    assert readout.bias.tolist() == pytest.approx([float(one * 1 - two * 2 - Fraction(1, 2))], rel=1e-12)


def test_a_negative_value_favours_its_negative_terms():
    # 3 - 5 = -2 and z_gamma = 3 - 10 = -7: the terms count 2/7 * (3, -10)
    model = nn.Linear(2, 1, bias=False).double().eval()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, -1.0]]))
    readout = read_out(model, torch.tensor([[3.0, 5.0]]).double(), 0, "input", rule="gamma", gamma=1)
    assert readout.contributions[0].tolist() == pytest.approx([6 / 7, -20 / 7], rel=1e-12)


def test_terms_that_cancel_wholly_add_nothing():
    model = nn.Linear(2, 1).eval()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, -1.0]]))
    readout = read_out(model, torch.tensor([[2.0, 2.0], [0.0, 0.0]]), 0, "input", rule="gamma")
    assert readout.contributions.tolist() == [[0.0, 0.0], [0.0, 0.0]]
    assert torch.equal(readout.bias, readout.answer)


class OneByOne(nn.Module):
    """Each position by itself, then their mean, then a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 1, 1), nn.Linear(1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(x).relu().mean((2, 3)))


def test_placed_biases_worked_by_hand():
    # each position is relu(2 x - 1), the answer 3 mean + 10: where the gate is open the bias adds 3 * (-1) / 4
    model = OneByOne().eval()
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), (2.0, -1.0, 3.0, 10.0), strict=True):
            parameter.fill_(value)
    x = torch.tensor([[[[1.0, 0.0], [2.0, 0.25]]]])
    readout = read_out(model, x, 0, "input", biases="placed")
    assert readout.contributions.tolist() == [[[[1.5, 0.0], [3.0, 0.0]]]]
    assert [cells.tolist() for cells in readout.placed] == [[[[-0.75, 0.0], [-0.75, 0.0]]]]
    assert readout.bias.tolist() == [10.0]
    assert readout.map().tolist() == [[[0.75, 0.0], [2.25, 0.0]]]
    assert readout.total.tolist() == [3.0]
    assert read_out(model, x, 0, "input").bias.tolist() == [8.5]


# ---------------------------------------------------------------- against a naive implementation


def naive_map(model: nn.Module, x: Tensor, label: int, gamma: float) -> Tensor:
    """Contributions of one image's pixels to a logit of ConvNet, term by term with dense matrices."""
    with torch.no_grad():
        conv_1 = model.conv1(x)
        normed = model.norm(conv_1)
        pooled, places = nn.functional.max_pool2d(normed.relu(), 2, return_indices=True)
        conv_2 = model.conv2(pooled)
        mean = conv_2.relu().mean((2, 3))
    relevance = favoured(model.fc.weight[label][None], mean.flatten(), gamma)[0] / mean.flatten()
    relevance = relevance.nan_to_num(nan=0.0)[:, None].expand(8, 16).flatten() / 16 * (conv_2.flatten() > 0)
    relevance = relevance @ (favoured(dense(model.conv2, pooled), pooled.flatten(), gamma) / pooled.flatten())
    relevance = relevance.nan_to_num(nan=0.0).view(8, 16)
    unpooled = torch.zeros(8, 64, dtype=x.dtype).scatter_(1, places.flatten(2)[0], relevance)
    scale = model.norm.weight / (model.norm.running_var + model.norm.eps).sqrt()
    before_norm = unpooled * (normed[0].flatten(1) > 0) * scale[:, None]
    return (before_norm.flatten() @ favoured(dense(model.conv1, x), x.flatten(), gamma)).view(x.shape[1:])


def favoured(weight: Tensor, x: Tensor, gamma: float) -> Tensor:
    """The terms of each unit ``[out, in]``: agreeing ones count ``1 + gamma``, all of them so that the sum stays."""
    rows = []
    for row in weight.detach():
        terms = [float(w) * float(v) for w, v in zip(row, x, strict=True)]
        total = sum(terms)
        counted = [term * (1 + gamma) if term * total > 0 else term for term in terms]
        rows.append([term * total / sum(counted) for term in counted])
    return torch.tensor(rows, dtype=x.dtype)


def dense(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """The convolution as a matrix, without its bias."""

    def linear(flat: Tensor) -> Tensor:
        return nn.functional.conv2d(flat.view(x.shape), conv.weight, None, conv.stride, conv.padding).flatten()

    return torch.autograd.functional.jacobian(linear, x.flatten()).detach()


@pytest.mark.parametrize("gamma", GAMMAS)
def test_agrees_with_a_naive_implementation(gamma):
    model, x = conv_net().double(), images(2, dtype=torch.float64)
    readout = read_out(model, x, [1, 3], "input", rule="gamma", gamma=gamma)
    for row, label in enumerate([1, 3]):
        expected = naive_map(model, x[row : row + 1], label, gamma)
        assert torch.allclose(readout.contributions[row], expected, rtol=1e-9, atol=1e-12)


def test_no_gamma_is_the_gate_rule():
    model, x = conv_net(), images()
    gate, gamma = read_out(model, x, 1, "input"), read_out(model, x, 1, "input", rule="gamma", gamma=0)
    assert torch.equal(gate.contributions, gamma.contributions)
    assert torch.equal(gate.bias, gamma.bias)


def test_little_gamma_is_nearly_the_gate_rule():
    model, x = conv_net().double(), images(dtype=torch.float64)
    gate, gamma = read_out(model, x, 1, "input"), read_out(model, x, 1, "input", rule="gamma", gamma=1e-9)
    assert torch.allclose(gate.contributions, gamma.contributions, atol=1e-6)


@pytest.mark.parametrize("biases", ["apart", "placed"])
def test_a_batch_norm_counts_as_if_folded(biases):
    model, x = conv_net().double(), images(dtype=torch.float64)
    with torch.no_grad():
        model.norm.weight.copy_(torch.tensor([1.0, -2.0, 0.5, -0.1, 3.0, 1.0, -1.0, 2.0]))
        model.norm.bias.normal_(generator=torch.Generator().manual_seed(1))
    folded = conv_net().double()
    folded.load_state_dict(model.state_dict())
    folded.conv1, folded.norm = fuse_conv_bn_eval(model.conv1, model.norm), nn.Identity()
    ours, theirs = (read_out(network, x, 2, "input", rule="gamma", biases=biases) for network in (model, folded.eval()))
    assert torch.allclose(ours.contributions, theirs.contributions, atol=1e-12)
    assert torch.allclose(ours.bias, theirs.bias, atol=1e-12)
    for one, other in zip(ours.placed, theirs.placed, strict=True):
        assert torch.allclose(one, other, atol=1e-12)


# ---------------------------------------------------------------- exact for any network


class Residual(nn.Module):
    def __init__(self, *inner: nn.Module) -> None:
        super().__init__()
        self.inner = nn.Sequential(*inner)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


class Tokens(nn.Module):
    """From a map to tokens, a block of attention, and back."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        normed = self.norm(tokens)
        tokens = tokens + self.attention(normed, normed, normed)[0]
        return (tokens + self.mlp(tokens)).transpose(1, 2).view(x.shape)


def block(kind: str) -> list[nn.Module]:
    conv = nn.Conv2d(4, 4, 3, padding=1)
    return {
        "conv": [conv, nn.ReLU()],
        "norm": [conv, nn.BatchNorm2d(4), nn.ReLU(inplace=True)],
        "depthwise": [nn.Conv2d(4, 4, 3, padding="same", groups=4, bias=False), nn.BatchNorm2d(4), nn.ReLU6(True)],
        "preact": [nn.BatchNorm2d(4), nn.ReLU(), conv],
        "even": [nn.Conv2d(4, 4, 2, padding="same", dilation=2), nn.SiLU()],
        "residual": [Residual(conv, nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 1)), nn.ReLU(inplace=True)],
        "strided": [nn.Conv2d(4, 4, 3, stride=2, padding=1), nn.LeakyReLU()],
        "tokens": [Tokens(4)],
        "group norm": [nn.GroupNorm(2, 4), nn.Hardswish()],
    }[kind]  # fmt: skip


KINDS = ["conv", "norm", "depthwise", "preact", "even", "residual", "strided", "tokens", "group norm"]


def random_network(kinds: list[str], seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = [layer for kind in kinds for layer in block(kind)]
    model = nn.Sequential(nn.Conv2d(3, 4, 1), *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.3, 3)
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return model.double().eval()


@settings(max_examples=40, deadline=None)
@given(
    kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=4),
    seed=st.integers(0, 10**6),
    gamma=st.floats(0, 20),
    biases=st.sampled_from(["apart", "placed"]),
    place=st.sampled_from(["input", "0", "1"]),
)
def test_sum_is_exact_for_any_network(kinds, seed, gamma, biases, place):
    model, x = random_network(kinds, seed), images(2, 16, seed=seed, dtype=torch.float64)
    readout = read_out(model, x, [0, 2], place, rule="gamma", gamma=gamma, biases=biases)
    assert readout.relative_error.max() < 1e-10
    assert torch.allclose(readout.answer, model(x)[[0, 1], [0, 2]], rtol=1e-10)
    assert torch.allclose(readout.total + readout.bias, readout.answer, rtol=1e-9, atol=1e-9)
    assert torch.allclose(readout.map("smooth").sum((1, 2)), readout.total, rtol=1e-9, atol=1e-9)


def test_favouring_what_agrees_leaves_less_to_cancel():
    model, x = random_network(["conv"] * 4, 0), images(4, dtype=torch.float64)
    size = {rule: read_out(model, x, 0, "input", rule=rule).contributions.abs().sum() for rule in ("gate", "gamma")}
    assert size["gamma"] < size["gate"]


def test_a_transformer_is_exact_by_the_gamma_rule():
    model, x = timm.create_model("test_vit").eval().double(), images(2, 160, dtype=torch.float64)
    gate, gamma = (read_out(model, x, 3, "patch_embed.proj", rule=rule) for rule in ("gate", "gamma"))
    assert gamma.relative_error.max() < 1e-10
    assert not torch.allclose(gate.contributions, gamma.contributions, rtol=1e-2)


@pytest.mark.parametrize("dimensions", [1, 3])
def test_convolutions_of_any_dimension(dimensions):
    kind = {1: nn.Conv1d, 3: nn.Conv3d}[dimensions]
    torch.manual_seed(0)
    model = nn.Sequential(kind(2, 4, 3, padding=1), nn.ReLU(), kind(4, 3, 2), nn.Flatten(), nn.LazyLinear(2)).eval()
    x = torch.randn(2, 2, *[4] * dimensions)
    model(x)
    readout = read_out(model, x, 1, "input", rule="gamma")
    assert readout.relative_error.max() < 1e-5


class Unbatched(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.conv(image).relu().mean((1, 2)) for image in x])


def test_a_convolution_of_one_image_without_a_batch():
    torch.manual_seed(0)
    readout = read_out(Unbatched().double().eval(), images(dtype=torch.float64), 1, "input", rule="gamma")
    assert readout.relative_error.max() < 1e-12


class Overwrites(nn.Module):
    """Writes into what a layer was given and into what it gave, after it ran."""

    def __init__(self, *, bias: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 3, 1, bias=bias), nn.Conv2d(3, 3, 3, padding=1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        z = self.second(y)
        y += z
        nn.functional.relu(z, inplace=True)
        y = nn.functional.relu6(y, True)
        return (y * z).mean((2, 3))


@pytest.mark.parametrize("biases", ["apart", "placed"])
@pytest.mark.parametrize("bias", [True, False])
def test_what_a_layer_saw_is_kept_from_writing(biases, bias):
    torch.manual_seed(0)
    model, x = Overwrites(bias=bias).double().eval(), images(dtype=torch.float64)
    readout = read_out(model, x, 1, "input", rule="gamma", biases=biases)
    assert torch.allclose(readout.answer, model(x)[:, 1], rtol=1e-12)
    assert readout.relative_error.max() < 1e-12


# ---------------------------------------------------------------- precision, batches, no trace


@pytest.mark.parametrize("biases", ["apart", "placed"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_coefficients_are_computed_in_float32(dtype, biases):
    model, x = conv_net().to(dtype), images(dtype=dtype)
    readout = read_out(model, x, 1, "input", rule="gamma", biases=biases)
    assert readout.contributions.dtype == torch.float32
    assert readout.logits.dtype == dtype
    assert readout.relative_error.max() < 1e-5


def test_autocast():
    model, x = conv_net(), images()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        readout = read_out(model, x, 1, "input", rule="gamma", biases="placed")
    assert readout.relative_error.max() < 3e-2
    assert torch.allclose(readout.answer.float(), model(x)[:, 1], atol=5e-2)


def test_examples_do_not_depend_on_their_batch():
    model, x = conv_net(), images(3)
    x[1] = x[1].abs()  # one image whose terms have signs of their own
    together = read_out(model, x, [0, 1, 2], "input", rule="gamma", biases="placed")
    for i in range(3):
        alone = read_out(model, x[i : i + 1], i, "input", rule="gamma", biases="placed")
        assert torch.allclose(together.contributions[i], alone.contributions[0], atol=1e-6)
        assert torch.allclose(together.map()[i], alone.map()[0], atol=1e-6)
        assert torch.allclose(together.bias[i], alone.bias[0], atol=1e-6)


def test_questions_of_two_classes_are_the_difference_of_their_accounts():
    model, x = conv_net().double(), images(dtype=torch.float64)
    from xai_align import Question

    both, one, other = (
        read_out(model, x, asked, "conv1", rule="gamma", biases="placed") for asked in (Question.why_not(1, 2), 1, 2)
    )
    assert torch.allclose(both.contributions, one.contributions - other.contributions, atol=1e-12)
    assert torch.allclose(both.map(), one.map() - other.map(), atol=1e-12)


def test_nothing_of_the_model_changes():
    model, x = conv_net(), images()
    model.conv1.weight.grad = torch.ones_like(model.conv1.weight)
    kept = x.clone()
    with untouched(model):
        read_out(model, x, 1, "conv1", rule="gamma", biases="placed")
    with untouched(model), pytest.raises(IndexError):
        read_out(model, x, 99, "input", rule="gamma", biases="placed")
    assert torch.equal(x, kept)


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize("gamma", [-0.1, float("nan"), float("inf"), "a", "0.25", True, [0.25]])
def test_a_gamma_that_is_none_is_refused(gamma):
    with pytest.raises(ValueError, match=r"gamma is .*; give a finite number"):
        read_out(conv_net(), images(), 1, "input", rule="gamma", gamma=gamma)


def test_words_that_name_no_rule_are_refused():
    with pytest.raises(ValueError, match="no rule 'epsilon'; it is 'gate' or 'gamma'"):
        read_out(conv_net(), images(), 1, "input", rule="epsilon")
    with pytest.raises(ValueError, match="'shared'; they are 'apart' or 'placed'"):
        read_out(conv_net(), images(), 1, "input", biases="shared")


def test_biases_have_no_place_where_there_is_no_image():
    with pytest.raises(ValueError, match=r"not images .*\[1, 2\].*; use biases=.apart."):
        read_out(two_layers(), torch.ones(1, 2), 0, "input", biases="placed")
