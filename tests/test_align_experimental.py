"""Three experiments: steady CAMs under attack, binary masks of a shrinking area, weights from consistency."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.networks import conv_net, images, untouched
from xai_align.align.guides import GivenMask, LearnedMask
from xai_align.align.masker import Masker
from xai_align.align.recipes import recipe
from xai_align.align.saliency import cam_at
from xai_align.align.terms.adversarial import Adversarial, ProjectedGradient
from xai_align.align.terms.annealed_binary_masks import AnnealedArea, Binarised, StraightThroughMasks
from xai_align.align.terms.explanation_consistency import ConsistencyWeighted, background_of
from xai_align.align.views.batch import Everyone, TrainingBatch
from xai_align.align.views.classifier_view import ClassifierView
from xai_align.align.views.masker_view import MaskerView
from xai_align.hookspecs import FeatureSpace

SPACE = FeatureSpace(layer="conv2", layout="NCHW")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def batch_of(count=6, *, indices=None, seed=0):
    places = torch.arange(count) if indices is None else torch.tensor(indices)
    return TrainingBatch(images=images(count, seed=seed), labels=torch.arange(count) % 3, indices=places)


def view_of(model, batch, **options):
    return ClassifierView(batch, classifier=model, space=SPACE, generator=seeded(), **options)


def net_without_dead_cams():
    """Every channel speaks for every class, some more than others."""
    model = conv_net()
    with torch.no_grad():
        model.fc.weight.abs_()
    return model


def losses_of(model, x, labels):
    return F.cross_entropy(model(x), labels, reduction="none").detach()


# explanation-guided adversarial training


def noise_like(x, seed=3):
    return torch.rand(x.shape, generator=seeded(seed))


@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize("limits", [None, (-1.0, 1.5)])
def test_an_attack_stays_in_its_box_and_raises_the_loss(steps, limits):
    model, batch = conv_net(), batch_of()
    x = batch.images.clamp(*limits) if limits else batch.images
    attacked = ProjectedGradient(epsilon=0.1, steps=steps, limits=limits)(x, batch.labels, model, noise_like(x))
    assert (attacked - x).abs().max() <= 0.1 + 1e-6
    if limits:
        assert attacked.min() >= limits[0]
        assert attacked.max() <= limits[1]
    assert (losses_of(model, attacked, batch.labels) > losses_of(model, x, batch.labels)).all()
    assert not attacked.requires_grad


def test_several_steps_raise_the_loss_further():
    model, batch = conv_net(), batch_of()
    start = torch.full_like(batch.images, 0.5)
    one, many = (
        losses_of(
            model, ProjectedGradient(epsilon=0.5, steps=n)(batch.images, batch.labels, model, start), batch.labels
        )
        for n in (1, 10)
    )
    assert many.sum() > one.sum()


def test_only_the_places_named_change():
    model, batch = conv_net(), batch_of()
    where = torch.zeros(6, 1, 8, 8, dtype=torch.bool)
    where[:, :, :4] = True
    attack = ProjectedGradient(epsilon=0.1)
    attacked = attack(batch.images, batch.labels, model, noise_like(batch.images), where=where)
    assert torch.equal(attacked[:, :, 4:], batch.images[:, :, 4:])
    assert not torch.equal(attacked[:, :, :4], batch.images[:, :, :4])


def test_making_an_attack_touches_nothing():
    model, batch = conv_net().train(), batch_of()
    model.add_module("dropout", nn.Dropout(0.5))
    with untouched(model):
        ProjectedGradient(epsilon=0.1, steps=3)(batch.images, batch.labels, model, noise_like(batch.images))
    assert model.norm.num_batches_tracked == 0


def test_batch_statistics_do_not_remember_attacked_images():
    model, batch = conv_net().train(), batch_of()
    Adversarial()(view_of(model, batch))
    assert model.norm.num_batches_tracked == 1  # the images


def test_a_perturbation_of_nothing_moves_no_cam():
    for mode in (True, False):
        model, batch = conv_net().train(mode), batch_of()
        term = Adversarial(epsilon=0.0, classification=0.0)
        assert torch.equal(term(view_of(model, batch)), torch.zeros(6))
        report = term.report()
        assert report["adversarial_consistency"] == 0
    assert report["adversarial_classification"] == pytest.approx(
        losses_of(model, batch.images, batch.labels).mean().item()
    )


def test_both_parts_of_the_adversarial_term_teach():
    for parts in ({"classification": 0.0}, {"consistency": 0.0}):
        model = conv_net()
        Adversarial(**parts)(view_of(model, batch_of())).mean().backward()
        assert model.conv1.weight.grad.any()
        assert model.conv1.weight.grad.isfinite().all()


def test_an_attack_of_ones_own():
    model, batch = conv_net(), batch_of()
    given = []

    def brighter(x, labels, classifier, noise):
        given.append((x.shape, noise.shape, classifier is model))
        return x + 1

    values = Adversarial(attack=brighter, consistency=0.0)(view_of(model, batch))
    torch.testing.assert_close(values.detach(), losses_of(model, batch.images + 1, batch.labels))
    assert given == [((6, 3, 8, 8), (6, 3, 8, 8), True)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epsilon": -0.1}, "epsilon is -0.1"),
        ({"epsilon": 0.1, "steps": 0}, "steps is 0"),
        ({"epsilon": 0.1, "step_size": float("inf")}, "step_size is inf"),
        ({"epsilon": 0.1, "limits": (1.0, 0.0)}, "give the least value and a larger one"),
    ],
)
def test_attacks_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ProjectedGradient(**options)
    if "step_size" not in options:
        with pytest.raises(ValueError, match=message):
            Adversarial(**options)


# annealed binary masks


def masker_view(masker, batch, *, progress=0.0, **options):
    return MaskerView(batch, classifier=conv_net(), masker=masker, generator=seeded(), progress=progress, **options)


class Constant(nn.Module):
    """The same mask everywhere, with a gradient."""

    def __init__(self, value):
        super().__init__()
        self.value = nn.Parameter(torch.tensor(float(value)))

    def forward(self, x):
        return self.value.expand(len(x), 1, *x.shape[2:])


def test_the_area_shrinks_in_proportion():
    term = AnnealedArea()
    assert [term.tau(progress) for progress in (0, 0.5, 1)] == pytest.approx([1, 0.675, 0.35])
    assert AnnealedArea(last=0.25, until=0.5).tau(0.25) == pytest.approx(0.625)
    assert AnnealedArea(until=0.5).tau(0.8) == pytest.approx(0.35)


def test_the_area_is_penalised_both_ways():
    for value in (0.2, 0.5):
        values = AnnealedArea()(masker_view(Constant(value), batch_of(), progress=1.0))
        torch.testing.assert_close(values, torch.full((6,), (value - 0.35) ** 2))
    assert AnnealedArea().weight == 6


def test_straight_through_masks_are_binary_and_teach():
    torch.manual_seed(0)
    masker, batch = Masker(width=8), batch_of()
    view = masker_view(masker, batch, masks_from=StraightThroughMasks())
    assert set(view.masks.unique().tolist()) == {0.0, 1.0}
    view.masks.mean().backward()
    gradients = [p.grad for p in masker.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
    assert any(gradient.any() for gradient in gradients)
    torch.testing.assert_close(view.soft, masker(batch.images))


def test_straight_through_masks_have_the_gradient_of_soft_ones():
    masker, batch = Constant(0.3), batch_of(2)
    view = masker_view(masker, batch, masks_from=StraightThroughMasks(temperature=0.5))
    view.masks.sum().backward()
    logit = torch.tensor(0.3).logit().requires_grad_()
    noise = view.draws.uniform("binary masks", 1, 8, 8).logit()
    ((logit + noise) / 0.5).sigmoid().sum().backward()
    # d logit / d p = 1 / (p (1 - p))
    torch.testing.assert_close(masker.value.grad, logit.grad / (0.3 * 0.7), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("value", [0.1, 0.5, 0.9])
def test_a_pixel_is_kept_with_its_masks_probability(value):
    batch = batch_of(64)
    masks = masker_view(Constant(value), batch, masks_from=StraightThroughMasks()).masks
    assert masks.mean().item() == pytest.approx(value, abs=0.03)  # 4,096 draws: four standard errors


def test_binary_masks_do_not_depend_on_how_a_step_is_shared():
    batch = batch_of()
    whole = masker_view(Constant(0.5), batch, masks_from=StraightThroughMasks()).masks
    part = TrainingBatch(images=batch.images[2:], labels=batch.labels[2:])
    everyone = Everyone(batch.images, batch.labels, 2)
    view = masker_view(Constant(0.5), part, masks_from=StraightThroughMasks(), everyone=everyone)
    assert torch.equal(view.masks, whole[2:])


def test_the_guide_is_the_same_mask_without_noise():
    torch.manual_seed(0)
    masker, batch = Masker(width=8, start=0.5), batch_of()
    mask = Binarised(LearnedMask())(batch, masker, seeded(), Everyone.just(batch))
    assert torch.equal(mask, (masker(batch.images) > 0.5).float())
    unknown = TrainingBatch(images=batch.images, labels=batch.labels, masks=torch.full((6, 1, 8, 8), float("nan")))
    assert Binarised(GivenMask())(unknown, None, seeded(), Everyone.just(unknown)).isnan().all()


def test_a_hundred_steps_bring_the_area_down():
    """The annealed penalty alone leads a full mask to the last area."""
    masker, batch, term = Constant(0.95), batch_of(16), AnnealedArea()
    optimiser = torch.optim.SGD(masker.parameters(), 0.05)
    for step in range(100):
        view = masker_view(masker, batch, progress=min(step / 60, 1.0), masks_from=StraightThroughMasks())
        optimiser.zero_grad()
        term(view).mean().backward()
        optimiser.step()
    assert masker.value.item() == pytest.approx(0.35, abs=0.08)


# explanation consistency


def test_unseen_examples_weigh_one():
    model, batch = conv_net(), batch_of()
    term = ConsistencyWeighted()
    torch.testing.assert_close(term(view_of(model, batch)).detach(), losses_of(model, batch.images, batch.labels))


def test_weights_are_what_consistency_left_over():
    model, batch = net_without_dead_cams(), batch_of()
    term = ConsistencyWeighted(normalise="none", epsilon=0.5)
    view = view_of(model, batch)
    consistency = term.examine(view)
    assert not view.dead.any()
    assert ((consistency > 0) & (consistency < 1)).all()
    assert consistency.std() > 0
    term(view)
    torch.testing.assert_close(term.weights_of(batch.indices), 1 - consistency)
    again = term(view_of(model, batch)).detach()
    torch.testing.assert_close(again, (1 - consistency) * losses_of(model, batch.images, batch.labels))
    scaled = ConsistencyWeighted(epsilon=0.5)
    scaled.load_state_dict(term.state_dict())
    torch.testing.assert_close(scaled.weights_of(batch.indices), (1 - consistency) / (1 - consistency).mean())


def test_no_attack_leaves_the_explanation_as_it_is():
    model, term = net_without_dead_cams(), ConsistencyWeighted(epsilon=0.0)
    torch.testing.assert_close(term.examine(view_of(model, batch_of())), torch.ones(6))
    term(view_of(model, batch_of()))
    assert torch.equal(term.weights_of(torch.arange(6)), torch.ones(6))  # nothing tells examples apart
    assert term.report()["consistency"] == pytest.approx(1)


def test_only_the_background_is_attacked():
    model, batch = net_without_dead_cams(), batch_of()
    term = ConsistencyWeighted(epsilon=0.3, background=0.4)
    view, seen = view_of(model, batch), []
    handle = model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach().clone()))
    term.examine(view)
    handle.remove()
    moved = (seen[-1] != batch.images).any(1, keepdim=True)
    heat = F.interpolate(view.saliency.detach(), (8, 8), mode="bilinear", align_corners=False)
    assert torch.equal(background_of(cam_at(view.seen, batch.labels).detach(), 0.4, (8, 8)), heat < 0.4)
    assert moved.any()
    assert not (moved & (heat >= 0.4)).any()
    assert (seen[-1] - batch.images).abs().max() <= 0.3 + 1e-6


def test_examples_are_known_by_their_index_across_epochs():
    model = net_without_dead_cams()
    term = ConsistencyWeighted(normalise="none", epsilon=0.5)
    first = batch_of(indices=[7, 3, 11, 0, 1, 2])
    consistency = term.examine(view_of(model, first))
    term(view_of(model, first))
    torch.testing.assert_close(term.weights_of(torch.tensor([11, 7])), 1 - consistency[[2, 0]])
    assert term.weights_of(torch.tensor([5, 40])).tolist() == [1.0, 1.0]  # never seen


def test_what_is_remembered_goes_through_a_checkpoint(tmp_path):
    from safetensors.torch import load_file, save_file

    model, batch = conv_net(), batch_of()
    term, other = ConsistencyWeighted(), ConsistencyWeighted()
    save_file(other.state_dict(), tmp_path / "empty.safetensors")
    other.load_state_dict(load_file(tmp_path / "empty.safetensors"))
    term(view_of(model, batch))
    save_file(term.state_dict(), tmp_path / "state.safetensors")
    other.load_state_dict(load_file(tmp_path / "state.safetensors"))
    assert torch.equal(term(view_of(model, batch)), other(view_of(model, batch)))
    state = term.state_dict()
    state["inconsistency"].fill_(0)  # a copy
    assert term.weights_of(batch.indices).sum() > 0


def test_a_stopped_fit_goes_on_with_what_it_remembered(tmp_path):
    from xai_align.align import AlignTrainer

    batches = [
        TrainingBatch(images=images(6, seed=s), labels=torch.arange(6) % 3, indices=torch.arange(6) + 6 * s)
        for s in range(2)
    ]

    def fitted(out, epochs):
        trainer = AlignTrainer(conv_net(), target_layer="conv2", recipe=recipe("consistency", epsilon=0.5), out=out)
        return trainer.fit(batches, epochs=epochs).classifier.state_dict()

    straight = fitted(tmp_path / "straight", 3)
    fitted(tmp_path / "stopped", 1)
    resumed = fitted(tmp_path / "stopped", 3)
    assert all(torch.equal(value, resumed[key]) for key, value in straight.items())


def test_a_dead_cam_says_nothing_about_an_example():
    model, batch = net_without_dead_cams(), batch_of()
    with torch.no_grad():
        model.fc.weight[1] = -1.0  # nothing speaks for class 1
    term = ConsistencyWeighted()
    term(view_of(model, batch))
    assert term.examine(view_of(model, batch)).isnan().tolist() == (batch.labels == 1).tolist()
    weights = term.weights_of(batch.indices)
    assert (weights[batch.labels == 1] == 1).all()  # as if it had not been seen
    assert weights[batch.labels != 1].mean().item() == pytest.approx(1)


def test_examining_touches_nothing():
    model, batch = conv_net().train(), batch_of()
    with untouched(model):
        ConsistencyWeighted(steps=2).examine(view_of(model, batch))


def test_no_gradient_goes_through_the_explanation():
    model, batch = net_without_dead_cams(), batch_of()
    term = ConsistencyWeighted(normalise="none", epsilon=0.5)
    term(view_of(model, batch))
    weights = term.weights_of(batch.indices)
    (found,) = torch.autograd.grad(term(view_of(model, batch)).sum(), model.conv1.weight)
    plain = F.cross_entropy(model(batch.images), batch.labels, reduction="none")
    torch.testing.assert_close(found, torch.autograd.grad((weights * plain).sum(), model.conv1.weight)[0])


def test_consistency_says_what_it_needs(monkeypatch):
    model, batch = conv_net(), batch_of()
    bare = TrainingBatch(images=batch.images, labels=batch.labels)
    with pytest.raises(ValueError, match=r"let the loader yield TrainingBatch\(images=..., labels=..., indices=...\)"):
        ConsistencyWeighted()(view_of(model, bare))
    with pytest.raises(ValueError, match="the index -1; indices count from 0"):
        ConsistencyWeighted()(view_of(model, batch_of(2, indices=[-1, 0])))
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    with pytest.raises(RuntimeError, match=r"in 2 processes.*run it in one"):
        ConsistencyWeighted()(view_of(model, batch))


def test_experiments_are_called_so():
    from xai_align.align.terms import adversarial, annealed_binary_masks, explanation_consistency

    for module in (adversarial, annealed_binary_masks, explanation_consistency):
        assert module.__doc__.startswith("Experimental")
        assert "our reading" in module.__doc__.lower()
    assert recipe("egat", epsilon=0.2, steps=3).terms[1].attack == ProjectedGradient(epsilon=0.2, steps=3)
