"""Plan of a comparison, checked as far as possible before the first image."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from xai_align._tools.checks import check_integer
from xai_align._tools.devices import usable_device
from xai_align._tools.files.legible import legible
from xai_align._tools.random_weights import RANDOM
from xai_align.comparison.asked_questions import GROUPED, Asking, parse_asking
from xai_align.comparison.compared_model import device_of, name_of, of_logits, on_device
from xai_align.comparison.found_groups import find_groups
from xai_align.comparison.image_labels import ImageLabel, read_labels
from xai_align.comparison.method_reference import MethodReference, check_layers, parse_methods
from xai_align.comparison.options import CompareOptions
from xai_align.comparison.outside_methods import methods_from_outside, named_file
from xai_align.comparison.provenance import file_sha256, versions, weights_sha256
from xai_align.comparison.transferred_model import transferred
from xai_align.comparison.usable_images import distinct_pictures, first_usable
from xai_align.data.final_activation import check_outputs_are_logits
from xai_align.data.images import ImageError, expand_paths
from xai_align.data.output_description import (
    OutputDescription,
    describe_output,
    names_to_choose_from,
    output_notes,
)
from xai_align.data.outside_scores import OutsideScores
from xai_align.data.prepared_image import prepared_image
from xai_align.data.value_range import ValueRange, check_range
from xai_align.hookspecs import LoadedModel, MetricSpec
from xai_align.plugins import metric

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: Number of images that metrics get as other images.
OTHER_IMAGES = 64


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Models, methods, metrics and questions of a comparison, and its images.

    Attributes:
        paths: the images, each picture once.
        hashes: of the files' content; "" for a file that cannot be read.
        notes: remarks for the reader so far.
        model: the model's reference, or the type of the object that was given.
        loaded: the model that is explained; ``judge``: the one that metrics evaluate, the same unless transferred.
        output: the meaning of the model's outputs.
        labels: labels and boxes of the images.
        value_range: the pixel values that are black and white; None: by each file.
        settings: everything that determines the values.
    """

    paths: tuple[Path, ...]
    hashes: tuple[str, ...]
    notes: tuple[str, ...]
    model: str
    loaded: LoadedModel
    output: OutputDescription
    judge: nn.Module
    methods: tuple[MethodReference, ...]
    reference: str
    metrics: tuple[MetricSpec, ...]
    asking: Asking
    labels: Mapping[Path, ImageLabel]
    value_range: ValueRange | None
    device: torch.device
    batch_size: int
    internal_batch_size: int | None
    seed: int
    pictures: int
    settings: dict[str, Any]

    @property
    def warnings(self) -> tuple[str, ...]:
        """Remarks that are needed to read the numbers."""
        random = [note for note in self.loaded.notes if RANDOM in note] or [RANDOM]
        return tuple(random) if self.loaded.random_weights else ()

    @property
    def num_parts(self) -> int:
        """Number of batches."""
        return -(-len(self.paths) // self.batch_size)

    @property
    def scores(self) -> tuple[OutsideScores, ...]:
        """Scores from outside among the methods."""
        return tuple(one.scores for one in self.methods if one.scores is not None)

    def part_paths(self, number: int) -> tuple[Path, ...]:
        """Return the images of a batch."""
        return self.paths[number * self.batch_size : (number + 1) * self.batch_size]

    @cached_property
    def other_images(self) -> Tensor:
        """Inputs ``[P, C, H, W]`` of the first images, up to :data:`OTHER_IMAGES`, for metrics that need others.

        Images that cannot be used, or have another size than the first, are left out.
        """
        kept: list[Tensor] = []
        for path in self.paths[:OTHER_IMAGES]:
            try:
                x = prepared_image(path, self.loaded, self.value_range)[0]
            except ImageError:  # reported when it is processed
                continue
            if not kept or x.shape == kept[0].shape:
                kept.append(x)
        return torch.stack(kept).to(self.device)

    def steps(self, number: int) -> int:
        """Return the number of explanations in a batch."""
        return len(self.part_paths(number)) * len(self.asking.kinds) * len(self.methods)


def prepare(
    model: str | LoadedModel,
    images: Sequence[str | Path],
    *,
    methods: Sequence[str],
    metrics: Sequence[str],
    question: str | Sequence[str],
    limit: int | None,
    seed: int,
    options: CompareOptions,
    device: torch.device | None,
) -> Plan:
    """Build the plan from the arguments of :func:`~xai_align.report.compare.compare`.

    ``device``: that of this process of several; None: the one in the options.

    Raises:
        ValueError: something named does not exist or does not fit; the message names it and the alternatives.
    """
    numbers = (("batch_size", options.batch_size, 1), ("limit", limit, 1), ("pictures", options.pictures, 0))
    for name, number, least in numbers:
        if number is not None:
            check_integer(name, number, least=least)
    value_range = check_range(options.value_range)
    compared = parse_methods(methods)
    named = [named_file(one) for one in options.scores]
    measured = [metric(name) for name in dict.fromkeys(one.strip() for one in metrics)]
    if not measured:
        raise ValueError("no metric was given; `xai-align methods` shows them")
    kinds = question.split(",") if isinstance(question, str) else question
    paths, hashes, notes = distinct_pictures(expand_paths(images, recursive=options.recursive), limit)
    compared += methods_from_outside(named, paths, compared, measured)
    main = _reference(options.reference, compared)
    labels = read_labels(paths)
    where = device or usable_device(options.device)
    given = options.device is not None or device is not None
    loaded = on_device(model, where, given=given, trust=options.trust, options=options.model_options)
    where = device_of(loaded.model, where)
    check_layers(compared, loaded.model)
    asking = parse_asking(
        kinds, list(map(str, options.classes)), list(map(str, options.foils)), names_to_choose_from(loaded)
    )
    probe, logits = first_usable(paths, loaded, where, value_range)
    output = describe_output(loaded, logits)
    check_outputs_are_logits(loaded, probe)
    if not asking.targets:
        output.predicted(logits[0])  # raises if none is predicted
    measured, left_out = _defined(measured, output)
    if options.groups is not None and not any(kind in GROUPED for kind in asking.kinds):
        raise ValueError(
            f"groups were given, but the question '{', '.join(asking.kinds)}' has none; ask {' or '.join(GROUPED)}"
        )
    asking = replace(asking, groups=find_groups(options.groups, loaded, paths, where, value_range))
    asking.check(output.sides)
    judge = of_logits(loaded, probe)
    if options.transfer_to is not None:
        other = on_device(options.transfer_to, where, given=True, trust=options.trust)
        judge = transferred(loaded, other, probe, logits, first_usable(paths, other, where, value_range))
    plan = Plan(
        paths=paths,
        hashes=hashes,
        notes=(*output_notes(loaded, output), *left_out, *notes),
        model=name_of(model),
        loaded=loaded,
        output=output,
        judge=judge,
        methods=tuple(compared),
        reference=main,
        metrics=tuple(measured),
        asking=asking,
        labels=labels,
        value_range=value_range,
        device=where,
        batch_size=options.batch_size,
        internal_batch_size=options.internal_batch_size,
        seed=seed,
        pictures=options.pictures,
        settings={},
    )
    return replace(plan, settings=_settings(plan, options.transfer_to, named))


def _settings(
    plan: Plan, transfer_to: str | LoadedModel | None, scores: Sequence[tuple[str | None, Path]]
) -> dict[str, Any]:
    """Return everything that determines the values, as JSON."""
    loaded, output, asking = plan.loaded, plan.output, plan.asking
    methods = [one.name for one in plan.methods if one.scores is None]
    metrics = [one.name for one in plan.metrics]
    return {
        "model": plan.model,
        "weights_sha256": weights_sha256(loaded.model),
        "transfer_to": None if transfer_to is None else name_of(transfer_to),
        "transfer_to_sha256": None if transfer_to is None else weights_sha256(plan.judge),
        "methods": [str(one) for one in plan.methods],
        "scores": [[str(name), file_sha256(file)] for name, file in scores],
        "metrics": metrics,
        "questions": list(asking.kinds),
        "classes": list(asking.targets),
        "foils": "others" if asking.foils is None else list(asking.foils),
        "groups": None if asking.groups is None else {name: list(group) for name, group in asking.groups.items()},
        "images": [[legible(path), digest] for path, digest in zip(plan.paths, plan.hashes, strict=True)],
        "labels": [
            [legible(path.name), label.label, list(map(list, label.boxes))] for path, label in plan.labels.items()
        ],
        "range": None if plan.value_range is None else list(plan.value_range),
        "batch_size": plan.batch_size,
        "seed": plan.seed,
        "pictures": plan.pictures,
        "output": {
            "kind": output.kind,
            "field": loaded.output_field,
            "unit": output.unit,
            "names": list(output.names),
        },
        "device": plan.device.type,
        "versions": versions(methods, metrics),
    }


def _reference(named: str | None, compared: Sequence[MethodReference]) -> str:
    """Return the name of the method that the others are compared with; None names the first."""
    main = str(compared[0]) if named is None else named.strip()
    if main not in map(str, compared):
        names = ", ".join(map(str, compared))
        raise ValueError(f"the reference '{main}' is not among the methods; give one of {names}")
    return main


def _defined(measured: Sequence[MetricSpec], output: OutputDescription) -> tuple[list[MetricSpec], list[str]]:
    """Return the metrics that are defined for these outputs, and a note on each of the others.

    Raises:
        ValueError: none is.
    """
    kept = [one for one in measured if not one.output_kinds or output.kind in one.output_kinds]
    notes = [
        f"{one.name} is left out: it is defined for {' and '.join(one.output_kinds)}, and the output of this model is "
        f"{output.kind}"
        for one in measured
        if one not in kept
    ]
    if not kept:
        raise ValueError(f"no metric is left: {'; '.join(notes)}")
    return kept, notes
