"""Fills: the values that replace removed features.

A fill is a number, a name of :data:`FILLS`, a tensor, a function of the
inputs, or an imputer: an object whose ``impute(inputs, removed)`` computes the
fill from the features that are kept, as noisy linear imputation does. With the
name "drop" nothing is filled: patches are left out of a transformer's tokens
(:mod:`~xai_align.perturbation.dropping_network`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from math import exp
from numbers import Real
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor, nn

from xai_align._tools.checks import check_choice, check_finite, check_integer, check_number, check_seed
from xai_align._tools.drawn import integer_below, normal, uniform


@runtime_checkable
class Imputer(Protocol):
    """Fill that depends on which features are removed."""

    def impute(self, inputs: Tensor, removed: Tensor) -> Tensor:
        """Return inputs ``[M, C, H, W]`` with the pixels that ``removed`` (``[M, 1, H, W]``, bool) marks filled in."""


#: Function from rows of a batch (``[M]`` indices) and the mask of removed features to the perturbed inputs.
Filler: TypeAlias = Callable[[Tensor, Tensor], Tensor]


def channel_means(inputs: Tensor) -> Tensor:
    """Return each example's mean over positions, for each channel, in the inputs' shape."""
    axes = tuple(range(2, inputs.dim())) if inputs.dim() > 3 else (1,)
    return inputs.mean(axes, keepdim=True).expand_as(inputs)


@dataclass(frozen=True)
class GaussianBlur:
    """Blur as in RISE's evaluation (Petsiuk et al. 2018): 11 x 11 kernel of sigma 5, zero padding.

    The kernel is a Gaussian reflected into its window at the edges (so that it sums to one): the result
    of filtering a unit impulse with reflecting borders.

    Example::

        blurred = GaussianBlur()(images)  # [2, 3, 32, 32]
        perturbation_curve(model, images, images.abs(), baselines=GaussianBlur(size=5, sigma=2.0))
    """

    size: int = 11
    sigma: float = 5.0

    def __post_init__(self) -> None:
        if check_integer("size", self.size) % 2 == 0:
            raise ValueError(f"the size of a blur is {self.size}; give an odd number, so that the kernel has a middle")
        check_number("sigma", self.sigma, above=0)

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return blurred images ``[N, C, H, W]``.

        Raises:
            ValueError: the inputs are not images.
        """
        if inputs.dim() != 4:
            raise ValueError(f"blur needs images [N, C, H, W], the inputs have shape {list(inputs.shape)}")
        k = self._kernel().to(inputs)
        single = inputs.flatten(0, 1)[:, None]
        columns = nn.functional.conv2d(single, k[None, None, :, None], padding=(self.size // 2, 0))
        blurred = nn.functional.conv2d(columns, k[None, None, None, :], padding=(0, self.size // 2))
        return blurred.reshape(inputs.shape)

    def _kernel(self) -> Tensor:
        radius, middle = int(4 * self.sigma + 0.5), self.size // 2
        weights = {offset: exp(-0.5 * (offset / self.sigma) ** 2) for offset in range(-radius, radius + 1)}
        total = sum(weights.values())
        # the sample at i + offset, reflected into the window, is the impulse if it is the middle one
        return torch.tensor(
            [
                sum(w for offset, w in weights.items() if _reflected(i + offset, self.size) == middle) / total
                for i in range(self.size)
            ],
            dtype=torch.float64,
            device="cpu",
        )


@dataclass(frozen=True)
class Noise:
    """Noise fill: one random image for all examples, drawn from a seed and so the same in every run.

    ``distribution``: "normal" (standard normal, as in FEI's evaluation) or "uniform" on [0, 1] (as in RFxG's).

    Example::

        perturbation_curve(model, images, images.abs(), baselines=Noise("uniform", seed=1))
    """

    distribution: str = "normal"
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice("distribution", self.distribution, ("normal", "uniform"))
        check_seed(self.seed)

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return noise in the shape of the inputs."""
        generator = torch.Generator().manual_seed(self.seed)
        draw = normal if self.distribution == "normal" else uniform
        return draw(inputs.shape[1:], generator).to(inputs).expand_as(inputs)


def noise_from(generator: torch.Generator, distribution: str = "normal") -> Noise:
    """Return a noise fill whose seed is drawn from the caller's generator.

    Example::

        generator = torch.Generator().manual_seed(0)
        first, second = noise_from(generator), noise_from(generator)  # with different seeds
    """
    return Noise(distribution, integer_below(2**31, generator))


#: Fills by name. Numbers are in the units of the inputs: 0 is black only where inputs are not normalised.
FILLS: dict[str, Callable[[], Any]] = {
    "zero": lambda: 0.0,
    "mean": lambda: channel_means,
    "blur": GaussianBlur,
    "noise": Noise,
    "uniform": lambda: Noise("uniform"),
    "noisy_linear": lambda: _noisy_linear(),
}


def filler(fill: Any, inputs: Tensor, *, rows: Tensor | None = None) -> Filler:
    """Return ``fill_in(rows, removed)``, which gives the perturbed inputs of these rows.

    Args:
        fill: a number, a name of :data:`FILLS`, a tensor of the inputs' shape (or with a batch of
            one), a function of the inputs, or an :class:`Imputer`.
        inputs: ``[N, ...]``.
        rows: indices of the inputs in the caller's batch, if ``fill`` is a tensor for all of it.

    Raises:
        ValueError: an unknown name, or a fill that does not fit the inputs.
        TypeError: ``fill`` is of another type.
    """
    fill = by_name(fill)
    if isinstance(fill, Imputer):
        return lambda index, removed: fill.impute(inputs[index], removed)
    if isinstance(fill, Real) and not isinstance(fill, bool):  # NumPy's numbers, too
        number = float(fill)
        return lambda index, removed: inputs[index].masked_fill(removed, number)
    values = _values(fill, inputs, rows)
    return lambda index, removed: torch.where(removed, values[index], inputs[index])


def by_name(fill: Any) -> Any:
    """Return the fill of this name in :data:`FILLS`, or that of "drop"; other fills are returned as they are.

    Raises:
        ValueError: the name is not known.
    """
    if not isinstance(fill, str):
        return fill
    return _by_name()[check_choice("a fill by name", fill, _by_name())]()


def check_fill(fill: Any, inputs: Tensor) -> None:
    """Raise if a tensor among the fills is for another number of inputs ``[N, ...]``, or of another shape.

    Raises:
        ValueError: it is.
    """
    if isinstance(fill, Tensor):
        _check_shape(fill, inputs)


def label_of(fill: Any) -> str:
    """Return a short name for tables and file names, with the parameters of a record that are not the defaults.

    Example::

        label_of(Noise(seed=1))  # "noise seed=1"
    """
    if isinstance(fill, str):
        return fill
    if isinstance(fill, Real):
        return "zero" if fill == 0 else f"{float(fill):g}"
    if isinstance(fill, Tensor):
        return "tensor"
    changed = [
        f"{one.name}={getattr(fill, one.name)}"
        for one in (fields(fill) if is_dataclass(fill) and not isinstance(fill, type) else ())
        if isinstance(getattr(fill, one.name), int | float | str) and getattr(fill, one.name) != one.default
    ]
    return " ".join([getattr(fill, "__name__", type(fill).__name__).lower(), *changed])


def _values(fill: Any, inputs: Tensor, rows: Tensor | None) -> Tensor:
    if isinstance(fill, bool):
        raise TypeError("the fill is a boolean; give a number, a name, a tensor, a function or an imputer")
    if isinstance(fill, Tensor):
        values = fill.to(inputs)
        if rows is not None and fill.dim() and len(fill) > 1:
            values = values[rows]
    elif callable(fill):
        values = fill(inputs.clone())  # it may write into them
        if not isinstance(values, Tensor):
            raise ValueError(f"the fill returned {type(values).__name__}; a function of the inputs gives a tensor")
    else:
        raise TypeError(
            f"a fill of type {type(fill).__name__} is not understood; "
            f"give a number, one of {', '.join(FILLS)}, a tensor, a function of the inputs, or an imputer"
        )
    _check_shape(values, inputs)
    check_finite("the fill", values)
    return values.to(inputs.dtype).expand_as(inputs)


def _check_shape(values: Tensor, inputs: Tensor) -> None:
    if tuple(values.shape) not in ((), tuple(inputs.shape), (1, *inputs.shape[1:])):
        raise ValueError(
            f"the fill has shape {list(values.shape)}; "
            f"give the inputs' shape {list(inputs.shape)}, or a batch of one, {[1, *inputs.shape[1:]]}"
        )


def _reflected(index: int, size: int) -> int:
    """Return the index in the window after reflection at its borders: d c b a | a b c d | d c b a."""
    index %= 2 * size
    return index if index < size else 2 * size - 1 - index


def _by_name() -> dict[str, Callable[[], Any]]:
    """Return :data:`FILLS`, and "drop", which is only for networks that can omit some of their tokens."""
    return {**FILLS, "drop": _dropped}


def _dropped() -> Any:
    from xai_align.perturbation.dropped_patches import DroppedPatches

    return DroppedPatches()


def _noisy_linear() -> Any:
    from xai_align.perturbation.noisy_linear import NoisyLinear

    return NoisyLinear()
