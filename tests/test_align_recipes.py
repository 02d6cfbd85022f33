"""The core's training recipes: the terms of each, which network a step trains, its cost, two baselines by hand."""

from __future__ import annotations

import copy
import doctest
from importlib import import_module

import align_recipe_checks as checks
import pytest
import torch
from align_recipe_checks import (
    SPACE,
    Counting,
    classifier_view,
    full_batch,
    loss_of,
    masker_forward,
    seeded,
    small_masker,
)
from torch import nn
from torch.nn import functional as F

from tests.networks import conv_net
from xai_align.align import recipe
from xai_align.align.forward_passes.classifier_pass import ClassifierPass
from xai_align.align.forward_passes.training_batch import GlobalBatch, TrainingBatch
from xai_align.align.mask_sources import GivenMask, LearnedMask
from xai_align.align.masker import Masker
from xai_align.align.recipe_record import Recipe
from xai_align.align.recipes import RECIPES
from xai_align.align.terms.classifier_terms import Alignment, Classification, Mixup
from xai_align.align.terms.evidence_sums import EvidenceSums
from xai_align.align.terms.map_distance import MapDistance
from xai_align.align.terms.masker_terms import Distinction
from xai_align.align.terms.other_backgrounds import OtherBackgrounds
from xai_align.align.terms.right_reasons import RightReasons
from xai_align.align.terms.saliency_guided import SaliencyGuided, least_salient
from xai_align.hookspecs import FeatureSpace

NAMES = tuple(spec.name for spec in RECIPES)
#: Recipes that need masks with the examples.
GIVEN = ("rrr", "gradia", "care", "oracle", "random", "inverse")

# what there is


@pytest.mark.parametrize(
    ("name", "terms", "masker_terms"),
    [
        ("erm", "classification", ""),
        ("sgt", "classification saliency_guidance", ""),
        ("dre", "classification mixup", ""),
        ("rrr", "right_reasons classification", ""),
        ("gradia", "classification map_distance", ""),
        ("care", "classification evidence_sums", ""),
        ("align", "classification alignment mixup", "distinction sparsity smoothness"),
        ("oracle", "classification alignment mixup", ""),
        ("random", "classification alignment mixup", ""),
        ("inverse", "classification alignment mixup", ""),
        ("grey", "classification alignment mixup", ""),
    ],
)
def test_each_recipe_has_its_terms(name, terms, masker_terms):
    method = recipe(name)
    assert method.name == name
    assert [term.name for term in method.terms] == terms.split()
    assert [term.name for term in method.masker_terms] == masker_terms.split()
    assert method.trains_masker == bool(masker_terms)
    assert method.needs_masks == (name in GIVEN)
    assert not method.needs_indices


def test_all_recipes_are_listed_above():
    assert len(RECIPES) == 11


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_has_the_properties_of_a_recipe(name):
    checks.check_own_criterion(name)
    checks.check_no_trace(name)
    checks.check_half_precision(name)


def test_terms_of_weight_zero_are_left_out_with_their_pass():
    assert [term.name for term in recipe("align", mixup=0, alignment=0).terms] == ["classification"]
    assert [term.name for term in recipe("oracle", mixup=0).terms] == ["classification", "alignment"]
    assert recipe("align", right_reasons=0.1).terms[0].name == "right_reasons"


def test_options_reach_their_terms():
    method = recipe(
        "align",
        alignment=2.0,
        mixup=3.0,
        mixup_share=0.75,
        sparsity=1.5,
        smoothness=0.2,
        confidence=0.6,
        average="class",
        baseline="blur",
        alignment_options={"meet": "cam_up", "balance": "even", "eps": 1e-2},
        label_smoothing=0.1,
        class_weights=[1.0, 2.0],
    )
    classification, alignment, mixup = method.terms
    assert (classification.label_smoothing, classification.class_weights.tolist()) == (0.1, [1.0, 2.0])
    assert alignment == Alignment(weight=2.0, average="class", meet="cam_up", balance="even", eps=1e-2)
    assert mixup == Mixup(weight=3.0, share=0.75)
    assert [term.weight for term in method.masker_terms] == [1.0, 1.5, 0.2]
    assert all((term.confidence, term.average) == (0.6, "class") for term in method.masker_terms)
    assert method.baseline == "blur"


def test_a_recipe_is_made_anew():
    one, other = recipe("align"), recipe("align")
    one.masker_terms[1].weight = 99
    assert other.masker_terms[1].weight == 2
    copied = copy.deepcopy(other)
    assert copied.terms[1] == other.terms[1]
    assert copied.terms[1] is not other.terms[1]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: recipe("oracel"),
            ValueError,
            r"no training recipe 'oracel'; did you mean 'oracle'\? Known: erm, sgt, ",
        ),
        (lambda: recipe("dre", lambda1=2), TypeError, "no option 'lambda1'; it takes mixup, mixup_share, label_smoo"),
        (lambda: recipe("oracle", sparsity=2), TypeError, "no option 'sparsity'; it takes alignment"),
        (lambda: recipe("align", sparsity=-1), ValueError, "weight of sparsity must be a non-negative number, got -1"),
        (lambda: Recipe(name="mine", terms=()), ValueError, "has no terms"),
        (lambda: Recipe(name="mine", terms=(Mixup(), Mixup())), ValueError, "'mixup' twice"),
        (lambda: Recipe(name="mine", terms=(Alignment(),)), ValueError, "give the recipe mask_source="),
        (
            lambda: Recipe(name="mine", terms=(Alignment(),), mask_source=LearnedMask()),
            ValueError,
            "give masker_terms too",
        ),
    ],
)
def test_recipes_that_do_not_fit_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


# which network a step trains


@pytest.mark.parametrize("order", ["first", "second"])
@pytest.mark.parametrize("name", NAMES)
def test_a_classifier_step_trains_the_classifier_alone(name, order):
    checks.check_classifier_step(name, order)


def test_a_masker_step_trains_the_masker_alone():
    checks.check_masker_step("align")


def test_alignment_alone_reaches_what_makes_the_features():
    """First order: the head that weighs the channels is not taught by a loss on the CAM. Second order: it is."""
    for order, reached in (("first", False), ("second", True)):
        model = conv_net()
        method = recipe("oracle", mixup=0)
        forward = classifier_view(method, model, full_batch(), order=order)
        method.terms[1](forward).mean().backward()
        assert model.conv1.weight.grad.any()
        assert (model.fc.weight.grad is not None and bool(model.fc.weight.grad.any())) is reached


def test_the_warm_up_is_what_needs_no_mask_source():
    for name in ("align", "oracle"):
        left = [term for term in recipe(name).terms if not term.needs_mask_source]
        assert [term.name for term in left] == ["classification", "mixup"]  # which is DRE
        loss_of(left, ClassifierPass(full_batch(), classifier=conv_net(), space=SPACE, generator=seeded()))


# what a step costs


@pytest.mark.parametrize(
    ("name", "passes"),
    [
        ("erm", [6]),
        ("dre", [6, 6]),
        ("align", [6, 3]),  # half of the images are mixed
        ("oracle", [6, 3]),
        ("inverse", [6, 3]),
        ("rrr", [6]),
        ("gradia", [6]),
        ("care", [6]),
        ("sgt", [6, 6, 6]),  # for the gradient in eval mode, as it is, with pixels replaced
    ],
)
def test_what_is_shared_is_computed_once(name, passes):
    checks.check_passes(name, passes)


def test_mixing_more_images_costs_more():
    method, model = recipe("align", mixup_share=1.0), Counting(conv_net())
    space = FeatureSpace(layer="inner.conv2", layout="NCHW")
    loss_of(method.terms, classifier_view(method, model, full_batch(), masker=small_masker(), space=space))
    assert model.passes == [6, 6]


def test_a_masker_step_takes_one_pass_of_both_parts():
    method, model, masker = recipe("align"), Counting(conv_net()), Counting(small_masker())
    loss_of(method.masker_terms, masker_forward(method, model, full_batch(), masker))
    assert model.passes == [12]
    assert masker.passes == [6]


def test_a_recipe_may_choose_the_masks_that_are_tried():
    soft = masker_forward(recipe("align"), conv_net(), full_batch(), small_masker()).masks
    chosen = Recipe(
        name="inverted",
        terms=(Classification(),),
        masker_terms=(Distinction(),),
        masks_from=lambda forward: (-forward.soft_logits).sigmoid(),
    )
    masks = masker_forward(chosen, conv_net(), full_batch(), small_masker()).masks
    torch.testing.assert_close(masks, 1 - soft)


def test_methods_that_are_compared_mix_the_same_pairs():
    model, batch = conv_net(), full_batch()
    mixes = [
        classifier_view(recipe(name), model, batch, masker=small_masker()).mixed()
        for name in ("dre", "align", "random")
    ]
    forward = classifier_view(recipe("random"), model, batch)
    assert forward.mask is not None  # drawn before the pairs
    for mix in (*mixes[1:], forward.mixed()):
        assert torch.equal(mix.partners, mixes[0].partners)
        assert torch.equal(mix.lam, mixes[0].lam)


# two baselines by hand


def linear_model(weights):
    """Logits of two pixels of one channel."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(weights.shape[1], len(weights), bias=False)).eval()
    with torch.no_grad():
        model[1].weight.copy_(weights)
    return model


def pixels_of(*values):
    return torch.tensor(values)[:, None, None, :]


INPUT = FeatureSpace(layer="input", layout="NCHW")


def test_saliency_guidance_by_hand():
    # the label's gradients are (3, -1, 0.5, -2): the two smallest are the second and the last pixel
    weights = torch.tensor([[3.0, -1.0, 0.5, -2.0], [0.0, 1.0, 0.0, 0.0]])
    model = linear_model(weights)
    batch = TrainingBatch(images=pixels_of([1.0, 2.0, -1.0, 4.0]), labels=torch.tensor([0]))
    forward = ClassifierPass(batch, classifier=model, space=INPUT, generator=seeded())
    term = SaliencyGuided(fill="mean")
    assert term.without_least_salient(forward).flatten().tolist() == [
        1.0,
        1.5,
        -1.0,
        1.5,
    ]  # the mean of the image is 1.5
    whole = (weights @ torch.tensor([1.0, 2.0, -1.0, 4.0])).softmax(0)
    changed = (weights @ torch.tensor([1.0, 1.5, -1.0, 1.5])).softmax(0)
    torch.testing.assert_close(term(forward)[0], (whole * (whole / changed).log()).sum())


def test_which_pixels_saliency_guidance_replaces():
    gradients = torch.tensor([3.0, -1.0, 0.5, -2.0])[None, None, None]
    assert least_salient(gradients, 0.5).flatten().tolist() == [False, True, False, True]
    assert least_salient(gradients.abs(), 0.5).flatten().tolist() == [False, True, True, False]
    assert least_salient(torch.zeros(1, 1, 1, 4), 0.5).flatten().tolist() == [True, True, False, False]
    assert least_salient(gradients, 0.0).sum() == 0
    assert least_salient(gradients, 1.0).sum() == 4


def test_saliency_guidance_fills_with_the_images_own_noise():
    model, batch = conv_net(), full_batch()
    forward = ClassifierPass(batch, classifier=model, space=SPACE, generator=seeded())
    changed = SaliencyGuided(share=0.25).without_least_salient(forward)
    replaced = (changed != batch.images).all(1)
    assert replaced.flatten(1).sum(1).tolist() == [16] * 6
    assert torch.equal((changed != batch.images).any(1), replaced)
    assert (changed.amax((1, 2, 3)) <= batch.images.amax((1, 2, 3))).all()
    assert (changed.amin((1, 2, 3)) >= batch.images.amin((1, 2, 3))).all()
    assert SaliencyGuided(share=0.0)(forward).abs().max() < 1e-6  # nothing replaced, nothing lost


def test_batch_statistics_learn_from_the_images_as_they_are():
    """One update: the gradient is taken in eval mode, and changed images aren't remembered."""
    model = conv_net().train()
    forward = ClassifierPass(full_batch(), classifier=model, space=SPACE, generator=seeded())
    SaliencyGuided()(forward)
    assert model.norm.num_batches_tracked == 1
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("score", ["all", "label"])
def test_right_reasons_by_hand(score):
    weights = torch.tensor([[1.0, -2.0], [0.5, 3.0], [0.0, 1.0]])
    model, x = linear_model(weights), torch.tensor([0.3, -0.2])
    p = (weights @ x).softmax(0)
    # d/dx sum_k log p_k = sum_k W_k - K sum_j p_j W_j; of one: W_y - sum_j p_j W_j
    gradient = weights.sum(0) - 3 * p @ weights if score == "all" else weights[1] - p @ weights
    for mask, wanted in (
        ([1.0, 0.0], gradient[1] ** 2),
        ([1.0, 0.5], gradient[1] ** 2 / 4),
        ([1.0, 1.0], torch.tensor(0.0)),
        ([float("nan"), 0.0], gradient[1] ** 2),
    ):
        batch = TrainingBatch(images=pixels_of(x.tolist()), labels=torch.tensor([1]), masks=pixels_of(mask))
        forward = ClassifierPass(batch, classifier=model, space=INPUT, mask_source=GivenMask(), generator=seeded())
        torch.testing.assert_close(RightReasons(score=score)(forward)[0], wanted)


class OfMaps:
    """Maps and masks in place of a forward pass."""

    def __init__(self, saliency, mask):
        self.saliency, self.mask = saliency, mask


MAPS = torch.tensor([[[[0.0, 1.0], [0.5, 0.25]]]])
MASK = torch.tensor([[[[0.0, 1.0], [1.0, 0.0]]]])
NAN = float("nan")


def test_distance_of_maps_by_hand():
    # |0 - 0|, |1 - 1|, |.5 - 1|, |.25 - 0|
    assert MapDistance()(OfMaps(MAPS, MASK)).tolist() == [0.75 / 4]
    # a mask of 4 x 4 is averaged to the map's 2 x 2 cells
    assert MapDistance()(OfMaps(MAPS, MASK.repeat_interleave(2, 2).repeat_interleave(2, 3))).tolist() == [0.75 / 4]
    partly = torch.tensor([[[[0.0, NAN], [1.0, NAN]]]])
    assert MapDistance()(OfMaps(MAPS, partly)).tolist() == [0.5 / 2]
    assert MapDistance()(OfMaps(MAPS, torch.full_like(MASK, NAN))).tolist() == [0.0]


def test_sums_of_evidence_by_hand():
    # inside 1 + .5, outside .25
    assert EvidenceSums(threshold=2)(OfMaps(MAPS, MASK)).tolist() == [0.25 - 1.5]
    assert EvidenceSums(threshold=0.5)(OfMaps(MAPS, MASK)).tolist() == [0.25 - 0.5]
    partly = torch.tensor([[[[0.0, NAN], [1.0, NAN]]]])
    assert EvidenceSums(threshold=2)(OfMaps(MAPS, partly)).tolist() == [-0.5]
    assert EvidenceSums()(OfMaps(MAPS, torch.full_like(MASK, NAN))).tolist() == [0.0]
    # the map is brought up to the mask's pixels: a constant map of .5 on 4 x 4 pixels, one quarter inside
    quarter = torch.zeros(1, 1, 4, 4)
    quarter[..., :2, :2] = 1
    assert EvidenceSums(threshold=1)(OfMaps(torch.full((1, 1, 2, 2), 0.5), quarter)).tolist() == [6.0 - 1.0]


def test_enough_evidence_inside_has_no_gradient():
    maps = MAPS.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(EvidenceSums(threshold=0.5)(OfMaps(maps, MASK)).sum(), maps)
    assert torch.equal(gradient, 1 - MASK)
    (gradient,) = torch.autograd.grad(EvidenceSums(threshold=2)(OfMaps(maps, MASK)).sum(), maps)
    assert torch.equal(gradient, 1 - 2 * MASK)


def test_right_reasons_teach_by_a_second_derivative():
    """The gradient of the penalty is that of finite differences."""
    model, batch = conv_net().double(), full_batch(2)
    batch = TrainingBatch(images=batch.images.double(), labels=batch.labels, masks=batch.masks.double())

    def penalty():
        return RightReasons()(
            ClassifierPass(batch, classifier=model, space=SPACE, mask_source=GivenMask(), generator=seeded())
        ).sum()

    (gradient,) = torch.autograd.grad(penalty(), model.fc.weight)
    step = torch.zeros_like(gradient)
    step[1, 3] = 1e-5
    with torch.no_grad():
        model.fc.weight += step
    above = penalty()
    with torch.no_grad():
        model.fc.weight -= 2 * step
    assert ((above - penalty()) / 2e-5).item() == pytest.approx(gradient[1, 3].item(), rel=1e-5)
    assert penalty().dtype == torch.float64


def test_baselines_without_what_they_need_say_so():
    model, batch = conv_net(), full_batch()
    bare = TrainingBatch(images=batch.images, labels=batch.labels)
    for name in GIVEN:
        method = recipe(name)
        with pytest.raises(ValueError, match="the batch has none; let the loader yield"):
            loss_of(method.terms, classifier_view(method, model, bare))
    for term in (RightReasons(), Alignment(), MapDistance(), EvidenceSums(), OtherBackgrounds()):
        with pytest.raises(ValueError, match=f"the term '{term.name}' needs a mask source's mask"):
            term(ClassifierPass(batch, classifier=model, space=SPACE, generator=seeded()))


@pytest.mark.parametrize("name", ["erm", "sgt", "dre", "rrr", "gradia", "care", "align", "oracle", "random", "grey"])
def test_two_processes_get_the_gradient_of_one(name):
    checks.check_two_processes(name)


def test_a_term_of_ones_own():
    class Small:
        """Small weights: a term that looks at no image."""

        name = "small"
        weight = 0.01

        def __call__(self, forward):
            return forward.classifier.fc.weight.square().sum().expand(len(forward.batch))

    mine = Recipe(name="mine", terms=(Classification(), Small()))
    model = conv_net()
    loss = loss_of(mine.terms, classifier_view(mine, model, full_batch()))
    wanted = F.cross_entropy(model(full_batch().images), full_batch().labels) + 0.01 * model.fc.weight.square().sum()
    torch.testing.assert_close(loss, wanted)


def test_a_masker_learns_from_the_distinction():
    """A few steps lower the loss: what is kept says the label more than what is dropped."""
    model, masker, batch = conv_net().requires_grad_(False), small_masker(), full_batch()
    method, optimiser = recipe("align", sparsity=0.5), torch.optim.Adam(masker.parameters(), 1e-2)
    losses = []
    for _ in range(12):
        optimiser.zero_grad()
        loss = loss_of(method.masker_terms, masker_forward(method, model, batch, masker))
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert Distinction().weight == 1


def test_binary_targets_are_the_learned_masks_above_and_below_one_half():
    batch, masker = full_batch(), Masker(width=8)
    soft, binary = (recipe("align", targets=targets).mask_source for targets in ("soft", "binary"))
    global_batch = GlobalBatch.just(batch)
    masks = [mask_source(batch, masker, seeded(), global_batch) for mask_source in (soft, binary)]
    assert torch.equal(masks[1], (masks[0] > 0.5).float())
    with pytest.raises(ValueError, match="'soft' or 'binary'"):
        recipe("align", targets="hard")


# what authors of recipes use


def test_a_side_pass_is_the_classifier_on_other_images_and_updates_no_statistics():
    model, batch = conv_net().train(), full_batch()
    forward = ClassifierPass(batch, classifier=model, space=SPACE, generator=seeded(), normalise="minmax")
    assert forward.logits.shape == (6, 5)  # the step's own pass
    assert model.norm.num_batches_tracked == 1
    before = model.norm.running_mean.clone()
    other = forward.side_pass(batch.images.flip(3) + 1)
    assert (model.norm.num_batches_tracked, torch.equal(model.norm.running_mean, before)) == (1, True)
    assert all(module.training for module in model.modules())
    again = ClassifierPass(
        TrainingBatch(images=batch.images.flip(3) + 1, labels=batch.labels),
        classifier=model,
        space=SPACE,
        generator=seeded(),
        normalise="minmax",
    )
    assert torch.equal(other.logits, again.logits)
    assert torch.equal(other.saliency, again.saliency)
    torch.testing.assert_close(other.cam / other.cam.amax((1, 2, 3), keepdim=True).clamp(min=1e-8), other.saliency)


@pytest.mark.parametrize(
    "module",
    [
        "plugins.specs_by_name",
        "align.recipe_by_name",
        "align.recipe_record",
        "align.saliency",
        "align.terms.classifier_terms",
        "align.terms.masker_terms",
        "align.terms.running_means",
        "_tools.checks",
        "align.forward_passes.classifier_pass",
        "align.forward_passes.masker_pass",
        "align.forward_passes.side_pass",
    ],
)
def test_examples_in_docstrings_run(module):
    result = doctest.testmod(import_module(f"xai_align.{module}"))
    assert result.attempted
    assert not result.failed
