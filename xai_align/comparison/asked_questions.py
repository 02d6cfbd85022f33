"""Choice of the question about one image from a kind of question, such as "why-not".

No label is needed: questions are about the predicted class, unless a class is named.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xai_align._tools.checks import check_choice
from xai_align._tools.files.fields import shown
from xai_align._tools.files.plain_json import read_json
from xai_align.data.class_names import check_class, find_class, parse_sides, question_about
from xai_align.data.groups import ClassGroups
from xai_align.question import Question, TargetError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import Tensor

#: Why A? A and not B? A and not the rest of its group? Why this group? This group and not that one?
KINDS = ("why", "why-not", "why-not-rest", "group", "group-not")
#: Kinds that contrast with other classes, which may be named.
AGAINST = ("why-not", "group-not")
#: Kinds that need the group of a class.
GROUPED = ("why-not-rest", "group", "group-not")
#: Groups from ImageNet's WordNet hierarchy, and from the classes that the model confuses.
WORDNET, CONFUSION = "wordnet", "confusion"


class NoQuestion(ValueError):
    """Error for a kind of question that cannot be asked about this class, because it is in no suitable group."""


@dataclass(frozen=True, kw_only=True)
class Asking:
    """Questions that are asked of every image.

    Attributes:
        kinds: entries of :data:`KINDS`.
        targets: the classes that questions are about; none: the predicted one.
        foils: the contrasted classes; empty: chosen for each image; None: all the others.
        groups: the groups of classes; None: WordNet's.
    """

    kinds: tuple[str, ...]
    targets: tuple[int, ...] = ()
    foils: tuple[int, ...] | None = ()
    groups: ClassGroups | None = None

    def question(self, kind: str, logits: Tensor) -> Question:
        """Return the question of this kind about an image with these logits ``[K]``.

        Raises:
            NoQuestion: the class is in no group, or its group has no sibling.
            TargetError: a class would be on both sides.
        """
        order = logits.argsort(descending=True, stable=True).tolist()
        asked = self.targets[0] if self.targets else order[0]
        if kind == "why":
            return Question.why(asked)
        if kind == "why-not":
            runner_up = next(index for index in order if index != asked)
            return question_about([asked], (runner_up,) if self.foils == () else self.foils, asked)
        if kind == "why-not-rest":
            group = self._group(asked)
            if len(group) < 2:
                raise NoQuestion(f"class {asked} is alone in its group")
            return Question.why_not_rest(asked, group)
        ours = self.targets if len(self.targets) > 1 else self._group(asked)
        if kind == "group":
            return Question.why_group(ours)
        if self.foils is None:
            return question_about(ours, None, asked)
        if len(self.foils) > 1:
            return Question.why_group_not(ours, self.foils)
        theirs = self._group(self.foils[0]) if self.foils else self._foil_group(asked, ours, order)
        return Question.why_group_not(ours, theirs)

    def check(self, num_classes: int) -> None:
        """Raise if these questions cannot be asked of an output with this number of classes.

        Raises:
            TargetError: a class is out of range, or there are too few.
            ValueError: the groups are for another output.
        """
        for index in (*self.targets, *(self.foils or ())):
            check_class(index, num_classes)
        if num_classes < 2 and self.kinds != ("why",):
            raise TargetError(f"this model has {num_classes} class; only the question 'why' can be asked of it")
        if self.groups is not None:
            self.groups.check(num_classes)
        elif any(kind in GROUPED for kind in self.kinds):
            from xai_align.data.imagenet_groups import NUM_CLASSES

            if num_classes != NUM_CLASSES:
                grouped = next(kind for kind in self.kinds if kind in GROUPED)
                raise ValueError(
                    f"the question '{grouped}' needs groups of classes, and WordNet's are for ImageNet's "
                    f"{NUM_CLASSES}; this model has {num_classes}: name a file of groups, or '{CONFUSION}'"
                )

    def _group(self, index: int) -> tuple[int, ...]:
        from xai_align.data.imagenet_groups import default_group

        try:
            return default_group(index).classes if self.groups is None else self.groups[self.groups.group_of(index)]
        except ValueError as error:
            raise NoQuestion(str(error)) from None

    def _foil_group(self, asked: int, ours: Sequence[int], order: Sequence[int]) -> tuple[int, ...]:
        """Return WordNet's sibling group; of other groups, that of the most probable class outside ours."""
        from xai_align.data.imagenet_groups import default_foil, default_group

        if self.groups is None:
            try:
                return default_foil(default_group(asked).wnid).classes
            except ValueError as error:
                raise NoQuestion(str(error)) from None
        for index in order:
            for name in self.groups.groups_of(index):
                if not set(self.groups[name]) & set(ours):
                    return self.groups[name]
        raise NoQuestion(f"there is no other group to contrast with that of class {asked}")


def parse_kinds(written: Iterable[str]) -> tuple[str, ...]:
    """Parse the kinds of questions, each once.

    Raises:
        ValueError: there is none, or an unknown one.
    """
    kinds = tuple(dict.fromkeys(one.strip() for one in written))
    for kind in kinds:
        check_choice("the question", kind, KINDS)
    if not kinds:
        raise ValueError(f"no question was given; known are {', '.join(KINDS)}")
    return kinds


def parse_asking(
    kinds: Iterable[str],
    targets: Sequence[str],
    foils: Sequence[str],
    class_names: Sequence[str],
    groups: ClassGroups | None = None,
) -> Asking:
    """Parse questions from text.

    Raises:
        TargetError: a class is not found, or is on both sides.
        ValueError: a kind is not known, or does not use the classes named.
    """
    known = parse_kinds(kinds)
    asked, against = parse_sides(targets, foils, class_names)
    single = [kind for kind in known if not kind.startswith("group")]
    if len(set(asked)) > 1 and single:
        raise ValueError(f"the question '{single[0]}' is about one class, {len(asked)} were named; ask 'group'")
    if against != [] and not any(kind in AGAINST for kind in known):
        raise ValueError(
            f"foils were given, but the question '{', '.join(known)}' has none; ask 'why-not' or 'group-not'"
        )
    if asked and against:
        question_about(asked, against, asked[0])  # raises if the sides overlap
    return Asking(
        kinds=known,
        targets=tuple(dict.fromkeys(asked)),
        foils=None if against is None else tuple(dict.fromkeys(against)),
        groups=groups,
    )


def read_groups(path: str | Path, class_names: Sequence[str]) -> ClassGroups:
    """Read groups from a JSON file ``{"name": [class, ...]}``; a class is a number or a name.

    Raises:
        ValueError: the file does not exist, has another form, or names a class that the model lacks.
    """
    if not os.path.isfile(Path(path)):
        raise ValueError(f"the groups '{path}' cannot be read: give a file, '{WORDNET}' or '{CONFUSION}'")
    content = read_json(Path(path))
    if not isinstance(content, dict) or not all(isinstance(members, list) for members in content.values()):
        raise ValueError(f'the groups \'{path}\' must look like {{"cats": [281, 282], "dogs": ["beagle"]}}')

    def member(one: Any) -> Any:
        if type(one) not in (str, int):
            raise ValueError(f"{shown(one)} is not the number or the name of a class")
        return find_class(one, class_names) if isinstance(one, str) else one

    try:
        groups = {name: [member(one) for one in members] for name, members in content.items()}
        return ClassGroups.from_overlapping_dict(groups, num_classes=len(class_names) or None)
    except (ValueError, TypeError) as error:
        raise ValueError(f"the groups '{path}': {error}") from error
