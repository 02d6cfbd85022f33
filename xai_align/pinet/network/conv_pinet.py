"""PiNet of the paper's ToyShapes experiment."""

from __future__ import annotations

from typing import Any, Literal

from xai_align.pinet.network.conv_detector import ConvEncoder, Residual
from xai_align.pinet.network.head_options import Size
from xai_align.pinet.network.module import PiNet
from xai_align.pinet.network.second_look_head import SecondLookHead


def conv_pinet(
    num_classes: int = 1,
    *,
    in_channels: int = 1,
    width: int = 16,
    depth: int = 3,
    dropout: float = 0.0,
    residual: Residual = "plain",
    decoder: Literal["conv", "fpn", "pooled"] = "conv",
    size: Size = None,
    **head: Any,
) -> PiNet:
    """Return a small convolutional PiNet to be trained from scratch, by default with pixels as readable features.

    Args:
        num_classes: ``K``; 1 for a binary task with one logit.
        in_channels: channels of the images.
        width: channels of the encoder's first block.
        depth: number of blocks of the encoder; the last works at ``1 / 2^(depth - 1)`` of the resolution.
        dropout: the dropout rate of every block of encoder and decoder.
        residual: whether the blocks have a shortcut.
        decoder: see :class:`~xai_align.pinet.SecondLookHead`; ``"pooled"`` needs a size.
        size: the size of the coefficient maps; None: the images'.
        **head: further arguments of :class:`~xai_align.pinet.SecondLookHead`.

    Source: Lobet & Chiaromonte 2026 (arXiv 2601.04378), the architecture of section "ToyShapes".

    Example::

        pinet = conv_pinet(5, in_channels=3, width=8)
        pinet(images)  # [2, 5]
    """
    encoder = ConvEncoder(in_channels, width=width, depth=depth, dropout=dropout, residual=residual)
    blocks = {"dropout": dropout, "residual": residual} if decoder == "conv" else {}
    options = {"z": "pixels", "decoder_options": blocks, **head}
    made = SecondLookHead(
        encoder.channels, num_classes, decoder=decoder, size=size, image_channels=in_channels, **options
    )
    return PiNet(encoder, made)
