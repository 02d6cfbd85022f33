"""EPIC as an attribution method with Captum's call: contributions by mixed channel."""

from __future__ import annotations

import os
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn

from xai_align._tools.batches import batches_of
from xai_align._tools.checks import check_integer
from xai_align._tools.single_tensor import only_one
from xai_align._tools.thread_state import restores_thread_state
from xai_align.prototypes.mixed_network import MixedNetwork
from xai_align.prototypes.prototype_file import load_prototypes
from xai_align.prototypes.record import Prototype, Prototypes
from xai_align.prototypes.shares import ChannelShares, channel_shares
from xai_align.question import as_questions, captum_target


class EPICMethod:
    """Contributions of mixed channels, each with parts of images that illustrate it.

    Args:
        forward_func: the network, in eval mode, that the prototypes were fitted to.
        prototypes: fitted prototypes, or the path of a saved file.
        internal_batch_size: images at a time; it bounds the memory. None: all at once.

    Raises:
        FileNotFoundError, ValueError: the file can't be used.
        TypeError: these are no prototypes.

    Source: EPIC, Borycki et al. (AAAI 2026, arXiv 2505.12897); shares in units of the answer are ours.

    Example::

        found = fit_prototypes(model, list(images), "conv2", prototypes=2)
        epic = EPICMethod(model, found)
        epic.attribute(images, target=281)  # [2, 8, 16, 16], sums to the logit without its bias
        channels, scores = epic.channels(images, target=281, count=3)
        epic.prototypes.of(int(channels[0, 0]))  # the parts that illustrate the first channel
    """

    def __init__(
        self,
        forward_func: nn.Module,
        prototypes: Prototypes | str | os.PathLike[str],
        *,
        internal_batch_size: int | None = None,
    ) -> None:
        self.forward_func = forward_func
        if not isinstance(prototypes, Prototypes | str | os.PathLike):
            raise TypeError(
                "prototypes are what fit_prototypes returns, or the path of a saved file; got "
                f"{type(prototypes).__name__}"
            )
        self.prototypes = prototypes if isinstance(prototypes, Prototypes) else load_prototypes(prototypes)
        self.internal_batch_size = internal_batch_size
        if internal_batch_size is not None:
            check_integer("internal_batch_size", internal_batch_size)

    @restores_thread_state
    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Any = None,
        additional_forward_args: Any = None,
        *,
        top_k: int | None = None,
        positive_only: bool = False,
        internal_batch_size: int | None = None,
        return_convergence_delta: bool = False,
    ) -> Any:
        """Return contributions ``[N, D, h, w]`` of mixed channels at the layer's positions.

        Args:
            inputs: images ``[N, C, H, W]`` in the size of the fit, or a tuple of one such tensor.
            target: a target as in Captum's methods, or a :class:`~xai_align.Question`.
            additional_forward_args: not supported.
            top_k: keep the channels with the largest scores, and set others to 0. None: all, and then contributions,
                bias, prefix and evidence around the layer sum to the answer.
            positive_only: scores as published, 0 for channels whose sum over the map is negative; see
                :meth:`ChannelShares.scores <xai_align.prototypes.ChannelShares.scores>`.
            internal_batch_size: images at a time; None: the number of the constructor.
            return_convergence_delta: also return the completeness error ``[N]`` of all channels.

        Raises:
            TargetError: (an AssertionError) the target does not fit the output.
            ValueError: the prototypes are of another network, layer or size, or the inputs are not suitable.
        """
        shares = self._shares(inputs, target, additional_forward_args, internal_batch_size)
        contributions = shares.contributions
        if positive_only:
            contributions = contributions * (shares.maps.sum((2, 3)) > 0)[:, :, None, None]
        if top_k is not None:
            kept = torch.zeros_like(shares.shares, dtype=torch.bool)
            kept.scatter_(1, shares.strongest(top_k, positive_only=positive_only), True)
            contributions = contributions * kept[:, :, None, None]
        return (contributions, shares.completeness_error) if return_convergence_delta else contributions

    @restores_thread_state
    def shares(
        self, inputs: Tensor | tuple[Tensor, ...], target: Any = None, additional_forward_args: Any = None
    ) -> ChannelShares:
        """Return :func:`~xai_align.prototypes.channel_shares` of all images."""
        return self._shares(inputs, target, additional_forward_args)

    def _shares(
        self, inputs: Tensor | tuple[Tensor, ...], target: Any, additional_forward_args: Any, size: int | None = None
    ) -> ChannelShares:
        images = only_one("inputs", inputs)
        if additional_forward_args is not None:
            raise ValueError("EPIC takes images alone; give a module that passes the further arguments itself")
        size = self.internal_batch_size if size is None else check_integer("internal_batch_size", size)
        if not isinstance(images, Tensor) or size is None or len(images) <= size:
            return channel_shares(self.forward_func, images, target, self.prototypes)
        target = captum_target(target)
        if target is not None:
            as_questions(target, len(images))  # raises if there are more or fewer targets than images
        parts = [
            channel_shares(self.forward_func, batch.inputs[0], batch.target, self.prototypes)
            for batch in batches_of((images,), target, None, size)
        ]
        tensors = [one.name for one in fields(ChannelShares) if one.name != "kind"]
        joined = {name: torch.cat([getattr(part, name) for part in parts]) for name in tensors}
        return ChannelShares(**joined, kind=parts[0].kind)

    def channels(
        self, inputs: Tensor, target: Any = None, count: int = 4, *, positive_only: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Return the channels with the largest scores and the scores, ``[N, count]``; all if there are fewer."""
        shares = self.shares(inputs, target)
        found = shares.strongest(count, positive_only=positive_only)
        return found, shares.scores(positive_only=positive_only).gather(1, found)

    def parts(self, channel: int, sign: int = 1) -> list[Prototype]:
        """Return the prototypes of a channel: :meth:`Prototypes.of <xai_align.prototypes.Prototypes.of>`."""
        return self.prototypes.of(channel, sign)

    def mixed_network(self, images: Tensor) -> MixedNetwork:
        """Return the network with mixed channels and the same logits, for other methods."""
        return MixedNetwork(self.forward_func, self.prototypes, images)
