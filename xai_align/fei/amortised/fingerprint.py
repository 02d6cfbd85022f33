"""Fingerprint of an explained network: what must match before an amortised explainer is used.

A map of another network would look as plausible as one of its own. So a fitted explainer stores the digests of its
network's parameters and buffers, the size and channels of its images, their normalisation, the layers that it reads,
and the answer to one fixed noise image, which depends on the code of the forward pass too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from xai_align._tools.counted import counted
from xai_align._tools.drawn import noise_like
from xai_align._tools.logits import select_logits
from xai_align._tools.replica import Replica
from xai_align._tools.thread_state import restores_thread_state
from xai_align.fei.amortised.explained_network import ExplainedNetwork
from xai_align.fei.solid_colours import Normalization, mean_and_std
from xai_align.training.digest import digest_of
from xai_align.training.fit_state import weights_of

#: Largest difference of the answers to the fixed image that is taken for rounding, in the largest answer.
ROUNDING = 1e-2


class OtherNetwork(ValueError):
    """Error of an amortised explainer that is used with another network or other images than it was fitted to.

    Example::

        fitted = fit_fei(model, torch.rand(4, 3, 32, 32), epochs=1, batch_size=2)
        try:
            AmortisedFEI(model, fitted).attribute(torch.rand(1, 3, 64, 64), target=281)
        except OtherNetwork as error:
            print(error)  # names what differs: the images' size
    """


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """Identification of an explained network and its images, as plain values.

    Attributes:
        network: the name of its class.
        structure: digest of names, dtypes and shapes of its parameters and buffers.
        parameters: digest of their values.
        channels: channels of the images.
        size: rows and columns of the images.
        normalization: mean and standard deviation of the images, per channel; None: not stated.
        layers: the layers that are read, the finest first.
        start: the layer of the readout.
        answer: logits for the fixed image, flattened.
    """

    network: str
    structure: str
    parameters: str
    channels: int
    size: tuple[int, int]
    normalization: tuple[tuple[float, ...], tuple[float, ...]] | None
    layers: tuple[str, ...]
    start: str
    answer: tuple[float, ...]

    @classmethod
    def of(cls, model: nn.Module, explained: ExplainedNetwork, image: Tensor, normalization: Any) -> Fingerprint:
        """Take the fingerprint of a network.

        Args:
            model: the network.
            explained: the same, as it is read.
            image: ``[1, C, H, W]``, used only for shape, dtype and device.
            normalization: ``(mean, std)`` of the images, or None.
        """
        weights = weights_of(model)
        return cls(
            network=type(model).__qualname__,
            structure=_structure(weights),
            parameters=digest_of(weights),
            channels=image.shape[1],
            size=explained.size,
            normalization=plain_normalization(normalization, image.shape[1]),
            layers=explained.names,
            start=explained.start_name,
            answer=_answer(model, image),
        )

    def values(self) -> dict[str, Any]:
        """Return the fields in JSON types."""
        found = asdict(self)
        mean_and_std = found["normalization"]
        return {
            **found,
            "size": list(self.size),
            "layers": list(self.layers),
            "answer": list(self.answer),
            "normalization": None if mean_and_std is None else [list(one) for one in mean_and_std],
        }

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Fingerprint:
        """Return the fingerprint of :meth:`values`."""
        found = dict(values)
        scale = found["normalization"]
        return cls(
            **found
            | {
                "size": tuple(found["size"]),
                "layers": tuple(found["layers"]),
                "answer": tuple(found["answer"]),
                "normalization": None if scale is None else (tuple(scale[0]), tuple(scale[1])),
            }
        )

    def check_images(self, images: Tensor) -> None:
        """Raise if images are of another size or number of channels.

        Raises:
            OtherNetwork: they are.
        """
        rows, columns = self.size
        if images.shape[1] != self.channels:
            raise OtherNetwork(
                f"this explainer was fitted to images of {counted(self.channels, 'channel')} and got "
                f"{list(images.shape)}; give such images, or fit one to these"
            )
        if tuple(images.shape[2:]) != self.size:
            raise OtherNetwork(
                f"this explainer was fitted to images of {rows} x {columns} pixels and got "
                f"{images.shape[2]} x {images.shape[3]}; resize them, or fit one to this size"
            )

    def check_normalization(self, normalization: Any) -> None:
        """Raise if the images' normalisation is known to be another.

        Raises:
            OtherNetwork: both are known, and differ.
        """
        given = plain_normalization(normalization, self.channels)
        if given is None or self.normalization is None:
            return
        pairs = [
            (a, b)
            for one, other in zip(given, self.normalization, strict=True)
            for a, b in zip(one, other, strict=True)
        ]
        if any(abs(a - b) > 1e-4 for a, b in pairs):
            raise OtherNetwork(
                f"this explainer was fitted to images of mean and standard deviation {_shown(self.normalization)}, and "
                f"these have {_shown(given)}; normalise them in that way, or fit another explainer"
            )

    def check_model(self, model: nn.Module) -> None:
        """Raise if a network has other parameters, or another answer for the fixed image.

        Raises:
            OtherNetwork: it has; the message says which.
        """
        weights = weights_of(model)
        remedy = "an explainer is valid for its own network alone: give that one, or fit another explainer"
        if _structure(weights) != self.structure:
            raise OtherNetwork(
                f"this explainer was fitted to a {self.network} whose parameters have other names, shapes or dtypes "
                f"than those of this {type(model).__qualname__}; {remedy}"
            )
        if digest_of(weights) != self.parameters:
            raise OtherNetwork(
                f"this explainer was fitted to a {self.network} of the same architecture with other values of its "
                f"parameters; {remedy}"
            )
        device = next((one.device for one in weights.values()), "cpu")
        image = torch.zeros(1, self.channels, *self.size, device=device, dtype=_floating(weights))
        wanted, found = (
            torch.tensor(answer, dtype=torch.float64, device="cpu") for answer in (self.answer, _answer(model, image))
        )
        if wanted.shape != found.shape or float((wanted - found).abs().max()) > ROUNDING * float(wanted.abs().max()):
            raise OtherNetwork(
                f"this explainer was fitted to a {self.network} with the same parameters and another answer for a "
                f"fixed image: the code of its forward pass differs; {remedy}"
            )

    def check_layers(self, explained: ExplainedNetwork) -> None:
        """Raise if other layers are found in the network.

        Raises:
            OtherNetwork: they are.
        """
        for what, wanted, found in (
            ("layers", self.layers, explained.names),
            ("readout's layer", self.start, explained.start_name),
        ):
            if wanted != found:
                raise OtherNetwork(
                    f"this explainer was fitted with the {what} {wanted}, and here they are {found}; the plugin that "
                    "names them is missing or a different one: install it, or fit another explainer"
                )


def plain_normalization(normalization: Normalization | None, channels: int) -> Any:
    """Return ``(mean, std)`` as two tuples with a number for each channel; None stays None.

    Raises:
        ValueError: it is not a mean and a standard deviation for each channel.
    """
    if normalization is None:
        return None
    return tuple(tuple(round(value, 8) for value in one.tolist()) for one in mean_and_std(normalization, channels))


@restores_thread_state
def _answer(model: nn.Module, image: Tensor) -> tuple[float, ...]:
    """Return the logits for a fixed noise image of this shape."""
    noise = noise_like(image)
    with torch.no_grad():
        logits = select_logits(Replica(model).module(noise))
    return tuple(logits.flatten().double().tolist())


def _structure(weights: Mapping[str, Tensor]) -> str:
    return digest_of({}, str(sorted((name, str(one.dtype), list(one.shape)) for name, one in weights.items())))


def _floating(weights: Mapping[str, Tensor]) -> torch.dtype:
    return next((one.dtype for one in weights.values() if one.is_floating_point()), torch.float32)


def _shown(scale: tuple[tuple[float, ...], tuple[float, ...]]) -> str:
    return " and ".join(f"({', '.join(f'{value:.4g}' for value in one)})" for one in scale)
