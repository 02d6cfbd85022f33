"""Compare fills for removed pixels, by how well a masker learns from a pretrained network.

    python -m benchmarks.align.fills --pacs DIR [--source photo] [--seed 100] [--picture FILE]

EfficientNet-Lite0 is fine-tuned on one domain of PACS and then frozen, while maskers are trained alone for a hundred
steps of 16 pictures. In the network's units 0 is grey, so that a mask of .2 everywhere leaves a dim picture.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn

from benchmarks.align.pacs_fits import MASKER_LEARNING_RATE, METHODS, Crops, fit, split_of
from benchmarks.align.pacs_networks import LITE0
from benchmarks.align.pacs_scores import AT_ONCE, of_masks, probabilities
from benchmarks.align.pretrained_masker import PretrainedMasker
from benchmarks.shared.markdown import heading, row
from benchmarks.shared.pacs import load_pacs
from xai_align.align import AlignTrainer, Masker, recipe
from xai_align.align.masker_loss import Baseline

STEPS = 100
#: Remaining share of a picture's contrast.
DIMMED = (1.0, 0.5, 0.2, 0.1)
FILLS: dict[str, Baseline] = {
    "0": 0.0,
    "blur": "blur",
    "noise": lambda images: 0.5 * torch.randn_like(images),
    "another image": "another_image",
}
MASKERS: dict[str, Callable[[], nn.Module]] = {"on frozen stages": PretrainedMasker, "Masker()": Masker}
COLUMNS = ("mask mean", "mask spread", "mask own", "p with what is kept", "p with what is dropped")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pacs", type=Path, required=True, help="DOMAIN/CLASS/*.jpg")
    parser.add_argument("--source", default="photo")
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--picture", type=Path, default=None, help="file for the masks of some test pictures")
    options = parser.parse_args()
    torch.set_num_threads(1)
    pacs = load_pacs(options.pacs)
    split = split_of(pacs, pacs.domain_names.index(options.source), options.seed)
    images, labels = LITE0.prepared(pacs.pixels[split.train]), pacs.labels[split.train]
    test, answers = LITE0.prepared(pacs.pixels[split.test]), pacs.labels[split.test]
    classifier = fit(METHODS["erm"], images, labels, classes=7, seed=options.seed)[0].classifier.eval()
    for share in DIMMED:
        right = torch.cat([probabilities(classifier, share * x) for x in test.split(AT_ONCE)]).argmax(1) == answers
        print(f"contrast {share:.0%}: accuracy {float(right.float().mean()):.3f}")
    print("\n" + heading("masker", "fill", *COLUMNS))
    drawn: dict[str, Tensor] = {}
    for kind, make in MASKERS.items():
        for name, baseline in FILLS.items():
            masker = learnt(classifier, make, baseline, Crops(images, labels), options.seed)
            found = of_masks(classifier, masker, test, answers)
            print(row(kind, name, *(f"{found[c]:.2f}" for c in COLUMNS)), flush=True)
            with torch.no_grad():
                drawn[f"{kind}, {name}"] = masker(test[::10])[:, 0]
    if options.picture is not None:
        draw(test[::10], drawn, options.picture)


def learnt(
    classifier: nn.Module, make: Callable[[], nn.Module], baseline: Baseline, crops: Crops, seed: int
) -> nn.Module:
    """Return a masker after :data:`STEPS` steps."""
    torch.manual_seed(seed)
    masker = make().to(memory_format=torch.channels_last)
    trainer = AlignTrainer(
        classifier, masker, recipe=recipe("align", baseline=baseline), masker_learning_rate=MASKER_LEARNING_RATE
    )
    epochs = -(-STEPS // len(crops))
    for batch in islice((pair for _ in range(epochs) for pair in crops), STEPS):
        trainer.masker_step(batch)
    return masker.eval()


def draw(images: Tensor, masks: dict[str, Tensor], file: Path) -> None:
    """Draw pictures in the first row, and a row of masks for each masker."""
    figure, axes = plt.subplots(1 + len(masks), len(images), figsize=(0.9 * len(images), 0.95 * (1 + len(masks))))
    for axis, image in zip(axes[0], images.permute(0, 2, 3, 1) / 2 + 0.5, strict=True):
        axis.imshow(image.clamp(0, 1))
    for line, (name, found) in zip(axes[1:], masks.items(), strict=True):
        line[0].set_title(name, fontsize=7, loc="left", pad=1)
        for axis, mask in zip(line, found, strict=True):
            axis.imshow(mask, cmap="gray", vmin=0, vmax=1)
    for axis in axes.flat:
        axis.axis("off")
    figure.tight_layout(pad=0.1)
    figure.savefig(file, dpi=80)


if __name__ == "__main__":
    main()
