"""Training of a network's new head alone: the parameters that differ from those of the original network."""

from __future__ import annotations

import torch
from torch import nn

from xai_align._tools.logits import LogitsOf


def freeze_all_but_head(model: nn.Module, backbone: nn.Module) -> list[str]:
    """Freeze every parameter that the backbone has with the same values, and put the rest alone in train mode.

    Modules of which no parameter is left to train are put in eval mode, so that statistics and dropout of the backbone
    are those of the original network.

    Args:
        model: the backbone with a new head; changed in place.
        backbone: the network without it.

    Returns:
        The names of the parameters that are left to train.

    Raises:
        ValueError: there are none.

    Example::

        freeze_all_but_head(with_new_head(network, 4, image), network)  # ["4.weight", "4.bias"]
    """
    inner = model.model if isinstance(model, LogitsOf) and not isinstance(backbone, LogitsOf) else model
    known = dict(backbone.named_parameters())
    head = [
        module
        for module in inner.modules()
        if any(True for _ in module.parameters(recurse=False)) and _is_new(inner, module, known)
    ]
    trained = {id(p) for module in head for p in module.parameters(recurse=False)}
    if not trained:
        raise ValueError(
            f"the copy of {type(backbone).__name__} with a new head has the weights of the network itself everywhere, "
            "so there is no head to train alone; train all of it (--fine-tune), or let the plugin that makes the head "
            "draw its weights"
        )
    for p in model.parameters():
        p.requires_grad_(id(p) in trained)
    for module in model.modules():
        module.training = any(one is module for one in head)
    return [name for name, p in model.named_parameters() if p.requires_grad]


def _is_new(model: nn.Module, module: nn.Module, known: dict[str, nn.Parameter]) -> bool:
    """Return whether any of a module's own parameters is not the backbone's."""
    prefix = next(name for name, one in model.named_modules() if one is module)
    for name, p in module.named_parameters(recurse=False):
        other = known.get(f"{prefix}.{name}" if prefix else name)
        if other is None or other.shape != p.shape or not torch.equal(other.to(p), p):
            return True
    return False
