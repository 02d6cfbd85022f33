"""Run every registered method on real photographs, judged by every kind of metric.

    python -m benchmarks.judging.leaderboard --images DIR --boxes DIR --out DIR [--processes 2]

EfficientNet-Lite0; PiNet in three feature spaces; the registered methods of Captum and pytorch-grad-cam;
the two controls. It runs `xai-align compare` six times:

* faithful: why the predicted class? insertion, deletion, AOPC
* pathways: the same, ROAD and hidden layers, on fewer images
* slow: both for the methods that take a forward pass for each of 1280 channels, on fewer images
* contrast: why the predicted class and not the runner-up?
* groups: why its group, and why not its foil group?
* places: localisation of the object, on photographs with boxes

A stopped run resumes. Prints the tables as Markdown.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import torch

from benchmarks.shared.markdown import heading, row
from benchmarks.shared.positive_integer import positive_integer
from xai_align import explain
from xai_align.data.images import expand_paths, open_image
from xai_align.plugins import attribution_methods, load_model

MODEL = "timm_align.efficientnet_lite0:load"
#: PiNet at the head's input, in the middle of the network, and at the pixels.
PINET = ("pinet@head input", "pinet@blocks.2", "pinet@input")
CONTROLS = ("random", "centre_gaussian")
#: Methods with a forward pass for each channel: ten seconds per image or more.
SLOW = ("scorecam", "ablationcam")
#: Methods that need a transformer.
OF_ATTENTION = ("attention_rollout", "chefer", "legrad")
#: Methods that need a file that a fit wrote.
OF_A_FIT = ("align", "fei-amortised")
#: Number of images of the more expensive runs.
LIMITS = {"pathways": 16, "slow": 4}
#: Methods that take seconds per image: one question instead of four.
COSTLY = ("integrated_gradients", "gradient_shap", "occlusion", "feature_ablation")

#: Methods with the same map as another if the network ends in a mean and one linear layer: checked, not repeated.
TWINS = {
    "hirescam": "gradcam",
    "xgradcam": "gradcam",
    "shapleycam": "gradcam",
    "gradcamelementwise": "layercam",
    "segeigencam": "eigengradcam",
    "deep_lift": "input_x_gradient",
}

FAITHFUL = "insertion,deletion,aopc,completeness_gap,tie_rate"
PATHWAYS = "road,hidden_deviation,hidden_active"
RUNS: dict[str, dict[str, str]] = {
    "faithful": {"question": "why", "metrics": FAITHFUL},
    "contrast": {"question": "why-not", "metrics": "ccs"},
    "groups": {"question": "group,group-not", "metrics": "pgs,cgs"},
    "places": {"question": "why", "metrics": "pointing_game,energy_inside,iou"},
    "pathways": {"question": "why", "metrics": PATHWAYS},
    "slow": {"question": "why", "metrics": f"{FAITHFUL},{PATHWAYS}"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", required=True, type=Path, help="photographs")
    parser.add_argument("--boxes", required=True, type=Path, help="photographs with a labels.json with boxes")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--limit", type=positive_integer, default=64)
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=list(RUNS))
    parser.add_argument("--processes", type=positive_integer, default=1)
    options = parser.parse_args()
    print(twins(options.images), flush=True)
    for name in options.runs:
        folder = options.boxes if name == "places" else options.images
        limit = min(options.limit, LIMITS.get(name, options.limit))
        run(name, folder, options.out / name, limit, options.processes)
        print(markdown(options.out / name), flush=True)


def methods(name: str) -> list[str]:
    """Return our methods, the others and the controls; the slow run includes a quick method for comparison."""
    if name == "slow":
        return [*PINET, "gradcam", *SLOW, *CONTROLS]
    other_question = (*COSTLY, "finercam") if name in ("contrast", "groups") else ()  # Finer-CAM has its own foils
    left_out = ("pinet", *CONTROLS, *SLOW, *OF_ATTENTION, *OF_A_FIT, *TWINS, *other_question)
    return [*PINET, *(one for one in attribution_methods() if one not in left_out), *CONTROLS]


def twins(images: Path) -> str:
    """Return the difference of twins on four images, as a share of the largest value."""
    loaded = load_model(MODEL)
    x = torch.stack([loaded.preprocess(open_image(path)) for path in expand_paths([images])[:4]])
    lines = [heading("method", "gives the map of", "largest difference")]
    for one, other in TWINS.items():
        a, b = (explain(loaded.model, x, method=name).attribution for name in (one, other))
        gap = float((a - b).abs().amax() / b.abs().amax())
        assert gap < 1e-4, f"{one} is not {other} here: {gap:.1e}"
        lines.append(row(one, other, f"{gap:.1e}"))
    return "\n".join(lines)


def run(name: str, images: Path, out: Path, limit: int, processes: int) -> None:
    # what accelerate launch runs for several processes on one machine
    start = ["torchrun", "--nproc-per-node", str(processes)] if processes > 1 else [sys.executable]
    options = {
        "model": MODEL,
        "images": str(images),
        "methods": ",".join(methods(name)),
        "reference": "random",
        "batch-size": "4",
        "limit": str(limit),
        "out": str(out),
        **RUNS[name],
    }
    command = [
        *start,
        "-m",
        "xai_align",
        "compare",
        *(part for key, value in options.items() for part in (f"--{key}", value)),
    ]
    # 0: all done; 1: some method failed on some image, which the page lists
    if subprocess.run(command, env={"OMP_NUM_THREADS": "1", **os.environ}).returncode not in (0, 1):
        raise SystemExit(f"the run '{name}' stopped; see above")


def markdown(out: Path) -> str:
    """Return one table for each question: methods in rows, mean and half the width of its 95 % interval."""
    with (out / "table.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    seconds = json.loads((out / "results.json").read_text("utf-8"))["seconds"]
    lines = []
    for question in dict.fromkeys(one["question"] for one in found):
        cells = {(one["method"], one["metric"]): one for one in found if one["question"] == question}
        metrics = [
            metric
            for metric in dict.fromkeys(metric for _, metric in cells)
            if any(known(cells[key]) for key in cells if key[1] == metric)
        ]
        names = list(dict.fromkeys(method for method, _ in cells))
        lines += [
            f"\n{question}",
            "",
            heading("method", *metrics, "s / image"),
        ]
        for method in names:
            numbers = [*(shown(cells[method, metric]) for metric in metrics), f"{seconds[method] or math.nan:.2g}"]
            lines.append(row(method, *numbers))
    return "\n".join(lines)


def known(cell: dict[str, str]) -> bool:
    return bool(cell["mean"]) and not math.isnan(float(cell["mean"]))


def shown(cell: dict[str, str]) -> str:
    if not known(cell):
        return "–"
    mean, low, high = (float(cell[name]) for name in ("mean", "low", "high"))
    text = f"{mean:.3g} ± {(high - low) / 2:.2g}"
    return text + (f" ({cell['n']})" if int(cell["missing"]) else "")


if __name__ == "__main__":
    main()
