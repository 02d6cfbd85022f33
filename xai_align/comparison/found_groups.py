"""Groups of classes that questions name: from a file, or those that the model confuses."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import torch

from xai_align._tools.counted import counted
from xai_align.comparison.asked_questions import CONFUSION, WORDNET, read_groups
from xai_align.data.groups import ClassGroups
from xai_align.data.output_description import names_to_choose_from
from xai_align.data.prepared_image import prepared_image
from xai_align.data.value_range import ValueRange
from xai_align.explanation import logits_of
from xai_align.hookspecs import LoadedModel
from xai_align.question import TargetError

#: Number of images from whose predictions confused classes are found.
CONFUSION_IMAGES = 2000


def find_groups(
    asked: str | Path | ClassGroups | None,
    loaded: LoadedModel,
    paths: Sequence[Path],
    where: torch.device,
    value_range: ValueRange | None,
) -> ClassGroups | None:
    """Return the groups asked for; None where there are none, or the questions' own are those of WordNet.

    Raises:
        ValueError: the file cannot be used, or the model confuses no classes on these images.
    """
    if asked is None or asked == WORDNET:
        return None
    if isinstance(asked, ClassGroups):
        return asked
    if asked != CONFUSION:
        return read_groups(asked, names_to_choose_from(loaded))
    rows = []
    for path in islice(paths, CONFUSION_IMAGES):
        try:
            x = prepared_image(path, loaded, value_range)[0][None].to(where)
            rows.append(logits_of(loaded.model, x, loaded.output_field).softmax(1).cpu())
        except TargetError:  # the outputs are not logits, whatever the image
            raise
        except Exception:  # models may raise anything; it is reported when the image is processed
            continue
    if not rows:
        raise ValueError("the classes that the model confuses are found on the images, and none can be used")
    found = ClassGroups.from_confusion(torch.cat(rows))
    if not found:
        raise ValueError(f"the model confuses no classes on {counted(len(rows), 'image')}; name a file of groups")
    return found
