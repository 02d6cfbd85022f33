"""Train ALIGN on one domain of PACS, and test it there and on the three others.

    export OMP_NUM_THREADS=1
    export MALLOC_MMAP_THRESHOLD_=8589934592 MALLOC_TRIM_THRESHOLD_=17179869184 MALLOC_TOP_PAD_=268435456
    python -m benchmarks.align.pacs --pacs DIR --out OUT --first-seed 1 --seeds 3
    python -m benchmarks.align.pacs --pacs DIR --out LAST --trained last --first-seed 10 --seeds 6
    python -m benchmarks.align.pacs --pacs DIR --out PEERS --trained last --first-seed 10 --seeds 6 \\
        --methods erm sgt dre gradia care grey align
    python -m benchmarks.align.pacs --pacs DIR --out VIT --network vit --weights FILE --trained last \\
        --methods erm backgrounds
    python -m benchmarks.align.pacs --pacs DIR --out OUT --report
    python -m benchmarks.align.pacs --pacs DIR --out OUT --first-seed 1 --sources photo --picture FILE

A fit leaves a file with its numbers and one with some CAMs and masks; existing fits are not repeated.

Takes 23 to 83 seconds a fit of EfficientNet-Lite0 on one core, and up to 8 minutes of the transformer.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from time import process_time
from typing import Any, get_args

import torch

from benchmarks.align.pacs_fits import METHODS, Setup, Trained, fit, split_of
from benchmarks.align.pacs_networks import LITE0, NAMES, backbone
from benchmarks.align.pacs_report import picture, report
from benchmarks.align.pacs_scores import Asked, scores, shown
from benchmarks.align.pseudo_masks import pseudo_masks
from benchmarks.shared.pacs import Pacs, load_pacs
from benchmarks.shared.positive_integer import positive_integer
from xai_align.comparison.store import write_whole
from xai_align.training.precision import autocast

#: Number of pictures of each class whose CAMs are judged, in a domain that was not trained on.
JUDGED = 4
#: The methods of the goal.
GOAL = ("erm", "dre", "align")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pacs", type=Path, required=True, help="DOMAIN/CLASS/*.jpg")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=positive_integer, default=3, help="number of seeds, from --first-seed on")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=list(GOAL))
    parser.add_argument("--sources", nargs="*", default=None, help="domains to train on; default: all")
    parser.add_argument("--network", choices=NAMES, default=NAMES[0])
    parser.add_argument("--weights", type=Path, help="file of the transformer's weights")
    parser.add_argument("--trained", choices=get_args(Trained), default="all", help="the last blocks only, or all")
    parser.add_argument("--report", action="store_true", help="print tables of the existing fits, and train nothing")
    parser.add_argument("--picture", type=Path, default=None, help="draw CAMs and masks of one source's fits")
    options = parser.parse_args()
    if options.picture is not None:
        source, pacs = (options.sources or ["photo"])[0], load_pacs(options.pacs)
        picture(pacs, options.out, source, options.first_seed, options.methods).savefig(options.picture, dpi=80)
        return
    if options.report:
        print(report([json.loads(file.read_text("utf-8")) for file in sorted(options.out.glob("*.json"))]))
        return
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    chosen = {"network": options.network, "trained": options.trained}
    for file in options.out.glob("*.json"):
        if (found := setup_of(file)) != chosen:
            raise SystemExit(f"{file} is of a fit with {found}, not with {chosen}: give another --out")
    setup = Setup(backbone(options.network, options.weights), options.trained)
    pacs = load_pacs(options.pacs)
    needed = any(METHODS[name].recipe().needs_masks for name in options.methods)
    masks = pseudo_masks(pacs.pixels, size=setup.backbone.size) if needed else None
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        for source in options.sources or pacs.domain_names:
            for method in options.methods:
                file = options.out / f"{source}-{seed}-{method}.json"
                if not file.exists():
                    fitted = one(pacs, masks, source, seed, method, options.out, setup)
                    write_whole(file, json.dumps(fitted, indent=1))
                    summary = {name: round(part["accuracy"], 3) for name, part in fitted["domains"].items()}
                    print(f"{file.stem}: {summary}, {fitted['seconds']:.0f} s", flush=True)


def setup_of(file: Path) -> dict[str, str]:
    """Return which network and weights the fit of a file trained; older files do not record them."""
    kept = json.loads(file.read_text("utf-8"))
    return {"network": kept.get("network", LITE0.name), "trained": kept.get("trained", "all")}


def one(
    pacs: Pacs, masks: torch.Tensor | None, source: str, seed: int, method: str, out: Path, setup: Setup
) -> dict[str, Any]:
    """Train and measure; CAMs and masks of some pictures are saved to a separate file."""
    images, number = setup.backbone.prepared(pacs.pixels), pacs.domain_names.index(source)
    split = split_of(pacs, number, seed)
    start = process_time()
    taught = images[split.train], pacs.labels[split.train], None if masks is None else masks[split.train]
    fitted, warned = fit(METHODS[method], *taught, classes=len(pacs.class_names), seed=seed, setup=setup)
    seconds, saliency = process_time() - start, setup.backbone.saliency
    classifier, masker = fitted.classifier.eval(), None if fitted.masker is None else fitted.masker.eval()
    asked = {
        name: _asked(pacs, images, torch.nonzero(pacs.domains == k)[:, 0])
        for k, name in enumerate(pacs.domain_names)
        if name != source
    }
    own = Asked(images[split.test], pacs.labels[split.test], torch.arange(len(split.test)))
    some = torch.cat([split.test[::8], torch.nonzero(pacs.domains != number)[::140, 0]])
    with autocast(images.device, setup.backbone.precision):
        drawn = {"numbers": some} | shown(classifier, masker, images[some], saliency=saliency)
        judged = {
            name: scores(classifier, masker, part, saliency=saliency) for name, part in ({source: own} | asked).items()
        }
    torch.save(drawn, out / f"{source}-{seed}-{method}.pt")
    return {
        "source": source,
        "seed": seed,
        "method": method,
        "network": setup.backbone.name,
        "trained": setup.trained,
        "seconds": seconds,
        "warnings": warned,
        "notes": list(fitted.notes),
        "history": fitted.history,
        "domains": judged,
    }


def _asked(pacs: Pacs, images: torch.Tensor, which: torch.Tensor) -> Asked:
    labels = pacs.labels[which]
    judged = [torch.nonzero(labels == label)[:JUDGED, 0] for label in labels.unique()]
    return Asked(images[which], labels, torch.cat(judged))


if __name__ == "__main__":
    main()
