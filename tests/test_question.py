"""Questions: log-odds identities, linear forms, every target form."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.networks import conv_net, images, untouched
from xai_align import Question, ask
from xai_align.question import TargetError, answers, as_questions, captum_target, linear_forms

z = torch.randn(7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
log_p = z.log_softmax(0)


def log_p_of(group: list[int]) -> torch.Tensor:
    return log_p[group].logsumexp(0)


def test_answers_are_log_odds():
    assert torch.allclose(Question.why_not(2, 5).answer(z), log_p[2] - log_p[5])
    assert torch.allclose(Question.why_group_not([1, 2], [4, 5, 6]).answer(z), log_p_of([1, 2]) - log_p_of([4, 5, 6]))
    assert torch.allclose(Question.against_all(3).answer(z), torch.logit(log_p[3].exp()))
    assert torch.allclose(Question.why_not_rest(2, [1, 2, 3]).answer(z), log_p[2] - log_p_of([1, 3]))


def test_other_scores():
    assert torch.allclose(Question.why_group([1, 2], score="mean").answer(z), z[[1, 2]].mean())
    assert torch.allclose(Question.why_not_rest(0, [0, 1, 2], score="sum").answer(z), z[0] - z[1] - z[2])
    assert torch.allclose(Question.against_all(0, score="max").answer(z), z[0] - z[1:].max())


def test_the_gradient_of_a_probability_is_the_contrast_against_all():
    # d p_A / dz = p_A (1 - p_A) d(z_A - LSE of the others) / dz
    x = z.clone().requires_grad_()
    p = x.softmax(0)[3]
    (left,) = torch.autograd.grad(p, x)
    (right,) = torch.autograd.grad(Question.against_all(3).answer(x), x)
    assert torch.allclose(left, p * (1 - p) * right)


QUESTIONS = st.one_of(
    st.integers(0, 6).map(Question.why),
    st.permutations(range(7)).map(lambda order: Question.why_not(*order[:2])),
    st.tuples(st.permutations(range(7)), st.sampled_from(["logsumexp", "mean", "max", "sum"])).map(
        lambda drawn: Question.why_group_not(drawn[0][:3], drawn[0][3:5], score=drawn[1])
    ),
    st.tuples(st.integers(0, 6), st.sampled_from(["logsumexp", "mean", "max", "sum"])).map(
        lambda drawn: Question.against_all(drawn[0], score=drawn[1])
    ),
)


@settings(max_examples=60, deadline=None)
@given(question=QUESTIONS, seed=st.integers(0, 1000))
def test_the_linear_form_is_the_answer_and_its_weights_are_its_gradient(question, seed):
    logits = torch.randn(7, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).requires_grad_()
    weights, rest = question.linear_form(logits)
    answer = question.answer(logits)
    assert torch.allclose((weights * logits).sum() + rest, answer)
    assert torch.allclose(weights, torch.autograd.grad(answer, logits)[0])
    if question.is_linear:
        assert abs(float(rest)) < 1e-12


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (1, [1, 1]),
        (-1, [4, 4]),
        (np.int64(1), [1, 1]),
        (torch.tensor(1), [1, 1]),
        (torch.tensor([1]), [1, 1]),
        (torch.tensor([1, 2]), [1, 2]),
        (np.array([1, 2]), [1, 2]),
        (np.array(2), [2, 2]),
        ([1, 2], [1, 2]),
        ([np.int32(1), 2], [1, 2]),
        (range(2), [0, 1]),
        ((1,), [1, 1]),
        ([(1,), (2,)], [1, 2]),
        ([Question.why(3), 2], [3, 2]),
    ],
    ids=repr,
)
def test_every_form_of_target(target, expected):
    logits = torch.arange(10.0).view(2, 5)
    assert answers(as_questions(target, 2), logits).tolist() == [logits[i, k].item() for i, k in enumerate(expected)]


def test_dense_outputs_and_single_outputs():
    dense = torch.arange(24.0).view(2, 3, 4)
    assert answers(as_questions((1, 2), 2), dense).tolist() == [6.0, 18.0]
    assert answers(as_questions([(1, 2), (0, 3)], 2), dense).tolist() == [6.0, 15.0]
    assert answers(as_questions(None, 2), torch.tensor([3.0, 4.0])).tolist() == [3.0, 4.0]
    assert answers(as_questions(None, 2), torch.tensor([[3.0], [4.0]])).tolist() == [3.0, 4.0]
    weights, rest = linear_forms(as_questions((1, 2), 2), dense)
    assert weights.shape == dense.shape
    assert rest.tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    "wrong", [1.0, True, torch.tensor(1.5), "cat", {1}, torch.tensor([[1]]), np.array([0.5]), [True]]
)
def test_wrong_targets_are_assertion_errors_with_words(wrong):
    with pytest.raises(TargetError) as caught:
        captum_target(wrong)
    assert isinstance(caught.value, AssertionError)
    assert len(str(caught.value)) > 20


def test_ask_wraps_without_touching():
    model, x = conv_net(), images(3)
    model.fc.train()
    with untouched(model):
        wrapped, target = ask(model, [Question.why(1), Question.why_not(0, 2), Question.why(1)], 3)
        output = wrapped(x)
    assert output.shape == (3, 2)
    assert target == [0, 1, 0]
    logits = model(x)
    assert torch.allclose(output[1, 1], logits[1, 0] - logits[1, 2])


def test_questions_in_words():
    names = ["cat", "dog", "car", "bus", "boat"]
    assert Question.why(0).text(names) == "why cat?"
    assert Question.why_not(0, 1).text(names) == "why cat and not dog?"
    assert Question.against_all(2).text(names) == "why car and nothing else?"
    assert str(Question.why_not(3, 4)) == "why 3 and not 4?"


def test_a_question_model_is_read_out_as_its_network():
    from xai_align import read_out

    model, x = conv_net().double(), images(2, dtype=torch.float64)
    questions = [Question.why_not(0, 1), Question.against_all(2)]
    wrapped, target = ask(model, questions, 2)
    through = read_out(wrapped, x, target)
    assert torch.equal(through.contributions, read_out(model, x, questions).contributions)
    assert isinstance(wrapped, nn.Module)


#: Logits whose exponentials are whole numbers: 1, 2, 3, 4, 5.
LOGS = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0], dtype=torch.float64).log()
PLAIN = torch.tensor([3.0, -1.0, 3.0, 0.5, 2.0], dtype=torch.float64)
LOG = np.log


@pytest.mark.parametrize(
    ("question", "answer", "weights", "rest"),
    [
        (Question.why(3), LOG(4), [0, 0, 0, 1, 0], 0),
        (Question.why(-1), LOG(5), [0, 0, 0, 0, 1], 0),
        (Question.why_not(4, 1), LOG(5 / 2), [0, -1, 0, 0, 1], 0),
        # weights are shares of 2 + 3 = 5, and what is left is their entropy
        (Question.why_group([1, 2]), LOG(5), [0, 0.4, 0.6, 0, 0], -0.4 * LOG(0.4) - 0.6 * LOG(0.6)),
        (
            Question.why_group_not([1, 2], [0, 3]),
            LOG(5 / 5),
            [-0.2, 0.4, 0.6, -0.8, 0],
            -0.4 * LOG(0.4) - 0.6 * LOG(0.6) + 0.2 * LOG(0.2) + 0.8 * LOG(0.8),
        ),
        (
            Question.why_not_rest(2, [1, 2, 3]),
            LOG(3 / 6),
            [0, -1 / 3, 1, -2 / 3, 0],
            LOG(1 / 3) / 3 + LOG(2 / 3) * 2 / 3,
        ),
        (
            Question.against_all(4),
            LOG(5 / 10),
            [-0.1, -0.2, -0.3, -0.4, 1],
            0.1 * LOG(0.1) + 0.2 * LOG(0.2) + 0.3 * LOG(0.3) + 0.4 * LOG(0.4),
        ),
    ],
    ids=str,
)
def test_answers_and_linear_forms_by_hand(question, answer, weights, rest):
    assert question.answer(LOGS).item() == pytest.approx(answer, abs=1e-12)
    found, left = question.linear_form(LOGS)
    assert found.tolist() == pytest.approx(weights, abs=1e-12)
    assert left.item() == pytest.approx(rest, abs=1e-12)
    assert not found.requires_grad


@pytest.mark.parametrize(
    ("score", "group", "rest", "whole"),
    [
        # of 3, -1, 3, 0.5, 2: the group (3, -1, 3), the rest of it without the first, all but the first
        ("mean", 5 / 3, 3 - 1, 3 - 4.5 / 4),
        ("sum", 5.0, 3 - 2, 3 - 4.5),
        ("max", 3.0, 3 - 3, 3 - 3),
    ],
)
def test_group_scores_by_hand(score, group, rest, whole):
    assert Question.why_group([0, 1, 2], score=score).answer(PLAIN).item() == pytest.approx(group)
    assert Question.why_not_rest(0, [0, 1, 2], score=score).answer(PLAIN).item() == pytest.approx(rest)
    assert Question.against_all(0, score=score).answer(PLAIN).item() == pytest.approx(whole)
    both = Question.why_group_not([0, 1, 2], [3, 4], score=score).answer(PLAIN).item()
    assert both == pytest.approx(group - {"mean": 1.25, "sum": 2.5, "max": 2.0}[score])


@pytest.mark.parametrize(
    ("score", "weights"),
    [
        ("mean", [1 / 3, 1 / 3, 1 / 3, -0.5, -0.5]),
        ("sum", [1, 1, 1, -1, -1]),
        ("max", [1, 0, 0, 0, -1]),  # of two equal maxima the first has all the weight
    ],
)
def test_weights_of_group_scores_by_hand(score, weights):
    found, rest = Question.why_group_not([0, 1, 2], [3, 4], score=score).linear_form(PLAIN)
    assert found.tolist() == pytest.approx(weights)
    assert rest.item() == 0


def test_a_group_keeps_its_order_and_drops_repetitions():
    asked = Question.why_group([2, 0, 2])
    assert asked.targets == ((2,), (0,))
    assert Question.why_group_not([1, 1], [3, 0, 3]).foils == ((3,), (0,))
    assert Question.why_not_rest(2, [3, 2, 1]).foils == ((3,), (1,))


@pytest.mark.parametrize(
    ("score", "answer"), [("logsumexp", LOG(5 + 2)), ("sum", LOG(5 * 2)), ("mean", LOG(5 * 2) / 2)]
)
def test_two_names_of_one_class_count_once(score, answer):
    """Of five classes, -1 is the last and 4, too; the linear form agrees."""
    for asked in (Question.why_group([4, -1, 1], score=score), Question.why_group([-1, 1], score=score)):
        assert asked.answer(LOGS).item() == pytest.approx(answer, abs=1e-12)
        weights, rest = asked.linear_form(LOGS)
        assert ((weights * LOGS).sum() + rest).item() == pytest.approx(answer, abs=1e-12)
    against = Question.why_group_not([0], [4, -1, 1], score=score)
    assert against.answer(LOGS).item() == pytest.approx(-answer, abs=1e-12)
    assert against.entries(LOGS) == ([0], [4, 1])


@pytest.mark.parametrize("asked", [Question.why_not(4, -1), Question.why_group_not([0, 1], [-4, 2])], ids=str)
def test_a_class_on_both_sides_under_two_names_is_refused(asked):
    for measure in (asked.answer, asked.linear_form):
        with pytest.raises(TargetError, match=r"both a target and a foil of .* in an output of shape \[5\]"):
            measure(LOGS)


@pytest.mark.parametrize(
    ("question", "linear"),
    [
        (Question.why(1), True),
        (Question.why_not(1, 2), True),
        (Question.why_group([1]), True),
        (Question.why_group([1, 2]), False),
        (Question.why_group([1, 2], score="max"), False),
        (Question.why_group([1, 2], score="mean"), True),
        (Question.why_group([1, 2], score="sum"), True),
        (Question.why_not_rest(1, [1, 2]), True),
        (Question.why_not_rest(1, [1, 2, 3]), False),
        (Question.against_all(1), False),
        (Question.against_all(1, score="mean"), True),
    ],
    ids=repr,
)
def test_which_questions_are_linear(question, linear):
    assert question.is_linear is linear


@pytest.mark.parametrize(
    "make", [Question.why_group, lambda group, **kept: Question.why_group_not(group, [6, 7], **kept)]
)
def test_scores_are_kept(make):
    assert make([1, 2]).score == "logsumexp"
    assert make([1, 2], score="mean").score == "mean"
    assert Question.why_not_rest(1, [1, 2]).score == Question.against_all(1).score == "logsumexp"
    assert Question.why_not_rest(1, [1, 2], score="max").score == "max"
    assert Question.against_all(1, score="sum").score == "sum"


@pytest.mark.parametrize(
    ("ask_it", "said"),
    [
        (lambda: Question.why_not(1, 1), "^class 1 is both a target and a foil; choose"),
        (lambda: Question.why_group_not([1, 2, 3], [3, 0, 2]), "^classes 2, 3 are both a target and a foil"),
        (lambda: Question.why_group([]), "^the group is empty"),
        (lambda: Question.why_group_not([], [1]), "^the group is empty"),
        (lambda: Question.why_group_not([1], []), "^the group of foils is empty"),
        (lambda: Question.why_not_rest(1, [1]), "^the rest of the group is empty"),
        (lambda: Question.why(True), "class index is a boolean"),
        (lambda: Question.why(np.bool_(True)), "class index is a boolean"),
        (lambda: Question.why(1.5), r"class index is 1\.5; give an integer"),
        (lambda: Question.why("cat"), "class index is 'cat'"),
        (lambda: Question.why((1, 2.0)), r"class index is 2\.0"),
        (lambda: Question.against_all(0).answer(torch.ones(1)), "^all the other classes is empty"),
        (lambda: Question.why(5).answer(PLAIN), r"class 5 is out of range; this output has 5, numbered 0 … 4"),
        (lambda: Question.why(-6).answer(PLAIN), "class -6 is out of range"),
        (lambda: Question.why((1, 2)).answer(PLAIN), r"target \(1, 2\) has 2 parts, an example's output \[5\] has 1"),
        (lambda: Question.why(1).answer(torch.ones(2, 3)), r"target \(1,\) has 1 parts, an example's output \[2, 3\]"),
        (lambda: Question(((),)).answer(PLAIN), r"no target was given and an example's output has shape \[5\]"),
        (lambda: as_questions([1, 2, 3], 2), "3 targets for 2 examples"),
        (lambda: as_questions(torch.tensor([1, 2, 3]), 2), "3 targets for 2 examples"),
        (
            lambda: as_questions([Question.why(1)], 2),
            r"a list with 1 target for 2 examples; give one for each, \[target\] \* 2",
        ),
        (lambda: captum_target(torch.ones(2)), r"tensor of torch\.float32; class indices are integers"),
        (lambda: captum_target(torch.ones(2, dtype=torch.complex64)), r"tensor of torch\.complex64"),
        (lambda: captum_target(torch.ones(1, dtype=torch.bool)), r"tensor of torch\.bool"),
        (lambda: captum_target(np.ones(2, dtype=bool)), r"tensor of torch\.bool"),
        (lambda: captum_target(torch.ones(2, 3, dtype=torch.long)), r"shape \(2, 3\); give one index"),
        (lambda: captum_target(torch.ones(1, 1, dtype=torch.long)), r"shape \(1, 1\); give one index"),
        (lambda: captum_target(np.bool_(False)), "the target is a boolean"),
        (lambda: captum_target(1.0), "a target of type float is not understood"),
        (lambda: captum_target([1, False]), "class index is a boolean"),
        (lambda: captum_target((1, True)), "class index is a boolean"),
    ],
)
def test_what_cannot_be_asked_is_refused_with_what_was_found(ask_it, said):
    with pytest.raises(TargetError, match=said):
        ask_it()


def test_positions_of_dense_outputs_count_row_by_row_and_from_the_end():
    dense = torch.arange(24.0).reshape(2, 3, 4)
    assert Question.why((1, 2, 3)).answer(dense).item() == 23
    assert Question.why((0, 1, 2)).answer(dense).item() == 6
    assert Question.why((-1, -3, -4)).answer(dense).item() == 12
    assert Question.why((0, 0, 0)).answer(dense).item() == 0
    assert Question.why((0, 1, 2)).entries(dense) == ([6], [])
    assert Question.against_all((0, 1)).entries(torch.zeros(2, 2)) == ([1], [0, 2, 3])
    with pytest.raises(TargetError, match="class 3 is out of range; this output has 3"):
        Question.why((1, 3, 0)).answer(dense)


def test_forms_of_a_target_as_captum_gets_them():
    asked = Question.why(2)
    assert captum_target(None) is None
    assert captum_target(asked) is asked
    assert captum_target(np.int32(3)) == 3
    assert type(captum_target(np.int32(3))) is int
    assert type(captum_target(torch.tensor([4]))) is int
    assert captum_target(np.array([1, 2])).tolist() == [1, 2]
    assert captum_target((np.int64(1), 2)) == (1, 2)
    assert captum_target(range(3)) == [0, 1, 2]
    assert captum_target([asked, 1, (np.int64(0), 2)]) == [asked, 1, (0, 2)]
    assert as_questions(None, 2) == [Question(((),))] * 2
    assert as_questions(asked, 3) == [asked] * 3
    assert as_questions((1, 2), 2) == [Question(((1, 2),))] * 2
    assert as_questions([asked, 1], 2) == [asked, Question(((1,),))]


def test_questions_of_a_batch():
    asked = [Question.why_group([1, 2]), Question.why_not(3, 0)]
    logits = torch.stack([LOGS, PLAIN]).requires_grad_()
    found = answers(asked, logits)
    assert found.tolist() == pytest.approx([LOG(5), -2.5])
    (slopes,) = torch.autograd.grad(found.sum(), logits)
    expected = [[0, 0.4, 0.6, 0, 0], [-1, 0, 0, 1, 0]]
    torch.testing.assert_close(slopes, torch.tensor(expected, dtype=torch.float64))
    weights, rest = linear_forms(asked, logits)
    torch.testing.assert_close(weights, torch.tensor(expected, dtype=torch.float64))
    assert rest.tolist() == pytest.approx([-0.4 * LOG(0.4) - 0.6 * LOG(0.6), 0])
    for measure in (answers, linear_forms):
        with pytest.raises(ValueError, match="zip"):
            measure(asked[:1], logits)


def test_a_question_model_answers_in_columns_and_knows_its_questions():
    model = nn.Linear(2, 3, bias=False).train()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]))
    asked = [Question.why(2), Question.why_not(0, 1), Question.why(2)]
    wrapped, target = ask(model, asked, 3)
    assert wrapped.training
    assert wrapped.questions == (asked[0], asked[1])
    assert wrapped(torch.tensor([[1.0, 2.0], [5.0, 3.0]])).tolist() == [[3.0, -1.0], [8.0, 2.0]]
    assert target == [0, 1, 0]
    assert wrapped.questions_for(target, 3) == asked
    assert wrapped.questions_for(1, 2) == [asked[1]] * 2
    with pytest.raises(TargetError, match="this model answers 2 questions"):
        wrapped.questions_for(None, 2)
    alone, target = ask(model.eval(), Question.why(1), 2)
    assert not alone.training
    assert target == 0
    assert alone.questions_for(None, 2) == [Question.why(1)] * 2
    assert alone.questions_for(0, 1) == [Question.why(1)]


def test_every_form_of_words():
    names = ["cat", "dog", "car"]
    assert Question.why_group([0, 1, 2]).text(names) == "why cat or dog or car?"
    assert Question.why_group([1, 0, 2, 3]).text(names) == "why dog or 3 others?"
    assert Question.why_group_not([0], [2, 3]).text(names) == "why cat and not car or 3?"
    assert Question.why((0, 2)).text(names) == "why 0.2?"
    assert Question(((),)).text(names) == "why the output?"
    assert str(Question.against_all(1)) == "why 1 and nothing else?"
    # counted from the end
    assert [Question.why(k).text(names) for k in (-1, -3, -4, 3)] == ["why car?", "why cat?", "why -4?", "why 3?"]
    assert str(Question.why(-1)) == "why -1?"
