"""The conformance check passes what keeps the conventions and names what each broken class breaks."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import captum.attr
import numpy as np
import pytest
import torch
from captum._utils.common import _format_output, _format_tensor_into_tuples, _is_tuple, _run_forward
from captum.attr import Attribution
from captum.log import log_usage
from torch import nn

from captum_align import PiNetAttribution
from xai_align.question import captum_target
from xai_align.testing import (
    ConformanceError,
    TinyNetwork,
    check_attribution,
    conformance_checks,
    fixed_images,
)
from xai_align.testing.networks import Failing
from xai_align.testing.traces import differences, snapshot, snapshot_of_inputs

OPTIONAL = ("numpy_targets", "detached", "inputs_after_error")


def only(*names):
    """What to skip so that only these checks are run."""
    return set(conformance_checks()) - set(names)


def kept(outcomes):
    return {one.check for one in outcomes if one.status == "passed"}


class Kept(Attribution):
    """Gradient times input; each broken class below overrides the one step in which it is wrong."""

    @log_usage()
    def attribute(self, inputs, target=None, additional_forward_args=None):
        given = _format_tensor_into_tuples(inputs)
        maps = self.maps(given, self.target(target), additional_forward_args)
        return self.output(_is_tuple(inputs), maps)

    def target(self, target):
        return captum_target(target)

    def maps(self, given, target, extra):
        with torch.enable_grad():
            leaves = tuple(x.detach().clone().requires_grad_() for x in given)
            answer = self.answer(leaves, target, extra)
            grads = torch.autograd.grad(answer.sum(), leaves)
        return tuple(x.detach() * grad for x, grad in zip(leaves, grads, strict=True))

    def answer(self, leaves, target, extra):
        return _run_forward(self.forward_func, leaves, target, extra)

    def output(self, is_tuple, maps):
        return _format_output(is_tuple, maps)


class Coarse(Kept):
    def output(self, is_tuple, maps):
        return super().output(is_tuple, tuple(one.sum(1, keepdim=True) for one in maps))


class Nothing(Kept):
    def output(self, is_tuple, maps):
        return super().output(is_tuple, tuple(torch.zeros_like(one) for one in maps))


class NotANumber(Kept):
    def output(self, is_tuple, maps):
        return super().output(is_tuple, tuple(one / 0 for one in maps))


class NeverATuple(Kept):
    def output(self, is_tuple, maps):
        return maps[0]


class FirstInputOnly(Kept):
    def output(self, is_tuple, maps):
        return super().output(is_tuple, maps[:1])


class WithoutFurtherArguments(Kept):
    def answer(self, leaves, target, extra):
        return super().answer(leaves, target, None)


class AlwaysClassZero(Kept):
    def target(self, target):
        return None if target is None else (0, 0) if isinstance(target, tuple) and len(target) == 2 else 0


class IntegersOnly(Kept):
    def target(self, target):
        assert target is None or isinstance(target, int)
        return target


class CaptumTargets(Kept):
    def target(self, target):
        return target


class ForgivingTarget(Kept):
    def target(self, target):
        return 1 if target == 99 else target


class OtherErrorForTarget(Kept):
    def answer(self, leaves, target, extra):
        try:
            return super().answer(leaves, target, extra)
        except (AssertionError, IndexError) as error:
            raise KeyError("target") from error


class BatchNormalised(Kept):
    def output(self, is_tuple, maps):
        return super().output(is_tuple, tuple(one / one.abs().max() for one in maps))


class Noisy(Kept):
    def output(self, is_tuple, maps):
        with torch.random.fork_rng():
            return super().output(is_tuple, tuple(one + torch.rand_like(one) for one in maps))


class NeedsGradMode(Kept):
    def maps(self, given, target, extra):
        leaves = tuple(x.detach().clone().requires_grad_() for x in given)
        return torch.autograd.grad(self.answer(leaves, target, extra).sum(), leaves)


class SinglePrecision(Kept):
    def output(self, is_tuple, maps):
        return super().output(is_tuple, tuple(one.float() for one in maps))


class OtherDevice(Kept):
    def output(self, is_tuple, maps):
        return super().output(is_tuple, tuple(one.to("meta") for one in maps))


class KeepsGraph(Kept):
    def output(self, is_tuple, maps):
        return super().output(is_tuple, tuple(one.requires_grad_() for one in maps))


class ParameterGradients(Kept):
    def maps(self, given, target, extra):
        with torch.enable_grad():
            self.answer(given, target, extra).sum().backward()
        return super().maps(given, target, extra)


class LeavesHook(Kept):
    def answer(self, leaves, target, extra):
        self.forward_func.head.register_forward_hook(lambda module, inputs, output: None)
        return super().answer(leaves, target, extra)


class AllInEval(Kept):
    def answer(self, leaves, target, extra):
        self.forward_func.eval()
        return super().answer(leaves, target, extra)


class Unfreezes(Kept):
    def answer(self, leaves, target, extra):
        self.forward_func.requires_grad_(True)
        return super().answer(leaves, target, extra)


class InTrainMode(Kept):
    def answer(self, leaves, target, extra):
        self.forward_func.norm.train()
        try:
            return super().answer(leaves, target, extra)
        finally:
            self.forward_func.norm.eval()


class ParksOnModule(Kept):
    def answer(self, leaves, target, extra):
        self.forward_func.act.activation = leaves
        return super().answer(leaves, target, extra)


class DrawsGlobally(Kept):
    def answer(self, leaves, target, extra):
        torch.rand(1)
        return super().answer(leaves, target, extra)


class DrawsFromNumpy(Kept):
    def answer(self, leaves, target, extra):
        np.random.rand()
        return super().answer(leaves, target, extra)


class WritesIntoInputs(Kept):
    def maps(self, given, target, extra):
        maps = super().maps(given, target, extra)
        given[0].mul_(2)
        return maps


class HookUnlessAllGoesWell(Kept):
    def answer(self, leaves, target, extra):
        handle = self.forward_func.head.register_forward_hook(lambda module, inputs, output: None)
        answer = super().answer(leaves, target, extra)
        handle.remove()
        return answer


class InputFlagUnlessAllGoesWell(Kept):
    def maps(self, given, target, extra):
        for x in given:
            x.requires_grad_()
        maps = super().maps(given, target, extra)
        for x in given:
            x.requires_grad_(False)
        return maps


class NoCaptumClass:
    def __init__(self, model):
        self.inside = Kept(model)

    def attribute(self, *args, **kwargs):
        return self.inside.attribute(*args, **kwargs)


class PromisesDelta(Kept):
    def has_convergence_delta(self):
        return True


class OnlyOwnBatchSize(Kept):
    """As a method that keeps something for each example of the batch it saw first."""

    def maps(self, given, target, extra):
        if len(given[0]) > 3:
            raise RuntimeError("another batch size")
        return super().maps(given, target, extra)


class TensorsOnly(Kept):
    @log_usage()
    def attribute(self, inputs, target=None, additional_forward_args=None):
        assert isinstance(inputs, torch.Tensor)
        return super().attribute(inputs, target, additional_forward_args)


#: Every check, and classes that it must not let through.
BROKEN = [
    ("shape", Coarse),
    ("shape", Nothing),
    ("shape", NotANumber),
    ("tuples", NeverATuple),
    ("tuples", TensorsOnly),
    ("several_inputs", FirstInputOnly),
    ("further_arguments", WithoutFurtherArguments),
    ("targets", AlwaysClassZero),
    ("targets", IntegersOnly),
    ("numpy_targets", CaptumTargets),
    ("wrong_target", ForgivingTarget),
    ("wrong_target", OtherErrorForTarget),
    ("batch_mates", BatchNormalised),
    ("determinism", Noisy),
    ("without_grad", NeedsGradMode),
    ("dtype", SinglePrecision),
    ("device", OtherDevice),
    ("detached", KeepsGraph),
    ("no_trace", ParameterGradients),
    ("no_trace", LeavesHook),
    ("no_trace", AllInEval),
    ("no_trace", Unfreezes),
    ("no_trace", InTrainMode),
    ("no_trace", ParksOnModule),
    ("no_trace", DrawsGlobally),
    ("no_trace", DrawsFromNumpy),
    ("no_trace", WritesIntoInputs),
    ("no_trace_after_error", HookUnlessAllGoesWell),
    ("inputs_after_error", InputFlagUnlessAllGoesWell),
    ("captum_face", NoCaptumClass),
    ("convergence_delta", PromisesDelta),
    ("noise_tunnel", OnlyOwnBatchSize),
    ("sensitivity_max", TensorsOnly),
    ("infidelity", Coarse),
]


def test_a_class_that_keeps_everything_passes_everything():
    assert kept(check_attribution(Kept, require=OPTIONAL)) == set(conformance_checks())


@pytest.mark.parametrize(("check", "cls"), BROKEN, ids=lambda value: getattr(value, "__name__", value))
def test_each_check_catches_the_class_that_breaks_it(check, cls):
    with pytest.raises(ConformanceError) as caught:
        check_attribution(cls, require=OPTIONAL, skip=only(check))
    assert caught.value.check == check
    said = str(caught.value)
    assert f"{cls.__name__} fails the check '{check}'" in said
    assert "Found: " in said
    assert "To do: " in said


def test_no_check_is_without_a_class_that_breaks_it():
    assert {check for check, _ in BROKEN} == set(conformance_checks())


@pytest.mark.parametrize("cls", list(dict.fromkeys(cls for _, cls in BROKEN)), ids=lambda cls: cls.__name__)
def test_no_broken_class_passes_the_whole(cls):
    with pytest.raises(ConformanceError):
        check_attribution(cls, require=OPTIONAL)


def test_what_was_left_behind_is_named():
    said = {
        LeavesHook: "hooks on module 'head' changed (_forward_hooks: 0 to 1)",
        ParameterGradients: ".grad of parameter 'head.bias' changed",
        AllInEval: "train/eval mode of module 'pool' changed (True to False)",
        Unfreezes: "requires_grad of parameter 'first.bias' changed (False to True)",
        InTrainMode: "values of buffer 'norm.running_mean' changed",
        ParksOnModule: "attributes of module 'act' changed (more: ['activation'], fewer: [])",
        DrawsGlobally: "random state of torch changed",
        DrawsFromNumpy: "random state of numpy changed",
        WritesIntoInputs: "values of input 0 changed",
    }
    for cls, words in said.items():
        with pytest.raises(ConformanceError) as caught:
            check_attribution(cls, skip=only("no_trace"))
        assert words in str(caught.value), cls


def test_optional_checks_are_reported_and_fail_only_where_required():
    outcomes = {one.check: one for one in check_attribution(CaptumTargets)}
    assert outcomes["numpy_targets"].status == "not kept"
    assert "numpy.int64" in outcomes["numpy_targets"].found
    with pytest.raises(ConformanceError, match="fails the check 'numpy_targets'"):
        check_attribution(CaptumTargets, require=["numpy_targets"])


def test_skipped_checks_are_reported_and_unknown_ones_refused():
    outcomes = check_attribution(FirstInputOnly, skip=["several_inputs"])
    assert [one.check for one in outcomes if one.status == "skipped"] == ["several_inputs"]
    with pytest.raises(ValueError, match="skip names 'several_input', no check; did you mean 'several_inputs'"):
        check_attribution(Kept, skip=["several_input"])


def test_options_and_a_build_of_ones_own_reach_the_class():
    seen = []

    class Optioned(Kept):
        @log_usage()
        def attribute(self, inputs, target=None, additional_forward_args=None, steps=1):
            seen.append(steps)
            return super().attribute(inputs, target, additional_forward_args)

    check_attribution("mine", build=lambda model: Optioned(model), options={"steps": 7})
    assert set(seen) == {7}


def test_checking_leaves_the_kept_random_state():
    torch.manual_seed(3)
    np.random.seed(3)
    before = snapshot(nn.Identity())
    check_attribution(Kept)
    assert differences(before, snapshot(nn.Identity())) == []


def test_every_check_has_a_line_that_tells_what_it_is():
    for name, line in conformance_checks().items():
        assert 20 < len(line) < 110, name
        assert "\n" not in line
    assert [name for name, line in conformance_checks().items() if line.endswith("[optional]")] == list(OPTIONAL)


def test_the_tiny_network_and_its_images_are_the_same_every_time():
    torch.manual_seed(0)
    first = TinyNetwork()(fixed_images())
    torch.manual_seed(1)
    assert torch.equal(first, TinyNetwork()(fixed_images()))
    with pytest.raises(RuntimeError, match="always fails"):
        TinyNetwork(Failing())(fixed_images())


def test_a_snapshot_sees_what_is_gone():
    network = TinyNetwork()
    before = snapshot(network)
    del network.norm.running_mean
    assert "values of buffer 'norm.running_mean' is gone" in differences(before, snapshot(network))
    images = fixed_images()
    before = snapshot_of_inputs((images,))
    images.requires_grad_()
    found = differences(before, snapshot_of_inputs((images,)))
    assert found == ["requires_grad of input 0 changed (False to True)"]


def test_pinet_keeps_every_convention():
    assert kept(check_attribution(PiNetAttribution, require=OPTIONAL)) == set(conformance_checks())


@pytest.mark.parametrize(
    ("name", "not_kept"),
    [
        ("Saliency", {"numpy_targets", "inputs_after_error"}),
        ("InputXGradient", {"numpy_targets", "detached", "inputs_after_error"}),
        ("IntegratedGradients", {"numpy_targets"}),
        ("FeatureAblation", {"numpy_targets"}),
        ("GuidedBackprop", {"numpy_targets", "inputs_after_error"}),
    ],
)
def test_captums_own_methods_pass(name, not_kept):
    shorter = {"IntegratedGradients": {"n_steps": 10}, "FeatureAblation": {"perturbations_per_eval": 80}}
    outcomes = check_attribution(getattr(captum.attr, name), options=shorter.get(name))
    assert {one.check for one in outcomes if one.status != "passed"} <= not_kept  # a later Captum may keep more


def test_a_trace_that_captums_deep_lift_leaves_after_an_error_is_found():
    with pytest.raises(ConformanceError, match="no_trace_after_error") as caught:
        check_attribution(captum.attr.DeepLift)
    assert "attributes of module 'act' changed (more: ['input', 'output']" in str(caught.value)


def test_the_example_plugin_keeps_every_convention_but_the_optional_ones(monkeypatch):
    source = Path(__file__).parent.parent / "examples" / "plugin" / "src"
    monkeypatch.syspath_prepend(str(source))
    centred_gradient = importlib.import_module("xai_align_example.centred_gradient")
    try:
        outcomes = check_attribution(centred_gradient.CentredGradient)
    finally:
        for name in [name for name in sys.modules if name.startswith("xai_align_example")]:
            del sys.modules[name]
    assert {one.check for one in outcomes if one.status != "passed"} <= {"numpy_targets"}
