"""Attention rollout (Abnar & Zuidema, ACL 2020, arXiv 2005.00928)."""

from __future__ import annotations

import torch
from torch import Tensor

from attention_align.answer_rows import answer_rows
from attention_align.attention_method import AttentionMethod
from attention_align.attention_trace import AttentionTrace
from xai_align.question import Question


class AttentionRollout(AttentionMethod):
    """Attention followed back through the layers: ``R = prod_l (0.5 A_l + 0.5 I)``, heads averaged.

    The map is the row of the class token, the mean of the rows of class and distillation token, or, for a pooled
    network, the mean of the rows of the patch tokens. It is the same for every question.

    Example::

        import timm

        network = timm.create_model("test_vit", img_size=32).eval()
        AttentionRollout(network).attribute(torch.rand(2, 3, 32, 32), target=0)  # [2, 3, 32, 32]
    """

    name = "attention_rollout"

    def relevance(self, trace: AttentionTrace, questions: list[Question]) -> Tensor:
        """Return ``r = e A'_L ... A'_1`` with the rows ``e`` from which the answer is computed, ``[N, L]``."""
        r = answer_rows(trace).unsqueeze(1)
        for A in reversed(trace.weights):
            A_bar = A.detach().mean(1)
            # A' = 0.5 A + 0.5 I, in which the identity stands for the residual connection
            r = 0.5 * torch.bmm(r, A_bar) + 0.5 * r
        return r.squeeze(1)
