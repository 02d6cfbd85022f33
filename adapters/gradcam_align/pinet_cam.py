"""The exact readout as a CAM of pytorch-grad-cam."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gradcam_align.attribution_cam import AttributionCAM, Combine, Place
from gradcam_align.first_component import channel_sum
from xai_align.adapter_tools import Spread, resize_keeping_sum
from xai_align.builtin import PINET
from xai_align.features.spatial import layout_of, on_grid
from xai_align.hookspecs import FeatureSpace
from xai_align.pinet import MixedReadout
from xai_align.pinet.on_inputs import contributions_on_sequences
from xai_align.pinet.readout import Readout, read_out
from xai_align.question import Question


class PiNetCAM(AttributionCAM):
    """Contribution of every part of the image to the answer, with the constructor and the call of ``GradCAM``.

    :meth:`attributions` is in logits: over an image it sums to the answer minus the readout's bias and the
    contributions of class and register tokens.

    Args:
        model: the network, which may be compiled or data-parallel.
        target_layers: the layers to read out; None or ``[]``: the default of :func:`~xai_align.read_out`. With several,
            their maps are averaged.
        reshape_transform: a function that rearranges a layer's output to ``[N, C, h, w]``, used for
            ``target_layers``; not needed. What it leaves out has no position in the map, like class tokens.
        spread: ``"smooth"``: a coarse map is interpolated between cells, as in pytorch-grad-cam;
            ``"area"``: each cell is spread evenly over the pixels it covers, as always for volumes ``[B, C, D, H, W]``.

    Raises:
        ValueError: a target layer is not a module of the model.

    Source: Lobet & Chiaromonte 2026 (arXiv 2601.04378).

    Example::

        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

        with PiNetCAM(model) as cam:
            picture = cam(images, [ClassifierOutputTarget(281)] * len(images))  # numpy [2, 32, 32], in [0, 1]
            logits = cam.attributions(images, Question.why_not(281, 282))  # [2, 32, 32]
    """

    method = PINET

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[Any] | None = None,
        reshape_transform: Callable[..., Any] | None = None,
        *,
        spread: Spread = "smooth",
    ) -> None:
        super().__init__(model, target_layers, reshape_transform)
        self.spread = spread

    def _build(self) -> list[Any]:
        return []  # a readout needs no method object and no other package

    def _explained(
        self, images: Tensor, questions: list[Question], combine: Combine, places: list[Place]
    ) -> list[Tensor]:
        readouts = [read_out(self.model, images, questions, place) for place in places]
        self.outputs = readouts[-1].logits.detach()
        if images.dim() == 5:
            return [contributions_on_sequences(readout, self.model, images).sum(1).detach() for readout in readouts]
        if combine is channel_sum:
            return [readout.map(self.spread).detach() for readout in readouts]
        return [_combined(readout, combine, self.spread) for readout in readouts]


def _combined(readout: Readout, combine: Combine, spread: Spread) -> Tensor:
    """Return ``Readout.map`` with channels combined by ``combine`` in place of their sum."""
    if isinstance(readout, MixedReadout):
        pairs = zip(readout.parts, readout.weights, strict=True)
        return torch.stack([weight * _combined(part, combine, spread) for part, weight in pairs]).sum(0)
    size = readout.image_size
    assert size is not None
    parts = readout.contributions if isinstance(readout.contributions, tuple) else (readout.contributions,)
    grids = [combine(_channels_on_grid(part, readout.feature_space, size)) for part in parts]
    return torch.stack([resize_keeping_sum(grid, size, spread) for grid in (*grids, *readout.placed)]).sum(0).detach()


def _channels_on_grid(contributions: Tensor, space: FeatureSpace, image_size: tuple[int, int]) -> Tensor:
    """Return contributions ``[N, C, h, w]``, of patch tokens alone."""
    layout = layout_of(contributions, space)
    cells = {
        "NCHW": lambda c: c.flatten(2),
        "NHWC": lambda c: c.flatten(1, 2).transpose(1, 2),
        "NLC": lambda c: c[:, space.patches(c.shape[1])].transpose(1, 2),
        "NCL": lambda c: c[:, :, space.patches(c.shape[2])],
    }[layout](contributions)
    return on_grid(cells, contributions, space, image_size)
