"""Meaning of a model's outputs: classes, the two sides of one logit, labels, numbers.

Everything that is reported about an output is determined here: the classes that can be named, the predicted one, the
question about it, its text, and its probability, if it has one. A *side* can be named by the user: an output, or one of
the two classes of a single logit ``z``, of which the second has the probability ``sigmoid(z)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from xai_align._tools.counted import counted
from xai_align.data.class_names import class_name, question_text
from xai_align.hookspecs import OutputKind
from xai_align.question import Question, TargetError

if TYPE_CHECKING:
    from xai_align.hookspecs import LoadedModel

#: Names of the sides of one logit without class names.
_SIDES = ("negative", "positive")
#: Kinds whose outputs have a probability by themselves, or none at all.
_INDEPENDENT = ("multi-label", "regression")


@dataclass(frozen=True, kw_only=True)
class OutputDescription:
    """Meaning of the outputs ``[N, K]`` of a model.

    Attributes:
        kind: one of :data:`~xai_align.hookspecs.OutputKind`.
        num_outputs: ``K``.
        class_names: a name for each side; empty: there are none.
        unit: the unit of numbers, e.g. ``"years"``; "" if it is not known.
        assumed: whether the kind was not stated, but follows from a single output without names.

    Example::

        sick = OutputDescription(kind="one logit", num_outputs=1, class_names=("healthy", "sick"))
        sick.probabilities(torch.tensor([2.0]))  # [0.12, 0.88]
        sick.text(sick.on_outputs(Question.why(0)))  # "Why healthy?"
    """

    kind: OutputKind = "classes"
    num_outputs: int
    class_names: tuple[str, ...] = ()
    unit: str = ""
    assumed: bool = False

    @property
    def sides(self) -> int:
        """Number of classes, labels or numbers that the user can name."""
        return 2 if self.kind == "one logit" else self.num_outputs

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the sides; empty: they have none, and are named by number."""
        return self.class_names or (_SIDES if self.kind == "one logit" else ())

    @property
    def has_probabilities(self) -> bool:
        """Whether a side has a probability."""
        return self.kind in ("classes", "one logit", "multi-label")

    @property
    def activation(self) -> Literal["softmax", "sigmoid", "relative"]:
        """Quantity measured along a curve; "relative": changes relative to the clean and the empty answer."""
        if self.kind == "classes":
            return "softmax"
        return "relative" if self.kind == "regression" else "sigmoid"

    @property
    def answer_unit(self) -> str:
        """The unit of answers, in the plural."""
        return (self.unit or "units of the output") if self.kind == "regression" else "logits"

    def scores(self, logits: Tensor) -> Tensor:
        """Return one score for each side, ``[..., sides]``, the largest for the predicted one."""
        return torch.cat([-logits, logits], -1) if self.kind == "one logit" else logits

    def predicted(self, logits: Tensor) -> int:
        """Return the side that an example's outputs ``[K]`` predict.

        Raises:
            TargetError: the outputs are several numbers, of which none is predicted.
        """
        if self.kind == "regression" and self.num_outputs > 1:
            raise TargetError(
                f"the {self.num_outputs} outputs of this model are numbers, and none of them is the predicted class; "
                "name the one to explain (--class)"
            )
        return int(self.scores(logits).argmax())

    def probabilities(self, logits: Tensor) -> Tensor | None:
        """Return the probability of each side, ``[..., sides]``, for outputs ``[..., K]``; None if there are none."""
        if self.kind == "classes":
            return logits.softmax(-1)
        return self.scores(logits).sigmoid() if self.has_probabilities else None

    def on_outputs(self, question: Question) -> Question:
        """Return the question about outputs for a question about sides.

        Raises:
            TargetError: both sides of one logit are asked about.
        """
        if self.kind != "one logit":
            return replace(question, independent=True) if self.kind in _INDEPENDENT else question
        targets = {index[0] % 2 for index in question.targets}
        foils = {index[0] % 2 for index in question.foils or ()}
        if len(targets) != 1 or targets & foils:
            raise TargetError(
                f"{' and '.join(self.name(side) for side in (0, 1))} are the two sides of one logit, and the question "
                "is about both; ask about one of them"
            )
        return Question.why(0) if targets == {1} else Question.why_the_opposite(0)

    def on_sides(self, question: Question) -> Question:
        """Return the question about sides for a question about outputs."""
        if self.kind != "one logit" or len(question.targets) + len(question.foils or ()) != 1:
            return question
        return Question.why(1 if question.targets else 0)

    def predictions(self, logits: Tensor, most: int = 3) -> list[tuple[str, float | None, float]]:
        """Return name, probability and score of an example's likeliest sides, of outputs ``[K]``.

        Outputs that are numbers have no probability (None), and keep their order.
        """
        scores, shares = self.scores(logits), self.probabilities(logits)
        if shares is None:
            return [(self.name(side), None, float(scores[side])) for side in range(min(most, self.sides))]
        order = torch.argsort(scores, descending=True, stable=True)[:most].tolist()
        return [(self.name(side), float(shares[side]), float(scores[side])) for side in order]

    def name(self, side: int) -> str:
        """Return the short name of a side, or its number if it has none."""
        if not self.names and not self.has_probabilities:
            return "the output" if self.num_outputs == 1 else f"output {side}"
        return class_name(side, self.names)

    def text(self, question: Question) -> str:
        """Return a question about outputs as a sentence about sides: ``"Why healthy?"``."""
        if self.kind != "regression":
            return question_text(self.on_sides(question), self.names)
        names = self.names or tuple(map(self.name, range(self.num_outputs)))
        plain = question_text(self.on_sides(Question(question.targets or ((0,),), question.foils)), names)
        return plain.replace("Why ", "Why this value of ", 1)


def describe_output(loaded: LoadedModel, logits: Tensor) -> OutputDescription:
    """Return the description of a model's outputs.

    Args:
        loaded: the model, with what is known about it.
        logits: its outputs ``[N, K]`` for any inputs, or ``[N]`` if it has a single one.

    Raises:
        ValueError: the outputs are not of the stated kind, the names are not as many as the outputs, or there is a unit
            of outputs that are no regression.
    """
    logits = logits[:, None] if logits.dim() == 1 else logits
    if logits.dim() != 2 or loaded.output_kind == "dense":
        raise ValueError(_not_one_row(logits))
    count, names = logits.shape[1], loaded.class_names
    kind, assumed = loaded.output_kind, False
    if kind is None:
        assumed = count == 1 and len(names) != 2
        kind = "classes" if count > 1 else "regression" if assumed else "one logit"
    if kind == "one logit" and count != 1:
        raise ValueError(f"the output is said to be one logit, and this model has {count} outputs")
    if kind == "classes" and count == 1:
        raise ValueError(
            "this model has a single output, whose softmax is always 1; it is 'one logit' of two classes, or a number, "
            "'regression': say which (--output-kind)"
        )
    if loaded.unit and kind != "regression":
        raise ValueError(
            f"a unit is stated, '{loaded.unit}', and the output is taken as '{kind}', which has none; leave it out, or "
            "say --output-kind regression"
        )
    if kind == "one logit" and len(names) == 1:
        names = (f"not {names[0]}", names[0])
    described = OutputDescription(kind=kind, num_outputs=count, class_names=names, unit=loaded.unit, assumed=assumed)
    if names and len(names) != described.sides:
        raise ValueError(_wrong_count(names, described))
    return described


def names_to_choose_from(loaded: LoadedModel) -> tuple[str, ...]:
    """Return the class names that can be given before the model has run; of one logit, those of its two sides."""
    names = loaded.class_names
    if loaded.output_kind == "one logit":
        return (f"not {names[0]}", names[0]) if len(names) == 1 else names or _SIDES
    return names


def output_notes(loaded: LoadedModel, output: OutputDescription) -> list[str]:
    """Return remarks for the user: how the model was loaded, and what was assumed about its output."""
    notes = list(loaded.notes)
    if output.assumed:
        notes.append(
            "the model has one output, which is taken as a number; if it is the logit of two classes, say "
            "--output-kind one-logit, or name the classes"
        )
    return notes


def _wrong_count(names: Sequence[str], output: OutputDescription) -> str:
    sides = output.sides
    outputs = "2 sides of its one logit" if output.kind == "one logit" else counted(sides, "output")
    shown = ", ".join(f"'{name}'" for name in names[:3]) + (" …" if len(names) > 3 else "")
    two = len(names) == 2 and output.num_outputs == 1
    return (
        f"there {'is' if len(names) == 1 else 'are'} {counted(len(names), 'class name')} ({shown}), and the model "
        f"has {outputs}; give one name for each, in the "
        "order of the outputs" + (", or, if it is the logit of two classes, say --output-kind one-logit" if two else "")
    )


def _not_one_row(logits: Tensor) -> str:
    return (
        f"the output of the model has shape {list(logits.shape)}; logits [N, K] are needed, or [N] for one logit or "
        "number. Of a dense output, such as a segmentation, one number has to be chosen, for example the mean of a "
        "class's logits over some positions: wrap the model in a module that returns that as [N, K]"
    )
