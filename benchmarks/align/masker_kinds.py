"""Run ``fit-align`` with its defaults on a folder of photographs, with both maskers and without one, beside ERM.

    OMP_NUM_THREADS=1 python -m benchmarks.align.masker_kinds --pacs DIR --out OUT

EfficientNet-Lite0 with its ImageNet weights, the command's defaults, for each seed. ``--pacs`` holds
``DOMAIN/CLASS/*.jpg``; ``OUT`` gets the fits and, for each seed, ``masks-SEED.png``: held-out photographs with the
masks of each masker. ``--frozen`` trains the new head alone. ``--each 20`` uses 20 photographs of each class.

``--alone`` is quicker: a head on the frozen network's cached features, and then the masker on stages alone, each for
the steps of the command's phases, with its losses and learning rates, but at constant rates. It shows what the masker
learns before the two alternate.

The table has the time of each fit; on a core shared by several processes, fits took about ten times as long.
"""

from __future__ import annotations

import argparse
import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import v2

from benchmarks.shared.positive_integer import positive_integer
from benchmarks.shared.real_networks import lite0
from xai_align._tools.files.references import typed_on_the_command_line
from xai_align.align import StageMasker
from xai_align.align.masker_loss import keep_and_drop, masker_loss
from xai_align.cli.fit_align_folder import FolderAlignment, fit_align_folder
from xai_align.cli.fit_align_lengths import ALONE, BATCH, WARMUP
from xai_align.data.domain_folder import read_domains, split_domains
from xai_align.data.images import open_image
from xai_align.hookspecs import LoadedModel

#: Rows and columns of the pictures.
SIDE = 96
#: Number of photographs on the sheet.
SHOWN = 14
#: Steps between rows in the log of the masker alone.
LOGGED = 15
#: Fits: the recipe and the masker of each.
FITS = {"stages": ("align", "stages"), "plain": ("align", "plain"), "erm": ("erm", None)}


def lite0_small() -> LoadedModel:
    """EfficientNet-Lite0 for pictures of :data:`SIDE` pixels."""
    loaded = lite0()
    scale = v2.Normalize(list(loaded.mean or ()), list(loaded.std or ()))
    prepare = [v2.ToImage(), v2.Resize((SIDE, SIDE), antialias=True), v2.ToDtype(torch.float32, scale=True), scale]
    return replace(loaded, preprocess=v2.Compose(prepare))


def few(pacs: Path, domain: str, out: Path, *, each: int) -> Path:
    """Return a folder with small copies of the first photographs of each class."""
    folder = out / f"{domain}-{each}"
    for source in sorted((pacs / domain).iterdir()):
        (folder / source.name).mkdir(parents=True, exist_ok=True)
        for file in sorted(source.iterdir())[:each]:
            copy = folder / source.name / f"{file.stem}.png"
            if not copy.exists():
                Image.open(file).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR, reducing_gap=3).save(
                    copy
                )
    return folder


@torch.no_grad()
def measures(done: FolderAlignment, images: Tensor, labels: Tensor) -> dict[str, float]:
    """Return the accuracy on held-out pictures, and statistics of their masks if there are any."""
    classifier = done.fit.classifier.eval()
    (scores,) = done.scores.values()
    found = {"accuracy": scores.accuracy, "steps": done.fit.steps, "seconds": done.fit.seconds}
    if done.fit.masker is None:
        return found
    masks = done.fit.masker.eval()(images)
    parts = (images, *keep_and_drop(images, masks, "another_image"))
    p, keep, drop = (classifier(x).softmax(-1).gather(1, labels[:, None]).mean().item() for x in parts)
    # share of the variance over pictures and pixels that remains without each pixel's mean over pictures
    between = (masks - masks.mean(0)).square().mean() / (masks - masks.mean()).square().mean()
    return found | {
        "p": p,
        "p_keep": keep,
        "p_drop": drop,
        "mean mask": masks.mean().item(),
        "spread": masks.flatten(1).std(1).mean().item(),
        "between pictures": between.item(),
    }


def masker_alone(folder: Path, out: Path, *, seed: int) -> None:
    """Train a head, then the masker alone; print statistics of its masks during training and on held-out pictures."""
    loaded, rate, domains = lite0_small(), 3e-3, read_domains(folder, [])
    split = split_domains(domains, validation_share=0.15, test_share=0.15, seed=seed)
    parts = (split.train, split.test[next(iter(split.test))])
    (images, labels), (others, answers) = (
        (torch.stack([loaded.preprocess(open_image(o.path)) for o in part]), torch.tensor([o.label for o in part]))
        for part in parts
    )
    network: Any = loaded.model.requires_grad_(False)

    def features(x: Tensor) -> Tensor:
        return network.forward_head(network.forward_features(x), pre_logits=True)

    with torch.no_grad():
        known, unknown = (torch.cat([features(some) for some in x.split(49)]) for x in (images, others))
    torch.manual_seed(seed)
    head = nn.Linear(known.shape[1], len(domains.classes))
    optimizer = torch.optim.AdamW(head.parameters(), rate)
    for _ in range(WARMUP):
        some = torch.randperm(len(labels))[:BATCH]
        optimizer.zero_grad()
        nn.functional.cross_entropy(head(known[some]), labels[some]).backward()
        optimizer.step()
    head.requires_grad_(False)
    sure = head(unknown).softmax(-1).gather(1, answers[:, None]).mean()
    right = (head(unknown).argmax(1) == answers).float().mean()
    print(
        f"head after {WARMUP} steps: accuracy {right:.3f}, p {sure:.3f} on {len(answers)} held-out pictures", flush=True
    )

    classifier = _Headed(features, head).eval()
    masker = StageMasker(network, size=(SIDE, SIDE)).train()
    optimizer = torch.optim.Adam([p for p in masker.parameters() if p.requires_grad], rate)
    rows, last = [], max(ALONE, math.ceil(ALONE / LOGGED) * LOGGED)
    for step in range(1, last + 1):
        some = torch.randperm(len(labels))[:BATCH]
        masks = masker(images[some])
        loss = masker_loss(classifier, images[some], masks, labels[some], baseline="another_image")
        optimizer.zero_grad()
        loss.total.mean().backward()
        nn.utils.clip_grad_norm_(masker.parameters(), 1.0)
        optimizer.step()
        flat = masks.detach().flatten(1)
        rows.append(
            [loss.p_keep.mean().item(), loss.p_drop.mean().item(), flat.mean().item(), flat.std(1).mean().item()]
        )
        if step % LOGGED == 0:
            means = torch.tensor(rows[-LOGGED:]).mean(0).tolist()
            names = ("p_keep", "p_drop", "mean mask", "spread")
            print(step, *(f"{name} {value:.3f}" for name, value in zip(names, means, strict=True)), flush=True)
    with torch.no_grad():
        order = torch.randperm(len(answers), generator=torch.Generator().manual_seed(0))
        x, y, masks = others[order], answers[order], torch.cat([masker.eval()(x) for x in others[order].split(49)])
        logits = [
            torch.cat([classifier(x) for x in part.split(49)]) for part in keep_and_drop(x, masks, "another_image")
        ]
    keep, drop = (one.softmax(-1).gather(1, y[:, None]).mean() for one in logits)
    between = (masks - masks.mean(0)).square().mean() / (masks - masks.mean()).square().mean()
    spread = masks.flatten(1).std(1).mean()
    print(
        f"held out: p_keep {keep:.3f}; p_drop {drop:.3f}; mean mask {masks.mean():.3f}; spread {spread:.3f}; "
        f"between pictures {between:.3f}"
    )
    std, mean = (torch.tensor(one)[:, None, None] for one in (loaded.std, loaded.mean))
    sheet([(x * std + mean)[:SHOWN], masks[:SHOWN].repeat(1, 3, 1, 1)], out / f"alone-{seed}.png")


class _Headed(nn.Module):
    """Network with the head."""

    def __init__(self, features: Callable[[Tensor], Tensor], head: nn.Module) -> None:
        super().__init__()
        self.features, self.head = features, head

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


def sheet(rows: list[Tensor], file: Path) -> None:
    """Write an image of rows of pictures, from 0 to 1."""
    whole = torch.cat([torch.cat(list(row), 2) for row in rows], 1).clamp(0, 1)
    pixels = (whole.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
    Image.fromarray(pixels).save(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pacs", type=Path, required=True, help="holds DOMAIN/CLASS/*.jpg")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--domain", default="photo")
    parser.add_argument("--each", type=positive_integer, default=80, help="photographs of each class")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--fits", nargs="+", choices=FITS, default=list(FITS))
    parser.add_argument("--frozen", action="store_true", help="train the new head alone")
    parser.add_argument("--alone", action="store_true", help="train a head and then the masker alone, and nothing else")
    options = parser.parse_args()
    torch.set_num_threads(1)
    folder, loaded = few(options.pacs, options.domain, options.out, each=options.each), lite0_small()
    std, mean = (torch.tensor(one)[:, None, None] for one in (loaded.std, loaded.mean))
    for seed in options.seeds:
        if options.alone:
            masker_alone(folder, options.out, seed=seed)
            continue
        rows: list[Tensor] = []
        for name in options.fits:
            recipe, masker = FITS[name]
            with typed_on_the_command_line(), warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                done = fit_align_folder(
                    folder,
                    backbone="benchmarks.align.masker_kinds:lite0_small",
                    out=options.out / f"{name}-{'frozen' if options.frozen else 'tuned'}-{options.each}-{seed}",
                    recipe_name=recipe,
                    masker=masker,
                    frozen=options.frozen,
                    schedule="cosine_each",
                    masker_learning_rate=3e-3,
                    examples=0,
                    judged=0,
                    seed=seed,
                    trust=True,
                )
            (test,) = done.split.test.values()
            order = torch.randperm(len(test), generator=torch.Generator().manual_seed(0)).tolist()  # neighbours differ
            images = torch.stack([loaded.preprocess(open_image(test[i].path)) for i in order])
            found = measures(done, images, torch.tensor([test[i].label for i in order]))
            told = sorted({one.category.__name__ for one in caught if one.category.__module__.startswith("xai_align")})
            numbers = (f"{key} {value:.3g}" for key, value in found.items())
            print(name, f"seed {seed}", *numbers, f"warnings: {', '.join(told) or 'none'}", sep="; ", flush=True)
            if done.fit.masker is not None:
                with torch.no_grad():
                    rows.append(done.fit.masker(images[:SHOWN]).repeat(1, 3, 1, 1))
        if rows:
            sheet([(images * std + mean)[:SHOWN], *rows], options.out / f"masks-{seed}.png")


if __name__ == "__main__":
    main()
