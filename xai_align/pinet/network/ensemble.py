"""Ensemble of PiNets, whose mean is again one sum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from xai_align.pinet.network.second_look import SecondLook
from xai_align.pinet.network.self_readout import SelfReadout

if TYPE_CHECKING:
    from xai_align.pinet.network.module import PiNet


class PiNetEnsemble(SelfReadout):
    """Mean of several PiNets, exactly pseudo-linear like its members.

    ``logit_E = mean_m logit_m = mean_m a_m + sum(Pi_E * z)`` with ``Pi_E = mean_m s_m pi_m``. The coefficients include
    the members' scales; the ensemble's own scale is one. Where members have readable features of their own (learned
    ones, class evidence), all features are concatenated as channels, each with its member's coefficients.

    Args:
        members: PiNets with the same classes and maps of the same size. They are not copied.

    Raises:
        ValueError: there are no members, or their classes differ.

    Source: Lobet & Chiaromonte 2026 (arXiv 2601.04378).

    Example::

        ensemble = PiNetEnsemble([conv_pinet(5, in_channels=3, width=8).eval() for _ in range(2)])
        ensemble.explain(images).maps  # [2, 5, 32, 32]
    """

    members: nn.ModuleList

    def __init__(self, members: Sequence[PiNet]) -> None:
        super().__init__()
        if not members:
            raise ValueError("an ensemble has at least one member; give a list of PiNets")
        classes = [member.num_classes for member in members]
        if len(set(classes)) > 1:
            raise ValueError(f"the members have {classes} classes; they must agree to be averaged")
        self.members = nn.ModuleList(members)
        self.training = any(member.training for member in members)
        self.readable = members[0].readable

    @property
    def num_classes(self) -> int:
        """``K``."""
        return self.members[0].num_classes  # type: ignore[return-value]

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``[N, K]``, the members' mean."""
        return torch.stack([member(x) for member in self.members]).mean(0)

    def explain(self, x: Tensor) -> SecondLook:
        """Return the mean logits with all terms of their sum.

        Raises:
            ValueError: the members' maps differ in size.
        """
        looks = [member.explain(x) for member in self.members]  # type: ignore[operator]
        sizes = {tuple(look.coefficients.shape[-2:]) for look in looks}
        if len(sizes) > 1:
            raise ValueError(f"the members' maps have the sizes {sorted(sizes)}; an ensemble needs maps of one size")
        scaled = [look.scale[:, None, None, None] * look.coefficients for look in looks]  # s_m pi_m
        one = torch.ones_like(looks[0].scale)
        if _same([look.z for look in looks]):
            scale, coefficients, z = one, torch.stack(scaled).mean(0), looks[0].z
        else:
            scale, coefficients, z = one / len(looks), *_side_by_side(scaled, [look.z for look in looks])
        return SecondLook(
            logits=torch.stack([look.logits for look in looks]).mean(0),
            coefficients=coefficients,
            z=z,
            scale=scale,
            bias=torch.stack([look.bias for look in looks]).mean(0),
        )


def _same(features: Sequence[Tensor]) -> bool:
    first = features[0]
    return all(one.shape == first.shape and torch.equal(one, first) for one in features[1:])


def _side_by_side(coefficients: Sequence[Tensor], features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return coefficients and features of all members, concatenated as channels."""
    classes = max(z.shape[1] for z in features)
    z = torch.cat([z.expand(-1, classes, -1, -1, -1) for z in features], 2)
    spread = [pi.expand(-1, -1, one.shape[2], -1, -1) for pi, one in zip(coefficients, features, strict=True)]
    return torch.cat(spread, 2), z
