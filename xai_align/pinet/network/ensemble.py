"""Several PiNets that answer together, and still by one sum."""

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
    """The mean of several PiNets, exactly pseudo-linear as they are.

    ``logit_E = mean_m logit_m = mean_m a_m + sum(Pi_E * z)`` with ``Pi_E = mean_m s_m pi_m``. The coefficients have the
    members' scales inside; the ensemble's own scale is one. Where members look at features of their own (learned
    ones, class evidence), the features of all are laid side by side as channels, each with its member's
    coefficients.

    Args:
        members: PiNets with the same classes and maps of the same size. They are used as they are, not copied.

    Raises:
        ValueError: there are none, or they differ in their classes.

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
        """Logits ``[N, K]``: the members' mean."""
        return torch.stack([member(x) for member in self.members]).mean(0)

    def explain(self, x: Tensor) -> SecondLook:
        """The mean logits and everything that they are the sum of.

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
    """Coefficients and features of all members as channels of one."""
    classes = max(z.shape[1] for z in features)
    z = torch.cat([z.expand(-1, classes, -1, -1, -1) for z in features], 2)
    spread = [pi.expand(-1, -1, one.shape[2], -1, -1) for pi, one in zip(coefficients, features, strict=True)]
    return torch.cat(spread, 2), z
