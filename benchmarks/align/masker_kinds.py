"""``fit-align`` with a masker on frozen stages and with one from nothing, on a few photographs of each class of PACS.

    OMP_NUM_THREADS=1 python -m benchmarks.align.masker_kinds --pacs DIR --out OUT

EfficientNet-Lite0 with its ImageNet weights at 96 px, the command's defaults, one seed. ``--pacs`` holds
``photo/CLASS/*.jpg``; ``OUT`` gets the two fits and ``masks.png``, held-out photographs with both masks.

A fit took ten minutes on a core that was shared by several processes.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from benchmarks.shared.real_networks import lite0
from xai_align._tools.files.references import typed_on_the_command_line
from xai_align.align.masker_loss import keep_and_drop
from xai_align.cli.fit_align_folder import FolderAlignment, fit_align_folder
from xai_align.cli.fit_align_masker import KINDS
from xai_align.data.images import open_image
from xai_align.hookspecs import LoadedModel

#: Rows and columns of the pictures.
SIDE = 96


def lite0_small() -> LoadedModel:
    """EfficientNet-Lite0 for pictures of :data:`SIDE` pixels."""
    loaded = lite0()
    scale = v2.Normalize(list(loaded.mean or ()), list(loaded.std or ()))
    prepare = [v2.ToImage(), v2.Resize((SIDE, SIDE), antialias=True), v2.ToDtype(torch.float32, scale=True), scale]
    return replace(loaded, preprocess=v2.Compose(prepare))


def few(pacs: Path, out: Path, *, each: int) -> Path:
    """Return a folder with links to the first photographs of each class."""
    for folder in sorted((pacs / "photo").iterdir()):
        (out / "photographs" / folder.name).mkdir(parents=True, exist_ok=True)
        for file in sorted(folder.iterdir())[:each]:
            link = out / "photographs" / folder.name / file.name
            link.unlink(missing_ok=True)
            link.symlink_to(file.resolve())
    return out / "photographs"


@torch.no_grad()
def measures(done: FolderAlignment, images: Tensor, labels: Tensor) -> dict[str, float]:
    """Return what the masks of held-out pictures are like, and the accuracy."""
    assert done.fit.masker is not None
    classifier, masks = done.fit.classifier.eval(), done.fit.masker.eval()(images)
    kept, dropped = keep_and_drop(images, masks, "another_image")
    keep, drop = (classifier(x).softmax(-1).gather(1, labels[:, None]).mean().item() for x in (kept, dropped))
    # of the variance over pictures and pixels, what is left when the pixel's mean over pictures is taken away
    between = (masks - masks.mean(0)).square().mean() / (masks - masks.mean()).square().mean()
    (scores,) = done.scores.values()
    return {
        "share between pictures": between.item(),
        "mean mask": masks.mean().item(),
        "p_keep": keep,
        "p_drop": drop,
        "accuracy": scores.accuracy,
        "seconds": done.fit.seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pacs", type=Path, required=True, help="holds photo/CLASS/*.jpg")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--each", type=int, default=20, help="photographs of each class")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    folder, loaded, shown = few(options.pacs, options.out, each=options.each), lite0_small(), []
    for kind in KINDS:
        with typed_on_the_command_line():
            done = fit_align_folder(
                folder,
                backbone="benchmarks.align.masker_kinds:lite0_small",
                out=options.out / kind,
                masker=kind,
                warmup_epochs=2,
                masker_only_epochs=1,
                learning_rate=3e-4,
                masker_learning_rate=3e-3,
                schedule="cosine",
                examples=0,
                judged=0,
                seed=options.seed,
                trust=True,
            )
        (test,) = done.split.test.values()
        images = torch.stack([loaded.preprocess(open_image(one.path)) for one in test])
        found = measures(done, images, torch.tensor([one.label for one in test]))
        print(kind, *(f"{name} {value:.3g}" for name, value in found.items()), sep="; ", flush=True)
        with torch.no_grad():
            shown.append(done.fit.masker(images).repeat(1, 3, 1, 1))
    std, mean = (torch.tensor(one)[:, None, None] for one in (loaded.std, loaded.mean))
    rows = [(images * std + mean)[::2], *(masks[::2] for masks in shown)]
    sheet = torch.cat([torch.cat(list(row), 2) for row in rows], 1).clamp(0, 1)
    picture = (sheet.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
    Image.fromarray(picture).save(options.out / "masks.png")


if __name__ == "__main__":
    main()
