"""Pages of synthetic records whose every number is known."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from xai_align.data.output_description import OutputDescription
from xai_align.report.page import Asked, Section, Shown
from xai_align.report.page_answer import answer_of, overlay_of
from xai_align.report.record import Record
from xai_align.report.thumbnail import photograph_of

CLASSES = OutputDescription(num_outputs=3, class_names=("tabby", "lynx", "teapot"))
QUESTIONS = ("Why tabby?", "Why tabby and not lynx?")
KINDS = ("Why this class?", "Why this class and not that one?")


def record(grid, *, cells=None, bias=None, method="pinet", question=QUESTIONS[0], **changes):
    """Return a record of a map ``[H, W]``; with a bias it is a decomposition, at layer "conv" if it has cells."""
    total = float(grid.double().nan_to_num().sum())
    exact = bias is not None
    given = {
        "image": "a.png",
        "question": question,
        "method": method,
        "class_name": "tabby",
        "targets": (0,),
        "foils": (),
        "answer": total + bias if exact else total + 0.5,
        "contributions": total,
        "positive": float(grid.clamp(min=0).sum()),
        "negative": float(grid.clamp(max=0).sum()),
        "layer": ("conv" if cells is not None else "input") if exact else None,
        "kind": "local" if exact else None,
        "prefix": 0.0 if exact else None,
        "bias": bias,
        "around": 0.0 if exact else None,
        "completeness_error": 1e-7 if exact else None,
        "relative_error": 1e-8 if exact else None,
        "amplification": 1.5 if exact else None,
        "seconds": 0.1,
        "logits": torch.tensor([2.0, 1.0, 0.0]),
        "map": grid,
        "raw": (),
        "cells": cells,
        "values": "contributions",
        "signed": True,
        "output": CLASSES,
    }
    return Record(**(given | changes))


def coarse_record(cells, side=224, **options):
    """Return a record whose map has large cells; each is spread evenly over its pixels."""
    each = side // len(cells)
    values = cells.repeat_interleave(each, 0).repeat_interleave(each, 1) / each**2
    return record(values, cells=cells, **options)


def picture(seed=0, side=224):
    """Return a photograph with edges, gradients and grain, ``[side, side, 3]``, as hard to compress as a real one."""
    draw = np.random.default_rng(seed)
    y, x = np.mgrid[0:side, 0:side] / side
    waves = [np.sin(20 * draw.random() * x + 20 * draw.random() * y + 6 * draw.random()) for _ in range(3)]
    discs = sum(((x - draw.random()) ** 2 + (y - draw.random()) ** 2 < 0.02) * draw.uniform(-1, 1) for _ in range(6))
    grain = draw.normal(0, 0.03, (side, side, 3))
    return np.clip(0.5 + 0.2 * np.stack(waves, -1) + 0.2 * discs[..., None] + grain, 0, 1)


def noise(seed, side=224):
    """Return a fine map like that of integrated gradients: the hardest to store."""
    return torch.randn(side, side, generator=torch.Generator().manual_seed(seed)) / 500


def section(number=0, records=None, title="A cat", side=224):
    """Return a section with a photograph and these records, grouped by question."""
    shown_picture = picture(number, side)
    if records is None:
        cells = torch.randn(7, 7, generator=torch.Generator().manual_seed(number))
        records = [
            one
            for question in QUESTIONS
            for one in (
                coarse_record(cells, side, bias=0.25, question=question),
                record(noise(number, side), bias=-0.5, question=question),
                record(noise(number + 1, side), method="integrated_gradients", question=question),
                record(noise(number + 2, side).abs(), method="fei", question=question, values="scores", signed=False),
            )
        ]
    asked = []
    for question, kind in zip(dict.fromkeys(one.question for one in records), KINDS, strict=False):
        of_it = [one for one in records if one.question == question]
        shown = [
            Shown(
                label=one.label,
                overlay=overlay_of(one, shown_picture),
                file=f"{number}.{i}.png",
                answer=answer_of(one),
            )
            for i, one in enumerate(of_it)
        ]
        asked.append(Asked(text=question, kind=kind, shown=shown))
    return Section(
        title=title,
        photograph=photograph_of(shown_picture),
        file=f"{number}.png",
        predictions=[("tabby", 0.665, 2.0), ("lynx", 0.245, 1.0), ("teapot", 0.09, 0.0)],
        questions=asked,
    )


def many(photographs=64):
    """Return photographs with six maps that are all as hard to store as possible."""
    records = [record(noise(number), method=f"method_{number}", bias=0.5) for number in range(6)]
    one = section(0, records)
    return [dataclasses.replace(one, title=f"Photograph {number}") for number in range(photographs)], records
