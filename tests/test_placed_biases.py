"""Biases at their positions: on ReLU networks each is ``b * d answer / d output``, by a plain backward pass."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from xai_align import FeatureSpace, read_out

ROWS, COLUMNS, LABEL = 6, 8, 1


class ChannelsLast(nn.Module):
    """A convolution, then linear layers on the last axis, a layer norm at the end, and a linear head of means."""

    def __init__(self, tokens: bool, prefix: int = 0) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 5, 2, stride=2)
        self.mix, self.free, self.norm = nn.Linear(5, 11), nn.Linear(11, 11, bias=False), nn.LayerNorm(11)
        self.head = nn.Linear(11, 3)
        self.tokens, self.prefix = tokens, nn.Parameter(torch.randn(1, prefix, 5))

    def forward(self, x: Tensor) -> Tensor:
        z = self.stem(x).relu().permute(0, 2, 3, 1)
        if self.tokens:
            z = torch.cat([self.prefix.expand(len(z), -1, -1), z.flatten(1, 2)], 1)
        z = self.norm(self.free(self.mix(z).relu()))
        return self.head(z.flatten(1, -2).mean(1))


class Normalised(nn.Module):
    """Convolutions and batch norms, with and without biases, then layers whose biases count as the rest."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.plain = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4, affine=False)
        self.second, self.affine = nn.Conv2d(4, 4, 3, padding=1, groups=2), nn.BatchNorm2d(4)
        self.up = nn.ConvTranspose2d(4, 4, 2, stride=2)
        self.cell, self.head = nn.Conv2d(4, 6, 1), nn.Linear(6, 3)
        for norm in (self.plain, self.affine):
            norm.running_mean = torch.randn(4)
            norm.running_var = torch.rand(4) + 0.5
        nn.init.normal_(self.affine.weight)
        nn.init.normal_(self.affine.bias)

    def forward(self, x: Tensor) -> Tensor:
        z = self.plain(self.first(x)).relu()
        z = self.affine(self.second(z)).relu()
        z = self.up(z).relu().mean((2, 3), keepdim=True)
        return self.head(self.cell(z).relu().flatten(1))


def by_gradient(model: nn.Module, x: Tensor, biases: dict[str, Tensor]) -> dict[str, Tensor]:
    """``b * d answer / d output`` of the named layers."""
    outputs: dict[str, Tensor] = {}

    def keep(name: str):
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            outputs[name] = output

        return hook

    handles = [model.get_submodule(name).register_forward_hook(keep(name)) for name in biases]
    answer = model(x)[:, LABEL].sum()
    for handle in handles:
        handle.remove()
    betas = torch.autograd.grad(answer, [outputs[name] for name in biases])
    return {name: (beta * biases[name]).detach() for name, beta in zip(biases, betas, strict=True)}


def by_grid(maps: Sequence[Tensor]) -> list[Tensor]:
    """The sums of the maps of equal size, from small to large."""
    found: dict[torch.Size, Tensor] = {}
    for one in maps:
        found[one.shape] = found.get(one.shape, torch.zeros_like(one)) + one
    return sorted(found.values(), key=lambda one: one.numel())


def assert_same_maps(found: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    found, expected = by_grid(found), by_grid(expected)
    assert [one.shape for one in found] == [one.shape for one in expected]
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-12)


def test_biases_of_convolutions_and_batch_norms():
    torch.manual_seed(0)
    model, x = Normalised().double().eval(), torch.randn(2, 3, ROWS, COLUMNS, dtype=torch.float64)
    offsets = {
        "plain": -model.plain.running_mean / (model.plain.running_var + model.plain.eps).sqrt(),
        "second": model.second.bias,
        "affine": model.affine.bias
        - model.affine.weight * model.affine.running_mean / (model.affine.running_var + model.affine.eps).sqrt(),
    }
    terms = by_gradient(model, x, {name: offset.view(-1, 1, 1) for name, offset in offsets.items()})
    readout = read_out(model, x, LABEL, "input", biases="placed")
    assert_same_maps(readout.placed, [one.sum(1) for one in terms.values()])
    whole = readout.contributions.flatten(1).sum(1) + sum(one.flatten(1).sum(1) for one in readout.placed)
    assert torch.allclose(whole + readout.bias, model(x)[:, LABEL], rtol=1e-9, atol=1e-12)
    behind = read_out(model, x, LABEL, "second", biases="placed")
    assert_same_maps(behind.placed, [terms["affine"].sum(1)])


@pytest.mark.parametrize("tokens", [False, True])
def test_biases_on_the_last_axis(tokens):
    torch.manual_seed(0)
    model, x = ChannelsLast(tokens).double().eval(), torch.randn(2, 3, ROWS, COLUMNS, dtype=torch.float64)
    nn.init.normal_(model.norm.bias)
    nn.init.normal_(model.norm.weight)
    last = by_gradient(model, x, {"norm": model.norm.bias})["norm"]
    place = FeatureSpace(layer="free", layout="NLC" if tokens else "NHWC")
    readout = read_out(model, x, LABEL, place, biases="placed")
    assert_same_maps(readout.placed, [last.sum(-1).view(2, ROWS // 2, COLUMNS // 2)])
    # the scale of the norm is held, so the linear layer before it acts by the gradient of z * scale
    place = FeatureSpace(layer="mix", layout="NLC" if tokens else "NHWC")
    before = read_out(model, x, LABEL, place, biases="placed")
    assert_same_maps(before.placed, readout.placed)
    whole = before.contributions.flatten(1).sum(1) + before.placed[0].flatten(1).sum(1) + before.bias
    assert torch.allclose(whole, model(x)[:, LABEL], rtol=1e-9, atol=1e-12)


def test_a_bias_on_the_last_axis_between_the_place_and_the_norm():
    torch.manual_seed(0)
    model, x = ChannelsLast(tokens=False).double().eval(), torch.randn(2, 3, ROWS, COLUMNS, dtype=torch.float64)
    model.norm = nn.Identity()
    terms = by_gradient(model, x, {"mix": model.mix.bias})["mix"]
    readout = read_out(model, x, LABEL, FeatureSpace(layer="stem", layout="NCHW"), biases="placed")
    assert_same_maps(readout.placed, [terms.sum(-1)])


def test_a_bias_on_prefix_tokens_stays_in_the_rest_and_one_on_patches_is_placed():
    torch.manual_seed(0)
    model, x = (
        ChannelsLast(tokens=True, prefix=1).double().eval(),
        torch.randn(2, 3, ROWS, COLUMNS, dtype=torch.float64),
    )
    nn.init.normal_(model.norm.bias)
    place = FeatureSpace(layer="free", layout="NLC", prefix_tokens=1)
    placed, apart = (read_out(model, x, LABEL, place, biases=biases) for biases in ("placed", "apart"))
    terms = by_gradient(model, x, {"norm": model.norm.bias})["norm"].sum(-1)
    assert_same_maps(placed.placed, [terms[:, 1:].view(2, ROWS // 2, COLUMNS // 2)])
    assert torch.allclose(placed.bias, terms[:, 0] + model.head.bias[LABEL])
    assert torch.allclose(apart.bias, terms.sum(1) + model.head.bias[LABEL])


class Positions(nn.Module):
    """Patches, a class token in front, position embeddings, a mixing of tokens, and a head of the class token."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mix, self.head = nn.Conv2d(3, 4, 2, stride=2), nn.Linear(13, 13, bias=False), nn.Linear(4, 3)
        self.start, self.places = nn.Parameter(torch.randn(1, 1, 4)), nn.Parameter(torch.randn(1, 13, 4))

    def forward(self, x: Tensor) -> Tensor:
        z = self.stem(x).flatten(2).transpose(1, 2)
        z = torch.cat([self.start.expand(len(z), -1, -1), z], 1) + self.places
        return self.head(self.mix(z.relu().transpose(1, 2)).transpose(1, 2).relu()[:, 0])


def test_position_embeddings_lie_at_their_patches():
    torch.manual_seed(3)
    model, x = Positions().double().eval(), torch.randn(2, 3, ROWS, COLUMNS, dtype=torch.float64)
    readout = read_out(model, x, LABEL, "stem", biases="placed")
    outputs: list[Tensor] = []
    places = model.places.expand(2, -1, -1).clone()
    z = model.stem(x).flatten(2).transpose(1, 2)
    tokens = torch.cat([model.start.expand(2, -1, -1), z], 1) + places.detach().requires_grad_()
    outputs.append(tokens)
    after = model.head(model.mix(tokens.relu().transpose(1, 2)).transpose(1, 2).relu()[:, 0])
    (beta,) = torch.autograd.grad(after[:, LABEL].sum(), outputs)
    expected = (beta * places).sum(-1)[:, 1:].view(2, ROWS // 2, COLUMNS // 2)
    assert_same_maps(readout.placed, [expected.detach()])
    whole = readout.contributions.flatten(1).sum(1) + expected.flatten(1).sum(1) + readout.bias
    assert torch.allclose(whole, model(x)[:, LABEL], rtol=1e-9, atol=1e-12)


def leaky(x: Tensor) -> Tensor:
    return nn.functional.leaky_relu(x, 0.5)


class Elsewhere(nn.Module):
    """Between two convolutions, layers whose biases have no place: other axes, weights from the input."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.last = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 5, 3, padding=1)
        self.line, self.norm_1d = nn.Conv1d(4, 4, 3, padding=1), nn.BatchNorm1d(4, eps=0.3)
        self.volume, self.norm_3d = nn.Conv3d(1, 2, 3, padding=1), nn.BatchNorm3d(2, eps=0.2)
        self.plane = nn.LayerNorm([ROWS, COLUMNS], eps=0.5)
        self.weights, self.biases = nn.Linear(4, 16), nn.Linear(4, 4)
        self.head = nn.Linear(5, 3)
        for norm in (self.norm_1d, self.norm_3d):
            norm.running_mean, norm.running_var = torch.randn_like(norm.running_mean), norm.running_var + 0.5
        for norm in (self.norm_1d, self.norm_3d, self.plane):
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.bias)

    def forward(self, x: Tensor) -> Tensor:
        z = leaky(self.stem(x))
        z = leaky(self.norm_1d(self.line(z.flatten(2)))).unflatten(2, x.shape[2:])
        z = leaky(self.norm_3d(self.volume(z[:, None]))).sum(1)
        z = self.plane(z)
        means = z.mean((2, 3))
        weight, bias = self.weights(means).view(4, 4), self.biases(means)[0]
        z = nn.functional.linear(z.movedim(1, -1), weight, self.biases.bias).movedim(-1, 1)
        z = nn.functional.linear(z.movedim(1, -1), self.biases.weight, bias).movedim(-1, 1)
        z = nn.functional.conv2d(z, weight[:, :, None, None], self.biases.bias)
        z = nn.functional.conv2d(z, self.biases.weight[:, :, None, None], bias=bias)
        return self.head(leaky(self.last(z)).mean((2, 3)))


def test_biases_without_a_place_are_the_rest():
    torch.manual_seed(1)
    model, x = Elsewhere().double().eval(), torch.randn(1, 3, ROWS, COLUMNS, dtype=torch.float64)
    apart, placed = (read_out(model, x, LABEL, "stem", biases=biases) for biases in ("apart", "placed"))
    assert apart.contributions.abs().mean() > 1e-5
    (found,) = placed.placed
    expected = by_gradient(model, x, {"last": model.last.bias.view(-1, 1, 1)})["last"].sum(1)
    assert torch.allclose(found, expected, rtol=1e-9)
    assert torch.allclose(placed.contributions, apart.contributions, rtol=1e-9)
    assert torch.allclose(placed.bias + found.sum((1, 2)), apart.bias, rtol=1e-9)


class Around(nn.Module):
    """A branch, and a way around it whose bias is added before the branch runs."""

    def __init__(self, *, overwrites: bool) -> None:
        super().__init__()
        self.skip, self.branch = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 3, padding=1)
        self.after, self.head, self.overwrites = nn.Conv2d(4, 4, 1), nn.Linear(4, 3), overwrites
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        branch, around = self.branch(x), self.skip(x).relu()
        if self.overwrites:
            squared = around * around
            around.add_(1)  # what the gradient of the square needs
            around = around + squared
        return self.head((around + self.after(self.act(branch)).relu()).mean((2, 3)))


@pytest.mark.parametrize("overwrites", [False, True])
def test_biases_around_the_layer_stay_in_the_rest(overwrites):
    torch.manual_seed(2)
    model = Around(overwrites=overwrites).double().eval()
    x = torch.randn(2, 3, ROWS, COLUMNS, dtype=torch.float64)
    apart, placed = (read_out(model, x, LABEL, "act", biases=biases) for biases in ("apart", "placed"))
    assert bool((apart.around.abs() > 1e-3).all())
    assert torch.allclose(placed.around, apart.around, rtol=1e-9)
    (found,) = placed.placed
    assert torch.allclose(placed.bias + found.sum((1, 2)), apart.bias, rtol=1e-9)


@pytest.mark.parametrize(("rows", "columns", "placed"), [(4, 4, True), (4, 3, True), (4, 2, False), (2, 4, False)])
def test_only_a_grid_of_the_images_proportions_has_places(rows, columns, placed):
    class Resized(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            z = nn.functional.interpolate(self[0](x), (rows, columns))
            return self[2](self[1](z).relu().mean((2, 3)))

    model = Resized(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Linear(4, 3)).eval()
    maps = read_out(model, torch.randn(1, 3, 8, 8), LABEL, "0", biases="placed").placed
    assert [tuple(one.shape[1:]) for one in maps] == ([(rows, columns)] if placed else [])


def test_statistics_of_the_batch_are_refused_as_without_places():
    class OfTheBatch(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            z = nn.functional.batch_norm(self[0](x), None, None, training=True)
            return self[1](z.relu().mean((2, 3)))

    model = OfTheBatch(nn.Conv2d(3, 4, 1), nn.Linear(4, 3)).eval()
    for biases in ("apart", "placed"):
        with pytest.raises(ValueError, match="batch norm uses its batch's statistics"):
            read_out(model, torch.randn(2, 3, 8, 8), LABEL, "0", biases=biases)


def test_behind_a_vector_no_bias_has_a_place():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.ReLU(), nn.Linear(4, 3)).eval()
    x = torch.randn(2, 3, 8, 8)
    readout = read_out(model, x, LABEL, "2", biases="placed")
    assert readout.placed == ()
    assert torch.equal(readout.bias, read_out(model, x, LABEL, "2").bias)
