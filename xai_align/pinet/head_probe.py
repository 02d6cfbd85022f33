"""Test for an affine head, behind which a readout is local."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from xai_align._tools.drawn import noise_like
from xai_align._tools.model_state import signature
from xai_align._tools.thread_state import hides_interrupt
from xai_align.hookspecs import FeatureSpace
from xai_align.pinet.network.one_position import decompose_by_position
from xai_align.pinet.rounding import wide

#: Magnitudes at which affinity is tested: an activation that is nearly linear for
#: small features is not for large ones, and one that saturates for large ones does not for small ones.
SCALES = (1.0, 1e2, 1e4)
#: ``|h(.3a + .7b) - .3h(a) - .7h(b)|`` over ``|h|``. Affine heads show rounding, others 1e-2 to 1.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}


@dataclass(frozen=True)
class Verdict:
    """Properties of a head: whether it is affine, and whether it is the mean over positions of one affine map."""

    affine: bool
    averages_positions: bool


_verdicts: WeakKeyDictionary[nn.Module, tuple[int, dict[Hashable, Verdict]]] = WeakKeyDictionary()


def probe_head(model: nn.Module, space: FeatureSpace, z: Any, original: FeatureSpace | None = None) -> Verdict:
    """Return the properties of the head behind ``space`` for features in the form of ``z``.

    Tests random features of one example, once for each state of the model's
    parameters and shape of ``z``. RNG state and parameters are preserved.
    A space without a split has no head to test, and counts as not affine.

    Args:
        model: the network, the key under which the result is cached.
        space: the feature space, of the model or of a replica.
        z: its features.
        original: the model's space, if ``space`` is a replica's.
    """
    if space.split is None:
        return Verdict(affine=False, averages_positions=False)
    state = signature(model)
    known = _verdicts.get(model)
    if known is None or known[0] != state:
        known = _verdicts[model] = (state, {})
    head = (original if original is not None and original.split else space).split.head  # type: ignore[union-attr]
    key = (space.layer, _code_of(head), tuple((leaf.shape[1:], leaf.dtype) for leaf in tree_leaves(z)))
    if key not in known[1]:
        known[1][key] = _probe(space, z)
    return known[1][key]


def _probe(space: FeatureSpace, z: Any) -> Verdict:
    with torch.inference_mode(False), torch.no_grad():
        affine = all(_affinity_error(space, z, scale) <= _tolerance(z) for scale in SCALES)
        return Verdict(affine, affine and isinstance(z, Tensor) and _averages_positions(space, z))


def _affinity_error(space: FeatureSpace, z: Any, scale: float) -> float:
    assert space.split is not None
    a, b = (tree_map(partial(_scaled_noise, scale, seed), z) for seed in range(2))
    mixed = tree_map(lambda left, right: 0.3 * left + 0.7 * right, a, b)
    h_a, h_b, h_mixed = (wide(space.split.head(features)) for features in (a, b, mixed))
    size = max(float(h_a.abs().max()), float(h_b.abs().max()), 1e-30)
    return float((h_mixed - 0.3 * h_a - 0.7 * h_b).abs().max()) / size


def _averages_positions(space: FeatureSpace, z: Tensor) -> bool:
    assert space.split is not None
    random = noise_like(z[:1], 0)
    try:
        logits = space.split.head(random)
        if logits.dim() != 2:  # an output for each position
            return False
        cells, bias = decompose_by_position(space, random)
    except (RuntimeError, ValueError, AssertionError, IndexError) as error:
        if hides_interrupt(error):
            raise
        return False  # the head accepts maps of one size only
    gap = (cells.sum(-1) + bias - logits).abs().max()
    return bool(gap <= _tolerance(z) * (logits.abs().max() + cells.abs().sum(-1).max()))


def _scaled_noise(scale: float, seed: int, leaf: Tensor) -> Tensor:
    return scale * noise_like(leaf[:1], seed)


def _tolerance(z: Any) -> float:
    return max(TOLERANCE.get(leaf.dtype, 1e-4) for leaf in tree_leaves(z))


def _code_of(head: Any) -> Hashable:
    """Return a key that distinguishes heads without keeping the model alive."""
    function = getattr(head, "__func__", head)
    return (getattr(function, "__code__", None), type(head))
