"""A network with another classifier, found by running it: the linear layer whose outputs are the logits is replaced."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from xai_align._tools.counted import counted
from xai_align._tools.logits import LogitsOf, select_logits
from xai_align._tools.model_state import evaluating
from xai_align._tools.random_state import kept_random_state
from xai_align._tools.thread_state import restores_thread_state
from xai_align.features.unwrapping import unwrapped

#: Layers that are replaced: exactly these types, as a subclass may compute something else.
_LINEAR = (nn.Linear, nn.Conv2d)


@restores_thread_state
def with_new_head(model: nn.Module, num_classes: int, image: Tensor) -> nn.Module:
    """Return a copy of a network whose logits are those of ``num_classes`` other classes.

    The last layer to run that is linear (or a convolution) and has as many outputs as there are logits is replaced by a
    new one with PyTorch's initial weights; if logits are computed by several such layers together, all of them are. A
    network that returns a record is wrapped, so that the logits alone are returned.

    Args:
        model: images ``[N, C, H, W]`` to logits ``[N, K]``; it is not changed. Modes of modules are kept.
        num_classes: the new number of logits.
        image: ``[1, C, H, W]``, an image that the network accepts.

    Raises:
        ValueError: there are fewer than two classes, the outputs are not logits ``[N, K]``, or no layer makes them.

    Example::

        network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
        with_new_head(network, 4, torch.zeros(1, 3, 16, 16))(images)  # [2, 4]
    """
    if num_classes < 2:
        raise ValueError(f"num_classes is {num_classes}; a classifier needs at least two classes")
    network: nn.Module = unwrapped(model)[0]
    fresh = copy.deepcopy(network)
    ran: list[str] = []
    handles = [
        module.register_forward_hook(partial(_note, ran, name))
        for name, module in fresh.named_modules()
        if type(module) in _LINEAR
    ]
    returned = _run(fresh, image)
    for handle in handles:
        handle.remove()
    logits = select_logits(returned)
    if logits.dim() != 2 or len(logits) != 1:
        raise ValueError(
            f"{type(network).__name__} gave {list(logits.shape)} for one image; only a network with logits [N, K] can "
            "be given a head for other classes"
        )
    count = logits.shape[1]
    names = [name for name in dict.fromkeys(ran) if _outputs(fresh.get_submodule(name)) == count]
    for chosen in [names[-1:], names] if names else []:
        if _makes_logits(fresh, chosen, image, count + 1):
            _replace(fresh, chosen, num_classes)
            return fresh if isinstance(returned, Tensor) else LogitsOf(fresh)
    raise ValueError(
        f"no linear layer of {type(network).__name__} makes its {counted(count, 'logit')}, so it can't be given a head "
        "for other classes; write the hook xai_align_classifier for it (docs/plugins.md)"
    )


def _note(ran: list[str], name: str, module: nn.Module, args: object, output: object) -> None:
    ran.append(name)


def _run(network: nn.Module, image: Tensor) -> object:
    like = next((p for p in network.parameters() if p.is_floating_point()), image)
    with kept_random_state(), evaluating(network), torch.no_grad():
        return network(image.to(device=like.device, dtype=like.dtype))


def _makes_logits(network: nn.Module, names: Sequence[str], image: Tensor, count: int) -> bool:
    """Return whether new layers of ``count`` outputs give as many logits; the layers are put back."""
    before = {name: network.get_submodule(name) for name in names}
    try:
        with kept_random_state():
            _replace(network, names, count)
        return tuple(select_logits(_run(network, image)).shape) == (1, count)
    except RuntimeError:  # something that follows expects the old number
        return False
    finally:
        for name, module in before.items():
            network.set_submodule(name, module)


def _replace(network: nn.Module, names: Sequence[str], count: int) -> None:
    for name in names:
        old = network.get_submodule(name)
        like = next(old.parameters())
        new = _like(old, count).to(device=like.device, dtype=like.dtype)
        new.training = old.training
        network.set_submodule(name, new)


def _like(old: nn.Module, count: int) -> nn.Module:
    bias = old.bias is not None
    if isinstance(old, nn.Conv2d):
        return nn.Conv2d(
            old.in_channels,
            count,
            old.kernel_size,  # type: ignore[arg-type]
            old.stride,  # type: ignore[arg-type]
            old.padding,  # type: ignore[arg-type]
            old.dilation,  # type: ignore[arg-type]
            bias=bias,
            padding_mode=old.padding_mode,
        )
    assert isinstance(old, nn.Linear)
    return nn.Linear(old.in_features, count, bias=bias)


def _outputs(layer: nn.Module) -> int | None:
    if isinstance(layer, nn.Conv2d):
        return layer.out_channels if layer.groups == 1 else None
    return layer.out_features if isinstance(layer, nn.Linear) else None
