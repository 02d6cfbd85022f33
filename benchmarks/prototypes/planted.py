"""Recovery of a planted rotation: sources that are active one at a time, mixed by a random rotation, by both solvers.

    python -m benchmarks.prototypes.planted

Features are `R s[p]`: at each of 16 positions of 400 pictures one of `D` sources is between 0.5 and 1.5, all others are
noise of up to 0.02. A perfect result is `U R` equal to a permutation, up to signs. Figures: mean and smallest over the
channels of the largest |entry| of `U R` in a row, the number of sources found, and purity before and after on 200
pictures that were not fitted.

Takes half a minute.
"""

from __future__ import annotations

import argparse
from time import perf_counter

import torch
from torch import Tensor, nn

from benchmarks.shared.markdown import heading, row
from benchmarks.shared.positive_integer import positive_integer
from xai_align.prototypes import channel_purity, fit_prototypes
from xai_align.prototypes.mixing import nearest_rotation


class Pooled(nn.Module):
    """Network whose input is the features: mean and linear."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.look = nn.Conv2d(channels, channels, 1, bias=False)
        self.head = nn.Linear(channels, 2)
        nn.init.dirac_(self.look.weight)
        self.eval().requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        return self.head(self.look(x).mean((2, 3)))


def planted(channels: int, count: int, generator: torch.Generator, rotation: Tensor) -> Tensor:
    """Return features ``[N, D, 4, 4]``."""
    sources = 0.02 * torch.rand(count, 16, channels, generator=generator)
    which = torch.randint(channels, (count, 16, 1), generator=generator)
    sources.scatter_(2, which, torch.rand(count, 16, 1, generator=generator) + 0.5)
    return (sources @ rotation.T).transpose(1, 2).unflatten(2, (4, 4))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--channels", type=positive_integer, nargs="+", default=[16, 64, 128])
    parser.add_argument("--seeds", type=positive_integer, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(heading("D", "solver", "seed", "mean", "smallest", "sources found", "purity before", "after", "seconds"))
    for channels in options.channels:
        for seed in range(options.seeds):
            generator = torch.Generator().manual_seed(seed)
            rotation = nearest_rotation(torch.randn(channels, channels, generator=generator))
            fitted, others = (planted(channels, count, generator, rotation) for count in (400, 200))
            for solver in ("procrustes", "gradient"):
                start = perf_counter()
                found = fit_prototypes(Pooled(channels), list(fitted), "look", solver=solver)
                seconds = perf_counter() - start
                product = (found.matrix @ rotation).abs()
                maps = others.flatten(2).transpose(1, 2)
                before, after = (channel_purity(maps, one, 5).mean() for one in (torch.eye(channels), found.matrix))
                sources = len(set(product.argmax(1).tolist()))
                best = product.amax(1)
                shown = (f"{value:.4f}" for value in (best.mean(), best.min()))
                purities = (f"{value:.3f}" for value in (before, after))
                print(
                    row(channels, solver, seed, *shown, f"{sources} of {channels}", *purities, f"{seconds:.1f}"),
                    flush=True,
                )


if __name__ == "__main__":
    main()
