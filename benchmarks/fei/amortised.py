"""Fit an amortised explainer to EfficientNet-Lite0 on unlabelled photographs, and make its maps for the judge.

    export OMP_NUM_THREADS=2
    export MALLOC_MMAP_THRESHOLD_=8589934592 MALLOC_TRIM_THRESHOLD_=17179869184 MALLOC_TOP_PAD_=268435456
    python -m benchmarks.fei.amortised fit --images DEV150 --pacs PACS128 --more COCO_POINTING --out OUT
    python -m benchmarks.fei.amortised maps --images DEV150 --out OUT
    python -m benchmarks.fei.judge --images DEV150 --out OUT --network lite0

The judged photographs are never used. Of the others in their folder, those that both judging networks classify
correctly are held out; the rest, the pictures of PACS and those of further folders are the training data. A stopped fit
resumes at its last epoch; `maps` uses the explainer in its current state.

The explainer takes images of 160 pixels a side (`--side`), and its maps are enlarged to the 224 pixels of the judging
networks.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torch.utils.data import Dataset

from benchmarks.shared.kept import keep
from benchmarks.shared.measuring import timed
from benchmarks.shared.photographs import JUDGES, photographs, pixels_of
from benchmarks.shared.positive_integer import positive_integer
from xai_align.data.images import images_in
from xai_align.fei import AmortisedFEI, fit_fei

#: Folder of the fit within OUT, and the method's name among the maps.
FIT, METHOD = "amortised-fit", "fei-amortised"
SIDE = 160
#: An image takes 0.1 s of one core per epoch, so these take less than an hour on two free cores for 1,800 images.
EPOCHS = 28
#: Domains of PACS, without its sketches, which are not photographs.
DOMAINS = "photo,art_painting,cartoon"


@dataclass(frozen=True)
class Views(Dataset[Tensor]):
    """Dataset of the network's inputs from 8-bit pixels ``[N, 3, side, side]``."""

    pixels: Tensor

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, number: int) -> Tensor:
        return normalised(self.pixels[number].float() / 255)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    fitting, drawing = commands.add_parser("fit"), commands.add_parser("maps")
    for command in (fitting, drawing):
        command.add_argument("--images", required=True, type=Path, help="photographs with a labels.json")
        command.add_argument("--out", required=True, type=Path)
        command.add_argument("--side", type=positive_integer, default=SIDE)
    fitting.add_argument("--pacs", type=Path, help="pictures of PACS, DOMAIN/CLASS/*.jpg")
    fitting.add_argument("--domains", default=DOMAINS)
    fitting.add_argument("--more", type=Path, nargs="*", default=(), help="further folders of photographs")
    fitting.add_argument("--epochs", type=positive_integer, default=EPOCHS)
    fitting.add_argument("--batch-size", type=positive_integer, default=16)
    fitting.add_argument("--learning-rate", type=float, default=2e-3)
    fitting.add_argument("--limit", type=positive_integer, help="train on only this many images")
    options = parser.parse_args()
    if options.command == "fit":
        fit(options)
    else:
        draw(options.images, options.out, options.side)


def fit(options: argparse.Namespace) -> None:
    judged, others = photographs(options.images)
    unseen = {photograph.name for photograph in (*judged, *others)}
    files = [file for file in images_in(options.images) if file.stem not in unseen]
    for folder in options.more:
        files += images_in(folder)
    if options.pacs:
        for domain in options.domains.split(","):
            files += [file for name in sorted((options.pacs / domain).iterdir()) for file in images_in(name)]
    if options.limit:
        order = torch.randperm(len(files), generator=torch.Generator().manual_seed(0)).tolist()
        files = [files[i] for i in order[: options.limit]]
    print(f"{len(files)} images to train on, {len(others)} held out, {len(judged)} judged and not seen", flush=True)
    loaded = JUDGES["lite0"].load()
    done = fit_fei(
        loaded.model,
        Views(torch.stack([eight_bits(pixels_of(file), options.side) for file in files])),
        Views(torch.stack([eight_bits(one.pixels, options.side) for one in others])),
        epochs=options.epochs,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        normalization=loaded.scale,
        out=options.out / FIT,
        log=lambda row: print(row, flush=True),
    )
    print(done.explainer.numbers)


def draw(images: Path, out: Path, side: int) -> None:
    """Write the maps of the judged photographs in the form of `benchmarks.fei.maps`."""
    judged, _ = photographs(images)
    method = AmortisedFEI(JUDGES["lite0"].model, out / FIT / "explainer.safetensors")
    folder = out / "lite0" / METHOD
    folder.mkdir(parents=True, exist_ok=True)
    spent = []
    for number, photograph in enumerate((judged[0], *judged)):  # the first call compares the networks
        x = normalised(resized(photograph.pixels[None], side))
        seconds, found = timed(lambda x=x, label=photograph.label: method.attribute(x, target=label).sum(1))
        whole = interpolate(found[:, None], photograph.pixels.shape[1:], mode="bilinear")[0, 0]
        keep({"map": whole.float(), "seconds": seconds}, folder / f"{photograph.name}.pt")
        spent += [seconds] * (number > 0)
    print(f"lite0 {METHOD}: {sorted(spent)[len(spent) // 2]:.3f} s a map (median)")


def eight_bits(pixels: Tensor, side: int) -> Tensor:
    return (resized(pixels[None], side)[0].clamp(0, 1) * 255).round().to(torch.uint8)


def resized(pixels: Tensor, side: int) -> Tensor:
    """Resize pixels ``[N, 3, H, W]`` to ``side`` rows and columns."""
    return interpolate(pixels, (side, side), mode="bilinear", antialias=True)


def normalised(pixels: Tensor) -> Tensor:
    """Return pixels ``[..., 3, H, W]`` in [0, 1] in the network's units: mean and standard deviation 0.5."""
    return (pixels - 0.5) / 0.5


if __name__ == "__main__":
    main()
