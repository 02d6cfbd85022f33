"""The two kinds of averages over a batch."""

from __future__ import annotations

from typing import Literal, get_args

#: "image": equal weight for each image. "class": for each class (the sum of class means over the number of classes).
Average = Literal["image", "class"]
AVERAGES: tuple[Average, ...] = get_args(Average)
