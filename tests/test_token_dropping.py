"""Leaving tokens out of a transformer: networks run by hand on the tokens that are left, and networks that refuse."""

from __future__ import annotations

import pytest
import timm
import torch
import torchvision
import transformers
from hf_networks import Logits, swin
from torch import Tensor, nn

from tests.networks import conv_net, filled, images, untouched
from xai_align._tools.replica import Replica
from xai_align.perturbation.token_dropping import token_dropping
from xai_align.perturbation.token_grid import token_grid

SIDE, PATCH, PLACES = 32, 8, 16


def timm_vit(**options):
    sizes = {"img_size": SIDE, "patch_size": PATCH, "embed_dim": 24, "depth": 3, "num_heads": 2, "num_classes": 5}
    return filled(timm.create_model("vit_tiny_patch16_224", **sizes | options))


def torchvision_vit():
    return filled(torchvision.models.VisionTransformer(SIDE, PATCH, 3, 2, 24, 48, num_classes=5))


def hf_vit(attention="sdpa"):
    config = transformers.ViTConfig(
        hidden_size=24, num_hidden_layers=3, num_attention_heads=2, intermediate_size=48, image_size=SIDE,
        patch_size=PATCH, num_labels=5, attn_implementation=attention,
    )  # fmt: skip
    return Logits(filled(transformers.ViTForImageClassification(config)))


def dinov2():
    """Its answer is made from the class token and the mean of the patches."""
    config = transformers.Dinov2Config(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=SIDE, patch_size=PATCH, num_labels=5
    )
    return Logits(filled(transformers.Dinov2ForImageClassification(config)))


class Pooled(nn.Module):
    """A transformer of PyTorch's own layers without a class token; the mean of its tokens is read."""

    def __init__(self, pool="mean"):
        super().__init__()
        self.embed = nn.Conv2d(3, 12, PATCH, PATCH)
        self.place = nn.Parameter(torch.zeros(1, PLACES, 12))
        self.enter = nn.Dropout()
        layer = nn.TransformerEncoderLayer(12, 2, 24, batch_first=True, activation="gelu")
        self.blocks = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(12, 5)
        self.pool = pool

    def tokens(self, x):
        return self.embed(x).flatten(2).transpose(1, 2) + self.place

    def forward(self, x):
        z = self.blocks(self.enter(self.tokens(x)))
        if self.pool == "mean":
            z = z.mean(1)
        elif self.pool == "adaptive":
            z = nn.functional.adaptive_avg_pool1d(z.transpose(1, 2), 1).squeeze(-1)
        elif self.pool == "grid":
            z = z.transpose(1, 2).unflatten(2, (4, 4)).mean((-2, -1))
        elif self.pool == "kept axis":
            z = z.mean(1, True).squeeze(1)
        elif self.pool == "max":
            z = z.amax(1)
        else:
            z = z.sum(1) / PLACES
        return self.head(z)


def on_the_rest(model: nn.Module, x: Tensor, keep: list[int]) -> Tensor:
    """The network on these patches alone, step by step."""
    if isinstance(model, timm.models.VisionTransformer):
        z = model._pos_embed(model.patch_embed(x))
        first = model.num_prefix_tokens
        z = torch.cat([z[:, :first], z[:, first:][:, keep]], 1)
        return model.forward_head(model.norm(model.blocks(model.norm_pre(z))))
    if isinstance(model, torchvision.models.VisionTransformer):
        z = torch.cat([model.class_token.expand(len(x), -1, -1), model._process_input(x)], 1)
        z = z + model.encoder.pos_embedding
        z = torch.cat([z[:, :1], z[:, 1:][:, keep]], 1)
        return model.heads(model.encoder.ln(model.encoder.layers(z))[:, 0])
    if isinstance(model, Pooled):
        return model.head(model.blocks(model.tokens(x)[:, keep]).mean(1))
    inner = model.model
    base = inner.vit if hasattr(inner, "vit") else inner.dinov2
    z = base.embeddings(x)
    z = torch.cat([z[:, :1], z[:, 1:][:, keep]], 1)
    for layer in base.layers if hasattr(base, "layers") else base.encoder.layer:
        found = layer(z)
        z = found if isinstance(found, Tensor) else found[0]
    z = base.layernorm(z)
    pooled = z[:, 0] if hasattr(inner, "vit") else torch.cat([z[:, 0], z[:, 1:].mean(1)], 1)
    return inner.classifier(pooled)


NETWORKS = {
    "timm": timm_vit,
    "timm, pooled": lambda: timm_vit(class_token=False, global_pool="avg"),
    "timm, registers": lambda: timm_vit(reg_tokens=3),
    "timm, pooled behind registers": lambda: timm_vit(reg_tokens=3, global_pool="avg"),
    "timm, written out": lambda: written_out(timm_vit()),
    "torchvision": torchvision_vit,
    "hugging face": hf_vit,
    "hugging face, written out": lambda: hf_vit("eager"),
    "hugging face, class token and mean": dinov2,
    "pytorch": lambda: filled(Pooled()),
}


def written_out(model):
    """Without the fused attention of PyTorch: softmax is called."""
    for block in model.blocks:
        block.attn.fused_attn = False
    return model


def masks(keep: list[list[int]]) -> Tensor:
    cells = torch.zeros(len(keep), 1, PLACES)
    for row, places in zip(cells, keep, strict=True):
        row[0, places] = 1
    return cells.unflatten(2, (4, 4)).repeat_interleave(PATCH, 2).repeat_interleave(PATCH, 3)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("shorter", [False, True])
def test_hidden_tokens_are_left_out(name, shorter):
    """A number of patches for each image of its own, or on a shorter sequence the same number."""
    model, x = NETWORKS[name](), images(2, SIDE)
    keep = [[0, 3, 5, 6, 11], [2, 3, 8, 13, 15] if shorter else [1, 4, 9]]
    with untouched(model):
        dropping = token_dropping(model, x)
        assert dropping.shortens
        copy: nn.Module = Replica(model).module
        dropping.on(copy)
        with torch.no_grad():
            found = copy(torch.cat([x, masks(keep)], 1))
            whole = copy(torch.cat([x, torch.ones_like(masks(keep))], 1))
    with torch.no_grad():
        for row, places, image in zip(found, keep, x, strict=True):
            torch.testing.assert_close(row, on_the_rest(model, image[None], places)[0], rtol=0, atol=1e-5)
        torch.testing.assert_close(whole, model(x), rtol=0, atol=1e-5)
        assert (found - whole).abs().max() > 1e-3
        torch.testing.assert_close(copy(x), model(x), rtol=0, atol=0)


@pytest.mark.parametrize("name", NETWORKS)
def test_visibility_has_the_gradient_of_its_finite_difference(name):
    """At 1 throughout, where it is the unchanged network, and in between."""
    model, x = NETWORKS[name]().double(), images(1, SIDE, dtype=torch.float64)
    copy: nn.Module = Replica(model).module
    token_dropping(model, x).on(copy)
    for start in (torch.ones(1, 1, SIDE, SIDE), torch.linspace(0.2, 0.9, SIDE * SIDE).reshape(1, 1, SIDE, SIDE)):
        m = start.double().requires_grad_()
        (g,) = torch.autograd.grad(copy(torch.cat([x, m], 1))[0, 1], m)
        step = masks([[6]]).double() * 1e-2  # as some attention is in float32 in any case
        with torch.no_grad():
            up, down = (copy(torch.cat([x, m + sign * step], 1))[0, 1] for sign in (1, -1))
        torch.testing.assert_close((g * step).sum(), (up - down) / 2, rtol=1e-2, atol=1e-12)
        assert g.abs().max() > 0


def test_a_network_in_train_mode_is_refused():
    with pytest.raises(ValueError, match="eval"):
        token_dropping(Pooled().train(), images(1, SIDE))


def test_a_token_that_is_hidden_has_no_gradient_that_is_not_a_number():
    model, x = timm_vit(), images(1, SIDE)
    copy: nn.Module = Replica(model).module
    token_dropping(model, x).on(copy)
    m = masks([[0, 1, 7]]).requires_grad_()
    (g,) = torch.autograd.grad(copy(torch.cat([x, m], 1))[0, 1], m)
    assert g.isfinite().all()


def test_a_shorter_sequence_is_run():
    seen = []
    model, x = timm_vit(), images(2, SIDE)
    dropping = token_dropping(model, x)
    copy: nn.Module = Replica(model).module
    dropping.on(copy)
    copy.blocks[1].register_forward_hook(lambda module, args, out: seen.append(out.shape[1]))
    with torch.no_grad():
        copy(torch.cat([x, masks([[1, 2], [3, 4]])], 1))
        copy(torch.cat([x, masks([[1, 2], [3]])], 1))
        copy(x)
    assert seen == [1 + 2, 1 + PLACES, 1 + PLACES]


@pytest.mark.parametrize("pool", ["adaptive", "grid", "kept axis"])
def test_means_over_tokens_in_other_words(pool):
    model, x, keep = Pooled(pool).eval(), images(1, SIDE), [0, 2, 9]
    filled(model)
    copy: nn.Module = Replica(model).module
    token_dropping(model, x).on(copy)
    with torch.no_grad():
        found = copy(torch.cat([x, masks([keep])], 1))
        torch.testing.assert_close(found, on_the_rest(model, x, keep), rtol=0, atol=1e-5)


def test_a_bias_for_each_pair_of_places_keeps_the_sequence():
    """It has an entry for each pair of tokens, so a shorter sequence does not fit; dropping is as exact."""
    model = filled(
        timm.create_model("vit_relpos_small_patch16_224", img_size=SIDE, patch_size=PATCH, depth=2, num_classes=5)
    )
    x = images(1, SIDE)
    dropping = token_dropping(model, x)
    assert not dropping.shortens
    copy: nn.Module = Replica(model).module
    dropping.on(copy)
    other = torch.where(masks([[1, 5]]) > 0, x, images(1, SIDE, seed=1))
    with torch.no_grad():
        first, second = (copy(torch.cat([one, masks([[1, 5]])], 1)) for one in (x, other))
    torch.testing.assert_close(first, second, rtol=0, atol=1e-6)


class Mixed(Pooled):
    """Neighbouring tokens are mixed by a convolution, too."""

    def __init__(self):
        super().__init__()
        self.mix = nn.Conv2d(12, 12, 3, padding=1)

    def tokens(self, x):
        return self.mix(self.embed(x)).flatten(2).transpose(1, 2) + self.place


class Mix(nn.Linear):
    """Every token sees all tokens by weights of a linear layer."""

    def forward(self, z):
        return z + super().forward(z.transpose(1, 2)).transpose(1, 2)


def mixer():
    model = Pooled()
    model.blocks = nn.Sequential(Mix(PLACES, PLACES), Mix(PLACES, PLACES))
    return model


REFUSED = {
    "convolutions": (conv_net, "keeps no grid of tokens"),
    "windows": (swin, "keeps no grid of tokens|hidden patches hold"),
    "a maximum over tokens": (lambda: Pooled("max"), "hidden patches hold"),
    "a mean by hand": (lambda: Pooled("sum"), "hidden patches hold"),
    "convolutions between tokens": (Mixed, "hidden patches hold"),
    "no attention": (mixer, "no softmax attention"),
    "one vector": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, 5)), "keeps no grid of tokens"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_networks_that_are_refused(name):
    make, words = REFUSED[name]
    model = filled(make())
    with untouched(model), pytest.raises(ValueError, match=words):
        token_dropping(model, images(1, SIDE))


@pytest.mark.parametrize("size", [(32, 48), (35, 35)])
def test_images_of_other_sizes(size):
    """Patches that are no whole number of pixels: the rest of the image is not seen at all."""
    model, x = timm_vit(img_size=size), torch.randn(1, 3, *size)
    assert token_grid(model, x).patches == (size[0] // PATCH) * (size[1] // PATCH)
    assert token_dropping(model, x).shortens


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (torch.zeros(2, 3, 40, 40), r"are \[1, 3, 40, 40\], and .* does not run on them \(.*\(40\).*\(32\)"),
        (torch.zeros(2, 1, SIDE, SIDE), r"are \[1, 1, 32, 32\], and .* does not run on them \(.*channels"),
    ],
    ids=["size", "channels"],
)
def test_images_that_the_network_does_not_take(x, words):
    """They are named as the reason, not the network's structure."""
    model = timm_vit()
    with untouched(model), pytest.raises(ValueError, match=words):
        token_dropping(model, x)
