"""Attention methods by name: worked by hand, the same through every library, clear about what they cannot follow."""

from __future__ import annotations

import pytest
import timm
import torch
from networks import filled, images, untouched
from torch import nn
from torch.nn import functional as F

from attention_align.attention_mode import AttentionMode
from attention_align.attention_trace import trace_attention
from attention_align.layer_logits import layer_logits
from benchmarks.shared.attention_network import BehindAttention
from xai_align import Question, compare, explain, plugins
from xai_align.hookspecs import LoadedModel
from xai_align.question import TargetError, ask
from xai_align.testing import check_attribution

NAMES = ("attention_rollout", "chefer", "legrad")
SIDE, PATCH, WIDTH, HEADS, LAYERS, CLASSES = 32, 8, 24, 3, 3, 7
CELLS = (SIDE // PATCH) ** 2
SIZES = {"img_size": SIDE, "patch_size": PATCH, "embed_dim": WIDTH, "num_heads": HEADS, "depth": LAYERS}


def build(name, model, **options):
    return plugins.attribution_method(name).build(model, **options)


def close(a, b, tolerance=1e-4):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * float(b.detach().abs().max()))


def timm_vit(name="vit_tiny_patch16_224", **options):
    return filled(timm.create_model(name, num_classes=CLASSES, **{**SIZES, **options}))


KINDS = {
    "class token": {},
    "pooled": {"class_token": False, "global_pool": "avg"},
    "pooled, with a class token": {"global_pool": "avg"},
    "registers": {"reg_tokens": 4},
    "registers, pooled": {"reg_tokens": 2, "global_pool": "avg", "class_token": False},
    "max pooled": {"global_pool": "max"},
    "distilled": {"name": "deit_tiny_distilled_patch16_224"},
}


@pytest.fixture(scope="module")
def vits():
    return {kind: timm_vit(**options) for kind, options in KINDS.items()}


@pytest.fixture
def pair():
    return images(2, SIDE)


# two layers by hand


class Attend(nn.Module):
    """One head whose weights are given: the tokens' places alone decide, ``A = softmax(log A)``."""

    def __init__(self, weights):
        super().__init__()
        self.scores = nn.Parameter(torch.tensor(weights).log())

    def forward(self, x):
        scores = self.scores + 0 * x.sum((1, 2))[:, None, None]  # as in a network, the layers follow each other
        A = scores[:, None].softmax(-1)
        return x + (A @ x[:, None]).squeeze(1)


class ByHand(nn.Module):
    """A class token and two patches of one number each; the answer is ``(w, -w) x_class`` behind two layers."""

    def __init__(self, pooled=False):
        super().__init__()
        self.embed = nn.Conv2d(1, 1, 1, bias=False)
        self.layers = nn.Sequential(
            Attend([[0.5, 0.25, 0.25], [0.2, 0.6, 0.2], [0.1, 0.1, 0.8]]),
            Attend([[0.2, 0.5, 0.3], [0.4, 0.4, 0.2], [0.25, 0.25, 0.5]]),
        )
        self.pooled = pooled
        nn.init.ones_(self.embed.weight)

    def forward(self, x):
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = self.layers(torch.cat([torch.ones_like(x[:, :1]), x], dim=1))
        answer = x[:, 1:].mean(1) if self.pooled else x[:, 0]
        return torch.cat([answer, -answer], dim=1)


PICTURE = torch.tensor([[[[2.0, -1.0]]]])
# x0 = (1, 2, -1), x1 = x0 + A1 x0 = (1.75, 3.2, -1.5): A1 x0 = (.75, 1.2, -.5)
# answer of the class token: y = x1[0] + A2[0] . x1


def test_rollout_by_hand():
    # A' = (A + I) / 2: rows of A1' (.75 .125 .125), (.1 .8 .1), (.05 .05 .9); row 0 of A2' (.6 .25 .15)
    # the row times A1': patches .6*.125 + .25*.8 + .15*.05 = .2825 and .6*.125 + .25*.1 + .15*.9 = .235
    found = build("attention_rollout", ByHand().eval()).attribute(PICTURE, target=0)
    close(found, torch.tensor([[[[0.2825, 0.235]]]]), 1e-6)


def test_rollout_of_a_pooled_network_by_hand():
    # rows 1 and 2 of A2' (.2 .7 .1), (.125 .125 .75), their mean (.1625 .4125 .425)
    # patches .1625*.125 + .4125*.8 + .425*.05 = .3715625 and .1625*.125 + .4125*.1 + .425*.9 = .4440625
    found = build("attention_rollout", ByHand(pooled=True).eval()).attribute(PICTURE, target=0)
    close(found, torch.tensor([[[[0.3715625, 0.4440625]]]]), 1e-6)


def test_chefer_by_hand():
    # dy/dA2[0, j] = x1[j], so A2_bar[0] = relu(.2*1.75, .5*3.2, -.3*1.5) = (.35, 1.6, 0)
    # dy/dA1[i, j] = (delta_i0 + A2[0, i]) x0[j], with factors (1.2, .5, .3) and A1 x0 = rows
    # A1_bar = relu: 1.2 (.5, .5, 0), .5 (.2, 1.2, 0), .3 (.1, .2, 0) = (.6 .6 0), (.1 .6 0), (.03 .06 0)
    # row 0 of (I + A2_bar)(I + A1_bar) - I: A2_bar[0] + (1.35, 1.6, 0) A1_bar: patch 1: 1.6 + .81 + .96 = 3.37
    found = build("chefer", ByHand().eval()).attribute(PICTURE, target=0)
    close(found, torch.tensor([[[[3.37, 0.0]]]]), 1e-6)


def test_chefer_of_the_opposite_answer_by_hand():
    # all gradients change sign: A2_bar[0] = (0, 0, .45), A1_bar = 1.2 (0 0 .25), .5 (0 0 .2), .3 (0 0 .8)
    # patch 2: .45 + 1 * .3 + .45 * .24 = .858
    found = build("chefer", ByHand().eval()).attribute(PICTURE, target=1)
    close(found, torch.tensor([[[[0.0, 0.858]]]]), 1e-6)


def test_legrad_by_hand():
    # s_1 = x1[0], ds_1/dA1[0, j] = x0[j]: relu at the patches (2, 0); s_2 = y, ds_2/dA2[0, j] = x1[j]: (3.2, 0)
    # mean over 2 layers, 1 head and 3 query tokens: (2 + 3.2) / 6
    found = build("legrad", ByHand().eval()).attribute(PICTURE, target=0)
    close(found, torch.tensor([[[[5.2 / 6, 0.0]]]]), 1e-6)


# an independent implementation: eager timm networks, matrices through hooks on the dropout behind the softmax


def hooked(model, x):
    """Attention matrices with gradients, outputs of the blocks, and logits, of an eager network."""
    kept, outputs, handles = [], [], []
    for block in model.blocks:
        block.attn.fused_attn = False
        handles.append(block.attn.attn_drop.register_forward_hook(lambda m, i, out: kept.append(out)))
        handles.append(block.register_forward_hook(lambda m, i, out: outputs.append(out)))
    logits = model(x)
    for handle in handles:
        handle.remove()
    return kept, outputs, logits


def rows_read(model, tokens):
    prefix = model.num_prefix_tokens
    if model.global_pool == "token":
        return range(2 if hasattr(model, "head_dist") else 1)
    return range(prefix, tokens)


def straightforward(name, model, x, classes):
    attention, outputs, logits = hooked(model, x)
    rows = rows_read(model, attention[0].shape[-1])
    eye = torch.eye(attention[0].shape[-1])
    answer = logits[range(len(x)), classes].sum()
    if name == "attention_rollout":
        R = eye.expand(len(x), -1, -1)
        for A in attention:
            R = (0.5 * A.mean(1) + 0.5 * eye) @ R
        cells = R[:, rows].mean(1)
    elif name == "chefer":
        R = eye.expand(len(x), -1, -1)
        for A, gradient in zip(attention, torch.autograd.grad(answer, attention, retain_graph=True), strict=True):
            R = R + (gradient * A).clamp(min=0).mean(1) @ R
        cells = (R - eye)[:, rows].mean(1)
    else:
        cells = 0
        for A, z in zip(attention, outputs, strict=True):
            own = model.forward_head(model.norm(z))[range(len(x)), classes].sum()
            (gradient,) = torch.autograd.grad(own, A, retain_graph=True)
            cells = cells + gradient.clamp(min=0).mean((1, 2)) / len(attention)
    cells = cells[:, model.num_prefix_tokens :].detach()
    side = SIDE // PATCH
    grid = cells.reshape(len(x), 1, side, side) / (3 * PATCH * PATCH)
    return grid.repeat_interleave(PATCH, 2).repeat_interleave(PATCH, 3).expand(-1, 3, -1, -1)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "max pooled"])
def test_it_is_the_straightforward_computation(vits, pair, name, kind):
    model = vits[kind]
    with untouched(model):
        found = build(name, model).attribute(pair, target=[1, 5])
    assert float(found.abs().max()) > 0
    fused = [block.attn.fused_attn for block in model.blocks]
    try:
        close(found, straightforward(name, model, pair, [1, 5]))
        assert all(fused)  # and what was asked about was the fused network
        close(build(name, model).attribute(pair, target=[1, 5]), found)  # the same eagerly
    finally:
        for block in model.blocks:
            block.attn.fused_attn = True


@pytest.mark.parametrize("name", NAMES)
def test_max_pooling_reads_patches(vits, pair, name):
    found = build(name, vits["max pooled"]).attribute(pair, target=1)
    assert len(found[0, 0].unique()) == CELLS


def test_small_gradients_are_not_lost_beside_the_identity(pair):
    """With layer scale near zero the relevance is far below the rounding error of 1."""
    plain, scaled = timm_vit(), timm_vit()
    with torch.no_grad():
        scaled.head.weight *= 1e-9
        scaled.head.bias *= 1e-9
    once, tiny = (build("chefer", model).attribute(pair, target=1) for model in (plain, scaled))
    assert len(tiny[0, 0].unique()) == CELLS
    assert 0 < float(tiny.max()) < 1e-6 * float(once.max())


# the same network through other libraries


def as_torchvision(vit):
    torchvision = pytest.importorskip("torchvision")
    hidden = vit.blocks[0].mlp.fc1.out_features
    other = torchvision.models.VisionTransformer(SIDE, PATCH, LAYERS, HEADS, WIDTH, hidden, num_classes=CLASSES).eval()
    with torch.no_grad():
        other.conv_proj.load_state_dict(vit.patch_embed.proj.state_dict())
        other.class_token.copy_(vit.cls_token)
        other.encoder.pos_embedding.copy_(vit.pos_embed)
        for theirs, ours in zip(other.encoder.layers, vit.blocks, strict=True):
            theirs.ln_1.load_state_dict(ours.norm1.state_dict())
            theirs.ln_2.load_state_dict(ours.norm2.state_dict())
            theirs.self_attention.in_proj_weight.copy_(ours.attn.qkv.weight)
            theirs.self_attention.in_proj_bias.copy_(ours.attn.qkv.bias)
            theirs.self_attention.out_proj.load_state_dict(ours.attn.proj.state_dict())
            theirs.mlp[0].load_state_dict(ours.mlp.fc1.state_dict())
            theirs.mlp[3].load_state_dict(ours.mlp.fc2.state_dict())
        other.encoder.ln.load_state_dict(vit.norm.state_dict())
        other.heads.head.load_state_dict(vit.head.state_dict())
    return other


def as_transformers(vit, implementation):
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=vit.blocks[0].mlp.fc1.out_features,
        image_size=SIDE,
        patch_size=PATCH,
        num_labels=CLASSES,
        layer_norm_eps=vit.norm.eps,
        attn_implementation=implementation,
    )
    other = transformers.ViTForImageClassification(config).eval()
    # both libraries register the parts of a block in the order of their own; widths and kinds tell them apart
    with torch.no_grad():
        embeddings = other.vit.embeddings
        embeddings.patch_embeddings.projection.load_state_dict(vit.patch_embed.proj.state_dict())
        embeddings.cls_token.copy_(vit.cls_token)
        embeddings.position_embeddings.copy_(vit.pos_embed)
        blocks = other.vit.layers if hasattr(other.vit, "layers") else other.vit.encoder.layer
        for theirs, ours in zip(blocks, vit.blocks, strict=True):
            norms = [module for module in theirs.modules() if isinstance(module, nn.LayerNorm)]
            linears = [module for module in theirs.modules() if isinstance(module, nn.Linear)]
            assert len(norms) == 2
            assert len(linears) == 6
            query, key, value, out, up, down = linears
            for part, weight, bias in zip(
                (query, key, value), ours.attn.qkv.weight.chunk(3), ours.attn.qkv.bias.chunk(3), strict=True
            ):
                part.weight.copy_(weight)
                part.bias.copy_(bias)
            out.load_state_dict(ours.attn.proj.state_dict())
            up.load_state_dict(ours.mlp.fc1.state_dict())
            down.load_state_dict(ours.mlp.fc2.state_dict())
            norms[0].load_state_dict(ours.norm1.state_dict())
            norms[1].load_state_dict(ours.norm2.state_dict())
        other.vit.layernorm.load_state_dict(vit.norm.state_dict())
        other.classifier.load_state_dict(vit.head.state_dict())
    return other


LIBRARIES = {
    "torchvision": as_torchvision,
    "transformers, eager": lambda vit: as_transformers(vit, "eager"),
    "transformers, sdpa": lambda vit: as_transformers(vit, "sdpa"),
}


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_same_weights_give_the_same_map_through_every_library(vits, pair, library):
    vit = vits["class token"]
    other = LIBRARIES[library](vit)
    logits = vit(pair)
    close(explain(other, pair, 1, "attention_rollout").logits, logits.detach())  # the weights are in their places
    for name in NAMES:
        with untouched(other):
            found = explain(other, pair, Question.why_not(1, 5), name)
        assert found.values == "scores"
        close(found.attribution, build(name, vit).attribute(pair, target=Question.why_not(1, 5)), 1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_a_wrapper_hides_nothing(vits, pair, name):
    vit = vits["registers"]
    close(build(name, nn.Sequential(nn.Identity(), vit)).attribute(pair, target=1), build(name, vit).attribute(pair, 1))


# interception


@pytest.mark.parametrize("kind", KINDS)
def test_the_logits_are_those_of_the_plain_network(vits, pair, kind):
    close(trace_attention(vits[kind], pair).logits.detach(), vits[kind](pair).detach(), 1e-5)


@pytest.mark.parametrize("mask", [None, "causal", "boolean", "added"])
@pytest.mark.parametrize("options", [{}, {"scale": 0.3}, {"enable_gqa": True}])
def test_attention_of_every_option_is_pytorchs(mask, options):
    query, key, value = torch.randn(3, 2, 4, 5, 6).unbind()
    if options.get("enable_gqa"):
        key, value = key[:, :2], value[:, :2]
    if mask == "causal":
        options = {**options, "is_causal": True}
    if mask in ("boolean", "added"):
        boolean = torch.rand(2, 1, 5, 5) > 0.4
        boolean[0, 0, 2] = False  # a query that may attend to nothing
        options = {**options, "attn_mask": boolean if mask == "boolean" else torch.randn(5, 5)}
    plain = F.scaled_dot_product_attention(query, key, value, **options)
    seen = []
    with AttentionMode(lambda weights: seen.append(weights) or weights):
        found = F.scaled_dot_product_attention(query, key, value, **options)
    close(found, plain, 1e-5)
    (weights,) = seen
    assert weights.shape == (2, 4, 5, 5)


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("grad", [True, False])
def test_multi_head_attention_is_seen_whatever_kernel_it_would_take(need_weights, batch_first, masked, grad):
    layer = nn.MultiheadAttention(12, 3, batch_first=batch_first).eval()
    x = torch.randn(2, 5, 12)
    x = x if batch_first else x.transpose(0, 1)
    options = {"need_weights": need_weights}
    if masked:
        options["key_padding_mask"] = torch.tensor([[False] * 5, [False, False, True, False, True]])
    seen = []
    with torch.set_grad_enabled(grad):
        plain, shown = layer(x, x, x, **options)
        with AttentionMode(lambda weights: seen.append(weights) or weights):
            found, shown_again = layer(x, x, x, **options)
    close(found, plain, 1e-5)
    (weights,) = seen
    assert weights.shape == (2, 3, 5, 5)
    _, expected = layer(x, x, x, **{**options, "need_weights": True})
    close(weights.mean(1), expected)
    assert (shown is None) == (shown_again is None) == (not need_weights)
    if need_weights:
        close(shown_again, shown, 1e-5)


def test_a_transformer_layer_of_pytorch_is_seen_in_eval_mode():
    layer = nn.TransformerEncoderLayer(12, 3, batch_first=True).eval()
    x = torch.randn(2, 5, 12)
    seen = []
    with torch.no_grad(), AttentionMode(lambda weights: seen.append(weights) or weights):
        found = layer(x)
    close(found, layer(x).detach(), 1e-5)
    assert len(seen) == 1


def test_the_last_layers_own_logits_are_the_networks(vits, pair):
    trace = trace_attention(vits["distilled"], pair)
    logits = list(layer_logits(trace))
    assert len(logits) == LAYERS
    close(logits[-1].detach(), vits["distilled"](pair).detach(), 1e-5)
    assert not torch.allclose(logits[0], logits[-1], rtol=0.01)


# the conventions


@pytest.mark.parametrize("name", NAMES)
def test_every_method_keeps_the_conventions(name):
    skip = ["several_inputs"]
    skip += ["targets", "numpy_targets"] if name == "attention_rollout" else []
    outcomes = check_attribution(
        name,
        build=lambda model: build(name, BehindAttention(model)),
        require=[one for one in ("numpy_targets", "detached", "inputs_after_error") if one not in skip],
        skip=skip,
    )
    assert {one.check for one in outcomes if one.status != "passed"} == set(skip)


@pytest.mark.parametrize("name", NAMES)
def test_a_question_or_one_for_each_example_whatever_its_batch_mates(vits, name):
    model, x = vits["class token"], images(3, SIDE)
    questions = [Question.why_not(1, 2), Question.why(3), Question.against_all(0)]
    asked, target = ask(model, questions, len(x))
    together = build(name, model).attribute(x, target=questions)
    close(build(name, asked).attribute(x, target=target), together)
    close(build(name, model).attribute(x, target=questions, internal_batch_size=1), together)
    for index, question in enumerate(questions):
        close(build(name, model).attribute(x[index : index + 1], target=question), together[index : index + 1])
    with pytest.raises(TargetError, match="this model answers questions already"):
        build(name, asked).attribute(x, target=questions)
    with pytest.raises(TargetError, match="class 9 is out of range"):
        build(name, model).attribute(x, target=9)


def test_rollout_alone_is_the_same_for_every_question(vits, pair):
    same = {}
    for name in NAMES:
        method = build(name, vits["class token"])
        same[name] = torch.allclose(method.attribute(pair, target=1), method.attribute(pair, target=5), rtol=1e-3)
    assert same == {"attention_rollout": True, "chefer": False, "legrad": False}
    assert "same for every class" in plugins.attribution_method("attention_rollout").note


@pytest.mark.parametrize("name", NAMES)
def test_inference_mode_autocast_and_bfloat16(vits, pair, name):
    model = vits["class token"]
    outside = build(name, model).attribute(pair, target=1)
    with torch.inference_mode():
        close(build(name, model).attribute(images(2, SIDE), target=1), outside)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        close(build(name, model).attribute(pair, target=1), outside)
    half = build(name, timm_vit().bfloat16()).attribute(pair.bfloat16(), target=1)
    assert half.dtype == torch.bfloat16
    close(half.float(), outside, 0.1)


@pytest.mark.parametrize("name", NAMES)
def test_oblong_images_and_patches(name):
    model = timm_vit(img_size=(32, 48))
    found = build(name, model).attribute(images(1, 48)[:, :, :32], target=1)[0, 0]
    cells = found[::PATCH, ::PATCH]
    assert cells.shape == (4, 6)
    assert torch.equal(found, cells.repeat_interleave(PATCH, 0).repeat_interleave(PATCH, 1))
    assert len(cells.unique()) == 24


# what cannot be followed


def swin():
    sizes = {"img_size": 96, "window_size": 3, "embed_dim": 12, "depths": (1, 1), "num_heads": (1, 2)}
    return timm.create_model("swin_tiny_patch4_window7_224", num_classes=CLASSES, **sizes).eval()


class BetweenLayers(nn.Module):
    """Attention modules without their residual connections, which the network adds itself."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.attend = nn.ModuleList([Plain(), Plain()])
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x):
        x = self.embed(x).flatten(2).transpose(1, 2)
        for attend in self.attend:
            x = x + attend(x)
        return self.head(x.mean(1))


class Plain(nn.Module):
    def forward(self, x):
        return F.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None]).squeeze(1)


class ReadsTheEmbedding(BetweenLayers):
    """The head also reads what the layers were given."""

    def forward(self, x):
        x = self.embed(x).flatten(2).transpose(1, 2)
        return self.head((x + self.attend[1](self.attend[0](x))).mean(1))


class ReadsEveryLayer(BetweenLayers):
    def forward(self, x):
        first = self.attend[0](self.embed(x).flatten(2).transpose(1, 2))
        return self.head((first + self.attend[1](first)).mean(1))


class OverChannels(nn.Module):
    """Attention between channels, whose number could be that of cells."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, 9, PATCH, PATCH)
        self.head = nn.Linear(9, CLASSES)

    def forward(self, x):
        x = self.embed(x).flatten(2)[:, None]
        return self.head(F.scaled_dot_product_attention(x, x, x).mean((1, 3)))


class Behind(nn.Module):
    """The logits do not depend on the attention."""

    def __init__(self):
        super().__init__()
        self.vit = timm_vit()
        self.embed = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x):
        return self.head(self.embed(x).mean((2, 3))) + 0 * self.vit(x).detach()


REFUSED = {
    "no attention": (
        lambda: timm.create_model("test_resnet").eval(),
        "found no softmax attention over tokens that form a grid in ResNet: it calls neither",
    ),
    "windows": (swin, r"has shape \[128, 1, 9, 9\] for 2 image\(s\), so it is within windows or groups of tokens"),
    "pooling": (
        lambda: timm.create_model("pit_ti_224", num_classes=CLASSES, img_size=96).eval(),
        "the number of tokens changes in PoolingVisionTransformer",
    ),
    "attention pooling": (
        lambda: timm_vit(global_pool="map", class_token=False),
        "at 'attn_pool' is from 1 to 16 tokens",
    ),
    "parallel": (
        lambda: timm_vit("vit_small_patch16_18x2_224"),
        r"at 'blocks.0.attns.1.attn' does not depend on that at 'blocks.0.attns.0.attn' before it",
    ),
    "channels": (OverChannels, r"no softmax attention over tokens that form a grid in OverChannels: .* over 9 entries"),
    "behind": (Behind, "the logits do not depend on the last attention layer"),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_followed_is_said(kind, name):
    make, said = REFUSED[kind]
    model = make().eval()
    side = 96 if kind in ("windows", "pooling", "no attention") else SIDE
    if kind == "behind" and name == "legrad":
        said = "not a function of its last layer's output alone"
    with untouched(model), pytest.raises(ValueError, match=said) as caught:
        build(name, model).attribute(images(2, side), target=1)
    assert any(f"by {name})" in note for note in caught.value.__notes__)


def test_legrad_needs_the_networks_layers(pair):
    model = BetweenLayers().eval()
    assert len(build("attention_rollout", model).attribute(pair, target=1)[0, 0].unique()) == CELLS
    assert len(build("chefer", model).attribute(pair, target=1)[0, 0].unique()) > CELLS / 2
    with pytest.raises(ValueError, match=r"the output of 'attend.0' is not the input of 'attend.1'"):
        build("legrad", model).attribute(pair, target=1)
    for network in (ReadsTheEmbedding(), ReadsEveryLayer()):
        with pytest.raises(ValueError, match="not a function of its last layer's output alone"):
            build("legrad", network.eval()).attribute(pair, target=1)


def test_wrong_arguments_are_said(vits, pair):
    with pytest.raises(TypeError, match=r"chefer needs a torch\.nn\.Module, got function"):
        build("chefer", lambda x: x)
    for name in NAMES:
        with pytest.raises(ValueError, match=r"the inputs have shape \[0, 3.*; give at least one example"):
            build(name, vits["class token"]).attribute(pair[:0], target=1)
    with pytest.raises(ValueError, match=r"legrad explains one batch of images \[N, C, H, W\], got \[2, 6\]"):
        build("legrad", vits["class token"]).attribute(torch.zeros(2, 6), target=1)
    with pytest.raises(ValueError, match=r"the model is in train mode.*call model\.eval\(\) first"):
        build("chefer", timm_vit(attn_drop_rate=0.1).train()).attribute(pair, target=1)
    with pytest.raises(ValueError, match="NaN or infinity"):
        build("chefer", vits["class token"]).attribute(torch.full((1, 3, SIDE, SIDE), torch.nan), target=1)


# lists, comparisons, and Grad-CAM beside them


def test_each_has_its_line():
    offered = plugins.attribution_methods()
    for name in NAMES:
        assert plugins.origin(name).name == "attention_align"
        assert offered[name].values == "scores"
        assert offered[name].summary.startswith("vision transformers: ")
        assert not offered[name].takes_layer


def test_a_comparison_runs_them(vits):
    from xai_align.data.photographs import FOLDER

    loaded = LoadedModel(
        model=vits["class token"],
        preprocess=lambda picture: (
            torch.tensor(list(picture.resize((SIDE, SIDE)).tobytes())).view(SIDE, SIDE, 3).permute(2, 0, 1) / 255
        ),
    )
    comparison = compare(loaded, [FOLDER / "coffee.jpg"], methods=[*NAMES, "random"], metrics=["deletion"])
    assert {one.method for one in comparison.summaries} == {*NAMES, "random"}


@pytest.mark.parametrize("name", ["gradcam", "layer_grad_cam"])
@pytest.mark.parametrize("library", ["timm", *LIBRARIES])
def test_grad_cam_looks_by_default_where_patches_still_count(vits, pair, name, library):
    """In a network with a class token that is the last block's first norm, in every library."""
    vit = vits["class token"]
    by_hand = build(name, vit, layer=f"blocks.{LAYERS - 1}.norm1").attribute(pair, target=1)
    assert float(by_hand.abs().max()) > 0
    model = vit if library == "timm" else LIBRARIES[library](vit)
    close(explain(model, pair, 1, name).attribution, by_hand, 1e-3)


@pytest.mark.parametrize("name", ["gradcam", "layer_grad_cam"])
@pytest.mark.parametrize("kind", KINDS)
def test_grad_cam_gives_a_map_on_every_kind(vits, pair, name, kind):
    maps = torch.cat([build(name, vits[kind]).attribute(pair, target=target) for target in range(CLASSES)])
    assert bool(torch.isfinite(maps).all())
    assert len(maps.sum(1).flatten().unique()) > CELLS
