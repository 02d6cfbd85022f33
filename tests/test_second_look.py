"""A PiNet's prediction is the sum of its terms, whatever it looks at; and it starts sane."""

from __future__ import annotations

import copy
from itertools import product
from typing import get_args

import pytest
import torch
from networks import untouched
from torch import nn

from xai_align.pinet import PiNet, SecondLookHead, Start, conv_pinet
from xai_align.pinet.network.initialisation import Activation
from xai_align.pinet.network.readable_features import ReadableKind, Values
from xai_align.pinet.network.second_look import spread, spread_transposed

EVERY_Z = [z for z in get_args(ReadableKind) if z != "area"]
#: Without evidence under a softmax, which has one gate for all classes.
PAIRS = [pair for pair in product(EVERY_Z, get_args(Activation)) if pair != ("evidence", "softmax")]


class Given(nn.Module):
    """A decoder that answers with the maps it was given; or an encoder, with those features."""

    def __init__(self, *tensors: torch.Tensor) -> None:
        super().__init__()
        self.tensors = tensors

    def forward(self, *anything):
        return list(self.tensors) if len(anything) == 1 else self.tensors[0]


def pictures(count=2, size=16, channels=3, seed=0):
    return torch.rand(count, channels, size, size, generator=torch.Generator().manual_seed(seed))


def pinet(seed=0, noise=0.3, **options):
    """In eval mode, away from its start."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = conv_pinet(**{"num_classes": 4, "in_channels": 3, "width": 4, **options}).eval()
        for parameter in made.head.parameters():
            parameter.data += noise * torch.randn_like(parameter)
    return made


def misses(look):
    """By how much the terms, summed in double precision, miss the logits, of the size of what was summed."""
    terms = look.contributions.double().flatten(2)
    size = terms.abs().sum(2) + look.bias.abs()
    return ((terms.sum(2) + look.bias - look.logits).abs() / size).max().item()


@pytest.mark.parametrize(("z", "activation"), PAIRS)
@pytest.mark.parametrize("decoder", ["conv", "fpn", "pooled"])
def test_the_logits_are_the_sum_of_the_terms(z, activation, decoder):
    model, x = pinet(z=z, activation=activation, decoder=decoder, size=16), pictures()
    with untouched(model), torch.no_grad():
        look = model.explain(x)
        assert torch.equal(model(x), look.logits)
    assert misses(look) < 1e-6
    torch.testing.assert_close(look.maps.sum((2, 3)) + look.bias, look.logits, rtol=1e-4, atol=1e-4)
    assert look.logits.shape == (2, 4)
    assert look.contributions.shape == (2, 4, look.z.shape[2], 16, 16)
    assert look.coefficient_maps.shape == look.maps.shape == (2, 4, 16, 16)
    assert bool((look.scale >= 0).all())


def test_an_answer_worked_by_hand():
    # pi = [[1, -2], [0, 3]], x = 10 times [[1, 2], [3, 4]] + 5, normalised with mean 5 and std 10
    raw = torch.tensor([[[[1.0, -2.0], [0.0, 3.0]]]])
    images = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    head = SecondLookHead(
        [1], 1, decoder=Given(raw), activation="identity", z="pixels", image_channels=1, mean=(5.0,), std=(10.0,)
    )
    with torch.no_grad():
        head.aggregator.unit.fill_(2.0)
        head.aggregator.b.fill_(-3.0)
        head.aggregator.a.fill_(0.25)
    look = head([images], images)
    # s = 2 * (-3)^2 / 4 = 4.5; pi * z = 1 * 15 - 2 * 25 + 3 * 45 = 100
    assert look.scale.tolist() == [4.5]
    assert look.logits.tolist() == [[450.25]]
    assert look.contributions.tolist() == [[[[[67.5, -225.0], [0.0, 607.5]]]]]


def test_black_pixels_count_with_their_inverse():
    raw = torch.tensor([[[[1.0]], [[2.0]]]])  # pi of x and of 1 - x
    options = {"decoder": Given(raw), "activation": "identity", "image_channels": 1, "scale": "one", "bias": "zero"}
    head = SecondLookHead([1], 1, z="pixels_and_inverse", **options)
    for grey, expected in ((0.0, 2.0), (1.0, 1.0), (0.25, 1.75)):
        image = torch.full((1, 1, 1, 1), grey)
        assert head([image], image).logits.item() == expected


def test_a_soft_look_does_not_see_the_values():
    soft, hard = (pinet(second_look=look).head for look in ("soft", "hard"))
    features = pinet().encoder(pictures())
    one, other = pictures(seed=1), pictures(seed=2)
    assert torch.equal(soft(features, one).logits, soft(features, other).logits)
    assert not torch.equal(hard(features, one).logits, hard(features, other).logits)


@pytest.mark.parametrize("size", [None, 4])
def test_areas_of_all_classes_are_the_image(size):
    options = {"activation": "softmax", "second_look": "soft", "scale": "one", "bias": "zero", "size": size}
    model, x = pinet(**options), pictures(size=16)
    look = model.explain(x)
    torch.testing.assert_close(look.logits.sum(1), torch.full((2,), 256.0))
    assert look.maps.shape[-1] == (size or 16)
    assert [name for name, _ in model.head.aggregator.named_parameters()] == []


def test_a_term_is_what_the_logit_loses_with_its_feature():
    """With the coefficients held, as the sum says."""
    model, x = pinet(z="pixels").double(), pictures().double()
    look = model.explain(x)
    blackened = look.z.clone()
    blackened[:, :, 1, 3, 5] = 0
    again = model.head.aggregator(look.coefficients, Values(blackened))
    torch.testing.assert_close(look.logits - again.logits, look.contributions[:, :, 1, 3, 5], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("coefficients", ["per_position", "per_class"])
@pytest.mark.parametrize("size", [16, 7, (5, 9)])
def test_evidence_starts_as_its_classifier(coefficients, size):
    torch.manual_seed(0)
    classifier = nn.Linear(6, 5)
    features = [torch.randn(3, 4, 8, 8), torch.randn(3, 6, 4, 4)]
    head = SecondLookHead([4, 6], 5, z="evidence", classifier=classifier, coefficients=coefficients, size=size).eval()
    look = head(features, pictures(3))
    torch.testing.assert_close(look.logits, classifier(features[-1].mean((2, 3))), rtol=1e-5, atol=1e-5)
    assert misses(look) < 1e-6
    # a gate that looks at something keeps the sum
    head.decoder.last.weight.data.normal_()
    look = head(features, pictures(3))
    assert misses(look) < 1e-6
    assert look.coefficients.std() > 0.01
    with torch.no_grad():
        first_only = torch.eye(5)[[0, 0, 0]]
        torch.testing.assert_close(look.contributions_to(first_only), look.contributions[:, 0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("coarse", "fine"), [((7, 7), (56, 56)), ((3, 4), (10, 9)), ((4, 4), (2, 3))])
def test_spreading_keeps_the_mean_and_has_its_transpose(coarse, fine):
    dice = torch.Generator().manual_seed(0)
    evidence, pi = (torch.randn(2, 3, *size, generator=dice, dtype=torch.float64) for size in (coarse, fine))
    there = spread(evidence, fine)
    torch.testing.assert_close(there.mean((2, 3)), evidence.mean((2, 3)))
    back = spread_transposed(pi, coarse)
    torch.testing.assert_close((pi * there).sum(), (back * evidence).sum())


@pytest.mark.parametrize("z", ["pixels", "evidence", "features"])
def test_an_image_does_not_depend_on_its_mates(z):
    model, x = pinet(z=z), pictures(3)
    with torch.no_grad():
        together, alone = model.explain(x), [model.explain(one[None]) for one in x]
    for name in ("logits", "contributions"):
        apart = torch.cat([getattr(one, name) for one in alone])
        torch.testing.assert_close(getattr(together, name), apart, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("z", ["pixels", "evidence"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types(z, dtype):
    model, x = pinet(z=z).to(dtype), pictures().to(dtype)
    with torch.no_grad():
        look = model.explain(x)
    # the sum is never made in half precision
    assert look.logits.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert misses(look) < 1e-6


@pytest.mark.parametrize("z", ["pixels", "evidence"])
def test_under_autocast_the_sum_is_still_the_logit(z):
    model, x = pinet(z=z), pictures()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        look = model.explain(x)
        assert look.logits.dtype == torch.float32
        assert misses(look) < 1e-6
        one = torch.eye(4)[[1, 1]]
        torch.testing.assert_close(look.contributions_to(one), look.contributions[:, 1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"z": "pixles"}, "z='pixles'; it is one of 'ones'"),
        ({"activation": "relu"}, "one of 'sigmoid'"),
        ({"z": "pixels_and_inverse", "coefficients": "per_class"}, "would not depend on the pixels"),
        ({"z": "pixels", "coefficients": "per_position"}, "the same for all 4 classes"),
        ({"z": "area"}, 'use scale="one"'),
        ({"num_classes": 1, "activation": "softmax"}, "two classes or more"),
        ({"num_classes": 0}, "give 1 for a yes or no"),
        ({"decoder": "pooled"}, r"give size=\(rows, columns\)"),
        ({"decoder": "unet"}, "one of .*fpn.*or a module"),
        ({"mean": (0.1, 0.2)}, "one number or one for each channel"),
        ({"std": (0.0,)}, "std > 0"),
        ({"start": Start(coefficient=1.0)}, "sigmoid gives values between 0 and 1"),
        ({"z": "evidence", "activation": "tanh", "start": Start(coefficient=0.0)}, "only from pi > 0"),
        ({"scale": "cube"}, "scale is one of"),
        ({"z": "evidence", "classifier": nn.Linear(3, 4)}, r"\[4, 8\]"),
    ],
)
def test_choices_that_do_not_go_together(options, message):
    given = {"num_classes": 4, "z": "pixels", **options}
    with pytest.raises(ValueError, match=message):
        SecondLookHead([4, 8], **given)


def test_what_is_no_batch_of_images_is_refused():
    model, x = pinet(z="pixels"), pictures()
    for wrong in (x[0], x.long(), x[:0], [x]):
        with pytest.raises((TypeError, ValueError), match=r"the inputs must .*\[N, C, H, W\]"):
            model.explain(wrong)
    x[1, 0, 3, 3] = float("nan")
    with pytest.raises(ValueError, match=r"example\(s\) 1 hold NaN"):
        model.explain(x)
    with pytest.raises(ValueError, match=r'use z="patch_means"'):
        pinet(z="pixels", size=8).explain(pictures())
    with pytest.raises(ValueError, match="build it with SecondLookHead"):
        PiNet(model.encoder, SecondLookHead([3], 4))
    with pytest.raises(ValueError, match=r"needs raw maps \[2, 4, h, w\]"):
        pinet(decoder="fpn", z="ones").head.__class__([1], 4, decoder=Given(torch.zeros(2, 3, 4, 4)))([x], pictures())


def test_copies_and_compiled_ones_answer_alike():
    model, x = pinet(z="evidence"), pictures()
    with torch.no_grad():
        expected = model(x)
        assert torch.equal(copy.deepcopy(model)(x), expected)
        assert torch.equal(nn.DataParallel(model)(x), expected)
        assert torch.equal(torch.compile(model, backend="eager", fullgraph=True)(x), expected)
