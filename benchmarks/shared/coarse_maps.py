"""Maps of methods that use a network's last feature map, spread smoothly over the pixels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from xai_align import explain
from xai_align.pinet.readout import read_out
from xai_align.plugins import attribution_method

#: Layers of readouts and Grad-CAM: SqueezeNet's last feature map, 13 x 13. (Those of timm's networks are known.)
LAYERS = {"lite0": None, "squeezenet": "features", "resnet20": "stage3"}
#: Cells of the last feature map.
CELLS = {"lite0": 7, "squeezenet": 13, "resnet20": 12}


def smoothed(coarse: Tensor, cells: int) -> Tensor:
    """Smooth a coarse method's map of flat squares by interpolation between cells, which gives it better scores."""
    size = coarse.shape[-1]
    centres = ((torch.arange(cells) + 0.5) * size / cells).long()
    flat = coarse[centres][:, centres]
    nearest = torch.arange(size) * cells // size
    if not torch.allclose(flat[nearest][:, nearest][centres], coarse[centres], rtol=1e-3):
        return coarse
    return nn.functional.interpolate(flat[None, None], (size, size), mode="bilinear")[0, 0]


def readout(model: nn.Module, x: Tensor, label: int, network: str) -> Tensor:
    """Return the exact readout at the last feature map."""
    return read_out(model, x, label, LAYERS[network] or "head").map("smooth")[0].detach()


def by_name(method: str, model: nn.Module, x: Tensor, label: int, network: str) -> Tensor:
    """Return the map of a registered method."""
    layer = LAYERS[network] if attribution_method(method).takes_layer else None
    found = explain(model, x, label, method, layer=layer).map[0]
    return smoothed(found, CELLS[network])
