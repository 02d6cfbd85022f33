"""The losses of masker and classifier against values worked by hand, and the gradients they send."""

from __future__ import annotations

from math import log

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.networks import conv_net, images, untouched
from xai_align.align.alignment_loss import alignment_loss
from xai_align.align.masker_loss import keep_and_drop, masker_loss, smoothness_of, sparsity_of
from xai_align.align.mixup_regulariser import mixed, mixing_shares, mixup_regulariser, same_class_partners
from xai_align.align.saliency import grad_cam, normalised

LABELS = torch.tensor([0, 3, 4])


def masks(count=3, size=8, seed=5) -> Tensor:
    return torch.rand(count, 1, size, size, generator=torch.Generator().manual_seed(seed))


class Sure(nn.Module):
    """Class 0 as soon as there is anything in the picture; on an empty one all K classes alike."""

    def __init__(self, classes=10):
        super().__init__()
        self.classes, self.weight = classes, nn.Parameter(torch.tensor(1e6))

    def forward(self, x):
        first = x.abs().flatten(1).sum(1) * self.weight
        return torch.stack([first] + [torch.zeros_like(first)] * (self.classes - 1), 1)


# the masker's loss


@pytest.mark.parametrize("classes", [2, 10])
def test_why_masks_collapse(classes):
    """With a sure classifier: all ones costs 1 / K^2, all zeros (2 - 1/K)^2, any constant between them 1."""
    x, y = images(2), torch.tensor([0, 0])
    expected = {1.0: 1 / classes**2, 0.0: (2 - 1 / classes) ** 2, 0.5: 1.0}
    for value, distance in expected.items():
        found = masker_loss(Sure(classes).eval(), x, torch.full((2, 1, 8, 8), value), y)
        assert found.distinction.tolist() == pytest.approx([distance] * 2, rel=1e-5)
        assert found.total.tolist() == pytest.approx([distance + 2.0 * value] * 2, rel=1e-5)
        assert found.smoothness.eq(0).all()
    ones = masker_loss(Sure(classes).eval(), x, torch.ones(2, 1, 8, 8), y)
    assert (ones.p_keep - ones.p_drop).tolist() == pytest.approx([1 - 1 / classes] * 2)


def test_the_sum_of_its_parts():
    model, x, m = conv_net(), images(3), masks()
    found = masker_loss(model, x, m, LABELS, sparsity=0.7, smoothness=0.3)
    p_keep = model(x * m).softmax(1)[range(3), LABELS]
    p_drop = model(x * (1 - m)).softmax(1)[range(3), LABELS]
    jumps = [(one[1:] - one[:-1]).abs().mean() + (one[:, 1:] - one[:, :-1]).abs().mean() for one in m[:, 0]]
    torch.testing.assert_close(found.p_keep, p_keep)
    torch.testing.assert_close(found.p_drop, p_drop)
    torch.testing.assert_close(found.sparsity, m.mean((1, 2, 3)))
    torch.testing.assert_close(found.smoothness, torch.stack(jumps))
    torch.testing.assert_close(
        found.total, (p_keep - p_drop - 1) ** 2 + 0.7 * m.mean((1, 2, 3)) + 0.3 * torch.stack(jumps)
    )
    assert found.parts()["total"].item() == pytest.approx(found.total.mean().item())
    assert not found.parts()["total"].requires_grad


def test_weights_mean_the_same_at_any_size():
    """Area and jumps are means: a picture repeated side by side has the same share and the same jumps in columns."""
    m = masks()
    large = nn.functional.interpolate(m, scale_factor=4)
    torch.testing.assert_close(sparsity_of(large), sparsity_of(m))
    half = torch.zeros(1, 1, 10, 10)
    half[..., 5:] = 1
    assert smoothness_of(half).item() == pytest.approx(1 / 9)
    assert smoothness_of(torch.rand(2, 1, 1, 1)).tolist() == [0, 0]
    assert smoothness_of(torch.tensor([[[[0.0, 1.0]]]])).item() == 1


def test_the_gradient_goes_to_the_masks_alone():
    model, x, m = conv_net(), images(3), masks().requires_grad_()
    with untouched(model):
        masker_loss(model, x, m, LABELS).total.sum().backward()
        assert all(p.grad is None for p in model.parameters())
    assert m.grad.abs().sum() > 0
    with untouched(model), pytest.raises(ValueError, match="labels"):
        masker_loss(model, x, m, LABELS[:2])


def test_one_pass_of_both_halves():
    seen = []
    model = conv_net()
    model.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    masker_loss(model, images(3), masks(), LABELS)
    assert seen == [6]


def test_all_channels_are_multiplied_by_the_same_and_add_up():
    x, m = images(3), masks()
    keep, drop = keep_and_drop(x, m)
    torch.testing.assert_close(keep + drop, x)
    torch.testing.assert_close(keep, x * m.expand(3, 3, 8, 8), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("baseline", "values"),
    [
        (0.5, lambda x: torch.full_like(x, 0.5)),
        (torch.tensor([1.0, 2.0, 3.0])[:, None, None], lambda x: torch.tensor([1.0, 2.0, 3.0])[:, None, None]),
        (lambda x: x.flip(3), lambda x: x.flip(3)),
        ("mean", lambda x: x.mean((2, 3), keepdim=True)),
        ("another_image", lambda x: x[[2, 0, 1]]),
    ],
)
def test_what_stands_where_something_is_removed(baseline, values):
    x, ones = images(3), torch.ones(3, 1, 8, 8)
    b = values(x).expand_as(x)
    for m, expected in ((ones, (x, b)), (0 * ones, (b, x)), (0.5 * ones, ((x + b) / 2, (x + b) / 2))):
        for ours, theirs in zip(keep_and_drop(x, m, baseline), expected, strict=True):
            torch.testing.assert_close(ours, theirs)


def test_a_blurred_baseline_keeps_nothing_sharp():
    x = images(1, 32)
    _, drop = keep_and_drop(x, torch.ones(1, 1, 32, 32), "blur")
    assert drop.std() < 0.3 * x.std()


def test_a_pale_picture_says_less_behind_another():
    """A network of one pixel's sign sees it through any flat mask on grey, and not behind an opposite one."""

    class Sign(nn.Module):
        def forward(self, x):
            return torch.stack([x[:, 0, 0, 0], -x[:, 0, 0, 0]], 1) * 1e4

    x = torch.tensor([1.0, -1.0])[:, None, None, None].expand(2, 3, 8, 8)
    m, y = torch.full((2, 1, 8, 8), 0.7), torch.tensor([0, 1])
    on_grey = masker_loss(Sign().eval(), x, m, y)
    assert on_grey.p_keep.tolist() == on_grey.p_drop.tolist() == [1, 1]
    behind = masker_loss(Sign().eval(), x, m, y, baseline="another_image")
    assert (behind.p_keep.tolist(), behind.p_drop.tolist()) == ([1, 1], [0, 0])
    alone = keep_and_drop(x[:1], m[:1], "another_image")
    torch.testing.assert_close(alone, keep_and_drop(x[:1], m[:1]))


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: masker_loss(conv_net().train(), images(3), masks(), LABELS), ValueError, "train mode"),
        (lambda: masker_loss(conv_net(), images(3), masks(2), LABELS), ValueError, r"give \[3, 1, 8, 8\]"),
        (lambda: masker_loss(conv_net(), images(3), masks(size=4), LABELS), ValueError, r"masks have shape"),
        (lambda: masker_loss(nn.Flatten(), images(3), masks(), LABELS + 200), ValueError, "classes 0 … 191"),
        (lambda: masker_loss(nn.Conv2d(3, 5, 1), images(3), masks(), LABELS), ValueError, "lack its head"),
        (lambda: keep_and_drop(images(3), masks(), "noisy_linear"), TypeError, "blended by a soft mask"),
        (lambda: keep_and_drop(images(3), masks(), True), TypeError, "type bool"),
        (lambda: keep_and_drop(images(3), masks(), "grey"), ValueError, "no baseline 'grey'.*another_image"),
        (lambda: keep_and_drop(images(3), masks(), torch.zeros(2)), ValueError, "can be expanded to"),
        (lambda: keep_and_drop(images(3), masks(), lambda x: 0.0), ValueError, "the baseline gave a float"),
    ],
)
def test_what_a_masker_cannot_learn_from_is_refused(call, kind, message):
    with pytest.raises(kind, match=message):
        call()


# the alignment loss


def test_alignment_by_hand():
    """Two cells: the CAM says .8 and .4, the mask 1 and .25."""
    cam, mask = torch.tensor([[[[0.8, 0.4]]]]), torch.tensor([[[[1.0, 0.25]]]])
    found = alignment_loss(cam, mask)
    first, second = -log(0.8), -0.25 * log(0.4) - 0.75 * log(0.6)
    assert found.total.item() == pytest.approx((first + second) / 2)
    assert found.inside.item() == pytest.approx((-log(0.8) - 0.25 * log(0.4)) / 1.25)
    assert found.outside.item() == pytest.approx(-log(0.6))
    entropy = -0.25 * log(0.25) - 0.75 * log(0.75)
    assert found.excess.item() == pytest.approx((first + second - entropy) / 2, rel=1e-5)
    even = alignment_loss(cam, mask, balance="even")
    assert even.total.item() == pytest.approx((found.inside.item() + found.outside.item()) / 2)


@pytest.mark.parametrize("meet", ["mask_down", "cam_up"])
def test_nothing_exceeds_where_both_are_equal(meet):
    m = masks().clamp(0.01, 0.99)
    found = alignment_loss(m, m, meet=meet)
    torch.testing.assert_close(found.excess, torch.zeros(3), rtol=0, atol=1e-6)
    assert (found.total > 0.1).all()  # the BCE itself doesn't reach zero: the mask is soft
    assert (alignment_loss(1 - m, m, meet=meet).excess > 0.1).all()
    # sure of everything and right: what clamping leaves
    sure = (m > 0.5).float()
    assert alignment_loss(sure, sure, meet=meet).excess.abs().max() < 2e-3


def test_a_small_object_counts_half_when_balanced():
    cam, mask = torch.full((1, 1, 10, 10), 0.1), torch.zeros(1, 1, 10, 10)
    mask[0, 0, 0, 0] = 1
    area, even = (alignment_loss(cam, mask, balance=balance).total.item() for balance in ("area", "even"))
    assert area == pytest.approx(-0.01 * log(0.1) - 0.99 * log(0.9), rel=1e-5)
    assert even == pytest.approx(-0.5 * log(0.1) - 0.5 * log(0.9), rel=1e-5)


def test_masks_come_down_by_area_and_cams_up_smoothly():
    cam = torch.tensor([[[[0.2, 0.6], [0.4, 0.9]]]])
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., :1, :] = 1  # half of each upper cell
    down = alignment_loss(cam, torch.tensor([[[[0.5, 0.5], [0.0, 0.0]]]]))
    assert alignment_loss(cam, mask).total.item() == pytest.approx(down.total.item())
    up = nn.functional.interpolate(cam, (4, 4), mode="bilinear", align_corners=False)
    assert alignment_loss(cam, mask, meet="cam_up").total.item() == pytest.approx(alignment_loss(up, mask).total.item())
    # sizes that do not divide
    assert alignment_loss(cam, masks(1, 7)).total.isfinite().all()


@pytest.mark.parametrize("eps", [1e-3, 1e-2])
def test_exact_zeros_and_ones_do_not_burst(eps):
    cam = torch.cat([torch.zeros(3, 1, 8, 4), torch.ones(3, 1, 8, 2), torch.full((3, 1, 8, 2), 1e-30)], 3)
    cam.requires_grad_()
    found = alignment_loss(cam, masks(), eps=eps)
    (gradient,) = torch.autograd.grad(found.total.sum(), cam)
    assert found.total.isfinite().all()
    assert gradient.abs().max() <= 1.01 / eps / 64


def test_only_the_cam_learns():
    cam, mask = masks(seed=1).requires_grad_(), masks().requires_grad_()
    alignment_loss(cam, mask).total.sum().backward()
    assert cam.grad.abs().sum() > 0
    assert mask.grad is None


def test_descending_it_brings_the_cam_to_the_mask():
    model, x, mask = conv_net(), images(3), torch.zeros(3, 1, 8, 8)
    mask[:, :, :4, :4] = 1
    adam = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(40):
        found = alignment_loss(normalised(grad_cam(model, x, LABELS)), mask)
        losses.append(found.excess.mean().item())
        adam.zero_grad()
        found.total.mean().backward()
        adam.step()
    assert losses[-1] < 0.6 * losses[0]


def test_unknown_places_are_left_out():
    cam, mask = masks(1, seed=1), masks(1)
    mask[..., 4:] = torch.nan
    for meet in ("mask_down", "cam_up"):
        known = alignment_loss(cam[..., :4], mask[..., :4], meet=meet)
        found = alignment_loss(cam, mask, meet=meet)
        for name in ("total", "inside", "outside", "excess"):
            torch.testing.assert_close(getattr(found, name), getattr(known, name))
        nothing = alignment_loss(cam, torch.full_like(mask, torch.nan), meet=meet)
        assert nothing.total.tolist() == nothing.excess.tolist() == [0]


def test_autocast_changes_nothing():
    cam, mask = masks(seed=1), masks()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(alignment_loss(cam, mask).total, alignment_loss(cam, mask).total)
        inside = alignment_loss(cam, mask).total
    torch.testing.assert_close(inside, alignment_loss(cam, mask).total, rtol=0, atol=0)
    assert alignment_loss(cam.bfloat16(), mask.bfloat16()).total.dtype == torch.float32


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: alignment_loss(3 * masks(), masks()), r"CAM has values outside \[0, 1\]; give normalised"),
        (lambda: alignment_loss(masks(), masks() - 1), "mask has values outside"),
        (lambda: alignment_loss(masks(2), masks()), r"CAM has shape \[2, 1, 8, 8\] and the mask \[3, 1, 8, 8\]"),
        (lambda: alignment_loss(images(3), images(3)), r"give \[N, 1, h, w\]"),
        (lambda: alignment_loss(masks(), masks(), eps=0.0), "eps is 0.0"),
        (lambda: alignment_loss(masks(), masks(), meet="half_way"), "meet must be .* got 'half_way'"),
        (lambda: alignment_loss(masks(), masks(), balance="odd"), "balance must be .* got 'odd'"),
    ],
)
def test_maps_that_do_not_fit_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# the mixup regulariser


@given(labels=st.lists(st.integers(0, 4), min_size=1, max_size=30), seed=st.integers(0, 2**31))
@settings(max_examples=200, deadline=None)
def test_partners_are_of_the_same_class_and_each_is_ones_partner(labels, seed):
    y = torch.tensor(labels)
    partners = same_class_partners(y, torch.Generator().manual_seed(seed))
    assert torch.equal(y[partners], y)
    assert sorted(partners.tolist()) == list(range(len(y)))
    alone = [i for i, label in enumerate(labels) if labels.count(label) == 1]
    assert partners[alone].tolist() == alone
    assert torch.equal(partners, same_class_partners(y, torch.Generator().manual_seed(seed)))


def test_every_order_within_a_class_is_as_likely():
    generator, counts = torch.Generator().manual_seed(0), torch.zeros(3, 3)
    for _ in range(600):
        partners = same_class_partners(torch.tensor([7, 1, 7, 7]), generator)
        for i, j in zip((0, 2, 3), partners[[0, 2, 3]].tolist(), strict=True):
            counts[(0, None, 1, 2)[i], (0, None, 1, 2)[j]] += 1
    assert (counts / 600 - 1 / 3).abs().max() < 0.08


def test_shares_are_those_of_a_beta_distribution():
    shares = mixing_shares(20000, 0.2, torch.Generator().manual_seed(0))
    assert shares.mean().item() == pytest.approx(0.5, abs=0.01)
    # variance of Beta(a, a): 1 / (4 (2a + 1))
    assert shares.var().item() == pytest.approx(1 / (4 * 1.4), rel=0.02)
    assert shares.min() >= 0
    assert shares.max() <= 1


def test_mixing_by_hand():
    x = torch.tensor([0.0, 10.0, 20.0])[:, None, None, None].expand(3, 1, 2, 2)
    found = mixed(x, torch.tensor([1, 0, 2]), torch.tensor([0.75, 0.5, 0.3]))
    assert found[:, 0, 0, 0].tolist() == [2.5, 5.0, 20.0]


def by_loop(model, x, y, found, weights):
    """DRE: class by class, class means added up, over the number of all classes."""
    total, classes = 0.0, model(x).shape[1]
    for c in range(classes):
        rows = [i for i in range(len(y)) if y[i] == c]
        if not rows:
            continue
        parts = torch.zeros(3)
        for i in rows:
            j, share = int(found.partners[i]), float(found.shares[i])
            x1, x2, label = x[i : i + 1], x[j : j + 1], torch.tensor([c])
            mix = share * x1 + (1 - share) * x2
            a1, a2, a_mix = (normalised(grad_cam(model, one, label), how="minmax") for one in (x1, x2, mix))
            parts[0] += (a_mix - (share * a1 + (1 - share) * a2)).abs().mean().item()
            parts[1] += 0.5 * (a1.mean() + a_mix.mean()).item()
            parts[2] += nn.functional.cross_entropy(model(mix), label).item()
        total = total + parts / len(rows)
    return (total / classes * torch.tensor(weights)).sum().item()


def test_a_batch_is_the_sum_over_classes():
    """Classes of three, one, none and two."""
    model, x, y = conv_net(classes=4), images(6), torch.tensor([0, 3, 0, 1, 3, 0])
    with untouched(model):
        found = mixup_regulariser(
            model, x, y, generator=torch.Generator().manual_seed(3), consistency=2.0, sparsity=0.5, classification=0.1
        )
    assert (found.shares * (1 - found.shares)).max() > 0.01
    assert found.total.mean().item() == pytest.approx(by_loop(model, x, y, found, [2.0, 0.5, 0.1]), rel=1e-4)
    weighted = 2.0 * found.consistency + 0.5 * found.sparsity + 0.1 * found.classification
    torch.testing.assert_close(found.total, weighted)


def test_the_only_one_of_its_class_mixes_with_itself():
    model, x = conv_net(), images(3)
    found = mixup_regulariser(model, x, LABELS, generator=torch.Generator().manual_seed(0))
    assert found.partners.tolist() == [0, 1, 2]
    assert found.consistency.abs().max() < 1e-6
    assert mixup_regulariser(model, x[:1], LABELS[:1]).total.isfinite().all()


@pytest.mark.parametrize(("order", "head"), [("first", False), ("second", True)])
def test_explanations_are_trained(order, head):
    model, x, y = conv_net(), images(4), torch.tensor([0, 0, 1, 1])
    found = mixup_regulariser(
        model, x, y, order=order, alpha=5.0, generator=torch.Generator().manual_seed(0), classification=0.0
    )
    found.consistency.mean().backward()
    assert model.conv1.weight.grad.abs().sum() > 0
    assert (model.fc.weight.grad is not None) == head


def test_a_generator_decides_alone():
    model, x, y = conv_net(), images(4), torch.tensor([0, 0, 1, 1])
    first, again = (mixup_regulariser(model, x, y, generator=torch.Generator().manual_seed(1)) for _ in range(2))
    torch.testing.assert_close(first.total, again.total, rtol=0, atol=0)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    mixup_regulariser(model, x, y, generator=torch.Generator().manual_seed(1))
    assert torch.equal(torch.get_rng_state(), before)


def test_mixing_nothing_sensible_is_refused():
    with pytest.raises(ValueError, match="alpha is 0"):
        mixup_regulariser(conv_net(), images(3), LABELS, alpha=0)
    with pytest.raises(ValueError, match="a label is 5"):
        mixup_regulariser(conv_net(), images(3), LABELS + 5)
