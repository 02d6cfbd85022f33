"""The photographs that come with the package, for the demo and for trying things out.

Who took them and under which licence is in ``LICENCES.md`` beside them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Photograph:
    """A photograph and the questions worth asking about it.

    Attributes:
        path: the JPEG file.
        title: what a person sees on it.
        rival: the class to ask "and why not that?" about, by name.
        credit: author and licence in one line.
    """

    path: Path
    title: str
    rival: str
    credit: str


PHOTOGRAPHS = (
    Photograph(
        path=FOLDER / "chelsea.jpg",
        title="Chelsea the cat",
        rival="tiger cat",
        credit="Stéfan van der Walt, CC0",
    ),
    Photograph(
        path=FOLDER / "coffee.jpg",
        title="A cup of coffee",
        rival="coffee mug",
        credit="Rachel Michetti, CC0",
    ),
    Photograph(
        path=FOLDER / "rocket.jpg",
        title="The launch of a Falcon 9",
        # the net takes the launch towers for a drilling platform: a mistake worth asking about
        rival="missile",
        credit="SpaceX, public domain",
    ),
    Photograph(
        path=FOLDER / "china.jpg",
        title="A tower above a lake",
        # where does the palace end and the lakeside begin?
        rival="lakeside",
        credit="danielbuechele, CC BY 2.0",
    ),
)
