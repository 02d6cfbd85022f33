"""Table of networks in which compounding gradient clipping inverts a map, and of rules that prevent it.

    python -m benchmarks.fei.inversion

FEI's rule ibm is one-sided: a unit that is inactive on the original image may be
pushed down but never up. Every layer adds the resulting bias to the gradient.

The first table can be worked by hand (``identity_blocks``). Every block is
expand, ReLU, project, and computes the identity, because its two units
``v = v' = relu(x1 - 2 x2)`` are projected with opposite weights. They are
inactive on the original image (1, 1) and active on the masked one (1, 1/4). The
logit is ``x1 + x2``, and descent on ``L = -logit`` should push both pixels up,
each by 1. Going back through a block, ibm drops the push up on ``v`` and keeps
the one down on ``v'``:

    g1 <- g1 + c |g2|,    g2 <- g2 - 2 c |g2|

so that ``|g2|`` grows by ``1 + 2c`` a block, and the push on pixel 1 is
``1 - ((1 + 2c)^D - 1) / 2`` after ``D`` of them. With ``c = 1/8`` it points down from the fifth block on.

The second table has the same for residual bottlenecks with random weights.

Takes seconds.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from xai_align.fei.published.gradient_clipping import clip_gradients

DEPTHS = range(1, 7)
#: Numbers of random networks and of random images.
NETWORKS = 20
#: Number of the last layers that are clipped when only late ones are.
LATE = 2


class RenormalisedReLU(nn.Module):
    """ReLU whose gradient is rescaled after clipping to its norm before it, for each image."""

    def forward(self, x: Tensor) -> Tensor:
        a = torch.relu(x)
        if not a.requires_grad:
            return a
        arrived: list[Tensor] = []
        behind = a.view_as(a)
        behind.register_hook(lambda g: arrived.append(norm(g)))
        out = behind * 1

        def renormalise(g: Tensor) -> Tensor:
            left = norm(g)
            return g * torch.where(left > 0, arrived.pop() / left, 1)

        a.register_hook(renormalise)  # after the hook that clips
        return out


def norm(g: Tensor) -> Tensor:
    return g.flatten(1).norm(dim=1).view(-1, *[1] * (g.dim() - 1))


class Residual(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


def identity_blocks(depth: int, *, c: float = 1 / 8, act: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """Network of ``depth`` bottlenecks that computes only ``x1 + x2``: ``[N, 2, 1, 1]`` to ``[N, 1]``, float64."""
    expand = torch.tensor([[1.0, 0], [0, 1], [1, -2], [1, -2]])  # x1, x2, v, v'
    project = torch.tensor([[1.0, 0, 0, 0], [0, 1, c, -c]])
    blocks = [nn.Sequential(pointwise(expand), act(), pointwise(project)) for _ in range(depth)]
    return nn.Sequential(*blocks, pointwise(torch.ones(1, 2)), nn.Flatten()).double().eval()


def pointwise(weight: Tensor) -> nn.Conv2d:
    conv = nn.Conv2d(weight.shape[1], weight.shape[0], 1, bias=False)
    conv.weight.data = weight[:, :, None, None]
    return conv


def random_blocks(depth: int, seed: int, *, act: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """Network of residual bottlenecks 8 -> 32 -> 8 with random weights: ``[N, 3, H, W]`` to ``[N, 1]``, float64."""
    blocks = [
        Residual(nn.Conv2d(8, 32, 3, padding=1, bias=False), act(), nn.Conv2d(32, 8, 1, bias=False))
        for _ in range(depth)
    ]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 1, bias=False)]
    model = nn.Sequential(*blocks, nn.Conv2d(8, 8, 1, bias=False), *head)
    model = nn.Sequential(nn.Conv2d(3, 8, 1, bias=False), *model).double().eval()
    generator = torch.Generator().manual_seed(seed)
    for weight in model.parameters():
        weight.data.normal_(0, (2 / weight[0].numel()) ** 0.5, generator=generator)
    return model


def push(
    model: nn.Module,
    original: Tensor,
    masked: Tensor,
    mode: str,
    *,
    sign: int = 1,
    layers: list[str] | None = None,
) -> Tensor:
    """Return the descent direction ``-dL/dx`` at the masked input, of ``L = -logit``; with ``sign=-1`` of ``logit``."""
    masked = masked.clone().requires_grad_()
    with clip_gradients(model, original, mode=mode, layers=layers) as clipping:
        (gradient,) = torch.autograd.grad(-sign * clipping.model(masked).sum(), masked)
    return -gradient


def blocks_of(model: nn.Sequential, last: int) -> list[str]:
    """Return the names of the last blocks."""
    names = [name for name, child in model.named_children() if isinstance(child, nn.Sequential)]
    return names[-last:]


def by_hand() -> None:
    original, masked = torch.ones(1, 2, 1, 1).double(), torch.tensor([1, 0.25]).double().view(1, 2, 1, 1)
    print(
        "Push on pixel 1 and pixel 2 (true: 1 and 1)\n\n"
        f"| depth | no clipping | ibm | ibm, renormalised | ibm, last {LATE} blocks | silent (evidence units only) |\n"
        "|---|---|---|---|---|---|"
    )
    for depth in DEPTHS:
        model = identity_blocks(depth)
        pushes = [
            push(model, original, masked, "none"),
            push(model, original, masked, "ibm"),
            push(identity_blocks(depth, act=RenormalisedReLU), original, masked, "ibm"),
            push(model, original, masked, "ibm", layers=blocks_of(model, LATE)),
            push(model, original, masked, "silent"),
        ]
        cells = [", ".join(f"{value:.3f}" for value in one.flatten().tolist()) for one in pushes]
        print(f"| {depth} | {' | '.join(cells)} |")


def at_random() -> None:
    print(
        f"\nCosine of the map with that of no clipping, mean of {NETWORKS} random networks; "
        "'for and against': of the map for the class with the map against it (no clipping: -1)\n\n"
        f"| depth | ibm | ibm, renormalised | ibm, last {LATE} blocks | silent | ibm, for and against | "
        "silent, for and against |\n|---|---|---|---|---|---|---|"
    )
    for depth in DEPTHS:
        means = torch.tensor([agreements(depth, seed) for seed in range(NETWORKS)]).mean(0)
        print(f"| {depth} | {' | '.join(f'{value:.2f}' for value in means.tolist())} |")


def agreements(depth: int, seed: int) -> list[float]:
    model, renormalised = random_blocks(depth, seed), random_blocks(depth, seed, act=RenormalisedReLU)
    generator = torch.Generator().manual_seed(seed + 1000)
    original = torch.randn(1, 3, 8, 8, generator=generator).double()
    masked = original * (torch.rand(1, 1, 8, 8, generator=generator) > 0.5)

    def of(model: nn.Module, mode: str, sign: int = 1, layers: list[str] | None = None) -> Tensor:
        """Return ``-dL/d(alpha)`` of each pixel, for ``x = alpha * original``."""
        return (push(model, original, masked, mode, sign=sign, layers=layers) * original).sum(1).flatten()

    plain, ibm, silent = of(model, "none"), of(model, "ibm"), of(model, "silent")
    pairs = [
        (ibm, plain),
        (of(renormalised, "ibm"), plain),
        (of(model, "ibm", layers=blocks_of(model, LATE)), plain),
        (silent, plain),
        (ibm, of(model, "ibm", sign=-1)),
        (silent, of(model, "silent", sign=-1)),
    ]
    return [torch.cosine_similarity(a, b, dim=0).item() for a, b in pairs]


if __name__ == "__main__":
    by_hand()
    at_random()
