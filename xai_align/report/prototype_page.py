"""HTML page of prototypes: the parts of a photograph that make its answer, next to the parts that they look like.

A single file that fetches nothing and is complete without scripts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xai_align._tools.files.whole_file import write_whole
from xai_align._tools.jpeg import SmallPicture
from xai_align.report.number_format import number_format
from xai_align.report.page import render
from xai_align.report.part_picture import part_picture, parts_on_sheet, small_part
from xai_align.report.sum_terms import Term
from xai_align.report.thumbnail import photograph_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from xai_align.prototypes import ChannelShares, Prototypes

#: Channels that a page shows of each photograph: this many for the answer, and as many against it as half of them.
SHOWN = 4


@dataclass(frozen=True, kw_only=True)
class ShownPart:
    """A channel's part of a photograph, and the prototypes of the channel.

    ``box``: left, top, width and height as shares of the photograph.
    """

    channel: int
    share: str
    against: bool
    absent: bool
    purity: str
    box: tuple[float, ...]
    part: SmallPicture
    like: Sequence[SmallPicture]


@dataclass(frozen=True, kw_only=True)
class PartsOfPhotograph:
    """A photograph with the parts of the channels that are strongest for and against an answer, and the whole sum."""

    title: str
    question: str
    photograph: SmallPicture
    parts: Sequence[ShownPart]
    terms: Sequence[Term]
    answer: float
    exactness: str


def parts_of_photograph(
    shares: ChannelShares,
    prototypes: Prototypes,
    picture: NDArray[Any],
    sheets: Path,
    *,
    title: str,
    question: str,
    example: int = 0,
    count: int = SHOWN,
) -> PartsOfPhotograph:
    """Return the section of the page about one photograph.

    Args:
        shares: the channels' shares in the answer.
        prototypes: the fitted prototypes.
        picture: the photograph as the model's input, ``[H, W, 3]`` in [0, 1].
        sheets: the folder that :func:`~xai_align.report.part_picture.write_sheets` wrote.
        title: the photograph's name.
        question: the question in words.
        example: index in ``shares``.
        count: number of channels for the answer; half as many against it.
    """
    values = shares.shares[example].double()
    positions, signs = shares.positions()[example], shares.signs()[example]
    order = values.sort(descending=True, stable=True).indices.tolist()
    for_it = [channel for channel in order[:count] if values[channel] > 0]
    against = [
        channel for channel in order[::-1][: max(1, count // 2)] if values[channel] < 0 and channel not in for_it
    ]
    number = number_format([float(shares.answer[example]), *(float(values[one]) for one in (*for_it, *against))])
    height, width = prototypes.image_size
    shown = []
    for channel in (*for_it, *against):
        box = prototypes.box(int(positions[channel]))
        left, top, right, bottom = box
        sign = int(signs[channel])
        shown.append(
            ShownPart(
                channel=channel,
                share=("+" if values[channel] > 0 else "") + number(float(values[channel])),
                against=bool(values[channel] < 0),
                absent=sign < 0,
                purity=f"{float(prototypes.purity[1, channel]):.2f}",
                box=(left / width, top / height, (right - left) / width, (bottom - top) / height),
                part=small_part(part_picture(picture, box)),
                like=parts_on_sheet(sheets, channel, sign),
            )
        )
    terms = [
        Term("region" if values[channel] > 0 else "against", f"channel {channel}", float(values[channel]))
        for channel in (*for_it, *against)
    ]
    others = float(values.sum()) - sum(term.value for term in terms)
    left_over = prototypes.channels - len(terms)
    if left_over:
        terms.append(Term("rest", "the other channel" if left_over == 1 else f"the other {left_over} channels", others))
    for text, value in (("class tokens", shares.prefix), ("around the layer", shares.around)):
        if float(value[example]):
            terms.append(Term("apart", text, float(value[example])))
    terms.append(Term("bias", "bias", float(shares.bias[example])))
    error = abs(float(shares.completeness_error[example]))
    local = shares.kind == "local"
    return PartsOfPhotograph(
        title=title,
        question=question,
        photograph=photograph_of(picture),
        parts=shown,
        terms=terms,
        answer=float(shares.answer[example]),
        exactness=f"The terms miss the logit by {error:.1e}. "
        + (
            "Without a channel the logit falls by exactly its share."
            if local
            else "The sum is exact with this picture's gates, scales and attention held."
        ),
    )


def write_prototype_page(
    path: Path, photographs: Sequence[PartsOfPhotograph], *, title: str, lead: Sequence[str] = ()
) -> None:
    """Write the page; an existing page is replaced when the new one is complete.

    Raises:
        OSError: it cannot be written; the message names the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, render("prototypes.html", [], title=title, lead=lead, photographs=photographs))
