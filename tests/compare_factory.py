"""Metrics for tests of the comparison; run as a program, the command line with these metrics.

With COMPARE_SLOWLY set, each judgement by ``mass`` takes so many seconds.
"""

from __future__ import annotations

import operator
import os
import time

import numpy as np
import torch
from PIL import Image

from xai_align import plugins
from xai_align.evaluation.curve_metric import CurveMetric
from xai_align.evaluation.does_not_apply import MetricDoesNotApply
from xai_align.hookspecs import AttributionSpec, MetricSpec
from xai_align.perturbation.questioned import curve_values
from xai_align.perturbation.spec import PerturbationSpec
from xai_align.plugins.registry import registry
from xai_align.plugins.specs_by_name import Offer

#: Colours of the left ten columns of sixteen, and of the rest.
PICTURES = {
    "a_red": ("red", "blue"),
    "b_green": ("lime", "red"),
    "c_blue": ("blue", "black"),
    "d_mixed": ("red", "lime"),
    "e_white": ("white", "grey"),
    "f_dark": ("maroon", "navy"),
    "g_sea": ("navy", "green"),
}


def save_pictures(folder, names=tuple(PICTURES)):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        image = Image.new("RGB", (16, 16), PICTURES[name][0])
        image.paste(PICTURES[name][1], (10, 0, 16, 16))
        image.save(folder / f"{name}.png")
    return folder


def area(curves, target):
    return curve_values(curves[0], target)[1].mean(1)


def mass(model, inputs, attributions, *, target=None):
    time.sleep(float(os.environ.get("COMPARE_SLOWLY", 0)))
    return attributions.flatten(1).sum(1)


def brightness(model, inputs, attributions, *, target=None):
    """Fails on what is all dark."""
    if (inputs.flatten(1).amax(1) < 0.6).any():
        raise RuntimeError("too dark to see")
    return inputs.flatten(1).mean(1)


def contrast(curves, target):
    if any(len(question.foils or ()) != 1 for question in target):
        raise MetricDoesNotApply("ask against one class")
    return area(curves, target)


def inside(model, inputs, attributions, *, masks, target=None):
    return (attributions.abs().sum(1) * masks).sum((1, 2)) / attributions.abs().sum((1, 2, 3))


def boxed(model, inputs, attributions, *, boxes, target=None):
    return torch.stack([one[:, 2].sum() for one in boxes])


def chance(model, inputs, attributions, *, target=None):
    return torch.rand(len(inputs)) + torch.tensor(np.random.rand(len(inputs)))


def repeated(model, inputs, attributions, *, explain, explanation, target=None):
    """0 where the method says the same again, of half the image's strength twice as little."""
    again = explain(inputs, target)
    assert len(explanation.questions) == len(inputs)
    return (again - attributions).flatten(1).abs().sum(1)


def spec(name, evaluate, higher=True):
    return MetricSpec(name=name, evaluate=evaluate, higher_is_better=higher, summary=f"{name}, a test's")


METRICS = (
    spec("deletion_area", CurveMetric(specs=(PerturbationSpec(),), score=area), higher=False),
    spec("insertion_area", CurveMetric(specs=(PerturbationSpec(order="lerf"),), score=area)),
    spec("contrast", CurveMetric(specs=(PerturbationSpec(fractions=(0.25, 0.5)),), score=contrast)),
    spec("mass", mass),
    spec("brightness", brightness),
    spec("signless", mass, higher=None),
    spec("inside", inside),
    spec("boxed", boxed),
    spec("chance", chance),
    spec("repeated", repeated),
)


class Fussy:
    """A method that cannot take what is mostly white or black."""

    def __init__(self, model):
        self.model = model

    def attribute(self, inputs, target=None):
        if (inputs.std(dim=1).flatten(1).amax(1) < 0.1).any():
            raise ValueError("no colour")
        return inputs * torch.tensor([3.0, 2.0, 1.0])[:, None, None]


METHODS = (AttributionSpec(name="fussy", build=Fussy, summary="a test's"),)


def use_test_metrics(patch=operator.setitem):
    """These metrics and methods beside the methods there are."""
    methods, known = plugins.attribution_methods(), registry()
    methods |= {one.name: one for one in METHODS}
    metrics = {one.name: one for one in METRICS}
    for kind, specs in {AttributionSpec: methods, MetricSpec: metrics}.items():
        patch(known.specs, kind, {name: Offer(one, known.plugins[0]) for name, one in specs.items()})


if __name__ == "__main__":
    from xai_align.cli.app import main

    use_test_metrics()
    main()
