"""A convex mixture of exact accounts is an exact account, and asks for as few passes as it can."""

from __future__ import annotations

from dataclasses import replace

import pytest
import timm
import torch
from torch import Tensor, nn

from captum_align import LayerPiNetAttribution, PiNetAttribution
from tests.networks import conv_net, images, two_layers, untouched
from xai_align import FeatureSpace, Split, read_out
from xai_align.pinet import ExactPiNet, MixedReadout, ReadoutLayer
from xai_align.pinet.gates.cut_off import CutOff
from xai_align.pinet.mixture import mixed

LAYERS = ["input", "conv1", "pool", "conv2"]


def test_a_mixture_worked_by_hand():
    # at the input (2, 8) + 2.5, as in test_readout; at the hidden layer h = (6, 0): (12, 0) + 0.5
    readout = read_out(two_layers(), torch.tensor([[1.0, 2.0]]), 0, ["input", "1"], weights=[0.25, 0.75])
    assert [part.tolist() for part in readout.contributions] == [[[0.5, 2.0]], [[9.0, 0.0]]]
    assert readout.bias.tolist() == [0.25 * 2.5 + 0.75 * 0.5]
    assert readout.answer.tolist() == [12.5]
    assert readout.total.tolist() == [11.5]


@pytest.mark.parametrize("rule", ["gate", "gamma"])
@pytest.mark.parametrize("biases", ["apart", "placed"])
def test_each_part_is_the_readout_at_its_layer(rule, biases):
    model, x = conv_net().double(), images(dtype=torch.float64)
    weights = [0.4, 0.3, 0.2, 0.1]
    mixture = read_out(model, x, 1, LAYERS, weights=weights, rule=rule, biases=biases)
    assert isinstance(mixture, MixedReadout)
    assert mixture.weights == tuple(weights)
    alone = [read_out(model, x, 1, layer, rule=rule, biases=biases) for layer in LAYERS]
    for part, expected in zip(mixture.parts, alone, strict=True):
        assert part.feature_space.layer == expected.feature_space.layer
        assert torch.allclose(part.contributions, expected.contributions, atol=1e-12)
        assert torch.allclose(part.bias, expected.bias, atol=1e-12)
        assert torch.allclose(part.map(), expected.map(), atol=1e-12)
    assert torch.equal(mixture.map(), mixture.map("smooth"))
    for spread in ("area", "smooth"):
        expected = sum(weight * one.map(spread) for weight, one in zip(weights, alone, strict=True))
        assert torch.allclose(mixture.map(spread), expected, atol=1e-12)
    assert torch.allclose(mixture.map().sum((1, 2)) + mixture.bias, mixture.answer, atol=1e-12)
    assert torch.allclose(mixture.total + mixture.bias, mixture.answer, atol=1e-12)
    assert mixture.relative_error.max() < 1e-12
    assert torch.allclose(mixture.on_images(3).sum(1), mixture.map(), atol=1e-12)


def test_weights_are_equal_unless_given():
    model, x = conv_net(), images()
    mixture = read_out(model, x, 1, ["conv1", "conv2"])
    assert mixture.weights == (0.5, 0.5)
    assert torch.equal(mixture.map(), read_out(model, x, 1, ["conv1", "conv2"], weights=[0.5, 0.5]).map())


def test_the_order_of_layers_is_the_callers():
    model, x = conv_net().double(), images(dtype=torch.float64)
    forwards = read_out(model, x, 1, ["conv1", "conv2"], weights=[0.9, 0.1], biases="placed")
    backwards = read_out(model, x, 1, ["conv2", "conv1"], weights=[0.1, 0.9], biases="placed")
    assert torch.allclose(forwards.map(), backwards.map(), atol=1e-12)
    assert torch.allclose(forwards.bias, backwards.bias, atol=1e-12)
    assert forwards.feature_space.layer == ("conv1", "conv2")


def test_one_layer_in_a_list_is_that_layer():
    model, x = conv_net(), images()
    assert type(read_out(model, x, 1, ["conv2"])).__name__ == "Readout"
    assert torch.equal(read_out(model, x, 1, ["conv2"]).contributions, read_out(model, x, 1, "conv2").contributions)


def test_layers_may_have_rules_of_their_own():
    model, x = conv_net().double(), images(dtype=torch.float64)
    layer = ReadoutLayer(feature_space="conv1", rule="gamma", gamma=2, biases="placed")
    mixture = read_out(model, x, 1, [layer, model.conv2], weights=[0.5, 0.5])
    expected = 0.5 * read_out(model, x, 1, "conv1", rule="gamma", gamma=2, biases="placed").map("smooth")
    expected = expected + 0.5 * read_out(model, x, 1, "conv2").map("smooth")
    assert torch.allclose(mixture.map(), expected, atol=1e-12)


CALLS: list[nn.Module] = []


class Counted(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        CALLS.append(self)
        return self.model(x)


def test_layers_share_a_pass():
    model = Counted(conv_net()).eval()
    read_out(model, images(), 1, "model.pool", rule="gamma", biases="placed")  # looks once at where cells lie
    CALLS.clear()
    read_out(model, images(), 1, ["model.conv1", "model.pool", "model.conv2"], rule="gamma", biases="placed")
    assert len(CALLS) == 3  # the plain model, one pass that is recorded, one replay for all layers


def test_a_local_layer_can_be_mixed_in():
    model, x = conv_net().double(), images(dtype=torch.float64)

    def features(x: Tensor) -> Tensor:
        return model.act(model.conv2(model.pool(model.act(model.norm(model.conv1(x))))))

    head = FeatureSpace(layer="head", split=Split(features, lambda z: model.fc(z.mean((2, 3)))))
    mixture = read_out(model, x, 1, ["conv1", head], weights=[0.3, 0.7], rule="gamma")
    assert [part.kind for part in mixture.parts] == ["frozen", "local"]
    assert mixture.kind == "frozen"
    assert mixture.relative_error.max() < 1e-12
    assert torch.allclose(mixture.parts[1].contributions, read_out(model, x, 1, head).contributions, atol=1e-12)


def test_local_layers_make_a_local_mixture():
    # both heads are affine: at h = (6, 0) as at the hidden layer, behind it at the logits themselves
    model, x = two_layers(), torch.tensor([[1.0, 2.0]])
    hidden = FeatureSpace(layer="hidden", split=Split(model[:2], model[2]))
    logits = FeatureSpace(layer="logits", split=Split(model, nn.Identity()))
    mixture = read_out(model, x, 0, [hidden, logits], weights=[0.25, 0.75])
    assert [part.tolist() for part in mixture.contributions] == [[[3.0, 0.0]], [[9.375, 0.0]]]
    assert mixture.kind == "local"
    assert mixed([mixture.parts[0]], [1.0]).kind == "local"
    assert read_out(model, x, 0, ["input", "1"]).kind == "frozen"


def test_a_mixture_names_all_layers_and_what_was_cut_off():
    model, x = two_layers(), torch.tensor([[1.0, 2.0]])
    parts = list(read_out(model, x, 0, ["input", "1"]).parts)
    lost, more = CutOff("detach", "0", "Linear", 1), CutOff("item", "2", "Linear", 3)
    parts[0] = replace(parts[0], cut_off=(lost,), feature_space=FeatureSpace(layer=("a", "b")), gates_flow=True)
    parts[1] = replace(parts[1], cut_off=(lost, more))
    both = mixed(parts, [0.5, 0.5])
    assert both.feature_space.layer == ("a", "b", "1")
    assert both.cut_off == (lost, more)
    assert both.gates_flow is True
    assert mixed(parts[1:], [1.0]).gates_flow is False
    assert mixed(parts[1:], [1.0]).answer.tolist() == [12.5]


def test_a_mixture_has_a_weight_for_each_part():
    mixture = read_out(conv_net(), images(), 1, ["conv1", "conv2"])
    with pytest.raises(ValueError, match="shorter"):
        mixed(mixture.parts, [1.0])
    with pytest.raises(ValueError, match="shorter"):
        replace(mixture, weights=(1.0,)).map()


class TwoBranches(nn.Module):
    """Two branches that meet in a product and in a sum, and a way around the second."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))
        self.join = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.first(x).relu(), self.second(x).tanh()
        c = self.third(a).relu()
        return (self.join(a * b + c) + self.join(a)).relu().mean((2, 3))


@pytest.mark.parametrize("biases", ["apart", "placed"])
def test_branches_are_exact_at_each_layer_and_mixed(biases):
    torch.manual_seed(0)
    model, x = TwoBranches().double().eval(), images(dtype=torch.float64)
    assert model(x)[:, 3].min() > 0.5
    mixture = read_out(model, x, 3, ["first", "second", "third"], rule="gamma", biases=biases)
    for part in (mixture, *mixture.parts):
        assert part.relative_error.max() < 1e-12
        assert torch.allclose(part.total + part.around + part.bias, model(x)[:, 3], atol=1e-12)
    for name, part in zip(("first", "second", "third"), mixture.parts, strict=True):
        alone = read_out(model, x, 3, name, rule="gamma", biases=biases)
        assert torch.allclose(part.contributions, alone.contributions, atol=1e-12)
        assert torch.allclose(part.around, alone.around, atol=1e-12)
    # the second branch has the first one's evidence go round it, the third has the shortcut
    assert mixture.parts[1].around.abs().min() > 0.1
    assert mixture.parts[2].around.abs().min() > 0.1


def test_tensors_can_still_be_cut_jointly():
    torch.manual_seed(0)
    model, x = TwoBranches().double().eval(), images(dtype=torch.float64)
    joint = FeatureSpace(layer=("first", "second"))
    readout = read_out(model, x, 3, joint)
    assert len(readout.contributions) == 2
    assert readout.relative_error.max() < 1e-12
    mixture = read_out(model, x, 3, [joint, "third"], weights=[0.5, 0.5])
    assert len(mixture.contributions) == 3
    assert torch.allclose(mixture.parts[0].map(), readout.map(), atol=1e-12)


def test_examples_do_not_depend_on_their_batch():
    model, x = conv_net(), images(3)
    together = read_out(model, x, [0, 1, 2], ["conv1", "conv2"], rule="gamma", biases="placed")
    for i in range(3):
        alone = read_out(model, x[i : i + 1], i, ["conv1", "conv2"], rule="gamma", biases="placed")
        assert torch.allclose(together.map()[i], alone.map()[0], atol=1e-6)
        assert torch.allclose(together.bias[i], alone.bias[0], atol=1e-6)


def test_nothing_of_the_model_changes():
    model, x = conv_net(), images()
    with untouched(model):
        read_out(model, x, 1, LAYERS, rule="gamma", biases="placed")
    with untouched(model), pytest.raises(ValueError, match="did not run"):
        read_out(model, x, 1, ["conv1", "unused"])


# ---------------------------------------------------------------- through Captum's door


def test_captums_class_gives_the_mixture_on_pixels():
    model, x = conv_net(), images()
    account = {"weights": [0.25, 0.75], "rule": "gamma", "biases": "placed"}
    attributions, delta = PiNetAttribution(model, ["conv1", "conv2"], **account).attribute(
        x, 1, internal_batch_size=1, return_convergence_delta=True
    )
    readout = read_out(model, x, 1, ["conv1", "conv2"], **account)
    assert torch.allclose(attributions, readout.on_images(3), atol=1e-6)
    assert delta.abs().max() < 1e-5
    again = PiNetAttribution(model, ["conv1", "conv2"], **account).compute_convergence_delta(attributions, x, 1)
    assert again.abs().max() < 1e-5


def test_captums_layer_class_gives_what_each_layer_has():
    model, x = conv_net(), images()
    first, second = LayerPiNetAttribution(model, ["conv1", "conv2"], weights=[0.25, 0.75], rule="gamma").attribute(x, 1)
    expected = read_out(model, x, 1, ["conv1", "conv2"], weights=[0.25, 0.75], rule="gamma").contributions
    assert torch.equal(first, expected[0])
    assert torch.equal(second, expected[1])


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ([0.5, 0.6], "sum to 1.1"),
        ([1.5, -0.5], "must be 0 or more"),
        ([float("nan"), 0.5], "sum to nan"),
        ([1.0], "1 weight for 2 layers"),
    ],
)
def test_weights_that_share_nothing_out_are_refused(weights, words):
    with pytest.raises(ValueError, match=words):
        read_out(conv_net(), images(), 1, ["conv1", "conv2"], weights=weights)


def test_weights_for_one_layer_are_refused():
    with pytest.raises(ValueError, match="2 weights for 1 layer;"):
        read_out(conv_net(), images(), 1, "conv1", weights=[0.5, 0.5])


def test_layers_that_are_none_are_refused():
    with pytest.raises(ValueError, match="empty list"):
        read_out(conv_net(), images(), 1, [])
    with pytest.raises(ValueError, match="'conv1' is named twice"):
        read_out(conv_net(), images(), 1, ["conv1", "conv1"])
    with pytest.raises(TypeError, match="got 3; give a layer's name"):
        read_out(conv_net(), images(), 1, ["conv1", 3])


class Gate(nn.Module):
    """Looks at the second branch only to decide."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.first(x) * self.second(x).softmax(-1)


def test_a_layer_that_only_gates_is_named():
    with pytest.raises(ValueError, match="no evidence of 'second' reaches the output"):
        read_out(Gate().eval(), torch.ones(1, 3), 0, ["first", "second"])


def test_cells_of_several_sizes_are_spread_smoothly():
    model, x = conv_net(), images()
    coarse, placed = read_out(model, x, 1, "pool"), read_out(model, x, 1, "pool", biases="placed")
    assert torch.equal(coarse.map(), coarse.map("area"))
    assert torch.equal(placed.map(), placed.map("smooth"))
    assert not torch.equal(placed.map(), placed.map("area"))


def test_a_retrofitted_network_is_read_where_it_was_retrofitted():
    model, x = timm.create_model("test_resnet").eval(), images(1, 96)
    assert torch.equal(
        PiNetAttribution(ExactPiNet(model, "layer3")).attribute(x, 3), read_out(model, x, 3, "layer3").on_images(3)
    )
