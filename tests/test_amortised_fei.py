"""Amortised FEI: a map in one pass that is nearly as good as the search's, of one network and no other."""

from __future__ import annotations

import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from torch import nn
from torch.nn.functional import interpolate

from benchmarks.shared.planted_squares import pictures
from captum_align import AmortisedFEIAttribution
from tests.amortised_networks import planted_images, planted_network, planted_square
from tests.networks import conv_net, images, untouched
from xai_align import Question, explain
from xai_align.align import Masker, save_masker
from xai_align.evaluation import deletion, insertion
from xai_align.fei import (
    AmortisedFEI,
    FEIMethod,
    OtherNetwork,
    ScoreNetwork,
    fit_fei,
    load_explainer,
    save_explainer,
)
from xai_align.fei.starting_map import starting_map
from xai_align.question import as_questions

#: A fit of a second, for tests of everything but the quality.
TINY = {"epochs": 2, "batch_size": 6, "width": 4, "depth": 1}


@pytest.fixture(scope="module")
def planted():
    return planted_network()


@pytest.fixture(scope="module")
def fitted(planted):
    """The fit whose maps are judged: 180 pictures without their labels."""
    return fit_fei(planted, planted_images(200, seed=0), epochs=14, batch_size=16, learning_rate=1e-2, width=8, depth=1)


@pytest.fixture(scope="module")
def tiny(planted):
    return fit_fei(planted, planted_images(12, seed=3), **TINY)


def gain(model, x, maps, target):
    return float((insertion(model, x, maps, target=target) - deletion(model, x, maps, target=target)).mean())


@pytest.mark.filterwarnings("ignore::xai_align.perturbation.TieWarning")
def test_it_has_95_percent_of_the_gain_of_the_search_over_the_readout(planted, fitted):
    found = pictures(16, seed=1)  # none was seen in training
    x, target = found.images, found.labels
    start = starting_map(planted, x, as_questions(target, len(x)), "readout", cells=(28, 28))
    readout = interpolate(start[:, None], x.shape[2:], mode="bilinear").expand_as(x)
    own = gain(planted, x, AmortisedFEI(planted, fitted).attribute(x, target=target), target)
    search = gain(planted, x, FEIMethod(planted).attribute(x, target=target), target)
    base = gain(planted, x, readout, target)
    assert search - base > 0.1  # the last feature map is too coarse for the square
    assert own - base >= 0.95 * (search - base)


def test_it_marks_the_square_of_the_class_that_is_asked_for(planted, fitted):
    """Training asked about the most probable and the second class alone."""
    found = pictures(8, seed=5)
    x = found.images.clone()
    x[:, :, :8, :8] = planted_square(3, len(x))  # a second square, of another class, in the corner
    asked = AmortisedFEI(planted, fitted).attribute(x, target=3).sum(1)
    other = AmortisedFEI(planted, fitted).attribute(x, target=found.labels).sum(1)
    # the readout's cells have 16 pixels: two squares in one look the same to it
    differ = (found.labels != 3) & ~found.masks[:, :16, :16].any(2).any(1)
    assert differ.sum() >= 3
    corner, square = torch.zeros_like(found.masks), found.masks
    corner[:, :8, :8] = True
    for maps, wanted, unwanted in ((asked, corner, square), (other, square, corner)):
        inside, outside = ((maps * mask).sum((1, 2)) / mask.sum((1, 2)) for mask in (wanted, unwanted))
        assert (inside > outside)[differ].all()


def test_an_untrained_network_gives_the_readout(planted):
    x = planted_images(2, seed=2)
    network = ScoreNetwork([6, 6], width=4)
    start = torch.randn(2, 28, 28)
    assert torch.equal(network(x, [torch.randn(2, 6, 32, 32), torch.randn(2, 6, 2, 2)], start), start)


def test_the_fit_is_deterministic_by_its_seed(planted, tiny):
    again = fit_fei(planted, planted_images(12, seed=3), **TINY)
    other = fit_fei(planted, planted_images(12, seed=3), seed=1, **TINY)
    assert same(again, tiny)
    assert not same(other, tiny)


def test_the_random_state_is_the_callers(planted):
    torch.manual_seed(5)
    fit_fei(planted, planted_images(12, seed=3), **TINY)
    drawn = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(3))


def test_the_forms_of_images_are_equal(planted, tiny):
    data = torch.utils.data.TensorDataset(planted_images(12, seed=3), torch.zeros(12))
    loader = torch.utils.data.DataLoader(data, batch_size=5, shuffle=True)
    assert same(fit_fei(planted, data, **TINY), tiny)
    assert same(fit_fei(planted, loader, **TINY), tiny)


def test_a_resumed_fit_is_the_uninterrupted_one(planted, tmp_path):
    options = TINY | {"epochs": 3}
    whole = fit_fei(planted, planted_images(12, seed=3), out=tmp_path / "whole", **options)

    def stop(row):
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_fei(planted, planted_images(12, seed=3), out=tmp_path / "parts", log=stop, **options)
    left = load_explainer(tmp_path / "parts" / "explainer.safetensors")
    assert left.numbers["epochs"] == 1
    again = fit_fei(planted, planted_images(12, seed=3), out=tmp_path / "parts", **options)
    assert again.epochs == 3
    assert "resuming" in " ".join(again.notes)
    assert same(again, whole)
    assert without_seconds(again.history) == without_seconds(whole.history)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("item", [13, 25, 31, 38])
def test_a_killed_fit_leaves_an_explainer(planted, tmp_path, item):
    x = planted_images(12, seed=3)

    class Deadly(torch.utils.data.Dataset):
        left = item

        def __len__(self):
            return len(x)

        def __getitem__(self, number):
            Deadly.left -= 1
            if not Deadly.left:
                os.kill(os.getpid(), signal.SIGKILL)
            return x[number]

    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)
        fit_fei(planted, Deadly(), out=tmp_path, **TINY)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status == -signal.SIGKILL
    file = tmp_path / "explainer.safetensors"
    if file.exists():  # before the first epoch begins there is nothing to leave
        assert AmortisedFEI(planted, file).attribute(x[:1], target=0).isfinite().all()
    else:
        assert item <= 13
    assert same(fit_fei(planted, x, out=tmp_path, **TINY), fit_fei(planted, x, **TINY))


def test_another_run_is_not_resumed(planted, tmp_path):
    fit_fei(planted, planted_images(12, seed=3), out=tmp_path, **TINY)
    with pytest.raises(ValueError, match="another configuration: images"):
        fit_fei(planted, planted_images(12, seed=4), out=tmp_path, **TINY)
    with pytest.raises(ValueError, match="another configuration: network"):
        fit_fei(planted_network(gain=100.0), planted_images(12, seed=3), out=tmp_path, **TINY)


def test_images_with_the_same_predictions_are_not_taken_for_those_of_the_fit(planted, tmp_path):
    x = planted_images(12, seed=3)
    fit_fei(planted, x, out=tmp_path, **TINY)
    other = x.clone()
    other[7, 0, 0, 0] += 1e-4
    assert torch.equal(planted(x).topk(2).indices, planted(other).topk(2).indices)
    with pytest.raises(ValueError, match="another configuration: images"):
        fit_fei(planted, other, out=tmp_path, **TINY)


def test_the_model_is_not_changed(tmp_path):
    model = conv_net()
    with untouched(model):
        fit = fit_fei(model, images(4), epochs=1, batch_size=2, width=4, depth=1)
        AmortisedFEI(model, fit).attribute(images(2), target=1)


def test_an_image_does_not_depend_on_its_batch(planted, tiny):
    x = planted_images(5, seed=7)
    together = AmortisedFEI(planted, tiny).attribute(x, target=[0, 1, 2, 3, 4])
    alone = torch.cat([AmortisedFEI(planted, tiny).attribute(x[i : i + 1], target=i) for i in range(5)])
    assert torch.allclose(together, alone, atol=1e-5)
    parts = AmortisedFEI(planted, tiny, internal_batch_size=2).attribute(x, target=[0, 1, 2, 3, 4])
    assert torch.allclose(together, parts, atol=1e-5)


def test_a_second_call_takes_one_pass():
    """Where the head behind the last feature map is affine; the first call looks for the layers."""
    model, x = timm.create_model("test_resnet").eval(), torch.randn(2, 3, 64, 64)
    passes = []
    model.register_forward_hook(lambda *args: passes.append(1))
    fit = fit_fei(model, x, epochs=1, batch_size=2, width=4, depth=1)
    method = AmortisedFEI(model, fit)
    method.attribute(x, target=1)
    passes.clear()
    method.attribute(x, target=2)
    assert len(passes) == 1


@pytest.mark.parametrize("name", ["test_vit", "test_vit3"])
def test_transformers_are_seen_at_their_tokens(name):
    model, x = timm.create_model(name).eval(), torch.randn(2, 3, 160, 160)
    fit = fit_fei(model, x, epochs=1, batch_size=2, width=4, depth=1)
    assert all(layer.startswith("blocks.") for layer in fit.explainer.fingerprint.layers)
    assert AmortisedFEI(model, fit).attribute(x, target=1).isfinite().all()


def test_maps_are_standardised_and_in_captums_form(planted, tiny):
    x = planted_images(2, seed=7)
    (found,) = AmortisedFEIAttribution(planted, tiny).attribute((x,), target=Question.why_not(1, 2))
    assert found.shape == x.shape
    assert torch.equal(found[:, 0], found[:, 1])
    maps = found.sum(1)
    assert maps.mean((1, 2)).abs().max() < 0.1
    assert (maps.std((1, 2)) - 1).abs().max() < 0.1


def test_by_name(planted, tiny, tmp_path):
    file = save_explainer(tiny, tmp_path / "one" / "fei.safetensors")
    x = planted_images(2, seed=7)
    found = explain(planted, x, Question.why(2), "fei-amortised", explainer=file)
    assert torch.equal(found.attribution, AmortisedFEI(planted, tiny).attribute(x, target=2))
    assert "centred" in found.note


def test_without_an_explainer_the_error_says_how_to_get_one(planted):
    with pytest.raises(ValueError, match=r"no explainer was given.*fit-fei"):
        explain(planted, planted_images(1, seed=7), 0, "fei-amortised")


# another network than its own


def test_other_parameters_are_refused(planted, tiny):
    with pytest.raises(OtherNetwork, match="same architecture with other values of its parameters"):
        AmortisedFEI(planted_network(gain=100.0), tiny).attribute(planted_images(1, seed=7), target=0)


def test_parameters_that_change_later_are_refused(tiny):
    model, x = planted_network(), planted_images(1, seed=7)
    method = AmortisedFEI(model, tiny)
    method.attribute(x, target=0)
    with torch.no_grad():
        model[7].bias[0] += 1
    with pytest.raises(OtherNetwork, match="other values"):
        method.attribute(x, target=0)


def numpy_of(tensor):
    return tensor.detach().numpy()


#: Changes of ``planted_network`` that PyTorch does not count, each without a trace in another way.
UNCOUNTED = {
    "data": lambda net: net[7].bias.data.add_(1),
    "a sign through data": lambda net: net[7].weight.data.neg_(),
    "two classes exchanged": lambda net: net[7].weight.data.copy_(net[7].weight.data.roll(1, 0)),
    "numpy": lambda net: np.copyto(numpy_of(net[0].bias), 0.1),
    "a detached view": lambda net: net[0].weight.detach().view(-1)[3:4].mul_(1.01),
    "the state's tensors": lambda net: net.state_dict()["3.weight"].mul_(2),
    "a forward method": lambda net: setattr(net[4], "forward", nn.functional.softplus),
    "the network's forward method": lambda net: setattr(net, "forward", lambda x: nn.Sequential.forward(net, -x)),
}


@pytest.mark.parametrize("change", UNCOUNTED.values(), ids=UNCOUNTED)
def test_changes_that_pytorch_does_not_count_are_refused_later_too(tiny, change):
    model, x = planted_network(), planted_images(1, seed=7)
    method = AmortisedFEI(model, tiny)
    method.attribute(x, target=0)
    change(model)
    with pytest.raises(OtherNetwork):
        method.attribute(x, target=0)


def test_what_a_file_cannot_hold_is_refused_before_training(planted):
    for loaded_by in ({"reference": "timm:x"}, {"a": 1}, 5, {"reference": nn.ReLU()}):
        with pytest.raises(ValueError, match="the explainer"):
            fit_fei(planted, planted_images(12, seed=3), loaded_by=loaded_by, log=pytest.fail, **TINY)


@pytest.mark.parametrize("scale", [(0.5, float("nan")), ("a", 1), (None, None), (0.5, 0.0), 5, (0.5,)])
def test_a_normalisation_that_is_none_is_refused(planted, tiny, scale):
    with pytest.raises(ValueError, match="normalization"):
        AmortisedFEI(planted, tiny, normalization=scale)


def test_another_architecture_is_refused(tiny):
    with pytest.raises(OtherNetwork, match=r"fitted to a Sequential whose parameters have other names.*ConvNet"):
        AmortisedFEI(conv_net(), tiny).attribute(planted_images(1, seed=7), target=0)


def test_another_forward_pass_with_the_same_parameters_is_refused(tiny):
    other = planted_network()
    other[4] = nn.Softplus()
    with pytest.raises(OtherNetwork, match="code of its forward pass"):
        AmortisedFEI(other, tiny).attribute(planted_images(1, seed=7), target=0)


def test_other_sizes_and_channels_are_refused(planted, tiny):
    with pytest.raises(OtherNetwork, match="32 x 32 pixels and got 48 x 32"):
        AmortisedFEI(planted, tiny).attribute(torch.rand(1, 3, 48, 32), target=0)
    with pytest.raises(OtherNetwork, match=r"3 channels and got \[1, 1, 32, 32\]"):
        AmortisedFEI(planted, tiny).attribute(torch.rand(1, 1, 32, 32), target=0)


def test_another_normalisation_is_refused(planted):
    half = ((0.5,) * 3, (0.25,) * 3)
    fit = fit_fei(planted, planted_images(4, seed=3), normalization=half, epochs=1, batch_size=4, width=4, depth=1)
    AmortisedFEI(planted, fit, normalization=(0.5, 0.25))
    with pytest.raises(OtherNetwork, match="mean and standard deviation"):
        AmortisedFEI(planted, fit, normalization=((0.5,) * 3, (0.5,) * 3))


def test_other_layers_are_refused(planted, tiny):
    explainer = replace(tiny.explainer, fingerprint=replace(tiny.explainer.fingerprint, layers=("9",)))
    with pytest.raises(OtherNetwork, match="the layers"):
        AmortisedFEI(planted, explainer).attribute(planted_images(1, seed=7), target=0)


# files


def test_a_file_of_another_kind_is_refused(tmp_path, planted):
    masker = save_masker(Masker(width=4, depth=0), tmp_path / "masker.safetensors")
    with pytest.raises(ValueError, match="holds a masker and no amortised explainer"):
        load_explainer(masker)
    fit_fei(planted, planted_images(4, seed=3), out=tmp_path, epochs=1, batch_size=4, width=4, depth=1)
    (*_, checkpoint) = sorted((tmp_path / "checkpoints").glob("*.safetensors"))
    with pytest.raises(ValueError, match="holds a checkpoint of a fit and no amortised explainer"):
        load_explainer(checkpoint)
    with pytest.raises(FileNotFoundError, match=r"give the file in this folder, such as explainer\.safetensors"):
        load_explainer(tmp_path)


def test_a_damaged_file_is_refused(tmp_path, tiny):
    file = save_explainer(tiny, tmp_path / "fei.safetensors")
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(ValueError, match="damaged"):
        load_explainer(file)


def test_a_saved_explainer_is_the_same(tmp_path, planted, tiny):
    x = planted_images(2, seed=7)
    loaded = load_explainer(save_explainer(tiny, tmp_path / "fei.safetensors"))
    assert loaded.fingerprint == tiny.explainer.fingerprint
    assert loaded.numbers == tiny.explainer.numbers
    assert torch.equal(
        AmortisedFEI(planted, loaded).attribute(x, target=2), AmortisedFEI(planted, tiny).attribute(x, target=2)
    )


# bad input


@pytest.mark.parametrize(
    ("given", "options", "error", "message"),
    [
        (torch.rand(4, 3, 32), {}, ValueError, "shape"),
        (torch.full((4, 3, 32, 32), torch.nan), {}, ValueError, "finite"),
        ([torch.rand(3, 32, 32)], {}, TypeError, "the images are list"),
        (torch.rand(4, 3, 32, 32), {"epochs": 0}, ValueError, "epochs"),
        (torch.rand(4, 3, 32, 32), {"widht": 8}, TypeError, "did you mean 'width'"),
        (torch.rand(4, 3, 32, 32), {"width": 6}, ValueError, "multiple of 4"),
        (torch.rand(4, 3, 32, 32), {"fills": ("blurr",)}, ValueError, "did you mean 'blur'"),
        (torch.rand(4, 3, 32, 32), {"patience": 2}, ValueError, "held-out"),
        (torch.rand(4, 3, 32, 32), {"mixed_precision": "fp16"}, ValueError, "bf16"),
        (torch.rand(4, 3, 32, 32), {"validation": torch.rand(4, 3, 16, 16)}, ValueError, "prepare both alike"),
    ],
)
def test_bad_input_is_refused(planted, given, options, error, message):
    with pytest.raises(error, match=message):
        fit_fei(planted, given, **options)


def test_images_of_several_sizes_are_refused(planted):
    class Sizes(torch.utils.data.Dataset):
        def __len__(self):
            return 4

        def __getitem__(self, number):
            return torch.rand(3, 32, 32 + number)

    with pytest.raises(ValueError, match=r"image 1 of the images has shape \[3, 32, 33\]"):
        fit_fei(planted, Sizes(), batch_size=4)


def test_networks_that_it_cannot_explain_are_refused():
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 5)).eval()
    with pytest.raises(ValueError, match=r"Conv2d|grid"):
        fit_fei(flat, torch.rand(4, 3, 8, 8))
    with pytest.raises(ValueError, match=r"train mode|eval"):
        fit_fei(conv_net().train(), torch.rand(4, 3, 32, 32))
    dense = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()
    with pytest.raises(ValueError, match=r"logits \[N, K\]"):
        fit_fei(dense, torch.rand(4, 3, 8, 8))


def test_one_output_is_enough():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 1))
    fit = fit_fei(model.eval(), torch.rand(4, 3, 16, 16), epochs=1, batch_size=2, width=4, depth=1)
    assert AmortisedFEI(model, fit).attribute(torch.rand(2, 3, 16, 16)).isfinite().all()


def same(one, other):
    a, b = one.explainer.network.state_dict(), other.explainer.network.state_dict()
    return all(torch.equal(a[name], b[name]) for name in a)


def without_seconds(history):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in history]
