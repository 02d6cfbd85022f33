"""A mask with Captum's call and by name: shapes, targets that make no difference, and no trace."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from captum.attr import Attribution
from torch import nn

from captum_align import ALIGNAttribution, ClassAgnosticWarning
from tests.networks import conv_net, images, untouched
from xai_align import Question, explain, plugins
from xai_align.align import AlignTrainer, Masker
from xai_align.align.masker_file import save_masker
from xai_align.question import TargetError, ask
from xai_align.testing import check_attribution, conformance_checks
from xai_align.testing.networks import fixed_numbers

#: The masker looks at no class and takes one tensor; that a target is out of range it can't know.
CLASS_AGNOSTIC = {
    "several_inputs",
    "further_arguments",
    "targets",
    "wrong_target",
    "no_trace_after_error",
    "inputs_after_error",
}


def masker(seed: int = 0, width: int = 8) -> Masker:
    """With weights that make masks of all sorts."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = Masker(3, width=width)
    with torch.no_grad():
        for number, parameter in enumerate(made.parameters()):
            parameter.add_(0.3 * fixed_numbers(*parameter.shape, seed=number).to(parameter))
    return made.eval()


class MaskOfNetwork(nn.Module):
    """A masker made of the network that a check watches."""

    def __init__(self, network):
        super().__init__()
        self.network = network
        self.training = False

    def forward(self, x):
        self.network(x)  # so that what it does shows
        return torch.sigmoid(self.network.first(x).mean(1, keepdim=True))


@pytest.mark.parametrize(
    "build", [lambda network: ALIGNAttribution(MaskOfNetwork(network)), lambda network: ALIGNAttribution(masker())]
)
def test_conventions(build):
    outcomes = check_attribution(build, require=["numpy_targets", "detached"], skip=CLASS_AGNOSTIC - {"numpy_targets"})
    assert {one.check for one in outcomes if one.status == "passed"} == set(conformance_checks()) - CLASS_AGNOSTIC


def test_it_is_captums_kind():
    method = ALIGNAttribution(masker())
    assert isinstance(method, Attribution)
    assert method.get_name() == "ALIGN"
    assert method.has_convergence_delta() is False
    assert method.multiplies_by_inputs is False


def test_the_channels_share_the_mask_and_a_tuple_gives_a_tuple():
    module, x = masker(), images(3, 12)
    with torch.no_grad():
        expected = module(x)
    attributions, masks = ALIGNAttribution(module).attribute(x, return_masks=True)
    assert attributions.shape == x.shape
    assert torch.equal(masks, expected)
    torch.testing.assert_close(attributions.sum(1), expected[:, 0])
    assert torch.equal(attributions[:, 0], attributions[:, 2])
    assert masks.flatten(1).std(1).min() > 0
    (in_tuple,) = ALIGNAttribution(module).attribute((x,))
    assert torch.equal(in_tuple, attributions)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_it_answers_in_the_inputs_dtype_whatever_the_maskers(dtype):
    x = images(2, 12)
    single = ALIGNAttribution(masker()).attribute(x)
    answers = ALIGNAttribution(masker()).attribute(x.to(dtype), return_masks=True)
    assert [one.dtype for one in answers] == [dtype, dtype]
    torch.testing.assert_close(ALIGNAttribution(masker().double()).attribute(x), single, rtol=1e-4, atol=1e-5)


def test_a_target_makes_no_difference_and_that_is_said_once():
    x, method = images(2), ALIGNAttribution(masker())
    plain = method.attribute(x)
    with pytest.warns(ClassAgnosticWarning, match="same for every class"):
        assert torch.equal(method.attribute(x, target=1), plain)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for target in ([1, 3], torch.tensor([1, 3]), np.array([0, 2]), Question.why_not(1, 0), 99):
            assert torch.equal(method.attribute(x, target=target), plain)
        assert torch.equal(method.attribute(x, additional_forward_args=(3,)), plain)


@pytest.mark.filterwarnings("ignore::captum_align.ClassAgnosticWarning")
def test_what_is_no_target_is_refused():
    method, x = ALIGNAttribution(masker()), images(3)
    for wrong in (1.5, [0, 1], True, "cat"):
        with pytest.raises(TargetError):
            method.attribute(x, target=wrong)


@pytest.mark.parametrize("size", [1, 2, 7])
def test_the_size_of_the_pieces_changes_nothing(size):
    x = images(5, 12)
    whole = ALIGNAttribution(masker()).attribute(x)
    torch.testing.assert_close(ALIGNAttribution(masker(), internal_batch_size=size).attribute(x), whole)
    torch.testing.assert_close(ALIGNAttribution(masker()).attribute(x, internal_batch_size=size), whole)
    with pytest.raises(ValueError, match="internal_batch_size must be a positive integer, got 0"):
        ALIGNAttribution(masker()).attribute(x, internal_batch_size=0)


class Fails(nn.Module):
    """With dropout that trains and a norm that doesn't; fails on demand."""

    def __init__(self, error=None):
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv2d(3, 1, 1), nn.BatchNorm2d(1), nn.Dropout(0.5)
        self.norm.eval()
        self.error = error

    def forward(self, x):
        assert not self.drop.training
        if self.error:
            raise self.error
        return self.drop(torch.sigmoid(self.norm(self.conv(x))))


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_nothing_of_the_callers_changes(mode):
    module = Fails()
    with mode():
        x = images()
        given = x.clone()
        with untouched(module):
            first = ALIGNAttribution(module).attribute(x)
            assert torch.equal(ALIGNAttribution(module).attribute(x), first)  # no dropout
    assert torch.equal(x, given)
    assert not first.requires_grad


@pytest.mark.parametrize("error", [RuntimeError("no"), KeyboardInterrupt()])
def test_modes_come_back_after_an_error(error):
    module = Fails(error)
    with untouched(module), pytest.raises(type(error)):
        ALIGNAttribution(module).attribute(images())


def test_where_a_masker_comes_from(tmp_path):
    module, x = masker(), images(2, 12)
    expected = ALIGNAttribution(module).attribute(x)
    trainer = AlignTrainer(conv_net(), module)
    file = save_masker(module, tmp_path / "masker.safetensors")
    for given in (trainer, file, str(file)):
        assert torch.equal(ALIGNAttribution(given).attribute(x), expected)
        assert torch.equal(ALIGNAttribution(None).attribute(x, masker=given), expected)
    other = ALIGNAttribution(masker(seed=1)).attribute(x)
    assert not torch.allclose(other, expected, atol=1e-3)
    assert torch.equal(ALIGNAttribution(module).attribute(x, masker=masker(seed=1)), other)
    for none_yet in (AlignTrainer(conv_net()), AlignTrainer(conv_net(), recipe="erm")):
        with pytest.raises(ValueError, match="AlignTrainer has no masker: it is made by the first batch"):
            ALIGNAttribution(none_yet)
    with pytest.raises(TypeError, match=r"a masker is a torch\.nn\.Module, the path of a saved one.*got int"):
        ALIGNAttribution(3)
    with pytest.raises(ValueError, match=r"no masker was given: ALIGNAttribution\(masker\)"):
        ALIGNAttribution(None).attribute(x)
    with pytest.raises(FileNotFoundError, match="no masker's file 'nowhere"):
        ALIGNAttribution("nowhere.safetensors")


def test_what_is_not_fit_is_refused():
    method, x = ALIGNAttribution(masker()), images()
    refused = [
        (r"the images must have the shape \[N, C, H, W\] .* got \[2, 2\]", torch.ones(2, 2)),
        ("got torch.uint8", torch.zeros(1, 3, 8, 8, dtype=torch.uint8)),
        ("got list", [1, 2]),
        ("NaN", torch.full((1, 3, 8, 8), torch.nan)),
        ("2 inputs were given; a mask covers one tensor", (x, x)),
    ]
    for message, given in refused:
        with pytest.raises((TypeError, ValueError), match=message):
            method.attribute(given)
    no_maskers = [
        (conv_net(), r"ConvNet gave \[2, 5\] for images"),
        (nn.Conv2d(3, 1, 1), r"Conv2d gave values outside \[0, 1\], or NaN"),
    ]
    for module, message in no_maskers:
        with untouched(module), pytest.raises(ValueError, match=message):
            ALIGNAttribution(module).attribute(10 * x)
    broken = masker()
    with torch.no_grad():
        next(broken.parameters()).fill_(torch.nan)
    with pytest.raises(ValueError, match="or NaN"):
        ALIGNAttribution(broken).attribute(x)


@pytest.mark.filterwarnings("ignore::captum_align.ClassAgnosticWarning")
def test_by_name(tmp_path):
    model, x = conv_net(), images()
    file = save_masker(masker(), tmp_path / "masker.safetensors")
    expected = ALIGNAttribution(masker()).attribute(x)
    with untouched(model):
        for given in (masker(), file, str(file)):
            found = explain(model, x, [Question.why_not(1, 0), Question.why(3)], "align", masker=given)
            assert torch.equal(found.attribution, expected)
    built = plugins.attribution_method("align").build(model, masker=file)
    assert torch.equal(built.attribute(x, target=1), expected)
    with pytest.raises(ValueError, match=r"explain\(\.\.\., method='align', masker=FILE\)"):
        explain(model, x, 1, "align")
    with pytest.raises(ValueError, match="takes no layer"):
        explain(model, x, 1, "align", layer="conv2", masker=file)


def test_a_model_that_brings_its_masker_needs_no_other(tmp_path):
    model, x = conv_net(), images()
    model.align_masker = str(save_masker(masker(), tmp_path / "masker.safetensors"))
    expected = ALIGNAttribution(masker()).attribute(x)
    asked, _ = ask(nn.DataParallel(model), 1, 2)
    for one in (model, asked, nn.DataParallel(model)):
        assert torch.equal(plugins.attribution_method("align").build(one).attribute(x), expected)
