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
    assert target.tolist() == [0, 1, 0]
    logits = model(x)
    assert torch.allclose(output[1, 1], logits[1, 0] - logits[1, 2])


def test_questions_in_words():
    names = ["cat", "dog", "car", "bus", "boat"]
    assert Question.why(0).in_words(names) == "why cat?"
    assert Question.why_not(0, 1).in_words(names) == "why cat and not dog?"
    assert Question.against_all(2).in_words(names) == "why car and nothing else?"
    assert str(Question.why_not(3, 4)) == "why 3 and not 4?"


def test_a_question_model_is_read_out_as_its_network():
    from xai_align import read_out

    model, x = conv_net().double(), images(2, dtype=torch.float64)
    questions = [Question.why_not(0, 1), Question.against_all(2)]
    wrapped, target = ask(model, questions, 2)
    through = read_out(wrapped, x, target)
    assert torch.equal(through.contributions, read_out(model, x, questions).contributions)
    assert isinstance(wrapped, nn.Module)
