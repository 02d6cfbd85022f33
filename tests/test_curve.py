"""The perturbation engine against loops one can read, and what it promises and refuses."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.networks import AddsNoise, CentresItsBatch, conv_net, images, untouched
from xai_align.perturbation.curve import iterate_curves, perturbation_curve, perturbation_curves
from xai_align.perturbation.fills import Noise
from xai_align.perturbation.spec import PerturbationSpec, grid_mask, removed_count

SOME = (0.0, 0.25, 0.5, 0.8, 1.0)


def maps(count=3, size=8, seed=3):
    return torch.randn(count, size, size, generator=torch.Generator().manual_seed(seed))


def by_loop(model, x, a, fractions, fill, order="morf"):
    """One image and one fraction at a time, with lists."""
    rows = []
    for image, scores in zip(x, a, strict=True):
        best_first = sorted(range(scores.numel()), key=lambda i: (-scores.flatten()[i].item(), i))
        for fraction in fractions:
            count = int(fraction * len(best_first) + 1e-9)
            gone = best_first[:count] if order == "morf" else best_first[len(best_first) - count :]
            changed = image.clone().flatten(1)
            for i in gone:
                changed[:, i] = fill.flatten(1)[:, i]
            rows.append(model(changed.reshape(1, *image.shape))[0].softmax(0))
    return torch.stack(rows).reshape(len(x), len(fractions), -1).detach()


@pytest.mark.parametrize("order", ["morf", "lerf"])
@pytest.mark.parametrize("fill", [0.0, Noise()])
def test_a_curve_is_that_of_a_loop(order, fill):
    model, x, a = conv_net(), images(3), maps()
    values = Noise()(x)[0] if isinstance(fill, Noise) else torch.zeros(3, 8, 8)
    curve = perturbation_curve(model, x, a, fractions=SOME, order=order, baselines=fill)
    torch.testing.assert_close(curve.masked, by_loop(model, x, a, SOME, values, order), rtol=0, atol=1e-6)
    torch.testing.assert_close(curve.clean, model(x).softmax(1), rtol=0, atol=1e-6)


def test_one_pass_gives_what_many_give():
    model, x, a = conv_net(), images(3), maps()
    series = [
        PerturbationSpec("blur", "lerf", SOME),
        PerturbationSpec(0.0, "morf", SOME, layers=True),
        PerturbationSpec("zero", "morf", (0.5,)),
        PerturbationSpec(0.0, "single", (0.25, 1.0), grid=(2, 2)),
        PerturbationSpec("noisy_linear", "morf", SOME),
    ]
    together = perturbation_curves(model, x, a, series, layers=["conv1", "conv2"])
    for one, curve in zip(series, together, strict=True):
        (alone,) = perturbation_curves(model, x, a, [one], layers=["conv1", "conv2"], internal_batch_size=1)
        torch.testing.assert_close(curve.masked, alone.masked, rtol=0, atol=1e-6)
        if one.layers:
            torch.testing.assert_close(curve.deviations.values, alone.deviations.values, equal_nan=True)


def test_the_network_sees_each_input_once():
    """The unperturbed input, and inputs with everything removed, are shared by all series of a fill."""
    seen = []
    model, x, a = conv_net(), images(2), maps(2)

    def counting(x):
        seen.append(len(x))
        return model(x)

    perturbation_curves(counting, x, a, [PerturbationSpec(0.0, order, (0.0, 0.5, 1.0)) for order in ("morf", "lerf")])
    # as it is, everything removed, half removed in two orders; and the first one again, beside another
    assert sum(seen) == 2 * 4 + 2


@pytest.mark.parametrize("size", [1, 2, 100])
def test_results_do_not_depend_on_batches_and_mates(size):
    model, x, a = conv_net(), images(20), maps(20)
    whole = perturbation_curve(model, x, a)
    assert whole.masked.shape == (20, 9, 5)
    part = perturbation_curve(model, x[17:19], a[17:19], internal_batch_size=size)
    torch.testing.assert_close(part.masked, whole.masked[17:19], rtol=0, atol=1e-6)


@pytest.mark.parametrize(("asked", "most"), [({}, 6), ({"internal_batch_size": 4}, 4)])
def test_so_many_inputs_go_through_the_network_at_once(asked, most):
    """Six on a processor, unless the caller says otherwise."""
    seen = []
    perturbation_curve(lambda x: seen.append(len(x)) or x, torch.rand(3, 8), torch.rand(3, 8), activation=None, **asked)
    assert max(seen) == most


def test_more_examples_than_are_held_at_once():
    """Eighteen of them, in two pieces: each has its own fill and its own layers."""
    model, x, a = conv_net(), images(18), maps(18)
    fill = images(18, seed=9)
    curve = perturbation_curve(model, x, a, fractions=SOME, baselines=fill)
    last = by_loop(model, x[17:], a[17:], SOME, fill[17])
    torch.testing.assert_close(curve.masked[17:], last, rtol=0, atol=1e-6)
    (watched,) = perturbation_curves(
        model, x, a, [PerturbationSpec(0.0, "morf", (0.5,), layers=True)], layers=["conv1"]
    )
    (alone,) = perturbation_curves(
        model, x[17:], a[17:], [PerturbationSpec(0.0, "morf", (0.5,), layers=True)], layers=["conv1"]
    )
    assert watched.deviations.layers == ("conv1",)
    assert watched.deviations.values.shape[:3] == (18, 1, 1)
    torch.testing.assert_close(watched.deviations.values[17:], alone.deviations.values, equal_nan=True)
    (unwatched,) = perturbation_curves(model, x, a, [PerturbationSpec(0.0, "morf", (0.5,))], layers=["conv1"])
    assert unwatched.deviations is None


@pytest.mark.parametrize("shape", [(18,), (1, 18), (18, 18)])
def test_labels_for_all_examples_are_not_cut_into_pieces(shape):
    """Eighteen examples of eighteen features in two regions: half of them is the better region."""
    x = torch.arange(1.0, 19).expand(18, 18)
    mask = (torch.arange(18) // 9).expand(shape)
    curve = perturbation_curve(lambda x: x, x, x, fractions=(0.5,), feature_mask=mask, activation=None)
    assert curve.masked[:, 0].tolist() == [[float(k) for k in range(1, 10)] + [0.0] * 9] * 18


def test_a_progress_bar_counts_examples(monkeypatch):
    told = []

    class Bar:
        """Stands for tqdm's."""

        def __init__(self, *, total, desc, leave, **options):
            told.append((desc, total, leave))

        def __enter__(self):
            return self

        def __exit__(self, *error):
            told.append("closed")

        def update(self, steps):
            told.append(steps)

    monkeypatch.setattr("tqdm.auto.tqdm", Bar)
    x = torch.rand(20, 4)
    perturbation_curve(lambda x: x, x, x)
    perturbation_curves(lambda x: x, x, x, [PerturbationSpec()])
    list(iterate_curves(lambda x: x, x, x, [PerturbationSpec()]))
    assert told == []
    perturbation_curve(lambda x: x, x, x, show_progress=True)
    assert told == [("perturbing", 20, False), 16, 4, "closed"]


def test_a_curve_says_how_outputs_became_probabilities():
    x = torch.rand(17, 4)
    for activation in ("auto", "softmax", "sigmoid", None):
        assert perturbation_curve(lambda x: x, x, x, activation=activation).activation == activation
    assert perturbation_curve(lambda x: x, x, x).activation == "auto"


def test_least_relevant_first_is_the_reverse_also_among_ties():
    x = torch.arange(1.0, 5).reshape(1, 4)
    a = torch.tensor([[1.0, 1.0, 0.0, 1.0]])
    left = {
        "morf": [[0, 2, 3, 4], [0, 0, 3, 4], [0, 0, 3, 0]],
        "lerf": [[1, 2, 0, 4], [1, 2, 0, 0], [1, 0, 0, 0]],
    }
    for order in left:
        with pytest.warns(UserWarning, match="share their score"):
            curve = perturbation_curve(lambda x: x, x, a, fractions=(0.25, 0.5, 0.75), order=order, activation=None)
        assert curve.masked[0].tolist() == left[order]


def test_single_removes_one_feature_alone():
    x = torch.arange(1.0, 5).reshape(1, 4)
    (curve,) = perturbation_curves(
        lambda x: x,
        x,
        torch.tensor([[0.1, 0.4, 0.3, 0.2]]),
        [PerturbationSpec(0.0, "single", (0.25, 0.5))],
        activation=None,
    )
    assert curve.masked[0].tolist() == [[1, 0, 3, 4], [1, 2, 0, 4]]
    assert curve.scores[0].tolist() == pytest.approx([0.4, 0.3, 0.2, 0.1])


def test_tokens_and_ids():
    ids = torch.tensor([[5, 6, 7]])
    embedding = nn.Embedding(10, 2)
    scores = torch.tensor([[1.0, 3.0, 2.0]])
    asked = {"fractions": (2 / 3,), "activation": None}
    curve = perturbation_curve(lambda i: embedding(i).sum(1), ids, scores, baselines=9, **asked)
    torch.testing.assert_close(curve.masked[0, 0], embedding(torch.tensor([5, 9, 9])).sum(0).detach())
    vectors = embedding(ids).detach()
    curve = perturbation_curve(lambda v: v.sum(1), vectors, scores, **asked)
    torch.testing.assert_close(curve.masked[0, 0], vectors[0, 0])


@given(st.integers(1, 5000), st.integers(0, 1000))
@settings(max_examples=200, deadline=None)
def test_counts_are_exact(features, thousandths):
    assert removed_count(thousandths / 1000, features) == thousandths * features // 1000


def test_an_equal_map_has_no_curve():
    model, x, a = conv_net(), images(2), maps(2)
    a[1] = 0.5
    with pytest.warns(UserWarning, match="100% of the features"):
        curve = perturbation_curve(model, x, a)
    assert curve.masked[0].isfinite().all()
    assert curve.masked[1].isnan().all()
    assert curve.clean.isfinite().all()


def test_grid_cells_have_the_images_proportions():
    mask = grid_mask((4, 6), (2, 3))
    assert mask.tolist() == [[0, 0, 1, 1, 2, 2]] * 2 + [[3, 3, 4, 4, 5, 5]] * 2
    assert grid_mask((7, 7), (3, 3)).unique().numel() == 9


def test_one_output_is_a_probability():
    x = images(2)
    curve = perturbation_curve(lambda x: x.sum((1, 2, 3), keepdim=True).flatten(1), x, maps(2))
    torch.testing.assert_close(curve.clean[:, 0], x.sum((1, 2, 3)).sigmoid())
    ((_, walked),) = iterate_curves(lambda x: x.sum((1, 2, 3)), x, maps(2), [PerturbationSpec()])
    assert torch.equal(walked[0].clean, curve.clean)
    with pytest.raises(ValueError, match="softmax of one output is always 1"):
        perturbation_curve(lambda x: x.sum((1, 2, 3)), x, maps(2), activation="softmax")


def test_further_arguments_are_cut_along():
    x, a = images(3), maps(3)
    scale = torch.tensor([1.0, 2.0, 3.0])

    def scaled(x, by, power):
        return x.mean((2, 3)) * by[:, None] ** power

    whole = perturbation_curve(scaled, x, a, additional_forward_args=(scale, 2), internal_batch_size=2)
    last = perturbation_curve(scaled, x[2:], a[2:], additional_forward_args=(scale[2:], 2))
    torch.testing.assert_close(whole.masked[2:], last.masked)


def test_only_the_network_runs_in_mixed_precision():
    model, x, a = conv_net(), images(3), maps()
    exact = perturbation_curve(model, x, a, baselines="blur")
    mixed = perturbation_curve(model, x, a, baselines="blur", autocast=torch.bfloat16)
    assert mixed.masked.dtype == torch.float32
    assert not torch.equal(mixed.masked, exact.masked)
    torch.testing.assert_close(mixed.masked, exact.masked, rtol=0, atol=2e-2)


def test_nothing_of_the_callers_changes():
    model, x, a = conv_net(), images(2).requires_grad_(), maps(2)
    before = x.detach().clone()
    with untouched(model):
        perturbation_curves(model, x, a, [PerturbationSpec("noise", layers=True)], layers=["conv1"])
    assert torch.equal(x, before)
    assert x.grad is None

    def broken(*args):
        raise RuntimeError("out of order")

    handle = model.conv2.register_forward_hook(broken)
    with untouched(model), pytest.raises(RuntimeError, match="out of order"):
        perturbation_curves(model, x, a, [PerturbationSpec("noise", layers=True)], layers=["conv1"])
    handle.remove()


@pytest.mark.parametrize("fractions", [(1.2,), (-0.1, 0.5), (), (float("nan"),)])
def test_fractions_out_of_range_are_refused(fractions):
    with pytest.raises(ValueError, match="fraction"):
        perturbation_curve(conv_net(), images(), maps(2), fractions=fractions)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: perturbation_curve(conv_net().train(), images(), maps(2)), "train mode"),
        (lambda: perturbation_curve(nn.Conv2d(3, 2, 1), images(), maps(2)), r"the network gave \[.*logits \[N, K\]"),
        (lambda: perturbation_curve(conv_net(), images(0), maps(0)), "at least one example"),
        (lambda: perturbation_curve(conv_net(), images() * torch.inf, maps(2)), "inputs must be finite"),
        (
            lambda: perturbation_curve(conv_net(), images(), maps(2), internal_batch_size=0),
            "internal_batch_size must be a positive integer, got 0",
        ),
        (
            lambda: perturbation_curve(conv_net(), images(), maps(2), order="best"),
            "order must be 'morf', 'lerf' or 'single', got 'best'",
        ),
        (lambda: perturbation_curve(conv_net(), images(), maps(2), grid=(9, 2)), "does not fit 8 x 8"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: perturbation_curve(conv_net(), images().numpy(), maps(2)), "the inputs are a ndarray"),
        (lambda: perturbation_curve(conv_net(), images(), maps(2), feature_mask=[[0] * 8] * 8), "the feature mask is"),
        (
            lambda: perturbation_curves(
                lambda x: x, images(), maps(2), [PerturbationSpec(layers=True)], layers=["conv1"]
            ),
            "hidden layers need the torch.nn.Module itself, got function",
        ),
    ],
)
def test_what_is_of_another_type_is_refused(call, message):
    with pytest.raises(TypeError, match=message):
        call()


def test_inputs_without_features_are_refused():
    with pytest.raises(ValueError, match=r"the inputs have shape \[3\]; give at least one example"):
        perturbation_curve(lambda x: x, torch.zeros(3), torch.zeros(3))


@pytest.mark.parametrize("fill", [float("nan"), float("inf")])
def test_a_fill_is_finite(fill):
    with pytest.raises(ValueError, match="fill must be a finite number"):
        PerturbationSpec(fill)


def test_the_activation_is_known():
    with pytest.raises(ValueError, match="activation must be 'auto', 'softmax' or 'sigmoid', got 'x'"):
        perturbation_curves(conv_net(), images(), images(), [PerturbationSpec()], activation="x")


@pytest.mark.parametrize("count", [1, 3, 20])
@pytest.mark.parametrize("network", [CentresItsBatch, AddsNoise])
def test_a_network_whose_answers_are_not_of_one_example_is_refused(network, count):
    with pytest.raises(ValueError, match=r"mixes the examples of a batch.*or draws random numbers"):
        perturbation_curve(network().eval(), images(count), maps(count))


class DoublesInPlace(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = conv_net()

    def forward(self, x):
        return self.inner(x.mul_(2))


@pytest.mark.parametrize("form", ["module", "function", "channels_last"])
def test_inputs_that_a_network_writes_to_stay_as_they_are(form):
    net, apart, x, a = DoublesInPlace().eval(), conv_net(), images(2), maps(2)
    given = x.contiguous(memory_format=torch.channels_last) if form == "channels_last" else x.clone()
    found = perturbation_curve((lambda z: net(z)) if form == "function" else net, given, a)
    assert torch.equal(given, x)
    torch.testing.assert_close(found.masked, perturbation_curve(lambda z: apart(2 * z), x, a).masked)


def test_logits_in_a_dictionary():
    net, x, a = conv_net(), images(2), maps(2)
    found = perturbation_curve(lambda z: {"logits": net(z)}, x, a)
    torch.testing.assert_close(found.masked, perturbation_curve(net, x, a).masked)


class RoundsInside(nn.Module):
    """The network in bfloat16 inside, with outputs in float32 that differ between batches by a bit of bfloat16."""

    def __init__(self):
        super().__init__()
        self.inner = conv_net().bfloat16()

    def forward(self, x):
        return self.inner(x.bfloat16()).float() * (1 + 2**-8 * (len(x) % 2))


def test_rounding_inside_a_network_is_no_mixing():
    found = perturbation_curve(RoundsInside().eval(), images(3), maps(3))
    assert found.masked.isfinite().all()
