"""Maps of all classes at once, if the head is local."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from xai_align._tools.full_precision import full_precision
from xai_align._tools.logits import select_logits
from xai_align._tools.replica import LOW_PRECISION, Replica
from xai_align._tools.thread_state import restores_thread_state
from xai_align.features.resolve_layer import Layer
from xai_align.features.run_with_features import run_and_take_features
from xai_align.features.spatial import on_grid
from xai_align.features.unwrapping import unwrapped
from xai_align.hookspecs import FeatureSpace
from xai_align.pinet.completeness import CompletenessError, check_close
from xai_align.pinet.head_probe import probe_head
from xai_align.pinet.input_checks import check_inputs, check_logits, check_model, explained_failures
from xai_align.pinet.network.one_position import decompose_by_position, positions_last
from xai_align.pinet.network.pseudo_linear import PseudoLinear, second_look_space
from xai_align.pinet.plain_pass import own_logits
from xai_align.pinet.readout_layers import readout_space
from xai_align.pinet.rounding import misses, wide

#: Number of classes whose coefficients are computed at a time, to bound memory.
CLASSES_AT_A_TIME = 64
#: Number of roundings that two passes of a network may differ by.
OPERATIONS = 64


@dataclass(frozen=True, kw_only=True)
class ClassReadout:
    """Contribution maps of all ``K`` classes: ``logits == maps.sum() + prefix + bias``, up to the model's rounding.

    Attributes:
        logits: ``[N, K]``, the model's own; the maps, of a model of low precision too, are in float32 or better.
        maps: ``[N, K, h, w]``; a tuple of such maps where the feature space is several tensors.
        prefix: ``[N, K]``, the contributions of prefix tokens.
        bias: ``[K]``.
        completeness_error: ``[N, K]``, ``maps.sum() + prefix + bias`` minus the logits, both in the maps' precision.
        feature_space: the layer that was read out.

    Example::

        pinet = conv_pinet(5, in_channels=3, width=8).eval()
        readout = read_out_all_classes(pinet, images)
        readout.maps.sum((2, 3)) + readout.prefix + readout.bias  # [2, 5], equals readout.logits
    """

    logits: Tensor
    maps: Tensor | tuple[Tensor, ...]
    prefix: Tensor
    bias: Tensor
    completeness_error: Tensor
    feature_space: FeatureSpace


@restores_thread_state
def read_out_all_classes(
    model: Any, inputs: Tensor, feature_space: Layer = None, *, output: str | int | None = None
) -> ClassReadout:
    """Return, for all classes at once, the contribution of each cell of the feature map to the class's logit.

    Takes one forward pass of the backbone and one of the head on single positions, and
    no gradient. A local head that does not treat all positions alike takes one
    backward pass of the head per class instead.

    Args:
        model: as for :func:`~xai_align.read_out`.
        inputs: images ``[N, C, H, W]``.
        feature_space: as for :func:`~xai_align.read_out`; its head must be affine. None: the head's input.
        output: which of the model's outputs are the logits, as for :func:`~xai_align.read_out`.

    Raises:
        CompletenessError: the space's features and head do not reproduce the model's logits.
        ValueError: the head is not local, or inputs or model are not suitable for a readout.

    Example::

        from xai_align.hookspecs import Split

        body, head = nn.Conv2d(3, 8, 3), nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
        space = FeatureSpace(layer="0", layout="NCHW", split=Split(body, head))
        readout = read_out_all_classes(nn.Sequential(body, head).eval(), images, space)
        readout.maps  # [2, 5, 30, 30]
    """
    model, own_layer = unwrapped(model)
    check_model(model)
    check_inputs(model, (inputs,))
    if isinstance(model, PseudoLinear) and feature_space is None:
        found = _own_maps(model, inputs)
    else:
        found = _maps(model, inputs, own_layer if feature_space is None else feature_space, output)
    if not _is_low(model, inputs) and not torch.is_autocast_enabled(inputs.device.type):
        return found
    with torch.inference_mode(False), explained_failures((inputs,)):
        own = own_logits(model, (inputs,), (), output)
    check_close(own, found.logits, OPERATIONS)
    return replace(found, logits=own)


def _maps(model: nn.Module, inputs: Tensor, feature_space: Layer, output: str | int | None) -> ClassReadout:
    """Return the maps of a network's local head, in float32 or better."""
    space = readout_space(model, feature_space, inputs[:1], output)
    if space.split is None:
        raise _not_local(space)
    with torch.inference_mode(False), torch.no_grad(), full_precision(inputs), explained_failures((inputs,)):
        copied, z, plain = _features_and_logits(model, space, inputs, output)
        if not probe_head(model, copied, z, space).affine:
            raise _not_local(space)
        logits = check_logits(copied.split.head(z))  # type: ignore[union-attr]
        if logits.dim() != 2:
            raise ValueError(
                f"the output has shape {list(logits.shape)}, and maps of all classes need logits [N, K]; use "
                "xai_align.read_out, which takes one question for each example"
            )
        _check_split(model, space, inputs, logits, plain, output)
        decompose = _by_position if probe_head(model, copied, z, space).averages_positions else _decompose_by_class
        parts, prefix, bias = decompose(copied, z)
        error = _error(parts, prefix, bias, logits)
        if _misses_sums(parts, error, logits):  # by rounding, or by more: float64 decides
            finer, wide_z, _ = _features_and_logits(model, space, inputs, output, torch.float64)
            again = check_logits(finer.split.head(wide_z))  # type: ignore[union-attr]
            parts_again, prefix_again, bias_again = decompose(finer, wide_z)
            if _misses_sums(parts_again, _error(parts_again, prefix_again, bias_again, again), again):
                raise CompletenessError(
                    f"contributions and bias miss the logits by up to {float(error.abs().max()):.3g}, more than "
                    "rounding: the head does more than a mean over positions and a linear map; use xai_align.read_out"
                )
    image_size = (inputs.shape[-2], inputs.shape[-1])
    maps = tuple(on_grid(part, leaf, space, image_size) for part, leaf in zip(parts, tree_leaves(z), strict=True))
    return ClassReadout(
        logits=logits,
        maps=maps if len(maps) > 1 else maps[0],
        prefix=prefix,
        bias=bias,
        completeness_error=error,
        feature_space=space,
    )


def _is_low(model: nn.Module, inputs: Tensor) -> bool:
    return any(x.dtype in LOW_PRECISION for x in (inputs, *model.parameters()))


def _features_and_logits(
    model: nn.Module,
    space: FeatureSpace,
    inputs: Tensor,
    output: str | int | None,
    dtype: torch.dtype | None = None,
) -> tuple[FeatureSpace, Any, Tensor]:
    """Return the space on a replica, in float32 or better, its features, and the replica's own logits."""
    dtype, every = (torch.float32 if _is_low(model, inputs) else None, False) if dtype is None else (dtype, True)
    copy = Replica(model, dtype=dtype, every=every)
    copied = copy.rebind(space)
    returned, z = run_and_take_features(copy.module, copied, [inputs.detach().to(dtype or inputs.dtype)], ())
    return copied, z, check_logits(select_logits(returned, output))


def _check_split(
    model: nn.Module, space: FeatureSpace, inputs: Tensor, logits: Tensor, plain: Tensor, output: str | int | None
) -> None:
    """Raise if head and features together differ from the model by more than rounding, as checked in float64.

    Raises:
        CompletenessError: they differ.
    """
    if _agree(logits, plain):
        return
    copied, z, finer = _features_and_logits(model, space, inputs, output, torch.float64)
    assert copied.split is not None
    if not _agree(check_logits(copied.split.head(z)), finer):
        raise CompletenessError(
            f"the head of the feature space '{space.layer}' on its features gives other logits than the model: they "
            f"differ by {float((logits - plain).abs().max()):.3g}, more than rounding; correct its Split"
        )


def _error(parts: Sequence[Tensor], prefix: Tensor, bias: Tensor, logits: Tensor) -> Tensor:
    """Return contributions and bias minus the logits, ``[N, K]``."""
    total = torch.stack([wide(part).sum(-1) for part in parts]).sum(0)
    return total + wide(prefix) + wide(bias) - wide(logits)


def _misses_sums(parts: Sequence[Tensor], error: Tensor, logits: Tensor) -> bool:
    """Return whether contributions and bias miss a logit by more than rounding."""
    squares = torch.stack([wide(part).square().sum(-1) for part in parts]).sum(0) + wide(logits).square()
    return bool(misses(error, squares.sqrt(), 4096, logits.dtype).any())


def _by_position(space: FeatureSpace, z: Any) -> tuple[list[Tensor], Tensor, Tensor]:
    """Return cells ``[N, K, P]``, prefix ``[N, K]`` of zeros and bias ``[K]`` of a head that averages positions."""
    cells, bias = decompose_by_position(space, z)
    return [cells], torch.zeros_like(cells[..., 0]), bias


def _agree(logits: Tensor, plain: Tensor) -> bool:
    if logits.shape != plain.shape:
        return False
    return not bool(misses((logits - plain).abs().max(), plain.abs().max(), OPERATIONS, logits.dtype).any())


def _own_maps(model: PseudoLinear, images: Tensor) -> ClassReadout:
    """Return the maps that a PiNet computes in its own forward pass."""
    dtype = torch.float32 if _is_low(model, images) else None
    with torch.inference_mode(False), torch.no_grad(), full_precision(images):
        look = Replica(model, dtype=dtype).of(model).explain(images.detach().to(dtype or images.dtype))
        maps = look.maps
    total = wide(maps).flatten(2).sum(2) + wide(look.bias) - wide(look.logits)
    return ClassReadout(
        logits=look.logits,
        maps=maps,
        prefix=torch.zeros_like(look.logits),
        bias=look.bias,
        completeness_error=total,
        feature_space=second_look_space(model),
    )


def _decompose_by_class(space: FeatureSpace, z: Any) -> tuple[list[Tensor], Tensor, Tensor]:
    """Return cells ``[N, K, P]`` per tensor of ``z``, prefix ``[N, K]`` and bias ``[K]``, from the head's Jacobian."""
    assert space.split is not None
    leaves = [positions_last(leaf, space) for leaf in tree_leaves(z)]
    parts: list[list[Tensor]] = [[] for _ in leaves]
    for betas in jacobian_rows(space, z):
        for part, leaf, beta in zip(parts, leaves, betas, strict=True):
            # c_kp = sum_c beta_kcp z_cp
            part.append(torch.einsum("ncp,kcp->nkp", leaf, positions_last(beta, space)))
    cells = [torch.cat(part, dim=1) for part in parts]
    with torch.no_grad():
        bias = space.split.head(at_zero(z)[0])[0]
    patches = [part[..., space.patches(part.shape[-1])] for part in cells]
    pairs = zip(cells, patches, strict=True)
    prefix = torch.stack([part.sum(-1) - of_patches.sum(-1) for part, of_patches in pairs]).sum(0)
    return patches, prefix, bias


def jacobian_rows(space: FeatureSpace, z: Any) -> Iterator[list[Tensor]]:
    """Yield ``d logit_k / d z`` of one example for a few classes at a time, ``[k, ...]`` per tensor of ``z``."""
    assert space.split is not None
    with torch.inference_mode(False), torch.enable_grad():
        origin, leaves = at_zero(z)
        logits = space.split.head(origin)[0]
        for start in range(0, len(logits), CLASSES_AT_A_TIME):
            rows = [
                torch.autograd.grad(logit, leaves, retain_graph=True, materialize_grads=True)
                for logit in logits[start : start + CLASSES_AT_A_TIME]
            ]
            yield [torch.cat(beta) for beta in zip(*rows, strict=True)]


def at_zero(z: Any) -> tuple[Any, list[Tensor]]:
    """Return all-zero features of one example in the form of ``z``, and their tensors, which require grad."""
    origin = tree_map(lambda leaf: torch.zeros_like(leaf[:1]).requires_grad_(torch.is_grad_enabled()), z)
    return origin, tree_leaves(origin)


def _not_local(space: FeatureSpace) -> ValueError:
    return ValueError(
        f"the readout at '{space.layer}' is not local: all classes at once are for networks whose head is an affine "
        "function of a spatial feature map; ask about one class at a time with read_out"
    )
