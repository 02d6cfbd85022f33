"""Tokens that the network's head reads: rows of the attention matrices from which an answer is computed."""

from __future__ import annotations

import torch
from torch import Tensor

from attention_align.attention_trace import AttentionTrace


def answer_rows(trace: AttentionTrace) -> Tensor:
    """Return weights ``[N, L]`` that average over the tokens from which the logits are computed.

    These are the class token, the class and the distillation token, or all patch tokens of a pooled network. They are
    found by the gradient of the squared logits: a row of the last attention matrix has one if its token is read.

    Raises:
        ValueError: the logits depend on no token of the last attention layer.
    """
    score = trace.logits.square().sum()
    gradient = None
    if score.requires_grad:
        (gradient,) = torch.autograd.grad(score, trace.weights[-1], retain_graph=True, allow_unused=True)
    reads = torch.zeros(()) if gradient is None else (gradient != 0).any(-1).any(1)
    if reads.dim() != 2 or not bool(reads.any(1).all()):
        raise ValueError(
            "the logits do not depend on the last attention layer, so there is no token to follow back; are the head's "
            "weights zero, or is its input detached?"
        )
    rows = reads.to(trace.weights[-1].dtype)
    return rows / rows.sum(1, keepdim=True)
