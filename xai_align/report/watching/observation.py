"""One picture's explanation at one step of a training, and its agreement with the previous one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from xai_align.evaluation.agreement import agreement

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from xai_align.explanation import Explanation
    from xai_align.question import Question

#: The most important features that are compared with those of the map before, as a share of the pixels.
TOP = 0.1
#: Names of the measures of agreement, with those of :func:`~xai_align.evaluation.agreement`.
MEASURES = {"rank_correlation": "rc", "top_overlap": "iou", "top_sign_agreement": "sa"}


@dataclass(frozen=True, kw_only=True)
class Observation:
    """One picture at one call.

    Attributes:
        name: of the picture.
        question: what was explained.
        map: ``[H, W]``, on the CPU.
        overlay: ``[h, w, 3]``, uint8: the map over the grey picture.
        answer: the question's answer, in logits.
        completeness_error, amplification: as in :class:`~xai_align.Readout`; None for methods without a decomposition.
        rank_correlation: Pearson's r of the ranks of the pixels by magnitude, with the map at the call before.
        top_overlap: intersection over union of the 10 % of pixels with the largest magnitude, with the map before.
        top_sign_agreement: share of those 10 % that both maps have, with the same sign. These three are None at the
            first call, and where the question differs from that of the previous call; the first is also None where
            all pixels of a map have the same magnitude.

    Example::

        from xai_align.report.watching import ExplanationLog

        log = ExplanationLog(images, labels, folder=folder)
        for seen in log.step(model):
            seen.numbers  # {"answer": 1.2, "completeness_error": 1e-07, "amplification": 3.1}
    """

    name: str
    question: Question
    map: Tensor
    overlay: NDArray[np.uint8]
    answer: float
    completeness_error: float | None
    amplification: float | None
    rank_correlation: float | None
    top_overlap: float | None
    top_sign_agreement: float | None

    @property
    def numbers(self) -> dict[str, float]:
        """All available numbers, by name."""
        names = ("answer", "completeness_error", "amplification", *MEASURES)
        return {name: value for name in names if (value := getattr(self, name)) is not None}


def account_of(explanation: Explanation, index: int) -> dict[str, Any]:
    """Return the answer, the completeness error and the amplification of one example, as fields."""
    readout = explanation.readout
    return {
        "answer": float(explanation.answer[index]),
        "completeness_error": None if readout is None else float(readout.completeness_error[index]),
        "amplification": None if readout is None else float(readout.amplification[index]),
    }


def agreement_with(before: Tensor | None, values: Tensor) -> dict[str, Any]:
    """Return the measures of agreement of a map ``[H, W]`` with the one before, as fields."""
    if before is None:
        return dict.fromkeys(MEASURES)
    found = agreement(values[None], before[None], k=TOP, metrics=tuple(MEASURES.values()))
    numbers = {name: float(found[short]) for name, short in MEASURES.items()}
    return {name: None if math.isnan(value) else value for name, value in numbers.items()}


def mean_numbers(observations: tuple[Observation, ...]) -> dict[str, float]:
    """Return the mean of each number over the pictures that have it; of completeness errors, of their magnitudes."""
    rows = [one.numbers for one in observations]
    for row in rows:
        if "completeness_error" in row:
            row["completeness_error"] = abs(row["completeness_error"])
    names = dict.fromkeys(name for row in rows for name in row)
    return {
        name: float(torch.tensor([row[name] for row in rows if name in row], dtype=torch.float64).mean())
        for name in names
    }
