"""Parsing of user input to a question: classes by name or number, groups, foils."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

from xai_align.question import Question, TargetError

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Name that stands for all classes that the question is not about, as foils.
OTHERS = "others"


def short_name(name: str) -> str:
    """Return the first of several names for a class: ``"tabby, tabby cat"`` gives ``"tabby"``."""
    return name.split(",")[0].strip()


def class_name(index: int, class_names: Sequence[str]) -> str:
    """Return the short name of a class, or its number if it has none."""
    return short_name(class_names[index]) if 0 <= index < len(class_names) else f"class {index}"


def find_class(wanted: str, class_names: Sequence[str]) -> int:
    """Find a class by number, name, one of several names ("a, b"), or a part that only one name has.

    Case only matters between names that differ in nothing else. A full name takes precedence over one of
    several, that over a part.

    Raises:
        TargetError: no class matches, or more than one; the message lists candidates.
    """
    sought = wanted.strip().casefold()
    if sought.removeprefix("-").isdigit():
        return check_class(int(sought), len(class_names) or None)
    if not class_names:
        raise TargetError(f"this model has no class names, so the class '{wanted}' must be given by its number")
    names = [name.casefold() for name in class_names]
    synonyms = [[part.strip() for part in name.split(",")] for name in names]
    exact = [index for index, name in enumerate(class_names) if name == wanted.strip()]
    for meant in (
        exact or [index for index, name in enumerate(names) if name == sought],
        [index for index, several in enumerate(synonyms) if sought in several],
        [index for index, name in enumerate(names) if sought and sought in name],
    ):
        if len(meant) == 1:
            return meant[0]
        if meant:
            raise TargetError(f"the class '{wanted}' is ambiguous: it may be {_listed(meant, class_names)}")
    raise TargetError(
        f"no class is called '{wanted}'{_suggestion(sought, synonyms, class_names)}; give a class name of the model, "
        f"or an index 0 … {len(class_names) - 1}"
    )


def question_about(targets: Sequence[int], foils: Sequence[int] | None, predicted: int) -> Question:
    """Build the question about classes on two sides.

    Args:
        targets: classes to ask about; none: the predicted one.
        foils: classes to ask against; None: all the others.
        predicted: the predicted class.

    Raises:
        TargetError: a class is on both sides.
    """
    asked = tuple(targets) or (predicted,)
    if foils is None:
        return Question(tuple((index,) for index in dict.fromkeys(asked)), None)
    if foils:
        return Question.why_group_not(asked, foils)
    return Question.why_group(asked)


def parse_sides(
    targets: Sequence[str], foils: Sequence[str], class_names: Sequence[str]
) -> tuple[list[int], list[int] | None]:
    """Parse target and foil classes from user input; foils are None for :data:`OTHERS`.

    Raises:
        TargetError: a class is not found, or others are named in addition to :data:`OTHERS`.
    """
    asked = [find_class(one, class_names) for one in targets]
    if OTHERS not in [one.casefold() for one in foils]:
        return asked, [find_class(one, class_names) for one in foils]
    if len(foils) > 1:
        raise TargetError(f"'{OTHERS}' already stands for every other class; give no further foils")
    return asked, None


def check_class(index: int, num_classes: int | None) -> int:
    """Return the number of a class after checking it; ``num_classes`` None: their number is not known.

    Raises:
        TargetError: it is negative, or the model has no such class.
    """
    if index < 0:
        raise TargetError(f"class {index} is negative; classes are numbered from 0")
    if num_classes is not None and index >= num_classes:
        raise TargetError(
            f"class {index} is out of range; this model has {num_classes}, numbered 0 … {num_classes - 1}"
        )
    return index


def _listed(meant: Sequence[int], class_names: Sequence[str]) -> str:
    shown = ", ".join(f"'{class_names[index]}' ({index})" for index in meant[:6])
    return f"{shown} and {len(meant) - 6} more" if len(meant) > 6 else shown


def _suggestion(sought: str, synonyms: Sequence[Sequence[str]], class_names: Sequence[str]) -> str:
    every = {part: index for index, several in enumerate(synonyms) for part in several}
    close = get_close_matches(sought, every, n=3, cutoff=0.6)
    if not close:
        words = sought.split()
        close = [part for part in every if any(word in part.split() for word in words)][:3]
    meant = list(dict.fromkeys(every[part] for part in close))
    return f"; did you mean {_listed(meant, class_names)}?" if meant else ""


def question_text(question: Question, class_names: Sequence[str]) -> str:
    """Return the question as a sentence: ``"Why tabby and not lynx?"``; classes without a name are ``"class 3"``."""
    asked = [index[0] for index in (*question.targets, *(question.foils or ())) if len(index) == 1]
    unnamed = [index + 1 for index in asked] if min(asked, default=0) >= 0 else []  # negative ones count from the end
    text = question.text([class_name(index, class_names) for index in range(max([len(class_names), *unnamed]))])
    return text[:1].upper() + text[1:]
