"""Conversion of a preprocessing's result to the tensor ``[C, H, W]`` of a network, and its scale."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

#: Mean and standard deviation of each channel.
Scale = tuple[tuple[float, ...], tuple[float, ...]]
#: Field of a processor's output that holds the image.
PIXELS = "pixel_values"
#: Side of the grey pictures with which a preprocessing's scale is found.
_SIDE = 256
_TOLERANCE = 0.02


@dataclass(frozen=True)
class Preprocessing:
    """A preprocessing whose results are floating tensors ``[C, H, W]``, whatever the function itself returns.

    Args:
        function: from a PIL image to a tensor or array ``[C, H, W]`` or ``[1, C, H, W]``, or to a dictionary with one
            under ``"pixel_values"``, as the processors of Hugging Face do.
    """

    function: Callable[[Any], Any]

    def __call__(self, picture: Any) -> Tensor:
        """Return the prepared image.

        Raises:
            ValueError: the function returns something else; the message says what.
        """
        return image_tensor(self.function(picture))


def image_tensor(made: Any) -> Tensor:
    """Return one image ``[C, H, W]`` as a floating tensor, contiguous in memory.

    Raises:
        ValueError: it is not one image; the message says what was found.

    Example::

        image_tensor({"pixel_values": [np.zeros((3, 8, 8), np.float32)]}).shape  # [3, 8, 8]
    """
    x = _as_tensor(_pixels(made))
    if x.dim() == 4 and len(x) == 1:
        x = x[0]
    if x.dim() == 2:
        x = x[None]
    if x.dim() != 3:
        raise ValueError(f"the preprocessing returned shape {list(x.shape)}; it should return one image, [C, H, W]")
    if x.shape[0] > 64 and x.shape[2] <= 4:
        raise ValueError(
            f"the preprocessing returned shape {list(x.shape)}, with the channels last; they come first, [C, H, W]: "
            "add .permute(2, 0, 1)"
        )
    if not x.is_floating_point():
        raise ValueError(
            f"the preprocessing returned whole numbers ({x.dtype}); return floating-point ones, such as x / 255"
        )
    return x.contiguous()  # `.permute(2, 0, 1)` leaves the channels last in memory, which `x.view(N, -1)` refuses


def scale_of(preprocess: Callable[[Any], Tensor]) -> Scale | None:
    """Return the mean and std that a preprocessing applies, ``(pixel - mean) / std`` with pixels in [0, 1].

    They are found from grey pictures. None where it does something else, such as scaling each image by itself, or
    does not take such pictures.
    """
    from PIL import Image

    try:
        black, grey, white = (
            preprocess(Image.new("RGB", (_SIDE, _SIDE), (value,) * 3)).double().flatten(1).median(1).values
            for value in (0, 51, 255)
        )
    except Exception:  # the user's own function may raise anything on such a picture
        return None
    span = white - black
    if not bool((span.abs() > 1e-6).all()) or bool(((grey - (black + span / 5)).abs() > _TOLERANCE * span.abs()).any()):
        return None
    # black = -mean / std, white = (1 - mean) / std
    std = 1 / span
    mean = -black * std
    return tuple(round(one, 6) for one in mean.tolist()), tuple(round(one, 6) for one in std.tolist())


def _pixels(made: Any) -> Any:
    if isinstance(made, Mapping) or hasattr(made, "keys"):
        fields = dict(made)
        if PIXELS not in fields and len(fields) != 1:
            raise ValueError(
                f"the preprocessing returned a dictionary with {', '.join(map(repr, fields)) or 'nothing'}; the image "
                f"is taken from {PIXELS!r}, or from the only entry"
            )
        return fields.get(PIXELS, next(iter(fields.values())))
    return made


def _as_tensor(made: Any) -> Tensor:
    if isinstance(made, list | tuple) and len(made) == 1:
        made = made[0]
    if isinstance(made, Tensor):
        return made
    if isinstance(made, np.ndarray):
        found = torch.from_numpy(np.array(made))
        return found.float() if found.dtype == torch.float64 else found
    what = "several images" if isinstance(made, list | tuple) else f"an object of type {type(made).__name__}"
    raise ValueError(
        f"the preprocessing returned {what}; it should return one image as a tensor or an array, [C, H, W]"
    )
