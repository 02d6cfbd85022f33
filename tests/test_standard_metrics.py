"""The metrics that run by name: each tells a right map from its opposite, in the direction it says."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from xai_align.evaluation import MetricDoesNotApply, Scored, grid_labels
from xai_align.evaluation.agreement import MEASURES
from xai_align.evaluation.standard_metrics import METRICS
from xai_align.features import hidden_layers
from xai_align.plugins import metrics
from xai_align.plugins.metric_signature import needs_of
from xai_align.question import Question

SIZE = 14
NAMES = {spec.name: spec for spec in METRICS}
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
    """What speaks for the question: the target's corners less the foils', without ties."""
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


def evaluated(name: str, attributions: Tensor, **needed) -> Tensor:
    """A metric of a map of the corners' evidence."""
    question = QUESTIONS.get(name, Question.why(0))
    return metrics()[name].evaluate(Corners().eval(), pictures(), attributions, target=[question] * 2, **needed)


def opposites(name: str) -> tuple[Tensor, Tensor]:
    """The evidence, and its opposite."""
    right = evidence(QUESTIONS.get(name, Question.why(0)))
    good, bad = evaluated(name, right), evaluated(name, -right)
    if name in ("average_drop", "average_increase"):
        bad = bad.nan_to_num(1.0 if name == "average_drop" else 0.0)  # no positive part, no mask
    return good, bad


class Spare(nn.Module):
    """Hidden units that see two pixels each, and need one: as many that are bright as such that are silent by then."""

    def __init__(self) -> None:
        super().__init__()
        self.stage = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        pairs = x.mean(1).unflatten(-1, (-1, 2)).amax(-1)
        hidden = self.stage(torch.stack([pairs, 0.5 - pairs], 1))
        return hidden.flatten(1)[:, :2]


def pathway(name: str) -> tuple[Tensor, Tensor]:
    """One pixel of every pair after the other, so that units live on; or pair by pair."""
    generator = torch.Generator().manual_seed(3)
    x = 2 + torch.rand(2, 3, SIZE, SIZE, generator=generator)
    pairs = torch.rand(2, SIZE, SIZE // 2, generator=generator)
    by_pair = torch.stack([pairs, pairs + 1e-4], -1).flatten(2)
    one_of_each = torch.stack([pairs, pairs + 1], -1).flatten(2)
    return tuple(metrics()[name].evaluate(Spare().eval(), x, one, target=[0, 0]) for one in (one_of_each, by_pair))


def one_cell(name: str) -> tuple[Tensor, Tensor]:
    """The first of 7 x 7 cells alone makes the class; it is ranked first, or last."""

    def model(x: Tensor) -> Tensor:
        return torch.stack([x[..., :2, :2].mean((1, 2, 3)), torch.full((len(x),), 0.5)], 1)

    best = torch.arange(SIZE * SIZE, 0, -1.0).reshape(1, SIZE, SIZE).expand(2, -1, -1)
    x = torch.ones(2, 3, SIZE, SIZE)
    return tuple(metrics()[name].evaluate(model, x, one, target=[0, 0]) for one in (best, -best))


def place(name: str) -> tuple[Tensor, Tensor]:
    """All of the map on the object, or far from it."""
    masks = torch.zeros(2, 40, 40, dtype=torch.bool)
    masks[:, :8, :8] = True
    return tuple(
        metrics()[name].evaluate(None, torch.zeros(2, 3, 40, 40), one.float(), masks=masks)
        for one in (masks, masks.flip(1, 2))
    )


def own_cell_or_not(name: str) -> tuple[Tensor, Tensor]:
    """Of a grid of colours, the light in the class's own channel, or in all the others."""
    x = torch.eye(10)[:, :, None, None].expand(10, 10, 12, 12)

    def own(grids: Tensor, target) -> Tensor:
        return torch.stack([grid[question.targets[0][0]] for grid, question in zip(grids, target, strict=True)])

    return tuple(
        metrics()[name].evaluate(lambda z: 10 * z.mean((2, 3)), x[:2], x[:2], explain=explain, other_images=x)
        for explain in (own, lambda grids, target: grids.sum(1) - own(grids, target))
    )


def whole_or_double(name: str) -> tuple[Tensor, Tensor]:
    """A linear model's contributions add up to the answer; twice as much does not."""
    return evaluated(name, evidence(Question.why(0))), evaluated(name, 2 * evidence(Question.why(0)))


def of_the_model_or_not(name: str) -> tuple[Tensor, Tensor]:
    """Maps that are the model's weights, or the same for any model."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 6 * 6, 2)).eval()
    x = pictures()[..., :6, :6]

    def weights(net: nn.Module, inputs: Tensor, target) -> Tensor:
        return net[1].weight[0].reshape(1, 3, 6, 6).expand(len(inputs), -1, -1, -1)

    def bump(net: nn.Module, inputs: Tensor, target) -> Tensor:
        return torch.arange(36.0).reshape(1, 6, 6).expand(len(inputs), -1, -1)

    return tuple(
        metrics()[name].evaluate(model, x, explain(model, x, 0), target=[0, 0], explain_model=explain)
        for explain in (weights, bump)
    )


def like_a_person_or_not(name: str) -> tuple[Tensor, Tensor]:
    """The scores of a person themselves, or the reverse of their order and signs."""
    labels = grid_labels(SIZE, SIZE, cells=4)
    values = torch.arange(1.0, 17.0) * torch.tensor([1.0, -1.0]).repeat(8)
    human = [Scored(values=values, labels=labels)] * 2
    other = -values.sign() * (17 - values.abs())
    pixels = labels.flatten().bincount()  # the map's cells hold its sums
    return tuple(evaluated(name, (one / pixels)[labels].expand(2, -1, -1), scores=human) for one in (values, other))


def in_one_place_or_everywhere(name: str) -> tuple[Tensor, Tensor]:
    """All evidence in a corner, or the same everywhere."""
    peaked, flat = torch.zeros(2, 3, SIZE, SIZE), torch.ones(2, SIZE, SIZE)
    peaked[..., : SIZE // 4, : SIZE // 4] = 1.0
    return evaluated(name, peaked), evaluated(name, flat)


def distinct_or_tied(name: str) -> tuple[Tensor, Tensor]:
    """Every pixel with a score of its own, or two scores for all."""
    scores = torch.arange(SIZE * SIZE, dtype=torch.float32).reshape(1, SIZE, SIZE).expand(2, -1, -1)
    return evaluated(name, scores), evaluated(name, scores % 2)


def slope_or_none(name: str) -> tuple[Tensor, Tensor]:
    """Infidelity: the slopes of a linear model foretell every fall of the answer, their opposite none."""
    slopes = torch.autograd.grad(Corners()(x := pictures().requires_grad_())[:, 0].sum(), x)[0]
    return evaluated(name, slopes), evaluated(name, -slopes)


def steady_or_not(name: str) -> tuple[Tensor, Tensor]:
    """Sensitivity: a map that is the same near the image, or one of the pixels' hundredth digits."""

    def steady(x: Tensor, target) -> Tensor:
        return torch.ones_like(x)

    def jumpy(x: Tensor, target) -> Tensor:
        return (1000 * x).sin()

    return tuple(evaluated(name, explain(pictures(), 0), explain=explain) for explain in (steady, jumpy))


def own_or_opposite_corner(name: str) -> tuple[Tensor, Tensor]:
    """ARCC: the evidence, or the same turned round, each explained in the same way where the map masks the picture."""
    slopes = torch.autograd.grad(Corners()(x := pictures().requires_grad_())[:, 0].sum(), x)[0][:1]
    right = evidence(Question.why(0))
    return (
        evaluated(name, right, explain=lambda inputs, target: slopes * inputs),
        evaluated(name, right.flip(2, 3), explain=lambda inputs, target: slopes.flip(2, 3) * inputs),
    )


#: How a better and a worse map are made, where they are not opposites.
BETTER_AND_WORSE = {
    **dict.fromkeys(("hidden_deviation", "hidden_active", "hidden_inactive"), pathway),
    **dict.fromkeys(("hidden_mse", "hidden_correlation", "hidden_cosine"), pathway),
    "first_flip": one_cell,
    **dict.fromkeys(("pointing_game", "positive_mass", "energy_inside", "iou"), place),
    **dict.fromkeys(("grid_pointing_game", "grid_pointing_game_3x3"), own_cell_or_not),
    **dict.fromkeys(("completeness_gap", "completeness_error", "completeness_error_from_zeros"), whole_or_double),
    "parameter_randomisation": of_the_model_or_not,
    **dict.fromkeys((f"agreement_{name}" for name in MEASURES), like_a_person_or_not),
    "coverage": in_one_place_or_everywhere,
    "tie_rate": distinct_or_tied,
    "infidelity": slope_or_none,
    "sensitivity": steady_or_not,
    "arcc": own_or_opposite_corner,
}


@pytest.mark.filterwarnings("ignore::xai_align.evaluation.rfxg.ExhaustiveGroupsWarning")
@pytest.mark.filterwarnings("ignore::xai_align.perturbation.TieWarning")
@pytest.mark.parametrize("name", sorted(set(metrics()) - NO_CONTRAST))
def test_a_better_map_scores_better_in_the_direction_that_is_registered(name):
    good, bad = BETTER_AND_WORSE.get(name, opposites)(name)
    assert good.shape == bad.shape == (2,)
    better = good > bad if metrics()[name].higher_is_better else good < bad
    assert better.all(), (good, bad)


#: Where less is better: errors and falls that a good map avoids, areas under curves of removal, and RFxG's contrast of
#: two classes as its authors committed it.
LOWER = """
    average_drop cauc ccs_published completeness_error
    completeness_error_from_zeros completeness_gap decision_flip deletion
    deletion_blur deletion_noise infidelity morf parameter_randomisation hidden_deviation hidden_mse sensitivity
    sufficiency tie_rate
"""


def test_less_is_better_for_these_and_more_for_all_others():
    assert {name for name, spec in metrics().items() if spec.higher_is_better is False} == set(LOWER.split())
    assert {name for name, spec in metrics().items() if spec.higher_is_better is None} == NO_CONTRAST


@pytest.mark.parametrize("name", ["ccs", "cgc", "cgs", "cauc", "cdrop"])
def test_contrasts_refuse_a_question_without_foils(name):
    with pytest.raises(MetricDoesNotApply, match="this metric needs"):
        NAMES[name].evaluate(Corners().eval(), pictures(), evidence(Question.why(0)), target=[Question.why(0)] * 2)


@pytest.mark.filterwarnings("ignore::xai_align.evaluation.rfxg.ExhaustiveGroupsWarning")
@pytest.mark.parametrize(
    ("names", "from_the_end", "counted"),
    [
        ("ccs cgc ccs_published cgc_published cauc cdrop", Question.why_not(-1, 0), Question.why_not(3, 0)),
        ("cgc cauc", Question.why_not_rest(-4, [-3, -2]), Question.why_not_rest(0, [1, 2])),
        ("pgs pgs_published", Question.why_group([-1, 3, 0]), Question.why_group([3, 0])),
        ("cgs cauc cdrop", Question.why_group_not([-4, 1], [-1]), Question.why_group_not([0, 1], [3])),
    ],
)
def test_classes_may_be_counted_from_the_end(names, from_the_end, counted):
    for name in names.split():
        asked = [
            NAMES[name].evaluate(Corners().eval(), pictures(), evidence(Question.why(0)), target=question)
            for question in (from_the_end, counted)
        ]
        assert torch.equal(*asked), name


@pytest.mark.parametrize("name", ["cauc", "cdrop", "average_drop", "average_increase"])
def test_no_more_pictures_are_run_at_once_than_a_comparison_is_told(name):
    metric, x, question = NAMES[name].evaluate, pictures().repeat(3, 1, 1, 1), QUESTIONS.get(name, Question.why(0))
    maps = evidence(question).repeat(3, 1, 1, 1)
    at_once = []

    def counting(x: Tensor) -> Tensor:
        at_once.append(len(x))
        return Corners()(x)

    assert "internal_batch_size" in needs_of(metric)
    found = metric(counting, x, maps, target=question, internal_batch_size=2)
    assert max(at_once) == 2
    torch.testing.assert_close(found, metric(counting, x, maps, target=question))
    assert max(at_once) > 2


def test_they_are_registered_with_a_summary():
    offered = metrics()
    assert set(NAMES) <= set(offered)
    assert all(spec.summary for spec in METRICS)
