"""Encoder that is kept fixed while a head is trained on it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self

import torch
from torch import Tensor, nn

from xai_align._tools.model_state import check_evaluation_mode, frozen_parameters


class FrozenEncoder(nn.Module):
    """Encoder kept in eval mode while the rest is trained, without gradients for its parameters.

    Images that require grad still get gradients, as needed by a loss on a second pass or a gradient-based explanation.

    Args:
        encoder: the encoder, in eval mode; it is not copied, and its ``requires_grad`` flags are not changed.

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
        """The wrapped encoder's reference, by which a plugin rebuilds it."""
        return getattr(self.inner, "reference", None)

    @property
    def options(self) -> dict[str, Any]:
        """Options that rebuild this encoder."""
        return {**getattr(self.inner, "options", {}), "frozen": True}

    @property
    def preprocessing(self) -> Any:
        """The wrapped encoder's preprocessing."""
        return getattr(self.inner, "preprocessing", None)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return feature maps, finest first."""
        if not (x.requires_grad and torch.is_grad_enabled()):
            with torch.no_grad():
                return self.inner(x)
        with frozen_parameters(self.inner):
            return self.inner(x)

    def train(self, mode: bool = True) -> Self:
        """Set the mode of this module, leaving the wrapped encoder in eval mode."""
        self.training = mode
        return self

    def trainable_parameters(self) -> Iterator[nn.Parameter]:
        """Yield nothing."""
        return iter(())


def frozen_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and buffers inside each :class:`FrozenEncoder`, by name; training never changes them."""
    prefixes = tuple(f"{name}." for name, module in model.named_modules() if isinstance(module, FrozenEncoder))
    both = (*model.named_parameters(), *model.named_buffers())
    return {name: tensor for name, tensor in both if name.startswith(prefixes)}
