"""Loss of :mod:`~xai_align.fei.curve`: deletion less insertion at one share of the image, and hidden deviations."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.linalg import vector_norm
from torch.nn.functional import interpolate, pad

from xai_align._tools.drawn import integer_below, uniform
from xai_align.features.hidden_layers import LayerHooks, check_batch_first
from xai_align.fei.composites import CompositeAnswers
from xai_align.fei.quantile_masks import quantile_masks
from xai_align.fei.random_fills import Fills
from xai_align.fei.removal import Removal, with_hidden


@dataclass(frozen=True, kw_only=True)
class CurveLoss:
    """Loss of maps at one share of the image, ``L = P(x_del) - P(x_ins) + w D``.

    Attributes:
        shift: maximum shift of masks in pixels, a multiple of ``unit``.
        mirrors: whether half of the composites are flipped left to right.
        deviation_weight: ``w``.
        removal: what hides the rest of the image, see :mod:`~xai_align.fei.removal`.
        upsampling: the mode of :func:`torch.nn.functional.interpolate` that spreads cells over the image.
        unit: masks are shifted by whole ``unit`` pixels.
    """

    shift: int
    mirrors: bool
    deviation_weight: float
    removal: Removal = "fill"
    upsampling: str = "bilinear"
    unit: int = 1

    def __call__(
        self,
        asked: CompositeAnswers,
        s: Tensor,
        p: float,
        tau: float,
        fills: Fills,
        stages: StageDeviations | None,
        offset: Tensor,
        generator: torch.Generator,
    ) -> Tensor:
        """Return the loss, ``[N]``.

        Args:
            asked: the network's answers for composites of the images.
            s: standardised scores ``[N, h, w]``.
            p: the share of the image.
            tau: temperature of the masks.
            fills: source of the fills, one for each composite.
            stages: the hidden layers whose deviation counts; None: none.
            offset: subtracted from the log-odds, ``[N]``.
            generator: of the mask's shift, the flips and the kind of removal.
        """
        x = asked.inputs
        on_image = interpolate(s[:, None], x.shape[2:], mode=self.upsampling)[:, 0]
        m = self._shifted(quantile_masks(on_image, (p,), tau), generator)
        x_ins, x_del = (with_hidden(x, shown, fills, self.removal, generator) for shown in (m, 1 - m))
        mirrored = [self._tossed(generator), self._tossed(generator)]
        shown = [one.flip(-1) if flipped else one for one, flipped in zip((x_ins, x_del), mirrored, strict=True)]
        both = torch.cat(shown, 1)
        if stages is None:
            probability = torch.sigmoid(asked(both) - offset[:, None])
            return probability[:, 1] - probability[:, 0]
        # cloned, as later layers may work in place
        with stages.hooks.calling(lambda name, out: out.clone()) as seen:
            probability = torch.sigmoid(asked(both) - offset[:, None])
        return probability[:, 1] - probability[:, 0] + self.deviation_weight * stages.deviations(seen, mirrored).mean(1)

    def _shifted(self, m: Tensor, generator: torch.Generator) -> Tensor:
        """Shift masks by up to ``shift`` pixels each way, with replicated borders."""
        most = self.shift // self.unit
        reach = most * self.unit
        down, right = (self.unit * (integer_below(2 * most + 1, generator) - most) for _ in range(2))
        wide = pad(m, (reach,) * 4, mode="replicate")
        return wide[..., reach + down : reach + down + m.shape[-2], reach + right : reach + right + m.shape[-1]]

    def _tossed(self, generator: torch.Generator) -> bool:
        """Draw whether a composite is mirrored."""
        heads = float(uniform((), generator)) < 0.5
        return self.mirrors and heads


@dataclass(frozen=True)
class StageDeviations:
    """Deviation ``D`` of hidden layers from their activations for the unchanged images.

    ``clean`` has each layer's activations ``[N, 2, ...]`` for the images and for the mirrored ones, which mirrored
    composites are compared with.
    """

    hooks: LayerHooks
    clean: dict[str, Tensor]

    @classmethod
    def of(cls, hooks: LayerHooks, asked: CompositeAnswers) -> StageDeviations:
        """Record the layers for the unchanged images."""
        with torch.no_grad(), hooks.calling(lambda name, out: out.clone()) as seen:
            asked(torch.stack([asked.inputs, asked.inputs.flip(-1)], 1))
        check_batch_first(seen, 2 * len(asked.inputs))
        return cls(hooks, {name: a.unflatten(0, (len(asked.inputs), 2)) for name, a in seen.items()})

    @cached_property
    def energies(self) -> dict[str, Tensor]:
        """Each layer's ``|a_l(x)|^2``, ``[N, 2]``."""
        return {name: _energy(a) for name, a in self.clean.items()}

    def deviations(self, seen: dict[str, Tensor], mirrored: list[bool]) -> Tensor:
        """Return ``mean_l |a_l(x) - a_l(x')|^2 / |a_l(x)|^2``, ``[N, M]``, of ``M`` composites of each image."""
        sides = [int(flipped) for flipped in mirrored]
        each = []
        for name, clean in self.clean.items():
            now = seen[name].unflatten(0, (len(clean), -1))
            change = _energy(now - _of_sides(clean, sides))
            energy = self.energies[name][:, sides]
            each.append(change / torch.where(energy > 0, energy, 1))
        return torch.stack(each).mean(0)


def _energy(a: Tensor) -> Tensor:
    """Return ``|a|^2``, ``[N, M]``, without the copies that flattening or squaring large layers in any format takes."""
    return vector_norm(a, dim=tuple(range(2, a.ndim))).square()


def _of_sides(clean: Tensor, sides: list[int]) -> Tensor:
    """Return the activations that composites are compared with, as a view if all are on the same side."""
    first = sides[0]
    return clean[:, first : first + 1] if set(sides) == {first} else torch.stack([clean[:, k] for k in sides], 1)
