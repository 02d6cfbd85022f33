"""The exact readout as the map that is aligned: its values, its gradients, and fits with it."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.align_factory import Bars, bends, fit, loader, trainer, weights
from tests.networks import conv_net, images, untouched
from xai_align import read_out
from xai_align.align import AlignTrainer, alignment_loss, recipe
from xai_align.align.saliency_of_readouts import readout_evidence, readout_saliency, saliency_space
from xai_align.align.twice_differentiable import twice_differentiable
from xai_align.features.spatial import contribution_map
from xai_align.pinet.differentiable_readout import differentiable_readout


class Block(nn.Module):
    """Attention and an MLP, as in a ViT."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class TinyViT(nn.Module):
    """A ViT of two blocks whose patches are embedded by a linear layer, so that it has no convolution."""

    def __init__(
        self,
        *,
        channels: int = 1,
        side: int = 12,
        patch: int = 3,
        width: int = 8,
        classes: int = 3,
        pooled: bool = False,
    ) -> None:
        super().__init__()
        self.patch, self.pooled = patch, pooled
        self.embed = nn.Linear(channels * patch * patch, width)
        self.token = nn.Parameter(torch.randn(1, 1, width) * 0.5)
        self.places = nn.Parameter(torch.randn(1, (side // patch) ** 2, width) * 0.5)
        self.blocks = nn.Sequential(Block(width), Block(width))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(F.unfold(x, self.patch, stride=self.patch).transpose(1, 2)) + self.places
        if self.pooled:
            return self.head(self.norm(self.blocks(x)).mean(1))
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
        return self.head(self.norm(self.blocks(x))[:, 0])


def vit(**options) -> TinyViT:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return TinyViT(**options).eval()


def smooth_net(seed: int = 0) -> nn.Module:
    """A convolutional network whose head is not affine: GELU, a second layer, a norm."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1), nn.SiLU(inplace=True), nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6),
            nn.Hardswish(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(6), nn.Linear(6, 5),
        ).eval()  # fmt: skip


NETWORKS = {
    "affine head": (conv_net, 3, 8, None),
    "early layer": (conv_net, 3, 8, "conv1"),
    "head with a norm": (smooth_net, 3, 8, "2"),
    "class token": (vit, 1, 12, None),
    "class token, first block": (vit, 1, 12, "blocks.0"),
    "pooled tokens": (lambda: vit(pooled=True), 1, 12, None),
}
LABELS = torch.tensor([0, 2])


def case(name: str, dtype: torch.dtype = torch.float64):
    make, channels, side, layer = NETWORKS[name]
    model = make().to(dtype)
    x = torch.randn(2, channels, side, side, generator=torch.Generator().manual_seed(1)).to(dtype)
    return model, x, saliency_space(model, x, layer, saliency="readout")


def exact(model, x, space):
    """The cells of a readout, which checks its own sum."""
    readout = read_out(model, x, LABELS.tolist(), space)
    return readout, contribution_map(readout.contributions, readout.feature_space, tuple(x.shape[-2:]))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_map_of_a_model_in_training_is_the_readout_of_the_model_in_eval_mode(name, dtype):
    model, x, space = case(name, dtype)
    readout, cells = exact(model, x, space)
    model.train()
    with untouched(model):
        found = differentiable_readout(model, x, LABELS, space)
    size = cells.abs().max()
    assert size > 0
    assert (found.map - cells).abs().max() <= 1e-5 * size
    # complete: the map and the readout's own bias, prefix and bypass are the logit
    parts = found.map.sum((1, 2)) + readout.prefix + readout.bias + readout.around
    torch.testing.assert_close(parts.detach(), readout.answer, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.answer.detach(), readout.answer)


@pytest.mark.parametrize("name", NETWORKS)
def test_its_gradient_is_that_of_finite_differences_of_readouts(name):
    model, x, space = case(name)
    weight = torch.linspace(-1, 2, exact(model, x, space)[1].numel(), dtype=x.dtype)

    def value(cells):
        return (cells.flatten() * weight).sum() + 10 * cells.square().sum()

    with twice_differentiable():
        loss = value(differentiable_readout(model, x, LABELS, space).map)
        found = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    direction = [torch.randn(p.shape, generator=torch.Generator().manual_seed(i)).to(p) for i, p in
                 enumerate(model.parameters())]  # fmt: skip
    moved = []
    for step in (1e-5, -1e-5):
        with torch.no_grad():
            other = copy.deepcopy(model)
            for parameter, way in zip(other.parameters(), direction, strict=True):
                parameter += step * way
        moved.append(value(exact(other, x, saliency_space(other, x, space.layer, saliency="readout"))[1]).item())
    slope = (moved[0] - moved[1]) / 2e-5
    along = sum((g * way).sum().item() for g, way in zip(found, direction, strict=True) if g is not None)
    assert abs(slope) > 1e-4
    assert along == pytest.approx(slope, rel=1e-5)


def test_an_affine_head_is_its_weight_row_times_the_features():
    model, x, space = case("affine head")
    z = model.act(model.conv2(model.pool(model.act(model.norm(model.conv1(x))))))
    expected = torch.einsum("nc,nchw->nhw", model.fc.weight[LABELS], z) / z[0, 0].numel()
    torch.testing.assert_close(readout_evidence(model, x, LABELS, layer=space)[:, 0], expected)


def test_a_head_that_was_replaced_is_read_as_it_is_now():
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        conv, curved = nn.Conv2d(3, 4, 3), nn.Sequential(nn.Linear(4, 7), nn.SiLU(), nn.Linear(7, 5))
        model = nn.Sequential(conv, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)).eval()
    space = saliency_space(model, x, "0", saliency="readout")

    def agrees():
        cells = exact(model, x, space)[1]
        torch.testing.assert_close(differentiable_readout(model, x, LABELS, space).map, cells)
        return cells

    agrees()  # affine
    model[3] = curved.eval()
    before = agrees()
    model[3][1].forward = torch.tanh
    assert not torch.allclose(agrees(), before)


def test_an_image_has_its_map_whatever_its_batch():
    model, x, space = case("head with a norm")
    model.train()
    together = readout_saliency(model, x, LABELS, layer=space, how="signed")
    alone = torch.cat(
        [readout_saliency(model, x[i : i + 1], LABELS[i : i + 1], layer=space, how="signed") for i in (0, 1)]
    )
    torch.testing.assert_close(together, alone)


@pytest.mark.parametrize(
    ("target", "told"),
    [(torch.tensor([0, 9]), "names a class"), (torch.tensor([0]), r"must be \[N, K\]"), (torch.ones(2), "int64")],
)
def test_targets_that_are_no_classes(target, told):
    with pytest.raises(ValueError, match=told):
        readout_evidence(conv_net(), images(2), target)


def test_what_can_not_be_read_out_is_refused():
    with pytest.raises(ValueError, match="half precision"):
        readout_evidence(conv_net().bfloat16(), images(2).bfloat16(), LABELS, layer="conv2")

    class Detached(nn.Module):
        def forward(self, x):
            return x * x.detach().sigmoid()

    model = nn.Sequential(nn.Conv2d(3, 4, 3), Detached(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    with pytest.raises(NotImplementedError, match=r"1 Detached .* whose gate has no gradient"):
        readout_evidence(model.eval(), images(2), LABELS, layer="0")


# ---------------------------------------------------------------- fits


def test_a_fit_aligns_the_readout_of_a_transformer():
    """The guidance loss of its readouts falls, and below that of the same network trained on the labels alone."""
    batches = loader(24, masks=True)
    data = Bars(24, masks=True)
    options = {"saliency": "readout", "normalise": "signed", "learning_rate": 1e-2, "seed": 5}
    guided = recipe("oracle", alignment=3.0, mixup=0.0)
    by_gradient = AlignTrainer(vit(), recipe=guided, **options | {"saliency": "gradcam"})
    by_gradient.fit(batches, epochs=1)  # of the last tokens that affect the logits, as there is no convolution
    assert (by_gradient.space.layer, by_gradient.space.prefix_tokens) == ("blocks.1.norm1", 1)

    def guidance(model):
        model.eval()
        maps = readout_saliency(model, data.images, data.labels, how="signed")
        return alignment_loss(maps, data.masks).excess.mean().item()

    models = {name: vit() for name in ("before", "guided", "erm")}
    AlignTrainer(models["guided"], recipe=guided, **options).fit(batches, epochs=6)
    AlignTrainer(models["erm"], recipe="erm", **options).fit(batches, epochs=6)
    found = {name: guidance(model) for name, model in models.items()}
    assert found["guided"] < 0.75 * found["before"]
    assert found["guided"] < 0.75 * found["erm"]


@pytest.mark.parametrize("network", [bends, vit])
def test_a_fit_that_was_stopped_goes_on_to_the_last_bit(tmp_path, network):
    options = {"saliency": "readout", "masker_every": 2, "normalise": "signed"}
    whole = network()
    trainer(whole, **options).fit(loader(12), epochs=2)

    def stop(row):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainer(network(), out=tmp_path, log=stop, **options).fit(loader(12), epochs=2)
    assert list(tmp_path.glob("checkpoints/*"))
    again = network()
    trainer(again, out=tmp_path, **options).fit(loader(12), epochs=2)
    for name, value in weights(whole).items():
        assert torch.equal(weights(again)[name], value), name


def test_a_checkpoint_of_the_other_map_is_refused(tmp_path):
    fit(tmp_path, epochs=1, saliency="readout")
    with pytest.raises(ValueError, match=r"another configuration: .*saliency was .*readout"):
        fit(tmp_path, epochs=1)


def test_a_fit_leaves_the_model_as_given():
    model = bends()
    model.fc.bias.requires_grad_(False)
    modes = [module.training for module in model.modules()]
    hooks = [dict(module._forward_hooks) for module in model.modules()]
    trainer(model, saliency="readout").fit(loader(12), epochs=1)
    assert [module.training for module in model.modules()] == modes
    assert [dict(module._forward_hooks) for module in model.modules()] == hooks
    assert not model.fc.bias.requires_grad
    assert all(p.grad is None for p in model.parameters())
    assert type(model.fc.weight) is nn.Parameter


def test_the_batch_norm_sees_each_image_of_a_step_once():
    """Statistics count the training pass alone, not those of the maps."""
    counts = {}
    for saliency in ("gradcam", "readout"):
        model = bends()
        trainer(model, saliency=saliency, recipe="align").classifier_step(next(iter(loader(8))))
        counts[saliency] = int(model.norm.num_batches_tracked)
    assert counts["gradcam"] == counts["readout"] == 1
