"""Preparation of a network for the fill "drop"."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from xai_align._tools.replica import Replica
from xai_align.perturbation.dropped_patches import DroppedPatches
from xai_align.perturbation.fills import by_name
from xai_align.perturbation.spec import PerturbationSpec
from xai_align.perturbation.token_dropping import token_dropping
from xai_align.question import QuestionModel


def drops(spec: PerturbationSpec) -> bool:
    """Return whether a perturbation drops patches."""
    return isinstance(by_name(spec.fill), DroppedPatches)


def with_patches_dropped(
    model: Any, inputs: Tensor, specs: Sequence[PerturbationSpec], extra: Sequence[Any] = ()
) -> nn.Module:
    """Return a copy of the network that takes inputs of :class:`DroppedPatches`, and others as before.

    Args:
        model: the network, or a ``QuestionModel`` of one.
        inputs: images ``[N, C, H, W]``.
        specs: the perturbations; those that drop must have the network's grid of patches.
        extra: further arguments of the model.

    Raises:
        TypeError: the model is not an ``nn.Module``.
        ValueError: the network keeps no grid of tokens, mixes them elsewhere, or has another grid than a spec, or a
            spec records hidden layers, whose tokens would have no counterpart.

    Example::

        import timm

        network = timm.create_model("test_vit", img_size=32).eval()  # 2 x 2 patches
        spec = PerturbationSpec("drop", grid=(2, 2), fractions=(0.5,))
        copy = with_patches_dropped(network, images, [spec])
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"patches are left out inside a torch.nn.Module; got {type(model).__name__}")
    if inputs.dim() != 4:
        raise ValueError(f"the fill 'drop' needs images [N, C, H, W], the inputs have shape {list(inputs.shape)}")
    dropping = token_dropping(model.model if isinstance(model, QuestionModel) else model, inputs, extra)
    grid = (dropping.grid.rows, dropping.grid.columns)
    for spec in specs:
        if drops(spec):
            if spec.grid != grid:
                raise ValueError(
                    f"the fill 'drop' leaves out whole patches, which are {grid[0]} x {grid[1]} here, and the spec has "
                    f"grid={spec.grid}; give grid={grid}"
                )
            if spec.layers:
                raise ValueError("hidden layers cannot be compared where patches are left out; give layers=False")
    copy: nn.Module = Replica(model).module
    dropping.on(copy.model if isinstance(copy, QuestionModel) else copy)
    return copy
