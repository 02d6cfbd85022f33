"""The PiNet of the paper's ToyShapes experiment, in one line."""

from __future__ import annotations

from typing import Any, Literal

from xai_align.pinet.network.conv_detector import ConvEncoder, Residual
from xai_align.pinet.network.module import PiNet
from xai_align.pinet.network.second_look_head import SecondLookHead, Size


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
    """A small convolutional PiNet that is trained from the start; its default looks twice at the pixels.

    Args:
        num_classes: ``K``; 1 for a yes or no with one logit.
        in_channels: of the images.
        width: channels of the encoder's first block.
        depth: number of blocks of the encoder; the last works at ``1 / 2^(depth - 1)`` of the resolution.
        dropout: in every block of encoder and decoder.
        residual: whether the blocks have a shortcut.
        decoder: as in :class:`~xai_align.pinet.SecondLookHead`; ``"pooled"`` needs a size.
        size: of the coefficient maps; None: the images'.
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
