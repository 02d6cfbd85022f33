"""Objective of amortised FEI: the solver's own loss of a map, over images, shares and fills.

    L = P(x_del) - P(x_ins) + w D            at a share p, see :mod:`~xai_align.fei.curve`

The score network is trained on this loss itself and not on maps of ``fei``. Maps as targets would cost 100 passes for
each image before the first step, hold the noise of a search that saw every share once or twice, and reward a map that
resembles them where it makes no difference. The loss needs no targets, about 7 passes for an image and step, and its
noise averages out over the photographs.

Hidden layers of the unchanged images, of which the deviation ``D`` is measured, come from the pass in which the score
network's inputs are read. As they are needed in full at every step, nothing is cached, and memory does not grow with
the number of images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from xai_align._tools.memory_format import fastest_format
from xai_align._tools.replica import Replica
from xai_align.features.hidden_layers import LayerHooks
from xai_align.fei.amortised.explained_network import ExplainedNetwork, Seen
from xai_align.fei.composites import CompositeAnswers
from xai_align.fei.curve_loss import CurveLoss, StageDeviations
from xai_align.fei.curve_search import NARROWEST, log_odds, offsets
from xai_align.fei.quantile_masks import standardised
from xai_align.fei.random_fills import random_fills
from xai_align.fei.solid_colours import Normalization
from xai_align.question import Question, answers
from xai_align.training.choices import Precision

#: Largest shift of masks, as a share of the shorter side of the image: about half a cell, as in the search.
SHIFT = 1 / 56


@dataclass(frozen=True, kw_only=True)
class CurveObjective:
    """Loss of maps on an explained network.

    Attributes:
        explained: the network as a score network sees it.
        copy: the copy that composites run through.
        hooks: on the copy's layers whose deviation counts; None: none counts.
        memory_format: of the composites.
        fills: the kinds of fills.
        normalization: of the images, for solid colours.
        deviation_weight: ``w``.
        precision: of the passes of composites.
    """

    explained: ExplainedNetwork
    copy: nn.Module
    hooks: LayerHooks | None
    memory_format: torch.memory_format
    fills: Sequence[str]
    normalization: Normalization | None
    deviation_weight: float
    precision: Precision

    @classmethod
    def on(
        cls,
        model: nn.Module,
        explained: ExplainedNetwork,
        image: Tensor,
        *,
        fills: Sequence[str],
        normalization: Normalization | None,
        deviation_weight: float,
        precision: Precision,
    ) -> CurveObjective:
        """Build the objective for a network and images like ``image``, ``[1, C, H, W]``."""
        copy = Replica(model).module
        return cls(
            explained=explained,
            copy=copy,
            hooks=LayerHooks.on(copy, explained.names) if deviation_weight else None,
            memory_format=fastest_format(model, image),
            fills=fills,
            normalization=normalization,
            deviation_weight=deviation_weight,
            precision=precision,
        )

    def losses(
        self,
        s: Tensor,
        x: Tensor,
        seen: Seen,
        questions: Sequence[Question],
        *,
        share: float,
        tau: float,
        generator: torch.Generator,
    ) -> Tensor:
        """Return ``L`` of maps, ``[N]``, differentiable in the maps.

        Args:
            s: scores ``[N, h, w]``.
            x: the images ``[N, C, H, W]``.
            seen: what the network did with them.
            questions: one for each image.
            share: the share ``p``.
            tau: temperature of the masks.
            generator: of fills and shifts, on the CPU.
        """
        odds = tuple(log_odds(question) for question in questions)
        wide = x.to(seen.start.dtype)
        asked = CompositeAnswers(
            wide,
            (),
            self.copy,
            odds,
            (),
            x.dtype,
            self.memory_format,
            partial(torch.autocast, x.device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16"),
        )
        clean = {name: output[:, None] for name, output in seen.outputs.items()}
        # whole images are flipped, so composites are not
        loss = CurveLoss(shift=round(min(x.shape[2:]) * SHIFT), mirrors=False, deviation_weight=self.deviation_weight)
        return loss(
            asked,
            standardised(s),
            min(max(share, NARROWEST), 1 - NARROWEST),
            tau,
            random_fills(wide, self.fills, generator, normalization=self.normalization),
            None if self.hooks is None else StageDeviations(self.hooks, clean),
            offsets(odds, answers(odds, seen.logits)),
            generator,
        )
