"""Where a convolutional network is read sharply, and by which rule, if nobody says otherwise."""

from __future__ import annotations

from typing import Any

from xai_align import plugins
from xai_align.pinet.places import Place
from xai_align.pinet.unwrapping import unwrapped
from xai_align.question import QuestionModel

#: Counted from the last of a network's stages: the one where a cell is 8 pixels wide, of stages that halve the map.
STAGE = -3


def sharp_place(model: Any) -> Place | None:
    """The place whose map is sharp and still first under insertion and deletion; None for networks not known.

    It is the third stage from the end, by the gamma rule, with biases at their
    positions: found on EfficientNet-Lite0 and SqueezeNet (``benchmarks/sharp_readout.py``).
    A network is known if a plugin names its stages, and its last feature map is one of rows and columns.
    A retrofitted network is read where it was retrofitted.

    Args:
        model: the network, also compiled, parallel or asked a question.
    """
    model, own_place = unwrapped(model)
    if isinstance(model, QuestionModel):
        model, own_place = unwrapped(model.model)
    if own_place is not None:
        return None
    space = plugins.feature_space(model)
    ...
