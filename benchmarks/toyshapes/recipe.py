"""PiNet for ToyShapes with sharp maps, trained on labels alone: the additions to the paper's.

1. z is the contrast, how far a pixel is from the picture's median colour: black pixels can contribute, empty ones
cannot. 2. A decoder with shortcuts: at each of its levels the encoder's map of that level is added, so that a
coefficient
   can depend on its own pixel.
3. A second stage, once all validation pictures are right, with a penalty on edges of the map where the picture has
   none, and a small one on its area (the library's ``edges`` and ``parsimony``).
4. In that stage the scale s is small and constant: only a triangle that is detected as a whole decides, so pi rises to
   1; a free s would grow, pi would shrink, and the penalties would vanish.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from xai_align.pinet import ConvDecoder, ConvEncoder, PiNet, SecondLookHead, Start
from xai_align.pinet.network.readable_features import Ones, Pixels, Readable, Values


class Contrast(Pixels):
    """``z = |x - c|``, ``c`` the median of the picture, which here is its background."""

    def forward(self, images: Tensor, features: Sequence[Tensor], size: tuple[int, int]) -> Values:
        x = self.pixels(images)
        return Values((x - x.flatten(2).median(2).values[..., None, None]).abs().unsqueeze(1))


#: Choices of z, by name.
READABLE: dict[str, type[Readable]] = {"contrast": Contrast, "pixels": Pixels, "ones": Ones}


class ShortcutDecoder(ConvDecoder):
    """The paper's decoder with the encoder's map of each level added there."""

    def __init__(self, channels: Sequence[int], maps: int) -> None:
        super().__init__(channels, maps)
        self.shortcuts = nn.ModuleList(nn.Conv2d(count, count, 1) for count in reversed(channels[:-1]))

    def forward(self, features: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        x = features[-1]
        for level, shortcut, finer in zip(self.levels, self.shortcuts, reversed(features[:-1]), strict=True):
            upsample, block = level  # type: ignore[misc]
            x = block(upsample(x) + shortcut(finer))
        return self.last(x)  # type: ignore[no-any-return]


def sharp_pinet(start: Start, *, z: str = "contrast", decoder: type[ConvDecoder] = ShortcutDecoder) -> PiNet:
    """Return the network of the first stage."""
    encoder = ConvEncoder(1)
    maps = decoder(encoder.channels, 1)
    head = SecondLookHead(encoder.channels, 1, decoder=maps, z="pixels", image_channels=1, start=start)
    return looking_at(PiNet(encoder, head), z)


def looking_at(model: PiNet, z: str) -> PiNet:
    """Return the model with another z."""
    model.head.readable = Ones() if z == "ones" else READABLE[z](1)  # type: ignore[call-arg]
    return model


@torch.no_grad()
def with_held_scale(model: PiNet, scale: float, *, positions: int) -> PiNet:
    """Return the model with the constant scale ``s' = scale``.

    ``pi' = pi s / s'`` where pi is small, so logits stay about the same; where it is near 1 it stays there.
    """
    aggregator = model.head.aggregator
    before = float(aggregator.scale(positions))
    assert aggregator.b is not None
    aggregator.b.mul_(math.sqrt(scale / before)).requires_grad_(False)
    model.head.decoder.last.bias.add_(math.log(before / scale))  # type: ignore[operator, union-attr]
    return model
