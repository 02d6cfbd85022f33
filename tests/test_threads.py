"""The model is only read: no method changes it, not for a moment, so threads that share it don't meet."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

from benchmarks.safety.all_methods import all_methods, is_same, tiny_masker
from benchmarks.safety.threads import beside, together
from captum_align import ALIGNAttribution
from tests.tripwire import Touched, tripwire
from xai_align._tools.replica import Replica
from xai_align.fei import clip_gradients
from xai_align.testing.networks import TinyNetwork, fixed_images
from xai_align.testing.traces import differences, snapshot

METHODS = all_methods()
IMAGES = fixed_images(2)
#: Threads that explain at once.
THREADS = 8
#: Plain calls beside explanations.
CALLS = 50

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def _many_switches():
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.parametrize("name", METHODS)
def test_nothing_of_the_model_is_changed_for_a_moment(name):
    model = TinyNetwork()
    before = snapshot(model)
    with tripwire(model):
        METHODS[name](model, IMAGES)
    assert differences(before, snapshot(model)) == []


@pytest.mark.parametrize(
    "touch",
    [
        lambda m: m.first.register_forward_hook(print),
        lambda m: m.first.register_full_backward_hook(print),
        lambda m: m.head.train(),
        lambda m: m.eval(),
        lambda m: m.head.weight.requires_grad_(False),
        lambda m: setattr(m.head.weight, "requires_grad", False),
        lambda m: m.head.weight.register_hook(print),
        lambda m: setattr(m.act, "inplace", False),
        lambda m: setattr(m, "new", 1),
    ],
)
def test_the_tripwire_catches_every_kind_of_change(touch):
    model = TinyNetwork()
    before = snapshot(model)
    with pytest.raises(Touched), tripwire(model):
        touch(model)
    assert differences(before, snapshot(model)) == []
    TinyNetwork().train().requires_grad_(False)  # and nothing else is guarded any more


def test_hooks_go_around_a_scripted_part():
    """It can't be copied, and is not hooked all the same."""
    model = TinyNetwork()
    model.second = torch.jit.script(model.second)
    scripted = model.second
    hooks = scripted._forward_hooks
    found = METHODS["hidden layers"](model, IMAGES)
    assert torch.equal(found, METHODS["hidden layers"](TinyNetwork(), IMAGES))
    copy = Replica(model)
    seen = []
    copy.of(scripted).register_forward_hook(lambda module, args, out: seen.append(out))
    copy.module(IMAGES)
    assert len(seen) == 1
    assert len(hooks) == 0
    assert torch.equal(copy.of(scripted).weight, scripted.weight)


def test_a_masker_is_not_changed_either():
    masker = tiny_masker().train()
    with tripwire(masker):
        found = ALIGNAttribution(masker).attribute(IMAGES)
    assert torch.equal(found, ALIGNAttribution(masker.eval()).attribute(IMAGES))


@pytest.mark.parametrize("name", METHODS)
def test_a_plain_call_beside_an_explanation_is_right(name):
    model = TinyNetwork()
    METHODS[name](model, IMAGES)  # imports take their time
    calls, wrong, explained = beside(METHODS[name], model, IMAGES, fixed_images(4, seed=11), CALLS)
    assert calls >= CALLS
    assert explained > 0
    assert wrong == 0


@pytest.mark.parametrize("name", METHODS)
def test_eight_threads_find_what_one_finds(name):
    model = TinyNetwork()
    expected = METHODS[name](model, IMAGES)
    for found in together([lambda: METHODS[name](model, IMAGES)] * THREADS):
        assert is_same(found, expected)


def test_clipping_in_one_thread_does_not_reach_the_other():
    """The block of one thread is open all the while."""
    model, x = TinyNetwork(), fixed_images(2)

    def gradient(module):
        start = x.clone().requires_grad_()
        return torch.autograd.grad(-module(start)[:, 0].sum(), start)[0]

    plain = gradient(model)
    with clip_gradients(model, x) as clipping:
        clipped = gradient(clipping.model)
        for found in together([lambda: gradient(model)] * 2):
            assert torch.equal(found, plain)
        for found in together([lambda: gradient(clipping.model)] * 1):
            assert torch.equal(found, clipped)
    assert isinstance(clipping.model, nn.Module)
