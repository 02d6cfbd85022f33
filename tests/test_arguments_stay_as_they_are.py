"""What a caller passes stays as it is: images and further arguments that networks write to, and lazy modules.

And what is explained is the network itself: copies that compute something else are refused.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.networks import conv_net, images
from xai_align import read_out
from xai_align.align import AlignTrainer, Masker
from xai_align.align.masker_loss import masker_loss
from xai_align.fei import ClippedGradientMethod, fit_fei, optimize_masks
from xai_align.perturbation import perturbation_curve
from xai_align.pinet import CompletenessError
from xai_align.prototypes import EPICMethod, fit_prototypes

pytestmark = pytest.mark.filterwarnings("ignore::xai_align.fei.AreaMissed", "ignore::xai_align.perturbation.TieWarning")


class Writes(nn.Module):
    """The network of images doubled in place, with the sum of further arguments, which are cut off in place, added."""

    def __init__(self):
        super().__init__()
        self.inner = conv_net()

    def forward(self, x, *further):
        for one in further:
            one.clamp_(0)
        return self.inner(x.mul_(2)) + sum(one.view(-1, 1) for one in further)


METHODS = {
    "curve": lambda net, x, e: optimize_masks(net, x, 1, n_iter=1, additional_forward_args=e),
    "flat": lambda net, x, e: optimize_masks(net, x, 1, n_iter=1, start="flat", additional_forward_args=e),
    "predicted": lambda net, x, e: optimize_masks(net, x, None, n_iter=1, start="flat", additional_forward_args=e),
    "nested": lambda net, x, e: optimize_masks(net, x, 1, solver="nested", n_iter=1, additional_forward_args=e),
    "clipped": lambda net, x, e: ClippedGradientMethod(net).attribute(x, target=1, additional_forward_args=e),
    "readout": lambda net, x, e: read_out(net, x, 1, additional_forward_args=e),
    "deletion": lambda net, x, e: perturbation_curve(net, x, x.abs(), additional_forward_args=e),
}


@pytest.mark.parametrize("name", METHODS)
def test_further_arguments_stay_as_they_are(name):
    x, further = images(2), torch.tensor([-1.0, 1.0])
    METHODS[name](Writes().eval(), x, further)
    assert torch.equal(x, images(2))
    assert further.tolist() == [-1.0, 1.0]


@pytest.mark.parametrize("layer", [None, "head", "inner.conv1"])
def test_images_of_prototypes_stay_as_they_are(layer):
    net, x = Writes().eval(), images(4)
    prototypes = fit_prototypes(net, list(x), layer, prototypes=2, rounds=1)
    EPICMethod(net, prototypes).attribute(x, 1)
    EPICMethod(net, prototypes).mixed_network(x)(x)
    assert torch.equal(x, images(4))


def emptied(x):
    return x.zero_()


HALF = torch.full((2, 1, 8, 8), 0.5)
FILLING = {
    "curve": lambda x: perturbation_curve(conv_net(), x, x.abs(), baselines=emptied),
    "masker loss": lambda x: masker_loss(conv_net(), x, HALF, torch.tensor([0, 1]), baseline=emptied),
    "nested": lambda x: optimize_masks(conv_net(), x, 1, solver="nested", n_iter=1, baselines=lambda x, *_: emptied(x)),
}


@pytest.mark.parametrize("name", FILLING)
def test_images_that_a_fill_writes_to_stay_as_they_are(name):
    x = images(2)
    FILLING[name](x)
    assert torch.equal(x, images(2))


def test_a_fill_that_writes_to_its_images_is_the_fill_that_it_returns():
    x, net = images(2), conv_net()
    found, expected = (perturbation_curve(net, x, x.abs(), baselines=fill) for fill in (emptied, 0.0))
    torch.testing.assert_close(found.masked, expected.masked)


class CentresInPlace(nn.Module):
    """The network of images less one half, which are written into the input."""

    def __init__(self, classes=3):
        super().__init__()
        self.inner = conv_net(classes=classes)

    def forward(self, x):
        x -= 0.5
        return self.inner(x)


@pytest.mark.filterwarnings("ignore::UserWarning")  # signs of shortcuts, and of masks that collapse
@pytest.mark.parametrize("recipe", ["erm", "align"])
def test_a_list_of_batches_stays_as_it_is_in_a_fit(recipe):
    batches = [(images(8, seed=seed), torch.arange(8) % 3) for seed in range(8)]
    with torch.random.fork_rng():
        trainer = AlignTrainer(CentresInPlace().eval(), Masker(width=4, depth=1), recipe=recipe, seed=0)
        trainer.fit(batches, batches, epochs=2)
    for seed, (x, _) in enumerate(batches):
        assert torch.equal(x, images(8, seed=seed))


class ByIdentity(nn.Module):
    """Logits whose sign is looked up by the identity of a module, which a copy's module does not have."""

    def __init__(self):
        super().__init__()
        self.inner = conv_net()
        self.signs = {id(self.inner): -1.0}

    def forward(self, x):
        return self.signs.get(id(self.inner), 1.0) * self.inner(x)


@pytest.mark.parametrize(
    "explained",
    [
        lambda net, x: optimize_masks(net, x, 1, n_iter=1, start="flat"),
        lambda net, x: optimize_masks(net, x, 1, n_iter=1, solver="nested"),
        lambda net, x: ClippedGradientMethod(net).attribute(x, target=1),
        lambda net, x: fit_fei(net, x, epochs=1, batch_size=2),
    ],
)
def test_another_function_than_the_network_s_is_not_explained(explained):
    with pytest.raises(ValueError, match="looks up modules by their identity"):
        explained(ByIdentity().eval(), images(2))


def lazy():
    return nn.Sequential(nn.LazyConv2d(4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(5)).eval()


def on_meta():
    return conv_net().to("meta")


@pytest.mark.parametrize(("network", "reason"), [(lazy, "lazy modules"), (on_meta, "device 'meta'")])
@pytest.mark.parametrize(
    "called",
    [
        lambda net, x: optimize_masks(net, x, n_iter=1, start="flat"),
        lambda net, x: read_out(net, x, 1),
        lambda net, x: fit_fei(net, x, epochs=1),
        lambda net, x: fit_prototypes(net, list(x), prototypes=1),
        lambda net, x: AlignTrainer(net),
    ],
)
def test_networks_without_values_are_refused_and_not_run(network, reason, called):
    net = network()
    with pytest.raises(ValueError, match=reason):
        called(net, images(2))
    assert all(nn.parameter.is_lazy(one) or one.is_meta for one in net.parameters())


def test_a_function_and_a_network_of_classes_are_named_as_what_they_are():
    with pytest.raises(TypeError, match="got function"):
        fit_fei(lambda x: x, images(2))
    for call in (fit_fei, optimize_masks):
        with pytest.raises(TypeError, match=r"torch\.int64"):
            call(nn.Sequential(conv_net(), _Argmax()).eval(), images(2))


class Steep(torch.autograd.Function):
    """A function of one's own, whose gates a readout cannot see."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx, gradient):
        return gradient * (ctx.saved_tensors[0] > 0)


class OfOnesOwn(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 8, 3), nn.Linear(8, 5)

    def forward(self, x):
        return self.fc(Steep.apply(self.conv(x)).mean((2, 3)))


def test_a_search_that_has_no_readout_to_start_from_says_what_needs_none():
    torch.manual_seed(0)
    with pytest.raises(CompletenessError) as caught:
        optimize_masks(OfOnesOwn().eval(), images(2), 1, n_iter=1)
    assert "or none with start='flat'" in caught.value.__notes__[-1]


class _Argmax(nn.Module):
    def forward(self, x):
        return x.argmax(1)


def test_images_are_named_as_what_they_are():
    for call in (lambda x: optimize_masks(conv_net(), x, 1), lambda x: EPICMethod(*fitted()).attribute(x, 1)):
        for x, found in ((images(2).byte(), r"torch\.uint8"), (images(2)[0], r"\[3, 8, 8\]")):
            with pytest.raises((TypeError, ValueError), match=rf"the inputs must .*\[N, C, H, W\].*{found}"):
                call(x)


def fitted():
    net = conv_net()
    return net, fit_prototypes(net, list(images(2)), prototypes=1, rounds=1)


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (lambda: torch.jit.script(conv_net()), "scripted module"),
        (lambda: torch.ao.quantization.quantize_dynamic(conv_net(), {nn.Linear}), "quantised module"),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_no_classifier_is_aligned_that_cannot_be_trained(network, reason):
    with pytest.raises(TypeError, match=reason):
        AlignTrainer(network())


@pytest.mark.parametrize("state", [{}, None, {"tensors": {}}])
def test_what_is_no_state_of_a_trainer_is_refused(state):
    with pytest.raises(TypeError, match=r"what state_dict\(\) of a trainer returned"):
        AlignTrainer(conv_net()).load_state_dict(state)
