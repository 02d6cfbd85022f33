"""Train ViT-S/14 with a second look at its last patch tokens, and compare its maps with the exact default readout.

    export OMP_NUM_THREADS=1
    export MALLOC_MMAP_THRESHOLD_=8589934592 MALLOC_TRIM_THRESHOLD_=17179869184 MALLOC_TOP_PAD_=268435456
    python -m benchmarks.retrofit.transformer distil --images DIR --weights FILE --more DIR DIR --out OUT    # resumable
    python -m benchmarks.retrofit.transformer judge --images DIR --weights FILE --out OUT

The network's head reads the class token, so it has no evidence at patch tokens. Here each token's evidence is that of
a linear probe that predicts the network's logits from the mean token (ridge regression), and a gate is computed from
the tokens of four depths, 16 x 16. Probe and gate are trained on the network's outputs alone, on crops of photographs
without labels: those of `--more`, and the 32 of `--images` that are not judged. The gate's loss has
EfficientNet-Lite0's terms and
weights: distillation of the network's logits, insertion and deletion judged by it, concentration.

Takes about ten minutes to distil, and five to judge.
"""

from __future__ import annotations

import argparse
import warnings
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.readout.protocols import BATCH, GRIDS, STEPS, Method, in_batches, readout
from benchmarks.retrofit.crops import Crops
from benchmarks.retrofit.judging import second_look_maps
from benchmarks.retrofit.loss import CurveLoss
from benchmarks.retrofit.recipes import START, logits_of, only_the_gate
from benchmarks.shared.intervals import plus_minus
from benchmarks.shared.markdown import heading, row
from benchmarks.shared.measuring import timed
from benchmarks.shared.positive_integer import positive_integer
from benchmarks.shared.small_vit import CLASSES, photographs, small_vit
from timm_align import TimmEncoder
from xai_align.evaluation import draw_grids, grid_pointing_game, symmetric_relevance_gain
from xai_align.pinet import FrozenEncoder, PiNet, SecondLookHead
from xai_align.training.pinet.fit import fit_pinet

EPOCHS = 4
CONCENTRATION = 4.0
#: Photographs of other sources.
OTHERS = 368
#: Crops of each photograph for the probe, and further crops of the network's own; the penalty is chosen on every
#: fourth of these.
PROBED, OWN_PROBED, HELD_OUT = 2, 8, 4
PENALTIES = (1.0, 10.0, 100.0, 1000.0)
#: Rows and columns of the network's input in training: 11 x 11 patches.
JUDGED_AT = 154
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def crops_of(images: Path, more: list[Path]) -> tuple[Crops, int]:
    """Return crops of the network's own unjudged photographs, then of others, and the number of its own."""
    _, others = photographs(images)
    found = sorted(file for folder in more for file in folder.rglob("*") if file.suffix.lower() in (".jpg", ".jpeg"))
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(0))[:OTHERS].tolist()
    files = [images / name for name in others.names] + [found[i] for i in order]
    return Crops(files, [0] * len(files), mean=MEAN, std=STD), len(others.names)


@torch.no_grad()
def mean_tokens(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean patch token ``[N, C]`` of the last norm, and the logits ``[N, K]``."""
    with torch.autocast("cpu", torch.bfloat16):
        tokens = torch.cat([model.forward_features(part) for part in x.split(16)])  # type: ignore[operator]
        logits = model.forward_head(tokens)  # type: ignore[operator]
    return tokens[:, model.num_prefix_tokens :].float().mean(1), logits.float()  # type: ignore[misc]


def probe_of(model: nn.Module, crops: Crops, own: int, seed: int) -> nn.Linear:
    """Fit a ridge regression of the network's logits on its mean patch token; held-out crops choose the penalty."""
    torch.manual_seed(seed)
    numbers = [*range(len(crops))] * PROBED + [*range(own)] * OWN_PROBED
    features, logits = mean_tokens(model, torch.stack([crops[i][0] for i in numbers]))
    held_out = torch.tensor([i < own and i % HELD_OUT == 0 for i in numbers])

    def error(penalty: float) -> float:
        probe = ridge(features[~held_out], logits[~held_out], penalty)
        return float((probe(features[held_out]) - logits[held_out]).square().mean())

    with torch.no_grad():
        return ridge(features, logits, min(PENALTIES, key=error))


def ridge(features: Tensor, logits: Tensor, penalty: float) -> nn.Linear:
    """Return ``W = (Z^T Z + penalty I)^-1 Z^T (y - mean y)`` with standardised features ``Z``; takes raw features."""
    mean, std = features.double().mean(0), features.double().std(0) + 1e-6
    z, centre = (features.double() - mean) / std, logits.double().mean(0)
    eye = torch.eye(z.shape[1], dtype=z.dtype)
    weight = torch.linalg.solve(z.T @ z + penalty * eye, z.T @ (logits.double() - centre)).T / std
    probe = nn.Linear(*weight.shape[::-1])
    with torch.no_grad():
        probe.weight.copy_(weight)
        probe.bias.copy_(centre - weight @ mean)
    return probe


def with_second_look(model: nn.Module, probe: nn.Linear) -> PiNet:
    """Return the frozen network with a second look at its patch tokens, whose gate is trained."""
    encoder = TimmEncoder(model)
    head = SecondLookHead(
        encoder.channels, probe.out_features, classifier=probe, z="evidence", size=16, start=START, mean=MEAN, std=STD
    )
    return only_the_gate(PiNet(FrozenEncoder(encoder), head.eval()))


def run_distil(options: argparse.Namespace) -> None:
    """Fit the probe, then the gate."""
    model = small_vit(options.weights)
    crops, own = crops_of(options.images, options.more)
    probe = probe_of(model, crops, own, options.seed)
    judge = deepcopy(model)
    judge.set_input_size((JUDGED_AT, JUDGED_AT))  # type: ignore[operator]
    loss = CurveLoss("multiclass", judge=judge, judged_at=JUDGED_AT, distillation=1.0, concentration=CONCENTRATION)
    torch.manual_seed(options.seed)
    pinet = with_second_look(model, probe)
    fit = fit_pinet(
        pinet,
        crops,
        loss=loss,
        epochs=options.epochs,
        batch_size=8,
        learning_rate=5e-3,
        betas=(0.9, 0.99),
        weight_decay=0.01,
        schedule="cosine",
        seed=options.seed,
        mixed_precision="bf16",
        out=options.out / "fit",
        show_progress=True,
    )
    options.out.mkdir(parents=True, exist_ok=True)
    torch.save({"probe": probe.state_dict(), "head": pinet.head.state_dict()}, options.out / "vit.pt")
    print(f"{len(crops)} photographs, {fit.seconds / fit.epochs:.1f} s an epoch, {fit.epochs} epochs")


def run_judge(options: argparse.Namespace) -> None:
    """Print accuracy, symmetric relevance gain and grid pointing game on the judged photographs."""
    model = small_vit(options.weights)
    found, _ = photographs(options.images)
    x, labels = found.images, torch.tensor(found.labels)
    kept = torch.load(options.out / "vit.pt", weights_only=True)
    probe = nn.Linear(kept["probe"]["weight"].shape[1], len(CLASSES))
    probe.load_state_dict(kept["probe"])
    pinet = with_second_look(model, probe)
    pinet.head.load_state_dict(kept["head"])
    answers = {
        "network": logits_of(model, x),
        "linear probe of the mean token": probe(mean_tokens(model, x)[0]),
        "second look": logits_of(pinet.eval(), x),
    }
    print(heading("", *answers))
    print(row("right", *(f"{int((one.argmax(1) == labels).sum())} of {len(x)}" for one in answers.values())))
    same = [int((one.argmax(1) == answers["network"].argmax(1)).sum()) for one in answers.values()]
    print(row("as the network", *(f"{count} of {len(x)}" for count in same)) + "\n")
    grids = draw_grids(model, x, labels, count=GRIDS)
    methods: dict[str, Method] = {"exact default": readout, "second look": partial(looked, pinet)}
    numbers = {}
    for name, method in methods.items():
        seconds, numbers[name] = timed(partial(_numbers, model, x, labels, grids, method))
        print(f"{name}: {seconds:.0f} s", flush=True)
    print("\n" + heading("", *next(iter(numbers.values()))))
    numbers["second look less the default, paired"] = {
        protocol: numbers["second look"][protocol] - values for protocol, values in numbers["exact default"].items()
    }
    for name, values in numbers.items():
        sign = "+" if "less" in name else ""
        print(row(name, *(plus_minus(one[:, None].double().numpy(), sign=sign)[0] for one in values.values())))


def looked(pinet: PiNet, model: nn.Module, x: Tensor, labels: list[int]) -> Tensor:
    """Return maps ``[N, H, W]`` of the second look for classes; the network itself is not used."""
    return second_look_maps(pinet, x, labels)


def _numbers(model: nn.Module, x: Tensor, labels: Tensor, grids: Any, method: Method) -> dict[str, Tensor]:
    """Return each protocol's values; in both, the network itself is the judge."""
    maps = in_batches(method, model, x, labels.tolist())
    return {
        "SRG": symmetric_relevance_gain(model, x, maps, target=labels, grid=(16, 16), num_steps=STEPS),
        "GridPG": grid_pointing_game(model, x, labels, method, grids=grids, scaled=True, internal_batch_size=BATCH),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("distil", "judge"))
    parser.add_argument("--images", type=Path, required=True, help="photographs whose names begin with a WordNet id")
    parser.add_argument("--more", type=Path, nargs="*", default=[], help="photographs without labels")
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=positive_integer, default=EPOCHS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        {"distil": run_distil, "judge": run_judge}[options.what](options)


if __name__ == "__main__":
    main()
