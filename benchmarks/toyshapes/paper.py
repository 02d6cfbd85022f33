"""Train PiNet's ToyShapes groups and one more recipe, with the paper's medians beside ours.

    python -m benchmarks.toyshapes.paper --out OUT --fits 10
    python -m benchmarks.toyshapes.paper --out OUT --fits 3 --groups first-stage,sharp-no-edges,...    # the ablation
    python -m benchmarks.toyshapes.paper --out OUT --fits 3 --groups ensemble --members 5
    python -m benchmarks.toyshapes.paper --out OUT --report

Every fit has its own pictures and seed; its network and its scores are files in OUT, and existing fits are not
repeated. Takes about a minute a fit on one core (--precision bf16, where the processor has it).
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.shared.positive_integer import positive_integer
from benchmarks.toyshapes.cam import cam_maps, grad_cam_maps
from benchmarks.toyshapes.fits import Fitted, Workshop, data_of, unseen_pictures
from benchmarks.toyshapes.groups import ENSEMBLE, GROUPS, PAPER_GROUPS
from benchmarks.toyshapes.scores import Look, scores
from benchmarks.toyshapes.table import report
from xai_align.comparison.store import write_whole
from xai_align.pinet import PiNetEnsemble


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--groups", default=",".join([*PAPER_GROUPS, "sharp"]))
    parser.add_argument("--fits", type=positive_integer, default=10)
    parser.add_argument("--members", type=positive_integer, default=10, help="number of members of an ensemble")
    parser.add_argument("--precision", choices=["no", "bf16"], default="bf16")
    parser.add_argument("--report", action="store_true", help="print the table of the existing fits, and fit nothing")
    options = parser.parse_args()
    names = options.groups.split(",")
    if unknown := set(names) - {*GROUPS, "ensemble"}:
        parser.error(f"there is no group {', '.join(sorted(unknown))}; there are {', '.join(GROUPS)}, ensemble")
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # coefficients far from all shapes become tiny, and denormal numbers are slow
    if not options.report:
        for number in range(options.fits):
            for name in names:
                run(name, number, options)
    print(report(options.out))


def run(name: str, number: int, options: argparse.Namespace) -> None:
    """Make one fit with its scores, unless it exists."""
    file = options.out / name / f"{number}.json"
    if file.exists():
        return
    shop = Workshop(options.out, number, options.precision)
    if name == "ensemble":
        fitted = [shop.fitted(ENSEMBLE, member) for member in range(options.members)]
    else:
        fitted = [shop.fitted(name)]
    test, (_, validation) = unseen_pictures(), data_of(number)
    found = {kind: asdict(scores(look, test, validation)) for kind, look in looks_of(name, fitted).items()}
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, json.dumps({"fit": summary(fitted), "scores": found}, indent=1))
    print(name, number, json.dumps({"fit": summary(fitted), **found}), flush=True)


def looks_of(name: str, fitted: list[Fitted]) -> dict[str, Look]:
    """Return the maps that are scored."""
    model = fitted[0].model
    if name == "cnn":
        return {"grad-cam": grad_cam_maps(model), "cam": cam_maps(model)}
    if name == "ensemble":
        return {"pi": coefficients_of(PiNetEnsemble([one.model for one in fitted]).eval())}  # type: ignore[misc]
    return {"pi": coefficients_of(model)}


def coefficients_of(model: Any) -> Look:
    """Return pi, which the paper scores."""

    def look(x: Tensor) -> tuple[Tensor, Tensor]:
        seen = model.explain(x)
        return seen.logits[:, 0], seen.coefficient_maps[:, 0]

    return look


def summary(fitted: list[Fitted]) -> dict[str, float]:
    return {
        "members": len(fitted),
        "accuracy": min(one.accuracy for one in fitted),
        "epochs": sum(one.epochs for one in fitted) / len(fitted),
        "seconds": sum(one.seconds for one in fitted),
    }


if __name__ == "__main__":
    main()
