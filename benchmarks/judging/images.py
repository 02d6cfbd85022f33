"""EfficientNet-Lite0 and images for benchmarks of metrics."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from timm_align.efficientnet_lite0 import load
from xai_align.data.images import expand_paths, open_image
from xai_align.data.photographs import PHOTOGRAPHS


def lite0_and_images(paths: Sequence[Path] | None, limit: int | None) -> tuple[nn.Module, Tensor, list[Path]]:
    """Return the network, the first images of some files and folders ``[N, 3, 224, 224]``, and their files.

    Args:
        paths: images or folders; without any, the package's own photographs.
        limit: largest number of images.
    """
    loaded = load()
    files = (expand_paths(paths) if paths else [one.path for one in PHOTOGRAPHS])[:limit]
    return loaded.model, torch.stack([loaded.preprocess(open_image(file)) for file in files]), files
