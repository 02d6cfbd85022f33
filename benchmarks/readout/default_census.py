"""Measure the exactness of the default readout on the architectures of timm, at its layers and with its rules.

Random weights, with random values for the zero-initialised ones; one random image of the smallest size from 192 pixels
on that the architecture takes, as the default's layers depend on sizes. Logits are compared with the plain network's,
and in float64 where the plain ones are off by more than the goal: `rounding_of_plain` has their error. Resumable as
:mod:`benchmarks.readout.census`.

    python -m benchmarks.readout.default_census --largest 60     # all up to 60 million parameters that are missing
    python -m benchmarks.readout.default_census --only resnet50
    python -m benchmarks.readout.default_census --summary
"""

from __future__ import annotations

import copy
import time
from collections import Counter
from pathlib import Path

from benchmarks.readout.census import GOAL, Census, build, described, in_precision, rows, run

TABLE = Path(__file__).with_name("default_census.tsv")
COLUMNS = (
    "architecture module mparams size layers rule error amplification dtype forward_difference rounding_of_plain "
    "seconds_plain seconds_first seconds note"
).split()
SMALLEST = 192


def measure(name: str) -> dict[str, object]:
    model, x, note = build(name, SMALLEST)
    row = described(name, model, x, note)
    return row | in_precision(model, x, row, errors, ("error",))


def errors(model, x) -> dict[str, object]:
    import torch

    from xai_align.pinet import default_layers, read_out

    start = time.perf_counter()
    with torch.no_grad():
        plain = model(x)
    ends = [time.perf_counter()]
    for _ in range(2):  # the first one finds the layers
        readout = read_out(model, x, 3)
        ends.append(time.perf_counter())
    difference, own = relative_difference(readout.logits, plain), 0.0
    if difference > GOAL["float32"]:  # rounding, which some networks with random weights multiply: what are the logits?
        with torch.no_grad():
            exact = copy.deepcopy(model).double()(x.double())
        difference, own = relative_difference(readout.logits, exact), relative_difference(plain, exact)
    names = readout.feature_space.layer
    first = default_layers(model, (x,))[0]
    return {
        "layers": names if isinstance(names, str) else "+".join(names),
        "rule": f"gamma {first.gamma}" if first.rule == "gamma" else f"residual {first.residual}",
        "error": f"{float(readout.relative_error.max()):.1e}",
        "amplification": f"{float(readout.amplification.max()):.1f}",
        "forward_difference": f"{difference:.1e}",
        "rounding_of_plain": f"{own:.1e}" if own else "",
        "seconds_plain": f"{ends[0] - start:.3f}",
        "seconds_first": f"{ends[1] - ends[0]:.3f}",
        "seconds": f"{ends[2] - ends[1]:.3f}",
    }


def relative_difference(found, expected) -> float:
    return float((found.double() - expected.double()).abs().max() / expected.double().abs().max())


def summarise(table: Path) -> None:
    everything = rows(table)
    measured = [row for row in everything if row["dtype"]]
    within = [row for row in measured if float(row["error"]) <= GOAL[row["dtype"]]]
    print(f"{len(everything)} architectures, {len(measured)} measured, {len(within)} within the goal")
    for dtype in GOAL:
        print(f"  in {dtype}: {sum(row['dtype'] == dtype for row in within)}")
    at_input = sum(row["layers"] == "input" for row in measured)
    print(f"  rules: {dict(Counter(row['rule'] for row in measured))}; at the input: {at_input}")
    differences = [float(row["forward_difference"]) for row in measured]
    print(f"  largest relative difference of the logits to the plain model's: {max(differences, default=0):.1e}")
    rounded = [float(row["rounding_of_plain"]) for row in measured if row["rounding_of_plain"]]
    print(f"  compared in float64: {len(rounded)}, whose plain logits are off by up to {max(rounded, default=0):.1e}")
    for row in everything:
        if row not in within:
            print(f"  above: {row['architecture']}: {row['error']} {row['dtype']} {row['note']}")


if __name__ == "__main__":
    run(
        Census(
            module="benchmarks.readout.default_census",
            table=TABLE,
            columns=COLUMNS,
            measure=measure,
            summarise=summarise,
        )
    )
