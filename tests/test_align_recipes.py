"""The methods: which terms each has, whom each teaches, what a step costs, and two baselines worked by hand."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.networks import conv_net, images, untouched
from xai_align.align.guides import GivenMask, LearnedMask
from xai_align.align.masker import Masker
from xai_align.align.recipes import RECIPES, Recipe, recipe, recipe_options
from xai_align.align.terms.classifier_terms import Alignment, Classification, Mixup
from xai_align.align.terms.masker_terms import Distinction
from xai_align.align.terms.right_reasons import RightReasons
from xai_align.align.terms.saliency_guided import SaliencyGuided, least_salient
from xai_align.align.views.batch import Everyone, TrainingBatch
from xai_align.align.views.classifier_view import ClassifierView
from xai_align.align.views.masker_view import MaskerView
from xai_align.hookspecs import FeatureSpace

SPACE = FeatureSpace(layer="conv2", layout="NCHW")
EXPERIMENTAL = ("egat", "aim", "consistency")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def full_batch(count=6):
    return TrainingBatch(
        images=images(count),
        labels=torch.arange(count) % 3,
        masks=torch.rand(count, 1, 8, 8, generator=seeded(5)),
        indices=torch.arange(count),
    )


def small_masker():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        return Masker(width=8)


def classifier_view(method, model, batch, *, masker=None, space=SPACE, **more):
    return ClassifierView(
        batch, classifier=model, space=space, guide=method.guide, masker=masker, generator=seeded(), **more
    )


def masker_view(method, model, batch, masker, **more):
    return MaskerView(
        batch,
        classifier=model,
        masker=masker,
        generator=seeded(),
        baseline=method.baseline,
        masks_from=method.masks_from,
        **more,
    )


def loss_of(terms, view):
    return sum(term.weight * term(view) for term in terms).mean()


# what there is


@pytest.mark.parametrize(
    ("name", "terms", "masker_terms"),
    [
        ("erm", "classification", ""),
        ("sgt", "classification saliency_guidance", ""),
        ("dre", "classification mixup", ""),
        ("rrr", "right_reasons classification", ""),
        ("align", "classification alignment mixup", "distinction sparsity smoothness"),
        ("oracle", "classification alignment mixup", ""),
        ("random", "classification alignment mixup", ""),
        ("inverse", "classification alignment mixup", ""),
        ("grey", "classification alignment mixup", ""),
        ("egat", "classification adversarial mixup", ""),
        ("aim", "classification alignment mixup", "distinction annealed_area smoothness"),
        ("consistency", "consistency_weighted", ""),
    ],
)
def test_each_recipe_has_its_terms(name, terms, masker_terms):
    method = recipe(name)
    assert method.name == name
    assert [term.name for term in method.terms] == terms.split()
    assert [term.name for term in method.masker_terms] == masker_terms.split()
    assert method.trains_masker == bool(masker_terms)
    assert method.needs_masks == (name in ("rrr", "oracle", "random", "inverse"))
    assert method.needs_indices == (name == "consistency")


def test_all_recipes_are_listed_above_and_experiments_say_so():
    assert len(RECIPES) == 12
    for name in EXPERIMENTAL:
        assert RECIPES[name].__doc__.startswith("Experimental")
        assert all("Experimental" in type(term).__doc__ for term in recipe(name).terms if term.name == "adversarial")


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


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_takes_ones_own_criterion(name):
    own = nn.CrossEntropyLoss(reduction="none")
    method = recipe(name, criterion=own)
    holders = [getattr(term, "classification", term) for term in method.terms]
    assert own in [getattr(holder, "criterion", None) for holder in holders]
    assert "criterion" in recipe_options(name)


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
        (lambda: recipe("oracel"), ValueError, "no recipe 'oracel'; give erm, .*did you mean 'oracle'"),
        (lambda: recipe("dre", lambda1=2), TypeError, "no option 'lambda1'; it takes mixup, mixup_share, label_smoo"),
        (lambda: recipe("oracle", sparsity=2), TypeError, "no option 'sparsity'; it takes alignment"),
        (lambda: recipe("align", sparsity=-1), ValueError, "weight of sparsity is -1"),
        (lambda: Recipe(name="mine", terms=()), ValueError, "has no terms"),
        (lambda: Recipe(name="mine", terms=(Mixup(), Mixup())), ValueError, "'mixup' twice"),
        (lambda: Recipe(name="mine", terms=(Alignment(),)), ValueError, "give the recipe guide="),
        (lambda: Recipe(name="mine", terms=(Alignment(),), guide=LearnedMask()), ValueError, "give masker_terms too"),
    ],
)
def test_recipes_that_do_not_fit_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


# whom a step teaches


@pytest.mark.parametrize("order", ["first", "second"])
@pytest.mark.parametrize("name", RECIPES)
def test_a_classifier_step_teaches_the_classifier_alone(name, order):
    method, model, masker, batch = recipe(name), conv_net(), small_masker(), full_batch()
    view = classifier_view(method, model, batch, masker=masker, order=order)
    loss = loss_of(method.terms, view)
    assert loss.dtype == torch.float32
    loss.backward()
    taught = {key for key, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert {"conv1.weight", "conv2.weight", "fc.weight"} <= taught
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    assert all(p.grad is None for p in masker.parameters())
    assert batch.images.grad is None


@pytest.mark.parametrize("name", ["align", "aim"])
def test_a_masker_step_teaches_the_masker_alone(name):
    method, model, masker, batch = recipe(name), conv_net(), small_masker(), full_batch()
    model.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    loss_of(method.masker_terms, masker_view(method, model, batch, masker)).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in masker.parameters())
    assert any(p.grad.any() for p in masker.parameters())
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_alignment_alone_reaches_what_makes_the_features():
    """First order: the head that weighs the channels is not taught by a loss on the CAM. Second order: it is."""
    for order, reached in (("first", False), ("second", True)):
        model = conv_net()
        method = recipe("oracle", mixup=0)
        view = classifier_view(method, model, full_batch(), order=order)
        method.terms[1](view).mean().backward()
        assert model.conv1.weight.grad.any()
        assert (model.fc.weight.grad is not None and bool(model.fc.weight.grad.any())) is reached


def test_the_warm_up_is_what_needs_no_guide():
    for name in ("align", "oracle", "aim"):
        left = [term for term in recipe(name).terms if not term.needs_guide]
        assert [term.name for term in left] == ["classification", "mixup"]  # which is DRE
        loss_of(left, ClassifierView(full_batch(), classifier=conv_net(), space=SPACE, generator=seeded()))


# what a step costs


class Counting(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.passes = []

    def forward(self, x):
        self.passes.append(len(x))
        return self.inner(x)


@pytest.mark.parametrize(
    ("name", "passes"),
    [
        ("erm", [6]),
        ("dre", [6, 6]),
        ("align", [6, 3]),  # half of the images are mixed
        ("oracle", [6, 3]),
        ("inverse", [6, 3]),
        ("rrr", [6]),
        ("sgt", [6, 6, 6]),  # for the gradient in eval mode, as it is, with pixels replaced
        ("egat", [6, 6, 6, 6]),  # as it is, for the attack, attacked, mixed
        ("consistency", [6, 6, 6, 6]),  # as it is; before, during and after the attack
    ],
)
def test_what_is_shared_is_computed_once(name, passes):
    method, model = recipe(name), Counting(conv_net())
    view = classifier_view(
        method, model, full_batch(), masker=small_masker(), space=FeatureSpace(layer="inner.conv2", layout="NCHW")
    )
    loss_of(method.terms, view)
    assert model.passes == passes


def test_mixing_more_images_costs_more():
    method, model = recipe("align", mixup_share=1.0), Counting(conv_net())
    space = FeatureSpace(layer="inner.conv2", layout="NCHW")
    loss_of(method.terms, classifier_view(method, model, full_batch(), masker=small_masker(), space=space))
    assert model.passes == [6, 6]


def test_a_masker_step_takes_one_pass_of_both_parts():
    for name in ("align", "aim"):
        method, model, masker = recipe(name), Counting(conv_net()), Counting(small_masker())
        loss_of(method.masker_terms, masker_view(method, model, full_batch(), masker))
        assert model.passes == [12]
        assert masker.passes == [6]


def test_only_aim_tries_binary_masks():
    for name, binary in (("align", False), ("aim", True)):
        method = recipe(name)
        masks = masker_view(method, conv_net(), full_batch(), small_masker()).masks
        assert set(masks.unique().tolist()).issubset({0.0, 1.0}) is binary


def test_methods_that_are_compared_mix_the_same_pairs():
    model, batch = conv_net(), full_batch()
    mixes = [
        classifier_view(recipe(name), model, batch, masker=small_masker()).mixed()
        for name in ("dre", "align", "random")
    ]
    view = classifier_view(recipe("random"), model, batch)
    assert view.mask is not None  # drawn before the pairs
    for mix in (*mixes[1:], view.mixed()):
        assert torch.equal(mix.partners, mixes[0].partners)
        assert torch.equal(mix.lam, mixes[0].lam)


@pytest.mark.parametrize("name", RECIPES)
def test_a_step_leaves_no_trace(name):
    method, model, masker, batch = recipe(name), conv_net(), small_masker(), full_batch()
    model.act.train()  # one module in another mode than the rest
    before = copy.deepcopy(batch)
    with untouched(model), untouched(masker):
        torch.autograd.grad(
            loss_of(method.terms, classifier_view(method, model, batch, masker=masker)), model.conv2.weight
        )
    assert all(torch.equal(getattr(batch, what), getattr(before, what)) for what in ("images", "labels", "masks"))


@pytest.mark.parametrize("name", RECIPES)
def test_half_precision_passes_give_float32_losses(name):
    method, model, masker, batch = recipe(name), conv_net(), small_masker(), full_batch()
    with torch.autocast("cpu", torch.bfloat16):
        view = classifier_view(method, model, batch, masker=masker)
        values = [term(view) for term in method.terms]
        if method.trains_masker:
            values += [term(masker_view(method, model, batch, masker)) for term in method.masker_terms]
    assert all(value.dtype == torch.float32 and value.shape == (6,) and value.isfinite().all() for value in values)
    assert view.seen.logits.dtype == torch.bfloat16


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
    view = ClassifierView(batch, classifier=model, space=INPUT, generator=seeded())
    term = SaliencyGuided(fill="mean")
    assert term.without_least_salient(view).flatten().tolist() == [1.0, 1.5, -1.0, 1.5]  # the mean of the image is 1.5
    whole = (weights @ torch.tensor([1.0, 2.0, -1.0, 4.0])).softmax(0)
    changed = (weights @ torch.tensor([1.0, 1.5, -1.0, 1.5])).softmax(0)
    torch.testing.assert_close(term(view)[0], (whole * (whole / changed).log()).sum())


def test_which_pixels_saliency_guidance_replaces():
    gradients = torch.tensor([3.0, -1.0, 0.5, -2.0])[None, None, None]
    assert least_salient(gradients, 0.5).flatten().tolist() == [False, True, False, True]
    assert least_salient(gradients.abs(), 0.5).flatten().tolist() == [False, True, True, False]
    assert least_salient(torch.zeros(1, 1, 1, 4), 0.5).flatten().tolist() == [True, True, False, False]
    assert least_salient(gradients, 0.0).sum() == 0
    assert least_salient(gradients, 1.0).sum() == 4


def test_saliency_guidance_fills_with_the_images_own_noise():
    model, batch = conv_net(), full_batch()
    view = ClassifierView(batch, classifier=model, space=SPACE, generator=seeded())
    changed = SaliencyGuided(share=0.25).without_least_salient(view)
    replaced = (changed != batch.images).all(1)
    assert replaced.flatten(1).sum(1).tolist() == [16] * 6
    assert torch.equal((changed != batch.images).any(1), replaced)
    assert (changed.amax((1, 2, 3)) <= batch.images.amax((1, 2, 3))).all()
    assert (changed.amin((1, 2, 3)) >= batch.images.amin((1, 2, 3))).all()
    assert SaliencyGuided(share=0.0)(view).abs().max() < 1e-6  # nothing replaced, nothing lost


def test_batch_statistics_learn_from_the_images_as_they_are():
    """One update: the gradient is taken in eval mode, and changed images aren't remembered."""
    model = conv_net().train()
    view = ClassifierView(full_batch(), classifier=model, space=SPACE, generator=seeded())
    SaliencyGuided()(view)
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
        view = ClassifierView(batch, classifier=model, space=INPUT, guide=GivenMask(), generator=seeded())
        torch.testing.assert_close(RightReasons(score=score)(view)[0], wanted)


def test_right_reasons_teach_by_a_second_derivative():
    """The gradient of the penalty is that of finite differences."""
    model, batch = conv_net().double(), full_batch(2)
    batch = TrainingBatch(images=batch.images.double(), labels=batch.labels, masks=batch.masks.double())

    def penalty():
        return RightReasons()(
            ClassifierView(batch, classifier=model, space=SPACE, guide=GivenMask(), generator=seeded())
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
    for name in ("rrr", "oracle", "random", "inverse"):
        method = recipe(name)
        with pytest.raises(ValueError, match="the batch has none; let the loader yield"):
            loss_of(method.terms, classifier_view(method, model, bare))
    with pytest.raises(ValueError, match="need a guide's mask"):
        RightReasons()(ClassifierView(batch, classifier=model, space=SPACE, generator=seeded()))


@pytest.mark.parametrize("name", ["erm", "sgt", "dre", "rrr", "align", "oracle", "random", "grey", "egat"])
def test_two_processes_get_the_gradient_of_one(name):
    model, masker, batch = conv_net(), small_masker(), full_batch()

    def gradient(batch, everyone):
        method = recipe(name)
        view = classifier_view(method, model, batch, masker=masker, everyone=everyone)
        values = sum(term.weight * term(view) for term in method.terms)
        return torch.autograd.grad(values.sum(), [model.conv1.weight, model.fc.weight])

    whole = gradient(batch, None)
    parts = []
    for start, part in ((0, slice(0, 2)), (2, slice(2, 6))):
        piece = TrainingBatch(images=batch.images[part], labels=batch.labels[part], masks=batch.masks[part])
        parts.append(gradient(piece, Everyone(batch.images, batch.labels, start, batch.masks)))
    torch.testing.assert_close([a + b for a, b in zip(*parts, strict=True)], list(whole), rtol=1e-4, atol=1e-5)


def test_one_may_cook_for_oneself():
    class Small:
        """Small weights: a term that looks at no image."""

        name = "small"
        weight = 0.01

        def __call__(self, view):
            return view.classifier.fc.weight.square().sum().expand(len(view.batch))

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
        loss = loss_of(method.masker_terms, masker_view(method, model, batch, masker))
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert Distinction().weight == 1


def test_binary_targets_are_the_learned_masks_above_and_below_one_half():
    batch, masker = full_batch(), Masker(width=8)
    soft, binary = (recipe("align", targets=targets).guide for targets in ("soft", "binary"))
    everyone = Everyone.just(batch)
    masks = [guide(batch, masker, seeded(), everyone) for guide in (soft, binary)]
    assert torch.equal(masks[1], (masks[0] > 0.5).float())
    with pytest.raises(ValueError, match="'soft' or 'binary'"):
        recipe("align", targets="hard")
