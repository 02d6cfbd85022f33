"""An encoder that stays as it is while a head is trained on it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self

import torch
from torch import Tensor, nn

from xai_align._tools.model_state import check_evaluation_mode, frozen_parameters


class FrozenEncoder(nn.Module):
    """Runs an encoder in eval mode, also while the rest is trained, and gives no gradients to its parameters.

    Images that require grad get theirs: a loss on a second pass, or a gradient-based explanation, goes through.

    Args:
        encoder: in eval mode; used as it is, not copied, and its ``requires_grad`` is left alone.

    Raises:
        ValueError: the encoder is in train mode.

    Example::

        encoder = FrozenEncoder(ConvEncoder(3, width=8).eval())
        pinet = PiNet(encoder, SecondLookHead((8, 16, 32), 5))
        sum(p.numel() for p in pinet.trainable_parameters())  # the head's alone
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        check_evaluation_mode(encoder)
        self.inner = encoder
        self.channels: tuple[int, ...] | None = getattr(encoder, "channels", None)

    @property
    def reference(self) -> str | None:
        """How a plugin knows the encoder inside."""
        return getattr(self.inner, "reference", None)

    @property
    def options(self) -> dict[str, Any]:
        """What builds this encoder again."""
        return {**getattr(self.inner, "options", {}), "frozen": True}

    @property
    def preprocessing(self) -> Any:
        """How the encoder inside wants its images."""
        return getattr(self.inner, "preprocessing", None)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Feature maps, finest first."""
        if not (x.requires_grad and torch.is_grad_enabled()):
            with torch.no_grad():
                return self.inner(x)
        with frozen_parameters(self.inner):
            return self.inner(x)

    def train(self, mode: bool = True) -> Self:
        """Marks this module, and leaves the encoder inside as it is."""
        self.training = mode
        return self

    def trainable_parameters(self) -> Iterator[nn.Parameter]:
        """None."""
        return iter(())


def frozen_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers inside a :class:`FrozenEncoder`, by name: they stay, whatever happens."""
    prefixes = tuple(f"{name}." for name, module in model.named_modules() if isinstance(module, FrozenEncoder))
    both = (*model.named_parameters(), *model.named_buffers())
    return {name: tensor for name, tensor in both if name.startswith(prefixes)}
