"""The vision transformer of :mod:`benchmarks.shared.small_vit`, and its photographs, for the FEI benchmarks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.peers.by_name import PEERS, PUBLISHED, Peer
from benchmarks.peers.mda import mda
from benchmarks.shared import small_vit
from benchmarks.shared.coarse_maps import smoothed
from benchmarks.shared.photographs import Photograph
from xai_align import explain, read_out
from xai_align.fei import optimize_masks

NAME = "vit"
#: Rows and columns of its patches.
GRID = (16, 16)
#: Number of steps of the symmetric relevance gain.
SRG_STEPS = 8
_MEAN, _STD = (torch.tensor(values).view(3, 1, 1) for values in (small_vit.MEAN, small_vit.STD))


@dataclass(frozen=True)
class Transformer:
    """Network with the interface of :class:`~benchmarks.shared.photographs.Judge`."""

    model: nn.Module
    name: str = NAME
    size: int = 224
    #: Mean and standard deviation of the network's units.
    normalization: tuple[tuple[float, ...], tuple[float, ...]] = (small_vit.MEAN, small_vit.STD)

    def view(self, pixels: Tensor) -> Tensor:
        """Return pixels ``[N, 3, 224, 224]`` in [0, 1] in the network's units."""
        return (pixels - _MEAN) / _STD


def transformer(weights: Path) -> Transformer:
    return Transformer(small_vit.small_vit(weights))


def photographs(folder: Path) -> tuple[list[Photograph], list[Photograph]]:
    """Return ``(judged, others)`` with the classes of this network."""
    judged, others = small_vit.photographs(folder)
    return _as_pixels(judged), _as_pixels(others)


def _as_pixels(found: small_vit.Photographs) -> list[Photograph]:
    each = zip(found.names, found.labels, found.images, strict=True)
    return [Photograph(Path(name).stem, label, x * _STD + _MEAN) for name, label, x in each]


def readout(model: nn.Module, x: Tensor, label: int, network: str) -> Tensor:
    """Return the exact readout at its default layers."""
    return read_out(model, x, label).map("smooth")[0].detach()


def fei(model: nn.Module, x: Tensor, label: int, network: str, **options: object) -> Tensor:
    return optimize_masks(model, x, [label], **options).attribution[0]


def searched(peer: Peer, passes: int, model: nn.Module, x: Tensor, label: int, network: str) -> Tensor:
    """Return a peer's map with this number of passes."""
    return peer(model, x, label, passes=passes)


def of_mda(model: nn.Module, x: Tensor, label: int, network: str, **options: int) -> Tensor:
    """Return MDA's map, with AttnLRP as its prior."""
    return mda(model, x, label, prior=explain(model, x, label, "attn_lrp").map[0].detach(), **options)


def by_name(method: str, model: nn.Module, x: Tensor, label: int, network: str) -> Tensor:
    """Return the map of a registered method, spread smoothly if it is one of patches."""
    return smoothed(explain(model, x, label, method).map[0].detach(), GRID[0])


def random(model: nn.Module, x: Tensor, label: int, network: str) -> Tensor:
    return torch.rand(x.shape[-2:], generator=torch.Generator().manual_seed(label))


METHODS = {
    "readout": readout,
    "random": random,
    **{name: partial(searched, PEERS[name], passes) for name, passes in PUBLISHED.items()},
    **{f"{name}-100": partial(searched, peer, 100) for name, peer in PEERS.items()},
    "mda": of_mda,
    "mda-1000": partial(of_mda, passes=1000),
    "mda-100": partial(of_mda, passes=100),
    "fei": fei,
    "fei-drop": partial(fei, removal="drop"),
    "fei-either": partial(fei, removal="either"),
    "fei-22": partial(fei, n_iter=22),
    "fei-drop-22": partial(fei, removal="drop", n_iter=22),
    "fei-28-cells": partial(fei, mask_size=28, shift=8),
    "fei-last-map": partial(fei, start_layer="blocks.11.norm1"),
    "fei-flat": partial(fei, start="flat"),
    "fei-unpenalised": partial(fei, deviation_weight=0.0),
    "fei-drop-unpenalised": partial(fei, removal="drop", deviation_weight=0.0),
    "fei-shifted": partial(fei, shift=14),
    "fei-both": partial(fei, solver="both"),
    "fei-both-clipped": partial(fei, solver="both", clip="ibm"),
    "fei-ibm": partial(fei, clip="ibm"),
    "fei-silent": partial(fei, clip="silent"),
    "fei-nested-20": partial(fei, solver="nested", n_iter=20),
    "fei-nested-20-unclipped": partial(fei, solver="nested", n_iter=20, clip="none"),
    "attn_lrp": partial(by_name, "attn_lrp"),
    "legrad": partial(by_name, "legrad"),
    "gradcam": partial(by_name, "gradcam"),
}
