"""Evaluation of a retrofit and of the unchanged network's exact readout and Grad-CAM: curves and boxes.

Curves of the probability of the photograph's class, areas by trapezoid, insertion less deletion:

* own: insertion from blur and deletion to zeros, 14 steps, on EfficientNet-Lite0, from which the retrofit was made.
  These fills were used in training.
* ROAD and another photograph: 10 steps, fills that were not used in training.
* Lite1: own curves, 10 steps, judged by a network that was not used in training.

On photographs with boxes: the share of the positive energy inside, of the top fifth of the pixels, the pointing game.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from benchmarks.shared.boxes import PLACES, inside
from benchmarks.shared.coarse_maps import by_name, readout
from benchmarks.shared.curves import (
    BATCH,
    PLACES_ON,
    PRECISION,
    areas_of,
    both_games,
    on_another_network,
    own_games,
)
from benchmarks.shared.intervals import from_to
from benchmarks.shared.kept import keep
from benchmarks.shared.markdown import heading, row
from benchmarks.shared.photographs import JUDGES, Photograph
from xai_align._tools.sum_keeping import resize_keeping_sum
from xai_align.perturbation import TieWarning, perturbation_curves
from xai_align.pinet import PiNet

#: Measures by curves, and the two areas whose difference each is.
CURVES = {
    "own": ("insertion blur", "deletion zero"),
    "ROAD": ("insertion noisy_linear", "deletion noisy_linear"),
    "photograph": ("insertion photograph", "deletion photograph"),
    "Lite1": ("lite1 insertion blur", "lite1 deletion zero"),
}
#: Number of steps of the own curves.
OWN_STEPS = 14
#: Number of photographs whose maps are judged at once.
AT_ONCE = 8

#: Function of images ``[N, 3, 224, 224]`` in EfficientNet-Lite0's units and classes that returns ``[N, 224, 224]``.
Maps = Callable[[Tensor, Sequence[int]], Tensor]


@dataclass(frozen=True)
class Asked:
    """Photographs on which all methods are judged; boxes as masks ``[N, 224, 224]`` where there are any."""

    photographs: list[Photograph]
    masks: Tensor | None = None


def peers() -> dict[str, Maps]:
    """Return the unchanged network's exact readout and Grad-CAM, both interpolated smoothly between cells."""
    model = JUDGES["lite0"].model

    def one_by_one(method: Callable[[Tensor, int], Tensor], x: Tensor, labels: Sequence[int]) -> Tensor:
        return torch.stack([method(image[None], label) for image, label in zip(x, labels, strict=True)])

    return {
        "exact readout, 7 x 7": partial(one_by_one, lambda x, k: readout(model, x, k, "lite0")),
        "Grad-CAM": partial(one_by_one, lambda x, k: by_name("gradcam", model, x, k, "lite0")),
    }


@torch.no_grad()
def second_look_maps(pinet: PiNet, x: Tensor, labels: Sequence[int]) -> Tensor:
    """Return contributions to the class's logit, spread from 56 x 56 cells to the pixels with the same sum."""
    look = pinet.explain(x)
    asked = one_hot(torch.tensor(list(labels)), look.logits.shape[1]).to(look.logits)
    return resize_keeping_sum(look.contributions_to(asked).sum(1), x.shape[-2:], "smooth")


def judged(asked: Asked, make: Maps, file: Path) -> dict[str, Tensor]:
    """Return a number of each measure for each photograph; from the file, if it was judged before."""
    if file.exists():
        return torch.load(file, weights_only=True)  # type: ignore[no-any-return]
    found: dict[str, list[Tensor]] = {}
    everything = torch.stack([one.pixels for one in asked.photographs])
    for start in range(0, len(everything), AT_ONCE):
        which = slice(start, start + AT_ONCE)
        pixels, labels = everything[which], [one.label for one in asked.photographs[which]]
        maps = make(JUDGES["lite0"].view(pixels), labels)
        answers = by_curves(maps, pixels, everything.roll(-PLACES_ON, 0)[which], labels)
        if asked.masks is not None:
            found_inside = inside(maps, asked.masks[which])
            answers |= {place: values.float() for place, values in zip(PLACES, found_inside, strict=True)}
        for question, values in answers.items():
            found.setdefault(question, []).append(values)
    numbers = {question: torch.cat(rows) for question, rows in found.items()}
    keep(numbers, file)
    return numbers


def by_curves(maps: Tensor, pixels: Tensor, donors: Tensor, labels: list[int]) -> dict[str, Tensor]:
    """Return areas, and the differences of :data:`CURVES`, for each photograph."""
    own = JUDGES["lite0"]
    series = {
        **own_games(OWN_STEPS),
        **both_games("noisy_linear", "noisy_linear"),
        **both_games("photograph", own.view(donors)),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TieWarning)  # Grad-CAM is zero in many places
        curves = perturbation_curves(
            own.model,
            own.view(pixels),
            maps,
            list(series.values()),
            internal_batch_size=BATCH,
            autocast=PRECISION,
        )
        there = on_another_network(JUDGES["lite1"], pixels, labels, maps)
    here = areas_of(dict(zip(series, curves, strict=True)), labels)
    rows = [
        one | {f"lite1 {name}": area for name, area in other.items()} for one, other in zip(here, there, strict=True)
    ]
    areas = {name: torch.tensor([one[name] for one in rows]) for name in rows[0]}
    return areas | {name: areas[insertion] - areas[deletion] for name, (insertion, deletion) in CURVES.items()}


def table(found: dict[str, dict[str, Tensor]], questions: Sequence[str]) -> str:
    """Return means in Markdown, and below them the first method less each other one, paired, with 95 % intervals."""
    lines = [heading("method", *questions)]
    for name, values in found.items():
        lines.append(row(name, *(f"{float(values[q].nanmean()):.3f}" for q in questions)))
    first, *others = found
    for other in others:
        gaps = [from_to((found[first][q] - found[other][q]).float()) for q in questions]
        lines.append(row(f"{first} less {other}", *gaps))
    return "\n".join(lines)


__all__ = ["CURVES", "PLACES", "Asked", "judged", "peers", "second_look_maps", "table"]
