"""The default readout of generated networks of unusual form: where the form makes no difference, the same map."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attention_align import AttentionRollout, AttnLRP, Chefer, LeGrad
from tests.networks import images
from xai_align import read_out, read_out_all_classes
from xai_align.features.grid_layers import grid_layers, grids
from xai_align.pinet import default_layers
from xai_align.plugins import attribution_method


def seeded(build, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build().eval()


# ---------------------------------------------------------------- what acts on single pixels is no layer


class TwoPaths(nn.Module):
    """Two convolutions of different strides: no grid through which all evidence passes."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 6, 3, 2), nn.Conv2d(3, 6, 5, 4), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.cat([self.a(x).relu().mean((2, 3)), self.b(x).relu().mean((2, 3))], 1))


class Written(nn.Module):
    """One function without modules."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.randn(8, 3, 3, 3) / 5), nn.Parameter(torch.randn(4, 8))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.a).relu().mean((2, 3)) @ self.b.T


class Flipped(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flip(3))


class Looking(nn.Module):
    """A spatial transformer: bright images are seen shifted by up to half their width, noise hardly."""

    def __init__(self) -> None:
        super().__init__()
        self.rest = nn.Sequential(*pooled())

    def forward(self, x: Tensor) -> Tensor:
        shift = ((x.square().mean((1, 2, 3)) - 4).sigmoid())[:, None] * x.new_tensor([0.0, 0, 1, 0, 0, 0])
        affine = x.new_tensor([1.0, 0, 0, 0, 1, 0]) + shift
        grid = F.affine_grid(affine.view(-1, 2, 3), list(x.shape), align_corners=False)
        return self.rest(F.grid_sample(x, grid, align_corners=False))


class Rows(nn.Module):
    """A recurrent network over rows."""

    def __init__(self) -> None:
        super().__init__()
        self.rows, self.head = nn.GRU(48, 12, batch_first=True), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rows(x.transpose(1, 2).flatten(2))[0][:, -1])


def convolutions(*after: nn.Module) -> list[nn.Module]:
    return [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), *after]


def pooled() -> list[nn.Module]:
    return convolutions(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))


FORMS = {
    "two paths": TwoPaths,
    "written": Written,
    "flipped": lambda: Flipped(*pooled()),
    "rows": Rows,
    "dense": lambda: nn.Sequential(*convolutions(nn.Conv2d(8, 4, 1))),
    "one grid": lambda: nn.Sequential(*pooled()),
    "coarse": lambda: nn.Sequential(nn.Conv2d(3, 3, 4, 4), *pooled()),
}


class Scaled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x - 0.5) / 0.25


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("front", [nn.Identity, Scaled])
@pytest.mark.filterwarnings("ignore:.*(on a grid|mostly cancellation|crops)")
def test_what_acts_on_single_pixels_makes_no_difference(form, front):
    model, x = seeded(FORMS[form]), images(1, 16)
    question = (1, 2, 3) if form == "dense" else 1
    expected = read_out(model, front()(x), question)
    found = read_out(nn.Sequential(front(), model).eval(), x, question)
    assert expected.map().abs().max() > 1e-5
    assert torch.allclose(found.map(), expected.map(), atol=1e-5 * float(expected.map().abs().max()))
    assert torch.allclose(found.bias, expected.bias, atol=1e-4)


@pytest.mark.parametrize("form", ["two paths", "written", "flipped"])
def test_a_network_behind_single_pixels_warns_as_without(form):
    model, x = seeded(FORMS[form]), images(1, 16)
    with pytest.warns(UserWarning, match="It is read at its input"):
        default_layers(model, (x,))
    with pytest.warns(UserWarning, match="It is read at '0'"):
        default_layers(nn.Sequential(Scaled(), model).eval(), (x,))


@pytest.mark.parametrize("front", ["none", "pixels", "convolution"])
def test_layers_behind_a_spatial_transformer_are_not_over_the_image(front):
    fronts = {"none": [], "pixels": [Scaled()], "convolution": [nn.Conv2d(3, 3, 3, padding=1)]}
    model = nn.Sequential(*fronts[front], seeded(Looking)).eval()
    x = torch.zeros(1, 3, 32, 32)
    x[:, :, 8:16, 20:28] = 20 * torch.randn(1, 3, 8, 8)
    if front == "convolution":  # it is before, so that its cells are at their own places
        readout = read_out(model, x, 1)
        assert [layer.feature_space.layer for layer in default_layers(model, (x,))] == ["0"]
    else:
        with pytest.warns(UserWarning, match=r"shifts the image.* read at (its input|'0')"):
            readout = read_out(model, x, 1)
    share = (readout.map() - read_out(model, 0 * x, 1).map()).abs()[0]
    assert float(share[6:18, 18:30].sum() / share.sum()) > 0.9


# ---------------------------------------------------------------- branches that are switched off


class Branch(nn.Module):
    """``x + scale * f(x)``, with the scale at one of the places where networks have it."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        norm = nn.BatchNorm2d(8)
        self.f = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), norm)
        self.scale = nn.Parameter(torch.ones(() if kind == "one number" else (8, 1, 1)))
        self.switch = {"norm": norm.weight, "convolution": self.f[2].weight}.get(kind, self.scale)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale * self.f(x)


@pytest.mark.parametrize("kind", ["norm", "convolution", "channels", "one number"])
def test_a_branch_with_a_scale_of_zero_is_a_branch(kind):
    model = seeded(lambda: nn.Sequential(nn.Conv2d(3, 8, 2, 2), *(Branch(kind) for _ in range(6)), *pooled()[4:]))
    x = images(1, 16)
    expected = [layer.feature_space.layer for layer in default_layers(model, (x,))]
    for branch in model[1:7]:
        branch.switch.data.zero_()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = read_out(model, x, 1)
    assert len(expected) == 3
    assert list(found.feature_space.layer) == expected
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


# ---------------------------------------------------------------- tokens beside those of patches


class Tokens(nn.Module):
    """Vision transformer whose class tokens stand at ``first``, before, and ``last``, behind the patches."""

    def __init__(self, first: int = 0, last: int = 0, width: int = 1, middle: bool = False) -> None:
        super().__init__()
        self.patches, self.place = nn.Conv2d(3, 16, 4, 4), nn.Parameter(torch.randn(1, 16 * width, 16) / 4)
        self.others, self.first = nn.Parameter(torch.randn(1, first + last, 16)), first
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(16, 2, 32, dropout=0, batch_first=True, norm_first=True) for _ in range(6)
        )
        self.head, self.middle = nn.Linear(16, 4), middle

    def forward(self, x: Tensor) -> Tensor:
        z = self.patches(x).flatten(2).transpose(1, 2) + self.place
        others = self.others.expand(len(z), -1, -1)
        at = z.shape[1] // 2 if self.middle else 0
        z = torch.cat([z[:, :at], others[:, : self.first], z[:, at:], others[:, self.first :]], 1)
        for block in self.blocks:
            z = block(z)
        return self.head(z[:, at] if self.first else z[:, -1])


def pair(width: int = 1, beside: int = 0) -> tuple[nn.Module, nn.Module]:
    """The same network with its class token (and registers) before and behind the patches."""
    return seeded(lambda: Tokens(1, beside, width)), seeded(lambda: Tokens(0, 1 + beside, width))


@pytest.mark.parametrize("width", [1, 3])
def test_a_class_token_at_the_end_is_one_at_the_start(width):
    first, last = pair(width)
    x = torch.randn(2, 3, 16, 16 * width, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(first(x), last(x), atol=1e-5)
    one, other = read_out(first, x, [1, 3]), read_out(last, x, [1, 3])
    assert one.parts[-1].feature_space.prefix_tokens == other.parts[-1].feature_space.suffix_tokens == 1
    assert torch.allclose(one.map(), other.map(), atol=1e-4 * float(one.map().abs().max()))
    assert torch.allclose(one.prefix, other.prefix, atol=1e-5)
    assert one.prefix.abs().max() > 1e-3


@pytest.mark.parametrize("method", [AttentionRollout, Chefer, LeGrad, AttnLRP])
def test_methods_on_attention_with_a_class_token_at_the_end(method):
    first, last = pair()
    x = images(2, 16)
    expected, found = method(first).attribute(x, [1, 3]), method(last).attribute(x, [1, 3])
    assert torch.allclose(found, expected, atol=1e-4 * float(expected.abs().max()))


def test_registers_behind_the_patches_and_a_class_token_before_them():
    model = seeded(lambda: Tokens(1, 3))
    space = default_layers(model, (images(1, 16),))[-1].feature_space
    assert (space.prefix_tokens, space.suffix_tokens) == (1, 3)
    readout = read_out(model, images(2, 16), 1)
    assert torch.allclose(readout.map().sum((1, 2)) + readout.prefix + readout.bias, readout.answer, atol=1e-5)


def test_biases_are_placed_beside_a_class_token_at_the_end():
    first, last = pair()
    one, other = (read_out(m, images(1, 16), 1, "patches", biases="placed") for m in (first, last))
    assert torch.allclose(one.map(), other.map(), atol=1e-5)
    assert torch.allclose(one.bias, other.bias, atol=1e-5)
    assert one.placed


def test_a_class_token_between_the_patches_is_told_of():
    with pytest.warns(UserWarning, match="reorders cells"):
        default_layers(seeded(lambda: Tokens(1, middle=True)), (images(1, 16),))


# ---------------------------------------------------------------- maps that become tokens behind a batch norm


def test_tokens_behind_a_batch_norm_are_found():
    model = seeded(
        lambda: nn.Sequential(
            *(nn.Conv2d(3, 8, 2, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 2, 2), nn.BatchNorm2d(16)),
            *(nn.Flatten(2), Turned(), nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)),
            *(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), Turned(), nn.AdaptiveAvgPool1d(1)),
            *(nn.Flatten(), nn.Linear(16, 4)),
        )
    )
    for norm in (model[1], model[4]):
        norm.running_var.copy_(torch.logspace(-2, 2, len(norm.running_var)))
    assert {"6", "7", "8"} <= {layer.name for layer in grid_layers(model, images(1, 32))}


class Turned(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2)


# ---------------------------------------------------------------- heads and biases without a place


@pytest.mark.parametrize("batch", [1, 2])
def test_the_head_of_dense_outputs_is_local(batch):
    model, x = (
        seeded(lambda: nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 4, 1))),
        images(batch, 8),
    )
    readout = read_out(model, x, (1, 2, 3), "head")
    z = model[:2](x)
    expected = torch.zeros_like(z)
    expected[:, :, 2, 3] = z[:, :, 2, 3] * model[2].weight[1, :, 0, 0]
    assert readout.kind == "local"
    assert torch.allclose(readout.contributions, expected, atol=1e-6)
    assert torch.allclose(readout.bias, model[2].bias[1].expand(batch))
    with pytest.raises(ValueError, match=r"maps of all classes need logits \[N, K\]"):
        read_out_all_classes(model, x, "head")


@pytest.mark.parametrize("shape", [(2, 4), (2, 3, 16), (2, 1, 4, 8, 8)])
def test_the_head_of_inputs_that_are_no_images_is_refused(shape):
    layer = {2: nn.Linear(4, 4), 3: nn.Conv1d(3, 4, 3), 5: nn.Conv3d(1, 4, 3)}[len(shape)]
    model = nn.Sequential(layer, nn.ReLU(), nn.Flatten(), nn.LazyLinear(2)).eval()
    model(torch.zeros(shape))
    with pytest.raises(ValueError, match=f"the input has {len(shape)} axes; name the layer"):
        read_out(model, torch.zeros(shape), 1, "head")


@pytest.mark.parametrize("layer", [None, "input", "0"])
@pytest.mark.parametrize(
    "move",
    [lambda x: x.flip(2), lambda x: x[..., :8, :8], lambda x: F.pad(x, (0, 16, 0, 16))],
    ids=["flip", "crop", "pad"],
)
def test_biases_are_not_placed_in_an_image_that_the_network_moves(move, layer):
    class Moving(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(move(x))

    model, x = seeded(lambda: Moving(*pooled())), images(1, 16)
    assert grids(model, x).moved
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match=r"crops, pads, flips or shifts .* use biases=.apart."):
            read_out(model, x, 1, layer, biases="placed")
        assert read_out(model, x, 1, layer, rule="gamma").placed == ()


def beside_its_middle():
    """A network whose first kernels take the pixel above on the left."""
    conv = nn.Conv2d(3, 4, 3, padding=1)
    nn.init.zeros_(conv.weight)
    conv.weight.data[..., 0, 0] = 1 + torch.rand(4, 3)
    return nn.Sequential(conv, nn.Softplus(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))


@pytest.mark.parametrize("size", [6, 8, 12, 20, 40])
def test_a_pixel_beside_is_no_other_place_in_a_small_image(size):
    model, x = seeded(beside_its_middle).eval(), images(2, size)
    assert not grids(model, x).moved
    readout = read_out(model, x, 1, "input", biases="placed")
    assert [one.shape for one in readout.placed] == [(2, size, size)]
    assert grids(Flipped(*model).eval(), x).moved


class Switched(nn.Conv2d):
    """A convolution whose cells are on or off."""

    def __init__(self, off: list[tuple[int, int]]) -> None:
        super().__init__(3, 4, 3, stride=3)
        self.register_buffer("on", torch.ones(3, 3))
        for cell in off:
            self.on[cell] = 0

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.on


def test_corners_whose_units_are_off_are_no_border():
    """Of 3 x 3 cells, those in a corner and in the middle are off; a border would be off in a whole row or column."""
    x, head = images(1, 9), (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    corner, column = [(0, 2), (1, 1)], [(0, 2), (1, 1), (1, 2), (2, 2)]
    assert not grids(seeded(lambda: nn.Sequential(Switched(corner), *head)), x).moved
    assert grids(seeded(lambda: nn.Sequential(Switched(column), *head)), x).moved


class Overwriting(nn.Module):
    """A network that writes to the output of a sigmoid, from which autograd computes its gradient; or does not."""

    def __init__(self, overwrites: bool) -> None:
        super().__init__()
        self.overwrites = overwrites
        self.a, self.b, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(self.a(x).relu()).sigmoid()
        x = x.mul_(2) if self.overwrites else x * 2
        return self.head(x.mean((2, 3)))


def test_layers_of_a_network_that_overwrites_what_autograd_saved_are_found():
    there, beside = (seeded(lambda which=which: Overwriting(which)) for which in (True, False))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert default_layers(there, images()) == default_layers(beside, images())
        found, expected = read_out(there, images(), 1), read_out(beside, images(), 1)
    torch.testing.assert_close(found.contributions, expected.contributions)


@pytest.mark.parametrize("name", ["saliency", "layer_grad_cam", "deep_lift", "gradcam", "fei", "clipped-gradient"])
def test_what_such_a_network_has_to_do_for_a_gradient_is_told(name):
    spec = attribution_method(name)
    options = {"clip": "none"} if name == "clipped-gradient" else {}
    with pytest.raises(ValueError, match=r"writes in place.*write x = x \* 2 for x \*= 2"):
        spec.build(seeded(lambda: Overwriting(True)), **options).attribute(images(), target=1)
    spec.build(seeded(lambda: Overwriting(False)), **options).attribute(images(), target=1)
