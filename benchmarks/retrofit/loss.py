"""Loss of a retrofit's gate: insertion and deletion curves of its maps, judged by the frozen network.

The network itself is both teacher and judge. A map is good if the network still predicts the class with only the top
part of the map visible (insertion), and no longer does without it (deletion), for any share and any fill of the other
pixels. Optimised for one image, this objective gives one map in a hundred passes; here a decoder is trained with it on
many crops of a few photographs, and gives a map of an unseen photograph in one pass.
"""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, one_hot, softplus

from xai_align.perturbation.fills import GaussianBlur
from xai_align.pinet.network.losses import Batch, Explains, PiNetLoss, Seen, distillation_loss

#: Softness of a mask's edge, in units of the logarithm of the contributions.
EDGE = 0.5
#: Strengths of blurs, as factors by which the image's sides are reduced.
COARSE = (7, 14, 28)


@dataclass(frozen=True)
class CurveLoss(PiNetLoss):
    """Distillation, with the insertion and deletion curves of the frozen network.

    Args:
        insertion: weight of ``-log p`` of the class with only the map's top part visible.
        deletion: weight of ``-log(1 - p)`` with that part removed.
        concentration: weight of the entropy of the evidence for the class, 1 if it is uniform: parsimony.
        smoothness: weight of the total variation of the coefficients' logarithm.
        judge: the frozen network.
        judged_at: rows and columns of its input; 160 takes half the work of 224.
    """

    _: KW_ONLY
    prediction: float = 0.0
    insertion: float = 1.0
    deletion: float = 1.0
    concentration: float = 4.0
    smoothness: float = 0.05
    judge: nn.Module = field(repr=False)
    judged_at: int = 160

    @property
    def weights(self) -> dict[str, float]:
        """Return the weight of each term."""
        names = ("prediction", "distillation", "insertion", "deletion", "concentration", "smoothness")
        return {name: float(getattr(self, name)) for name in names}

    def terms(self, model: Explains, seen: Seen, batch: Batch) -> dict[str, Tensor]:
        """Return every term, unweighted."""
        assert batch.teacher is not None
        teacher = batch.teacher.float()
        sure, label = teacher.softmax(1).max(1)
        contributions = seen.contributions_to(one_hot(label, teacher.shape[1]).to(seen.logits))[:, 0]
        terms = {
            "distillation": distillation_loss(seen.logits, teacher),
            "concentration": concentration(contributions),
            "smoothness": total_variation(seen.coefficients[:, 0, 0].clamp(min=1e-4).log()),
        }
        if self.insertion or self.deletion:
            left, taken = self._played(batch.images, ranked(contributions), label)
            terms["insertion"] = (sure * -left).mean()  # a crop with an uncertain prediction is less informative
            terms["deletion"] = (sure * -torch.log1p(1e-4 - taken.exp())).mean()
        if self.prediction:
            terms["prediction"] = nn.functional.cross_entropy(seen.logits, batch.targets)
        return {name: terms[name] for name in self.names}

    def _played(self, images: Tensor, rank: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """Return log probabilities of the class with a random share of the map kept, and with another removed."""
        shares = torch.rand(2, len(images), device=images.device) ** 1.5  # the first pixels matter most
        keep, lose = (upper_part(rank, share) for share in shares)
        keep, lose = (interpolate(mask[:, None], images.shape[-2:], mode="bilinear") for mask in (keep, lose))
        left = keep * images + (1 - keep) * random_fills(images)
        rest = (1 - lose) * images + lose * random_fills(images)
        pair = torch.cat([left, rest])
        small = interpolate(pair, (self.judged_at, self.judged_at), mode="bilinear", antialias=True)
        with torch.autocast(images.device.type, torch.bfloat16):
            logits = self.judge(small.contiguous(memory_format=torch.channels_last))
        return tuple(logits.float().log_softmax(1).gather(1, label.repeat(2)[:, None])[:, 0].chunk(2))  # type: ignore[return-value]


def ranked(contributions: Tensor) -> Tensor:
    """Return the log of contributions ``[N, h, w]`` in units of the mean of the positive ones; soft below zero."""
    unit = contributions.clamp(min=0).mean((1, 2), keepdim=True).detach() + 1e-8
    return torch.log(softplus(4 * contributions / unit) / 4 + 1e-3)


def upper_part(rank: Tensor, share: Tensor) -> Tensor:
    """Return a soft mask ``[N, h, w]`` of the highest ranks: one half where ``share`` of the positions rank higher."""
    flat = rank.flatten(1)
    place = (share * (flat.shape[1] - 1)).long()[:, None]
    cut = flat.sort(1, descending=True).values.gather(1, place)
    return torch.sigmoid((rank - cut[:, :, None]) / EDGE)


def concentration(contributions: Tensor) -> Tensor:
    """Return the entropy of the positive part of contributions ``[N, h, w]``, relative to its maximum."""
    positive = contributions.clamp(min=0).flatten(1)
    shares = positive / (positive.sum(1, keepdim=True) + 1e-8)
    return -(shares * (shares + 1e-9).log()).sum(1).mean() / math.log(shares.shape[1])


def total_variation(maps: Tensor) -> Tensor:
    """Return the mean absolute difference of neighbours of maps ``[N, h, w]``."""
    return maps.diff(dim=1).abs().mean() + maps.diff(dim=2).abs().mean()


def random_fills(images: Tensor) -> Tensor:
    """Return for each (normalised with mean and std 0.5) one of: blur, strong blur, grey, its mean, a colour, noise."""
    return torch.stack([_random_fill(image) for image in images])


def _random_fill(image: Tensor) -> Tensor:
    match int(torch.randint(6, ())):
        case 0:
            return GaussianBlur()(image[None])[0]
        case 1:
            factor = COARSE[int(torch.randint(len(COARSE), ()))]
            small = interpolate(image[None], scale_factor=1 / factor, mode="bilinear", antialias=True)
            return interpolate(small, image.shape[-2:], mode="bilinear")[0]
        case 2:
            return torch.zeros_like(image)
        case 3:
            return image.mean((1, 2), keepdim=True).expand_as(image)
        case 4:
            return (2 * torch.rand(3, 1, 1, device=image.device) - 1).expand_as(image)
        case _:
            return torch.randn(image.shape, device=image.device)
