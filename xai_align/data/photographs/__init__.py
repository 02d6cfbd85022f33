"""Photographs that come with the package, for the demo and for experiments.

Authors and licences are in ``LICENCES.md`` in the same folder.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Photograph:
    """Photograph and the class to contrast with.

    Attributes:
        path: the JPEG file.
        title: a short description.
        foil: the class to ask "and why not that?" about, by name.
        credit: author and licence in one line.
    """

    path: Path
    title: str
    foil: str
    credit: str


PHOTOGRAPHS = (
    Photograph(
        path=FOLDER / "chelsea.jpg",
        title="Chelsea the cat",
        foil="tiger cat",
        credit="Stéfan van der Walt, CC0",
    ),
    Photograph(
        path=FOLDER / "coffee.jpg",
        title="A cup of coffee",
        foil="coffee mug",
        credit="Rachel Michetti, CC0",
    ),
    Photograph(
        path=FOLDER / "rocket.jpg",
        title="The launch of a Falcon 9",
        # the network predicts a drilling platform for the launch towers: an instructive error
        foil="missile",
        credit="SpaceX, public domain",
    ),
    Photograph(
        path=FOLDER / "china.jpg",
        title="A tower above a lake",
        # the photograph shows both a palace and a lakeside
        foil="lakeside",
        credit="danielbuechele, CC BY 2.0",
    ),
)
