"""Record of the explanation of one image: every number, and the arrays."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from xai_align._tools.files.name_part import name_part
from xai_align._tools.files.whole_file import whole_file, write_whole
from xai_align.data.output_description import OutputDescription
from xai_align.features.spatial import contribution_map

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

    Numbers are in logits unless stated. Fields that only methods with a decomposition have (``layer`` to
    ``amplification``) are None for the others.

    Attributes:
        image: the name of the image.
        question: the question as text.
        class_name: name of the class or group in question.
        targets, foils: numbers of the classes on the two sides; foils None: all others.
        answer: the question's answer from the logits.
        contributions: the sum of all attributions.
        positive, negative: the sums of the map's positive and negative values.
        layer: the layer of the readout; kind: ``"local"`` or ``"frozen"``.
        prefix, bias, around, completeness_error, relative_error, amplification: as in
            :class:`~xai_align.pinet.readout.Readout`.
        seconds: time of the method.
        logits: ``[K]``.
        map: ``[H, W]``, on the input's pixels; float32, or float64 if the values are too large or too small for it.
        raw: a readout's contributions in the feature space's own shape, one array for each tensor of it.
        cells: ``[h, w]``, a readout's map on the layer's own grid; None where there is no such grid, or several.
        values: the meaning of the map's numbers; signed: whether those below zero are evidence against it.
        note: the method author's remark for readers of the map.
        remarks: remarks that are needed to read the numbers: evidence cut off from the gradient, or around the layer.
        output: the meaning of the model's outputs; None: classes without names.
        warnings: remarks on the model, such as that its weights are random.
    """

    image: str
    question: str
    method: str
    class_name: str
    targets: tuple[int, ...]
    foils: tuple[int, ...] | None
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
    amplification: float | None
    seconds: float
    logits: Tensor
    map: Tensor
    raw: tuple[Tensor, ...]
    cells: Tensor | None = None
    values: Values = "scores"
    signed: bool = False
    note: str = ""
    remarks: tuple[str, ...] = ()
    output: OutputDescription | None = None
    warnings: tuple[str, ...] = ()

    @property
    def meaning(self) -> OutputDescription:
        """Return the meaning of the model's outputs."""
        return self.output or OutputDescription(num_outputs=self.logits.numel())

    @property
    def is_decomposition(self) -> bool:
        """True if the contributions and the bias sum to the answer."""
        return self.bias is not None

    @property
    def gap(self) -> float:
        """Answer minus the sum of the contributions."""
        return self.answer - self.contributions

    @property
    def label(self) -> str:
        """Method and layer: ``"pinet at input"``."""
        return f"{self.method} at {self.layer}" if self.layer else self.method

    def without_arrays(self) -> Record:
        """Return the record with its numbers and logits only, which are small enough to be kept for many images."""
        return replace(self, map=torch.empty(0, 0), raw=(), cells=None)


def record_of(
    explanation: Explanation,
    *,
    image: str,
    class_names: Sequence[str] = (),
    output: OutputDescription | None = None,
    warnings: Sequence[str] = (),
    position: int | None = None,
) -> Record:
    """Return the record of an explanation of one image.

    Args:
        explanation: of one image, or of a batch of which ``position`` names one.
        image: its name.
        class_names: in the order of the outputs; only where ``output`` is not given.
        output: the meaning of the model's outputs; None: classes with these names.
        warnings: remarks on the model.
        position: the image's number in the batch; None: it is the only one.

    Raises:
        ValueError: the batch size is not 1, or the input was not an image.
    """
    if position is None and len(explanation.answer) != 1:
        raise ValueError(f"a record is of one image; this explanation is of {len(explanation.answer)}")
    i = position or 0
    asked, readout = explanation.questions[i], explanation.readout
    count = explanation.logits[i].numel()
    meaning = output or OutputDescription(num_outputs=count, class_names=tuple(class_names))
    question = meaning.on_sides(asked)
    grid = explanation.map[i].detach().cpu().double()
    account: dict[str, Any] = dict.fromkeys(
        ("layer", "kind", "prefix", "bias", "around", "completeness_error", "relative_error", "amplification")
    )
    raw: tuple[Tensor, ...] = ()
    if readout is not None:
        layer = readout.feature_space.layer
        account = {
            "layer": layer if isinstance(layer, str) else ", ".join(layer),
            "kind": readout.kind,
            "prefix": float(readout.prefix[i]),
            "bias": float(readout.bias[i]),
            "around": float(readout.around[i]),
            "remarks": remarks(readout),
            "completeness_error": float(readout.completeness_error[i]),
            "relative_error": float(readout.relative_error[i]),
            "amplification": float(readout.amplification[i]),
        }
        parts = readout.contributions
        raw = tuple(part[i].detach().cpu() for part in (parts if isinstance(parts, tuple) else (parts,)))
    return Record(
        image=image,
        question=meaning.text(asked),
        method=explanation.method,
        class_name=" or ".join(meaning.name(index) for index in _numbers(question.targets)),
        targets=_numbers(question.targets),
        foils=None if question.foils is None else _numbers(question.foils),
        answer=float(explanation.answer[i]),
        contributions=float(explanation.total[i]),
        positive=float(grid.clamp(min=0).sum()),
        negative=float(grid.clamp(max=0).sum()),
        seconds=explanation.seconds / len(explanation.answer),
        logits=explanation.logits[i].detach().float().flatten().cpu(),
        map=_compact(grid),
        raw=raw,
        cells=None if readout is None else _cells(readout, i),
        values=explanation.values,
        signed=explanation.signed,
        note=explanation.note,
        output=output or (meaning if class_names else None),
        warnings=tuple(warnings),
        **account,
    )


def remarks(readout: Readout) -> tuple[str, ...]:
    """Return the remarks that are needed to read a readout's numbers, one clause each."""
    found = [f"evidence cut off from the gradient lies in the bias: {cut}" for cut in readout.cut_off]
    if bool((readout.around != 0).any()):
        found.append(f"some evidence bypasses '{readout.feature_space.layer}'; it is one number without a position")
    if readout.gates_flow:
        found.append(
            "all paths to the answer lead through gates, so sigmoids and similar gates were read as activations"
        )
    return tuple(found)


def _compact(grid: Tensor) -> Tensor:
    """Return a map in float32, or as it is if that would make values infinite, or all of them zero."""
    largest = float(grid.abs()[grid.isfinite()].max()) if bool(grid.isfinite().any()) else 0.0
    limits = torch.finfo(torch.float32)
    return grid.float() if largest == 0 or 1e6 * limits.tiny < largest <= limits.max else grid


def _cells(readout: Readout, i: int) -> Tensor | None:
    """Return an image's contributions on the layer's own grid, if that is all there is on the picture."""
    parts = readout.contributions
    if isinstance(parts, tuple) or readout.placed or readout.image_size is None:
        return None
    return contribution_map(parts, readout.feature_space, readout.image_size)[i].detach().cpu()


def file_name(method: str, layer: str | None) -> str:
    """Return the method, and the layer if one was given, as part of a file name: ``"pinet-input"``."""
    return name_part(re.sub(r"[^\w.-]+", "-", f"{method}-{layer}" if layer else method))


def save_arrays(record: Record, path: Path) -> None:
    """Write the map, the logits and, of a readout, the raw contributions as an ``.npz`` file."""
    arrays = {"map": _array(record.map), "logits": _array(record.logits)}
    for number, part in enumerate(record.raw):
        arrays["contributions" if number == 0 else f"contributions_{number}"] = _array(part)
    with whole_file(path) as waiting, waiting.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def save_numbers(record: Record, path: Path, *, class_names: Sequence[str] = (), **more: Any) -> None:
    """Write every number of a record, and ``more``, as JSON. Numbers that are not finite become null."""
    write_whole(path, json.dumps(_finite(numbers_of(record, class_names) | more), indent=2, ensure_ascii=False) + "\n")


def numbers_of(record: Record, class_names: Sequence[str] = ()) -> dict[str, Any]:
    """Return a record without its arrays, with the classes in question and the five most probable ones."""
    output = record.meaning
    names = class_names or output.names
    left_out = ("raw", "cells", "output")
    kept = {
        name: value for name, value in vars(record).items() if not isinstance(value, Tensor) and name not in left_out
    }
    scores, probabilities = output.scores(record.logits), output.probabilities(record.logits)

    def about(side: int) -> dict[str, Any]:
        found: dict[str, Any] = {"class": side, "name": names[side] if 0 <= side < len(names) else None}
        if probabilities is None:
            return found | {"value": float(scores[side])}
        return found | {"logit": float(scores[side]), "probability": float(probabilities[side])}

    likeliest = torch.argsort(scores, descending=True, stable=True)[:5].tolist()
    described = {"kind": output.kind, "unit": output.answer_unit}
    return kept | {
        "targets": [about(index) for index in record.targets],
        "foils": "all others" if record.foils is None else [about(index) for index in record.foils],
        # a sum of slopes or of scores has no meaning beside the answer
        "contributions": record.contributions if record.values == "contributions" else None,
        "gap": record.gap if record.values == "contributions" else None,
        "image_size": list(record.map.shape),
        "output": described,
        **({"likeliest": [about(index) for index in likeliest]} if output.has_probabilities else {}),
    }


def _numbers(entries: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """Return class numbers; the only output of a network with one entry is class 0."""
    if any(len(index) > 1 for index in entries):
        raise ValueError("the question is about positions of a dense output; a record needs class logits [N, K]")
    return tuple(index[0] if index else 0 for index in entries)


def _array(tensor: Tensor) -> NDArray[Any]:
    return tensor.float().numpy() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor.numpy()


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
