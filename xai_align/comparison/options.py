"""Options of a comparison that are rarely changed, with their defaults."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from xai_align.data.groups import ClassGroups
from xai_align.data.value_range import ValueRange
from xai_align.hookspecs import LoadedModel
from xai_align.plugins import ModelOptions

#: Called after each step with the explanations done, their total number, and the failures since the last call.
Progress: TypeAlias = Callable[[int, int, Sequence[str]], None]


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """Options of :func:`xai_align.compare`; each can also be given to it by keyword.

    Attributes:
        classes: classes that questions are about, names or numbers; none: the predicted class of each image.
        foils: contrasted classes, or ``"others"``; none: the runner-up, or the sibling group.
        groups: a JSON file ``{"name": [class, ...]}``, ``"wordnet"``, ``"confusion"``, or groups; None: WordNet's.
        reference: the method that the others are compared with; None: the first.
        scores: files of scores from outside, such as a person's or a language model's, judged like any method;
            ``"NAME=FILE"`` names one; see :func:`xai_align.data.outside_scores.read_scores`.
        transfer_to: a second model, on which the metrics evaluate the explanations of the first. It gets the
            first model's inputs, in its own scale and size.
        batch_size: images per batch. Methods that draw at random draw once per batch.
        pictures: number of images of which pictures are made.
        device: e.g. ``"cuda:1"``; None: a GPU if there is one; for a loaded model, its device.
        internal_batch_size: perturbed inputs per forward pass.
        table_format: ``"parquet"`` or ``"csv"``; None: Parquet if pyarrow is installed (the extra ``compare``).
        recursive: whether sub-folders are searched for images, too.
        value_range: the pixel values that are black and white, the same for all; None: by the rule of
            :mod:`xai_align.data.value_range`.
        model_options: what is stated about the model that is explained: class names, the meaning of its outputs, the
            size of its input; None: nothing over its own configuration.
        trust: whether a model's folder may name code, which is then run; see :func:`~xai_align.plugins.load_model`.
        progress: called after each step, see :data:`Progress`.

    Example::

        from xai_align.data.photographs import FOLDER

        model = "timm:mobilenetv3_small_050@random"
        options = CompareOptions(reference="pinet", batch_size=16)
        compare(model, FOLDER, methods=["random", "pinet"], metrics=["tie_rate"], limit=1, options=options)
    """

    classes: Sequence[str | int] = ()
    foils: Sequence[str | int] = ()
    groups: str | Path | ClassGroups | None = None
    reference: str | None = None
    scores: Sequence[str | Path] = ()
    transfer_to: str | LoadedModel | None = None
    batch_size: int = 8
    pictures: int = 6
    device: str | None = None
    internal_batch_size: int | None = None
    table_format: str | None = None
    recursive: bool = False
    value_range: ValueRange | None = None
    model_options: ModelOptions | None = None
    trust: bool = False
    progress: Progress | None = None
