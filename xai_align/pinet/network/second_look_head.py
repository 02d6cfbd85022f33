"""Head of a PiNet: coefficient maps from a decoder, a second look at readable features, and their sum."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from xai_align._tools.counted import counted
from xai_align._tools.full_precision import full_precision
from xai_align._tools.options import with_changes
from xai_align.pinet.network.aggregator import Aggregator
from xai_align.pinet.network.coefficient_decoder import FeaturePyramid, PooledDecoder, resized
from xai_align.pinet.network.conv_detector import ConvDecoder
from xai_align.pinet.network.head_options import HeadOptions, Size
from xai_align.pinet.network.initialisation import Activation, Start, chosen_start, start_layer
from xai_align.pinet.network.readable_features import ReadableKind, readable_features
from xai_align.pinet.network.second_look import SecondLook

#: "hard": the sum of ``pi * z``. "soft": the sum of ``pi`` alone.
Look = Literal["hard", "soft"]
#: Sharing of coefficients: one per class and position, per position, or per class, channel and position.
Sharing = Literal["per_class", "per_position", "per_channel"]
DecoderName = Literal["fpn", "conv", "pooled"]

_ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "identity": lambda raw: raw,
    "softmax": lambda raw: raw.softmax(1),  # over the classes
}
#: Default sharing for each ``z``; "per_class" for all others.
_USUAL_SHARING: dict[str, Sharing] = {
    "pixels_and_inverse": "per_channel",
    "features": "per_channel",
    "evidence": "per_position",
}


class SecondLookHead(nn.Module):
    """Head ``logit_k = a_k + s_k * sum(pi_k(x) * z_k)`` on the feature maps of any encoder.

    Args:
        channels: channels of the encoder's feature maps, finest first.
        num_classes: ``K``; 1 for a binary task with one logit.
        decoder: ``"fpn"`` (light, takes maps of all depths), ``"conv"`` (the paper's, from the deepest map of a
            :class:`~xai_align.pinet.ConvEncoder`), ``"pooled"`` (the paper's "naive" control, whose maps cannot
            localise), or a module ``(features, size) -> raw maps [N, maps, h, w]``.
        activation: ``"sigmoid"`` and ``"softmax"`` (over classes) give evidence for a class only; ``"tanh"`` and
            ``"identity"`` also against it, and are used with the parsimony penalty.
        second_look: ``"hard"``: the sum of ``pi * z``. ``"soft"``: the sum of ``pi``; ``z`` is ones (areas, if
            ``scale="one"``).
        z: ``"ones"``; ``"area"`` of a cell in pixels; un-normalised ``"pixels"``; ``"pixels_and_inverse"``, ``[x, 1 -
            x]``; ``"patch_means"`` of pixels; ``"features"``, a few learned ones; ``"evidence"``, class evidence on the
            deepest map, with which a retrofit starts as the given classifier.
        coefficients: the sharing of coefficients; None: the default for ``z``.
        classifier: for ``z="evidence"``: gives the initial weights of ``z`` and the initial ``a``.
        options: options that are rarely changed.
        **changed: single fields of the options, e.g. ``size=28``.

    Raises:
        ValueError: the choices are incompatible; the message names the reason.

    Source: Lobet & Chiaromonte 2026 (arXiv 2601.04378); several classes and ``z`` beyond pixels and ones are ours.

    Example::

        encoder = ConvEncoder(3, width=8)
        head = SecondLookHead(encoder.channels, 5)
        head(encoder(images), images).logits  # [2, 5]
        # areas in pixels, by regression
        areas = SecondLookHead(
            encoder.channels, 3, activation="softmax", second_look="soft", scale="one", bias="zero"
        )
    """

    #: Names of all keyword arguments, those of the options included.
    option_names = (
        *("decoder", "activation", "second_look", "z", "coefficients", "classifier"),
        *(field.name for field in fields(HeadOptions)),
    )

    def __init__(
        self,
        channels: Sequence[int],
        num_classes: int,
        *,
        decoder: DecoderName | nn.Module = "fpn",
        activation: Activation = "sigmoid",
        second_look: Look = "hard",
        z: ReadableKind = "ones",
        coefficients: Sharing | None = None,
        classifier: nn.Linear | None = None,
        options: HeadOptions | None = None,
        **changed: Any,
    ) -> None:
        super().__init__()
        more = with_changes(options, HeadOptions, changed, "SecondLookHead", self.option_names)
        start, size = more.start or Start(), more.size
        if second_look == "soft":
            z = "area" if more.scale == "one" else "ones"
        sharing = coefficients or _USUAL_SHARING.get(z, "per_class")
        _check_choices(activation, second_look, z, sharing, more.scale, num_classes)
        #: Plain values that rebuild this head, without a custom decoder or a classifier.
        self.options: dict[str, Any] = {
            "num_classes": num_classes,
            "decoder": decoder if isinstance(decoder, str) else "custom",
            "activation": activation,
            "second_look": second_look,
            "z": z,
            "coefficients": sharing,
            **asdict(more),
            "start": asdict(start),
            "decoder_options": dict(more.decoder_options),
            "size": list(size) if isinstance(size, tuple) else size,
            "mean": [float(value) for value in more.mean],
            "std": [float(value) for value in more.std],
        }
        self.channels, self.num_classes, self.activation, self.z = tuple(channels), num_classes, activation, z
        self.sharing: Sharing = sharing
        self.size: Size = size
        self.readable = readable_features(
            z,
            image_channels=more.image_channels,
            mean=more.mean,
            std=more.std,
            in_channels=self.channels[-1],
            z_channels=more.z_channels,
            num_classes=num_classes,
            classifier=classifier,
        )
        #: Shape of ``pi``: classes (or 1), channels (or 1).
        self.coefficient_shape = (
            1 if sharing == "per_position" else num_classes,
            self.readable.channels if sharing == "per_channel" else 1,
        )
        maps = self.coefficient_shape[0] * self.coefficient_shape[1]
        self.decoder = _decoder(decoder, self.channels, maps, more)
        chosen = chosen_start(
            start,
            activation,
            classes=num_classes,
            typical=self.readable.typical,
            from_classifier=z == "evidence",
        )
        last = getattr(self.decoder, "last", None)
        if isinstance(last, nn.Module):
            start_layer(last, chosen)
        from_classifier = z == "evidence" and classifier is not None and classifier.bias is not None
        initial_bias: float | Tensor = chosen.bias
        if from_classifier and start.bias is None:
            assert classifier is not None
            initial_bias = classifier.bias.detach()
        self.aggregator = Aggregator(
            num_classes, scale=more.scale, bias=more.bias, unit=chosen.unit, initial_bias=initial_bias
        )

    def forward(self, features: Sequence[Tensor], images: Tensor) -> SecondLook:
        """Return the second look at images ``[N, C, H, W]``, given their feature maps, finest first.

        The decoder runs in the caller's precision (also under autocast); coefficients and sum are float32, or
        float64 for float64 features.
        """
        size = self.map_size(features, images)
        raw = self._checked(self.decoder(features, size), images.shape[0])
        with full_precision(raw):
            precise = torch.promote_types(raw.dtype, torch.float32)
            maps = resized(raw.to(precise), size).unflatten(1, self.coefficient_shape)
            seen = self.readable(images.to(precise), features, size)
            return self.aggregator(_ACTIVATIONS[self.activation](maps), seen)

    def map_size(self, features: Sequence[Tensor], images: Tensor) -> tuple[int, int]:
        """Return rows and columns of the coefficient maps for these inputs."""
        if self.size == "input" or (self.size is None and self.z in ("pixels", "pixels_and_inverse")):
            return (images.shape[-2], images.shape[-1])
        if self.size is None:
            return (features[0].shape[-2], features[0].shape[-1])
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    def _checked(self, raw: Tensor, examples: int) -> Tensor:
        maps = self.coefficient_shape[0] * self.coefficient_shape[1]
        if raw.dim() != 4 or raw.shape[:2] != (examples, maps):
            raise ValueError(
                f"the decoder gave {list(raw.shape)} for {counted(examples, 'image')}; this head needs raw maps "
                f"[{examples}, {maps}, h, w], as {counted(self.coefficient_shape[0], 'class')} x "
                f"{counted(self.coefficient_shape[1], 'channel')} have coefficients of their own"
            )
        return raw


def _decoder(decoder: DecoderName | nn.Module, channels: tuple[int, ...], maps: int, options: HeadOptions) -> nn.Module:
    more, size = options.decoder_options, options.size
    if isinstance(decoder, nn.Module):
        return decoder
    if decoder == "fpn":
        return FeaturePyramid(channels, maps, **{"width": options.width, **more})
    if decoder == "conv":
        return ConvDecoder(channels, maps, **more)
    if decoder != "pooled":
        raise ValueError(f"decoder={decoder!r}; it is one of {get_args(DecoderName)}, or a module")
    if size is None or size == "input":
        raise ValueError('decoder="pooled" makes maps of one size only; give size=(rows, columns)')
    return PooledDecoder(channels, maps, (size, size) if isinstance(size, int) else size, **more)


def _check_choices(activation: str, second_look: str, z: str, sharing: str, scale: str, num_classes: int) -> None:
    for name, value, known in (
        ("activation", activation, get_args(Activation)),
        ("second_look", second_look, get_args(Look)),
        ("z", z, get_args(ReadableKind)),
        ("coefficients", sharing, get_args(Sharing)),
    ):
        if value not in known:
            raise ValueError(f"{name}={value!r}; it is one of {', '.join(map(repr, known))}")
    if num_classes < 1:
        raise ValueError(f"num_classes is {num_classes}; give 1 for a yes or no, K for K classes")
    if z == "pixels_and_inverse" and sharing != "per_channel":
        raise ValueError(
            f'z="pixels_and_inverse" with coefficients="{sharing}": x and 1 - x add up to 1, so a coefficient that '
            'they share would not depend on the pixels; use coefficients="per_channel"'
        )
    if z == "area" and scale != "one":
        raise ValueError(f'z="area" is in pixels, and scale="{scale}" takes a mean; use scale="one", or z="ones"')
    if sharing == "per_position" and z != "evidence" and num_classes > 1:
        raise ValueError(
            f'coefficients="per_position" with z="{z}": coefficients and z would be the same for all '
            f'{num_classes} classes, and so would the logits; use "per_class"'
        )
    if activation == "softmax" and (num_classes == 1 or sharing == "per_position"):
        raise ValueError(
            'activation="softmax" shares every position out among the classes: it needs two classes or more, '
            'and coefficients="per_class" or "per_channel"'
        )
