"""Measure a step of ALIGN and its parts, compared with an ordinary training step on the same batch.

    OMP_NUM_THREADS=1 python -m benchmarks.align.cost [--repeats 9]

Times are CPU seconds of one thread; kinds of steps alternate, and the fastest of each is reported, since other work on
the machine only adds time. In units of forward passes an ordinary step is about 3, one of the classifier
with all images mixed 6 and with half of them 4.5, and one of the masker 4, since its two passes need gradients of
the images alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from time import process_time

import timm
import torch
from torch import Tensor, nn

from benchmarks.align.digits_fits import toy_masker, toy_network
from benchmarks.align.pretrained_masker import PretrainedMasker
from benchmarks.shared.markdown import heading, row
from benchmarks.shared.measuring import timed
from benchmarks.shared.positive_integer import positive_integer
from benchmarks.shared.real_networks import lite0
from xai_align.align import AlignTrainer, Masker, recipe
from xai_align.align.captured_pass import cam_space, capture
from xai_align.align.saliency import cam_at

OF_STRIDES: dict[str, Callable[[], nn.Module]] = {"Masker()": Masker, "Masker(stride=4)": partial(Masker, stride=4)}
#: Shares of mixed images, and the batches on which the masker steps, in the second table.
SHARES, EVERY = (1.0, 0.5), (1, 2, 4)


@dataclass(frozen=True)
class Case:
    """A network and the batches that it is trained on."""

    make: Callable[[], nn.Module]
    size: int
    batch: int
    classes: int
    maskers: Mapping[str, Callable[[], nn.Module]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=positive_integer, default=9)
    parser.add_argument("--networks", nargs="*", choices=CASES, default=list(CASES))
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.networks:
        case = CASES[name]
        print(f"\n{name}, {case.batch} images of {case.size} px\n")
        print(tables(quickest(steps_of(case), options.repeats), case), flush=True)


def efficientnet_lite0() -> nn.Module:
    """EfficientNet-Lite0 with ImageNet weights, a new head and frozen batch norms, as in the benchmark on PACS."""
    model = lite0().model
    model.reset_classifier(7)  # type: ignore[operator]
    return model.to(memory_format=torch.channels_last)


def resnet18() -> nn.Module:
    """Untrained ResNet-18; times do not depend on weights."""
    return timm.create_model("resnet18", num_classes=7).to(memory_format=torch.channels_last)


CASES = {
    "EfficientNet-Lite0": Case(efficientnet_lite0, 96, 32, 7, {**OF_STRIDES, "on frozen stages": PretrainedMasker}),
    "ResNet-18": Case(resnet18, 96, 32, 7, OF_STRIDES),
    "five convolutions": Case(toy_network, 32, 64, 10, {"Masker()": Masker, "Masker(width=16)": toy_masker}),
}


def steps_of(case: Case) -> dict[str, Callable[[], object]]:
    """Timed functions by name."""
    torch.manual_seed(0)
    images = torch.randn(case.batch, 3, case.size, case.size).contiguous(memory_format=torch.channels_last)
    batch = images, torch.arange(case.batch) % case.classes
    found: dict[str, Callable[[], object]] = {"ordinary step": partial(_trainer(case, "erm").classifier_step, batch)}
    for share in SHARES:
        trainer = _trainer(case, "align", mixup_share=share)
        found[f"classifier, {share:.0%} mixed"] = partial(trainer.classifier_step, batch)
    found["classifier, nothing mixed"] = partial(_trainer(case, "align", mixup=0.0).classifier_step, batch)
    for name, make in case.maskers.items():
        trainer = _trainer(case, "align", masker=make())
        found[f"masker, {name}"] = partial(trainer.masker_step, batch)
    return found | parts_of(case, *batch)


def parts_of(case: Case, images: Tensor, labels: Tensor) -> dict[str, Callable[[], object]]:
    """Passes and CAMs alone."""
    model = case.make()
    space = cam_space(model, images)

    def forward() -> Tensor:
        return model(images)

    def with_cam() -> Tensor:
        return cam_at(capture(model, images, space), labels)

    def backward() -> None:
        nn.functional.cross_entropy(model(images), labels).backward()

    masks = {f"mask by {name}": partial(_mask, make().eval(), images) for name, make in case.maskers.items()}
    return {"forward": forward, "forward and CAM": with_cam, "forward and backward": backward, **masks}


def _mask(masker: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return masker(images)


def _trainer(case: Case, name: str, *, masker: nn.Module | None = None, **options: float) -> AlignTrainer:
    return AlignTrainer(case.make(), masker, recipe=recipe(name, **options), freeze_batch_norm=True)


def quickest(steps: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Return the least CPU seconds of each function; they alternate, and the first round is not counted."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(repeats + 1):
        for name, step in steps.items():
            times[name].append(timed(step, clock=process_time)[0])
    return {name: min(found[1:]) for name, found in times.items()}


def tables(seconds: Mapping[str, float], case: Case) -> str:
    """Tables of the parts, and of whole steps beside ordinary ones."""
    ordinary = seconds["ordinary step"]
    lines = [heading("part", "ms", "ordinary steps")]
    lines += [row(name, f"{value * 1e3:.0f}", f"{value / ordinary:.2f}") for name, value in seconds.items()]
    lines += ["", "| a whole step: mixed | masker | " + " | ".join(f"on every {n}." for n in EVERY) + " batch |"]
    lines += ["|---" * (2 + len(EVERY)) + "|"]
    for share in (*SHARES, 0.0):
        classifier = seconds[f"classifier, {share:.0%} mixed" if share else "classifier, nothing mixed"]
        for name in case.maskers:
            masker = seconds[f"masker, {name}"]
            ratios = [f"{(classifier + masker / every) / ordinary:.2f}" for every in EVERY]
            lines.append(row(f"{share:.0%}", name, *ratios))
    return "\n".join(lines)


if __name__ == "__main__":
    main()
