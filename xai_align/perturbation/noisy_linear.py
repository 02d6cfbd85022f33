"""Noisy linear imputation: removed pixels are filled in from the kept ones, to hide the shape of the mask.

Rong et al., A Consistent and Efficient Evaluation Strategy for Attribution
Methods (ROAD), ICML 2022, arXiv 2202.00449, section 5: a removed pixel is the
weighted mean of its neighbours, 1/6 for each of the four direct ones and 1/12
for each diagonal one, plus a little Gaussian noise. Neighbours that are
removed too are unknowns of the same linear system. At the border the mean is
over the neighbours inside the image.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from xai_align._tools.checks import check_number
from xai_align._tools.drawn import normal
from xai_align.perturbation.masked_diffusion import fill_holes

#: Unknowns solved for at once. On a CPU the arrays of the solver should fit in its cache.
_AT_ONCE_ON_CPU, _AT_ONCE_ELSEWHERE = 2**19, 2**26


@dataclass(frozen=True)
class NoisyLinear:
    """Imputer of ROAD, for a whole batch at once on any device.

    Attributes:
        noise: standard deviation of the noise, in the units of the inputs. It is added to the
            solution and is not part of the system.
        seed: seed of the noise, which is the same for every image of a shape ``[C, H, W]``, every mask and device.
        tolerance: a bound on the solver's last correction, as a share of the range of an image's known
            values. With the default the filled values are within 1e-3 of that range, mostly within 1e-4.

    Example::

        removed = torch.rand(2, 1, 32, 32) < 0.5
        filled = NoisyLinear(noise=0.0).impute(images, removed)  # [2, 3, 32, 32]
    """

    noise: float = 0.01
    seed: int = 0
    tolerance: float = 2e-4

    def __post_init__(self) -> None:
        check_number("noise", self.noise)
        check_number("tolerance", self.tolerance, least=1e-12, most=0.1)

    def impute(self, inputs: Tensor, removed: Tensor) -> Tensor:
        """Return the inputs with the removed pixels filled in; the others are kept bit for bit.

        Solved in float32, or in float64 for float64 inputs, without gradients.
        If all pixels are removed, any constant solves the system, and each
        channel's mean is used. Otherwise the values at removed pixels are not read.

        Args:
            inputs: ``[M, C, H, W]``, floating point.
            removed: ``[M, 1, H, W]``, bool.

        Returns:
            ``[M, C, H, W]``, the dtype of the inputs.

        Raises:
            TypeError: the inputs are not floating point, or ``removed`` is not bool.
            ValueError: the shapes do not fit, or a value that is kept is NaN or infinite.
            RuntimeError: the solver did not reach the tolerance.
        """
        _check(inputs, removed)
        inputs, removed = inputs.detach(), removed.to(inputs.device)
        if not removed.any():
            return inputs.clone()
        noise = self.noise * self._noise_field(inputs)
        at_once = _AT_ONCE_ON_CPU if inputs.device.type == "cpu" else _AT_ONCE_ELSEWHERE
        examples = max(1, at_once // inputs[0].numel())
        filled = [
            torch.where(holes, (self._solution(x, holes) + noise).to(x.dtype), x)
            for x, holes in zip(inputs.split(examples), removed.split(examples), strict=True)
        ]
        return torch.cat(filled)

    def _solution(self, inputs: Tensor, removed: Tensor) -> Tensor:
        """Return the solution of the system, without noise, in the dtype of the solver."""
        x = inputs.to(_solved_in(inputs))
        nothing_known = removed.flatten(1).all(1)[:, None, None, None]
        holes = removed & ~nothing_known
        low = x.masked_fill(holes, torch.inf).amin((2, 3), keepdim=True)
        high = x.masked_fill(holes, -torch.inf).amax((2, 3), keepdim=True)
        middle, width = low + (high - low) / 2, (high - low).amax(1, keepdim=True)
        if not width.isfinite().all():
            raise ValueError(
                "the kept pixels of the inputs hold NaN, infinity, or values whose range overflows; use finite inputs"
            )
        # centred, so that a constant channel is zero and is filled exactly
        unit = torch.where(width > 0, width, 1.0)
        solution = fill_holes((x - middle) / unit, holes, tolerance=self.tolerance) * unit + middle
        return torch.where(nothing_known, x.mean((2, 3), keepdim=True), solution)

    def _noise_field(self, inputs: Tensor) -> Tensor:
        """Return standard normal noise ``[C, H, W]``, drawn on the CPU so that it is the same on every device."""
        generator = torch.Generator().manual_seed(self.seed)
        field = normal(inputs.shape[1:], generator)
        return field.to(inputs.device, _solved_in(inputs))


def _solved_in(inputs: Tensor) -> torch.dtype:
    return torch.float64 if inputs.dtype == torch.float64 else torch.float32


def _check(inputs: Tensor, removed: Tensor) -> None:
    if not inputs.is_floating_point():
        raise TypeError(f"the inputs must be floating-point images, got {inputs.dtype}")
    if removed.dtype != torch.bool:
        raise TypeError(f"removed must be a boolean mask, True where a pixel is removed, got {removed.dtype}")
    if inputs.dim() != 4:
        raise ValueError(f"the inputs must have the shape [M, C, H, W], got {list(inputs.shape)}")
    expected = [len(inputs), 1, *inputs.shape[2:]]
    if list(removed.shape) != expected:
        raise ValueError(
            f"removed has shape {list(removed.shape)}, the inputs {list(inputs.shape)}; "
            f"give one mask for each image, {expected}"
        )
