"""Fitted explainer: a score network, and the fingerprint of the only network that it explains."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from xai_align.fei.amortised.fingerprint import Fingerprint
from xai_align.fei.amortised.score_network import ScoreNetwork


@dataclass(frozen=True, kw_only=True)
class AmortisedExplainer:
    """A trained score network, and what it was trained for.

    Attributes:
        network: the score network, in eval mode.
        fingerprint: of the explained network and its images.
        model: how the explained network is loaded again: its ``reference`` and the stated ``img_size``, ``in_chans``,
            ``mean`` and ``std``; None: it was given as a module.
        numbers: figures of the fit: images, steps, the loss on held-out images, and that of the readout's maps.

    Example::

        fitted = fit_fei(model, torch.rand(4, 3, 32, 32), epochs=1, batch_size=2)
        fitted.explainer.numbers["validation_start"]  # None: so few images were not divided
    """

    network: ScoreNetwork = field(repr=False)
    fingerprint: Fingerprint = field(repr=False)
    model: dict[str, Any] | None = None
    numbers: dict[str, Any] = field(default_factory=dict)
