"""Pseudo-masks for methods that need human masks, for pictures without them.

Selective convolutional descriptor aggregation (SCDA; Wei, Luo, Wu & Zhou, IEEE TIP 26(6), 2017): at each position of
the last convolution of a network trained on other classes, the sum of the activations over channels; the mask is
the largest connected part above the mean over positions. It needs no label.
"""

from __future__ import annotations

import torch
from scipy.ndimage import label
from torch import Tensor
from torch.nn.functional import interpolate

from benchmarks.shared.real_networks import lite0

#: Side of the network's input in pixels, as in its training: 7 x 7 positions.
SEEN = 224
AT_ONCE = 32


@torch.no_grad()
def pseudo_masks(pixels: Tensor, *, size: int) -> Tensor:
    """Return masks in [0, 1], ``[N, 1, size, size]``, of uint8 images ``[N, 3, H, W]``."""
    model = lite0().model.eval()
    found = []
    for some in pixels.split(AT_ONCE):
        x = interpolate(some.float() / 127.5 - 1, (SEEN, SEEN), mode="bilinear", antialias=True)
        aggregation = model.forward_features(x).sum(1)  # type: ignore[operator]
        found.append(torch.stack([largest_part(one > one.mean()) for one in aggregation]))
    return interpolate(torch.cat(found)[:, None].float(), (size, size), mode="bilinear")


def largest_part(marked: Tensor) -> Tensor:
    """Return the largest part of a bool map ``[h, w]`` whose cells share sides."""
    parts, count = label(marked.numpy())
    numbered = torch.from_numpy(parts)
    sizes = [int((numbered == number).sum()) for number in range(1, count + 1)]
    return numbered == 1 + sizes.index(max(sizes))
