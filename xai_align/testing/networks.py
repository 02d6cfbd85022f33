"""Tiny networks and images with fixed weights: the same on every machine, without random state."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from xai_align._tools.random_state import kept_random_state

CLASSES = 5
#: Channels, rows, columns of the images.
IMAGE = (3, 8, 10)
#: Every class has channels with positive and with negative weight.
HEAD = (
    (1.0, -0.5, 0.3, -0.8),
    (-0.6, 1.1, -0.4, 0.5),
    (0.2, -0.9, 1.2, -0.3),
    (-1.0, 0.4, -0.7, 1.3),
    (0.7, 0.6, -1.1, -0.2),
)


def fixed_numbers(*shape: int, seed: int = 0) -> Tensor:
    """Return pseudo-random numbers in (-1, 1), float64, the same on every machine."""
    count = torch.Size(shape).numel()
    steps = torch.arange(1, count + 1, dtype=torch.float64) + 1000 * seed
    return torch.frac(torch.sin(steps * 12.9898) * 43758.5453).reshape(shape)


def fixed_images(number: int = 3, *, seed: int = 7) -> Tensor:
    """Return images ``[number, 3, 8, 10]``, float32, for tests: the same on every machine.

    Example::

        fixed_images(2).shape  # [2, 3, 8, 10]
    """
    return 2 * fixed_numbers(number, *IMAGE, seed=seed).float()


class TinyNetwork(nn.Module):
    """Convolution, norm, ReLU in place, convolution, ReLU, pooling, linear: images to logits ``[N, 5]``.

    It is in eval mode, with running statistics that are not the initial ones.
    The pooling layer is in train mode, one parameter does not require a gradient
    and one has a ``.grad``, so that changes by a method are detected.

    ``forward(images, second=None, scale=1.0)``: a second batch of images is
    added to the first, and the logits are scaled.

    Example::

        TinyNetwork()(fixed_images(2)).shape  # [2, 5]
    """

    def __init__(self, last: nn.Module | None = None) -> None:
        super().__init__()
        with kept_random_state():  # layers draw their initial weights
            self.first = nn.Conv2d(3, 4, 3, padding=1)
            self.norm = nn.BatchNorm2d(4)
            self.act = nn.ReLU(inplace=True)
            self.second = nn.Conv2d(4, 4, 3, stride=2, padding=1)
            self.second_act = nn.ReLU()
            self.pool = nn.AdaptiveAvgPool2d(1)
            self.head = nn.Linear(4, CLASSES)
        self.last = last or nn.Identity()
        self._fill()
        self.eval()
        self.pool.train()
        self.first.bias.requires_grad_(False)  # type: ignore[union-attr]
        self.head.bias.grad = torch.ones(CLASSES)

    def forward(self, images: Tensor, second: Tensor | None = None, scale: float = 1.0) -> Any:
        """Return the logits, passed through ``last``."""
        x = images if second is None else images + second
        x = self.act(self.norm(self.first(x)))
        x = self.second_act(self.second(x))
        return self.last(scale * self.head(self.pool(x).flatten(1)))

    def _fill(self) -> None:
        """Set weights of about unit gain, with half of each ReLU's inputs positive and logits of both signs."""
        with torch.no_grad():
            for seed, parameter in enumerate(self.parameters(), start=8):
                spread = 1.5 * (3 / parameter[0].numel()) ** 0.5 if parameter.dim() > 1 else 0.3
                parameter.copy_(spread * fixed_numbers(*parameter.shape, seed=seed))
            self.head.weight.copy_(torch.tensor(HEAD))
            self.norm.weight.copy_(torch.tensor([0.5, 1.0, 1.5, 2.0]))
            self.norm.running_mean.copy_(fixed_numbers(4, seed=50))  # type: ignore[union-attr]
            self.norm.running_var.copy_(torch.tensor([0.5, 1.0, 1.5, 2.0]))  # type: ignore[union-attr]


class OneAnswer(nn.Module):
    """Layer from logits to one value per example, ``[N]``: no target is needed."""

    def forward(self, logits: Tensor) -> Tensor:
        """Return the first logit minus the second."""
        return logits[:, 0] - logits[:, 1]


class TwoAxes(nn.Module):
    """Layer from logits ``[N, 5]`` to an output ``[N, 2, 5]``, whose targets are tuples."""

    def forward(self, logits: Tensor) -> Tensor:
        """Return the logits, and twice the logits."""
        return torch.stack([logits, 2 * logits], dim=1)


class Failing(nn.Module):
    """Layer that always raises."""

    def forward(self, x: Tensor) -> Tensor:
        """Raise an error.

        Raises:
            RuntimeError: always.
        """
        raise RuntimeError("this layer always fails")
