"""Peers by name, and the number of passes of each as published.

| | published | with 100 passes |
|---|---|---|
| `rise` | 4,000 masks | 100 masks |
| `extremal` | 800 steps of 4 areas, 3,200 | 25 steps |
| `lima` | 49 regions, at most 1,594 | 9 regions |
| `phasewin` | 49 regions, at most 2,450 | 49 regions, by their single gains |
| `igos` | 15 steps of 4 x 20 points, 1,200 without the line search | 4 steps of 4 x 6 points |
| `mda` | 16 x 16 patches, at most 6,791 | 3 x 3 patches |
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from torch import Tensor

from benchmarks.peers import extremal_perturbation, igos, lima, phasewin, rise

#: Function of ``(model, x [1, C, H, W], label, *, passes)`` that returns a map ``[H, W]``.
Peer: TypeAlias = Callable[..., Tensor]

#: All peers but MDA, which needs a prior map.
PEERS: dict[str, Peer] = {
    "rise": rise.rise,
    "extremal": extremal_perturbation.extremal_perturbation,
    "lima": lima.lima,
    "phasewin": phasewin.phasewin,
    "igos": igos.igos,
}
#: Passes of each, as published.
PUBLISHED = {
    "rise": rise.PUBLISHED,
    "extremal": extremal_perturbation.PUBLISHED,
    "lima": lima.PUBLISHED,
    "phasewin": phasewin.PUBLISHED,
    "igos": igos.PUBLISHED,
}
