"""Selective gradient clipping: its table, gradients worked by hand, every spelling, and when it turns a map round."""

from __future__ import annotations

import re
import warnings
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.fei.inversion import RenormalisedReLU, blocks_of, identity_blocks, push, random_blocks
from tests.networks import conv_net, filled, images, two_layers, untouched
from xai_align.fei.published.clipping_rules import RULES, Passes, find_clipping_rule, let_pass
from xai_align.fei.published.gradient_clipping import NothingClipped, NothingToClip, clip_gradients
from xai_align.question import Question, ask

MODES = tuple(RULES)
#: When an entry is kept, as the published table has it; "silent" is ours.
KEPT = {
    "ibm": lambda a0, a, g: a0 > 0 or g > 0,
    "ivm": lambda a0, a, g: a <= a0 or g > 0,
    "avm": lambda a0, a, g: a >= a0 or g < 0,
    "vm": lambda a0, a, g: (g > 0 and a >= a0) or (g <= 0 and a < a0),
    "fgvis": lambda a0, a, g: min(a0, 0) <= a <= max(a0, 0),
    "silent": lambda a0, a, g: a0 > 0,
}


def clipped_gradient(model, reference, x, mode="ibm", *, target=0, sign=-1.0, **options):
    """The clipped gradient of ``L = sign * logit``; minimising ``-logit`` raises it."""
    x = x.detach().clone().requires_grad_()
    with clip_gradients(model, reference, mode=mode, **options) as clipping:
        return torch.autograd.grad(sign * clipping.model(x)[:, target].sum(), x)[0]


def masked(x: Tensor, seed: int = 5) -> Tensor:
    return x * torch.rand(len(x), 1, *x.shape[2:], generator=torch.Generator().manual_seed(seed)).to(x.dtype)


class Around(nn.Module):
    """An activation between two convolutions, in whatever spelling."""

    def __init__(self, act) -> None:
        super().__init__()
        self.first, self.act, self.last = nn.Conv2d(3, 6, 3, padding=1), act, nn.Conv2d(6, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.act(self.first(x))).mean((2, 3))


def around(act) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return filled(Around(act))


# --- the rules ---


@pytest.mark.parametrize("mode", MODES)
def test_a_rule_keeps_what_its_table_says(mode):
    """Boundaries included: a == a0, a0 == 0 and g == 0."""
    cases = list(product((-1.0, 0.0, 0.5, 2.0), (-1.0, -0.5, 0.0, 0.5, 1.0, 3.0), (-2.0, 0.0, 3.0)))
    a0, a, g = torch.tensor(cases).unbind(1)
    rule = RULES[mode]
    expected = [case[2] if KEPT[mode](*case) else 0.0 for case in cases]
    assert let_pass(g, rule.passes(rule.remember(a0), a)).tolist() == expected


def test_the_boundaries_of_ivm_and_vm_differ():
    """At a == a0 a push up passes under ivm and not under vm; a push down passes under both."""
    one, g = torch.ones(2), torch.tensor([-1.0, 1.0])
    assert let_pass(g, RULES["ivm"].passes(one, one)).tolist() == [-1, 1]
    assert let_pass(g, RULES["vm"].passes(one, one)).tolist() == [0, 1]


def test_what_may_pass_is_said_apart_for_falling_and_rising_units():
    """For g = -1, 1, -1, 1 and booleans that allow the first two; None allows all."""
    g, first = torch.tensor([-1.0, 1.0, -1.0, 1.0]), torch.tensor([True, True, False, False])
    assert let_pass(g, Passes(None, None)).tolist() == [-1, 1, -1, 1]
    assert let_pass(g, Passes(first, None)).tolist() == [-1, 1, -1, 0]
    assert let_pass(g, Passes(None, first)).tolist() == [-1, 1, 0, 1]
    assert let_pass(g, Passes(first, ~first)).tolist() == [0, 1, -1, 0]
    assert let_pass(g, Passes(first, first)).tolist() == [-1, 1, 0, 0]


def test_none_is_among_the_names():
    with pytest.raises(
        ValueError, match=r"'ibm', 'ivm', 'avm', 'vm', 'fgvis', 'silent' or 'none', got 'nine'; did you mean 'none'"
    ):
        find_clipping_rule("nine")


def test_rules_that_need_one_boolean_remember_only_that():
    a0 = torch.tensor([-1.0, 0.0, 2.0])
    for mode in ("ibm", "silent"):
        assert RULES[mode].remember(a0).tolist() == [False, False, True]
        assert RULES[mode].remember(a0).dtype == torch.bool


@pytest.mark.parametrize("mode", MODES)
def test_nan_is_not_hidden(mode):
    a0 = torch.ones(1)
    assert let_pass(torch.tensor([float("nan")]), RULES[mode].passes(RULES[mode].remember(a0), a0)).isnan().all()


# --- known gradients ---


@pytest.mark.parametrize(
    ("mode", "sign", "target", "expected"),
    [
        # Reference (0, 1): before the ReLU (3, -3), so a0 = (3, 0). Now (1, 0): a = (2, 1).
        # W2 = [[2, 1], [-1, 4]], rows of W1: (1, 2) and (3, -1).
        ("ibm", -1, 0, (-2, -4)),  # g = (-2, -1); the second unit may not rise: -2 (1, 2)
        ("ibm", -1, 1, (1, 2)),  # g = (1, -4); neither may it here: 1 (1, 2)
        ("ibm", 1, 1, (11, -6)),  # g = (-1, 4); it may fall: -1 (1, 2) + 4 (3, -1)
        ("silent", 1, 1, (-1, -2)),  # silent units do neither
        ("ivm", -1, 1, (1, 2)),  # a2 > a0: no rise
        ("avm", -1, 1, (-12, 4)),  # a1 < a0: no fall; -4 (3, -1)
        ("vm", -1, 0, (-2, -4)),  # unit 1 may only rise, unit 2 only fall
        ("vm", 1, 1, (11, -6)),
        ("fgvis", -1, 1, (1, 2)),  # unit 2 lies above [0, 0]
        ("none", -1, 1, (-11, 6)),
    ],
)
def test_gradients_worked_by_hand(mode, sign, target, expected):
    reference, x = torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0]])
    found = clipped_gradient(two_layers(), reference, x, mode, sign=sign, target=target, layers=["1"])
    assert found.tolist() == [list(map(float, expected))]


class ClippedReLU(torch.autograd.Function):
    """The rule at the input of the ReLU, where the published code has it, from the table and nothing else."""

    @staticmethod
    def forward(ctx, x, a0, mode):
        ctx.save_for_backward(x.relu(), a0)
        ctx.mode = mode
        return x.relu()

    @staticmethod
    def backward(ctx, g_out):
        a, a0 = ctx.saved_tensors
        g = g_out * (a > 0)
        kept = [KEPT[ctx.mode](*case) for case in zip(a0.flatten(), a.flatten(), g.flatten(), strict=True)]
        return g * torch.tensor(kept).view_as(g), None, None


def run(model, x: Tensor, act) -> Tensor:
    """``conv_net`` with another activation."""
    h = model.pool(act(model.norm(model.conv1(x))))
    return model.fc(act(model.conv2(h)).mean((2, 3)))


@pytest.mark.parametrize("mode", MODES)
def test_hooks_give_what_a_custom_function_gives(mode):
    model, x = conv_net().double(), images(1, 4, dtype=torch.float64)
    reference = []
    run(model, x, lambda h: reference.append(h.relu()) or h.relu())
    start, step = masked(x).requires_grad_(), iter(reference)
    logits = run(model, start, lambda h: ClippedReLU.apply(h, next(step), mode))
    (expected,) = torch.autograd.grad(-logits[:, 0].sum(), start)
    found = clipped_gradient(model, x, start, mode)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)
    assert not torch.allclose(found, clipped_gradient(model, x, start, "none"))


def test_silent_is_the_gradient_of_the_network_with_silent_units_held():
    model, x = conv_net().double(), images(1, dtype=torch.float64)
    active = []
    run(model, x, lambda h: active.append(h > 0) or h.relu())
    start, step = masked(x).requires_grad_(), iter(active)
    logits = run(model, start, lambda h: torch.where(next(step), h.relu(), h.relu().detach()))
    (expected,) = torch.autograd.grad(-logits[:, 0].sum(), start)
    torch.testing.assert_close(clipped_gradient(model, x, start, "silent"), expected)


# --- spellings ---


@pytest.mark.parametrize(
    "act",
    [
        F.relu,
        torch.relu,
        nn.ReLU(inplace=True),
        lambda h: h.relu_(),
        lambda h: F.relu(h, inplace=True),
        lambda h: h.clamp(min=0),
        lambda h: h.clamp_(0),
        lambda h: torch.clamp_min(h, 0.0),
        lambda h: F.threshold(h, 0.0, 0.0),
    ],
)
def test_every_spelling_of_relu_is_clipped(act):
    x = images(1)
    expected = clipped_gradient(around(nn.ReLU()), x, masked(x))
    assert torch.equal(clipped_gradient(around(act), x, masked(x)), expected)
    assert not torch.equal(expected, clipped_gradient(around(act), x, masked(x), "none"))


@pytest.mark.parametrize(
    ("kind", "acts"),
    [
        ("relu6", [nn.ReLU6(), F.relu6, lambda h: F.hardtanh(h, 0, 6), lambda h: h.clamp(0, max=6)]),
        ("gelu", [nn.GELU(), F.gelu]),
        ("silu", [nn.SiLU(inplace=True), F.silu]),
        ("hardswish", [nn.Hardswish(), F.hardswish]),
    ],
)
def test_other_activations_are_an_extension(kind, acts):
    """By hand: the gradient at the output, -w of the head, passes where the reference's output is above 0."""
    x = images(1)
    for act in acts:
        model = around(act)
        with clip_gradients(model, x) as clipping:
            assert (clipping.extended, [call.kind for call in clipping.calls]) == ((kind,), [kind])
            assert [call.units for call in clipping.calls] == [6 * 8 * 8]
            start = masked(x).requires_grad_()
            (found,) = torch.autograd.grad(-clipping.model(start)[:, 0].sum(), start)
        h = model.first(start)
        a = acts[1](h.clone())
        (g,) = torch.autograd.grad(-model.last(a).mean((2, 3))[:, 0].sum(), a, retain_graph=True)
        g = torch.where(acts[1](model.first(x).clone()) > 0, g, g.clamp(min=0))
        torch.testing.assert_close(found, torch.autograd.grad(a, start, g)[0])


def test_relu_itself_is_no_extension():
    x = images(1)
    with warnings.catch_warnings(), clip_gradients(around(torch.relu), x) as clipping:
        warnings.simplefilter("ignore", NothingClipped)
        assert clipping.extended == ()


@pytest.mark.parametrize("mode", MODES)
def test_writing_into_the_output_afterwards_spoils_nothing(mode):
    def written(h):
        a = h.clamp(min=0)  # as a spelling of ReLU that doesn't need its output again
        a += h.sin()
        a *= 2
        return a

    x = images(1)
    expected = clipped_gradient(around(lambda h: (h.clamp(min=0) + h.sin()) * 2), x, masked(x), mode)
    assert torch.equal(clipped_gradient(around(written), x, masked(x), mode), expected)


@pytest.mark.parametrize("mode", ["ibm", "vm"])
def test_writing_into_a_view_is_clipped_too(mode):
    """The gradient of the whole goes by the hooks of its part."""

    def written(h):
        h = h * 1
        h[:, :3].relu_()
        return h

    x = images(1)
    expected = clipped_gradient(around(lambda h: torch.cat([h[:, :3].relu(), h[:, 3:]], 1)), x, masked(x), mode)
    assert torch.equal(clipped_gradient(around(written), x, masked(x), mode), expected)
    assert not torch.equal(expected, clipped_gradient(around(written), x, masked(x), "none"))


# --- batches and passes ---


@pytest.mark.parametrize("mode", MODES)
def test_copies_of_each_image_are_compared_with_their_own_reference(mode):
    """Image 0's copies come first; as ``repeat`` has them, they would meet the other image's reference."""
    model, x, copies = conv_net().double(), images(2, dtype=torch.float64), 3
    now = masked(x.repeat_interleave(copies, 0))
    together = clipped_gradient(model, x, now, mode)
    for row in range(len(now)):
        alone = clipped_gradient(model, x[row // copies][None], now[row][None], mode)
        torch.testing.assert_close(together[row], alone[0], rtol=0, atol=1e-14)
        other = clipped_gradient(model, x[1 - row // copies][None], now[row][None], mode)
        assert not torch.allclose(together[row], other[0])


def test_windows_beside_the_batch_stay_with_their_image():
    """``[B, C, H, W]`` cut into ``[B * 2, C, H / 2, W]``, as window attention has it."""

    def in_windows(h):
        n, c, height, width = h.shape
        windows = h.view(n, c, 2, height // 2, width).transpose(1, 2).reshape(n * 2, c, height // 2, width).relu()
        return windows.view(n, 2, c, height // 2, width).transpose(1, 2).reshape(h.shape)

    x = images(2, dtype=torch.float64)
    now = masked(x.repeat_interleave(3, 0))
    expected = clipped_gradient(around(torch.relu).double(), x, now)
    torch.testing.assert_close(clipped_gradient(around(in_windows).double(), x, now), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("mode", MODES)
def test_several_passes_before_one_backward_pass_are_as_each_alone(mode):
    model, x = conv_net().double(), images(1, dtype=torch.float64)
    inputs = [masked(x, 1).requires_grad_(), masked(x, 2).requires_grad_()]
    with clip_gradients(model, x, mode=mode) as clipping:
        torch.relu(inputs[0])  # outside the model: not counted
        found = torch.autograd.grad(-sum(clipping.model(one)[:, 0].sum() for one in inputs), inputs)
    for one, gradient in zip(inputs, found, strict=True):
        assert torch.equal(gradient, clipped_gradient(model, x, one, mode))


def test_the_memory_format_is_kept():
    """Another one would make the convolutions below slower."""
    model, x = conv_net(), images(2).contiguous(memory_format=torch.channels_last)
    model, seen = model.to(memory_format=torch.channels_last), []
    model.norm.register_forward_hook(lambda module, args, out: seen.append(out))
    with clip_gradients(model, x) as clipping:
        logits = clipping.model(masked(x.repeat_interleave(2, 0)).requires_grad_())
        (g,) = torch.autograd.grad(logits.sum(), seen[1:])
    assert g.is_contiguous(memory_format=torch.channels_last)


# --- which calls ---


def test_what_was_clipped_is_told():
    """The module that is used twice is two calls; entries are counted over all gradients."""
    model, x = conv_net(), images(2)
    start = masked(x.repeat_interleave(3, 0)).requires_grad_()
    with clip_gradients(model, x) as clipping:
        assert [(call.layer, call.kind, call.units) for call in clipping.calls] == [
            ("act", "relu", 8 * 8 * 8),
            ("act", "relu", 8 * 4 * 4),
        ]
        assert (clipping.clipped_entries, clipping.gradient_entries) == (0, 0)
        for count in (1, 2):
            torch.autograd.grad(-clipping.model(start)[:, 0].sum(), start)
            assert clipping.gradient_entries == count * 6 * (8 * 8 * 8 + 8 * 4 * 4)
            assert clipping.clipped_entries % count == 0
            assert 0 < clipping.clipped_entries < clipping.gradient_entries


def test_clipped_entries_are_those_that_were_not_zero_before():
    """By hand: g = (1, -4), and the second is clipped."""
    x = torch.tensor([[1.0, 0.0]], requires_grad=True)
    model = two_layers()
    with clip_gradients(model, torch.tensor([[0.0, 1.0]]), layers=["1"]) as clipping:
        torch.autograd.grad(-clipping.model(x)[0, 1], x)
    assert (clipping.clipped_entries, clipping.gradient_entries) == (1, 2)


def test_only_named_layers_are_clipped():
    model, x = random_blocks(3, 0).float(), images(1)
    now = masked(x)
    everywhere = clipped_gradient(model, x, now)
    assert torch.equal(clipped_gradient(model, x, now, layers=["1", "2", "3"]), everywhere)
    late = clipped_gradient(model, x, now, layers=["3"])
    assert not torch.equal(late, everywhere)
    # the last block by itself has the same gradient, and no clipping goes on from there
    h, h0 = model[:3](now).detach(), model[:3](x)
    g = clipped_gradient(model[3:], h0, h)
    start = now.clone().requires_grad_()
    torch.testing.assert_close(late, torch.autograd.grad(model[:3](start), start, g)[0])


def test_a_classifier_is_left_alone_unless_named():
    """VGG's has ReLUs between linear layers; the published code clips none of them."""
    model = filled(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 9), nn.ReLU(), nn.Linear(9, 2))
    )
    x = images(1)
    calls = {}
    for layers in (None, ["4"], ["1", "4"]):
        start = masked(x).requires_grad_()
        with clip_gradients(model, x, layers=layers) as clipping:
            torch.autograd.grad(clipping.model(start).sum(), start)
        calls[str(layers)] = [call.layer for call in clipping.calls]
    assert calls == {"None": ["1"], "['4']": ["4"], "['1', '4']": ["1", "4"]}


def test_a_question_is_looked_into():
    """Layers by the name in the network, or in the model that asks; the question's own operations don't count."""
    model, x = conv_net(), images(2)
    asking, _ = ask(model, [Question.why_not(0, 1), Question.why_group([1, 2])], 2)
    found = [
        clipped_gradient(asking, x, masked(x), target=0, layers=layers) for layers in (None, ["act"], ["model.act"])
    ]
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    start = masked(x).requires_grad_()
    with clip_gradients(model, x) as clipping:
        logits = clipping.model(start)
        (expected,) = torch.autograd.grad(-(logits[:, 0] - logits[:, 1]).sum(), start)
    torch.testing.assert_close(found[0], expected)


# --- precision ---


def test_half_precision_and_autocast():
    model, x = conv_net(), images(1)
    half = clipped_gradient(conv_net().bfloat16(), x.bfloat16(), masked(x).bfloat16())
    assert half.dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        found = clipped_gradient(model, x, masked(x), "ivm")
    assert found.dtype == torch.float32
    exact = clipped_gradient(model, x, masked(x))
    for other in (half.float(), clipped_gradient(model, x, masked(x).float())):
        assert torch.cosine_similarity(other.flatten(), exact.flatten(), 0) > 0.9


def test_values_of_another_precision_are_not_compared():
    model, x = around(torch.relu), images(1)
    with pytest.raises(RuntimeError, match="same autocast"), clip_gradients(model, x, mode="vm") as clipping:
        with torch.autocast("cpu", torch.bfloat16):
            clipping.model(x)


# --- no trace ---


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_nothing_is_left_behind(error):
    model, x = conv_net(), images(1)
    start = masked(x).requires_grad_()
    (plain,) = torch.autograd.grad(-model(start)[:, 0].sum(), start)
    with untouched(model):
        clipped_gradient(model, x, start)
    with untouched(model), pytest.raises(error, match="stop"):
        with clip_gradients(model, x):
            raise error("stop")
    assert torch.equal(torch.autograd.grad(-model(start)[:, 0].sum(), start)[0], plain)


def test_the_model_itself_is_unclipped_inside_the_block_too():
    model, x = conv_net(), images(1)
    start = masked(x).requires_grad_()
    (plain,) = torch.autograd.grad(-model(start)[:, 0].sum(), start)
    with clip_gradients(model, x) as clipping:
        (clipped,) = torch.autograd.grad(-clipping.model(start)[:, 0].sum(), start)
        assert torch.equal(torch.autograd.grad(-model(start)[:, 0].sum(), start)[0], plain)
        assert torch.equal(clipping.model(start), model(start))
    assert not torch.equal(clipped, plain)
    assert not any(p.requires_grad for p in clipping.model.parameters())


def test_calling_forward_is_clipped_as_well():
    model, x = conv_net(), images(1)
    start = masked(x).requires_grad_()
    with clip_gradients(model, x) as clipping:
        (found,) = torch.autograd.grad(-clipping.model.forward(start)[:, 0].sum(), start)
    assert torch.equal(found, clipped_gradient(model, x, start))


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_pass_that_was_broken_off_does_not_disturb_the_next(error):
    broken = [False]

    def act(h):
        a = h.relu()
        if broken[0]:
            raise error("stop")
        return a.relu()

    model, x = around(act), images(1)
    expected = clipped_gradient(model, x, masked(x))
    start = masked(x).requires_grad_()
    with untouched(model), clip_gradients(model, x) as clipping:
        broken[0] = True
        with pytest.raises(error, match="stop"):
            clipping.model(start)
        broken[0] = False
        assert torch.equal(torch.autograd.grad(-clipping.model(start)[:, 0].sum(), start)[0], expected)


# --- warnings and errors ---


@pytest.mark.parametrize(
    ("model", "layers", "message"),
    [
        (around(nn.Tanh()), None, "it calls tanh (called 1 times)"),
        (around(nn.Identity()), None, "it calls no other activation"),
        (around(nn.ReLU()), ["first"], "none runs inside the given layers; the model calls relu in 'act'"),
        (filled(nn.Sequential(nn.Flatten(), nn.Linear(192, 4), nn.ReLU())), None, "relu in '2'"),
    ],
)
def test_nothing_to_clip_is_an_error_that_says_what_is_there(model, layers, message):
    with untouched(model), pytest.raises(NothingToClip, match=re.escape(message)) as error:
        clipped_gradient(model, images(1), images(1), layers=layers)
    assert "rule 'none'" in str(error.value)
    start = images(1).requires_grad_()
    expected = torch.autograd.grad(-model(start)[:, 0].sum(), start)[0]
    assert torch.equal(clipped_gradient(model, images(1), start, "none"), expected)


def test_no_gradient_through_the_clipped_activations_is_a_warning():
    model, x = conv_net(), images(1).requires_grad_()
    with pytest.warns(NothingClipped, match=r"run clipping.model \(not the model itself\)"), clip_gradients(model, x):
        torch.autograd.grad(model(x).sum(), x)
    with warnings.catch_warnings(), clip_gradients(model, x, mode="none") as clipping:
        warnings.simplefilter("error")
    assert clipping.calls == ()


@pytest.mark.parametrize("count", [1, 3])
def test_a_batch_that_is_no_multiple_is_refused(count):
    model = conv_net()
    with untouched(model), pytest.raises(ValueError, match=f"given {count} inputs, and the reference has 2"):
        clipped_gradient(model, images(2), images(count))


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda h: h.relu() if h.mean() > 100 else h.relu().relu(), "2 activations were called, now 1"),
        (lambda h: h.relu().relu() if h.mean() > 100 else h.relu(), "1 activations were called, now there are more"),
        (
            lambda h: F.gelu(h) if h.mean() > 100 else h.relu(),
            "activation 1 was relu in the model itself, now it is gelu",
        ),
        (lambda h: h[:, :2].relu().repeat(1, 3, 1, 1) if h.mean() > 100 else h.relu(), "now [1, 2, 8, 8] for 1"),
    ],
)
def test_a_model_that_takes_other_steps_is_refused(act, message):
    """What it does depends on how bright the image is."""
    model = around(act)
    bright = (model.first.weight.sum((0, 2, 3)).sign() * 1e4).view(1, 3, 1, 1).expand(1, 3, 8, 8)
    with pytest.raises(RuntimeError, match=re.escape(message)):
        clipped_gradient(model, images(1), bright)


def test_what_cannot_be_right_is_refused():
    model, x = conv_net(), images(1)
    compiled = conv_net()
    compiled._compiled_call_impl = compiled._call_impl  # what compile() sets
    numbered = nn.Sequential(nn.Sequential(*[nn.ReLU() for _ in range(12)]))
    for error, call, message in [
        (
            ValueError,
            lambda: clipped_gradient(model, x, x, "ibn"),
            "clipping mode must be .* got 'ibn'; did you mean 'ibm'",
        ),
        (ValueError, lambda: clipped_gradient(model, x, x, layers=["conv3"]), "'conv3' not found.*did you mean"),
        (ValueError, lambda: clipped_gradient(numbered, x, x, layers=["0.12"]), r"this model has 0.0 \.\.\. 0.11"),
        (ValueError, lambda: clipped_gradient(model, x * float("nan"), x), "NaN or infinite"),
        (ValueError, lambda: clipped_gradient(model, x[:0], x), "holds no inputs"),
        (ValueError, lambda: clipped_gradient(conv_net().train(), x, x), "train mode"),
        (ValueError, lambda: clipped_gradient(compiled, x, x), "is compiled"),
        (TypeError, lambda: clipped_gradient(model.forward, x, x), "got method"),
    ]:
        with untouched(model), pytest.raises(error, match=message):
            call()


# --- when clipping turns a map round ---


def two_detours(evidence: float) -> nn.Sequential:
    """``logit = evidence * relu(x1 + x2) + 2 v' - v`` with ``v = v' = relu(x1 - 2 x2)``."""
    model = nn.Sequential(nn.Linear(2, 3, bias=False), nn.ReLU(), nn.Linear(3, 1, bias=False)).eval()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 1.0], [1.0, -2.0], [1.0, -2.0]]))
        model[2].weight.copy_(torch.tensor([[evidence, -1.0, 2.0]]))
    return model


def test_one_layer_can_turn_a_map_round():
    """All pixels shown, v and v' are silent (-1); with x2 masked they are 1.

    dL/dx for L = -logit. Evidence: -1/2 (1, 1). v: g = 1, so 1 (1, -2). v': g = -2, so -2 (1, -2).
    The true sum (-3/2, 3/2) says: raise x1. Under ibm v' may not rise, and (1/2, -5/2) says:
    lower x1. Without the detours, (-1/2, -1/2): raise both.
    """
    model, full, x2_masked = two_detours(0.5), torch.tensor([[1.0, 1.0]]), torch.tensor([[1.0, 0.0]])
    assert model(full).item() == 1
    assert model(x2_masked).item() == 1.5
    gradients = {mode: clipped_gradient(model, full, x2_masked, mode, layers=["1"]).tolist()[0] for mode in RULES}
    assert clipped_gradient(model, full, x2_masked, "none").tolist() == [[-1.5, 1.5]]
    assert gradients["ibm"] == [0.5, -2.5]
    assert gradients["silent"] == [-0.5, -0.5]


ORIGINAL = torch.ones(1, 2, 1, 1, dtype=torch.float64)
MASKED = torch.tensor([1.0, 0.25], dtype=torch.float64).view(1, 2, 1, 1)


@pytest.mark.parametrize("depth", range(1, 7))
def test_the_bias_of_each_layer_compounds(depth):
    """Blocks that compute nothing: g2 grows by 1 + 2/8 each, and the push on pixel 1 is 1 - (1.25^D - 1) / 2."""
    model = identity_blocks(depth)
    assert model(MASKED).item() == 1.25
    growth = 1.25**depth
    assert push(model, ORIGINAL, MASKED, "ibm").flatten().tolist() == [1 - (growth - 1) / 2, growth]
    assert (growth > 3) == (depth >= 5)  # from here on pixel 1 is pushed down
    assert push(model, ORIGINAL, MASKED, "none").flatten().tolist() == [1, 1]


def test_clipping_late_layers_bounds_the_bias_and_silent_has_none():
    for depth in (2, 6, 12):
        model = identity_blocks(depth)
        late = push(model, ORIGINAL, MASKED, "ibm", layers=blocks_of(model, 2))
        assert late.flatten().tolist() == [1 - (1.25**2 - 1) / 2, 1.25**2]
        assert push(model, ORIGINAL, MASKED, "silent").flatten().tolist() == [1, 1]


def test_a_strong_detour_inverts_in_one_late_layer():
    """Late clipping is a bound, not a cure: with c = 2 one block gives 1 - (5 - 1) / 2 = -1."""
    model = identity_blocks(6, c=2.0)
    assert push(model, ORIGINAL, MASKED, "ibm", layers=blocks_of(model, 1)).flatten().tolist() == [-1, 5]


@pytest.mark.parametrize("mode", MODES)
def test_renormalising_each_layer_changes_no_sign(mode):
    """The rules take c g to c times what they make of g, so in a chain a positive factor goes right through."""
    plain = push(identity_blocks(6), ORIGINAL, MASKED, mode).flatten()
    scaled = push(identity_blocks(6, act=RenormalisedReLU), ORIGINAL, MASKED, mode).flatten()
    torch.testing.assert_close(scaled / scaled.norm(), plain / plain.norm())
    if mode == "ibm":
        assert scaled[0] < 0 < scaled[1]
        assert scaled.norm() != plain.norm()


@pytest.mark.parametrize("seed", range(5))
def test_what_ibm_adds_leads_back_to_the_original(seed):
    """One hidden layer: units that were silent and are not have a preactivation that rose on the way here.

    ibm adds to "silent" a push down on these alone, so (g_ibm - g_silent) (x - x0) is a sum of nothing negative.
    """
    first, x = conv_net(seed).conv1, images(1, seed=seed, dtype=torch.float64)
    model = nn.Sequential(first, nn.ReLU(), nn.Flatten(), filled(nn.Linear(512, 3))).double().eval()
    now = masked(x, seed)
    added = clipped_gradient(model, x, now) - clipped_gradient(model, x, now, "silent")
    assert (added * (now - x)).sum() > 0


def test_under_ibm_a_pixel_can_be_hidden_both_for_a_class_and_against_it():
    """With L = logit, g starts at (1, 1), g2 shrinks by 1 - 2/8 and the push on pixel 1 is -1 - (1 - 0.75^D) / 2."""
    model = identity_blocks(6)
    against = push(model, ORIGINAL, MASKED, "ibm", sign=-1)
    assert against.flatten().tolist() == [-1 - (1 - 0.75**6) / 2, -(0.75**6)]
    assert push(model, ORIGINAL, MASKED, "ibm")[0, 0] < 0
    assert push(model, ORIGINAL, MASKED, "silent", sign=-1).flatten().tolist() == [-1, -1]
