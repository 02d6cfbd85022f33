"""The last layer of a token network at which patch tokens still affect the output."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from xai_align._tools.drawn import noise_like
from xai_align._tools.logits import select_logits
from xai_align._tools.replica import Replica
from xai_align._tools.saved_copies import copying_if_overwritten
from xai_align._tools.thread_state import hides_interrupt
from xai_align.features.grid_layers import known_space
from xai_align.features.module_ends import record_ends, that_run_once
from xai_align.features.spatial import layout_of, token_grid
from xai_align.features.token_space import token_space
from xai_align.hookspecs import FeatureSpace


def last_token_layer(model: nn.Module, image: Tensor) -> FeatureSpace | None:
    """Return the last module output ``[N, L, C]`` whose patch tokens affect the logits, None if there is none.

    In a ViT with a class token that is the first norm of the last block: after its attention, only the class token
    reaches the head. It is found by one forward and one backward pass on fixed noise, so that the result depends on
    the network and not on an image. Only tokens of the residual stream count: those of the most common width, and
    not queries, keys and values of linear layers.

    Args:
        model: the network; a copy in eval mode is run.
        image: ``[1, C, H, W]``, used only for shape, dtype and device.
    """
    outputs = copying_if_overwritten(lambda: _token_outputs(model, image))
    if not outputs:
        return None
    widths = [output.shape[2] for _, output, _ in outputs]
    width = max(set(widths), key=widths.count)
    for name, output, gradient in reversed(outputs):
        if output.shape[2] != width:
            continue
        space = known_space(model, name) or token_space(model, image, output.shape[1])
        if space is not None and _counts(gradient, space, image):
            return replace(space, layer=name)
    return None


def _token_outputs(model: nn.Module, image: Tensor) -> list[tuple[str, Tensor, Tensor]]:
    """Return the modules that run once and give ``[1, L, C]``, in execution order: name, output, gradient."""
    copy = Replica(model, evaluate=True).module
    linear = {name for name, module in copy.named_modules() if isinstance(module, nn.Linear)}
    ends = record_ends(copy, lambda output: output if _is_tokens(output) else None)
    with torch.inference_mode(False), torch.enable_grad():
        try:
            logits = select_logits(copy(noise_like(image).requires_grad_()))
        except Exception as error:  # it takes no single image alone
            if hides_interrupt(error):
                raise
            return []
        tokens = {name: output for name, output in that_run_once(ends).items() if name not in linear}
        once = {name: output for name, output in tokens.items() if output is not None}
        if not once:
            return []
        # squared, so that classes cannot cancel out
        score = logits.float().square().sum()
        gradients = torch.autograd.grad(score, list(once.values()), allow_unused=True)
    pairs = zip(once.items(), gradients, strict=True)
    return [(name, output, gradient) for (name, output), gradient in pairs if gradient is not None]


def _is_tokens(output: Any) -> bool:
    """Return whether this is ``[1, L, C]`` with ``L > 1``: not a class token alone, and not windows of the image."""
    tokens = isinstance(output, Tensor) and output.dim() == 3 and output.shape[0] == 1 and output.shape[1] > 1
    return tokens and output.requires_grad


def _counts(gradient: Tensor, space: FeatureSpace, image: Tensor) -> bool:
    """Return whether the patch tokens form a grid and have a nonzero gradient."""
    patches = gradient if layout_of(gradient, space) == "NLC" else gradient.transpose(1, 2)
    patches = patches[:, space.patches(patches.shape[1])]
    try:
        token_grid(space, patches.shape[1], (image.shape[-2], image.shape[-1]))
    except ValueError:
        return False
    return bool((patches != 0).any())
