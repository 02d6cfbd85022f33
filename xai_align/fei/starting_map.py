"""Initial map of the search: the exact readout, a constant, or a map of the caller's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from xai_align.features.resolve_layer import resolve_layer
from xai_align.fei.quantile_masks import standardised
from xai_align.pinet.completeness import CompletenessError
from xai_align.pinet.readout import read_out
from xai_align.question import Question

#: "readout": the exact readout at the last feature map. "default readout": the one that
#: :func:`~xai_align.read_out` takes by default. "flat": the same everywhere. Or maps ``[N, h, w]``.
Start: TypeAlias = Literal["readout", "default readout", "flat"] | Tensor


def starting_map(
    model: nn.Module,
    inputs: Tensor,
    questions: Sequence[Question],
    start: Start,
    *,
    layer: Any = None,
    cells: tuple[int, int],
    additional_forward_args: Any = None,
) -> Tensor:
    """Return scores ``[N, h, w]`` on a grid of cells, with mean 0 and standard deviation 1 (0 if constant).

    Args:
        model: gives logits.
        inputs: images ``[N, C, H, W]``.
        questions: one for each image.
        start: see :data:`Start`.
        layer: layer of the readout; None: with "readout" the plugin's choice, else the last convolution.
        cells: rows and columns.
        additional_forward_args: further arguments of the model.

    Raises:
        ValueError: the start is none of these or has a wrong shape, or the layer is not found.
    """
    if isinstance(start, Tensor):
        given = start
    elif start == "flat":
        given = inputs.new_zeros(len(inputs), *cells)
    elif start in ("readout", "default readout"):
        try:
            where = layer
            if layer is None and start == "readout":
                with torch.no_grad():  # the readout enables gradients where it needs them
                    where = resolve_layer(model, purpose="gradient", image=inputs[:1])
            readout = read_out(model, inputs, list(questions), where, additional_forward_args=additional_forward_args)
        except (ValueError, CompletenessError) as error:  # it names the readout's own options
            error.add_note(
                "(the search starts from a readout: choose its layer with start_layer=..., or none with start='flat')"
            )
            raise
        given = readout.map("smooth").detach()
    else:
        raise ValueError(f"start must be 'readout', 'default readout', 'flat', or maps [N, h, w], got {start!r}")
    fits = given.dim() == 3 and len(given) == len(inputs) and given.numel() and not given.is_complex()
    if not fits or not given.isfinite().all():
        raise ValueError(
            f"the starting maps have shape {list(given.shape)} in {given.dtype}; give finite maps [{len(inputs)}, h, w]"
        )
    wide = torch.float64 if inputs.dtype == torch.float64 else torch.float32
    resized = interpolate(given[:, None].to(inputs.device, wide), cells, mode="bilinear", antialias=True)
    return standardised(resized[:, 0])
