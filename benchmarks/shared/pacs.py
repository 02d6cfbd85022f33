"""Pictures of PACS, four domains of seven classes with 80 pictures each at 128 px, and a linear probe on features.

The data set is Li et al. 2017 (arXiv 1710.03077), for non-commercial research. A folder ``DOMAIN/CLASS/*.jpg``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate
from torch.utils.data import Dataset

from xai_align.data.images import open_image

#: Weights of the squared norm among which the probe's is chosen.
PENALTIES = (1e-2, 3e-2, 1e-1, 3e-1)


@dataclass(frozen=True)
class Pacs:
    """All pictures: ``[N, 3, 128, 128]`` (uint8), their classes and domains ``[N]``, and the names of both."""

    pixels: Tensor
    labels: Tensor
    domains: Tensor
    class_names: tuple[str, ...]
    domain_names: tuple[str, ...]


@dataclass(frozen=True)
class Split:
    """Indices of pictures; every domain and class has the same share of each part."""

    train: Tensor
    validation: Tensor
    test: Tensor


def load_pacs(folder: Path) -> Pacs:
    """Return the pictures of a folder."""
    domains = sorted(path.name for path in folder.iterdir() if path.is_dir())
    classes = sorted(path.name for path in (folder / domains[0]).iterdir())
    files = [
        (d, k, f) for d, one in enumerate(domains) for k, c in enumerate(classes) for f in _files(folder / one / c)
    ]
    pixels = torch.stack(
        [torch.from_numpy(np.array(open_image(f).convert("RGB"))).permute(2, 0, 1) for _, _, f in files]
    )
    labels, numbers = torch.tensor([k for _, k, _ in files]), torch.tensor([d for d, _, _ in files])
    return Pacs(pixels, labels, numbers, tuple(classes), tuple(domains))


def stratified(pacs: Pacs, seed: int) -> Split:
    """Split the pictures: 70 % to train, 15 % to validate, 15 % to test, of every class in every domain."""
    generator = torch.Generator().manual_seed(seed)
    parts: list[list[Tensor]] = [[], [], []]
    for domain in range(len(pacs.domain_names)):
        for label in range(len(pacs.class_names)):
            found = torch.nonzero((pacs.domains == domain) & (pacs.labels == label))[:, 0]
            found = found[torch.randperm(len(found), generator=generator)]
            cuts = [round(0.70 * len(found)), round(0.85 * len(found))]
            for part, some in zip(parts, found.tensor_split(cuts), strict=True):
                part.append(some)
    return Split(*(torch.cat(part) for part in parts))


class Pictures(Dataset[tuple[Tensor, int]]):
    """Some of the pictures at 224 x 224, in EfficientNet-Lite0's units (mean and std 0.5)."""

    def __init__(self, pacs: Pacs, which: Sequence[int] | Tensor) -> None:
        self.pacs, self.which = pacs, torch.as_tensor(which).tolist()

    def __len__(self) -> int:
        return len(self.which)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        number = self.which[index]
        x = self.pacs.pixels[number][None].float() / 127.5 - 1
        return interpolate(x, (224, 224), mode="bilinear")[0], int(self.pacs.labels[number])


def linear_probe(features: Tensor, labels: Tensor, split: Split) -> nn.Linear:
    """Fit an L2-regularised logistic regression on mean features ``[N, C]``, by L-BFGS in float64.

    Features are standardised on the training part, and the penalty is the one of :data:`PENALTIES` with the lowest
    loss on the validation part. The result takes features that are not standardised.
    """
    mean, std = features[split.train].mean(0), features[split.train].std(0) + 1e-6
    z = ((features - mean) / std).double()
    fits = [_logistic(z[split.train], labels[split.train], penalty) for penalty in PENALTIES]
    losses = [float(cross_entropy(z[split.validation] @ w.T + b, labels[split.validation])) for w, b in fits]
    weight, bias = fits[losses.index(min(losses))]
    probe = nn.Linear(features.shape[1], len(bias))
    with torch.no_grad():
        probe.weight.copy_(weight / std)
        probe.bias.copy_(bias - (weight / std) @ mean.double())
    return probe


def _logistic(z: Tensor, labels: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
    weight = z.new_zeros(int(labels.max()) + 1, z.shape[1], requires_grad=True)
    bias = z.new_zeros(len(weight), requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=300, history_size=20, line_search_fn="strong_wolfe", tolerance_grad=1e-6
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = cross_entropy(z @ weight.T + bias, labels) + 0.5 * penalty * weight.pow(2).sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return weight.detach(), bias.detach()


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix in (".jpg", ".png"))
