"""Matrices that mix channels: steps by the matrix exponential, and the nearest rotation.

Source of the parametrisation: EPIC (arXiv 2505.12897), ``U = exp(W - W^T)`` or ``U = exp(W)``. The derivative of
the exponential at 0 is the identity, so here each step goes from where the last one ended, ``U <- exp(A) U`` (Lezcano
Casado 2019, arXiv 1909.09501, "dynamic trivializations"): the same matrices, without the derivative of an exponential,
which takes 20 s for 1280 channels on two cores.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

#: Terms of the exponential's series below this size are left out; rounds end with an exact rotation.
_SMALLEST_TERM = 1e-6
#: Adam's averages.
_BETA_1, _BETA_2, _EPSILON = 0.9, 0.999, 1e-8


def exponential_times(direction: Tensor, matrix: Tensor) -> Tensor:
    """Return ``exp(A) U`` by the series ``U + A U + A (A U) / 2 + ...``."""
    term, total = matrix, matrix.clone()
    for number in range(1, 60):
        term = direction @ term / number
        total += term
        if float(term.abs().max()) < _SMALLEST_TERM:
            break
    return total


def nearest_rotation(matrix: Tensor) -> Tensor:
    """Return the orthogonal matrix nearest to ``matrix`` (its polar factor), computed in float64.

    It maximises ``tr(U^T C)`` over rotations ``U`` (orthogonal Procrustes, Schoenemann 1966).
    """
    left, _, right = torch.linalg.svd(matrix.double())
    return (left @ right).to(matrix.dtype)


@dataclass
class AdamOnMatrices:
    """Adam on ``A`` in ``U <- exp(A) U``.

    Attributes:
        mean, square: running means of the gradient and its square, ``[D, D]``.
        step: number of steps so far.
        orthogonal: whether ``A`` is kept skew, so that ``exp(A)`` is a rotation.
        learning_rate: size of a step.
    """

    mean: Tensor
    square: Tensor
    step: int
    orthogonal: bool
    learning_rate: float

    def move(self, matrix: Tensor, gradient: Tensor) -> Tensor:
        """Return the matrix after a step against ``gradient``, the loss's derivative with respect to ``U``."""
        slope = gradient @ matrix.T  # d loss / d A at A = 0, for U <- exp(A) U
        slope = slope - slope.T if self.orthogonal else slope
        self.step += 1
        self.mean.lerp_(slope, 1 - _BETA_1)
        self.square.lerp_(slope.square(), 1 - _BETA_2)
        mean = self.mean / (1 - _BETA_1**self.step)
        root = (self.square / (1 - _BETA_2**self.step)).sqrt() + _EPSILON
        return exponential_times(-self.learning_rate * mean / root, matrix)
