"""A comparison made by hand: few methods whose numbers can be followed, with pictures in a folder."""

from __future__ import annotations

import dataclasses
from math import nan

import numpy as np
from PIL import Image

from xai_align.comparison.result import Comparison, CurveBand, Picture, Summary

METHODS = ("pinet", "gradcam@blocks.4", "lime", "random")
FRACTIONS = (0.0, 0.5, 1.0)

# question, method, metric: mean, difference to pinet and its interval; where that leaves out 0, there is a verdict
NUMBERS = {
    ("why", "pinet", "insertion"): (0.70, nan, nan, nan),
    ("why", "gradcam@blocks.4", "insertion"): (0.75, 0.05, 0.01, 0.09),
    ("why", "lime", "insertion"): (0.60, -0.10, -0.25, 0.05),
    ("why", "random", "insertion"): (0.40, -0.30, -0.40, -0.20),
    ("why", "pinet", "deletion"): (0.20, nan, nan, nan),
    ("why", "gradcam@blocks.4", "deletion"): (0.25, 0.05, 0.01, 0.09),
    ("why", "lime", "deletion"): (0.10, -0.10, -0.15, -0.05),
    ("why", "random", "deletion"): (0.50, 0.30, 0.20, 0.40),
    ("why", "pinet", "ccs"): (nan, nan, nan, nan),
    ("why-not", "pinet", "insertion"): (0.9, nan, nan, nan),
    ("why-not", "pinet", "ccs"): (0.00123, nan, nan, nan),
    ("why-not", "lime", "ccs"): (-0.00045, -0.00168, nan, nan),
}


def summary(question, method, metric, **changes):
    mean, difference, low, high = NUMBERS[question, method, metric]
    known = mean == mean
    clear = low * high > 0
    better = (low > 0) == (metric != "deletion")
    values = {
        "question": question,
        "method": method,
        "metric": metric,
        "n": 12 if known else 0,
        "missing": 0 if known else 12,
        "mean": mean,
        "low": mean - 0.04,
        "high": mean + 0.04,
        "difference": difference,
        "difference_low": low,
        "difference_high": high,
        "pairs": 12 if difference == difference else 0,
        "p": 0.001 if clear else nan,
        "adjusted_p": 0.006 if clear else nan,
        "verdict": ("better" if better else "worse") if clear else "",
    }
    return Summary(**(values | changes))


def curve(method="pinet", *, mean=(0.9, 0.5, 0.1), question="why", perturbation="least relevant first", half=0.05):
    return CurveBand(
        question=question,
        method=method,
        perturbation=perturbation,
        fractions=FRACTIONS,
        mean=mean,
        low=tuple(value - half for value in mean),
        high=tuple(value + half for value in mean),
    )


def pictures(folder, image="/photos/chelsea.jpg", methods=METHODS, questions=("why", "why-not")):
    """Files in ``folder``, and what names them."""
    words = {"why": "Why tabby?", "why-not": "Why tabby and not lynx?"}
    wanted = [("", "", "")] + [(question, words.get(question, ""), one) for question in questions for one in methods]
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    made = []
    for number, (question, in_words, method) in enumerate(wanted):
        file = f"pictures/{number}.png"
        pixels = np.random.default_rng(number).integers(0, 255, (20, 30, 3), np.uint8)
        Image.fromarray(pixels).resize((300, 200)).save(folder / file)
        made.append(Picture(image=image, question=question, question_text=in_words, method=method, file=file))
    return tuple(made)


def comparison(**changes):
    values = {
        "title": "Four methods on cats",
        "reference": "pinet",
        "methods": METHODS,
        "controls": ("random",),
        "metrics": ("insertion", "deletion", "ccs"),
        "higher_is_better": {"insertion": True, "deletion": False, "ccs": True},
        "summaries_of_metrics": {
            "insertion": "area under the curve of what is kept",
            "deletion": "",
            "ccs": "contrast",
        },
        "questions": ("why", "why-not"),
        "summaries": tuple(summary(*key) for key in NUMBERS),
        "seconds": {"pinet": 0.05, "gradcam@blocks.4": 0.02, "lime": 3.0, "random": 0.001},
        "curves": tuple(curve(method) for method in METHODS),
        "pictures": (),
        "problems": (),
        "notes": (),
        "values_file": "values.parquet",
        "provenance": {
            "model": "timm:resnet50",
            "date": "2025-03-01",
            "seed": 0,
            "versions": {"torch": "2.4.0", "xai-align": "0.1.0"},
            "command": "xai-align compare --model timm:resnet50",
        },
    }
    return dataclasses.replace(Comparison(**values), **changes)
