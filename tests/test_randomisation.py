"""Random weights, layer by layer: who is random when, and that the model stays what it was."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from xai_align.evaluation.controls import CentreGaussianAttribution
from xai_align.evaluation.randomisation import STREAM, parameter_randomisation
from xai_align.testing import TinyNetwork, fixed_images
from xai_align.testing.networks import fixed_numbers
from xai_align.testing.traces import differences, snapshot, snapshot_of_inputs

#: TinyNetwork's layers with parameters, as they are defined.
LAYERS = ("first", "norm", "second", "head")


def gradient(model, inputs, target):
    inputs.requires_grad_()
    return torch.autograd.grad(model(inputs)[:, target].sum(), inputs)[0]


def bump(model, inputs, target):
    return CentreGaussianAttribution(model).attribute(inputs)


class Watched:
    """An ``attribute`` that keeps which layers of the copies it was given are not as in ``model``."""

    def __init__(self, model):
        self.original = {name: value.clone() for name, value in model.state_dict().items()}
        self.model = model
        self.changed = []

    def __call__(self, model, inputs, target):
        assert model is not self.model
        changed = {n.split(".")[0] for n, v in model.state_dict().items() if not torch.equal(v, self.original[n])}
        self.changed.append(changed)
        return gradient(model, inputs, target)


def test_cascading_makes_one_layer_after_the_other_random_from_the_top():
    model = TinyNetwork()
    watched = Watched(model)
    result = parameter_randomisation(model, fixed_images(), watched, target=1)
    assert result.stages == LAYERS[::-1]
    assert watched.changed == [set(), {"head"}, {"head", "second"}, {"head", "second", "norm"}, set(LAYERS)]
    assert result.similarity.shape == (4, 3)
    assert result.mean().shape == (3,)


def test_independently_one_layer_at_a_time_is_random():
    model = TinyNetwork()
    watched = Watched(model)
    parameter_randomisation(model, fixed_images(), watched, target=1, order="independent")
    assert watched.changed == [set(), {"head"}, {"second"}, {"norm"}, {"first"}]


def test_layers_can_be_named_and_a_name_covers_what_is_inside():
    body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
    model = nn.Sequential(body, nn.Flatten(), nn.Linear(96, 5)).eval()
    watched = Watched(model)
    result = parameter_randomisation(model, fixed_images(), watched, target=1, layers=["0", "2"])
    assert result.stages == ("0", "2")
    assert watched.changed == [set(), {"0"}, {"0", "2"}]
    with torch.no_grad():
        by_part = []
        parameter_randomisation(
            model,
            fixed_images(),
            lambda m, x, t: (
                by_part.append(
                    [not torch.equal(a, b) for a, b in zip(body.parameters(), m[0].parameters(), strict=True)]
                )
                or x
            ),
            layers=["0"],
        )
    assert by_part == [[False] * 4, [True] * 4]


@pytest.mark.parametrize("layers", [None, ["second", "first"]])
def test_layers_of_a_wrapped_network_have_their_own_names(layers):
    model, x = TinyNetwork(), fixed_images()
    plain = parameter_randomisation(model, x, gradient, target=1, layers=layers)
    found = parameter_randomisation(nn.DataParallel(model).eval(), x, gradient, target=1, layers=layers)
    assert found.stages == plain.stages
    torch.testing.assert_close(found.similarity, plain.similarity)


def test_the_users_model_and_inputs_and_random_state_stay_as_they_were():
    model, images = TinyNetwork(), fixed_images()
    before, given = snapshot(model), snapshot_of_inputs((images,))
    parameter_randomisation(model, images, gradient, target=1)
    assert differences(before, snapshot(model)) + differences(given, snapshot_of_inputs((images,))) == []

    def failing(copy, inputs, target):
        copy.train()
        raise RuntimeError("no map")

    with pytest.raises(RuntimeError, match="no map"):
        parameter_randomisation(model, images, failing, target=1)
    assert differences(before, snapshot(model)) == []


def test_a_map_that_ignores_the_model_stays_and_a_gradient_does_not():
    model, images = TinyNetwork(), fixed_images()
    still = parameter_randomisation(model, images, bump)
    torch.testing.assert_close(still.similarity, torch.ones(4, 3, dtype=torch.float64))
    moved = parameter_randomisation(model, images, gradient, target=1, similarity="pearson")
    assert float(moved.similarity[-1].abs().max()) < 0.8
    assert bool((moved.mean() < still.mean()).all())


def test_the_seed_decides_and_no_image_minds_the_others():
    model, images = TinyNetwork(), fixed_images()
    first = parameter_randomisation(model, images, gradient, target=1).similarity
    torch.manual_seed(7)
    assert torch.equal(first, parameter_randomisation(model, images, gradient, target=1).similarity)
    assert not torch.equal(first, parameter_randomisation(model, images, gradient, target=1, seed=9).similarity)
    alone = parameter_randomisation(model, images[1:2], gradient, target=1).similarity
    torch.testing.assert_close(alone, first[:, 1:2], atol=1e-3, rtol=0)


@pytest.mark.parametrize("seed", [0, 1, 7, 42])
def test_a_network_is_not_given_the_weights_again_that_it_began_with(seed):
    """Users seed their networks, often with 0, which is also the default seed here."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 3)).eval()
    result = parameter_randomisation(model, torch.randn(4, 6), gradient, target=1, seed=seed)
    assert result.stages == ("0",)
    assert float(result.similarity.max()) < 0.99


class WithTokens(nn.Module):
    """Parameters of the module itself beside those of layers inside."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(fixed_numbers(6).float())
        self.ones = nn.Sequential(nn.BatchNorm1d(6))
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.ones(x * self.scale))


def test_parameters_without_an_own_beginning_are_shuffled_alone_and_constants_are_no_stage():
    model = WithTokens().eval()
    seen = []

    def attribute(copy, x, target):
        seen.append((copy.scale.detach(), torch.equal(copy.head.weight, model.head.weight)))
        return gradient(copy, x, target)

    result = parameter_randomisation(model, fixed_numbers(2, 6).float(), attribute, target=1, order="independent")
    assert result.stages == ("head", "WithTokens")  # batch norm begins as it is: ones, zeros
    shuffled, same_head = seen[-1]
    assert same_head
    assert not torch.equal(shuffled, model.scale)
    assert torch.equal(shuffled.sort().values, model.scale.detach().sort().values)


def test_similarities_by_name_or_as_a_function():
    model, images = TinyNetwork(), fixed_images()

    def turned(copy, x, target):  # the map of every copy but the first turns its sign
        turned.calls += 1
        return x if turned.calls == 1 else -x

    for name, expected in (("spearman", -1), ("pearson", -1), ("spearman_abs", 1), (lambda a, b: a[:, 0] * 0 + 5, 5)):
        turned.calls = 0
        values = parameter_randomisation(model, images, turned, similarity=name).similarity
        torch.testing.assert_close(values, torch.full((4, 3), float(expected), dtype=torch.float64))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"layers": ["nowhere"]}, "are not all modules of this model; give a list of names such as first, norm"),
        ({"layers": "head"}, "give a list"),
        ({"layers": []}, "give a list"),
        ({"layers": ["pool"]}, "layer 'pool' stays the same"),
        ({"order": "upwards"}, "order must be 'cascading' or 'independent'"),
        ({"similarity": "ssim"}, "similarity must be 'spearman', 'spearman_abs' or 'pearson'"),
    ],
)
def test_bad_options_are_said(options, said):
    with pytest.raises(ValueError, match=said):
        parameter_randomisation(TinyNetwork(), fixed_images(), gradient, target=1, **options)


def test_bad_maps_and_models_are_said():
    images = fixed_images()
    with pytest.raises(ValueError, match="attribute gave list for 3 inputs"):
        parameter_randomisation(TinyNetwork(), images, lambda m, x, t: [x])
    with pytest.raises(ValueError, match="NaN or infinity"):
        parameter_randomisation(TinyNetwork(), images, lambda m, x, t: x / 0)
    with pytest.raises(ValueError, match="ReLU has no parameters"):
        parameter_randomisation(nn.ReLU(), images, bump)
    with pytest.raises(ValueError, match="no layer of BatchNorm2d is changed"):
        parameter_randomisation(nn.BatchNorm2d(3).eval(), images, bump)


@pytest.mark.parametrize("order", ["cascading", "independent"])
def test_the_similarity_is_scipys_correlation_with_the_maps_of_a_network_that_was_made_afresh(order):
    """Layer by layer from the top, each stage with the seed that follows; the mean is over the stages."""
    model = nn.Sequential(nn.Linear(12, 9), nn.Tanh(), nn.Linear(9, 3)).eval()
    x = fixed_numbers(4, 12).float()
    found = parameter_randomisation(model, x, gradient, target=1, order=order, seed=5)
    expected, other = [], deepcopy(model)
    for stage, layer in enumerate((2, 0)):
        if order == "independent":
            other = deepcopy(model)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(STREAM + 5 + stage)
            other[layer].reset_parameters()
        maps = [gradient(net, x.clone(), 1).numpy() for net in (model, other)]
        expected.append([stats.spearmanr(a, b).statistic for a, b in zip(*maps, strict=True)])
    assert found.stages == ("2", "0")
    np.testing.assert_allclose(found.similarity.numpy(), expected, atol=1e-9)
    np.testing.assert_allclose(found.mean().numpy(), np.mean(expected, 0), atol=1e-9)
    assert np.abs(expected).max() < 0.95
