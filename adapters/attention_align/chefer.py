"""Relevance through attention (Chefer, Gur & Wolf, ICCV 2021, arXiv 2103.15679), for self-attention."""

from __future__ import annotations

import torch
from torch import Tensor

from attention_align.answer_rows import answer_rows
from attention_align.attention_method import AttentionMethod
from attention_align.attention_trace import AttentionTrace
from attention_align.layer_gradients import gradients
from xai_align.question import Question, answers


class Chefer(AttentionMethod):
    """Attention weighted by its gradient: ``A_bar = mean_h relu(dy/dA * A)``, ``R <- R + A_bar R`` from ``R = I``.

    The map is the row of the class token, the mean of the rows of class and distillation token, or, for a pooled
    network, the mean of the rows of the patch tokens. The identity that ``R`` starts from is left out: it is zero
    at the patches of a class token's row, and a constant in a mean over all patches.

    Example::

        import timm

        network = timm.create_model("test_vit", img_size=32).eval()
        Chefer(network).attribute(torch.rand(2, 3, 32, 32), target=0)  # [2, 3, 32, 32]
    """

    name = "chefer"

    def relevance(self, trace: AttentionTrace, questions: list[Question]) -> Tensor:
        """Return ``e R - e`` with the rows ``e`` from which the answer is computed, ``[N, L]``."""
        e = answer_rows(trace).unsqueeze(1)
        r = torch.zeros_like(e)  # e R - e, which is often far below 1
        y = answers(questions, trace.logits).sum()  # an image's answer depends on its own attention alone
        for A, dA in reversed([*zip(trace.weights, gradients(y, trace.weights), strict=True)]):
            A_bar = (dA * A.detach()).clamp(min=0).mean(1)
            # R_L = (I + A_bar_L) ... (I + A_bar_1)
            r = r + torch.bmm(e + r, A_bar)
        return r.squeeze(1)
