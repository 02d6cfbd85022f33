"""Verdicts of the FEI benchmark on a map: measures on the network that it explains and on other networks.

All are areas under the curves of :mod:`benchmarks.shared.curves`, and changes of hidden layers along them.

* own curves: RISE's, insertion from blur and deletion to zeros, 28 steps. Methods that optimise a mask use these
  fills or similar ones, so their own curves favour them.
* unseen fills, 10 steps: fills that no method was made for. Imputation from the remaining pixels (ROAD), and the pixels
  of another photograph. Noise and each channel's mean too, which `fei` does see, noise as one of its fills.
* other networks, 10 steps: the same map, at their size, judged by a network that no method has used.
* for the transformer, patches left out of its tokens, and the symmetric relevance gain (logit, mean fill, 8 steps).
* deviation of hidden layers: ``||a - b||^2 / ||a||^2``, a mean over the layers and six series of 7 steps.
* cosine of hidden layers with their clean outputs, a mean over the same.
* deviation at half: the same, from blur, where the network first gives the class half its clean probability.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.fei.networks import Network
from benchmarks.fei.transformer import GRID, SRG_STEPS, Transformer
from benchmarks.shared.curves import (
    BATCH,
    OTHER_STEPS,
    OTHERS,
    PLACES_ON,
    PRECISION,
    areas_of,
    both_games,
    on_another_network,
    own_games,
)
from benchmarks.shared.photographs import JUDGES, Photograph
from xai_align.evaluation import symmetric_relevance_gain
from xai_align.evaluation.hidden_activations import FEW_STEPS, hidden_activation_metric
from xai_align.perturbation import PerturbationSpec, TieWarning, curve_values, perturbation_curves, tie_rate
from xai_align.perturbation.spec import steps

#: Number of steps of the own curves.
OWN_STEPS = 28
#: Layers whose deviation is measured; None: the stages that the plugin names.
LAYERS = {
    "lite0": None,
    "squeezenet": ("features.2", "features.5", "features.8", "features.12"),
    "resnet20": ("stem", "stage1", "stage2", "stage3"),
}


@dataclass(frozen=True)
class Verdict:
    """Measures of one map.

    Attributes:
        seconds: time that the map took.
        tie_rate: share of the pixels whose score another pixel has too.
        areas: under the curves on its own network, e.g. ``"insertion blur"``.
        elsewhere: for each other network, the areas there.
        deviation: of the hidden layers, over six series.
        clean: the class's probability for the whole photograph.
        probabilities, deviations: along insertion from blur, from everything removed to nothing removed.
        cosine: of the hidden layers with their clean outputs, over six series; NaN in older verdicts.
    """

    seconds: float
    tie_rate: float
    areas: dict[str, float]
    elsewhere: dict[str, dict[str, float]]
    deviation: float
    clean: float
    probabilities: list[float]
    deviations: list[float]
    cosine: float = math.nan

    @property
    def deviation_at_half(self) -> float:
        return deviation_at(0.5 * self.clean, self.probabilities, self.deviations)

    def difference(self, *, insertion: str, deletion: str, network: str | None = None) -> float:
        """Return insertion into one fill less deletion into another; of another network if one is named."""
        areas = self.areas if network is None else self.elsewhere[network]
        return areas[f"insertion {insertion}"] - areas[f"deletion {deletion}"]


def judge(
    network: Network, judged: Sequence[Photograph], which: Sequence[int], maps: Tensor, seconds: Sequence[float]
) -> list[Verdict]:
    """Return verdicts on maps ``[M, H, W]`` of the judged photographs with these indices."""
    others = OTHERS.get(network.name, ())
    labels = [judged[i].label for i in which]
    pixels = torch.stack([judged[i].pixels for i in which])
    donors = torch.stack([judged[(i + PLACES_ON) % len(judged)].pixels for i in which])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TieWarning)  # the share of ties is part of the verdict
        here = on_own_network(network, pixels, donors, labels, maps, LAYERS.get(network.name))
        there = {other: on_another_network(JUDGES[other], pixels, labels, maps) for other in others}
    return [
        Verdict(
            seconds=seconds[n],
            tie_rate=float(tied),
            elsewhere={other: areas[n] for other, areas in there.items()},
            **here[n],
        )
        for n, tied in enumerate(tie_rate(maps))
    ]


def on_own_network(
    network: Network,
    pixels: Tensor,
    donors: Tensor,
    labels: list[int],
    maps: Tensor,
    layers: Sequence[str] | None,
) -> list[dict[str, Any]]:
    """Return the fields of a verdict from the map's own network; passes that series share are run once."""
    x, photograph = network.view(pixels), network.view(donors)
    curved = {
        **own_games(OWN_STEPS),
        **both_games("noisy_linear", "noisy_linear"),
        **both_games("photograph", photograph),
        **both_games("noise", "noise"),
        **both_games("mean", "mean"),
        **(both_games("drop", "drop", grid=GRID) if isinstance(network, Transformer) else {}),
    }
    walk = PerturbationSpec("blur", "lerf", steps(OTHER_STEPS), layers=True)
    relative = hidden_activation_metric("relative", num_steps=FEW_STEPS)
    curves = perturbation_curves(
        network.model,
        x,
        maps,
        [*curved.values(), walk, *relative.specs],
        layers=layers,
        internal_batch_size=BATCH,
        autocast=PRECISION,
    )
    areas = areas_of(dict(zip(curved, curves, strict=False)), labels)
    if isinstance(network, Transformer):
        answers = torch.tensor(labels)
        gains = symmetric_relevance_gain(network.model, x, maps, target=answers, grid=GRID, num_steps=SRG_STEPS)
        for found, gain in zip(areas, gains.tolist(), strict=True):
            found["SRG"] = gain
    walked, watched = curves[len(curved)], curves[len(curved) + 1 :]
    assert walked.deviations is not None
    clean, probabilities = curve_values(walked, labels)
    deviations = walked.deviations.of("relative").mean(2)
    mean_deviation = relative.score(watched, labels)
    mean_cosine = hidden_activation_metric("cosine", num_steps=FEW_STEPS).score(watched, labels)
    return [
        {
            "areas": areas[n],
            "deviation": float(mean_deviation[n]),
            "cosine": float(mean_cosine[n]),
            "clean": float(clean[n]),
            "probabilities": probabilities[n].flip(0).tolist(),
            "deviations": deviations[n].flip(0).tolist(),
        }
        for n in range(len(x))
    ]


def deviation_at(level: float, probabilities: Sequence[float], deviations: Sequence[float]) -> float:
    """Return the deviation where the probability first reaches a level, linear between the steps.

    The lists go from everything removed to nothing removed. If the first probability is already that high, the
    first deviation is returned; if the level is never reached, NaN.
    """
    for k, probability in enumerate(probabilities):
        if probability >= level:
            if k == 0:
                return deviations[0]
            share = (level - probabilities[k - 1]) / (probability - probabilities[k - 1])
            return deviations[k - 1] + share * (deviations[k] - deviations[k - 1])
    return math.nan
