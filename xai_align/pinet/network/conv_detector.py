"""The convolutional encoder and decoder of the paper's ToyShapes experiment, and its baseline network."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal, get_args

from torch import Tensor, nn

#: "plain": two convolutions. "added": the block's input, through a 1x1 convolution, is added to their output.
Residual = Literal["plain", "added"]


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norm, ReLU between and after them, and an optional shortcut.

    A ``"plain"`` block has the shortcut's 1x1 convolution too, as in the paper's
    parameter counts; it is unused there and does not require grad.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, dropout: float = 0.0, residual: Residual = "plain"
    ) -> None:
        super().__init__()
        if residual not in get_args(Residual):
            raise ValueError(f"residual={residual!r}; it is one of {get_args(Residual)}")
        self.residual = residual
        self.body = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 3, padding=1),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
            nn.BatchNorm2d(out_channels),
            nn.Dropout(dropout),
        )
        same = in_channels == out_channels
        self.shortcut = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)
        if residual == "plain":
            self.shortcut.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[N, out_channels, h, w]`` for ``[N, in_channels, h, w]``."""
        y = self.body(x)
        return (y if self.residual == "plain" else y + self.shortcut(x)).relu()


class ConvEncoder(nn.Module):
    """Residual blocks of doubling width, with max pooling between them.

    Args:
        in_channels: channels of the images.
        width: channels of the first block.
        depth: number of blocks; each after the first works at half the resolution of the previous one.
        dropout: the dropout rate of every block.
        residual: whether blocks have a shortcut.

    Example::

        encoder = ConvEncoder(3, width=8, depth=3)
        [tuple(maps.shape) for maps in encoder(images)]  # [(2, 8, 32, 32), (2, 16, 16, 16), (2, 32, 8, 8)]
    """

    reference = "conv"

    def __init__(
        self,
        in_channels: int = 1,
        *,
        width: int = 16,
        depth: int = 3,
        dropout: float = 0.0,
        residual: Residual = "plain",
    ) -> None:
        super().__init__()
        self.options: dict[str, Any] = {
            "in_channels": in_channels,
            "width": width,
            "depth": depth,
            "dropout": dropout,
            "residual": residual,
        }
        #: Channels of the feature maps, finest first.
        self.channels = tuple(width * 2**level for level in range(depth))
        self.blocks = nn.ModuleList(
            ResidualBlock(before, after, dropout=dropout, residual=residual)
            for before, after in zip((in_channels, *self.channels[:-1]), self.channels, strict=True)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the outputs of all blocks, ``[N, channels[i], H / 2^i, W / 2^i]``."""
        features: list[Tensor] = []
        for block in self.blocks:
            x = block(nn.functional.max_pool2d(x, 2) if features else x)
            features.append(x)
        return features


class ConvDecoder(nn.Module):
    """Mirror image of :class:`ConvEncoder`, applied to its deepest map alone so that every coefficient stays local.

    Args:
        channels: channels of the encoder's feature maps, finest first.
        maps: the number of coefficient maps.
        dropout: the dropout rate of every block.
        residual: whether blocks have a shortcut.

    Example::

        encoder = ConvEncoder(3, width=8)
        decoder = ConvDecoder(encoder.channels, maps=5)
        decoder(encoder(images), (32, 32))  # [2, 5, 32, 32]
    """

    def __init__(
        self, channels: Sequence[int], maps: int, *, dropout: float = 0.0, residual: Residual = "plain"
    ) -> None:
        super().__init__()
        downwards = list(reversed(channels))
        self.levels = nn.ModuleList(
            nn.Sequential(
                nn.ConvTranspose2d(deeper, finer, 2, stride=2),
                ResidualBlock(finer, finer, dropout=dropout, residual=residual),
            )
            for deeper, finer in pairwise(downwards)
        )
        self.last = nn.Conv2d(channels[0], maps, 1)

    def forward(self, features: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Return raw maps ``[N, maps, h, w]``, as fine as the encoder's finest map where that divides evenly."""
        x = features[-1]
        for level in self.levels:
            x = level(x)
        return self.last(x)


class ConvClassifier(nn.Module):
    """Baseline network of the paper: :class:`ConvEncoder`, the mean over positions, and a linear layer.

    Args:
        num_classes: ``K``; 1 for a binary task.
        in_channels: channels of the images.
        width: channels of the first block.
        depth: number of blocks.
        dropout: the dropout rate of every block.
        residual: whether blocks have a shortcut.

    Example::

        classifier = ConvClassifier(5, in_channels=3, width=8).eval()
        classifier(images)  # [2, 5]
    """

    def __init__(
        self,
        num_classes: int = 1,
        *,
        in_channels: int = 1,
        width: int = 32,
        depth: int = 3,
        dropout: float = 0.1,
        residual: Residual = "added",
    ) -> None:
        super().__init__()
        self.encoder = ConvEncoder(in_channels, width=width, depth=depth, dropout=dropout, residual=residual)
        self.classifier = nn.Linear(self.encoder.channels[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``[N, K]`` of images ``[N, C, H, W]``."""
        return self.classifier(self.encoder(x)[-1].mean((2, 3)))
