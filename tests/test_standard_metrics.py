"""The metrics that run by name: each tells a right map from its opposite, in the direction it says."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from xai_align.evaluation import MetricDoesNotApply, hidden_layers
from xai_align.evaluation.standard_metrics import METRICS
from xai_align.plugins import metrics
from xai_align.question import Question

SIZE = 14
NAMES = {spec.name: spec for spec in METRICS}
#: Those that look at one side alone, or not at the order of pixels.
NO_OPPOSITE = {"tie_rate", "completeness_gap", "parameter_randomisation", "pointing_game", "energy_inside", "iou"}
#: As the authors committed them they measure no contrast, and have no better direction.
NO_CONTRAST = {"cgc_published", "cgs_published"}


class Corners(nn.Module):
    """Each class counts the light in one corner of a picture; what hidden units see is the picture itself."""

    def __init__(self) -> None:
        super().__init__()
        self.stage = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        half = SIZE // 2
        x = self.stage(x)
        corners = (x[..., :half, :half], x[..., :half, half:], x[..., half:, :half], x[..., half:, half:])
        return torch.stack([corner.mean((1, 2, 3)) for corner in corners], 1) * torch.tensor([12.0, 9.0, 2.0, 2.0])


def pictures() -> Tensor:
    """The first corner is the brightest, then the second; the others are dark."""
    half, light = SIZE // 2, torch.tensor([[1.0, 0.8], [-0.5, -0.5]])
    noise = 0.2 * torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    return light.repeat_interleave(half, 0).repeat_interleave(half, 1) + noise


def evidence(question: Question) -> Tensor:
    """What speaks for the question: the favoured corners less the rivals', without ties."""
    z = Corners()
    x = pictures().requires_grad_()
    weights = torch.stack([question.linear_form(row)[0] for row in z(x)])
    (gradient,) = torch.autograd.grad((z(x) * weights).sum(), x)
    ties = 1e-6 * torch.rand(x.shape, generator=torch.Generator().manual_seed(1))
    return (gradient * x).detach() + ties


QUESTIONS = {
    **dict.fromkeys(("ccs", "ccs_published", "cgc", "cgc_published", "cauc", "cdrop"), Question.why_not(0, 1)),
    **dict.fromkeys(("cgs", "cgs_published"), Question.why_group_not([0, 2], [1])),
    **dict.fromkeys(("pgs", "pgs_published"), Question.why_group([0, 2])),
}


@pytest.fixture(autouse=True)
def stages_of_corners(monkeypatch):
    monkeypatch.setattr(hidden_layers, "stages", lambda model: ("stage",))


@pytest.mark.filterwarnings("ignore::xai_align.evaluation.rfxg.ExhaustiveGroupsWarning")
@pytest.mark.parametrize("name", [name for name in NAMES if name not in NO_OPPOSITE | NO_CONTRAST])
def test_a_right_map_scores_better_than_its_opposite(name):
    question = QUESTIONS.get(name, Question.why(0))
    right = evidence(question)
    spec, model = NAMES[name], Corners().eval()
    good, bad = (spec.evaluate(model, pictures(), one, target=[question] * 2) for one in (right, -right))
    if name == "average_drop" or name == "average_increase":
        bad = bad.nan_to_num(1.0 if name == "average_drop" else 0.0)  # no positive part, no mask
    assert good.shape == (2,)
    if name.startswith("pathway") or name == "first_flip":
        # hidden units are the pixels: whichever go first, as many go; and one cell of 49 flips no corner
        assert good.isfinite().all()
        return
    assert ((good > bad) if spec.higher_is_better else (good < bad)).all(), (good, bad)


@pytest.mark.parametrize("name", ["ccs", "cgc", "cgs", "cauc", "cdrop"])
def test_contrasts_refuse_a_question_without_rivals(name):
    with pytest.raises(MetricDoesNotApply, match="this metric needs"):
        NAMES[name].evaluate(Corners().eval(), pictures(), evidence(Question.why(0)), target=[Question.why(0)] * 2)


def test_places():
    mask = torch.zeros(2, SIZE, SIZE, dtype=torch.bool)
    mask[:, :4, :4] = True
    inside, outside = mask.float()[:, None], (~mask).float()[:, None]
    for name in ("energy_inside", "iou"):
        good, bad = (NAMES[name].evaluate(None, pictures(), one, masks=mask) for one in (inside, outside))
        assert (good == 1).all()
        assert (bad < good).all()


def test_randomised_networks_explain_something_else():
    from captum.attr import InputXGradient

    from tests.networks import conv_net, images

    model, x = conv_net(), images(2)
    maps = InputXGradient(model).attribute(x, target=1)

    def again(other, inputs, target):
        return InputXGradient(other).attribute(inputs.clone().requires_grad_(), target=target).detach()

    values = NAMES["parameter_randomisation"].evaluate(
        nn.Sequential(model).eval()[0], x, maps.detach(), target=[1, 1], explain_model=again
    )
    assert (values < 0.99).all()


def test_they_are_registered_with_a_summary():
    offered = metrics()
    assert set(NAMES) <= set(offered)
    assert all(spec.summary for spec in METRICS)
