"""The default readout follows from the network's operations: the same through every library and wrapper."""

from __future__ import annotations

import copy
import warnings

import pytest
import timm
import torch
import torchvision
from plugin_site import site_in
from torch import Tensor, nn

from captum_align import PiNetAttribution
from gradcam_align import PiNetCAM
from tests.networks import conv_net, images, untouched
from xai_align import explain, read_out
from xai_align.features.grid_layers import grid_layers
from xai_align.pinet import ExactPiNet, ReadoutLayer, default_layers, read_out_all_classes
from xai_align.question import Question, ask


def woken(model: nn.Module, seed: int = 0) -> nn.Module:
    """The network in eval mode with random values where it starts with zeros or ones."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.dim() == 1 or not bool(parameter.any()):
            parameter.data.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


# ---------------------------------------------------------------- one network in two libraries


def resnets() -> tuple[nn.Module, nn.Module, Tensor]:
    ours = woken(timm.create_model("resnet18", num_classes=5))
    theirs = torchvision.models.resnet18(num_classes=5).eval()
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs, images(2, 128)


def transformers() -> tuple[nn.Module, nn.Module, Tensor]:
    """timm's and torchvision's vision transformer with the same weights."""
    theirs = woken(
        torchvision.models.VisionTransformer(
            image_size=32, patch_size=4, num_layers=6, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=5
        )
    )
    ours = timm.models.VisionTransformer(
        img_size=32, patch_size=4, depth=6, num_heads=2, embed_dim=16, mlp_ratio=2, num_classes=5
    ).eval()
    state = theirs.state_dict()
    renamed = {
        "cls_token": state["class_token"],
        "pos_embed": state["encoder.pos_embedding"],
        "patch_embed.proj.weight": state["conv_proj.weight"],
        "patch_embed.proj.bias": state["conv_proj.bias"],
        "norm.weight": state["encoder.ln.weight"],
        "norm.bias": state["encoder.ln.bias"],
        "head.weight": state["heads.head.weight"],
        "head.bias": state["heads.head.bias"],
    }
    parts = {
        "ln_1": "norm1",
        "ln_2": "norm2",
        "self_attention.in_proj_": "attn.qkv.",
        "self_attention.out_proj": "attn.proj",
        "mlp.0": "mlp.fc1",
        "mlp.3": "mlp.fc2",
    }
    for number in range(6):
        for part, name in parts.items():
            for kind in ("weight", "bias"):
                separator = "" if part.endswith("_") else "."
                source = f"encoder.layers.encoder_layer_{number}.{part}{separator}{kind}"
                renamed[f"blocks.{number}.{name}{'' if name.endswith('.') else '.'}{kind}"] = state[source]
    ours.load_state_dict(renamed)
    return ours, theirs, images(2, 32)


@pytest.mark.parametrize("pair", [resnets, transformers])
def test_the_same_weights_have_the_same_map_in_two_libraries(pair):
    ours, theirs, x = pair()
    assert torch.allclose(ours(x), theirs(x), atol=1e-5)
    one, other = read_out(ours, x, [1, 3]), read_out(theirs, x, [1, 3])
    assert one.map().abs().max() > 1e-5
    assert torch.allclose(one.map(), other.map(), atol=1e-4 * float(one.map().abs().max()))
    assert torch.allclose(one.prefix + one.bias, other.prefix + other.bias, atol=1e-4)


# ---------------------------------------------------------------- wrappers


class Normalise(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x - 0.5) / 0.25


class Module(nn.Module):
    """As LightningModules are: the network in an attribute, other attributes beside it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.backbone, self.loss = network, nn.CrossEntropyLoss()

    def forward(self, x: Tensor) -> Tensor:
        return self.backbone(x)


class Dictionary(Module):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": self.backbone(x)}


WRAPPERS = {
    "sequential": lambda network: nn.Sequential(nn.Identity(), network),
    "attribute": Module,
    "twice": lambda network: Module(nn.Sequential(network)),
    "dictionary": Dictionary,
    "averaged": torch.optim.swa_utils.AveragedModel,
    "moving average": lambda network: timm.utils.ModelEmaV3(network).module,
    "data parallel": nn.DataParallel,
    "compiled": lambda network: torch.compile(network, backend="eager"),
    "compiled inside": lambda network: Module(torch.compile(network, backend="eager")),
    "retrofitted": ExactPiNet,
    "copied": copy.deepcopy,
}
NETWORKS = {
    "test_efficientnet": 96,
    "test_convnext": 96,
    "test_vit": 160,
    "test_vit4": 160,
    "test_resnet": 96,
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_wrapper_makes_no_difference(name, wrapper):
    network, x = woken(timm.create_model(name, num_classes=5)), images(1, NETWORKS[name])
    expected = read_out(network, x, 3)
    wrapped = WRAPPERS[wrapper](network).eval()
    with untouched(network):
        found = read_out(wrapped, x, 3)
    assert torch.allclose(found.map(), expected.map(), atol=1e-5 * float(expected.map().abs().max()))


def test_a_normalisation_in_front_makes_no_difference():
    network, x = woken(timm.create_model("test_vit", num_classes=5)), images(1, 160)
    expected = read_out(network, (x - 0.5) / 0.25, 3).map()
    found = read_out(nn.Sequential(Normalise(), network).eval(), x, 3).map()
    assert torch.allclose(found, expected, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "maxvit_rmlp_pico_rw_256"])
def test_hierarchical_transformers_through_a_wrapper(name):
    network = woken(timm.create_model(name, num_classes=5))
    x = images(1, network.pretrained_cfg["input_size"][-1])
    expected = read_out(network, x, 3)
    assert expected.feature_space.layer != "input"
    found = read_out(Module(network).eval(), x, 3)
    assert torch.allclose(found.map(), expected.map(), atol=1e-4 * float(expected.map().abs().max()))


# ---------------------------------------------------------------- one decomposition at every door


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_every_door_reads_the_same(name):
    import timm_align

    model, x = woken(timm.create_model(name)), images(1, NETWORKS[name])
    expected = read_out(model, x, 3)
    asked, _ = ask(model, [Question.why(3)], 1)
    on_pixels = expected.on_images(3)
    doors = {
        "captum": PiNetAttribution(model).attribute(x, 3),
        "asked": PiNetAttribution(asked).attribute(x),
        "explain": explain(model, x, 3).attribution,
        "retrofit": timm_align.retrofit(model).read_out(x, 3).on_images(3),
        "in one": read_out(model, x, 3, default_layers(model, (x,))).on_images(3),
    }
    for door, found in doors.items():
        assert torch.equal(found, on_pixels), door
    cam = PiNetCAM(model).attributions(x, [3])
    assert torch.allclose(cam, expected.map("smooth"), atol=1e-6)


def test_options_change_the_rule_and_not_the_layers():
    model, x = woken(timm.create_model("test_resnet")), images(1, 96)
    (layer,) = default_layers(model, (x,))
    by_gates = read_out(model, x, 3, rule="gate")
    assert by_gates.feature_space.layer == layer.feature_space.layer
    expected = read_out(model, x, 3, ReadoutLayer(feature_space=layer.feature_space, biases="placed"))
    assert torch.equal(by_gates.map(), expected.map())


# ---------------------------------------------------------------- the head


@pytest.mark.parametrize("wrap", [lambda network: network, Module])
def test_the_head_of_any_library_is_local(wrap):
    ours, theirs, x = resnets()
    expected, found = read_out(ours, x, [1, 3], "head"), read_out(wrap(theirs).eval(), x, [1, 3], "head")
    assert expected.kind == found.kind == "local"
    assert torch.allclose(found.contributions, expected.contributions, atol=1e-5)
    every, one = read_out_all_classes(ours, x), read_out_all_classes(wrap(theirs).eval(), x)
    assert one.maps.shape == (2, 5, 4, 4)
    assert torch.allclose(one.maps, every.maps, atol=1e-5)
    assert torch.allclose(one.bias, every.bias, atol=1e-6)


def test_a_head_that_is_not_affine_is_read_by_gates():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(1))
    model.append(nn.ReLU()).append(nn.Linear(5, 3)).eval()
    readout = read_out(model, images(1, 16), 1, "head")
    assert readout.kind == "frozen"
    assert readout.feature_space.layer == "2"


def test_a_class_token_has_no_head_that_reads_a_grid():
    with pytest.raises(ValueError, match=r"reads no grid of cells.*only its class tokens are used"):
        read_out(woken(timm.create_model("test_vit")), images(1, 160), 3, "head")


# ---------------------------------------------------------------- where there is nothing, or too much


class Bypassed(nn.Module):
    """The image reaches the output through a convolution and around it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(7, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.cat([self.conv(x).relu().mean((2, 3)), x.mean((2, 3))], 1))


def test_a_network_without_a_grid_is_read_at_its_input_and_says_so_once():
    model, x = Bypassed().eval(), images(1, 16)
    with pytest.warns(UserWarning, match=r"no layer of Bypassed .* Name a layer with feature_space="):
        readout = read_out(model, x, 1)
    assert readout.feature_space.layer == "input"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_out(model, x, 1)


def test_inputs_that_are_no_images_are_read_at_the_input_without_a_warning():
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_out(model, torch.randn(2, 4), 1).feature_space.layer == "input"


@pytest.fixture
def site(tmp_path, monkeypatch):
    with site_in(tmp_path, monkeypatch) as site:
        yield site


def test_a_plugin_says_otherwise(site):
    site.add(
        "spaces",
        """
        @hookimpl
        def xai_align_feature_space(model, layer):
            known = type(model).__name__ == "ConvNet" and layer is None
            return FeatureSpace(layer="conv1", layout="NCHW") if known else None
        """,
    )
    model = conv_net()
    assert type(model).__name__ == "ConvNet"
    readout = read_out(model, images(), 1)
    assert readout.feature_space.layer == "conv1"
    assert torch.equal(readout.contributions, read_out(model, images(), 1, "conv1").contributions)


class Shuffled(nn.Module):
    """Tokens in another order than row by row."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.order = nn.Conv2d(3, 4, 4, 4), nn.Identity()
        self.mix, self.head = nn.Linear(16, 16), nn.Linear(4, 2)
        self.permutation = torch.randperm(16, generator=torch.Generator().manual_seed(0))

    def forward(self, x: Tensor) -> Tensor:
        z = self.order(self.patches(x).flatten(2).transpose(1, 2)[:, self.permutation])
        return self.head(self.mix(z.transpose(1, 2)).relu().mean(2))


def test_tokens_that_do_not_lie_row_by_row_are_not_taken():
    assert [layer.name for layer in grid_layers(woken(Shuffled()), images(1, 16))] == ["patches"]


def test_images_that_are_not_square():
    model = woken(timm.create_model("resnet18", num_classes=5))
    readout = read_out(model, images(1, 128)[..., :96], 1)
    assert readout.map().shape == (1, 128, 96)
    assert readout.relative_error.max() < 1e-5
