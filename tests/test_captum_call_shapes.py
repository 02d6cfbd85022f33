"""Captum's calls of its main methods work on the readout's classes, with the same meaning, or are refused in words."""

from __future__ import annotations

import functools
import warnings

import numpy as np
import pytest
import torch
from captum.attr import DeepLift, FeatureAblation, InputXGradient, IntegratedGradients, NoiseTunnel, Saliency
from torch import nn

import captum_align
from captum_align import LayerPiNetAttribution, PiNetAttribution
from xai_align import Question, read_out
from xai_align.testing import TinyNetwork, fixed_images
from xai_align.testing.networks import OneAnswer

BOTH = [PiNetAttribution, functools.partial(LayerPiNetAttribution, layer="second")]


class Simple(TinyNetwork):
    """It takes images alone."""

    def forward(self, images):
        return super().forward(images)


@pytest.fixture
def model():
    return Simple()


@pytest.fixture
def images():
    return fixed_images()


@pytest.fixture
def black(images):
    return fixed_images(seed=21)


def close(a, b, tolerance=1e-5):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance, check_dtype=False)


def answers(model, x, target):
    with torch.no_grad():
        return model(x)[torch.arange(len(x)), torch.as_tensor(target).expand(len(x))]


def sums(attributions, bias):
    return attributions.flatten(1).sum(1) + bias


@pytest.mark.parametrize("make", BOTH)
@pytest.mark.parametrize("target", [1, [1, 3, 0], torch.tensor([1, 3, 0])])
def test_with_a_baseline_attributions_and_bias_are_the_difference_of_the_answers(model, images, black, make, target):
    method = make(model)
    a, delta, bias = method.attribute(images, black, target, return_convergence_delta=True, return_bias=True)
    close(sums(a, bias), answers(model, images, target) - answers(model, black, target))
    assert float(delta.abs().max()) < 1e-5
    for x, sign in ((images, 1), (black, -1)):
        b, own = method.attribute(x, target=target, return_bias=True)
        a, bias = a - sign * b, bias - sign * own
    close(a, torch.zeros_like(a))
    close(bias, torch.zeros_like(bias))


def test_the_gates_of_both_differ_so_the_difference_of_the_biases_is_a_term_of_its_own(model, images, black):
    a, bias = PiNetAttribution(model, "input").attribute(images, black, 1, return_bias=True)
    found = [read_out(model, x, 1, "input").bias for x in (images, black)]
    close(bias, found[0] - found[1])
    assert float(bias.abs().min()) > 1e-3
    close(sums(a, bias), answers(model, images, 1) - answers(model, black, 1))


@pytest.mark.parametrize("make", BOTH)
def test_without_a_baseline_attributions_and_bias_are_the_answer(model, images, make):
    a, bias = make(model).attribute(images, target=2, return_bias=True)
    close(sums(a, bias), answers(model, images, 2))


#: Ways of saying "class 1, compared with these"; ``b`` is a tensor like the images.
WITH_BASELINE = {
    "IntegratedGradients": lambda m, x, b: m.attribute(x, b, 1),
    "DeepLift": lambda m, x, b: m.attribute(x, b, 1, None, False),
    "by name": lambda m, x, b: m.attribute(inputs=x, baselines=b, target=1),
    "target by name": lambda m, x, b: m.attribute(x, b, target=1),
    "baselines by name": lambda m, x, b: m.attribute(x, 1, baselines=b),
    "tuples": lambda m, x, b: m.attribute((x,), (b,), 1),
    "with steps": lambda m, x, b: m.attribute(x, b, 1, None, 50, "gausslegendre"),
    "with batches": lambda m, x, b: m.attribute(x, b, 1, None, 50, "gausslegendre", 2),
    "one target each": lambda m, x, b: m.attribute(x, b, torch.tensor([1, 1, 1])),
    "a list of targets": lambda m, x, b: m.attribute(x, b, [1, 1, 1]),
    "a question": lambda m, x, b: m.attribute(x, b, Question.why(1)),
}


@pytest.mark.filterwarnings("ignore:.*no effect")
@pytest.mark.parametrize("make", BOTH)
@pytest.mark.parametrize("call", WITH_BASELINE)
def test_every_way_of_giving_a_baseline_is_the_same(model, images, black, make, call):
    found = WITH_BASELINE[call](make(model), images, black)
    found = found[0] if isinstance(found, tuple) else found
    close(found, make(model).attribute(images, target=1) - make(model).attribute(black, target=1))


@pytest.mark.parametrize("make", BOTH)
@pytest.mark.parametrize(
    ("form", "value"),
    [
        (0, 0.0),
        (0.5, 0.5),
        (np.float32(0.5), 0.5),
        (np.array(0.5), 0.5),
        (torch.zeros(1, 3, 8, 10), 0.0),
        (np.full((3, 3, 8, 10), 0.5, dtype=np.float32), 0.5),
        ((0.5,), 0.5),
    ],
    ids=str,
)
def test_every_form_of_a_baseline(model, images, make, form, value):
    expected = make(model).attribute(images, target=1) - make(model).attribute(torch.full_like(images, value), target=1)
    close(make(model).attribute(images, form, 1), expected)
    close(make(model).attribute(images, baselines=form, target=1), expected)


def test_zero_and_one_are_a_baseline_and_a_class_as_for_integrated_gradients(model, images):
    """For a piecewise linear network without bias, Integrated Gradients from zero has the readout's sum."""
    close(
        PiNetAttribution(model).attribute(images, 0, 1),
        PiNetAttribution(model).attribute(images, baselines=0, target=1),
    )
    linear = nn.Sequential(nn.Flatten(), nn.Linear(240, 3)).eval()
    theirs = IntegratedGradients(linear).attribute(images, 0, 1).float()
    close(PiNetAttribution(linear).attribute(images, 0, 1), theirs.detach(), 1e-4)
    close(
        PiNetAttribution(linear).attribute(images, 1, 2), IntegratedGradients(linear).attribute(images, 1, 2).detach()
    )


def test_two_numbers_of_which_the_second_could_be_an_argument_of_the_model_are_told_of(images):
    model = TinyNetwork()  # takes a second batch and a scale
    with pytest.warns(UserWarning, match="the baseline is 0 and the target is 1"):
        found = PiNetAttribution(model).attribute(images, 0, 1)
    close(found, PiNetAttribution(model).attribute(images, baselines=0, target=1))


WITHOUT_BASELINE = {
    "Saliency": lambda m, x, e: m.attribute(x, 1, additional_forward_args=e),
    "Saliency abs": lambda m, x, e: m.attribute(x, target=1, abs=False, additional_forward_args=e),
    "InputXGradient": lambda m, x, e: m.attribute(x, 1, e),
    "None for the baseline": lambda m, x, e: m.attribute(x, None, 1, e),
    "list": lambda m, x, e: m.attribute(x, [1, 1, 1], e),
    "tensor": lambda m, x, e: m.attribute(x, torch.tensor([1, 1, 1]), e),
    "question": lambda m, x, e: m.attribute(x, Question.why(1), e),
    "ablation": lambda m, x, e: m.attribute(x, target=1, additional_forward_args=e, perturbations_per_eval=8),
}


@pytest.mark.filterwarnings("ignore:.*no effect")
@pytest.mark.parametrize("make", BOTH)
@pytest.mark.parametrize("call", WITHOUT_BASELINE)
def test_every_way_without_a_baseline_is_the_same(images, make, call):
    extra = (fixed_images(seed=9), 2.0)
    expected = make(TinyNetwork()).attribute(images, target=1, additional_forward_args=extra)
    close(WITHOUT_BASELINE[call](make(TinyNetwork()), images, extra), expected)


@pytest.mark.parametrize("make", BOTH)
def test_options_of_approximations_are_ignored_with_one_warning(model, images, make):
    method = make(model)
    with pytest.warns(UserWarning, match="n_steps, method: no effect") as caught:
        found = method.attribute(images, target=1, n_steps=20, method="riemann_trapezoid")
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        close(method.attribute(images, target=1, n_steps=50), found)


@pytest.mark.parametrize("make", BOTH)
@pytest.mark.parametrize(
    ("named", "said"),
    [
        ({"abs": True}, r"take \.abs\(\) of the result"),
        ({"feature_mask": torch.zeros(1)}, "sum the attributions over each feature"),
        ({"sliding_window_shapes": (3, 2, 2)}, "nothing is occluded"),
        ({"stdevs": 0.1}, "NoiseTunnel"),
        ({"n_step": 5}, "has no option 'n_step'"),
        ({"baseline": 0}, "did you mean 'baselines'"),
    ],
)
def test_what_would_have_another_meaning_is_refused_in_words(model, images, make, named, said):
    with pytest.raises(TypeError, match=said):
        make(model).attribute(images, target=1, **named)


@pytest.mark.parametrize("make", BOTH)
@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ((lambda: "black", 1), TypeError, "a number, or a tensor or array"),
        ((lambda: torch.zeros(0, 3, 8, 10), 1), ValueError, "without an example"),
        ((torch.zeros(3, 3, 8, 9), 1), ValueError, r"the baseline has shape \[3, 3, 8, 9\]"),
        (((torch.zeros(3, 3, 8, 10), 0.0), 1), ValueError, "2 baselines for 1 inputs"),
        ((1, True), TypeError, "give options, such as those of Captum's Saliency"),
        ((0, 1, None, torch.ones(1)), TypeError, "a Tensor is in the position of IntegratedGradients' n_steps"),
        ((0.0, 3, 0.1, 1), TypeError, "0.1 is in the position of additional_forward_args"),
        ((1, None, False), TypeError, "False is in the position of internal_batch_size"),
        ((0.5,), AssertionError, "type float"),
        ((torch.zeros(3, 3, 8, 10),), AssertionError, "no target was given"),
    ],
)
def test_a_wrong_baseline_is_refused_in_words(model, images, make, given, error, said):
    with pytest.raises(error, match=said):
        make(model).attribute(images, *given)


def test_an_argument_given_twice_is_refused(model, images):
    with pytest.raises(TypeError, match="two values for 'target', by position and by name"):
        PiNetAttribution(model).attribute(images, 0, 1, target=1)


def test_a_number_for_a_model_with_one_output_is_told_to_be_a_target():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 1)).eval()
    with pytest.warns(UserWarning, match="0 was taken for the target"):
        PiNetAttribution(model).attribute(torch.ones(2, 4), 0)


@pytest.mark.parametrize("make", BOTH)
def test_baselines_that_are_not_finite_are_named(model, images, make):
    part = 0 * images
    part[1, 0, 0, 0] = torch.inf
    for baselines in (float("nan"), part, np.array(np.inf), lambda: part[:2]):
        with pytest.raises(ValueError, match="the baselines hold NaN or infinity"):
            make(model).attribute(images, baselines=baselines, target=1)


@pytest.mark.parametrize("make", BOTH)
def test_the_delta_of_captums_call_compares_with_the_baseline(model, images, black, make):
    method = make(model)
    a, bias = method.attribute(images, black, [1, 3, 0], return_bias=True)
    shift = torch.tensor([2.0, -3.0, 0.5])
    moved = a + (shift / a[0].numel()).reshape(-1, 1, 1, 1)
    for call in (
        lambda a: method.compute_convergence_delta(a, black, images, target=[1, 3, 0]),
        lambda a: method.compute_convergence_delta(a, black, images, [1, 3, 0]),
        lambda a: method.compute_convergence_delta(a, start_point=black, end_point=images, target=[1, 3, 0]),
        lambda a: method.compute_convergence_delta((a,), (black,), (images,), target=[1, 3, 0]),
        lambda a: method.compute_convergence_delta(a, inputs=images, baselines=black, target=[1, 3, 0]),
    ):
        close(call(a), torch.zeros(3), 1e-4)
        close(call(moved), shift, 1e-4)
    # what the docs say of Captum's own delta, which has no bias in its sum
    captums = IntegratedGradients(model).compute_convergence_delta
    if make is PiNetAttribution:
        close(captums(a, black, images, target=[1, 3, 0]), -bias, 1e-4)


@pytest.mark.parametrize("make", BOTH)
def test_the_delta_of_attributions_of_other_examples_is_refused(model, images, black, make):
    method = make(model)
    a = method.attribute(images, black, [1, 3, 0])
    others = images[:1].expand(5, -1, -1, -1)
    for number, call in (
        (5, lambda: method.compute_convergence_delta(a, others, target=1)),  # a distribution of baselines alone
        (5, lambda: method.compute_convergence_delta(a, black, others, target=1)),
        (1, lambda: method.compute_convergence_delta((a,), inputs=(images[:1],), target=1)),
    ):
        with pytest.raises(ValueError, match=f"attributions of 3 examples for inputs of {number}"):
            call()
    assert method.compute_convergence_delta(a, others, images, target=[1, 3, 0]).shape == (3,)


@pytest.mark.parametrize("make", BOTH)
def test_the_delta_of_attributions_of_another_shape_or_type_is_refused(model, images, make):
    method = make(model)
    a = method.attribute(images, target=1)
    # three channels of one example, as many as there are examples
    one = a[0][:3]
    for wrong in (one, a.sum(1), a.sum(1, keepdim=True), (a, a)):
        with pytest.raises(ValueError, match=r"attributions of shape .* have \[3, .*; give what attribute returned"):
            method.compute_convergence_delta(wrong, images, 1)
    for wrong, found in ((a.numpy(), "ndarray"), (None, "NoneType"), ([a], "list"), ((a, None), "NoneType")):
        with pytest.raises(TypeError, match=rf"attributions are a tensor \[N, ...\] .*got .*{found}"):
            method.compute_convergence_delta(wrong, images, 1)
        with pytest.raises(TypeError, match=rf"inputs are a tensor \[N, ...\] .*got .*{found}"):
            method.compute_convergence_delta(a, inputs=wrong, target=1)
    close(method.compute_convergence_delta(a, images, 1), torch.zeros(3), 1e-4)


def test_the_delta_with_inputs_that_have_no_attributions():
    class Embedded(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.linear = nn.Embedding(5, 4), nn.Linear(4, 3)

        def forward(self, x, index):
            return self.linear(x * self.table(index))

    given = (torch.rand(2, 4), torch.tensor([1, 2]))
    method = PiNetAttribution(Embedded().eval(), "input")
    close(method.compute_convergence_delta(method.attribute(given, target=1), given, target=1), torch.zeros(2), 1e-5)


@pytest.mark.parametrize("make", BOTH)
def test_forward_of_a_module_with_hooks_is_refused_because_it_does_not_run_them(images, make):
    hooked = nn.Sequential(nn.Flatten(), nn.Linear(images[0].numel(), 4), nn.Identity()).eval()
    for register, hook in (
        (hooked.register_forward_hook, lambda module, given, output: 3 * output),
        (hooked.register_forward_pre_hook, lambda module, given: (2 * given[0],)),
    ):
        handle = register(hook)
        with pytest.raises(ValueError, match="the forward of Sequential, a module with forward hooks"):
            make(hooked.forward).attribute(images, target=1)
        handle.remove()
    hooked.register_forward_hook(lambda module, given, output: 3 * output)
    a, bias = PiNetAttribution(hooked.__call__, "input").attribute(images, target=1, return_bias=True)
    close(a.flatten(1).sum(1) + bias, hooked(images)[:, 1])


FUNCTIONS = {
    "forward": lambda model: model.forward,
    "call": lambda model: model.__call__,
    "lambda": lambda model: lambda x: model(x),
    "partial": lambda model: functools.partial(lambda net, x: net(x), model),
    "keyword": lambda model: functools.partial(lambda x, net: net(x), net=model),
}


@pytest.mark.parametrize("form", FUNCTIONS)
@pytest.mark.parametrize("cls", [PiNetAttribution, LayerPiNetAttribution])
@pytest.mark.parametrize("layer", ["input", "second", None])
def test_a_function_that_calls_a_network_is_explained_as_the_network(model, images, form, cls, layer):
    function = FUNCTIONS[form](model)
    close(cls(function, layer).attribute(images, target=1), cls(model, layer).attribute(images, target=1))
    assert not model._forward_hooks
    assert not model.second._forward_hooks
    assert cls(function, layer).forward_func is function


def test_a_function_may_compute_on_what_a_network_gives(model, images):
    def function(x):
        return 2 * model(x)[:, 1]

    a, bias = PiNetAttribution(function).attribute(images, return_bias=True)
    close(sums(a, bias), function(images).detach())
    layer = LayerPiNetAttribution(function, model.second)  # the module itself, as in Captum
    close(layer.attribute(images), 2 * LayerPiNetAttribution(model, "second").attribute(images, target=1))


GLOBAL = Simple()


def test_a_function_may_name_its_network_as_a_global(images):
    close(
        LayerPiNetAttribution(lambda x: GLOBAL(x), GLOBAL.second).attribute(images, target=1),
        LayerPiNetAttribution(GLOBAL, "second").attribute(images, target=1),
    )


def test_a_function_of_a_network_in_train_mode_is_refused(model, images):
    model.train()
    with pytest.raises(ValueError, match="train mode"):
        PiNetAttribution(lambda x: model(x)).attribute(images, target=1)


def test_what_is_no_function_is_refused(images):
    with pytest.raises(TypeError, match=r"a torch\.nn\.Module or a function of the inputs, got int"):
        PiNetAttribution(3).attribute(images, target=1)


def test_a_function_through_a_noise_tunnel(model, images):
    with torch.random.fork_rng():
        still = NoiseTunnel(PiNetAttribution(model.forward)).attribute(
            images, target=1, baselines=torch.zeros_like(images), stdevs=0.0
        )
    close(still, PiNetAttribution(model).attribute(images, 0, 1))


def test_one_layer_gives_a_tensor_and_a_list_one_result_each():
    model, x = TinyNetwork(), fixed_images()
    pair = (x, fixed_images(seed=9))
    single = LayerPiNetAttribution(model, "second").attribute(pair, target=1)
    assert isinstance(single, torch.Tensor)
    several, deltas, biases = LayerPiNetAttribution(model, ["norm", model.second]).attribute(
        pair, target=1, return_convergence_delta=True, return_bias=True
    )
    assert isinstance(several, list)
    close(several[1], single)
    for a, bias in zip(several, biases, strict=True):
        close(sums(a, bias), model(*pair)[:, 1].detach())
    assert len(deltas) == 2
    one = LayerPiNetAttribution(model, ["second"]).attribute(pair, target=1)
    assert isinstance(one, list)
    assert len(one) == 1
    with pytest.raises(ValueError, match="its own sum"):
        LayerPiNetAttribution(model, ["norm", "second"]).compute_convergence_delta(several, x, target=1)


def test_weights_make_the_mixture_of_a_list(model, images):
    apart = LayerPiNetAttribution(model, ["norm", "second"]).attribute(images, target=1)
    mixed = LayerPiNetAttribution(model, ["norm", "second"], weights=[0.25, 0.75]).attribute(images, target=1)
    for one, other, weight in zip(apart, mixed, (0.25, 0.75), strict=True):
        close(weight * one, other)


class Signal(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.pool, self.late = nn.Conv1d(2, 6, 3, padding=1), nn.MaxPool1d(4), nn.Conv1d(6, 16, 1)
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        return self.head(self.late(self.pool(self.conv(x).relu())).relu().mean(2))


class Sequence(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(8, 12)
        self.block = nn.TransformerEncoderLayer(12, 3, 24, dropout=0.0, batch_first=True)
        self.head = nn.Linear(12, 3)

    def forward(self, x):
        return self.head(self.block(self.embed(x)).mean(1))


class Volume(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.pool = nn.Conv3d(1, 4, 3, padding=1), nn.MaxPool3d((1, 2, 2))
        self.last = nn.Conv3d(4, 6, 1)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        z = self.last(self.pool(self.conv(x).relu())).relu()
        return self.head(z.mean((2, 3, 4)))


#: Networks, inputs, layers, and the axes of the input along which positions lie.
OTHERS = [
    (Signal, (2, 2, 32), ["conv", "pool", "late"], (2,)),
    (Sequence, (2, 20, 8), ["embed", "block"], (1,)),
    (Volume, (2, 1, 4, 8, 12), ["conv", "pool", "last"], (2, 3, 4)),
]
CASES = [(make, shape, layer, axes) for make, shape, layers, axes in OTHERS for layer in layers]


@pytest.mark.parametrize(("make", "shape", "layer", "axes"), CASES, ids=lambda one: str(getattr(one, "__name__", one)))
def test_layers_of_networks_on_signals_and_volumes(make, shape, layer, axes):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, x = make().eval(), torch.randn(shape)
    a, bias = PiNetAttribution(model, layer).attribute(x, target=1, return_bias=True)
    own = LayerPiNetAttribution(model, layer).attribute(x, target=1)
    assert a.shape == x.shape
    close(sums(a, bias), model(x)[:, 1].detach())
    close(a.flatten(1).sum(1), own.flatten(1).sum(1))
    # each cell lies on the positions it covers: sums over halves of each axis agree with those of the layer
    for axis in axes:
        z_axis = axis if own.dim() == a.dim() and make is not Sequence else 1
        halves = [one.narrow(at, 0, one.shape[at] // 2).flatten(1).sum(1) for one, at in ((a, axis), (own, z_axis))]
        close(*halves)


def test_features_without_positions_are_refused_at_a_layer():
    model, x = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)).eval(), torch.ones(3, 4)
    with pytest.raises(ValueError, match="has no position in inputs of shape"):
        PiNetAttribution(model, "1").attribute(x, target=0)
    assert LayerPiNetAttribution(model, "1").attribute(x, target=0).shape == (3, 6)


@pytest.mark.parametrize("make", BOTH)
def test_futures_are_not_implemented_as_in_captums_methods(model, images, make):
    with pytest.raises(NotImplementedError, match="attribute_future is not implemented"):
        Saliency(model).attribute_future()
    with pytest.raises(NotImplementedError, match="attribute_future is not implemented"):
        make(model).attribute_future(images)


def test_the_same_script_runs_with_each_of_captums_classes(model, images):
    """Captum's own classes take the calls above that are theirs; ours takes all of them."""
    zero = torch.zeros_like(images)
    for cls in (IntegratedGradients, DeepLift, FeatureAblation, PiNetAttribution):
        assert cls(model).attribute(images, zero, 1).shape == images.shape
    for cls in (Saliency, InputXGradient, PiNetAttribution):
        assert cls(model).attribute(images.clone().requires_grad_(), 1).shape == images.shape


@pytest.mark.parametrize("make", BOTH)
@pytest.mark.parametrize("as_function", [False, True])
def test_a_distribution_of_baselines_is_compared_with_its_mean(model, images, make, as_function):
    drawn = fixed_images(seed=4)[:2]
    if as_function:  # then as many as inputs are a distribution too
        drawn = fixed_images(seed=5)
    targets = [1, 3, 0]
    a, delta, bias = make(model).attribute(
        images, (lambda: drawn) if as_function else drawn, targets, return_convergence_delta=True, return_bias=True
    )
    with torch.no_grad():
        mean = model(drawn)[:, targets].mean(0)
    close(sums(a, bias), answers(model, images, targets) - mean)
    assert float(delta.abs().max()) < 1e-5
    one_by_one = [make(model).attribute(images, one[None], targets) for one in drawn]
    close(a, torch.stack(one_by_one).mean(0))


def test_a_distribution_as_an_array_and_a_function_of_the_inputs(model, images):
    drawn = fixed_images(seed=4)[:2]
    expected = PiNetAttribution(model).attribute(images, drawn, 1)
    for form in (drawn.numpy(), (drawn,), lambda x: drawn + 0 * x[:1]):
        close(PiNetAttribution(model).attribute(images, baselines=form, target=1), expected)


def test_of_a_distribution_for_two_inputs_each_draw_is_a_pair():
    model, x, second = TinyNetwork(), fixed_images(), fixed_images(seed=1)
    one, two = fixed_images(seed=4)[:2], fixed_images(seed=6)[:2]
    found = PiNetAttribution(model).attribute((x, second), (one, two), 1)
    pairs = [PiNetAttribution(model).attribute((x, second), (one[[i]], two[[i]]), 1) for i in range(2)]
    for number, part in enumerate(found):
        close(part, (pairs[0][number] + pairs[1][number]) / 2)
    with pytest.raises(ValueError, match=r"as many examples for each input.*got \[2, 4\]"):
        PiNetAttribution(model).attribute((x, second), (one, two.repeat(2, 1, 1, 1)), 1)


@pytest.mark.parametrize("shape", [(3,), ()])
def test_without_multiplication_by_inputs_attributions_are_coefficients(shape):
    """A network of ReLUs is linear around an input, where its coefficients are the gradient."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(240, 12), nn.ReLU(), nn.Linear(12, 5)).eval()
    images = fixed_images()
    images[:, :, :2] = 0  # a coefficient is there where the input is zero
    target = [1, 3, 0] if shape else 2
    gradient = Saliency(model).attribute(images.clone().requires_grad_(), target, abs=False)
    method = PiNetAttribution(model, multiply_by_inputs=False)
    assert not method.multiplies_by_inputs
    found, delta, bias = method.attribute(images, target=target, return_convergence_delta=True, return_bias=True)
    close(found, gradient)
    assert float(found[:, :, :2].abs().min()) > 0
    close(sums(found * images, bias), answers(model, images, target))
    assert float(delta.abs().max()) < 1e-5
    close(method.attribute(images, target=target, internal_batch_size=2), gradient)
    (alone,) = method.attribute((images,), target=target)
    close(alone, gradient)


def test_coefficients_of_a_layer_times_its_output_are_its_contributions(model, images):
    kept = []
    handle = model.second.register_forward_hook(lambda module, args, z: kept.append(z.detach()))
    model(images)
    handle.remove()
    coefficients = LayerPiNetAttribution(model, "second", multiply_by_inputs=False)
    contributions = LayerPiNetAttribution(model, "second")
    close(coefficients.attribute(images, target=1) * kept[0], contributions.attribute(images, target=1))
    first, second = LayerPiNetAttribution(model, ["first", "second"], multiply_by_inputs=False).attribute(images, 1)
    close(second, coefficients.attribute(images, target=1))
    close(first * 0, LayerPiNetAttribution(model, "first").attribute(images, target=1) * 0)


def test_coefficients_without_a_meaning_are_refused_in_words(model, images):
    with pytest.raises(TypeError, match="take LayerPiNetAttribution"):
        PiNetAttribution(model, "second", multiply_by_inputs=False)
    with pytest.raises(TypeError, match="no common z"):
        LayerPiNetAttribution(model, ["first", "second"], multiply_by_inputs=False, weights=[0.5, 0.5])
    for method in (
        PiNetAttribution(model, multiply_by_inputs=False),
        LayerPiNetAttribution(model, "second", multiply_by_inputs=False),
    ):
        with pytest.raises(TypeError, match="those of a baseline have other gates"):
            method.attribute(images, 0, 1)
        with pytest.raises(ValueError, match="before they are multiplied by the inputs"):
            method.compute_convergence_delta(images, images, target=1)
    for cls in (PiNetAttribution, LayerPiNetAttribution):
        assert cls(model, "second", multiply_by_inputs=True).multiplies_by_inputs
        with pytest.raises(TypeError, match="the second argument is the layer"):
            cls(model, True)


class TwoArguments(nn.Module):
    def forward(self, a, b):
        return 2 * a + b


class WithJoin(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right, self.join = nn.Linear(4, 6), nn.Linear(4, 6), TwoArguments()
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.join(self.left(x).relu(), self.right(x)).relu())


def test_the_input_of_a_layer_is_the_output_of_the_one_before():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(96, 5)).eval()
    images = fixed_images()
    for layer in ("2", model[2]):
        method = LayerPiNetAttribution(model, layer)
        a, bias = method.attribute(images, target=1, attribute_to_layer_input=True, return_bias=True)
        close(a, LayerPiNetAttribution(model, "1").attribute(images, target=1))
        close(sums(a, bias), answers(model, images, 1))
    found = LayerPiNetAttribution(model, ["2", "4"]).attribute(images, target=1, attribute_to_layer_input=True)
    assert [list(one.shape) for one in found] == [[3, 4, 6, 8], [3, 96]]
    assert not any(module._forward_pre_hooks for module in model.modules())
    close(
        LayerPiNetAttribution(lambda x: model(x), "2").attribute(images, 0, 1, attribute_to_layer_input=True),
        LayerPiNetAttribution(model, "1").attribute(images, 0, 1),
    )


def test_the_input_of_a_layer_may_be_several_tensors():
    model, x = WithJoin().eval(), torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    method = LayerPiNetAttribution(model, model.join)
    (left, right), bias = method.attribute(x, target=1, attribute_to_layer_input=True, return_bias=True)
    close(left.sum(1) + right.sum(1) + bias, answers(model, x, 1))
    close(left + right, method.attribute(x, target=1))


def test_what_has_no_input_of_a_layer_is_refused_in_words(model, images):
    for layer in ("input", None):
        with pytest.raises(TypeError, match="attribute_to_layer_input needs a layer"):
            LayerPiNetAttribution(model, layer).attribute(images, target=1, attribute_to_layer_input=True)
    with pytest.raises(ValueError, match="not a module of this model"):
        LayerPiNetAttribution(model, nn.ReLU()).attribute(images, target=1, attribute_to_layer_input=True)
    with pytest.raises(TypeError, match="use LayerPiNetAttribution"):
        PiNetAttribution(model).attribute(images, target=1, attribute_to_layer_input=True)


def test_one_answer_needs_no_target():
    model, images = TinyNetwork(OneAnswer()), fixed_images()
    a, bias = PiNetAttribution(model).attribute(images, 0.0 * images, return_bias=True)
    close(sums(a, bias), (model(images) - model(0 * images)).detach())
    close(read_out(model, images).answer, model(images).detach())


@pytest.mark.parametrize("name", ["FEIAttribution", "ALIGNAttribution", "ClippedGradientAttribution"])
def test_no_class_has_futures(name):
    cls = getattr(captum_align, name)
    with pytest.raises(NotImplementedError, match=f"attribute_future is not implemented for {name}"):
        cls(None if name.startswith("ALIGN") else Simple()).attribute_future(fixed_images())
