"""The masker on frozen stages: any network with two grids, a copy that never changes, a file that knows its network."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
import torchvision
from align_factory import Bars
from hf_networks import swin
from torch import nn

from tests.networks import images, untouched
from xai_align.align import (
    ALIGNMethod,
    AlignTrainer,
    Masker,
    NoStagesError,
    StageMasker,
    export_masker,
    load_masker,
    save_masker,
)
from xai_align.training.checkpoints import Snapshot, read_checkpoint, write_checkpoint


class Stages(nn.Module):
    """Three stages on grids of 1/1, 1/2 and 1/4, with an operation in place behind each, and a head."""

    def __init__(self, channels: int = 3, act: type[nn.Module] = nn.ReLU) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(channels, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8))
        self.second = nn.Sequential(nn.Conv2d(8, 12, 3, stride=2, padding=1), act())
        self.third = nn.Conv2d(12, 16, 3, stride=2, padding=1)
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        x = self.first(x)
        x += 1  # what the first stage gave is overwritten
        return self.head(torch.relu_(self.third(self.second(torch.relu_(x)))).mean((2, 3)))


def network(seed=0, **options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = Stages(**options)
        nn.init.uniform_(net.first[1].running_mean)
        return net


def masker(net=None, seed=0, **options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        channels = (net or network()).first[0].in_channels
        return StageMasker(net or network(), channels, **{"size": (24, 24), "width": 8, **options})


NETWORKS = {
    "timm resnet": (lambda: timm.create_model("test_resnet"), 64),
    "timm resnet, grey": (lambda: timm.create_model("test_resnet", in_chans=1), 64),
    "timm efficientnet": (lambda: timm.create_model("test_efficientnet"), 64),
    "timm convnext": (lambda: timm.create_model("test_convnext"), 64),
    "timm vit": (lambda: timm.create_model("test_vit", img_size=64), 64),
    "torchvision resnet18": (torchvision.models.resnet18, 64),
    "transformers swin": (swin, 32),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_with_stages_gets_one(name):
    make, side = NETWORKS[name]
    net = make().train()
    channels = 1 if "grey" in name else 3
    with untouched(net), torch.random.fork_rng(devices=[]):  # weights are drawn
        made = StageMasker(net, channels, size=(side, side)).train()
    x = torch.randn(2, channels, side, side)
    masks = made(x)
    assert masks.shape == (2, 1, side, side)
    assert (masks - 0.6).abs().max() < 0.15
    assert 2 <= len(made.layers) <= 3
    masks.square().mean().backward()
    learned = {key for key, p in made.named_parameters() if p.requires_grad}
    assert learned == {key for key, _ in made.named_parameters() if not key.startswith("frozen.")}
    assert all((p.grad is not None) == p.requires_grad for p in made.parameters())
    assert sum(p.numel() for p in made.parameters() if p.requires_grad) < 150_000
    assert sum(p.numel() for p in made.frozen.parameters()) < sum(p.numel() for p in net.parameters())
    if name != "timm vit" and name != "transformers swin":
        assert made(torch.randn(1, channels, side - 21, side + 9)).shape == (1, 1, side - 21, side + 9)


def test_it_reads_what_the_stages_gave_before_anything_was_written_into_it():
    net, x = network().eval(), images(2, 24)
    made = masker(net)
    assert made.layers == ("first", "second")
    with torch.no_grad():
        first = net.first(x)
        second = net.second(torch.relu(first + 1))
    for map_, expected in zip(made.features(x), (first, second), strict=True):
        assert torch.equal(map_, expected)
    assert {key.split(".")[1] for key in made.state_dict() if key.startswith("frozen.")} == {"first", "second"}


def test_the_stages_stay_as_they_were_whatever_is_trained():
    net = network()
    made, x = masker(net).train(), images(4, 24)
    frozen = {key: value.clone() for key, value in made.frozen.state_dict().items()}
    features = [one.clone() for one in made.features(x)]
    with torch.no_grad():
        for p in net.parameters():
            p.add_(1)
    net.train()(x)
    optimizer = torch.optim.AdamW(made.parameters(), lr=0.1)
    made(x).mean().backward()
    optimizer.step()
    assert not any(module.training for module in made.frozen.modules())
    assert made.last.training
    assert all(torch.equal(value, frozen[key]) for key, value in made.frozen.state_dict().items())
    assert all(torch.equal(*pair) for pair in zip(made.features(x), features, strict=True))


def test_precision_and_mates():
    made, x = masker().eval(), images(3, 19)
    exact = made(x)
    assert torch.allclose(made(x[:1]), exact[:1], atol=1e-6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = made(x)
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed, exact, rtol=0, atol=0.02)
    double = copy.deepcopy(made).double()
    assert double(x.double()).dtype == torch.float64
    torch.testing.assert_close(double(x.double()).float(), exact, rtol=0, atol=1e-5)
    assert StageMasker(network().double(), size=(24, 24), width=8)(x.double()).dtype == torch.float64
    with torch.no_grad():
        assert torch.equal(made.logits(x).sigmoid(), exact)


def test_options_build_the_like():
    made = masker(layers=["second", "first"], width=12, start=0.3)
    assert made.options == {
        "in_channels": 3, "size": [24, 24], "layers": ["first", "second"], "width": 12, "start": 0.3,
    }  # fmt: skip
    other = StageMasker(network(seed=5), **made.options)
    other.load_state_dict(made.state_dict())
    x = images(2, 21)
    assert torch.equal(other.eval()(x), made.eval()(x))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"width": 0}, "width must be a positive integer, got 0"),
        ({"start": 0.0}, r"start must be a number in \(0, 1\)"),
        ({"size": 24}, "size is 24; give rows and columns"),
        ({"size": (24, 0)}, "size must be a positive integer, got 0"),
        ({"layers": "first"}, "layers is 'first'; give a list of the names"),
        ({"layers": ["first", "nowhere"]}, "nowhere"),
        ({"layers": ["first", "head"]}, r"1 hidden layer on a grid over the image \(first; not head\)"),
        ({"in_channels": 2}, r"can't take images \[1, 2, 24, 24\] \(RuntimeError: .*channels"),
    ],
)
def test_what_cannot_be_built_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        StageMasker(network(), **{"size": (24, 24), "width": 8, **given})


def test_a_network_without_stages_and_images_of_another_kind_are_refused():
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 8), nn.ReLU(), nn.Linear(8, 2))
    with pytest.raises(NoStagesError, match=r"Sequential has 0 hidden layers on a grid.*or use Masker\(\)"):
        StageMasker(flat, size=(8, 8))
    with pytest.raises(TypeError, match="the network is a function"):
        StageMasker(lambda x: x, size=(8, 8))
    with pytest.raises(ValueError, match=r"made for images \[N, 3, H, W\] and got"):
        masker()(images(2, 24)[:, :1])
    vit = StageMasker(timm.create_model("test_vit", img_size=64), size=(64, 64), width=8)
    with pytest.raises(ValueError, match=r"can't take images \[1, 3, 50, 50\] \(AssertionError"):
        vit(images(1, 50))


# ---------------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_it_comes_back_from_its_file_on_a_network_with_other_weights(tmp_path, dtype):
    made = masker().to(dtype)
    with untouched(made):
        path = save_masker(made, tmp_path / "masker.safetensors")
    random, trained_further = torch.get_rng_state(), network(seed=7)
    with untouched(trained_further):
        again = load_masker(path, trained_further)
    assert torch.equal(torch.get_rng_state(), random)
    assert again.options == made.options
    assert not any(one.training for one in again.modules())
    assert {key for key, p in again.named_parameters() if p.requires_grad} == {
        key for key, p in made.named_parameters() if p.requires_grad
    }
    x = images(2, 21).to(dtype)
    with torch.no_grad():
        assert torch.equal(again(x), made.eval()(x))


def test_a_file_refuses_another_network_and_says_what_it_needs(tmp_path):
    path = save_masker(masker(), tmp_path / "masker.safetensors")
    with pytest.raises(ValueError, match=r"reads stages of a network \(first, second\).*load_masker\(FILE, network="):
        load_masker(path)
    with pytest.raises(ValueError, match="with the same weights its layers give other values"):
        load_masker(path, network(act=nn.Tanh))
    with pytest.raises(ValueError, match="is of a masker on another network than this ResNet"):
        load_masker(path, timm.create_model("test_resnet"))
    with pytest.raises(ValueError, match="can't take images"):
        load_masker(path, network(channels=1))
    saved = read_checkpoint(path)
    for change, told in (
        ({"width": 2**14}, "describes a model of more than"),
        ({"size": [24]}, "options.size"),
        ({"layers": ["first", "third"]}, "do not fit StageMasker"),
    ):
        options = {**saved.numbers["options"], **change}
        write_checkpoint(path, Snapshot(saved.tensors, {**saved.numbers, "options": options}))
        with pytest.raises(ValueError, match=told):
            load_masker(path, network())


def test_the_method_builds_a_files_masker_on_the_model_that_it_explains(tmp_path):
    from xai_align.builtin import METHODS

    made, net = masker().eval(), network(seed=3).eval()
    path = save_masker(made, tmp_path / "masker.safetensors")
    align = next(one for one in METHODS if one.name == "align").build(net, masker=path)
    x = images(2, 24)
    with torch.no_grad():
        assert torch.equal(align.attribute(x, return_masks=True)[1], made(x))
    assert torch.equal(ALIGNMethod(made).attribute(x), align.attribute(x))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["stages", "vit"])
def test_the_program_gives_the_same_masks(tmp_path, kind):
    tokens = kind == "vit"
    net, side = (timm.create_model("test_vit", img_size=32), 32) if tokens else (network(), 24)
    made = StageMasker(net, size=(side, side), width=8).train()
    with untouched(made):
        path = export_masker(made, tmp_path / "masker.pt2", size=(side, side), fixed_size=tokens)
    program = torch.export.load(path).module()
    made.eval()
    with torch.no_grad():
        for shape in ((2, side, side), (3, side, side)) + (() if tokens else ((1, 33, 21),)):
            x = torch.randn(shape[0], 3, *shape[1:])
            torch.testing.assert_close(program(x), made(x), rtol=0, atol=1e-6)


# ------------------------------------------------------------------------------------------------------- training


@pytest.mark.filterwarnings("ignore::xai_align.align.CollapseWarning")
@pytest.mark.filterwarnings("ignore::xai_align.align.ShortcutWarning")
def test_a_fit_that_was_stopped_ends_bit_for_bit_as_an_undisturbed_one(tmp_path):
    loader = torch.utils.data.DataLoader(Bars(12), batch_size=6)

    def fit(out):
        classifier = network(channels=1)
        made = masker(classifier, size=(12, 12))
        return AlignTrainer(classifier, made, masker_only_epochs=1, out=out), made

    trainer, whole = fit(tmp_path / "whole")
    trainer.fit(loader, epochs=3)
    stopped, _ = fit(tmp_path / "stopped")
    stopped.fit(loader, epochs=2)
    resumed, again = fit(tmp_path / "stopped")
    with torch.no_grad():
        again.last.bias.add_(3)
        next(again.frozen.parameters()).add_(3)  # what the checkpoint has counts
    resumed.fit(loader, epochs=3)
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in whole.state_dict().items())
    assert torch.equal(whole.frozen.first[0].weight, network(channels=1).first[0].weight)
    assert not torch.equal(whole.last.weight, masker(network(channels=1), size=(12, 12)).last.weight)
    with pytest.raises(ValueError, match="another"):
        AlignTrainer(network(channels=1), Masker(1, width=4), masker_only_epochs=1, out=tmp_path / "stopped").fit(
            loader, epochs=3
        )


def test_it_learns_a_mask_from_few_images():
    """Bars on noise are found on random stages, in a few dozen steps on twelve images."""
    bars = Bars(24)
    made = masker(network(channels=1), size=(12, 12), width=16)
    adam = torch.optim.Adam([p for p in made.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(60):
        adam.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(made.logits(bars.images[:12]), bars.masks[:12]).backward()
        adam.step()
    with torch.no_grad():
        masks = made(bars.images[12:])
    inside = bars.masks[12:] > 0
    assert masks[inside].mean() > 0.3 + masks[~inside].mean()
