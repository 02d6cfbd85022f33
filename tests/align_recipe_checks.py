"""Properties of a training recipe, for recipes of the core and of plugins."""

from __future__ import annotations

import copy

import torch
from torch import nn

from tests.networks import conv_net, images, untouched
from xai_align.align import ClassifierPass, Masker, MaskerPass, TrainingBatch, recipe
from xai_align.align.forward_passes.training_batch import GlobalBatch
from xai_align.align.recipe_by_name import recipe_options
from xai_align.hookspecs import FeatureSpace

SPACE = FeatureSpace(layer="conv2", layout="NCHW")


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
    return ClassifierPass(
        batch, classifier=model, space=space, mask_source=method.mask_source, masker=masker, generator=seeded(), **more
    )


def masker_forward(method, model, batch, masker, **more):
    return MaskerPass(
        batch,
        classifier=model,
        masker=masker,
        generator=seeded(),
        baseline=method.baseline,
        masks_from=method.masks_from,
        **more,
    )


def loss_of(terms, forward):
    return sum(term.weight * term(forward) for term in terms).mean()


class Counting(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.passes = []

    def forward(self, x):
        self.passes.append(len(x))
        return self.inner(x)


def check_own_criterion(name):
    """It takes one's own criterion."""
    own = nn.CrossEntropyLoss(reduction="none")
    method = recipe(name, criterion=own)
    holders = [getattr(term, "classification", term) for term in method.terms]
    assert own in [getattr(holder, "criterion", None) for holder in holders]
    assert "criterion" in recipe_options(name)


def check_classifier_step(name, order):
    """A step of the classifier has gradients for the classifier alone."""
    method, model, masker, batch = recipe(name), conv_net(), small_masker(), full_batch()
    forward = classifier_view(method, model, batch, masker=masker, order=order)
    loss = loss_of(method.terms, forward)
    assert loss.dtype == torch.float32
    loss.backward()
    taught = {key for key, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert {"conv1.weight", "conv2.weight", "fc.weight"} <= taught
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    assert all(p.grad is None for p in masker.parameters())
    assert batch.images.grad is None


def check_masker_step(name):
    """A step of the masker has gradients for the masker alone."""
    method, model, masker, batch = recipe(name), conv_net(), small_masker(), full_batch()
    model.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    loss_of(method.masker_terms, masker_forward(method, model, batch, masker)).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in masker.parameters())
    assert any(p.grad.any() for p in masker.parameters())
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def check_passes(name, passes):
    """Forward passes of a step of the classifier: how many images each has."""
    method, model = recipe(name), Counting(conv_net())
    forward = classifier_view(
        method, model, full_batch(), masker=small_masker(), space=FeatureSpace(layer="inner.conv2", layout="NCHW")
    )
    loss_of(method.terms, forward)
    assert model.passes == passes


def check_no_trace(name):
    """A step changes no network, mode or batch."""
    method, model, masker, batch = recipe(name), conv_net(), small_masker(), full_batch()
    model.act.train()  # one module in another mode than the rest
    before = copy.deepcopy(batch)
    with untouched(model), untouched(masker):
        torch.autograd.grad(
            loss_of(method.terms, classifier_view(method, model, batch, masker=masker)), model.conv2.weight
        )
    assert all(torch.equal(getattr(batch, what), getattr(before, what)) for what in ("images", "labels", "masks"))


def check_half_precision(name):
    """Passes in bfloat16 give float32 losses."""
    method, model, masker, batch = recipe(name), conv_net(), small_masker(), full_batch()
    with torch.autocast("cpu", torch.bfloat16):
        forward = classifier_view(method, model, batch, masker=masker)
        values = [term(forward) for term in method.terms]
        if method.trains_masker:
            values += [term(masker_forward(method, model, batch, masker)) for term in method.masker_terms]
    assert all(value.dtype == torch.float32 and value.shape == (6,) and value.isfinite().all() for value in values)
    assert forward.seen.logits.dtype == torch.bfloat16


def check_two_processes(name):
    """Gradients of two unequal parts of a step add up to those of the whole."""
    model, masker, batch = conv_net(), small_masker(), full_batch()

    def gradient(batch, global_batch):
        method = recipe(name)
        forward = classifier_view(method, model, batch, masker=masker, global_batch=global_batch)
        values = sum(term.weight * term(forward) for term in method.terms)
        return torch.autograd.grad(values.sum(), [model.conv1.weight, model.fc.weight])

    whole = gradient(batch, None)
    parts = []
    for start, part in ((0, slice(0, 2)), (2, slice(2, 6))):
        piece = TrainingBatch(images=batch.images[part], labels=batch.labels[part], masks=batch.masks[part])
        parts.append(gradient(piece, GlobalBatch(batch.images, batch.labels, start, batch.masks)))
    torch.testing.assert_close([a + b for a, b in zip(*parts, strict=True)], list(whole), rtol=1e-4, atol=1e-5)
