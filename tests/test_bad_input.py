"""Bad input never returns a plausible map: each a clear error, and the model untouched."""

from __future__ import annotations

import copy
import warnings
from functools import partial

import pytest
import timm.layers
import torch
import torchvision
from torch import nn
from transformers.models.swin.modeling_swin import SwinDropPath

from captum_align import PiNetAttribution
from tests.networks import conv_net, images, untouched
from xai_align import Question, read_out
from xai_align.evaluation import deletion, insertion, parameter_randomisation
from xai_align.evaluation.completeness import completeness_error, completeness_error_from_zeros, completeness_gap
from xai_align.evaluation.grid_pointing_game import PictureGrids, grid_pointing_game
from xai_align.plugins import attribution_method
from xai_align.question import TargetError


def spoilt(value: float) -> torch.Tensor:
    x = images(3)
    x[1, 0, 0, 0] = value
    return x


class Constant(nn.Module):
    def __init__(self, output: object) -> None:
        super().__init__()
        self.output = output

    def forward(self, x):
        return self.output(x)


CASES = {
    "wrong rank": (lambda: images()[0], 0, None, ValueError, "expected 4D input"),
    "wrong channels": (lambda: images()[:, :2], 0, None, RuntimeError, "3 channels"),
    "wrong dtype": (lambda: images(dtype=torch.float64), 0, None, ValueError, "float64.*float32.*convert"),
    "whole numbers": (lambda: images().long(), 0, None, TypeError, "floating"),
    "NaN": (lambda: spoilt(float("nan")), 0, None, ValueError, r"example\(s\) \[1\].*NaN"),
    "Inf": (lambda: spoilt(float("inf")), 0, None, ValueError, r"example\(s\) \[1\]"),
    "empty batch": (lambda: images()[:0], 0, None, ValueError, "positive number of examples"),
    "no tensor": (lambda: [1, 2], 0, None, TypeError, "tensors"),
    "class out of range": (images, 5, None, TargetError, r"5 is out of range.*0 … 4"),
    "negative class out of range": (images, -6, None, TargetError, "out of range"),
    "target of the wrong length": (images, [1, 2, 3], None, TargetError, "3 targets for 2 examples"),
    "target missing": (images, None, None, TargetError, "name a class"),
    "target a float": (images, 1.5, None, TargetError, "float"),
    "target a boolean": (images, True, None, TargetError, "boolean"),
    "target a float tensor": (images, torch.tensor([1.0, 2.0]), None, TargetError, "integers"),
    "target with two axes": (images, torch.tensor([[1], [2]]), None, TargetError, "shape"),
    "target with too many parts": (images, (1, 2), None, TargetError, "2 parts"),
    "layer missing": (
        images,
        0,
        "blocks.12",
        ValueError,
        r"'blocks\.12' not found; this model has conv1, norm",
    ),
    "layer unused": (images, 0, "unused", ValueError, "did not run"),
    "layer run twice": (images, 0, "act", ValueError, "more than once"),
    "layer of another model": (images, 0, nn.Linear(1, 1), ValueError, "not a module of this model"),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_arguments(case):
    make, question, place, error, message = CASES[case]
    model, x = conv_net(), make()
    with untouched(model), pytest.raises(error, match=message):
        read_out(model, x, question, place)


def test_layers_are_named_where_the_path_breaks():
    model = nn.Sequential(*[nn.Linear(4, 4) for _ in range(12)], nn.Sequential(nn.Linear(4, 4))).eval()
    with pytest.raises(ValueError, match=r"'12\.3' not found; '12' has 12\.0"):
        read_out(model, torch.randn(1, 4), 0, "12.3")
    with pytest.raises(ValueError, match=r"this model has 0 … 12"):
        read_out(model, torch.randn(1, 4), 0, "blocks")


class CallsDropout(nn.Module):
    def __init__(self, share):
        super().__init__()
        self.drop_rate = share

    def forward(self, x):
        return nn.functional.dropout(x, self.drop_rate, self.training)


class Attends(nn.Module):
    """Attention of PyTorch's over the rows of one channel."""

    def __init__(self, share):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, dropout=share, batch_first=True)

    def forward(self, x):
        return self.attention(x[:, 0], x[:, 0], x[:, 0])[0][:, None]


#: A module that drops a share of something in train mode, of several libraries.
DROPPING = [
    timm.layers.DropPath,
    timm.layers.DropBlock2d,
    lambda share: torchvision.ops.StochasticDepth(share, "row"),
    lambda share: torchvision.ops.DropBlock2d(share, 3),
    SwinDropPath,
    CallsDropout,
    Attends,
]


@pytest.mark.parametrize("layer", [nn.BatchNorm2d(3), nn.Dropout(0.5), *(make(0.5) for make in DROPPING)])
def test_train_mode_is_refused_where_it_matters(layer):
    model = nn.Sequential(layer, nn.Flatten(), nn.LazyLinear(3))
    model(images())
    model.train()
    with untouched(model), pytest.raises(ValueError, match=r"train mode.*'0.*model\.eval\(\)"):
        read_out(model, images(), 0)


MEASURED = {
    "completeness_error": lambda net, x: completeness_error(net, x, x, target=1),
    "completeness_gap": lambda net, x: completeness_gap(net, x, x, target=1),
    "completeness_error_from_zeros": lambda net, x: completeness_error_from_zeros(net, x, x, target=1),
    "insertion of a transferred map": lambda net, x: insertion(net, x, x, transfer_to=conv_net()),
    "deletion": lambda net, x: deletion(net, x, x, target=1),
    "parameter_randomisation": lambda net, x: parameter_randomisation(net, x, lambda net, x, y: x, target=1),
    "grid_pointing_game": lambda net, x: grid_pointing_game(
        net,
        x,
        torch.arange(4),
        lambda net, x, y: x,
        grids=PictureGrids(members=torch.arange(4)[None], labels=torch.arange(4)[None]),
    ),
}


@pytest.mark.parametrize("layer", [nn.BatchNorm2d(3), nn.Dropout(0.5)])
@pytest.mark.parametrize("name", MEASURED)
def test_no_metric_runs_a_network_in_train_mode(name, layer):
    net = nn.Sequential(layer, conv_net(classes=4)).train()
    with untouched(net), pytest.raises(ValueError, match=r"train mode"):
        MEASURED[name](net, images(4))


class Predictor:
    """An object that is no module, with a network in train mode and an average of it, which is in eval mode."""

    def __init__(self):
        self.network = nn.Sequential(nn.BatchNorm2d(3), conv_net(classes=4)).train()
        self.average = copy.deepcopy(self.network).eval()

    @torch.no_grad()
    def predict(self, x):
        return self._run(x)

    @property
    def current(self):
        return self.network

    def _run(self, x):
        return self.current(x)

    def scaled(self, factor, x):
        return factor * self.network(x)

    def averaged(self, x):
        return self.average(x)

    def evaluated(self, x):
        self.network.eval()
        return self.network(x)

    def __call__(self, x):
        return self.predict(x)


class Delegates(nn.Module):
    def __init__(self, predictor):
        super().__init__()
        self.predictor = predictor

    def forward(self, x):
        return self.predictor.predict(x)


BEHIND = {
    "bound method": lambda owner: owner.predict,
    "partial": lambda owner: partial(owner.scaled, 2),
    "closure": lambda owner: lambda x: owner.predict(x),
    "closure with the network": lambda owner: owner.network.forward,
    "object that can be called": lambda owner: owner,
    "list": lambda owner: lambda x, networks=[owner.network]: networks[0](x),
    "module with the object": Delegates,
}
RUNS = {
    **MEASURED,
    "PiNet": lambda net, x: PiNetAttribution(net).attribute(x, target=1),
    "a method of Captum": lambda net, x: attribution_method("saliency").build(net).attribute(x, target=1),
}
RUNS.pop("parameter_randomisation")  # needs a module


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("wrapped", BEHIND)
def test_no_network_behind_a_function_is_run_in_train_mode(wrapped, name):
    owner = Predictor()
    with untouched(owner.network), pytest.raises(ValueError, match=r"in train mode.*0'.*eval\(\)"):
        RUNS[name](BEHIND[wrapped](owner), images(4))


@pytest.mark.parametrize("method", ["averaged", "evaluated"])
def test_networks_that_a_function_does_not_name_or_that_it_sets_to_eval_mode_are_allowed(method):
    owner = Predictor()
    with untouched(owner.average):
        found = deletion(getattr(owner, method), images(4), images(4), target=1)
    assert torch.equal(found, deletion(owner.average, images(4), images(4), target=1))


@pytest.mark.parametrize("layer", [nn.Identity(), *(make(0.0) for make in DROPPING[:-1])])
def test_train_mode_is_allowed_where_it_does_not_matter(layer):
    model = nn.Sequential(layer, nn.Flatten(), nn.Linear(192, 3), nn.ReLU()).train()
    assert read_out(model, images(), 0).relative_error.max() < 1e-5
    assert model.training


@pytest.mark.parametrize(
    ("output", "error", "message"),
    [
        (lambda x: x.flatten(1)[:, :3] / 0, ValueError, "logits.*NaN or infinity"),
        (lambda x: (x, x), TypeError, r"returned tuple.*output=\.\.\."),
        (lambda x: {"a": x, "b": x}, TypeError, r"returned dict with 'a'.*output=\.\.\."),
        (lambda x: torch.ones(len(x), 3), ValueError, "does not depend"),
        (lambda x: x.flatten(1)[:, :3].softmax(1), ValueError, "probabilities with softmax.*returns logits"),
        (lambda x: x.flatten(1)[:, :3].argmax(1), TypeError, "int64"),
    ],
    ids=["NaN logits", "tuple", "dict", "constant", "softmax", "whole numbers"],
)
def test_bad_outputs(output, error, message):
    model = Constant(output).eval()
    with untouched(model), pytest.raises(error, match=message):
        read_out(model, images(), 0)


@pytest.mark.parametrize("layer", [None, "input", "head", "conv1"])
def test_an_output_without_the_axis_of_examples(layer):
    class Squeezed(type(conv_net())):
        def forward(self, x):
            return super().forward(x).squeeze()

    model, x = Squeezed().eval(), images(3)
    for call in (
        lambda: read_out(model, x[:1], 1, layer),
        lambda: PiNetAttribution(model, layer).attribute(x, target=1, internal_batch_size=1),
        lambda: PiNetAttribution(model, layer).attribute(x, target=1, internal_batch_size=2),  # the last one alone
    ):
        with pytest.raises(ValueError, match=r"has 5 rows for 1 example; .* logits \[1, 5\]: .*squeeze"):
            call()
    assert read_out(model, x, 1, layer).relative_error.max() < 1e-5
    merged = nn.Sequential(conv_net(), nn.Flatten(0)).eval()
    with pytest.raises(ValueError, match=r"has 15 rows for 3 examples; .* logits \[3, \.\.\.\]"):
        read_out(merged, x, None, "0.conv1")


def test_no_classifier():
    model = conv_net()
    model.num_classes = 0
    with untouched(model), pytest.raises(ValueError, match=r"no classifier.*num_classes"):
        read_out(model, images(), 0)


def test_no_module():
    with pytest.raises(TypeError, match=r"torch\.nn\.Module itself, got function"):
        read_out(lambda x: x, images(), 0)


def test_scripted_and_quantised_models():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.trace(conv_net(), images())
    with pytest.raises(TypeError, match="scripted"):
        read_out(scripted, images(), 0)

    class Quantised(nn.Linear):
        pass

    Quantised.__module__ = "torch.ao.nn.quantized.dynamic.modules.linear"
    with pytest.raises(TypeError, match="quantised"):
        read_out(nn.Sequential(nn.Flatten(), Quantised(192, 3)).eval(), images(), 0)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_readout_does_not_depend_on_the_grad_mode(mode):
    model, x = conv_net(), images()
    expected = read_out(model, x, 0)
    with mode():
        made_inside = images()
        readout = read_out(model, made_inside, 0)
        assert torch.is_inference_mode_enabled() == (mode is torch.inference_mode)
    assert torch.equal(readout.contributions, expected.contributions)


def test_feature_space_behind_the_logits():
    model = conv_net()

    class Side(nn.Module):
        def __init__(self):
            super().__init__()
            self.main, self.side = model, nn.Identity()

        def forward(self, x):
            self.side(x)
            return self.main(x)

    with pytest.raises(ValueError, match="does not depend on the feature space 'side'"):
        read_out(Side().eval(), images(), 0, "side")


def test_a_layer_that_does_not_keep_the_batch_first():
    class Regroups(nn.Module):
        def __init__(self):
            super().__init__()
            self.pixels, self.fc = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x):
            return self.fc(self.pixels(x.flatten(2).transpose(1, 2).reshape(-1, 3)).reshape(len(x), -1, 4).mean(1))

    with pytest.raises(ValueError, match=r"\[128, 4\] for 2 examples"):
        read_out(Regroups().eval(), images(), 0, "pixels")


def test_an_error_of_the_model_itself_says_what_it_was_given():
    with pytest.raises(RuntimeError) as caught:
        read_out(conv_net(), images()[:, :2], 0)
    assert "[2, 2, 8, 8]" in "".join(caught.value.__notes__)


@pytest.mark.parametrize(
    "build",
    [lambda: Question.why_not(1, 1), lambda: Question.why_group([]), lambda: Question.why_not_rest(1, [1])],
)
def test_questions_without_sense(build):
    with pytest.raises(TargetError):
        build()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_wrong_device():
    with pytest.raises(ValueError, match="cuda"):
        read_out(conv_net().cuda(), images(), 0)
