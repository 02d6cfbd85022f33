"""Inputs of a score network from the explained network: its layers, the readout's map of a question, and its logits."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from xai_align._tools.replica import Replica
from xai_align._tools.thread_state import restores_thread_state
from xai_align.features.cut_network import as_raster
from xai_align.features.recorded_grids import recorded_grids
from xai_align.features.resolve_layer import resolve_layer
from xai_align.features.stage_layers import layers_to_record
from xai_align.fei.curve import CELLS
from xai_align.fei.quantile_masks import standardised
from xai_align.hookspecs import FeatureSpace
from xai_align.pinet.readout import read_out
from xai_align.question import Question


@dataclass(frozen=True)
class Seen:
    """Inputs of a score network for some images.

    Attributes:
        layers: the explained network's layers on their grids, ``[N, C_l, h_l, w_l]`` each, the finest first.
        start: the readout's map of each image's question, ``[N, h, w]``, with mean 0 and standard deviation 1.
        logits: ``[N, K]``.
        outputs: the layers' outputs as they are, by name.
    """

    layers: list[Tensor]
    start: Tensor
    logits: Tensor
    outputs: dict[str, Tensor]


class ExplainedNetwork:
    """Copy of the explained network, from which all inputs of a score network are read in the passes of one readout.

    That is one forward pass where the head behind the readout's layer is affine. Elsewhere, as in a transformer with a
    class token, the readout through frozen gates takes up to five forward passes, its checks among them, and a backward
    pass through what follows the layer.

    Args:
        model: gives logits ``[N, K]``; in eval mode. It is not changed.
        image: ``[1, C, H, W]``, used only for shape, dtype and device.

    Attributes:
        names: the names of the layers, the finest first.
        start_name: the name of the readout's layer.
        cells: rows and columns of maps.

    Raises:
        ValueError: no layer lies on a grid over the image.
    """

    def __init__(self, model: nn.Module, image: Tensor) -> None:
        self.size = (image.shape[2], image.shape[3])
        self.cells = cells_of(self.size)
        try:
            self._start = resolve_layer(model, purpose="gradient", image=image[:1])
        except ValueError as error:
            error.add_note("(no layer can be named here; use the method 'fei', with start_layer=... or start='flat')")
            raise
        names = self._start.layer
        self.start_name = names if isinstance(names, str) else "+".join(names)
        #: Of each thread: the outputs that are taken, and the number of images they are of.
        self._now = threading.local()
        self._replica = Replica(model)
        candidates = layers_to_record(model, image[:1])
        modules = dict(self._replica.module.named_modules())
        for name in candidates:
            modules[name].register_forward_hook(self._hook(name))
        self._spaces = self._on_grids(model, candidates, image[:1])
        if not self._spaces:
            raise ValueError(
                f"{type(model).__name__} has no hidden layer on a grid over the image (candidates: "
                f"{', '.join(candidates) or 'none'}), so a score network has no input; use the method 'fei'"
            )
        self.names = tuple(self._spaces)

    def see(self, images: Tensor, questions: Sequence[Question]) -> Seen:
        """Run the network on images ``[N, C, H, W]``, with one question for each.

        Raises:
            TargetError, ValueError: a question or the images don't fit the network.
        """
        with self._taking(len(images)) as taken:
            readout = read_out(self._replica.module, images, list(questions), self._replica.rebind(self._start))
        outputs = {name: taken[name].detach() for name in self._spaces}
        wide = torch.float64 if images.dtype == torch.float64 else torch.float32
        found = readout.map("smooth").detach()[:, None].to(images.device, wide)
        start = standardised(interpolate(found, self.cells, mode="bilinear", antialias=True)[:, 0])
        layers = [as_raster(outputs[name], space, self.size)[0].to(wide) for name, space in self._spaces.items()]
        return Seen(layers, start, readout.logits.detach().to(wide), outputs)

    def channels(self, image: Tensor) -> list[int]:
        """Return the number of channels of each layer, found by a pass on an image ``[1, C, H, W]``."""
        outputs = self._run(image)
        return [as_raster(outputs[name], space, self.size)[0].shape[1] for name, space in self._spaces.items()]

    @restores_thread_state
    @torch.no_grad()
    def logits(self, images: Tensor) -> Any:
        """Return what the network returns for images."""
        return self._replica.module(images.clone())

    @restores_thread_state
    def _run(self, image: Tensor) -> dict[str, Tensor]:
        """Return the layers' outputs for an image."""
        with self._taking(len(image)) as taken:
            self.logits(image)
        return taken

    @contextmanager
    def _taking(self, count: int) -> Iterator[dict[str, Tensor]]:
        """Take the layers' outputs for so many images in this thread's passes inside the block."""
        taken: dict[str, Tensor] = {}
        self._now.taken, self._now.count = taken, count
        try:
            yield taken
        finally:
            self._now.taken = None

    def _hook(self, name: str) -> Any:
        def hook(module: nn.Module, args: Any, out: Any) -> None:
            out = out[0] if isinstance(out, tuple | list) and out else out
            # the first run with all images; cloned, as later layers may work in place
            taken = getattr(self._now, "taken", None)
            if taken is None or name in taken or not isinstance(out, Tensor):
                return
            if out.dim() > 0 and len(out) == self._now.count:
                taken[name] = out.clone()

        return hook

    def _on_grids(self, model: nn.Module, names: Sequence[str], image: Tensor) -> dict[str, FeatureSpace]:
        """Return the layers that lie on a grid of more than one cell, by name, the finest first."""
        outputs = self._run(torch.zeros_like(image))
        found = recorded_grids(model, names, outputs, image)
        order = sorted(found, key=lambda name: -found[name][1][0, 0].numel())
        return {name: found[name][0] for name in order}


def cells_of(size: tuple[int, int]) -> tuple[int, int]:
    """Return rows and columns of nearly square cells, :data:`CELLS` along the shorter side of an image."""
    shorter = min(size)
    count = min(CELLS, shorter)
    return round(size[0] * count / shorter), round(size[1] * count / shorter)
