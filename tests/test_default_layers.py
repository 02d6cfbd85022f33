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
COMPILED = ("test_resnet", "test_vit")
#: Each wrapper around each network; compiling takes long, so one of each kind is compiled.
WRAPPED = [(name, kind) for name in NETWORKS for kind in WRAPPERS if kind != "compiled inside" or name in COMPILED]


@pytest.mark.parametrize(("name", "wrapper"), WRAPPED)
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


SHALLOW = {
    "swin_tiny_patch4_window7_224": {"depths": (2, 1, 1, 1)},
    "maxvit_rmlp_pico_rw_256": {"depths": (1, 1, 1, 1)},
}


@pytest.mark.parametrize("name", SHALLOW)
def test_hierarchical_transformers_through_a_wrapper(name):
    network = woken(timm.create_model(name, num_classes=5, **SHALLOW[name]))
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
    with pytest.raises(ValueError, match=r"reads no grid of cells.*of it only class tokens"):
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
    with pytest.warns(UserWarning, match=r"Bypassed has no layer .* name a layer with feature_space="):
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


class In(nn.Module):
    """A network behind a change of the image."""

    def __init__(self, change, network: nn.Module) -> None:
        super().__init__()
        self.change, self.network = change, network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(self.change(x))


def small() -> nn.Module:
    return woken(
        nn.Sequential(
            *(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)),
        )
    )


def where(readout, before) -> tuple[float, float]:
    """Middle of the change of a map, as shares of rows and columns."""
    change = (readout.map() - before.map()).abs()[0].double()
    change = change / change.sum()
    rows, columns = ((torch.arange(count) + 0.5) / count for count in change.shape)
    return float((change.sum(1) * rows).sum()), float((change.sum(0) * columns).sum())


MOVES = {
    "crop": lambda x: x[..., 32:96, 32:96],
    "slight crop": lambda x: x[..., 8:-8, 8:-8],
    "corner": lambda x: x[..., :64, 64:],
    "flip": lambda x: x.flip(-1),
    "transposed": lambda x: x.transpose(2, 3),
    "turned": lambda x: torch.rot90(x, 1, (2, 3)),
    "rolled": lambda x: x.roll((32, 32), (2, 3)),
    "padded": lambda x: nn.functional.pad(x, (32, 32, 32, 32)),
}


@pytest.mark.parametrize("move", MOVES)
def test_a_network_that_moves_the_image_is_read_before_and_says_so(move):
    model, x = In(MOVES[move], small()).eval(), images(1, 128)
    with pytest.warns(UserWarning, match="name a layer with feature_space="):
        readout = read_out(model, x, 1)
    assert readout.feature_space.layer == "input"
    with pytest.raises(ValueError, match="reads no grid of cells"):
        read_out(model, x, 1, "head")


@pytest.mark.parametrize("size", [(128, 288), (96, 128), (128, 64)])
@pytest.mark.parametrize("name", [None, "test_vit"])
def test_a_network_that_resizes_the_image_has_its_map_in_place(name, size):
    network = small() if name is None else woken(timm.create_model(name, num_classes=4))
    side = 128 if name is None else 160
    model = In(lambda x: nn.functional.interpolate(x, (side, side), mode="bilinear"), network).eval()
    x = torch.zeros(1, 3, *size)
    rows, columns = slice(size[0] // 4, 3 * size[0] // 8), slice(5 * size[1] // 8, 6 * size[1] // 8)
    before = read_out(model, x, 1)
    x[..., rows, columns] = torch.randn(1, 3, size[0] // 8, size[1] // 8)
    after = read_out(model, x, 1)
    assert after.feature_space.layer != "input" if name is None else len(after.parts) > 1
    if name is None:  # attention sees a change everywhere
        assert where(after, before) == pytest.approx((0.31, 0.69), abs=0.06)


class ChannelsLast(nn.Module):
    """Blocks on maps ``[N, H, W, C]``, as many channels as columns or nearly so."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.stem, self.order = nn.Conv2d(3, channels, 4, 4), nn.Identity()
        self.fold = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.norm, self.head = nn.LayerNorm(channels), nn.Linear(channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        z = self.order(self.stem(x).permute(0, 2, 3, 1))
        z = self.norm(self.fold(z.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
        return self.head(z.mean((1, 2)))


@pytest.mark.parametrize("size", [112, 128, 160])
def test_maps_with_channels_last_are_told_by_what_cells_see(size):
    layouts = {one.name: one.space.layout for one in grid_layers(woken(ChannelsLast(32)), images(1, size))}
    assert layouts == {"stem": "NCHW", "order": "NHWC", "fold": "NCHW", "norm": "NHWC"}


class Latents(nn.Module):
    """A fixed number of latents that attend to all patches."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.patches, self.read, self.head = nn.Conv2d(3, 8, 8, 8), nn.Linear(8, count), nn.Linear(8, 3)
        self.mixed = nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        latents = self.mixed(self.read(tokens).softmax(1).transpose(1, 2) @ tokens)
        return self.head(latents.relu().mean(1))


@pytest.mark.parametrize("count", [4, 9, 16, 64, 67])
@pytest.mark.parametrize("seed", range(4))
def test_latents_are_no_grid(count, seed):
    torch.manual_seed(seed)
    assert [one.name for one in grid_layers(woken(Latents(count), seed), images(1, 64))] == ["patches"]


class ClassTokenLast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches, self.token, self.joined = nn.Conv2d(3, 8, 8, 8), nn.Parameter(torch.randn(1, 1, 8)), nn.Identity()
        self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = self.joined(torch.cat([tokens, self.token.expand(len(x), -1, -1)], 1))
        return self.head(self.block(tokens)[:, -1])


def test_a_class_token_behind_the_patches_is_not_taken_for_one_before_them():
    found = [one.space for one in grid_layers(woken(ClassTokenLast()), images(1, 64))]
    assert [space.layer for space in found] == ["patches", "joined", "block.norm1", "block"]
    assert all((space.prefix_tokens, space.suffix_tokens) == (0, 1) for space in found[1:])


class BlocksInOneModule(nn.Module):
    """A transformer whose residual stream is inside one module."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.norm, self.head = nn.Conv2d(3, 8, 8, 8), nn.LayerNorm(8), nn.Linear(8, 3)
        self.blocks = nn.ModuleList(nn.Linear(64, 64) for _ in range(3))
        self.tokens = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.tokens(self.patches(x).flatten(2).transpose(1, 2))
        for block in self.blocks:
            tokens = tokens + block(tokens.transpose(1, 2)).transpose(1, 2).relu()
        return self.head(self.norm(tokens).mean(1))


def test_blocks_in_one_module_are_read_at_their_patches():
    readout = read_out(woken(BlocksInOneModule()), images(1, 64), 1)
    assert readout.feature_space.layer == "patches"
    assert readout.relative_error.max() < 1e-5


class Scaled(nn.Module):
    """A network with a further argument."""

    def __init__(self) -> None:
        super().__init__()
        self.network = small()

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        return self.network(x * scale[:, None, None, None])


def test_further_arguments_do_not_hide_the_layers():
    x = images(2, 64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = read_out(Scaled().eval(), x, 1, additional_forward_args=(torch.tensor([1.0, 0.5]),))
    assert found.feature_space.layer == f"network.{read_out(small(), x, 1).feature_space.layer}"


def test_a_dense_networks_output_is_not_its_layer():
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()
    assert [one.name for one in grid_layers(model, images(1, 32))] == ["0", "1"]


class FromLibrary(Module):
    """As Hugging Face's classifiers are: the logits in a record, with a relative position bias without a batch."""

    def __init__(self) -> None:
        super().__init__(small())
        self.bias = nn.Identity()
        self.table = nn.Parameter(torch.randn(1, 8, 1, 1))

    def forward(self, x: Tensor) -> dict[str, Tensor | None]:
        z = self.backbone[:3](x) + self.bias(self.table)
        return {"loss": None, "logits": self.backbone[3:](z)}


def test_the_head_of_a_network_that_returns_a_record_is_local():
    model, x = FromLibrary().eval(), images(3, 32)
    readout = read_out(model, x, [1, 2, 0], "head")
    assert readout.kind == "local"
    assert readout.relative_error.max() < 1e-5
    assert read_out_all_classes(model, x, "head").maps.shape == (3, 4, 16, 16)


def test_images_that_are_not_square():
    model = woken(timm.create_model("resnet18", num_classes=5))
    readout = read_out(model, images(1, 128)[..., :96], 1)
    assert readout.map().shape == (1, 128, 96)
    assert readout.relative_error.max() < 1e-5


# ---------------------------------------------------------------- options, state, precision


@pytest.mark.parametrize(
    ("layer", "options", "said"),
    [
        ("0", {"gamma": 0.5}, "gamma=0.5 is a strength of rule='gamma', and the rule is 'gate'"),
        (ReadoutLayer(feature_space="0"), {"rule": "gamma"}, "a ReadoutLayer has its own options, and rule= is given"),
        ([ReadoutLayer(feature_space="0")], {"biases": "placed"}, "a ReadoutLayer has its own options"),
    ],
)
def test_options_that_would_do_nothing_are_refused(layer, options, said):
    with pytest.raises(ValueError, match=said):
        read_out(small(), images(1, 32), 1, layer, **options)


class Switched(nn.Module):
    """A network whose layers a plain attribute changes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = (
            nn.Conv2d(3, 8, 3, padding=1),
            nn.Conv2d(8, 8, 3, padding=1),
            nn.Linear(8, 2),
        )
        self.skips = False

    def forward(self, x: Tensor) -> Tensor:
        z = self.first(x).relu()
        if self.skips:
            return self.head(self.second(z).mean((2, 3)) + x.mean((1, 2, 3))[:, None])
        return self.head(self.second(z).relu().mean((2, 3)))


def test_a_changed_attribute_changes_the_default():
    model, x = Switched().eval(), images(1, 32)
    assert read_out(model, x, 1).feature_space.layer == "second"
    model.skips = True
    with pytest.warns(UserWarning, match="has no layer"):
        assert read_out(model, x, 1).feature_space.layer == "input"


class Detached(Switched):
    """Evidence that autograd does not see goes around the last layer on a grid."""

    def forward(self, x: Tensor) -> Tensor:
        z = self.first(x).relu()
        return self.head(self.second(z).mean((2, 3)) + z.detach().mean((2, 3)))


def test_a_head_that_is_gone_around_is_no_head():
    with pytest.raises(ValueError, match=r"'second' is the last layer on a grid .* around it"):
        read_out(Detached().eval(), images(1, 32), 1, "head")


def test_a_map_is_as_exact_under_autocast():
    readout = read_out(small(), images(1, 32), 1)
    with torch.autocast("cpu", torch.bfloat16):
        within = readout.map()
    assert torch.equal(within, readout.map())


def test_all_classes_of_one_number_are_one_map():
    model, x = nn.Sequential(small(), nn.Linear(4, 1), nn.Flatten(0)).eval(), images(2, 32)
    found = read_out_all_classes(model, x, "head")
    assert found.maps.shape[:2] == (2, 1)
    torch.testing.assert_close((found.maps.sum((2, 3)) + found.bias)[:, 0], model(x), atol=1e-5, rtol=1e-5)


def test_attn_lrp_reads_patches_behind_a_normalisation_too():
    network, x = woken(timm.create_model("test_vit", num_classes=5)), images(1, 160)
    expected = explain(network, Normalise()(x), 3, "attn_lrp").map
    found = explain(nn.Sequential(Normalise(), network).eval(), x, 3, "attn_lrp").map
    assert torch.allclose(found, expected, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize(("name", "layer"), [("regnet_x_400mf", "trunk_output.block2"), ("regnet_y_400mf", None)])
def test_a_deep_last_stage_makes_no_transformer_of_a_convolutional_network(name, layer):
    network = woken(torchvision.models.get_model(name, weights=None))
    (found,) = default_layers(network, (images(1, 224),))
    assert found.rule == "gamma"
    assert layer is None or found.feature_space.layer.startswith(layer)
