"""EPIC's prototypes: purity by hand, a planted rotation, equal logits, shares that sum to the answer."""

from __future__ import annotations

from dataclasses import replace

import pytest
import timm
import torch
from torch import nn

from tests import hf_networks
from tests.networks import AddsNoise, CentresItsBatch, conv_net, images, untouched
from xai_align import Question, read_out
from xai_align.pinet import ExactPiNet
from xai_align.prototypes import (
    EPICMethod,
    MixedNetwork,
    PrototypeOptions,
    channel_purity,
    channel_shares,
    fit_prototypes,
    load_prototypes,
    save_prototypes,
)
from xai_align.prototypes.mixing import exponential_times, nearest_rotation
from xai_align.prototypes.purity import prototype_images, strongest_positions
from xai_align.training.diverged import DivergedError


class PooledLinear(nn.Module):
    """The input itself is the map: no backbone, a head that averages and is linear."""

    def __init__(self, channels: int, classes: int = 3) -> None:
        super().__init__()
        self.look = nn.Conv2d(channels, channels, 1, bias=False)
        self.fc = nn.Linear(channels, classes)
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            self.look.weight.copy_(torch.eye(channels)[:, :, None, None])
            self.fc.weight.copy_(torch.randn(classes, channels, generator=generator))
            self.fc.bias.copy_(torch.randn(classes, generator=generator))
        self.eval()

    def forward(self, x):
        return self.fc(self.look(x).mean((2, 3)))


def planted(channels: int = 12, count: int = 240, *, seed: int = 0):
    """``(maps [N, C, 4, 4], R)``: at each position one source, mixed by a rotation ``R``."""
    generator = torch.Generator().manual_seed(seed)
    sources = 0.02 * torch.rand(count, 16, channels, generator=generator)
    which = torch.randint(channels, (count, 16, 1), generator=generator)
    sources.scatter_(2, which, torch.rand(count, 16, 1, generator=generator) + 0.5)
    rotation = nearest_rotation(torch.randn(channels, channels, generator=torch.Generator().manual_seed(7)))
    return (sources @ rotation.T).transpose(1, 2).reshape(count, channels, 4, 4), rotation


def test_purity_by_hand():
    # image 0: (3, 4) at position 0, (0, 1) at position 1; image 1: (1, 0) twice
    maps = torch.tensor([[[3.0, 4.0], [0.0, 1.0]], [[1.0, 0.0], [1.0, 0.0]]])
    # channel 0: sums 3 and 2, so image 0, position 0, purity 3/5; channel 1: sums 5 and 0, image 0, 4/5
    assert channel_purity(maps, torch.eye(2), 1).tolist() == pytest.approx([0.6, 0.8])
    # of both images: channel 0 has 3/5 and 1; channel 1 has 4/5 and 0 (position 0: 0 of norm 1)
    assert channel_purity(maps, torch.eye(2), 2).tolist() == pytest.approx([0.8, 0.4])
    swapped = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    assert channel_purity(maps, swapped, 1).tolist() == pytest.approx([0.8, 0.6])
    found, activations = prototype_images(maps.sum(1), torch.eye(2), 1, sign=-1)
    assert found.tolist() == [[1], [1]]
    assert activations.tolist() == [[2.0], [0.0]]
    assert strongest_positions(maps, torch.eye(2)).tolist() == [[0, 0], [0, 0]]
    with pytest.raises(ValueError, match="2 images, and 3 prototypes need 3;"):
        channel_purity(maps, torch.eye(2), 3)


def test_steps_are_matrix_exponentials_and_the_polar_factor_is_the_best_rotation():
    torch.manual_seed(1)
    skew = torch.randn(6, 6, dtype=torch.float64) * 0.1
    skew = skew - skew.T
    start = nearest_rotation(torch.randn(6, 6, dtype=torch.float64))
    moved = exponential_times(skew, start)
    torch.testing.assert_close(moved, torch.matrix_exp(skew) @ start, atol=1e-5, rtol=0)
    wanted = torch.randn(6, 6, dtype=torch.float64)
    best = nearest_rotation(wanted)
    torch.testing.assert_close(best @ best.T, torch.eye(6, dtype=torch.float64))
    singular = torch.diag(torch.tensor([2.0, 1.0, 0.0], dtype=torch.float64))
    torch.testing.assert_close(nearest_rotation(singular).abs(), torch.eye(3, dtype=torch.float64))
    others = [nearest_rotation(torch.randn(6, 6, dtype=torch.float64)) for _ in range(50)]
    others += [torch.matrix_exp(0.05 * skew) @ best]
    assert all((best * wanted).sum() > (one * wanted).sum() for one in others)


@pytest.mark.parametrize("options", [{}, {"solver": "gradient"}, {"matrix": "invertible"}], ids=str)
def test_a_planted_rotation_is_found(options):
    maps, rotation = planted()
    model = PooledLinear(12)
    before = channel_purity(maps.flatten(2).transpose(1, 2), torch.eye(12), 5).mean()
    found = fit_prototypes(model, list(maps), "look", rounds=10, **options)
    assert found.purity[0].mean() == pytest.approx(float(before), abs=1e-5)
    assert before < 0.6
    if found.kind == "invertible":  # two channels may stand for one source, with a purity of 1 / sqrt(2) each
        assert found.purity[1].mean() > 0.85
        return
    assert found.purity[1].mean() > 0.98
    # up to permutation and sign , U R is the identity
    product = found.matrix @ rotation
    assert product.abs().amax(1).min() > 0.995
    assert sorted(product.abs().argmax(1).tolist()) == list(range(12))
    torch.testing.assert_close(found.matrix @ found.matrix.T, torch.eye(12), atol=1e-5, rtol=0)
    # on other images too
    held_out = planted(count=80, seed=1)[0].flatten(2).transpose(1, 2)
    assert (
        channel_purity(held_out, found.matrix, 5).mean()
        > 0.98
        > 0.7
        > channel_purity(held_out, torch.eye(12), 5).mean()
    )


def vit():
    return timm.create_model("test_vit", num_classes=5, img_size=64).eval()


def convnext():
    return timm.create_model("test_convnext", num_classes=5).eval()


def resnet():
    return timm.create_model("test_resnet", num_classes=5).eval()


NETWORKS = {
    # name: (model, layer, size, kind of readout, whether the inverse is folded, whether evidence has other ways)
    "affine head": (resnet, None, 64, "local", True),
    "norm after pooling": (convnext, None, 64, "frozen", False),
    "class token": (vit, None, 64, "frozen", False),
    "in the middle": (conv_net, "conv1", 16, "frozen", False),
    # of transformers: modules that return objects, and classes that no plugin knows
    "map in an object": (lambda: hf_networks.resnet().eval(), None, 32, "frozen", False),
    "map in an object, norm after pooling": (lambda: hf_networks.convnext().eval(), None, 32, "frozen", False),
    "class token of transformers": (lambda: hf_networks.vit().eval(), None, 32, "frozen", False),
}


@pytest.mark.filterwarnings("ignore:the map at")
@pytest.mark.parametrize("matrix", ["orthogonal", "invertible"])
@pytest.mark.parametrize("name", NETWORKS)
def test_logits_stay_shares_sum_to_the_answer_and_the_map_stays(name, matrix):
    make, layer, size, kind, folded = NETWORKS[name]
    torch.manual_seed(0)
    model, x = make(), images(8, size)
    with untouched(model):
        found = fit_prototypes(model, list(x), layer, matrix=matrix, prototypes=2, rounds=3, steps=10)
        mixed = MixedNetwork(model, found, x)
        logits = mixed(x)
        shares = channel_shares(model, x[:2], Question.why_not(1, 2), found)
    assert not torch.allclose(found.matrix, torch.eye(found.channels), atol=1e-2)
    torch.testing.assert_close(logits, model(x), atol=1e-5, rtol=1e-5)
    assert mixed.folded is folded
    assert shares.kind == kind
    whole = shares.shares.sum(1) + shares.prefix + shares.around + shares.bias
    torch.testing.assert_close(whole, model(x[:2])[:, 1] - model(x[:2])[:, 2], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(shares.contributions.sum((2, 3)), shares.shares, atol=1e-5, rtol=1e-5)
    # the readout's own map, without any mixing
    layer = "head" if name in ("affine head", "norm after pooling") else found.fingerprint["layer"]
    assert name != "class token of transformers" or layer.endswith("layers.1.layernorm_before")
    plain = read_out(model, x[:2], Question.why_not(1, 2), layer)
    contributions = plain.contributions
    if contributions.dim() == 3:
        contributions = contributions[:, plain.feature_space.prefix_tokens :].transpose(1, 2).unflatten(2, found.grid)
    torch.testing.assert_close(shares.contributions.sum(1), contributions.sum(1), atol=1e-5, rtol=1e-4)
    # the mixed map that the network passes on is the one that is split
    seen = []
    mixed.channels.register_forward_hook(lambda module, args, output: seen.append(output))
    mixed(x[:2])
    torch.testing.assert_close(seen[0].to(shares.maps), shares.maps, atol=1e-4, rtol=1e-4)


def test_a_share_is_what_the_logit_loses_without_the_channel():
    torch.manual_seed(0)
    model, x = resnet(), images(6, 64)
    found = fit_prototypes(model, list(x), prototypes=2, rounds=2)
    mixed, shares = MixedNetwork(model, found, x), channel_shares(model, x, 3, found)
    channel = int(shares.strongest(1)[0, 0])

    def without(module, args, output):
        kept = output.clone()
        kept[:, channel] = 0
        return kept

    handle = mixed.channels.register_forward_hook(without)
    fallen = model(x)[:, 3] - mixed(x)[:, 3]
    handle.remove()
    torch.testing.assert_close(fallen, shares.shares[:, channel], atol=1e-5, rtol=1e-4)


def test_signed_and_positive_scores():
    maps, _ = planted()
    model = PooledLinear(12)
    found = fit_prototypes(model, list(maps), "look", rounds=3)
    x = maps[:4]
    shares = channel_shares(model, x, 1, found)
    v = torch.einsum("nchw,kc->nkhw", x, found.matrix).mean((2, 3))
    weights = model.fc.weight[1] @ found.inverse.float()
    torch.testing.assert_close(shares.scores(), weights * v, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(shares.scores(positive_only=True), weights * v.clamp_min(0), atol=1e-5, rtol=1e-4)
    epic = EPICMethod(model, found, internal_batch_size=3)
    torch.testing.assert_close(epic.attribute(x, 1), shares.contributions)
    top = epic.attribute(x, 1, top_k=2)
    assert ((top != 0).any((2, 3)).sum(1) <= 2).all()
    _, scores = epic.channels(x, 1, count=2)
    torch.testing.assert_close(scores, shares.shares.sort(dim=1, descending=True).values[:, :2])
    torch.testing.assert_close(top.sum((1, 2, 3)), scores.sum(1))
    _, delta = epic.attribute(x, 1, return_convergence_delta=True)
    assert delta.abs().max() < 1e-5


def test_prototypes_are_the_images_with_most_of_a_channel_and_boxes_lie_where_it_is():
    maps, _ = planted()
    found = fit_prototypes(PooledLinear(12), list(maps), "look", rounds=3, names=[f"image {i}" for i in range(240)])
    mixed = torch.einsum("nchw,kc->nkhw", maps, found.matrix)
    for sign in (1, -1):
        activations = sign * mixed.sum((2, 3))
        for channel in range(12):
            parts = found.of(channel, sign)
            assert len(parts) == 5
            best = activations[:, channel].sort(descending=True).values
            torch.testing.assert_close(
                torch.tensor([sign * one.activation for one in parts]), best[:5], atol=1e-4, rtol=1e-4
            )
            one = parts[0]
            assert one.name == f"image {one.image}"
            row, column = one.position
            assert sign * mixed[one.image, channel, row, column] == (sign * mixed[one.image, channel]).max()
            assert one.box == (column, row, column + 1, row + 1)  # 4 x 4 cells on 4 x 4 pixels
    with pytest.raises(ValueError, match="no channel 12"):
        found.of(12)
    with pytest.raises(ValueError, match="sign is 0"):
        found.of(0, 0)


def test_a_small_budget_samples_images_and_chooses_prototypes_among_all():
    maps, rotation = planted()
    model = PooledLinear(12)
    one, sums = 4 * 16 * 12, 4 * 240 * 12
    budget = (sums + 100 * one + one // 2) / 2**30
    found = fit_prototypes(model, list(maps), "look", rounds=8, memory=budget)
    assert "random sample of 100" in found.notes[0]
    assert (found.matrix @ rotation).abs().amax(1).min() > 0.99
    activations = torch.einsum("nchw,kc->nk", maps, found.matrix)
    assert (
        activations.gather(0, found.images[0].T).sort(0).values - activations.sort(0).values[-5:]
    ).abs().max() < 1e-4
    mixed = torch.einsum("nchw,kc->nkhw", maps, found.matrix).flatten(2)
    for side, sign in enumerate((1, -1)):
        strongest = (sign * mixed).argmax(2)[found.images[side], torch.arange(12)[:, None]]
        assert torch.equal(found.positions[side], strongest)
    with pytest.raises(ValueError, match=r"holds the maps of 0 of 240 images, and at least 5 are needed; give memory="):
        fit_prototypes(model, list(maps), "look", memory=1e-9)
    assert fit_prototypes(model, list(maps), "look", rounds=1).notes == ()


class Stopped(Exception):
    pass


class StopsAt:
    """Images that end the fit when one is asked for the second time: the first time, they are compared."""

    def __init__(self, whole, at):
        self.whole, self.at, self.asked, self.seen = whole, at, 0, False

    def __len__(self):
        return len(self.whole)

    def __getitem__(self, number):
        self.asked += 1
        if number == self.at and self.seen:
            raise Stopped
        self.seen |= number == self.at
        return self.whole[number]


@pytest.mark.parametrize("solver", ["procrustes", "gradient"])
def test_a_fit_that_was_stopped_goes_on_with_the_same_result(solver, tmp_path, monkeypatch):
    from xai_align.prototypes import fit

    maps, _ = planted(count=60)
    model, whole = PooledLinear(12), list(maps)
    options = {"rounds": 5, "steps": 5, "solver": solver, "internal_batch_size": 10}
    wanted = fit_prototypes(model, whole, "look", **options)
    with pytest.raises(Stopped):  # while features are computed
        fit_prototypes(model, StopsAt(whole, 36), "look", out=tmp_path, **options)
    assert len(list((tmp_path / "features").iterdir())) == 3
    one_round = fit._one_round

    def stops(features, options, state, number):
        if number == 3:
            raise Stopped
        one_round(features, options, state, number)

    monkeypatch.setattr(fit, "_one_round", stops)
    rest = StopsAt(whole, None)
    with pytest.raises(Stopped):  # between two rounds
        fit_prototypes(model, rest, "look", out=tmp_path, **options)
    assert rest.asked == 1 + 60 + 30  # the first, those that are compared, and the three batches that were missing
    monkeypatch.setattr(fit, "_one_round", one_round)
    found = fit_prototypes(model, whole, "look", out=tmp_path, **options)
    assert torch.equal(found.matrix, wanted.matrix)
    assert torch.equal(found.images, wanted.images)
    assert found.history == wanted.history
    assert not (tmp_path / "features").exists()
    nothing = StopsAt(whole, 1)  # a fit that has ended is read again; its images are compared and no more
    assert torch.equal(fit_prototypes(model, nothing, "look", out=tmp_path, **options).matrix, wanted.matrix)
    again = load_prototypes(tmp_path / "prototypes.safetensors")
    assert torch.equal(again.matrix, wanted.matrix)
    assert again.of(3) == wanted.of(3)
    with pytest.raises(ValueError, match=r"another configuration: options \(rounds was 5, is 6"):
        fit_prototypes(model, whole, "look", out=tmp_path, **options | {"rounds": 6})


def test_a_fit_does_not_go_on_with_other_images_of_the_same_names(tmp_path):
    """Another folder, or other values of the same pixels: neither cached features nor an ended fit belong to them."""
    model, first, other = conv_net(), images(30, 16), images(30, 16) * 1.5
    options = {"prototypes": 2, "rounds": 1, "internal_batch_size": 10}
    with pytest.raises(Stopped):
        fit_prototypes(model, StopsAt(first, 21), "conv2", out=tmp_path / "stopped", **options)
    found = fit_prototypes(model, list(other), "conv2", out=tmp_path / "stopped", **options)
    assert torch.equal(found.activations, fit_prototypes(model, list(other), "conv2", **options).activations)
    fit_prototypes(model, list(first), "conv2", out=tmp_path / "ended", **options)
    with pytest.raises(ValueError, match="another configuration: content changed"):
        fit_prototypes(model, list(other), "conv2", out=tmp_path / "ended", **options)


def test_every_image_is_compared(tmp_path):
    model, first = conv_net(), images(30, 16)
    options = {"prototypes": 2, "rounds": 1}
    fit_prototypes(model, list(first), "conv2", out=tmp_path, **options)
    for number in range(30):
        other = first.clone()
        other[number, 0, 0, 0] += 1e-3
        with pytest.raises(ValueError, match="another configuration: content changed"):
            fit_prototypes(model, list(other), "conv2", out=tmp_path, **options)
    with pytest.raises(ValueError, match="another configuration: content changed"):
        fit_prototypes(model, list(first.flip(0)), "conv2", out=tmp_path, **options)


def test_a_layer_with_one_position_is_noted():
    found = fit_prototypes(resnet(), list(images(4, 32)), prototypes=2, rounds=1)
    assert found.grid == (1, 1)
    assert "a single position (1 x 1), so the parts are whole images" in found.notes[0]
    assert found.of(0)[0].box == (0, 0, 32, 32)


def test_prototypes_of_another_network_layer_or_size_are_refused(tmp_path):
    model, x = conv_net(), images(6, 16)
    found = fit_prototypes(model, list(x), "conv2", prototypes=2, rounds=1)
    file = save_prototypes(found, tmp_path / "prototypes.safetensors")
    epic = EPICMethod(model, file)
    torch.testing.assert_close(epic.attribute(x, 1), EPICMethod(model, found).attribute(x, 1))
    with pytest.raises(ValueError, match=r"fitted to images of 16 x 16 pixels, and these have 32 x 32"):
        epic.attribute(images(2, 32), 1)
    with pytest.raises(ValueError, match="fitted to a ConvNet with other weights"):
        EPICMethod(conv_net(seed=1), found).attribute(x, 1)
    model.conv1.weight.data.neg_()  # not counted by PyTorch
    with pytest.raises(ValueError, match="fitted to a ConvNet with other weights"):
        EPICMethod(model, found).attribute(x, 1)
    with pytest.raises(ValueError, match="these prototypes were fitted to layer 'conv2' of a ConvNet"):
        EPICMethod(resnet(), found).attribute(images(2, 64), 1)
    with pytest.raises(ValueError, match="fitted to a ConvNet, and the model is a Wide"):
        EPICMethod(Wide(), found).attribute(x, 1)
    with pytest.raises(FileNotFoundError, match="give the file in this folder"):
        load_prototypes(tmp_path)
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"damaged.*fit them again"):
        load_prototypes(file)


class Wide(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv2, self.fc = nn.Conv2d(3, 9, 3), nn.Linear(9, 2)
        self.eval()

    def forward(self, x):
        return self.fc(self.conv2(x).mean((2, 3)))


@pytest.mark.parametrize(
    ("given", "options", "told"),
    [
        (1, {}, "there is 1 image, and each channel gets 5 prototypes; give more images, or prototypes=1"),
        (4, {}, "there are 4 image"),
        (0, {"prototypes": 1}, "there are 0 image"),
        (6, {"matrix": "unitary"}, "matrix must be 'orthogonal' or 'invertible'"),
        (6, {"matrix": "invertible", "solver": "procrustes"}, "take 'gradient'"),
        (6, {"first": 3, "last": 5}, "the pool of prototypes shrinks"),
        (6, {"memory": 0}, "memory must be a positive number"),
        (6, {"layer": "conv7"}, "layer 'conv7' not found"),
        (6, {"layer": "fc"}, "has no position in an image"),
        (6, {"names": ["a"]}, "1 name for 6 images"),
    ],
    ids=str,
)
def test_what_cannot_be_fitted_is_refused(given, options, told):
    with pytest.raises(ValueError, match=told):
        fit_prototypes(conv_net(), list(images(6, 16)[:given]), **options)


def test_images_that_cannot_be_used_are_named():
    model, x = conv_net(), list(images(6, 16))
    with pytest.raises(ValueError, match="different shapes"):
        fit_prototypes(model, [*x, images(1, 12)[0]], "conv2")
    with pytest.raises(TypeError, match="image 6 is a tensor"):
        fit_prototypes(model, [*x, torch.zeros(3)], "conv2")
    bad = x[2].clone()
    bad[0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"features of image\(s\) \[2\] hold NaN"):
        fit_prototypes(model, [*x[:2], bad, *x[3:]], "conv2")
    with pytest.raises(TypeError, match="fit_prototypes has no option 'epochs'"):
        fit_prototypes(model, x, epochs=3)
    with pytest.raises(ValueError, match="train mode"):
        fit_prototypes(conv_net().train(), x)


def test_one_class_and_the_fewest_images():
    model = conv_net(classes=1)
    x = images(2, 16)
    found = fit_prototypes(model, list(x), prototypes=2, rounds=2)
    shares = channel_shares(model, x, 0, found)
    torch.testing.assert_close(shares.shares.sum(1) + shares.bias, model(x)[:, 0], atol=1e-5, rtol=1e-5)
    assert len(fit_prototypes(model, list(x[:1]), prototypes=1, rounds=1).of(0)) == 1


def test_the_pool_shrinks_to_a_quarter_of_the_images_at_most():
    options = PrototypeOptions(rounds=5)
    assert [options.pool(number, 10_000) for number in range(5)] == [100, 76, 52, 29, 5]
    assert [options.pool(number, 120) for number in range(5)] == [30, 30, 30, 29, 5]
    assert options.pool(0, 8) == 5


@pytest.mark.parametrize("layer", [None, "conv2"])
def test_the_same_weights_with_another_forward_pass_are_another_network(layer, tmp_path):
    net, x = conv_net(), images(4)
    path = save_prototypes(fit_prototypes(net, list(x), layer, prototypes=2, rounds=1), tmp_path / "found.safetensors")
    EPICMethod(net, path).attribute(x, 1)
    net.norm.eps = 10.0  # no parameter, and no buffer
    with pytest.raises(ValueError, match="same weights and other features for a fixed image"):
        EPICMethod(net, path).attribute(x, 1)


def test_prototypes_of_a_file_without_features_are_used(tmp_path):
    net, x = conv_net(), images(4)
    found = fit_prototypes(net, list(x), prototypes=2, rounds=1)
    older = replace(found, fingerprint={name: one for name, one in found.fingerprint.items() if name != "features"})
    path = save_prototypes(older, tmp_path / "older.safetensors")
    assert torch.equal(EPICMethod(net, path).attribute(x, 1), EPICMethod(net, found).attribute(x, 1))


def test_what_is_no_set_of_images_or_prototypes_is_named_as_what_it_is():
    net, x = conv_net(), images(4)
    for given in (iter(x), (one for one in x), None):
        with pytest.raises(TypeError, match=f"the images are {type(given).__name__}; give a sequence"):
            fit_prototypes(net, given, prototypes=2)
    with pytest.raises(TypeError, match="got NoneType"):
        EPICMethod(net, None)
    with pytest.raises(ValueError, match=r"no channel 1\.5"):
        fit_prototypes(net, list(x), prototypes=2, rounds=1).of(1.5)
    with pytest.raises(ValueError, match="has no field 'other'"):
        fit_prototypes(net, list(x), prototypes=2, output="other")


def test_a_loader_s_data_set_and_a_seed_of_any_size_are_taken():
    net, x = conv_net(), images(4)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x), batch_size=2, shuffle=True)
    wanted = fit_prototypes(net, list(x), prototypes=2, rounds=1)
    assert torch.equal(fit_prototypes(net, loader, prototypes=2, rounds=1).matrix, wanted.matrix)
    fit_prototypes(net, list(x), prototypes=2, rounds=2, steps=1, solver="gradient", seed=2**64)


def test_a_retrofitted_network_is_mixed_at_its_own_layer():
    net, x = conv_net(), images(4)
    retrofitted = ExactPiNet(net, feature_space="conv1")
    found = fit_prototypes(retrofitted, list(x), prototypes=2, rounds=1)
    assert found.fingerprint["layer"] == "conv1"
    torch.testing.assert_close(EPICMethod(retrofitted, found).mixed_network(x)(x), net(x))
    torch.testing.assert_close(MixedNetwork(retrofitted, found, x)(x), net(x))


@pytest.mark.parametrize(
    ("network", "said"),
    [(CentresItsBatch, "mixes the examples of a batch"), (AddsNoise, "other logits at a second pass")],
)
def test_no_prototypes_of_a_network_that_mixes_its_batch_or_draws_random_numbers(network, said):
    with pytest.raises(ValueError, match=said):
        fit_prototypes(network().eval(), list(images(4)), prototypes=2, rounds=1)


class UsesOneReLUTwice(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2, self.act = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 8, 3), nn.ReLU()
        self.fc = nn.Linear(8, 3)

    def forward(self, x):
        return self.fc(self.act(self.conv2(self.act(self.conv1(x)))).mean((2, 3)))


def test_a_layer_that_runs_twice_is_refused_before_the_fit():
    torch.manual_seed(0)
    net, x = UsesOneReLUTwice().eval(), images(4)
    with pytest.raises(ValueError, match="layer 'act' runs more than once"):
        fit_prototypes(net, list(x), "act", prototypes=2, rounds=1)
    found = fit_prototypes(net, list(x), "conv1", prototypes=2, rounds=1)
    assert EPICMethod(net, found).attribute(x, target=1).shape == (4, 6, 6, 6)


def test_a_fit_that_diverges_says_so():
    options = {"solver": "gradient", "matrix": "invertible", "learning_rate": 1e30, "prototypes": 2, "rounds": 2}
    with pytest.raises(DivergedError, match=r"give a smaller learning_rate than 1e\+30"):
        fit_prototypes(conv_net(), list(images(4)), **options)


def test_a_matrix_without_an_inverse_is_refused():
    net, x = conv_net(), images(4)
    found = fit_prototypes(net, list(x), prototypes=2, rounds=1)
    singular = replace(found, matrix=torch.zeros_like(found.matrix), kind="invertible")
    with pytest.raises(ValueError, match="has no inverse"):
        EPICMethod(net, singular).attribute(x, target=1)
