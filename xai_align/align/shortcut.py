"""Search for signs of shortcut learning, without ground-truth masks.

Alignment trains a classifier to use the region that the masker marks, and the masker marks the region that
the classifier uses. If that is a background correlated with the label, both agree on the background, and every
score on data with the same correlation stays good. Detectable signs are predictions that survive the removal of
the object, and masks in regions where objects rarely are. A sign is a reason to check, not a proof: the colour of
a lemon is not a shortcut. The absence of signs is not a proof either.

Every measure with a sampling error is tested: at most one search in twenty reports such a sign where, over all
images of which these are a sample, none of them is there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from xai_align._tools.checks import check_number
from xai_align._tools.drawn import uniform
from xai_align._tools.model_state import evaluating
from xai_align._tools.random_state import kept_random_state
from xai_align._tools.thread_state import restores_thread_state
from xai_align.align.binomial_tail import binomial_tail
from xai_align.align.classes import check_classes
from xai_align.align.training.batch_validation import BatchValidator

__all__ = ["Limits", "ShortcutWarning", "Shortcuts", "find_shortcuts"]

#: Smallest and largest share of the positions that is removed: removing little is uninformative for large objects, and
#: what the mask marks and as many of the other positions must not overlap.
REMOVED = (0.25, 0.5)
#: Width of an image's frame, as a share of its shorter side.
FRAME = 1 / 8
#: Masks with a smaller standard deviation are treated as constant.
FLAT = 0.02
#: Minimum number of images for a meaningful accuracy.
FEWEST = 50


class ShortcutWarning(UserWarning):
    """Warning of signs that a classifier relies on a shortcut.

    Example::

        import warnings

        labels = torch.arange(64) % 2
        images = torch.eye(3)[labels][:, :, None, None] + 0.1 * torch.randn(64, 3, 16, 16)  # red or green, by label
        with warnings.catch_warnings():
            warnings.simplefilter("error", ShortcutWarning)
            try:
                AlignTrainer(model, recipe="erm", learning_rate=0.01).fit([(images, labels)], epochs=5)
            except ShortcutWarning as warning:
                print(warning)  # the signs that were found
    """


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of the measures; see :func:`find_shortcuts`.

    Measured on digits on textures (``benchmarks/align/digits.py``): ``shuffled`` was at least 0.8 in every fit where
    the hue of the background predicts the label, and at most 0.05 where the background is uninformative.

    Attributes:
        without_layout: limit of ``shuffled`` and ``plain_colour``.
        on_frame: limit of ``on_frame``.
        same_place: limit of ``same_place``, which describes these masks and is not tested.
        false_alarms: largest probability that any of the tested signs is reported where none is there. Each of the
            tests gets an equal part of it (Bonferroni).
    """

    without_layout: float = 0.4
    on_frame: float = 1.0
    same_place: float = 0.9
    false_alarms: float = 0.05

    def __post_init__(self) -> None:
        check_number("false_alarms", self.false_alarms, above=0, below=1)


@dataclass(frozen=True)
class Shortcuts:
    """Result of :func:`find_shortcuts`.

    Attributes:
        signs: the signs as sentences; empty if there are none.
        measures: all measures by name; NaN where one is undefined.
        p_values: of each measure that is tested, the probability of so strong a sign, or a stronger one, where none
            is there.
    """

    signs: tuple[str, ...]
    measures: dict[str, float]
    p_values: dict[str, float]

    def __str__(self) -> str:
        return "\n".join(self.signs) or "no sign of a shortcut"


@restores_thread_state
def find_shortcuts(
    classifier: nn.Module,
    masker: nn.Module | None,
    batches: Iterable[Any],
    *,
    examples: int = 512,
    fill: float = 0.0,
    seed: int = 0,
    limits: Limits | None = None,
    read_batch: Callable[[Any], Any] | None = None,
) -> Shortcuts:
    """Look for signs of a shortcut.

    Shares are of the accuracy above chance: ``(a - g) / (a_0 - g)``, with ``a_0`` the accuracy on the unchanged
    images and ``g`` the share of the most frequent class. 1: nothing is lost. 0: no better than chance.

    ``shuffled``
        the share that is left after each image's pixels are permuted at random: colours remain, objects don't.
    ``plain_colour``
        the share that is left if each image is replaced by its mean colour.
    ``removed``
        the share that is left after the positions with the highest mask values are replaced by ``fill``: as many
        as the mask marks (above one half), at least a quarter and at most half.
    ``rest_removed``
        the share that is left after as many positions with the lowest values are.
    ``on_frame``
        the mask's mean in the outer eighth of the image over its mean everywhere.
    ``same_place``
        the share of the masks' variance that their mean over the images explains; 1: all masks are the same.

    Signs, with exact tests:

    - ``shuffled`` and ``plain_colour`` are above their limit: a binomial test of the number of correct answers.
    - Removing the rest changes more correct answers than removing what the mask marks: a sign test on the images that
      are classified correctly without the one and wrongly without the other (McNemar). The accuracy without what the
      mask marks is not a sign by itself: much of a large object remains.
    - More than half of the masks are higher on the frame than ``limits.on_frame`` times their mean: a sign test.

    ``same_place`` describes the masks, and is a sign above its limit.

    Neither the networks nor the random state are changed.

    Args:
        classifier: ``[N, C, H, W]`` to logits ``[N, K]``.
        masker: ``[N, C, H, W]`` to ``[N, 1, H, W]`` in [0, 1]; None: only the measures of the classifier.
        batches: yields ``(images, labels)``, as the training data do; preferably held-out data.
        examples: number of images to use; at least 50.
        fill: value of removed pixels, in the scale of the images: 0 is the data set's mean colour if images are
            normalised.
        seed: of the shuffling.
        limits: limits of the measures, and of false alarms.
        read_batch: converts an element of ``batches`` to ``(images, labels)``.

    Raises:
        TypeError, ValueError: the batches can't be read, there are none, or masks don't match the images.

    Example::

        found = find_shortcuts(model, Masker(), loader)
        print(found)  # the signs, one a line, or "no sign of a shortcut"
    """
    if examples < FEWEST:
        raise ValueError(f"examples={examples} say too little about accuracy; give at least {FEWEST}")
    limits = limits or Limits()
    modules = [network for network in (classifier, masker) if network is not None]
    with kept_random_state(), evaluating(nn.ModuleList(modules)), torch.no_grad():
        images, labels = _collect(classifier, batches, examples, read_batch)
        generator = torch.Generator().manual_seed(seed)
        guess = float(labels.bincount().max()) / len(labels)
        clean = float(_is_right(classifier, images, labels).double().mean())
        measures = {"examples": float(len(labels)), "accuracy": clean, "guessing": guess}
        p_values: dict[str, float] = {}
        filled = partial(torch.Tensor.masked_fill, value=fill)
        changes: dict[str, Callable[[Tensor], Tensor]] = {
            "shuffled": lambda x: shuffled(x, generator),
            "plain_colour": lambda x: x.mean((2, 3), keepdim=True).expand_as(x),
        }
        for name, change in changes.items():
            right = _is_right(classifier, map(change, images), labels)
            measures[name] = _share(float(right.double().mean()), clean, guess)
            if not math.isnan(measures[name]):
                at_limit = guess + limits.without_layout * (clean - guess)
                p_values[name] = binomial_tail(int(right.sum()), len(right), at_limit)
        if masker is not None:
            masks = [_masks(masker, x) for x in images]
            measures |= _of_masks(masks)
            if measures["mask_spread"] >= FLAT:
                marked, rest = zip(*(marked_and_rest(mask, generator) for mask in masks), strict=True)
                left, without_rest = (
                    _is_right(classifier, map(filled, images, positions), labels) for positions in (marked, rest)
                )
                measures["removed"] = _share(float(left.double().mean()), clean, guess)
                measures["rest_removed"] = _share(float(without_rest.double().mean()), clean, guess)
                only_without_mask = int((left & ~without_rest).sum())
                if not math.isnan(measures["removed"]):
                    p_values["removed"] = binomial_tail(only_without_mask, int((left != without_rest).sum()), 0.5)
                higher = _are_higher_on_frame(masks, limits.on_frame)
                p_values["on_frame"] = binomial_tail(int(higher.sum()), len(higher), 0.5)
    return Shortcuts(_signs(measures, p_values, limits), measures, p_values)


def shuffled(images: Tensor, generator: torch.Generator) -> Tensor:
    """Permute the pixels of every image at random, each in its own order; ``[N, C, H, W]``."""
    n, c, h, w = images.shape
    order = uniform((n, 1, h * w), generator).argsort(dim=2).to(images.device)
    return images.flatten(2).gather(2, order.expand(n, c, h * w)).view_as(images)


def marked_and_rest(masks: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return which positions have the highest mask values, as many as it marks within ``REMOVED``, and the lowest.

    Both are as many and have none in common. Equal values are in random order.
    """
    counts, ranks = _counts(masks), _ranks(masks, generator)
    return (ranks < counts).view_as(masks), (ranks >= masks[0].numel() - counts).view_as(masks)


def _counts(masks: Tensor) -> Tensor:
    """Return how many positions of each mask are removed, ``[N, 1]``."""
    flat = masks.flatten(1)
    least, most = (max(1, round(share * flat.shape[1])) for share in REMOVED)
    return (flat > 0.5).sum(1, keepdim=True).clamp(least, most)


def _ranks(masks: Tensor, generator: torch.Generator) -> Tensor:
    """Return the rank of each position by its mask value, the highest first, ``[N, H * W]``."""
    flat = masks.flatten(1)
    drawn = uniform(flat.shape, generator).argsort(1).to(flat.device)
    order = flat.gather(1, drawn).argsort(dim=1, descending=True, stable=True)
    return drawn.gather(1, order).argsort(dim=1)


def _collect(
    classifier: nn.Module, batches: Iterable[Any], examples: int, read_batch: Callable[[Any], Any] | None
) -> tuple[list[Tensor], Tensor]:
    """Return the first ``examples`` images in batches, on the classifier's device, and labels ``[M]`` on the CPU."""
    a_weight = next((p for p in classifier.parameters() if p.is_floating_point()), torch.empty(0))
    read = BatchValidator(name="the images to check for shortcuts", read_batch=read_batch, dtype=a_weight.dtype)
    images, labels, count = [], [], 0
    for batch in map(read, batches):
        kept = examples - count
        images.append(batch.images[:kept].to(a_weight.device))
        labels.append(batch.labels[:kept].cpu())
        count += len(labels[-1])
        if count >= examples:
            break
    if not count:
        raise ValueError("there are no images to check for shortcuts; give batches of (images, labels)")
    return images, torch.cat(labels)


def _is_right(classifier: nn.Module, images: Iterable[Tensor], labels: Tensor) -> Tensor:
    """Return which answers are right, ``[M]``, on the CPU."""
    logits = torch.cat([classifier(x.clone()).cpu() for x in images])
    check_classes(labels, logits)
    return logits.argmax(1) == labels


def _share(accuracy: float, clean: float, guess: float) -> float:
    """Return the share of the accuracy above guessing that is left; NaN if there is hardly any to lose."""
    return max(0.0, (accuracy - guess) / (clean - guess)) if clean - guess > 0.05 else math.nan


def _masks(masker: nn.Module, images: Tensor) -> Tensor:
    masks: Tensor = masker(images.clone())
    wanted = (len(images), 1, *images.shape[2:])
    if tuple(masks.shape) != wanted:
        raise ValueError(f"the masker gave masks of shape {list(masks.shape)}; it must give {list(wanted)}")
    return masks.float()


def _of_masks(masks: list[Tensor]) -> dict[str, float]:
    """Measure the size, spread and location of masks. If sizes differ between batches, ``same_place`` is NaN."""
    values = torch.cat([m.flatten() for m in masks]).double()
    found = {"mask_mean": float(values.mean()), "mask_spread": float(values.std(correction=0))}
    if found["mask_spread"] < FLAT:
        return found | dict.fromkeys(("removed", "rest_removed", "on_frame", "same_place"), math.nan)
    frames = torch.cat([m[:, 0, _frame(m)].mean(1) for m in masks]).double()
    everywhere = torch.cat([m.mean((1, 2, 3)) for m in masks]).double()
    found["on_frame"] = float(frames.mean() / everywhere.mean())
    if len({m.shape[2:] for m in masks}) > 1:
        return found | {"same_place": math.nan}
    together = torch.cat(masks).double()
    found["same_place"] = float(together.mean(0).var(correction=0) / together.var(correction=0))
    return found


def _are_higher_on_frame(masks: list[Tensor], times: float) -> Tensor:
    """Return which masks are higher on the frame than so many times their mean, ``[M]``."""
    return torch.cat([m[:, 0, _frame(m)].mean(1) > times * m.mean((1, 2, 3)) for m in masks])


def _frame(masks: Tensor) -> Tensor:
    """Return the frame, ``[H, W]``, True in the outer eighth."""
    h, w = masks.shape[2:]
    width = max(1, round(FRAME * min(h, w)))
    inside = torch.zeros(h, w, dtype=torch.bool, device=masks.device)
    inside[width : h - width, width : w - width] = True
    return ~inside


def _signs(measures: dict[str, float], p_values: dict[str, float], limits: Limits) -> tuple[str, ...]:
    found = [name for name, p in p_values.items() if p <= limits.false_alarms / len(p_values)]
    if measures.get("same_place", 0.0) > limits.same_place:
        found.append("same_place")
    return tuple(_SENTENCES[name](measures) for name in found)


def _of_layout(name: str, images: str) -> Callable[[dict[str, float]], str]:
    return lambda measures: (
        f"on images {images}, {measures[name]:.0%} of the classifier's accuracy above chance is left: it "
        "may use colours instead of objects. Neither masks nor alignment can distinguish a colour that is correlated "
        "with the label from its cause; vary the colours in training, or test on data without this correlation"
    )


_SENTENCES: dict[str, Callable[[dict[str, float]], str]] = {
    "shuffled": _of_layout("shuffled", "whose pixels were shuffled"),
    "plain_colour": _of_layout("plain_colour", "that show nothing but their mean colour"),
    "removed": lambda measures: (
        f"with what the mask marks removed, {measures['removed']:.0%} of the classifier's accuracy above "
        f"chance is left, and {measures['rest_removed']:.0%} with as much of the rest removed: the classifier does not "
        "depend on what the mask marks. Evidence may be everywhere, as in a background; look at the masks before "
        "you trust them"
    ),
    "on_frame": lambda measures: (
        "in most images the mask is higher along the frame than elsewhere "
        f"({measures['on_frame']:.1f} times its mean): it may mark the surroundings, not the object. Look at some "
        "masks, and crop the images or vary the surroundings"
    ),
    "same_place": lambda measures: (
        f"the mean of all masks explains {measures['same_place']:.0%} of their variance: the classifier may use a "
        "fixed position, such as a stamp or a caption. Shift or crop the images in training"
    ),
}
