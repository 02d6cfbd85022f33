"""PiNet: a network whose prediction is the sum of its detections in readable features."""

from __future__ import annotations

from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import Self

from torch import Tensor, nn

from xai_align._tools.images import check_images
from xai_align.pinet.network import persistence
from xai_align.pinet.network.second_look import SecondLook
from xai_align.pinet.network.second_look_head import SecondLookHead
from xai_align.pinet.network.self_readout import SelfReadout


class PiNet(SelfReadout):
    """Pseudo-linear network: ``logit_k = a_k + s_k * sum(pi_k(x) * z_k)``.

    An encoder and the head's decoder compute from the image a coefficient for
    every readable feature (``pi``); the head takes a second look, at those
    features themselves (``z``), and sums the products. ``pinet(x)`` returns the
    logits; :meth:`explain` returns them with all their terms.

    Args:
        encoder: images ``[N, C, H, W]`` to a list of feature maps ``[N, C_i, h_i, w_i]``, finest first.
        head: a head for feature maps with these numbers of channels.

    Attributes:
        class_names: names of the classes, saved with the model. May be empty.

    Raises:
        ValueError: the encoder's ``channels`` differ from those of the head.

    Source: Lobet & Chiaromonte 2026 (arXiv 2601.04378).

    Example::

        encoder = ConvEncoder(3, width=8)
        pinet = PiNet(encoder, SecondLookHead(encoder.channels, 5)).eval()
        look = pinet.explain(images)
        look.maps.sum((2, 3)) + look.bias  # [2, 5], equals pinet(images)
    """

    encoder: nn.Module
    head: SecondLookHead
    class_names: tuple[str, ...] = ()

    def __init__(self, encoder: nn.Module, head: SecondLookHead) -> None:
        super().__init__()
        channels = getattr(encoder, "channels", None)
        if channels is not None and tuple(channels) != head.channels:
            raise ValueError(
                f"the encoder gives maps of {tuple(channels)} channels, the head is for {head.channels}; "
                "build it with SecondLookHead(encoder.channels, ...)"
            )
        self.encoder = encoder
        self.head = head
        self.readable = f"second look at {head.z}"

    @property
    def num_classes(self) -> int:
        """``K``."""
        return self.head.num_classes

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``[N, K]`` of images ``[N, C, H, W]``."""
        return self._look(x).logits

    def explain(self, x: Tensor) -> SecondLook:
        """Return the logits of images ``[N, C, H, W]`` with all terms of their sum, differentiable.

        Raises:
            TypeError: not a floating-point tensor.
            ValueError: not a batch of images; or, in eval mode, NaN or infinity in it.
        """
        check_images("the inputs", x, finite=not self.training)
        return self._look(x)

    def save_pretrained(self, folder: str | PathLike[str]) -> Path:
        """Write ``config.json`` and ``model.safetensors`` to a folder; an interrupted save leaves the old files intact.

        Returns:
            The folder.
        """
        return persistence.save(self, folder)

    def push_to_hub(self, name: str, *, private: bool = False, token: str | None = None) -> str:
        """Upload what :meth:`save_pretrained` writes to the Hugging Face hub; return the repository's address.

        ``PiNet.from_pretrained(name)`` and the reference ``pinet:NAME`` read it.

        Args:
            name: ``owner/model``; the repository is created if it does not exist.
            private: whether a new repository is.
            token: the hub's access token; None: the one that ``hf auth login`` saved.

        Raises:
            ValueError: the name does not have this form.
            OSError: the hub refuses, or cannot be reached.
        """
        return persistence.push_to_hub(self, name, private=private, token=token)

    @classmethod
    def from_pretrained(
        cls,
        folder_or_hub_name: str | PathLike[str],
        *,
        encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
        trust: bool = False,
    ) -> Self:
        """Return the PiNet that :meth:`save_pretrained` wrote, in eval mode, as an instance of this class.

        Args:
            folder_or_hub_name: a folder, or the name of a model on the Hugging Face hub, ``owner/model``.
            encoder: a module built like the saved encoder, if no plugin can build it; its weights are loaded.
            decoder: a module built like the saved decoder, if that was a custom one.
            trust: whether the folder may name an encoder of another package, whose code then runs; otherwise only
                timm's architectures and this library's are allowed.

        Raises:
            FileNotFoundError: there is no such folder, or it holds no saved PiNet.
            ValueError: config and weights don't belong together, are damaged or of an unknown format, or can't be
                fetched; the message names the remedy.
        """
        return persistence.load(cls, folder_or_hub_name, encoder=encoder, decoder=decoder, trust=trust)

    def trainable_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the parameters to train: the head's, and those of the encoder that are used and require grad."""
        of_encoder = getattr(self.encoder, "trainable_parameters", self.encoder.parameters)
        for parameter in (*of_encoder(), *self.head.parameters()):
            if parameter.requires_grad:
                yield parameter

    def _look(self, x: Tensor) -> SecondLook:
        return self.head(self.encoder(x), x)
