"""The readout is exact, local where it says so, and leaves no trace."""

from __future__ import annotations

import copy
import gc
import weakref

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.networks import conv_net, images, two_layers, untouched
from xai_align import FeatureSpace, Question, Split, read_out, read_out_all_classes
from xai_align.features.spatial import contribution_map
from xai_align.pinet import CompletenessError, ExactPiNet, LocalReadout, UnknownOperation, register_rule
from xai_align.pinet.gates import rule_registry


def test_contributions_worked_by_hand():
    # x = (1, 2): h = relu(1 + 4 + 1, 3 - 2 - 2) = (6, 0), so logits = (12.5, -6.5).
    # The first unit is open: d logit_0 / d x = 2 * (1, 2); its bias adds 2 * 1 to b2_0 = 0.5.
    readout = read_out(two_layers(), torch.tensor([[1.0, 2.0]]), 0)
    assert readout.contributions.tolist() == [[2.0, 8.0]]
    assert readout.bias.tolist() == [2.5]
    assert readout.answer.tolist() == [12.5]
    assert readout.completeness_error.tolist() == [0.0]
    assert readout.kind == "frozen"


def test_contrast_worked_by_hand():
    readout = read_out(two_layers(), torch.tensor([[1.0, 2.0]]), Question.why_not(0, 1))
    assert readout.answer.tolist() == [19.0]
    assert readout.contributions.tolist() == [[3.0, 12.0]]
    assert readout.bias.tolist() == [4.0]


ACTIVATIONS = [
    nn.ReLU,
    nn.GELU,
    nn.SiLU,
    nn.Hardswish,
    nn.ReLU6,
    nn.Tanh,
    nn.Softplus,
    nn.ELU,
    nn.LeakyReLU,
    nn.Mish,
]


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    act=st.sampled_from(ACTIVATIONS),
    depth=st.integers(1, 4),
    scale=st.floats(0.01, 30),
)
def test_sum_is_exact_for_any_mlp(seed, act, depth, scale):
    torch.manual_seed(seed)
    layers = [layer for _ in range(depth) for layer in (nn.Linear(6, 6), act())]
    model = nn.Sequential(*layers, nn.Linear(6, 3)).double().eval()
    x = scale * torch.randn(4, 6, dtype=torch.float64)
    readout = read_out(model, x, [0, 1, 2, 0])
    assert readout.relative_error.max() < 1e-11
    assert torch.allclose(readout.logits, model(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("place", ["input", "conv1", "pool", "conv2"])
def test_every_feature_space_of_a_network_is_exact(place):
    model, x = conv_net().double(), images(dtype=torch.float64)
    readout = read_out(model, x, 1, place)
    total = readout.contributions.flatten(1).sum(1) + readout.bias
    assert torch.allclose(total, model(x)[:, 1], rtol=1e-12)
    assert readout.feature_space.layer == place


@pytest.mark.parametrize(
    "question",
    [
        Question.why(1),
        Question.why_not(1, 2),
        Question.why_not_rest(1, [0, 1, 2]),
        Question.why_group([1, 3]),
        Question.why_group_not([1, 3], [0, 2]),
        Question.against_all(1),
        Question.why_group([0, 1], score="mean"),
        Question.why_group([0, 1], score="max"),
        Question.why_group([0, 1], score="sum"),
    ],
    ids=str,
)
def test_every_question_is_accounted_for(question):
    model, x = conv_net().double(), images(3, dtype=torch.float64)
    readout = read_out(model, x, question)
    expected = torch.stack([question.answer(row) for row in model(x)])
    assert torch.allclose(readout.answer, expected, rtol=1e-12)
    assert readout.relative_error.max() < 1e-12


def test_examples_do_not_depend_on_their_batch():
    model, x = conv_net(), images(3)
    together = read_out(model, x, [0, 1, 2])
    alone = [read_out(model, x[i : i + 1], i) for i in range(3)]
    assert torch.allclose(together.contributions, torch.cat([r.contributions for r in alone]), atol=1e-6)
    assert torch.allclose(together.bias, torch.cat([r.bias for r in alone]), atol=1e-6)


def split_of(model: nn.Module) -> FeatureSpace:
    def head(z):
        return model.fc(z.mean((2, 3)))

    return FeatureSpace(
        layer="head",
        split=Split(lambda x: model.act(model.conv2(model.pool(model.act(model.norm(model.conv1(x)))))), head),
    )


def test_local_readout_answers_to_deletion():
    model, x = conv_net().double(), images(1, dtype=torch.float64)
    space = split_of(model)
    readout = read_out(model, x, 2, space)
    assert readout.kind == "local"
    z = space.split.features(x).detach()
    for row, column in ((0, 0), (1, 3), (3, 2)):
        without = z.clone()
        without[:, :, row, column] = 0
        fall = readout.answer - space.split.head(without)[:, 2]
        assert torch.allclose(fall, readout.contributions[:, :, row, column].sum(1), rtol=1e-10)


def test_local_agrees_with_frozen_gates_at_the_same_place():
    model, x = conv_net().double(), images(dtype=torch.float64)
    local = read_out(model, x, 2, split_of(model))
    model.last = nn.Identity()

    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.model, self.z = model, nn.Identity()

        def forward(self, x):
            space = split_of(self.model)
            return space.split.head(self.z(space.split.features(x)))

    frozen = read_out(Named().eval(), x, 2, "z")
    assert (local.kind, frozen.kind) == ("local", "frozen")
    assert torch.allclose(local.contributions, frozen.contributions, atol=1e-12)
    assert torch.allclose(local.bias, frozen.bias, atol=1e-12)


def test_all_classes_at_once_agree_with_one_at_a_time():
    model, x = conv_net().double(), images(2, dtype=torch.float64)
    space = split_of(model)
    every = read_out_all_classes(model, x, space)
    for k in range(5):
        one = read_out(model, x, k, space)
        assert torch.allclose(every.maps[:, k], one.contributions.sum(1), atol=1e-12)
        assert torch.allclose(every.bias[k].expand(2), one.bias, atol=1e-12)
    assert every.completeness_error.abs().max() < 1e-12


def test_all_classes_refuse_a_head_that_is_not_affine():
    model = conv_net()
    bent = FeatureSpace(layer="bent", split=Split(model.conv1, lambda z: model.fc(z.mean((2, 3)).tanh())))
    for place in (bent, "conv2"):
        with pytest.raises(ValueError, match="not local"):
            read_out_all_classes(model, images(), place)


def test_all_classes_of_a_head_that_weighs_positions():
    class Uneven(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.fc = conv_net().conv1, conv_net().fc
            self.weights = torch.linspace(0, 1, 64, dtype=torch.float64).view(8, 8)

        def head(self, z):
            return self.fc((z * self.weights).sum((2, 3)))

        def forward(self, x):
            return self.head(self.conv1(x))

    model, x = Uneven().double().eval(), images(dtype=torch.float64)
    uneven = FeatureSpace(layer="uneven", split=Split(model.conv1, model.head))
    with pytest.raises(ValueError, match="mean over positions"):
        LocalReadout(model, uneven, model.conv1(x))
    every = read_out_all_classes(model, x, uneven)
    assert every.completeness_error.abs().max() < 1e-12
    one = read_out(model, x, 3, uneven)
    assert one.kind == "local"
    assert torch.allclose(every.maps[:, 3], one.contributions.sum(1), atol=1e-12)


@pytest.mark.parametrize("name", ["efficientvim_m1", "levit_128s", "hiera_tiny_224", "test_vit4"])
def test_all_classes_of_branches_and_tokens(name):
    options = {"pool_include_prefix": True, "fc_norm": False} if name == "test_vit4" else {}
    if not timm.is_model(name):
        pytest.skip(f"this version of timm has no {name}")
    model = timm.create_model(name, num_classes=5, **options).eval().double()
    if name == "hiera_tiny_224":
        model.head.norm = nn.Identity()  # an average of tokens that are in an order of their own
    size = model.default_cfg["input_size"][-1]
    x = torch.randn(2, 3, size, size, dtype=torch.float64)
    every, one = read_out_all_classes(model, x), read_out(model, x, 2, "head")
    assert one.kind == "local"
    assert every.completeness_error.abs().max() < 1e-10
    assert torch.allclose(every.prefix[:, 2], one.prefix, atol=1e-12)
    parts = one.contributions if isinstance(one.contributions, tuple) else (one.contributions,)
    maps = every.maps if isinstance(every.maps, tuple) else (every.maps,)
    for cells, part in zip(maps, parts, strict=True):
        assert torch.allclose(cells[:, 2], contribution_map(part, one.feature_space, (size, size)), atol=1e-12)


def test_local_readout_needs_no_gradient_and_compiles():
    model, x = conv_net(), images()
    space = split_of(model)
    expected = read_out(model, x, 2, space)
    with torch.inference_mode():
        readout = read_out(model, images(), 2, space)
        every = read_out_all_classes(model, images(), space)
    assert torch.allclose(readout.contributions, expected.contributions, atol=1e-7)
    module = LocalReadout(model, space, space.split.features(x))
    compiled = torch.compile(module, backend="eager", fullgraph=True)
    with torch.no_grad():
        logits, cells, bias = compiled(x)
    assert torch.allclose(cells, every.maps.flatten(2), atol=1e-6)
    assert torch.allclose(cells.sum(-1) + bias, logits, atol=1e-6)


def test_compiled_and_parallel_models_are_read_like_their_network():
    model, x = conv_net(), images()
    expected = read_out(model, x, 1)
    for wrapped in (torch.compile(model, backend="eager"), nn.DataParallel(model)):
        assert torch.equal(read_out(wrapped, x, 1).contributions, expected.contributions)


class TripledParallel(nn.DataParallel):
    def forward(self, *inputs):
        return 3 * super().forward(*inputs)


class TripledRetrofit(ExactPiNet):
    def forward(self, *inputs):
        return 3 * super().forward(*inputs)


@pytest.mark.parametrize("wrap", [TripledParallel, TripledRetrofit])
def test_wrappers_that_compute_something_are_refused(wrap):
    with pytest.raises(ValueError, match=f"{wrap.__name__} around ConvNet and has a forward function of its own"):
        read_out(wrap(conv_net()), images(), 1)


@pytest.mark.parametrize("wrap", [nn.DataParallel, ExactPiNet, lambda model: torch.compile(model, backend="eager")])
@pytest.mark.parametrize("before", [False, True])
def test_wrappers_with_hooks_are_refused_and_hooks_inside_are_read(wrap, before):
    def register(module):
        if before:
            return module.register_forward_pre_hook(lambda module, given: (2 * given[0],))
        return module.register_forward_hook(lambda module, given, output: 3 * output)

    model, x = conv_net(), images()
    wrapped = wrap(model)
    handle = register(wrapped)
    with pytest.raises(ValueError, match="around ConvNet and has forward hooks of its own"):
        read_out(wrapped, x, 1)
    handle.remove()
    plain = model(x)[:, 1]
    register(model)
    answer = read_out(wrapped, x, 1).answer
    assert torch.allclose(answer, model(x)[:, 1], atol=1e-5)
    assert not torch.allclose(answer, plain, atol=1e-2)


def living_tensors() -> int:
    gc.collect()
    return sum(1 for thing in gc.get_objects() if issubclass(type(thing), torch.Tensor))


@pytest.mark.parametrize(
    ("dtype", "computed"),
    [(torch.bfloat16, torch.float32), (torch.float16, torch.float32), (torch.float64, torch.float64)],
)
def test_coefficients_are_computed_in_float32_or_better(dtype, computed):
    model, x = conv_net().to(dtype), images(dtype=dtype)
    readout = read_out(model, x, 1)
    wide = read_out(conv_net().to(dtype).to(computed), x.to(computed), 1)
    assert readout.contributions.dtype == computed
    assert torch.equal(readout.contributions, wide.contributions)
    assert torch.allclose(readout.logits.to(dtype), model(x), rtol=0.05, atol=0.05)


def test_autocast():
    model, x = conv_net(), images()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        readout = read_out(model, x, 1)
    assert readout.relative_error.max() < 3e-2
    assert torch.allclose(readout.answer.float(), model(x)[:, 1], atol=5e-2)


# ---------------------------------------------------------------- networks that write, branch, surprise


class Writes(nn.Module):
    """Writes into its input, into an attention map that is a gate, and into views."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 6)

    def forward(self, x):
        x -= 0.5
        gate = self.fc(x).softmax(-1)
        gate.mul_(0.1)
        gate += 1
        y = x * gate
        y[:, :3] *= 2
        h = torch.relu_(self.fc(y))
        h[:, 0] = 0
        return h * gate


def test_writing_in_place():
    torch.manual_seed(0)
    model, x = Writes().double().eval(), torch.randn(3, 6, dtype=torch.float64)
    kept = x.clone()
    readout = read_out(model, x, 2)
    assert torch.equal(x, kept)
    assert torch.allclose(readout.answer, model(kept.clone())[:, 2], rtol=1e-12)
    assert readout.relative_error.max() < 1e-12


class Branches(nn.Module):
    """Goes one of two ways by a value that depends on the input."""

    def forward(self, x):
        if x.sum() > 0:
            return torch.where(x > 0.1, x.square(), -x)
        return x.abs()


@pytest.mark.parametrize("sign", [1, -1])
def test_decisions_are_held(sign):
    x = sign * torch.tensor([[0.5, 0.05, 2.0]], dtype=torch.float64)
    readout = read_out(Branches().eval(), x, 0)
    assert readout.relative_error.max() < 1e-12
    assert torch.allclose(readout.answer, Branches()(x)[:, 0])


class Random(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 2)

    def forward(self, x):
        return self.fc(x + torch.rand_like(x))


def test_a_network_that_answers_at_random_has_no_readout():
    model, x = Random().eval(), torch.randn(2, 4)
    with untouched(model), pytest.raises(CompletenessError, match="other logits at every call"):
        read_out(model, x, 0)


class Hidden(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.exp()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * ctx.saved_tensors[0].exp()


def test_an_operation_that_cannot_be_seen_is_found_by_the_check():
    class Hides(nn.Module):
        def forward(self, x):
            return Hidden.apply(x)

    with pytest.raises(CompletenessError, match="custom autograd function"):
        read_out(Hides().eval(), torch.randn(2, 4), 0)


class Unruly(nn.Module):
    def forward(self, x):
        return torch.special.bessel_j0(x)


def test_unknown_operations_are_named_with_their_module():
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(Unruly())).eval()
    x = torch.randn(2, 4)
    with (
        pytest.raises(UnknownOperation, match=r"'special_bessel_j0'.*module '1\.0' \(Unruly\)"),
        untouched(model),
    ):
        read_out(model, x, 0)


def test_rules_can_be_taught(monkeypatch):
    monkeypatch.setattr(rule_registry, "_rules", dict(rule_registry._rules))

    @register_rule("special_bessel_j0")
    def as_a_gate(gates, func, x):
        return x * gates.save(lambda: func(x) / x)

    model = nn.Sequential(nn.Linear(4, 4), Unruly()).double().eval()
    x = torch.randn(2, 4, dtype=torch.float64)
    readout = read_out(model, x, 0)
    rule_registry._found.clear()
    assert readout.relative_error.max() < 1e-12
    assert torch.allclose(readout.answer, model(x)[:, 0])


# ---------------------------------------------------------------- no trace


def test_nothing_of_the_model_changes():
    model, x = conv_net(), images()
    model.conv1.weight.grad = torch.ones_like(model.conv1.weight)
    model.fc.bias.requires_grad_(False)
    for place in (None, "conv2", split_of(model)):
        with untouched(model):
            read_out(model, x, 1, place)
    assert not x.requires_grad
    assert x.grad is None


def test_nothing_changes_after_an_error_either():
    model, x = conv_net(), images()
    model.conv1.weight.grad = torch.ones_like(model.conv1.weight)
    with untouched(model), pytest.raises(IndexError):
        read_out(model, x, 99)
    with untouched(model), pytest.raises(RuntimeError):
        read_out(model, x[:, :2], 0)
    with untouched(model), pytest.raises(ValueError, match="did not run"):
        read_out(model, x, 0, "unused")


def test_gates_are_freed_on_return():
    model, x = conv_net(), images()

    read_out(model, x, 1)
    before = living_tensors()
    for _ in range(20):
        read_out(model, x, 1)
    assert living_tensors() <= before


def test_gates_are_freed_without_the_garbage_collector(monkeypatch):

    seen = []

    from xai_align.pinet import recording_mode

    class Watched(recording_mode.FrozenGates):
        def save(self, compute):
            value = super().save(compute)
            seen.extend(
                weakref.ref(leaf) for leaf in torch.utils._pytree.tree_leaves(value) if isinstance(leaf, torch.Tensor)
            )
            return value

    monkeypatch.setattr(recording_mode, "FrozenGates", Watched)
    gc.disable()
    try:
        read_out(conv_net(), images(), 1)
        assert seen
        assert not any(reference() is not None for reference in seen)
    finally:
        gc.enable()


def test_a_failed_readout_frees_its_gates():
    model = nn.Sequential(nn.Linear(4, 4), nn.GELU(), Unruly()).eval()
    before = living_tensors()
    for _ in range(5):
        with pytest.raises(UnknownOperation):
            read_out(model, torch.randn(2, 4), 0)
    assert living_tensors() <= before


def test_copies_read_themselves():
    pinet = timm.create_model("test_resnet").eval()
    from xai_align import ExactPiNet

    first = ExactPiNet(pinet)
    second = copy.deepcopy(first)
    with torch.no_grad():
        second.backbone.fc.weight.mul_(2)
    x = images(1, 64)
    assert torch.allclose(2 * first.read_out(x, 3).contributions, second.read_out(x, 3).contributions, rtol=1e-5)


def test_inputs_that_require_grad_are_read_out_like_any():
    model, x = conv_net(), images(2)
    asked = x.clone().requires_grad_()
    for space in ("input", "conv2"):
        plain, found = (read_out(model, given, 1, space) for given in (x, asked))
        assert torch.equal(plain.contributions, found.contributions)
    assert asked.requires_grad
    assert asked.grad is None
