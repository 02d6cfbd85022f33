"""Sheet of pictures: images, and the CAMs and masks of each method's fit."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from benchmarks.align.digits_data import MEAN, STD, Domains
from benchmarks.align.digits_fits import toy_masker, toy_network
from benchmarks.align.digits_scores import answers, cams_of

SHOWN = 12
SCALE = 2


def sheet(folder: Path, domains: Domains, seed: int) -> Path:
    """One block for each method with a fit of this seed: pictures of both domains, CAMs, and masks if it has any."""
    images = torch.cat([one.images[:: len(one) // SHOWN][:SHOWN] for one in (domains.in_domain, domains.out_of_domain)])
    rows = [images * STD + MEAN]
    for method in sorted(path for path in folder.iterdir() if (path / f"{seed}.safetensors").exists()):
        classifier, masker = networks(method / f"{seed}.safetensors")
        cams = cams_of(classifier, images, answers(classifier, images))
        rows.append(_grey(cams / cams.amax((1, 2, 3), keepdim=True).clamp(min=1e-9)))
        if masker is not None:
            with torch.no_grad():
                rows.append(_grey(masker(images)))
        print(method.name, "CAMs" + (", masks" if masker is not None else ""))
    side = images.shape[-1]
    pixels = torch.stack(rows).permute(0, 3, 1, 4, 2).reshape(len(rows) * side, len(images) * side, 3)
    picture = Image.fromarray((pixels.clamp(0, 1) * 255).round().byte().numpy())
    file = folder / f"sheet-{seed}.png"
    picture.resize((picture.width * SCALE, picture.height * SCALE), Image.Resampling.NEAREST).save(file)
    return file


def networks(file: Path) -> tuple[nn.Module, nn.Module | None]:
    """The classifier and the masker of a fit, in eval mode."""
    tensors = load_file(file)
    classifier = toy_network()
    classifier.load_state_dict(_under("classifier.", tensors))
    of_masker = _under("masker.", tensors)
    if not of_masker:
        return classifier.eval(), None
    masker = toy_masker()
    masker.load_state_dict(of_masker)
    return classifier.eval(), masker.eval()


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _grey(maps: Tensor) -> Tensor:
    return maps.expand(-1, 3, -1, -1)
