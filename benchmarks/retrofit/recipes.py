"""Networks and fits of the retrofits of EfficientNet-Lite0.

Evidence, scales and biases remain the network's own (or its linear probe's): only the gate is learnt, 48,000 weights
that determine the weight of the evidence at every position of a 56 x 56 grid.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.retrofit.crops import Crops
from benchmarks.retrofit.loss import CurveLoss
from benchmarks.shared.pacs import Pacs, Pictures, Split
from benchmarks.shared.photographs import JUDGED, photographs
from benchmarks.shared.real_networks import lite0
from timm_align import TimmEncoder, retrofit
from xai_align.pinet import FrozenEncoder, PiNet, SecondLookHead, Start
from xai_align.pinet.network.losses import PiNetLoss
from xai_align.training.pinet.fit import Fit, fit_pinet

#: Weight of the divergence from the teacher.
DISTILLATION = 1.0
#: Rows and columns of the maps.
SIZE = 56
#: Initial gate of 0.1 everywhere, with ten times the evidence: the network's own logits, and room to grow tenfold.
START = Start(coefficient=0.1)


def untrained() -> PiNet:
    """Return EfficientNet-Lite0 with a second look that gives the network's own logits."""
    pinet = retrofit(lite0().model, "second_look", size=SIZE, start=START)
    return only_the_gate(pinet)


def only_the_gate(pinet: PiNet) -> PiNet:
    """Return the same with only the head's decoder trainable."""
    pinet.head.requires_grad_(False)
    pinet.head.decoder.requires_grad_(True)
    return pinet


def backbone_of(pinet: PiNet) -> nn.Module:
    """Return the frozen network inside."""
    found = pinet.encoder.inner.backbone  # type: ignore[union-attr]
    assert isinstance(found, nn.Module)
    return found


def training_photographs(images: Path, *, but: int = 0) -> Crops:
    """Return crops of photographs that are neither judged nor among the first ``but`` others (for tuning)."""
    judged, others = photographs(images)
    assert len(judged) == JUDGED
    held_out = {one.name for one in judged + others[:but]}
    entries = json.loads((images / "labels.json").read_text("utf-8"))
    taken = [entry for entry in entries if Path(entry["file"]).stem not in held_out]
    return Crops([images / entry["file"] for entry in taken], [entry["label"] for entry in taken])


def distil(pinet: PiNet, crops: Crops, *, epochs: int, seed: int, out: Path | None = None, **weights: float) -> Fit:
    """Learn the gate from crops, with the frozen network as teacher and judge; ``weights`` of :class:`CurveLoss`."""
    judge = backbone_of(pinet).to(memory_format=torch.channels_last)
    loss = CurveLoss("multiclass", judge=judge, **{"distillation": DISTILLATION, **weights})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nearly all of the thousand classes have no example here
        return fit_pinet(
            pinet,
            crops,
            loss=loss,
            epochs=epochs,
            batch_size=8,
            learning_rate=5e-3,
            betas=(0.9, 0.99),
            weight_decay=0.01,
            schedule="cosine",
            seed=seed,
            mixed_precision="bf16",
            out=out,
            show_progress=True,
        )


def on_pacs(probe: nn.Linear, gate: nn.Module | None, **options: Any) -> PiNet:
    """Return EfficientNet-Lite0 with a second look at a probe's evidence, and a gate that was learnt elsewhere."""
    encoder = TimmEncoder(lite0().model)
    head = SecondLookHead(
        encoder.channels,
        probe.out_features,
        classifier=probe,
        **{"z": "evidence", "size": SIZE, "start": START, "mean": (0.5,) * 3, "std": (0.5,) * 3, **options},
    )
    if gate is not None:
        head.decoder.load_state_dict(gate.state_dict())
    return PiNet(FrozenEncoder(encoder), head.eval())


def fit_on_pacs(pinet: PiNet, pacs: Pacs, split: Split, *, epochs: int, seed: int, learning_rate: float) -> Fit:
    """Fit to labels; the weights of the best validation are kept."""
    backbone_of(pinet).to(memory_format=torch.channels_last)
    return fit_pinet(
        pinet,
        Pictures(pacs, split.train),
        Pictures(pacs, split.validation),
        loss=PiNetLoss("multiclass"),
        epochs=epochs,
        batch_size=32,
        learning_rate=learning_rate,
        weight_decay=0.01,
        schedule="cosine",
        seed=seed,
        mixed_precision="bf16",
        show_progress=True,
    )


@torch.no_grad()
def mean_features(pacs: Pacs) -> Tensor:
    """Return the mean features ``[N, 1280]`` of all pictures: the input of the network's own classifier."""
    network = lite0().model.to(memory_format=torch.channels_last)
    pictures = Pictures(pacs, torch.arange(len(pacs.labels)))
    batches = [range(start, min(start + 16, len(pictures))) for start in range(0, len(pictures), 16)]
    return torch.cat(
        [network.forward_features(torch.stack([pictures[i][0] for i in batch])).mean((2, 3)) for batch in batches]  # type: ignore[operator]
    )


@torch.no_grad()
def logits_of(network: nn.Module, images: Tensor) -> Tensor:
    """Return logits ``[N, K]``, computed for a few images at a time."""
    return torch.cat([network(part) for part in images.split(16)])
