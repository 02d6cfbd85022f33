"""A second look on timm backbones: it starts as the backbone, leaves it alone, and learns."""

from __future__ import annotations

import copy
import pickle
import warnings

import pytest
import timm
import torch
from networks import untouched
from torch import nn

import timm_align
from timm_align import TimmEncoder
from xai_align import plugins
from xai_align.pinet import ExactPiNet, FrozenEncoder, PiNet, SecondLookHead, read_out

#: Pooled linear heads on maps, in both orders of axes, and on tokens; they start as they are.
LINEAR = ("test_resnet", "test_efficientnet", "test_coatnet", "swin_tiny_patch4_window7_224", "levit_128s")
#: A norm, a hidden layer, a class token, several tensors at the end.
OTHERS = ("test_convnext", "mobilenetv3_small_050", "test_vit", "crossvit_tiny_240", "pit_ti_224")


def create(name, **options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return timm.create_model(name, **options).eval()


def image_for(model, count=2):
    size = model.default_cfg["input_size"][-1]
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def retrofit(model_or_name="test_resnet", **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return timm_align.retrofit(model_or_name, "second_look", **options)


def moved(pinet):
    """Its gates look at something."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for parameter in pinet.head.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    return pinet


@pytest.mark.parametrize("name", LINEAR)
def test_it_starts_with_the_backbones_own_logits(name):
    backbone = create(name)
    x = image_for(backbone)
    with untouched(backbone):
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):  # a new head takes random numbers
            warnings.simplefilter("error")
            pinet = timm_align.retrofit(backbone, "second_look")
        with torch.no_grad():
            look = pinet.explain(x)
    with torch.no_grad():
        logits = backbone(x)
    assert (look.logits - logits).abs().max() < 3e-5 * logits.abs().max()
    assert look.maps.shape == (2, 1000, 56, 56)
    assert look.coefficients.unique().tolist() == [0.5]
    pinet = moved(pinet)
    with torch.no_grad():
        look = pinet.explain(x)
    terms = look.contributions.double().flatten(2)
    assert ((terms.sum(2) + look.bias - look.logits).abs() < 1e-5 * (terms.abs().sum(2) + look.bias.abs())).all()


@pytest.mark.parametrize("name", OTHERS)
def test_other_heads_start_at_zero_and_say_so(name):
    backbone = create(name)
    with pytest.warns(UserWarning, match="not a linear classifier of mean features"):
        pinet = timm_align.retrofit(backbone, "second_look")
    with torch.no_grad():
        assert not pinet(image_for(backbone)).any()


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "swin_tiny_patch4_window7_224"])
def test_features_are_maps_from_fine_to_deep(name):
    backbone = create(name)
    x = image_for(backbone)
    encoder = TimmEncoder(backbone)
    with torch.no_grad():
        features, final = encoder(x), backbone.forward_features(x)
    assert tuple(one.shape[1] for one in features) == encoder.channels
    rows = [one.shape[2] for one in features]
    assert rows == sorted(rows, reverse=True)
    assert 4 * rows[0] <= x.shape[2]
    # the deepest is what the classifier gets: without class tokens, channels second
    plain = {"NHWC": lambda f: f.permute(0, 3, 1, 2), "NLC": lambda f: f[:, 1:].transpose(1, 2).unflatten(2, (10, 10))}
    layout = "NLC" if final.dim() == 3 else "NHWC" if "swin" in name else "NCHW"
    assert torch.equal(features[-1], plain.get(layout, lambda f: f)(final))


@pytest.mark.parametrize("z", ["ones", "pixels", "pixels_and_inverse", "patch_means", "features"])
@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "softmax"])
def test_every_head_goes_on_a_backbone(z, activation):
    pinet = moved(retrofit(z=z, activation=activation, num_classes=3, size=None if z == "pixels" else 40))
    x = image_for(pinet.encoder.inner.backbone)
    with torch.no_grad():
        readout = pinet.read_out(x, 2)
        assert torch.equal(readout.logits, pinet(x))
    assert readout.relative_error.max() < 1e-5
    side = 160 if z == "pixels" else 40
    assert readout.contributions.shape[-2:] == (side, side)
    assert readout.map().shape == (2, 160, 160)


def test_pixels_are_those_before_the_backbones_normalisation():
    pinet = retrofit(z="pixels", num_classes=2)
    config = pinet.encoder.inner.backbone.default_cfg
    picture = torch.rand(1, 3, 160, 160)
    mean, std = (torch.tensor(config[name]).view(3, 1, 1) for name in ("mean", "std"))
    with torch.no_grad():
        look = pinet.explain((picture - mean) / std)
    torch.testing.assert_close(look.z[:, 0], picture, rtol=0, atol=1e-6)


def test_a_frozen_backbone_stays_as_it_is():
    backbone = create("test_resnet")
    pinet, x = moved(retrofit(backbone, num_classes=3)), image_for(backbone)
    before = copy.deepcopy(backbone.state_dict())
    with untouched(backbone):
        pinet.train()
        assert not any(module.training for module in backbone.modules())
        optimizer = torch.optim.SGD(pinet.trainable_parameters(), lr=0.1)
        for _ in range(2):
            pinet.explain(x).logits.square().sum().backward()
            optimizer.step()
        # a second pass on an image that depends on the coefficients: the gradient goes through, and to no parameter
        pixels = x.clone().requires_grad_()
        pinet(pixels).sum().backward()
        assert pixels.grad.abs().sum() > 0
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())
    assert {id(p) for p in pinet.trainable_parameters()} == {id(p) for p in pinet.head.parameters()}
    # what is made from a name belongs to the PiNet, and waits for no gradient
    assert not any(p.requires_grad for p in retrofit().encoder.parameters())


def test_a_backbone_in_train_mode_cannot_be_frozen():
    backbone = create("test_resnet").train()
    with untouched(backbone), torch.random.fork_rng(devices=[]):
        with pytest.raises(ValueError, match=r"call model\.eval\(\) first"):
            retrofit(backbone)
        assert retrofit(backbone, frozen=False).training


def test_fine_tuning_trains_all_but_the_old_classifier():
    pinet = moved(retrofit(frozen=False, num_classes=3)).train()
    backbone = pinet.encoder.backbone
    pinet.explain(image_for(backbone)).logits.square().sum().backward()
    without = {name for name, p in backbone.named_parameters() if p.grad is None}
    assert without == {"fc.weight", "fc.bias"}
    assert all(p.grad is not None for p in pinet.trainable_parameters())


def test_a_head_can_start_at_a_probe():
    backbone, probe = create("test_resnet"), nn.Linear(96, 7)
    encoder = TimmEncoder(backbone)
    pinet = PiNet(FrozenEncoder(encoder), SecondLookHead(encoder.channels, 7, z="evidence", classifier=probe)).eval()
    x = image_for(backbone)
    with torch.no_grad():
        expected = probe(backbone.forward_features(x).mean((2, 3)))
        torch.testing.assert_close(pinet(x), expected, rtol=1e-4, atol=1e-5)


def test_it_learns_where():
    """Weak labels: is there a bright square? A frozen random backbone, a gate, and evidence that starts at zero."""
    dice = torch.Generator().manual_seed(0)
    x = 0.1 * torch.randn(24, 3, 64, 64, generator=dice)
    y = torch.arange(24) % 2
    for i, (top, left) in enumerate(torch.randint(0, 40, (24, 2), generator=dice).tolist()):
        x[i, :, top : top + 24, left : left + 24] += 2.0 * y[i]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pinet = retrofit(create("test_resnet"), num_classes=2, size=16).train()
        features = pinet.encoder(x)  # frozen, so once is enough
        optimizer = torch.optim.Adam(pinet.trainable_parameters(), lr=0.02)
        for _ in range(150):
            optimizer.zero_grad()
            nn.functional.cross_entropy(pinet.head(features, x).logits, y).backward()
            optimizer.step()
    with torch.no_grad():
        look = pinet.eval().explain(x)
    assert (look.logits.argmax(1) == y).float().mean() > 0.95
    difference = nn.functional.interpolate((look.maps[:, 1] - look.maps[:, 0])[:, None], (64, 64))[:, 0]
    inside = x.mean(1) > 1
    assert difference[inside].mean() > 1.5 * difference[y == 1][~inside[y == 1]].mean()


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_copies_and_compiled_ones_answer_alike(name):
    pinet, x = moved(retrofit(name, num_classes=3)), image_for(create(name))
    with torch.no_grad():
        expected = pinet(x)
        for other in (copy.deepcopy(pinet), pickle.loads(pickle.dumps(pinet)), nn.DataParallel(pinet)):
            assert torch.equal(other(x), expected)
        compiled = torch.compile(pinet, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(x), expected, rtol=1e-5, atol=1e-6)


def test_heads_and_their_options():
    assert isinstance(timm_align.retrofit("test_resnet"), ExactPiNet)
    assert isinstance(timm_align.retrofit("test_resnet"), PiNet)
    pinet = retrofit("test_resnet", width=8, activation="tanh", start=None, drop_rate=0.1, in_chans=1)
    assert pinet.encoder.inner.options["create"] == {"num_classes": 1000, "drop_rate": 0.1, "in_chans": 1}
    assert pinet.head.options["width"] == 8
    assert pinet.head.options["image_channels"] == 1
    assert pinet(torch.rand(1, 1, 64, 64)).shape == (1, 1000)


@pytest.mark.parametrize(
    ("given", "options", "error", "message"),
    [
        ("test_resnet", {"head": "third_look"}, ValueError, "'exact' or 'second_look'"),
        ("test_resnet", {"feature_space": "layer1"}, ValueError, r"use z=\.\.\."),
        ("test_resnet", {"indices": [7]}, ValueError, "gives 5 maps, numbered 0 … 4"),
        ("test_resnet", {"z": "colours"}, ValueError, "one of 'ones'"),
        ("test_vit", {"image_size": (50, 50)}, ValueError, "are not available for an image of 50 x 50"),
        (nn.Linear(2, 2), {}, TypeError, "write your own encoder"),
        (create("test_resnet"), {"drop_rate": 0.5}, ValueError, "require a model's name"),
        (create("test_resnet"), {"frozn": False}, ValueError, "frozn require a model's name"),
        (create("test_resnet", num_classes=0), {}, ValueError, r"give num_classes=\.\.\."),
        ("resnet51", {}, ValueError, "did you mean"),
    ],
)
def test_what_cannot_be_retrofitted(given, options, error, message):
    with pytest.raises(error, match=message):
        timm_align.retrofit(given, **{"head": "second_look", **options})


def test_a_backbone_without_intermediate_maps_is_refused():
    class Classifier(nn.Module):
        def forward_features(self, x): ...
        def forward_head(self, x): ...
        def get_classifier(self): ...

    with pytest.raises(ValueError, match="no forward_intermediates"):
        retrofit(Classifier())


def test_reading_out_elsewhere_goes_through_the_whole_network():
    """At the input, by frozen gates: exact too, and an account that counts what the encoder made of the pixels."""
    pinet = moved(retrofit("test_resnet", num_classes=3, z="patch_means")).double()
    x = image_for(pinet.encoder.inner.backbone).double()
    with untouched(pinet):
        readout = read_out(pinet, x, 1, "input")
    assert readout.relative_error.max() < 1e-10
    torch.testing.assert_close(readout.answer, pinet(x)[:, 1].detach())


def test_a_second_look_through_the_plugins_is_the_retrofit():
    model = timm.create_model("test_resnet", num_classes=5).eval()
    pinet = plugins.second_look(model, 3, {"frozen": True, "z": "ones", "size": 8})
    assert isinstance(pinet, PiNet)
    assert pinet.encoder.inner.backbone is model
    assert pinet.explain(torch.rand(1, 3, 64, 64)).maps.shape == (1, 3, 8, 8)


def test_a_model_that_no_plugin_knows_gets_no_second_look():
    with pytest.raises(ValueError, match=r"second look to Linear: no plugin knows such models.*Plugins asked: .*timm"):
        plugins.second_look(torch.nn.Linear(1, 1), 2, {"frozen": True})


def test_random_weights_by_name():
    loaded = plugins.load_model("timm:test_resnet@random")
    assert not loaded.model.training
    assert loaded.model(torch.rand(1, 3, 160, 160)).shape == (1, 1000)
