"""What is kept of the explanation of one image: every number, and the arrays."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from xai_align.data.class_names import class_name, in_words

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from xai_align.explanation import Explanation
    from xai_align.hookspecs import Values
    from xai_align.pinet.readout import Readout


@dataclass(frozen=True, kw_only=True)
class Record:
    """One image, one question, one method.

    Numbers are in logits unless stated. What only methods with an account have (``layer`` to
    ``relative_error``) is None for the others.

    Attributes:
        image: what the image is called.
        question: in words.
        class_name: what the question is about, in words.
        favoured, rivals: numbers of the classes on the two sides; rivals None: all others.
        answer: what the question makes of the logits.
        contributions: the sum of all that the method attributed.
        positive, negative: the sums of what speaks for and against in the map.
        layer: where in the network was read; kind: ``"local"`` or ``"frozen"``.
        prefix, bias, around, completeness_error, relative_error: as in :class:`~xai_align.pinet.readout.Readout`.
        seconds: what the method took.
        logits: ``[K]``.
        map: ``[H, W]``, on the input's pixels.
        raw: an account's contributions in the feature space's own shape, one array for each tensor of it.
        values: the meaning of the map's numbers; note: what the method's author says to a reader of the map.
        remarks: what a reader has to know besides the numbers: evidence that was cut off, or goes round the layer.
    """

    image: str
    question: str
    method: str
    class_name: str
    favoured: tuple[int, ...]
    rivals: tuple[int, ...] | None
    answer: float
    contributions: float
    positive: float
    negative: float
    layer: str | None
    kind: str | None
    prefix: float | None
    bias: float | None
    around: float | None
    completeness_error: float | None
    relative_error: float | None
    seconds: float
    logits: Tensor
    map: Tensor
    raw: tuple[Tensor, ...]
    values: Values = "scores"
    note: str = ""
    remarks: tuple[str, ...] = ()

    @property
    def is_account(self) -> bool:
        """Whether the contributions and the bias are the answer."""
        return self.bias is not None

    @property
    def gap(self) -> float:
        """What the contributions leave of the answer."""
        return self.answer - self.contributions

    @property
    def label(self) -> str:
        """The method, and where it read: ``"pinet at input"``."""
        return f"{self.method} at {self.layer}" if self.layer else self.method


def record_of(explanation: Explanation, *, image: str, class_names: Sequence[str] = ()) -> Record:
    """The record of an explanation of one image.

    Raises:
        ValueError: the explanation is of a batch of another size, or the input was no image.
    """
    if len(explanation.answer) != 1:
        raise ValueError(f"a record is of one image; this explanation is of {len(explanation.answer)}")
    question, readout = explanation.questions[0], explanation.readout
    grid = explanation.map[0].detach().cpu().double()
    account: dict[str, Any] = dict.fromkeys(
        ("layer", "kind", "prefix", "bias", "around", "completeness_error", "relative_error")
    )
    raw: tuple[Tensor, ...] = ()
    if readout is not None:
        layer = readout.feature_space.layer
        account = {
            "layer": layer if isinstance(layer, str) else ", ".join(layer),
            "kind": readout.kind,
            "prefix": float(readout.prefix[0]),
            "bias": float(readout.bias[0]),
            "around": float(readout.around[0]),
            "remarks": remarks(readout),
            "completeness_error": float(readout.completeness_error[0]),
            "relative_error": float(readout.relative_error[0]),
        }
        parts = readout.contributions
        raw = tuple(part[0].detach().cpu() for part in (parts if isinstance(parts, tuple) else (parts,)))
    return Record(
        image=image,
        question=in_words(question, class_names),
        method=explanation.method,
        class_name=" or ".join(class_name(index, class_names) for index in _numbers(question.favoured)),
        favoured=_numbers(question.favoured),
        rivals=None if question.rivals is None else _numbers(question.rivals),
        answer=float(explanation.answer[0]),
        contributions=float(explanation.total[0]),
        positive=float(grid.clamp(min=0).sum()),
        negative=float(grid.clamp(max=0).sum()),
        seconds=explanation.seconds,
        logits=explanation.logits[0].detach().float().flatten().cpu(),
        map=grid.float(),
        raw=raw,
        values=explanation.values,
        note=explanation.note,
        **account,
    )


def remarks(readout: Readout) -> tuple[str, ...]:
    """What a reader of a readout has to know besides its numbers, one clause each."""
    found = [f"evidence cut off from the gradient lies in the bias: {cut}" for cut in readout.cut_off]
    if bool((readout.around != 0).any()):
        found.append(f"evidence goes round '{readout.feature_space.layer}'; it is a number without a place")
    if readout.gates_flow:
        found.append("nothing but gates leads to the answer, so sigmoids and the like were read as activations")
    return tuple(found)


def file_name(method: str, layer: str | None) -> str:
    """A method, and the layer if one was asked for, as part of a file's name: ``"pinet-input"``."""
    return re.sub(r"[^\w.-]+", "-", f"{method}-{layer}" if layer else method)


def save_arrays(record: Record, path: Path) -> None:
    """Write the map, the logits and, of an account, the raw contributions as an ``.npz`` file."""
    arrays = {"map": _array(record.map), "logits": _array(record.logits)}
    for number, part in enumerate(record.raw):
        arrays["contributions" if number == 0 else f"contributions_{number}"] = _array(part)
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def save_numbers(record: Record, path: Path, *, class_names: Sequence[str] = (), **more: Any) -> None:
    """Every number of a record as JSON; ``more`` is added as it is. What is not finite becomes null."""
    path.write_text(
        json.dumps(_finite(numbers_of(record, class_names) | more), indent=2, ensure_ascii=False) + "\n",
        "utf-8",
    )


def numbers_of(record: Record, class_names: Sequence[str] = ()) -> dict[str, Any]:
    """A record without its arrays, with the classes it is about and the five likeliest."""
    kept = {name: value for name, value in vars(record).items() if not isinstance(value, Tensor) and name != "raw"}
    probabilities = record.logits.softmax(0)

    def about(index: int) -> dict[str, Any]:
        return {
            "class": index,
            "name": class_names[index] if 0 <= index < len(class_names) else None,
            "logit": float(record.logits[index]),
            "probability": float(probabilities[index]),
        }

    likeliest = torch.argsort(record.logits, descending=True, stable=True)[:5].tolist()
    return kept | {
        "favoured": [about(index) for index in record.favoured],
        "rivals": "all others" if record.rivals is None else [about(index) for index in record.rivals],
        "gap": record.gap,
        "image_size": list(record.map.shape),
        "likeliest": [about(index) for index in likeliest],
    }


def _numbers(entries: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """Class numbers; the output of a network with one entry is its class 0."""
    if any(len(index) > 1 for index in entries):
        raise ValueError("the question is about places of a dense output; a record is of class logits [N, K]")
    return tuple(index[0] if index else 0 for index in entries)


def _array(tensor: Tensor) -> NDArray[Any]:
    return tensor.float().numpy() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor.numpy()


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
