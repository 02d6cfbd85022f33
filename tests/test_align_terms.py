"""What a step looks at, and the terms of both losses: values by hand, and everything shared computed once."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from tests.networks import conv_net, images, untouched
from xai_align.align.alignment_loss import alignment_loss
from xai_align.align.forward_passes.classifier_pass import ClassifierPass
from xai_align.align.forward_passes.masker_pass import MaskerPass
from xai_align.align.forward_passes.step_random import StepRandom
from xai_align.align.forward_passes.training_batch import GlobalBatch, TrainingBatch, class_balance
from xai_align.align.mask_sources import Binarised, GivenMask, GreyImage, Inverted, LearnedMask, MaskOfAnotherImage
from xai_align.align.masker_loss import masker_loss
from xai_align.align.mixup_regulariser import mixup_regulariser
from xai_align.align.terms.classifier_terms import Alignment, Classification, Mixup
from xai_align.align.terms.masker_terms import AreaHinge, Distinction, Smoothness, Sparsity
from xai_align.hookspecs import FeatureSpace

SPACE = FeatureSpace(layer="conv2", layout="NCHW")
LABELS = (0, 1, 1, 2, 0, 1)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def batch_of(labels=LABELS, *, masks="random", seed=0, **more):
    pictures = images(len(labels), seed=seed)
    given_masks = {"random": torch.rand(len(labels), 1, 8, 8, generator=seeded(5)), None: None}[masks]
    return TrainingBatch(images=pictures, labels=torch.tensor(labels), masks=given_masks, **more)


def forward_of(model, batch, *, mask_source=None, seed=0, **options):
    return ClassifierPass(
        batch, classifier=model, space=SPACE, mask_source=mask_source, generator=seeded(seed), **options
    )


def pieces(batch, at):
    """The batch as two processes have it."""
    global_batch = GlobalBatch(batch.images, batch.labels, 0, batch.masks)
    for start, part in ((0, slice(0, at)), (at, slice(at, None))):
        masks = None if batch.masks is None else batch.masks[part]
        piece = TrainingBatch(images=batch.images[part], labels=batch.labels[part], masks=masks)
        yield piece, GlobalBatch(global_batch.images, global_batch.labels, start, global_batch.masks)


class Counting(nn.Module):
    """Counts the images that go through a network, and how often any do."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.passes = []

    def forward(self, x):
        self.passes.append(len(x))
        return self.inner(x)


class TinyMasker(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 1, 3, padding=1)

    def forward(self, x):
        return self.conv(x).sigmoid()


def tiny_masker():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return TinyMasker()


# what a step looks at


@given(st.lists(st.integers(0, 4), min_size=1, max_size=20))
@settings(max_examples=50, deadline=None)
def test_class_weights_make_a_mean_a_sum_of_class_means(labels):
    values = torch.rand(len(labels), generator=seeded())
    of_class = [values[torch.tensor(labels) == c] for c in range(5)]
    wanted = sum(some.mean() for some in of_class if len(some)) / 5
    torch.testing.assert_close((values * class_balance(torch.tensor(labels), 5)).mean(), wanted)


def test_a_part_of_a_step_draws_its_part_of_the_numbers():
    whole = StepRandom(seeded(), total=5, local=slice(0, 5), device=torch.device("cpu"))
    part = StepRandom(seeded(), total=5, local=slice(3, 5), device=torch.device("cpu"))
    assert torch.equal(whole.uniform("noise", 2)[3:], part.uniform("noise", 2))
    assert not torch.equal(whole.uniform("noise", 2), whole.uniform("other noise", 2))
    assert torch.equal(whole.uniform("noise", 2), whole.uniform("noise", 2))


def test_what_is_shared_is_computed_once():
    model = Counting(conv_net())
    forward = ClassifierPass(
        batch_of(),
        classifier=model,
        space=FeatureSpace(layer="inner.conv2", layout="NCHW"),
        mask_source=GivenMask(),
        generator=seeded(),
    )
    for term in (Classification(), Alignment(), Mixup(), Alignment(meet="cam_up"), Mixup(consistency=0)):
        term(forward)
    assert model.passes == [6, 6]  # as they are, and mixed


def test_input_gradients_share_the_pass_if_they_are_asked_for_first():
    for first, passes in (("from_pixels", [6]), ("seen", [6, 6])):
        model = Counting(conv_net())
        space = FeatureSpace(layer="inner.conv2", layout="NCHW")
        forward = ClassifierPass(batch_of(), classifier=model, space=space, generator=seeded())
        getattr(forward, first)
        pixels, seen = forward.from_pixels
        assert forward.seen.logits.shape == seen.logits.shape
        assert torch.autograd.grad(seen.logits.sum(), pixels)[0].shape == forward.batch.images.shape
        assert model.passes == passes
        assert not forward.batch.images.requires_grad


def test_a_view_is_freed_with_its_graph():
    import gc
    import weakref

    gc.disable()
    try:
        forward = forward_of(conv_net(), batch_of(), mask_source=GivenMask())
        values = Mixup()(forward) + Alignment()(forward)
        alive = weakref.ref(forward)
        del forward, values
        assert alive() is None
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"images": [1]}, TypeError, "images must be a floating-point tensor .* got list"),
        ({"images": torch.zeros(6, 8, 8)}, ValueError, r"images must have the shape .* got \[6, 8, 8\]"),
        ({"images": torch.zeros(6, 3, 8, 8, dtype=torch.uint8)}, TypeError, "torch.uint8"),
        ({"labels": torch.zeros(6)}, TypeError, "the labels are torch.float32; give int64"),
        ({"labels": torch.zeros(5, dtype=torch.int64)}, ValueError, r"give \[6\]"),
        ({"labels": [1, 2]}, TypeError, "the labels are a list"),
        ({"masks": torch.zeros(6, 8, 8)}, ValueError, r"give \[6, 1, 8, 8\]"),
        ({"masks": torch.zeros(6, 1, 8, 8, dtype=torch.bool)}, TypeError, "the masks are torch.bool"),
        ({"indices": torch.zeros(6)}, TypeError, "the indices are torch.float32"),
    ],
)
def test_batches_that_do_not_fit_are_refused(change, error, message):
    right = {"images": images(6), "labels": torch.tensor(LABELS)}
    with pytest.raises(error, match=message):
        TrainingBatch(**{**right, **change})


def test_a_batch_beyond_its_step_is_refused():
    batch = batch_of()
    with pytest.raises(ValueError, match="examples 1 to 7 of a step that has 6"):
        forward_of(conv_net(), batch, global_batch=GlobalBatch(batch.images, batch.labels, 1))


# mask sources


def masks_of(mask_source, batch, *, masker=None, seed=0, global_batch=None):
    return mask_source(batch, masker, seeded(seed), global_batch or GlobalBatch.just(batch))


def test_the_inverse_of_the_inverse_is_the_mask():
    batch = batch_of()
    assert torch.equal(masks_of(GivenMask(), batch), batch.masks)
    assert torch.equal(masks_of(Inverted(GivenMask()), batch), 1 - batch.masks)
    torch.testing.assert_close(masks_of(Inverted(Inverted(GivenMask())), batch), batch.masks)


@given(st.integers(2, 12), st.integers(0, 1000))
@settings(max_examples=50, deadline=None)
def test_another_images_mask_is_never_ones_own(count, seed):
    masks = torch.arange(count, dtype=torch.float32)[:, None, None, None].expand(count, 1, 8, 8) / count
    batch = TrainingBatch(images=images(count), labels=torch.zeros(count, dtype=torch.int64), masks=masks)
    found = masks_of(MaskOfAnotherImage(GivenMask()), batch, seed=seed)
    assert not (found == masks).any()
    assert torch.equal(found[:, 0, 0, 0].sort().values, masks[:, 0, 0, 0])  # each is used once


def test_the_only_image_has_nobody_elses_mask():
    assert masks_of(MaskOfAnotherImage(GivenMask()), batch_of((1,))).isnan().all()


def test_masks_change_hands_across_processes():
    batch = batch_of()
    whole = masks_of(MaskOfAnotherImage(GivenMask()), batch)
    parts = [
        masks_of(MaskOfAnotherImage(GivenMask()), piece, global_batch=everything)
        for piece, everything in pieces(batch, 2)
    ]
    assert torch.equal(torch.cat(parts), whole)


def test_the_grey_of_a_grey_image_is_itself_stretched():
    grey = torch.tensor([[2.0, 4.0], [3.0, 6.0]])
    batch = TrainingBatch(
        images=torch.stack([grey.expand(3, 2, 2), torch.ones(3, 2, 2)]), labels=torch.zeros(2, dtype=torch.int64)
    )
    found = masks_of(GreyImage(), batch)
    torch.testing.assert_close(found[0, 0], torch.tensor([[0.0, 0.5], [0.25, 1.0]]))
    assert torch.equal(found[1], torch.zeros(1, 2, 2))
    one_channel = TrainingBatch(images=grey[None, None], labels=torch.zeros(1, dtype=torch.int64))
    torch.testing.assert_close(masks_of(GreyImage(), one_channel)[0], found[0])


def test_the_learned_mask_is_a_constant_and_the_masker_stays():
    masker = tiny_masker().train()
    with untouched(masker):
        mask = masks_of(LearnedMask(), batch_of(), masker=masker)
    assert not mask.requires_grad
    torch.testing.assert_close(mask, masker(batch_of().images).detach())


def test_mask_sources_without_what_they_need_say_so():
    with pytest.raises(ValueError, match=r"let the loader yield \(images, labels, masks\)"):
        masks_of(Inverted(GivenMask()), batch_of(masks=None))
    with pytest.raises(ValueError, match="no masker"):
        masks_of(LearnedMask(), batch_of())
    with pytest.raises(ValueError, match="there is no mask source"):
        Alignment()(forward_of(conv_net(), batch_of()))


# the classifier's terms


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weights", [None, (1.0, 5.0, 0.5, 1.0, 2.0)])
def test_classification_is_pytorchs_mean(smoothing, weights):
    model, batch = conv_net(), batch_of()
    term = Classification(label_smoothing=smoothing, class_weights=weights)
    given_weights = None if weights is None else torch.tensor(weights)
    wanted = F.cross_entropy(model(batch.images), batch.labels, weight=given_weights, label_smoothing=smoothing)
    torch.testing.assert_close(term(forward_of(model, batch)).mean(), wanted)
    parts = [term(forward_of(model, piece, global_batch=everything)) for piece, everything in pieces(batch, 2)]
    torch.testing.assert_close(torch.cat(parts).mean(), wanted)


def test_a_criterion_of_ones_own():
    model, batch = conv_net(), batch_of()
    term = Classification(criterion=nn.MultiMarginLoss(reduction="none"))
    wanted = nn.MultiMarginLoss()(model(batch.images), batch.labels)
    torch.testing.assert_close(term(forward_of(model, batch)).mean(), wanted)
    with pytest.raises(ValueError, match="reduction='none'"):
        Classification(criterion=nn.CrossEntropyLoss())(forward_of(model, batch))


def test_alignment_compares_the_labels_cam_with_the_mask():
    model, batch = conv_net(), batch_of()
    forward = forward_of(model, batch, mask_source=GivenMask())
    term = Alignment()
    values = term(forward)
    loss = alignment_loss(forward.saliency, batch.masks)
    torch.testing.assert_close(values, torch.where(forward.dead, 0, loss.total))
    report = term.report()
    alive = ~forward.dead
    assert alive.any()
    assert report["dead_cams"] == pytest.approx(forward.dead.float().mean().item())
    for part in ("inside", "outside", "excess"):
        assert report[part] == pytest.approx(getattr(loss, part)[alive].mean().item(), rel=1e-5)
    assert term.report() == {}  # counting starts anew


def test_alignment_averages_over_classes_on_request():
    model, batch = conv_net(), batch_of()
    per_image = Alignment()(forward_of(model, batch, mask_source=GivenMask()))
    per_class = Alignment(average="class")(forward_of(model, batch, mask_source=GivenMask()))
    torch.testing.assert_close(per_class, per_image * class_balance(batch.labels, 5))


def test_dead_cams_and_unknown_masks_are_left_out():
    model = conv_net()
    with torch.no_grad():
        model.fc.weight.copy_(torch.tensor([1.0, -1, 1, 1, 1])[:, None].expand(5, 8))  # nothing speaks for class 1
    batch = batch_of()
    masks = batch.masks.clone()
    masks[0] = float("nan")
    batch = TrainingBatch(images=batch.images, labels=batch.labels, masks=masks)
    forward = forward_of(model, batch, mask_source=GivenMask())
    values = Alignment()(forward)
    assert forward.dead.tolist() == [False, True, True, False, False, True]
    assert (values != 0).tolist() == [False, False, False, True, True, False]
    gradients = torch.autograd.grad(values.sum(), [model.conv1.weight, model.conv2.weight])
    assert all(gradient.isfinite().all() and gradient.any() for gradient in gradients)


def test_mixup_is_the_piece_of_the_same_name():
    model, batch = conv_net(), batch_of()
    for normalise in ("max", "minmax", "signed"):
        forward = forward_of(model, batch, normalise=normalise)
        term = Mixup(weight=3.0)
        values = term(forward)
        piece = mixup_regulariser(
            model,
            batch.images,
            batch.labels,
            layer="conv2",
            normalise=normalise,
            generator=forward.draws.generator("mixup"),
        )
        torch.testing.assert_close(values, piece.total)  # the weight is the trainer's business
        ours = torch.autograd.grad(values.mean(), model.conv1.weight)[0]
        torch.testing.assert_close(ours, torch.autograd.grad(piece.total.mean(), model.conv1.weight)[0])


def test_a_share_of_the_images_is_mixed_at_full_weight():
    model, batch = conv_net(), batch_of((1,) * 8)
    forward = forward_of(model, batch)
    mix = forward.mixed(share=0.5)
    assert len(mix) == 4
    assert mix.scale == 2
    values = Mixup(share=0.5, average="image")(forward)
    assert (values != 0).sum() == 4
    assert set(values.nonzero().flatten().tolist()) == set(mix.rows.tolist())
    whole = Mixup(average="image")(forward)
    torch.testing.assert_close(values[mix.rows], 2 * whole[mix.rows])  # the same partners and shares
    for seed in range(5):  # a batch of one may have none to mix
        alone = Mixup(share=0.5)(forward_of(model, batch_of((1,)), seed=seed))
        assert alone.shape == (1,)
        assert alone.isfinite().all()


@pytest.mark.parametrize("term", [Mixup(), Mixup(share=0.5), Mixup(average="image"), Alignment(), Classification()])
@pytest.mark.parametrize("order", ["first", "second"])
def test_two_processes_do_what_one_does(term, order):
    model, batch = conv_net(), batch_of()
    weights = [model.conv1.weight, model.conv2.weight]

    def gradient(values):
        return torch.autograd.grad(values.sum(), weights)

    mask_source = MaskOfAnotherImage(GivenMask())
    whole = term(forward_of(model, batch, mask_source=mask_source, order=order))
    parts = [
        term(forward_of(model, piece, mask_source=mask_source, order=order, global_batch=everything))
        for piece, everything in pieces(batch, 2)
    ]
    torch.testing.assert_close(torch.cat(parts), whole)
    summed = [sum(both) for both in zip(*map(gradient, parts), strict=True)]
    torch.testing.assert_close(summed, list(gradient(whole)))


def test_images_without_a_mate_mix_with_themselves():
    model, batch = conv_net(), batch_of((0, 1, 2, 3))
    mix = forward_of(model, batch).mixed()
    assert mix.partners.tolist() == [0, 1, 2, 3]
    torch.testing.assert_close(mix.images, batch.images)
    term = Mixup()
    term(forward_of(model, batch))
    assert term.report()["mixup_consistency"] == pytest.approx(0, abs=1e-6)


def test_terms_leave_no_trace():
    model, batch = conv_net(), batch_of()
    before = copy.deepcopy(batch)
    with untouched(model):
        forward = forward_of(model, batch, mask_source=GivenMask())
        for term in (Classification(), Alignment(), Mixup()):
            torch.autograd.grad(term(forward).sum(), model.conv2.weight, retain_graph=True)
    assert all(torch.equal(getattr(batch, what), getattr(before, what)) for what in ("images", "labels", "masks"))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Classification(weight=-1), "classification's weight must be a non-negative number, got -1"),
        (lambda: Classification(label_smoothing=2), r"label_smoothing must be a number in \[0, 1\], got 2"),
        (lambda: Classification(class_weights=[1, 1], criterion=F.cross_entropy), "give those to the criterion"),
        (lambda: Classification(class_weights=[1, -1]), "none of them negative"),
        (
            lambda: Classification(class_weights=[1, 1])(forward_of(conv_net(), batch_of())),
            "2 class_weights for 5 classes",
        ),
        (lambda: Alignment(average="pixel"), "average must be 'image' or 'class', got 'pixel'"),
        (lambda: Alignment(weight=float("nan")), "weight must be a non-negative number, got nan"),
        (lambda: Mixup(alpha=0), "alpha must be a number of at least 1e-06, got 0"),
        (lambda: Mixup(share=0), r"share must be a number in \[0.001, 1\], got 0"),
        (lambda: Sparsity(weight="2"), "weight of sparsity must be a non-negative number, got '2'"),
        (lambda: Distinction(confidence=1.5), r"confidence must be a number in \[0, 1\], got 1.5"),
        (lambda: AreaHinge(limit=0.3, least=0.4), r"least must be a number in \[0, 0.3\], got 0.4"),
    ],
)
def test_options_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_binary_masks_are_the_masks_above_and_below_one_half():
    batch = TrainingBatch(
        images=images(1),
        labels=torch.tensor([0]),
        masks=torch.tensor([0.2, 0.5, 0.51, float("nan")]).repeat(16).view(1, 1, 8, 8),
    )
    mask = Binarised(GivenMask())(batch, None, seeded(), GlobalBatch.just(batch))
    wanted = torch.tensor([0.0, 0.0, 1.0, float("nan")]).repeat(16).view(1, 1, 8, 8)
    torch.testing.assert_close(mask, wanted, equal_nan=True)
    assert (Binarised(LearnedMask()).needs_masker, Binarised(GivenMask()).needs_masks) == (True, True)


# the masker's terms


def masker_forward(model, batch, masker, **options):
    return MaskerPass(batch, classifier=model, masker=masker, generator=seeded(), **options)


def test_the_maskers_terms_are_the_maskers_loss():
    model, batch, masker = conv_net(), batch_of(), tiny_masker()
    for baseline in (0.0, "blur"):
        forward = masker_forward(model, batch, masker, baseline=baseline)
        terms = (Distinction(), Sparsity(), Smoothness())
        total = sum(term.weight * term(forward) for term in terms)
        loss = masker_loss(model, batch.images, masker(batch.images), batch.labels, baseline=baseline)
        torch.testing.assert_close(total, loss.total)
        torch.testing.assert_close(forward.p_keep, loss.p_keep)
        torch.testing.assert_close(forward.p_drop, loss.p_drop)


@pytest.mark.parametrize("baseline", [0.0, "another_image", "blur", lambda x: x.mean(0, keepdim=True)])
def test_two_processes_see_what_one_sees_behind_a_mask(baseline):
    model, batch, masker = conv_net(), batch_of(), tiny_masker()
    whole = masker_forward(model, batch, masker, baseline=baseline)
    parts = [
        masker_forward(model, piece, masker, baseline=baseline, global_batch=everything)
        for piece, everything in pieces(batch, 2)
    ]
    torch.testing.assert_close(torch.cat([part.probabilities for part in parts], 1), whole.probabilities)
    assert all(part.p_keep.requires_grad for part in parts)


def test_keeping_and_dropping_take_one_pass_and_trust_another():
    model, batch = Counting(conv_net()), batch_of()
    forward = masker_forward(model, batch, tiny_masker())
    for term in (Distinction(), Sparsity(), Smoothness(), AreaHinge()):
        term(forward)
    assert model.passes == [12]
    Distinction(confidence=0.0)(forward)
    Sparsity(confidence=0.5)(forward)
    assert model.passes == [12, 6]


def test_only_what_the_classifier_gets_right_trains_the_masker():
    model, batch = conv_net(), batch_of()
    p = model(batch.images).softmax(1).detach()
    labels = p.argmax(1)
    labels[0] = (labels[0] + 1) % 5  # this one is wrong
    batch = TrainingBatch(images=batch.images, labels=labels)
    forward = masker_forward(model, batch, tiny_masker())
    sure = float(p.amax(1)[1:].median())
    global_batch, right, confident = (Sparsity(confidence=c)(forward) for c in (None, 0.0, sure))
    assert forward.correct.tolist() == [False] + [True] * 5
    assert right.tolist() == [0.0, *global_batch[1:].tolist()]
    assert (confident > 0).tolist() == [False, *(p.amax(1)[1:] >= sure).tolist()]


def test_masker_terms_average_over_classes_on_request():
    model, batch = conv_net(), batch_of()
    forward = masker_forward(model, batch, tiny_masker())
    torch.testing.assert_close(
        Sparsity(average="class")(forward), Sparsity()(forward) * class_balance(batch.labels, 5), rtol=1e-6, atol=0
    )


def test_the_area_hinge_by_hand():
    class Constant(nn.Module):
        def forward(self, x):
            return torch.tensor([0.05, 0.5, 0.2])[:, None, None, None].expand(3, 1, 8, 8)

    forward = masker_forward(conv_net(), batch_of((0, 1, 2), masks=None), Constant())
    torch.testing.assert_close(AreaHinge(limit=0.4, least=0.1)(forward), torch.tensor([0.05, 0.1, 0.0]))


def test_a_weight_may_change_while_training():
    term = Sparsity()
    term.weight *= 2
    assert term.weight == 4
