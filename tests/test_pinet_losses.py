"""The losses against numbers worked by hand, and what they leave alone."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from fit_factory import Plain, Squares, small_pinet

from xai_align.pinet.network.loss_formulas import (
    asked,
    detected_signal,
    distillation_loss,
    edge_loss,
    erased,
    erasing_loss,
    feedback_loss,
    gate_of,
    mask_loss,
    parsimony_loss,
    prediction_loss,
    segmentation_loss,
    yes_or_no,
)
from xai_align.pinet.network.losses import Batch, PiNetLoss

NAN = float("nan")


def tensor(*values):
    return torch.tensor(values)


def close(found, wanted, tolerance=1e-6):
    assert found.item() == pytest.approx(wanted, abs=tolerance)


def test_feedback_is_the_mean_square_of_what_changed():
    close(feedback_loss(tensor([0.0, 1.0], [0.5, 0.5]), tensor([0.0, 0.5], [0.5, 0.25])), (0.25 + 0.0625) / 4)


def test_parsimony_sums_over_an_example_and_averages_over_the_batch():
    pi = tensor([[[[1.0, 2.0]]]], [[[[0.0, 3.0]]]])  # two examples, one class, one channel, 1 x 2
    close(parsimony_loss(pi), ((1 + 4) + 9) / 2)


def test_the_mask_loss_looks_at_known_places_only():
    pi = tensor([[[0.5, 0.0]]], [[[1.0, 0.25]]]).requires_grad_()
    masks = tensor([[[1.0, NAN]]], [[[NAN, NAN]]])
    loss = mask_loss(pi, masks)
    close(loss, 0.25)
    (gradient,) = torch.autograd.grad(loss, pi)
    assert gradient.tolist() == [[[[-1.0, 0.0]]], [[[0.0, 0.0]]]]
    nothing = mask_loss(pi, torch.full_like(pi, NAN))
    assert nothing.item() == 0
    assert torch.autograd.grad(nothing, pi)[0].abs().sum() == 0


def test_one_known_mask_counts_in_full_however_large_the_batch():
    """As in the paper, where one image of each batch had a mask."""
    pi, mask = torch.full((1, 1, 2, 2), 0.5), torch.ones(1, 1, 2, 2)
    alone = mask_loss(pi, mask)
    among = mask_loss(pi.repeat(4, 1, 1, 1), torch.cat([mask, torch.full((3, 1, 2, 2), NAN)]))
    assert float(alone) == float(among) == 0.25


def test_distillation_is_the_divergence_of_softened_answers():
    teacher, student = tensor([2 * math.log(3.0), 0.0]), tensor([0.0, 0.0])
    # at T = 2 the teacher says 3/4 and 1/4, the student 1/2 each
    wanted = 4 * (0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5))
    close(distillation_loss(student, teacher, 2.0), wanted)
    close(distillation_loss(teacher + 5, teacher, 2.0), 0)  # a common constant changes no probability


def test_independent_answers_are_distilled_as_yes_or_no():
    assert torch.allclose(yes_or_no(tensor([0.3, -2.0])).softmax(-1)[..., 0], tensor([0.3, -2.0]).sigmoid())


@pytest.mark.parametrize(
    ("task", "logits", "targets", "wanted"),
    [
        ("multiclass", [[0.0, math.log(3.0)]], torch.tensor([1]), -math.log(0.75)),
        ("binary", [[math.log(3.0)], [0.0]], tensor([1.0], [0.0]), (-math.log(0.75) + math.log(2)) / 2),
        ("multilabel", [[math.log(3.0), 0.0]], tensor([0.0, 1.0]), (-math.log(0.25) + math.log(2)) / 2),
        ("regression", [[3.0, -1.0]], tensor([1.0, 1.0]), 2.0),
    ],
)
def test_prediction(task, logits, targets, wanted):
    close(prediction_loss(task, torch.tensor(logits), torch.zeros(1), targets), wanted)


def test_segmentation_by_class_numbers_divides_by_the_sum_over_classes():
    maps = tensor([[[0.6, 0.1]], [[0.2, 0.3]]])  # two classes, 1 x 2
    close(segmentation_loss(maps, torch.tensor([[[0, 1]]])), -(math.log(0.75) + math.log(0.75)) / 2)


def test_segmentation_by_shares_takes_each_class_by_itself():
    maps = tensor([[[0.75, 0.5]]])
    wanted = -(math.log(0.75) + 0.5 * math.log(0.5) + 0.5 * math.log(0.5)) / 2
    close(segmentation_loss(maps, tensor([[[1.0, 0.5]]])), wanted)
    close(segmentation_loss(maps, torch.tensor([[[1, 0]]])), -(math.log(0.75) + math.log(0.5)) / 2)


def test_segmentation_refuses_signed_maps():
    with pytest.raises(ValueError, match="use a detector with activation 'softmax' or 'sigmoid'"):
        segmentation_loss(tensor([[[-0.1, 0.5]]]), torch.tensor([[[1, 0]]]))


def test_the_detected_signal_is_a_product_of_pixels_and_normalised_again():
    pixels = tensor([[[0.5, 1.0]], [[0.2, 0.0]]])  # two channels, 1 x 2
    mean, std = (0.5, 0.1), (0.25, 0.5)
    normalised = (pixels - tensor(*mean).reshape(2, 1, 1)) / tensor(*std).reshape(2, 1, 1)
    gate = tensor([[[0.5, -1.0]]])
    seen = detected_signal(normalised, gate, mean, std) * tensor(*std).reshape(2, 1, 1) + tensor(*mean).reshape(2, 1, 1)
    assert torch.allclose(seen, tensor([[[0.25, 0.0]], [[0.1, 0.0]]]))


def test_erasing_fades_into_the_median_colour():
    image = tensor([[[0.0, 0.0, 0.0, 1.0]]])
    assert erased(image, tensor([[[0.0, 1.0, 0.0, 0.75]]])).tolist() == [[[[0.0, 0.0, 0.0, 0.25]]]]
    assert erased(image, tensor([[[0.0, 0.0, 0.0, 7.0]]]))[0, 0, 0, 3] == 0  # never beyond it


def test_a_map_pays_for_its_edges_where_the_picture_is_flat():
    picture = tensor([[[0.5, 0.5, 0.5 + 0.03 * math.log(2.0)]]])  # flat, then an edge that halves the price
    close(edge_loss(tensor([[[0.0, 1.0, 0.0]]]), picture), 1 + 0.5)
    assert float(edge_loss(torch.full((1, 2, 3, 3), 0.7), torch.rand(1, 3, 6, 6))) == 0
    coarse = tensor([[[0.0, 1.0]]])
    close(edge_loss(coarse, tensor([[[0.2, 0.4, 0.1, 0.5]]])), 1)  # both halves of the picture have the mean 0.3


def test_the_erasing_loss_asks_only_about_what_was_there():
    close(erasing_loss("binary", tensor([math.log(3.0)], [9.0]), tensor([1.0], [0.0])), -math.log(0.25) / 2)
    close(erasing_loss("multiclass", tensor([math.log(3.0), 0.0]), torch.tensor([0])), -math.log(0.25))


def test_a_gate_is_laid_on_the_pixels():
    image = torch.zeros(1, 3, 4, 4)
    assert gate_of(torch.full((1, 1, 2, 2), 0.3), image).shape == (1, 1, 4, 4)
    assert torch.allclose(gate_of(torch.full((1, 3, 2, 2), 0.3), image), torch.tensor(0.3))
    many = gate_of(torch.arange(6.0).reshape(1, 6, 1, 1).expand(1, 6, 4, 4), image)  # not the image's channels
    assert many.shape == (1, 1, 4, 4)
    assert torch.allclose(many, torch.tensor(2.5))


def test_the_coefficients_that_are_asked_for_are_those_of_the_label():
    pi = torch.arange(6.0).reshape(2, 3, 1, 1, 1)
    assert asked("multiclass", pi, torch.tensor([2, 0])).flatten().tolist() == [2.0, 3.0]
    labels = tensor([1.0, 1.0, 0.0], [0.0, 0.0, 0.0])
    assert asked("multilabel", pi, labels).flatten().tolist() == [1.0, 0.0]
    assert asked("multiclass", pi[:, :1], torch.tensor([2, 0])).flatten().tolist() == [0.0, 3.0]  # shared by all


def batch_of(count=4, **more):
    data = Squares(count)
    return Batch(data.images, torch.arange(count).remainder(2).float()[:, None], **more)


def test_the_loss_is_the_weighted_sum_of_its_terms():
    model, batch = Plain(), batch_of(masks=Squares(4).masks, teacher=torch.ones(4, 1))
    weights = {"feedback": 3.0, "parsimony": 0.5, "masks": 2.0, "distillation": 0.25, "erasing": 0.125, "edges": 0.01}
    loss = PiNetLoss("binary", prediction=0.5, **weights)
    total, terms = loss(model, batch)
    assert list(terms) == ["prediction", *weights]
    close(total, 0.5 * terms["prediction"].item() + sum(weights[name] * terms[name].item() for name in weights), 1e-5)
    seen = model.explain(batch.images)
    again = model.explain(torch.relu(seen.coefficients[:, 0] * batch.images))
    close(terms["feedback"], (seen.coefficients - again.coefficients).square().mean().item())


def test_terms_without_weight_cost_nothing():
    model, calls = Plain(), []
    counting = SimpleNamespace(explain=lambda x: calls.append(1) or model.explain(x))
    PiNetLoss("binary", parsimony=1.0)(counting, batch_of())
    assert len(calls) == 1
    PiNetLoss("binary", feedback=1.0, erasing=1.0)(counting, batch_of())
    assert len(calls) == 1 + 3


def test_feedback_teaches_through_both_passes():
    """The gradient is that of the formula with nothing held fixed."""
    model, batch = Plain().double(), batch_of()
    images = batch.images.double()
    loss = PiNetLoss("binary", prediction=0.0, distillation=1e-30, feedback=1.0)
    total, _ = loss(model, Batch(images, batch.targets, teacher=torch.zeros(4, 1)))
    (found,) = torch.autograd.grad(total, model.w)

    def by_hand(w):
        pi = torch.sigmoid(w * images)
        return (pi - torch.sigmoid(w * pi * images)).square().mean()

    step = 1e-5
    close(found, float(by_hand(1 + step) - by_hand(1 - step)) / (2 * step), 1e-8)


@pytest.mark.parametrize(("statistics", "passes"), [("kept", 1), ("updated", 2)])
def test_batch_norms_learn_from_images_and_from_masked_ones_if_asked(statistics, passes):
    model = small_pinet().train()
    PiNetLoss("binary", feedback=1.0, second_pass_statistics=statistics)(model, batch_of())
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert {int(norm.num_batches_tracked) for norm in norms} == {passes}
    assert all(norm.track_running_stats for norm in norms)


def test_a_single_mask_of_several_classes_is_that_of_the_label():
    pi = tensor([[[0.5]], [[0.25]]])[:, :, None]  # one example, two classes, 1 x 1
    seen = SimpleNamespace(logits=torch.zeros(1, 2), coefficients=pi, coefficient_maps=pi[:, :, 0])
    loss = PiNetLoss("multiclass", masks=1.0)
    batch = Batch(torch.zeros(1, 1, 1, 1), torch.tensor([1]), torch.ones(1, 1, 1, 1))
    close(loss.terms(None, seen, batch)["masks"], 0.75**2)
    shared = SimpleNamespace(logits=torch.zeros(1, 2), coefficients=pi[:, :1], coefficient_maps=pi[:, :, 0])
    either = Batch(batch.images, batch.targets, tensor([[[0.0]], [[1.0]]]))
    close(loss.terms(None, shared, either)["masks"], 0.5**2)


def test_without_labels_the_teachers_answer_stands_for_them():
    loss = PiNetLoss("multiclass", prediction=0.0, distillation=1.0)
    batch = Batch(torch.zeros(2, 1, 1, 1), torch.zeros(2), teacher=tensor([0.0, 3.0], [1.0, -1.0]))
    assert loss.labelled(batch).targets.tolist() == [1, 0]
    with pytest.raises(ValueError, match="give fit_pinet a teacher"):
        loss.of_answer(SimpleNamespace(logits=torch.zeros(2, 2)), Batch(batch.images, batch.targets))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"task": "clustering"}, "choose one of multiclass"),
        ({"feedback": -1.0}, "the weight of 'feedback' is -1.0"),
        ({"parsimony": NAN}, "the weight of 'parsimony' is nan"),
        ({"prediction": 0.0}, "every weight is zero"),
        ({"prediction": 0.0, "feedback": 1.0}, "neither labels"),
        ({"temperature": 0.0}, "give a positive number"),
        ({"std": (0.0,)}, "above zero"),
        ({"second_pass_statistics": "no"}, "choose 'updated' or 'kept'"),
        ({"task": "segmentation", "feedback": 1.0}, "'feedback' asks whether a class is there"),
    ],
)
def test_a_loss_that_makes_no_sense_is_refused(options, told):
    with pytest.raises(ValueError, match=told):
        PiNetLoss(**{"task": "binary", **options})
