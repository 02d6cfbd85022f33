"""Questions about the logits: why A, why A and not B, why this group, and so on.

A question turns logits ``z`` into one scalar per example, the *answer*. For a
set of classes ``G`` the default score is ``LSE_G = log sum_{k in G} exp z_k``,
so that every answer is a log-odds: ``LSE_G1 - LSE_G2 = log p_G1 - log p_G2``
(RFxG taxonomy, arXiv 2511.13081; group score as in CWOX, UAI 2023).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from xai_align._tools.counted import counted
from xai_align._tools.logits import select_logits

#: One entry of an example's output: a class, or a position of a dense output.
Index: TypeAlias = tuple[int, ...]
#: Reduction of the logits of several classes to one score.
GroupScore = Literal["logsumexp", "mean", "max", "sum"]


class TargetError(AssertionError, ValueError, IndexError):
    """Error for a target or class that the output does not have.

    It is an ``AssertionError`` because that is what Captum's own methods raise
    for a wrong target, and an ``IndexError`` because that is what they raise
    for one out of range.
    """


@dataclass(frozen=True)
class Question:
    """A question about one example. Build it with the class methods.

    Attributes:
        targets: entries of the output that are asked about (the fact): evidence that raises them counts for the answer.
        foils: entries they are contrasted with: evidence that raises these counts against it; None: all the others.
        score: reduction of several entries to one score.
        independent: whether each entry has a separate meaning (labels with a sigmoid each, numbers), so that the
            others are not alternatives to it.

    Example::

        question = Question.why_not(281, 282)  # tabby and not tiger cat
        question.answer(model(images)[0])  # z_281 - z_282 of the first image
    """

    targets: tuple[Index, ...]
    foils: tuple[Index, ...] | None = ()
    score: GroupScore = "logsumexp"
    independent: bool = False

    @classmethod
    def why(cls, target: int) -> Question:
        """Ask why A: ``z_A``."""
        return cls((_index(target),))

    @classmethod
    def why_not(cls, target: int, foil: int) -> Question:
        """Ask why A and not B: ``z_A - z_B``."""
        return cls((_index(target),), (_index(foil),))._distinct()

    @classmethod
    def why_the_opposite(cls, target: int) -> Question:
        """Ask why the opposite of A: ``-z_A``, for a logit whose negative values speak for another class."""
        return cls((), (_index(target),))

    @classmethod
    def why_not_rest(cls, target: int, group: Iterable[int], *, score: GroupScore = "logsumexp") -> Question:
        """Ask why A and not the rest of its group: ``z_A - LSE_{G without A} z``."""
        asked = _index(target)
        rest = tuple(index for index in _indices(group) if index != asked)
        return cls((asked,), _not_empty(rest, "the rest of the group"), score)

    @classmethod
    def why_group(cls, group: Iterable[int], *, score: GroupScore = "logsumexp") -> Question:
        """Ask why this group: ``LSE_G z``."""
        return cls(_not_empty(_indices(group), "the group"), (), score)

    @classmethod
    def why_group_not(cls, group: Iterable[int], foils: Iterable[int], *, score: GroupScore = "logsumexp") -> Question:
        """Ask why group G1 and not group G2: ``LSE_G1 z - LSE_G2 z``."""
        targets = _not_empty(_indices(group), "the group")
        return cls(targets, _not_empty(_indices(foils), "the group of foils"), score)._distinct()

    @classmethod
    def against_all(cls, target: int, *, score: GroupScore = "logsumexp") -> Question:
        """Ask why A and nothing else: ``z_A - LSE_{k != A} z_k``, the logit of ``p_A``."""
        return cls((_index(target),), None, score)

    @property
    def is_linear(self) -> bool:
        """True if the answer is one fixed linear function of the logits."""
        several = len(self.targets) > 1 or self.foils is None or len(self.foils) > 1
        return not several or self.score in ("mean", "sum")

    def answer(self, logits: Tensor) -> Tensor:
        """Return the scalar answer for one example's output (any shape), differentiable."""
        targets, foils = self.entries(logits)
        flat = logits.reshape(-1)
        if not targets:
            return -_score(flat[foils], self.score)
        value = _score(flat[targets], self.score)
        return value - _score(flat[foils], self.score) if foils else value

    def linear_form(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``(w, r)`` with ``answer == sum(w * logits) + r`` at these logits, both held constant.

        For a linear question ``r`` is 0. For log-sum-exp ``w`` is the softmax
        within the group and ``r`` its entropy: ``LSE(z) = sum p_k z_k + H(p)``.
        ``w`` is also the gradient of the answer (for max, of the winner).
        """
        targets, foils = self.entries(logits)
        flat = logits.detach().reshape(-1)
        weights, remainder = torch.zeros_like(flat), flat.new_zeros(())
        for sign, entries in ((1.0, targets), (-1.0, foils)):
            if entries:
                share, rest = _linear_score(flat[entries], self.score)
                weights[entries] += sign * share
                remainder = remainder + sign * rest
        return weights.reshape(logits.shape), remainder

    def __str__(self) -> str:
        """Return the question as text, classes by index."""
        return self.text(())

    def text(self, class_names: Sequence[str]) -> str:
        """Return the question as text, classes by name where there is one."""

        def name(index: Index) -> str:
            plain = len(index) == 1 and -len(class_names) <= index[0] < len(class_names)
            return class_names[index[0]] if plain else ".".join(map(str, index)) or "the output"

        def several(entries: tuple[Index, ...]) -> str:
            if len(entries) <= 3:
                return " or ".join(map(name, entries))
            return f"{name(entries[0])} or {len(entries) - 1} others"

        if self.foils is None:
            return f"why {several(self.targets)} and nothing else?"
        if not self.targets:
            return f"why not {several(self.foils)}?"
        if self.foils:
            return f"why {several(self.targets)} and not {several(self.foils)}?"
        return f"why {several(self.targets)}?"

    def entries(self, logits: Tensor) -> tuple[list[int], list[int]]:
        """Return target and foil entries as positions in the flattened output of one example, each once.

        Raises:
            TargetError: the output lacks one of them, or one is on both sides.
        """
        # -1 and the last class are the same
        targets = list(dict.fromkeys(_position(index, logits.shape) for index in self.targets))
        if self.foils is None:
            chosen = set(targets)
            foils = [position for position in range(logits.numel()) if position not in chosen]
            return targets, list(_not_empty(tuple(foils), "all the other classes"))
        foils = list(dict.fromkeys(_position(index, logits.shape) for index in self.foils))
        both = set(targets) & set(foils)
        if both:
            raise TargetError(
                f"{_classes(both)} both a target and a foil of {self.targets} and not {self.foils} in an output of "
                f"shape {list(logits.shape)}; choose different classes"
            )
        return targets, foils

    def _distinct(self) -> Question:
        both = set(self.targets) & set(self.foils or ())
        if both:
            raise TargetError(f"{_classes(both)} both a target and a foil; choose different classes")
        return self


def _classes(positions: Iterable[Any]) -> str:
    """Format positions as the subject of a sentence: ``class 3 is`` or ``classes 2, 3 are``."""
    named = [str(one[0]) if isinstance(one, tuple) and len(one) == 1 else str(one) for one in sorted(positions)]
    return f"class {named[0]} is" if len(named) == 1 else f"classes {', '.join(named)} are"


def answers(questions: Sequence[Question], logits: Tensor) -> Tensor:
    """Return the answers ``[N]`` of ``N`` questions to logits ``[N, ...]``, differentiable."""
    return torch.stack([question.answer(row) for question, row in zip(questions, logits, strict=True)])


def linear_forms(questions: Sequence[Question], logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the weights (shape of ``logits``) and remainders ``[N]`` of :meth:`Question.linear_form`."""
    forms = [question.linear_form(row) for question, row in zip(questions, logits, strict=True)]
    return torch.stack([weights for weights, _ in forms]), torch.stack([rest for _, rest in forms])


def as_questions(asked: Any, num_examples: int) -> list[Question]:
    """Return one question per example, from a question, a list of them, or any target that Captum accepts.

    Accepted are Captum's forms (int, 0-d and 1-d integer tensors, list of ints,
    tuple, list of tuples, None for an output with one entry), numpy integers
    and arrays, and ranges.

    Raises:
        TargetError: the form is not one of these, or its length is not the batch's.
    """
    target = captum_target(asked)
    if isinstance(target, Question):
        return [target] * num_examples
    if isinstance(target, Tensor):
        target = target.tolist()
    if target is None:
        return [Question(((),))] * num_examples
    if isinstance(target, int | tuple):
        return [Question((_index(target),))] * num_examples
    if len(target) == 1 != num_examples:
        raise TargetError(
            f"a list with 1 target for {num_examples} examples; give one for each, [target] * {num_examples}, or the "
            "target itself for all"
        )
    if len(target) != num_examples:
        raise TargetError(f"{len(target)} targets for {num_examples} examples; give one, or one for each")
    return [one if isinstance(one, Question) else Question((_index(one),)) for one in target]


def captum_target(target: Any) -> Any:
    """Convert ``target`` to a form that Captum accepts; questions and None are returned unchanged.

    Raises:
        TargetError: the target is a float, a boolean, or has a wrong shape.
    """
    if target is None or isinstance(target, Question):
        return target
    if isinstance(target, bool | np.bool_):
        raise TargetError("the target is a boolean; give the index of a class")
    if isinstance(target, int | np.integer):
        return int(target)
    if isinstance(target, np.ndarray):
        target = torch.from_numpy(target)
    if isinstance(target, Tensor):
        if target.is_floating_point() or target.is_complex() or target.dtype == torch.bool:
            raise TargetError(f"the target is a tensor of {target.dtype}; class indices are integers")
        if target.numel() == 1 and target.dim() <= 1:
            return int(target.item())
        if target.dim() != 1:
            raise TargetError(f"the target has shape {tuple(target.shape)}; give one index for each example, shape [N]")
        return target
    if isinstance(target, tuple):
        return tuple(_entry(index) for index in target)
    if isinstance(target, list | range):
        return [
            one if isinstance(one, Question) else captum_target(one) if isinstance(one, tuple) else _entry(one)
            for one in target
        ]
    raise TargetError(
        f"a target of type {type(target).__name__} is not understood; "
        "give an int, a tuple, a 1-d integer tensor or array, a list of these, or a Question"
    )


def target_or_only_output(model: Any, target: Any) -> Any:
    """Return the target as a question; None is, as in Captum, an output with one entry and not the predicted class."""
    return Question(((),)) if target is None and not isinstance(model, QuestionModel) else target


class QuestionModel(nn.Module):
    """Model whose outputs are the answers to ``Q`` questions: ``[N, ...]`` inputs to ``[N, Q]`` answers.

    Made by :func:`ask`. Any attribution method can be run on it, with the
    target that :func:`ask` returns: methods repeat targets as they repeat
    inputs, so every copy of an example keeps its own question.
    """

    def __init__(self, model: nn.Module, questions: Sequence[Question]) -> None:
        super().__init__()
        self.model = model
        self.questions = tuple(questions)
        self.training = model.training  # not train(): that would change the mode of the model

    def forward(self, *inputs: Any) -> Tensor:
        """Return the answers to all questions for all examples, ``[N, Q]``."""
        logits = select_logits(self.model(*inputs))
        columns = [torch.stack([question.answer(row) for row in logits]) for question in self.questions]
        return torch.stack(columns, dim=1)

    def questions_for(self, target: Any, num_examples: int) -> list[Question]:
        """Return the question of each example for a target that :func:`ask` returned."""
        chosen = captum_target(target)
        if chosen is None and len(self.questions) > 1:
            raise TargetError(
                f"this model answers {counted(len(self.questions), 'question')}; give the target that ask() gave"
            )
        columns = chosen.tolist() if isinstance(chosen, Tensor) else chosen
        columns = columns if isinstance(columns, list) else [columns or 0] * num_examples
        return [self.questions[column] for column in columns]


def ask(model: nn.Module, asked: Any, num_examples: int) -> tuple[QuestionModel, int | list[int]]:
    """Return ``(question_model, target)``, with which any attribution method explains the question.

    ``asked`` is anything that :func:`as_questions` accepts. The model itself is not changed. The target is 0 for one
    question, and a list with the column of each example's question for several: a list suits a model on any device.

    Example::

        from captum.attr import Saliency

        asked, target = ask(model, Question.why_not(281, 282), len(images))
        Saliency(asked).attribute(images, target=target)  # [2, 3, 32, 32]
    """
    questions = as_questions(asked, num_examples)
    distinct = list(dict.fromkeys(questions))
    wrapped = QuestionModel(model, distinct)
    if len(distinct) == 1:
        return wrapped, 0
    return wrapped, [distinct.index(question) for question in questions]


def _score(logits: Tensor, score: GroupScore) -> Tensor:
    if len(logits) == 1:
        return logits[0]
    if score == "logsumexp":
        return torch.logsumexp(logits, dim=0)
    reduce: dict[str, Callable[[], Tensor]] = {"mean": logits.mean, "sum": logits.sum, "max": logits.amax}
    return reduce[score]()


def _linear_score(logits: Tensor, score: GroupScore) -> tuple[Tensor, Tensor]:
    """Return the score as ``(w, r)``: ``score(z) == sum(w * z) + r``."""
    ones, nothing = torch.ones_like(logits), logits.new_zeros(())
    if len(logits) == 1 or score == "sum":
        return ones, nothing
    if score == "mean":
        return ones / len(logits), nothing
    if score == "max":
        return nn.functional.one_hot(logits.argmax(), len(logits)).to(logits.dtype), nothing
    p = torch.softmax(logits, dim=0)
    return p, torch.logsumexp(logits, dim=0) - (p * logits).sum()  # the entropy H(p)


def _entry(value: Any) -> int:
    if isinstance(value, bool | np.bool_):
        raise TargetError("a class index is a boolean; give an integer")
    try:
        return int(value.__index__())
    except (AttributeError, TypeError):
        raise TargetError(f"a class index is {value!r}; give an integer") from None


def _index(target: Any) -> Index:
    return tuple(_entry(part) for part in target) if isinstance(target, tuple) else (_entry(target),)


def _indices(group: Iterable[int]) -> tuple[Index, ...]:
    return tuple(dict.fromkeys(_index(target) for target in group))


def _not_empty(entries: tuple[Any, ...], what: str) -> tuple[Any, ...]:
    if not entries:
        raise TargetError(f"{what} is empty; a question needs at least one class there")
    return entries


def _position(index: Index, shape: torch.Size) -> int:
    """Return the position of ``index`` in the flattened output of one example."""
    if not index:
        if shape.numel() != 1:
            raise TargetError(f"no target was given and an example's output has shape {list(shape)}; name a class")
        return 0
    if len(index) != len(shape):
        raise TargetError(
            f"the target {index} has {len(index)} parts, an example's output {list(shape)} has {len(shape)}"
            + "; it is one number: leave the target out" * (not shape)
        )
    for part, size in zip(index, shape, strict=True):
        if not -size <= part < size:
            only = "; it is one number: leave the target out" * (len(shape) == size == 1)
            raise TargetError(f"class {part} is out of range; this output has {size}, numbered 0 … {size - 1}{only}")
    return int(np.ravel_multi_index([part % size for part, size in zip(index, shape, strict=True)], tuple(shape)))
