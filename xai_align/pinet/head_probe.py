"""Is the part of a network after its feature space affine? Then a readout there is local."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from xai_align.model_state import frozen_parameters, unchanged_rng

#: Magnitudes at which affinity is tested: an activation that is nearly linear for
#: small features bends for large ones, and one that saturates for large ones does not for small.
SCALES = (1.0, 1e2, 1e4)
#: ``|h(.3a + .7b) - .3h(a) - .7h(b)|`` over ``|h|``. Affine heads show rounding, others 1e-2 to 1.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}

_verdicts: WeakKeyDictionary[nn.Module, dict[Hashable, bool]] = WeakKeyDictionary()


def is_affine(model: nn.Module, head: Callable[[Any], Tensor], z: Any) -> bool:
    """Whether ``head``, part of ``model``, is an affine function of features like ``z``.

    Tested on random features of one example at three magnitudes, once for each
    state of the model's parameters and shape of ``z``. RNG state and parameters
    are left as they were.
    """
    return remembered(model, z, "affine", lambda: _is_affine(model, head, z))


def remembered(model: nn.Module, z: Any, what: str, find_out: Callable[[], bool]) -> bool:
    """``find_out()``, asked anew only when the model's parameters or the shape of ``z`` have changed."""
    signature = _signature(model)
    known = _verdicts.setdefault(model, {})
    if known.get("signature") != signature:
        known.clear()
        known["signature"] = signature  # type: ignore[assignment]
    key = (what, tuple((leaf.shape[1:], leaf.dtype) for leaf in tree_leaves(z)))
    if key not in known:
        known[key] = find_out()
    return known[key]


def _is_affine(model: nn.Module, head: Callable[[Any], Tensor], z: Any) -> bool:
    with unchanged_rng(), torch.inference_mode(False), torch.no_grad(), frozen_parameters(model):
        torch.manual_seed(0)
        return all(_affinity_error(head, z, scale) <= _tolerance(z) for scale in SCALES)


def _affinity_error(head: Callable[[Any], Tensor], z: Any, scale: float) -> float:
    a, b = (tree_map(lambda leaf: scale * torch.randn_like(leaf[:1]), z) for _ in range(2))
    mixed = tree_map(lambda left, right: 0.3 * left + 0.7 * right, a, b)
    h_a, h_b, h_mixed = (head(features).double() for features in (a, b, mixed))
    size = max(float(h_a.abs().max()), float(h_b.abs().max()), 1e-30)
    return float((h_mixed - 0.3 * h_a - 0.7 * h_b).abs().max()) / size


def _tolerance(z: Any) -> float:
    return max(TOLERANCE.get(leaf.dtype, 1e-4) for leaf in tree_leaves(z))


def _signature(model: nn.Module) -> int:
    return hash(tuple((id(p), 0 if p.is_inference() else p._version) for p in model.parameters()))
