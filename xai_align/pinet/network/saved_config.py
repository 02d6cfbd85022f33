"""Schema of a saved PiNet's ``config.json``: every name, with the types and ranges of its values."""

from __future__ import annotations

from typing import get_args

from xai_align._tools.files.fields import (
    anything,
    either,
    flag,
    listed,
    nothing,
    number,
    one_of,
    record,
    table_of,
    text,
    whole,
)
from xai_align.pinet.network.aggregator import Bias, Scale
from xai_align.pinet.network.conv_detector import Residual
from xai_align.pinet.network.initialisation import Activation
from xai_align.pinet.network.readable_features import ReadableKind
from xai_align.pinet.network.second_look_head import DecoderName, Look, Sharing

#: Version of the folder's layout; unknown versions are rejected.
FORMAT = 1

_CHANNELS = whole(1, 65536)
_SIDE = whole(1, 4096)
_SHARE = number(0, 1)

#: Options of this library's decoders.
_DECODER_OPTIONS = record({}, {"width": _CHANNELS, "dropout": _SHARE, "residual": one_of(*get_args(Residual))})
_OPEN_NUMBER = either(nothing, number())
_HEAD = record(
    {
        "num_classes": whole(1, 1_000_000),
        "decoder": one_of(*get_args(DecoderName), "custom"),
        "width": _CHANNELS,
        "decoder_options": _DECODER_OPTIONS,
        "activation": one_of(*get_args(Activation)),
        "second_look": one_of(*get_args(Look)),
        "z": one_of(*get_args(ReadableKind)),
        "coefficients": one_of(*get_args(Sharing)),
        "size": either(nothing, _SIDE, listed(_SIDE, 2, 2), one_of("input")),
        "scale": one_of(*get_args(Scale)),
        "bias": one_of(*get_args(Bias)),
        "image_channels": _CHANNELS,
        "mean": listed(number(), 1, 65536),
        "std": listed(number(1e-30), 1, 65536),
        "z_channels": _CHANNELS,
        "start": record(dict.fromkeys(("coefficient", "evidence", "bias", "contrast"), _OPEN_NUMBER)),
    }
)


def _options(value: object, name: str) -> str | None:
    """Check an encoder's options: whether it is frozen; the plugin that builds it checks the rest."""
    if not isinstance(value, dict):
        return table_of(anything)(value, name)
    return flag()(value["frozen"], f"{name}.frozen") if "frozen" in value else None


CONFIG = record(
    {
        "format": one_of(FORMAT),
        "model": one_of("PiNet"),
        "version": text(longest=100),
        "encoder": record({"reference": either(nothing, text()), "options": _options}),
        "channels": listed(_CHANNELS, 1, 64),
        "head": _HEAD,
        "class_names": listed(text(r"[\s\S]*", longest=10_000, expected="a text"), 0, 1_000_000),
    }
)

#: Options of :class:`~xai_align.pinet.ConvEncoder` that a file may set.
CONV_OPTIONS = record(
    {
        "in_channels": _CHANNELS,
        "width": _CHANNELS,
        "depth": whole(1, 16),
        "dropout": _SHARE,
        "residual": one_of(*get_args(Residual)),
    }
)
