"""Pictures for the page: the first images, every method's map over them, and the map's data for the page."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from xai_align._tools.files.name_part import distinct, name_part
from xai_align._tools.files.whole_file import write_whole
from xai_align.comparison.one_by_one import message_of
from xai_align.comparison.result import Picture
from xai_align.data.model_picture import picture_of

if TYPE_CHECKING:
    from xai_align.comparison.example import Example
    from xai_align.comparison.method_reference import MethodReference
    from xai_align.comparison.plan import Plan
    from xai_align.comparison.store import Part
    from xai_align.explanation import Explanation

#: Their folder, in the folder of the comparison.
FOLDER = "pictures"

#: Returns what the page shows of an explanation of an image, by its number in the batch, as JSON.
Describe: TypeAlias = "Callable[[Explanation, int, str], str]"


def answer_file(picture: Path) -> Path:
    """Return the file with the values and the numbers of the map in a picture's file."""
    return picture.with_suffix(".json")


class Pictures:
    """Writer of pictures to ``out/pictures``; without ``out`` it writes nothing.

    ``describe``: the data of a map that the page shows in addition to its picture; None: nothing.
    """

    def __init__(self, plan: Plan, part: Part, out: Path | None, describe: Describe | None = None) -> None:
        self.plan, self.part, self.out, self.describe = plan, part, out, describe
        first = part.number * plan.batch_size
        paths = plan.part_paths(part.number)[: max(plan.pictures - first, 0)] if out is not None else ()
        self._stems = {path: f"{first + i:03d}-{name_part(_plain(path.stem))}" for i, path in enumerate(paths)}
        methods = [str(one) for one in plan.methods]
        self._methods = dict(zip(methods, distinct(name_part(_plain(one)) for one in methods), strict=True)) | {"": ""}
        self._shown: set[Path] = set()

    def draw(self, batch: Sequence[Example], explanation: Explanation, kind: str, method: MethodReference) -> None:
        """Draw the method's maps over those images that are shown on the page; each photograph once."""
        wanted = [position for position, example in enumerate(batch) if example.path in self._stems]
        if not wanted:
            return
        from xai_align._tools.png import photograph_png
        from xai_align.data.overlay import coloured, density

        for position in wanted:
            example = batch[position]
            assert example.question is not None
            try:
                picture = picture_of(example.input, self.plan.loaded)
            except ValueError as error:
                self._not_drawn(example, message_of(error))
                continue
            if example.path not in self._shown:
                self._shown.add(example.path)
                self._save(example, photograph_png(picture))
            try:
                shown = density(explanation.map[position], picture.shape[:2])
                overlay = photograph_png(coloured(picture, shown, signed=explanation.signed))
            except Exception as error:  # a third party's map may have any shape
                self.part.problems.append(f"{example.name}: no picture of {method} ('{kind}'): {message_of(error)}")
                continue
            text = self.plan.output.text(example.question)
            file = self._save(example, overlay, kind, text, str(method))
            self._save_answer(example, explanation, position, file, f"{method} ('{kind}')")

    def _save_answer(self, example: Example, explanation: Explanation, position: int, file: Path, what: str) -> None:
        if self.describe is None:
            return
        try:
            answer = self.describe(explanation, position, example.path.name)
        except Exception as error:  # as above
            self.part.problems.append(f"{example.name}: the page has no values of {what}: {message_of(error)}")
            return
        write_whole(answer_file(file), answer)

    def _not_drawn(self, example: Example, reason: str) -> None:
        problem = f"{example.name}: no picture of it: {reason}"
        if problem not in self.part.problems:
            self.part.problems.append(problem)

    def _save(self, example: Example, content: bytes, kind: str = "", text: str = "", method: str = "") -> Path:
        assert self.out is not None
        name = "-".join(part for part in (self._stems[example.path], kind, self._methods[method]) if part)
        folder = self.out / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / f"{name}.png", content)
        made = Picture(
            image=example.name, question=kind, question_text=text, method=method, file=f"{FOLDER}/{name}.png"
        )
        self.part.pictures.append(asdict(made))
        return folder / f"{name}.png"


def _plain(name: str) -> str:
    """Replace the characters that a file name must not have."""
    return re.sub(r"[^\w.+-]+", "_", name.replace("@", "-at-"))
