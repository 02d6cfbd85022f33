"""Errors of PyTorch for images that a network does not take, with what was found and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from xai_align._tools.counted import counted
from xai_align._tools.files.plain_json import in_one_clause
from xai_align._tools.thread_state import hides_interrupt


@contextmanager
def refused_images(network: nn.Module, images: Tensor, name: str = "the images") -> Iterator[None]:
    """Replace an error of the network's first pass on ``images [N, C, H, W]`` inside the block.

    Other errors, and those that already say what to do, such as a ``ValueError``, are not changed.

    Args:
        network: the network; its first convolution gives the number of channels.
        images: its input.
        name: what the images are, for the message.

    Raises:
        ValueError: the network raised a ``RuntimeError`` or failed an assertion.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (AssertionError, RuntimeError) as error:
        if hides_interrupt(error):
            raise
        raise ValueError(
            f"{name} are {list(images.shape)}, and {type(network).__name__} does not run on them "
            f"({in_one_clause(error, length=300)}); {_advice(network, images)}"
        ) from error


def _advice(network: nn.Module, images: Tensor) -> str:
    first = next(
        ((name, one) for name, one in network.named_modules() if isinstance(one, nn.Conv2d) and one.in_channels), None
    )
    if first is not None and images.dim() == 4 and images.shape[1] != first[1].in_channels:
        name, wanted = first[0], first[1].in_channels
        if images.shape[3] == wanted:
            return f"they have {counted(wanted, 'channel')} as the last dimension: give images.permute(0, 3, 1, 2)"
        return (
            f"its first convolution '{name}' takes {counted(wanted, 'channel')}, and they have {images.shape[1]}: give "
            "such images, or a network for these"
        )
    return "give images [N, C, H, W] with the number of channels and the size that it takes"
