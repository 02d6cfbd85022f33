"""Decomposition of an answer by a pseudo-linear network's own sum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from xai_align._tools.counted import counted
from xai_align.pinet.decomposition import Decomposition, decomposition_of
from xai_align.pinet.input_checks import check_logits
from xai_align.pinet.network.pseudo_linear import PseudoLinear
from xai_align.question import Question, linear_forms


def second_look_decomposition(
    model: PseudoLinear, inputs: Sequence[Any], extra: Sequence[Any], questions: Sequence[Question]
) -> tuple[Decomposition, bool]:
    """Return the decomposition over the network's own ``z``, and whether it is local, as it is for linear questions.

    With ``answer = sum_k w_k logit_k + r``, a feature contributes ``sum_k w_k s_k pi_k z_k`` and the bias is
    ``sum_k w_k a_k + r``.
    """
    check_one_batch(model, inputs, extra)
    with torch.no_grad():
        look = model.explain(inputs[0])
        logits = check_logits(look.logits)
        weights, rest = linear_forms(questions, logits)
        decomposition = decomposition_of(
            logits,
            weights,
            rest,
            (look.contributions_to(weights),),
            (weights * look.bias).sum(1),
            coefficients=look.coefficients_to(weights),
        )
    return decomposition, all(one.is_linear for one in questions)


def check_one_batch(model: PseudoLinear, inputs: Sequence[Any], extra: Sequence[Any]) -> None:
    """Raise if a pseudo-linear network is given anything other than one batch of images.

    Raises:
        ValueError: the arguments are something else; the message names them.
    """
    if len(inputs) != 1 or extra:
        raise ValueError(
            f"a {type(model).__name__} takes one batch of images, got {counted(len(inputs), 'input')} and "
            f"{counted(len(extra), 'further argument')}"
        )
