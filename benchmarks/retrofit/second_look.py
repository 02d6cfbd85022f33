"""Train EfficientNet-Lite0 with a second look, and compare its maps with the network's own.

    export OMP_NUM_THREADS=1
    export MALLOC_MMAP_THRESHOLD_=8589934592 MALLOC_TRIM_THRESHOLD_=17179869184 MALLOC_TOP_PAD_=268435456
    python -m benchmarks.retrofit.second_look distil --images DIR --out OUT          # learns the gate; resumable
    python -m benchmarks.retrofit.second_look judge --images DIR --boxes DIR --out OUT
    python -m benchmarks.retrofit.second_look pacs --pacs DIR --out OUT
    python -m benchmarks.retrofit.second_look cost --out OUT

The gate is learnt without labels or boxes from crops of the photographs of ``--images`` that are not judged.

Takes about five minutes to distil.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.retrofit.judging import CURVES, PLACES, Asked, judged, peers, second_look_maps, table
from benchmarks.retrofit.recipes import (
    backbone_of,
    distil,
    fit_on_pacs,
    logits_of,
    mean_features,
    on_pacs,
    only_the_gate,
    training_photographs,
    untrained,
)
from benchmarks.shared.boxes import with_boxes
from benchmarks.shared.markdown import heading, row
from benchmarks.shared.measuring import timed
from benchmarks.shared.pacs import Pacs, Pictures, Split, linear_probe, load_pacs, stratified
from benchmarks.shared.photographs import JUDGES, photographs
from benchmarks.shared.positive_integer import positive_integer
from xai_align.pinet import PiNet

EPOCHS = 40
#: Weight of the parsimony: more makes maps sharper and predictions less like the network's.
CONCENTRATION = 4.0
#: Number of photographs for tuning, which are neither trained on nor judged.
CHOSEN_ON = 24
PACS_EPOCHS = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("distil", "judge", "pacs", "cost"))
    parser.add_argument("--images", type=Path, help="photographs with a labels.json")
    parser.add_argument("--boxes", type=Path, help="photographs with a labels.json with boxes")
    parser.add_argument("--pacs", type=Path, help="DOMAIN/CLASS/*.jpg")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--seeds", type=int, nargs="*", default=[0], help="seeds of the distilled gate, or of the split"
    )
    parser.add_argument("--concentration", type=float, default=CONCENTRATION, help="weight of this term in training")
    parser.add_argument("--concentrations", type=float, nargs="*", default=[CONCENTRATION], help="values to judge")
    parser.add_argument("--limit", type=positive_integer, default=None, help="number of photographs, for a trial")
    options = parser.parse_args()
    {"distil": run_distil, "judge": run_judge, "pacs": run_pacs, "cost": run_cost}[options.what](options)


def run_distil(options: argparse.Namespace) -> None:
    """Learn the gate, for every seed."""
    crops = training_photographs(options.images, but=CHOSEN_ON)
    for seed in options.seeds:
        torch.manual_seed(seed)
        out = folder_of(options.out, options.concentration, seed)
        fit = distil(untrained(), crops, epochs=EPOCHS, seed=seed, out=out, concentration=options.concentration)
        print(f"seed {seed}: {len(crops)} photographs, {fit.seconds / fit.epochs:.1f} s an epoch, {fit.epochs} epochs")


def run_judge(options: argparse.Namespace) -> None:
    """Print curves on the judged photographs, and localisation on those with boxes."""
    torch.set_num_threads(1)
    students = {
        f"second look {weight:g}" + (f", seed {seed}" if len(options.seeds) > 1 else ""): distilled(
            options.out, weight, seed
        )
        for weight in options.concentrations
        for seed in options.seeds
    }
    methods = {name: partial(second_look_maps, student) for name, student in students.items()} | peers()
    everything = {
        "held-out photographs": Asked(photographs(options.images)[0][: options.limit]),
        "photographs with boxes": Asked(*with_boxes(options.boxes, options.limit)),
    }
    for title, asked in everything.items():
        print(f"\n{len(asked.photographs)} {title}\n")
        for name, student in students.items():
            print(f"{name}: {fidelity(student, asked)}\n")
        found = {
            name: judged(asked, make, options.out / f"judged, {title}, {name}.pt") for name, make in methods.items()
        }
        areas = ["insertion blur", "deletion zero", "lite1 insertion blur", "lite1 deletion zero"]
        print(table(found, [*areas, *CURVES]))
        if asked.masks is not None:
            print("\n" + table(found, PLACES))


def run_pacs(options: argparse.Namespace) -> None:
    """Print the accuracy and the linear probe's for every seed of the split, and other variants on the first."""
    pacs = load_pacs(options.pacs)
    features = mean_features(pacs)
    gate = distilled(options.out, options.concentration, 0).head.decoder
    columns = ("linear probe", "gate of the thousand classes", "the same, fitted", "gate from nothing", "signed maps")
    print(heading("split", *columns))
    for seed in options.seeds:
        split = stratified(pacs, seed)
        probe = linear_probe(features, pacs.labels, split)
        right = (probe(features).argmax(1) == pacs.labels)[split.test].float().mean()
        cells = [f"{float(right):.4f}", f"{accuracy(on_pacs(probe, gate), pacs, split):.4f}"]
        variants = pacs_variants(probe, gate)
        for name in variants if seed == options.seeds[0] else ["gate"]:
            torch.manual_seed(seed)
            fit = fit_on_pacs(variants[name], pacs, split, epochs=PACS_EPOCHS, seed=seed, learning_rate=1e-3)
            cells.append(f"{accuracy(variants[name], pacs, split):.4f} ({fit.seconds / fit.epochs:.0f} s an epoch)")
            variants[name].save_pretrained(options.out / f"pacs-{seed}-{name}")
        print(row(seed, *cells), flush=True)


def pacs_variants(probe: nn.Linear, gate: nn.Module) -> dict[str, PiNet]:
    """Return the modules fitted to the labels. Signed maps use no evidence: a decoder's K maps, summed (``z = 1``)."""
    signed = on_pacs(probe, None, z="ones", activation="tanh", start=None)
    return {"gate": only_the_gate(on_pacs(probe, gate)), "fresh": only_the_gate(on_pacs(probe, None)), "signed": signed}


@torch.no_grad()
def run_cost(options: argparse.Namespace) -> None:
    """Print time and multiplications of a forward pass and of the backbone's, and the error of the sums."""
    pinet = distilled(options.out, options.concentration, options.seeds[0])
    backbone = backbone_of(pinet)
    print("| images | backbone, ms | second look, ms | ratio | with a map, ms | ratio |\n|---|---|---|---|---|---|")
    torch.set_num_threads(1)
    for count in (1, 8):
        x = torch.randn(count, 3, 224, 224)
        networks = (backbone, pinet, partial(one_map, pinet))
        times = [[timed(partial(network, x))[0] for network in networks] for _ in range(15)]
        plain, logits, mapped = (sorted(column)[len(column) // 2] * 1e3 for column in zip(*times, strict=True))
        cells = f"{plain:.1f} | {logits:.1f} | {logits / plain:.2f} | {mapped:.1f} | {mapped / plain:.2f}"
        print(f"| {count} | {cells} |")
    x = torch.randn(1, 3, 224, 224)
    macs = [multiplications(network, x) for network in (backbone, pinet)]
    print(f"\nmultiplications: {macs[0] / 1e6:.0f} and {macs[1] / 1e6:.0f} million, ratio {macs[1] / macs[0]:.2f}")
    print(f"largest error of a sum, over the largest |logit|: {sum_error(pinet, torch.randn(8, 3, 224, 224)):.1e}")


def one_map(pinet: PiNet, x: Tensor) -> Tensor:
    """Return the map of the predicted class."""
    look = pinet.explain(x)
    return look.contributions_to(nn.functional.one_hot(look.logits.argmax(1), pinet.num_classes).to(x))


def multiplications(network: nn.Module, x: Tensor) -> int:
    """Return the multiplications of a forward pass: half the floating-point operations of convolutions and products."""
    with FlopCounterMode(display=False) as counter:
        network(x)
    return int(counter.get_total_flops()) // 2


@torch.no_grad()
def sum_error(pinet: PiNet, x: Tensor) -> float:
    """Return the difference of the sums over the maps and the logits, over the largest logit."""
    look = pinet.explain(x)
    sums = look.maps.double().sum((2, 3)) + look.bias
    return float((sums - look.logits).abs().max() / look.logits.abs().max())


def fidelity(pinet: PiNet, asked: Asked) -> str:
    """Return a text on the agreement of the logits with the teacher's."""
    x = JUDGES["lite0"].view(torch.stack([one.pixels for one in asked.photographs]))
    ours, teachers = logits_of(pinet, x), logits_of(JUDGES["lite0"].model, x)
    agreement = float((ours.argmax(1) == teachers.argmax(1)).float().mean())
    error = float((ours - teachers).pow(2).mean().sqrt())
    divergence = float(nn.functional.kl_div(ours.log_softmax(1), teachers.softmax(1), reduction="batchmean"))
    spread = float(teachers.std())
    return (
        f"top 1 agrees on {agreement:.3f}; logits are off by {error:.3f} (root mean square; theirs spread by "
        f"{spread:.2f}); divergence {divergence:.3f} nats; sums off by {sum_error(pinet, x[:8]):.1e}"
    )


def accuracy(pinet: PiNet, pacs: Pacs, split: Split) -> float:
    """Return the accuracy on the test part."""
    pictures = Pictures(pacs, split.test)
    x = torch.stack([pictures[i][0] for i in range(len(pictures))])
    return float((logits_of(pinet, x).argmax(1) == pacs.labels[split.test]).float().mean())


def folder_of(out: Path, concentration: float, seed: int) -> Path:
    """Return the path of a stored gate."""
    return out / f"distilled-{concentration:g}-{seed}"


def distilled(out: Path, concentration: float, seed: int) -> PiNet:
    """Return the network that ``distil`` saved."""
    folder = folder_of(out, concentration, seed) / "model"
    if not folder.exists():
        raise SystemExit(f"there is no {folder}; run distil first")
    return PiNet.from_pretrained(folder)


if __name__ == "__main__":
    main()
