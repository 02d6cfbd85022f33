"""Ensembles are the mean of their members, and still one sum."""

from __future__ import annotations

import copy

import pytest
import torch
from fit_factory import Squares, small_pinet

from xai_align import Question, read_out
from xai_align.pinet import conv_pinet
from xai_align.pinet.network.ensemble import PiNetEnsemble


def images(count=3):
    return Squares(count).images


def members(count=3, **options):
    made = []
    for seed in range(count):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            one = conv_pinet(**{"num_classes": 2, "width": 4, "depth": 2, **options}).eval()
            with torch.no_grad():
                for p in one.head.aggregator.parameters():
                    p.add_(torch.randn_like(p) / 4)  # scales and biases of their own
        made.append(one)
    return made


def remainder(look):
    """The relative difference between the logits and the sum of all terms, in float64."""
    total = look.contributions.double().flatten(2).sum(2) + look.bias.double()
    size = look.contributions.double().abs().flatten(2).sum(2) + look.bias.double().abs()
    return float(((total - look.logits.double()).abs() / size).max())


@torch.no_grad()
def test_the_logits_are_the_mean_and_the_coefficients_the_mean_of_scaled_ones():
    several, x = members(), images()
    ensemble = PiNetEnsemble(several)
    look, looks = ensemble.explain(x), [one.explain(x) for one in several]
    assert torch.equal(look.logits, torch.stack([one.logits for one in looks]).mean(0))
    assert torch.equal(ensemble(x), look.logits)
    wanted = sum(one.scale[:, None, None, None] * one.coefficients for one in looks) / 3
    assert torch.allclose(look.coefficients, wanted, rtol=1e-6)
    assert look.scale.tolist() == [1, 1]
    assert torch.equal(look.z, looks[0].z)  # all of them look at the pixels
    assert torch.allclose(look.bias, sum(one.bias for one in looks) / 3)


@pytest.mark.parametrize("z", ["pixels", "ones", "features", "evidence"])
@torch.no_grad()
def test_it_is_exactly_pseudo_linear_whatever_the_members_look_at(z):
    """Learned features differ from member to member; they stand side by side then."""
    ensemble, x = PiNetEnsemble(members(z=z, decoder="fpn")), images()
    look = ensemble.explain(x)
    assert remainder(look) < 1e-5
    assert look.maps.shape[:2] == (3, 2)
    parts = torch.stack([one.explain(x).maps for one in ensemble.members]).mean(0)
    assert torch.allclose(look.maps, parts, atol=1e-6)


@torch.no_grad()
def test_an_ensemble_of_one_is_its_member():
    (one,) = members(1)
    look, own = PiNetEnsemble([one]).explain(images()), one.explain(images())
    assert torch.equal(look.logits, own.logits)
    assert torch.allclose(look.maps, own.maps)


def test_it_is_read_out_like_any_other_model():
    ensemble, x = PiNetEnsemble(members()), images()
    readout = read_out(ensemble, x, Question.why_not(1, 0))
    with torch.no_grad():
        logits = ensemble(x)
    assert torch.allclose(readout.answer, logits[:, 1] - logits[:, 0], atol=1e-6)
    assert float(readout.relative_error.max()) < 1e-5


def test_modes_copies_and_weights_go_through():
    several = members()
    ensemble = PiNetEnsemble(several)
    assert not ensemble.training
    assert ensemble.members[0] is several[0]
    twin = copy.deepcopy(ensemble)
    twin.load_state_dict(ensemble.state_dict())
    with torch.no_grad():
        assert torch.equal(twin(images()), ensemble(images()))
    assert all(one.training for one in ensemble.train().members)


def test_what_cannot_be_averaged_is_refused():
    with pytest.raises(ValueError, match="at least one member"):
        PiNetEnsemble([])
    with pytest.raises(ValueError, match=r"the members have \[1, 2\] classes"):
        PiNetEnsemble([small_pinet(), *members(1)])
    sizes = [conv_pinet(1, width=4, depth=2, decoder="fpn", z="ones", size=size).eval() for size in (4, 8)]
    with pytest.raises(ValueError, match=r"sizes \[\(4, 4\), \(8, 8\)\]"):
        PiNetEnsemble(sizes).explain(images())
