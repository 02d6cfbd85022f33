"""A first pass of the network on one image of a command's files, so that what fails there is told in a line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from xai_align._tools.files.legible import legible
from xai_align._tools.files.plain_json import in_one_clause
from xai_align._tools.model_state import evaluating
from xai_align._tools.refused_images import refused_images
from xai_align._tools.thread_state import hides_interrupt, restores_thread_state


@restores_thread_state
def first_output(model: nn.Module, images: Tensor, path: Path) -> Any:
    """Return the network's output in eval mode for images ``[N, C, H, W]``, the first of them from the file ``path``.

    Raises:
        ValueError: the network raised an error; the message names the file.
    """
    name = legible(path)
    try:
        with evaluating(model), torch.no_grad(), refused_images(model, images, f"images like '{name}'"):
            return model(images.clone())
    except (ValueError, OSError, ImportError, torch.OutOfMemoryError):  # errors that are told as they are
        raise
    except Exception as error:  # a user's network may raise anything
        if hides_interrupt(error):
            raise
        said = in_one_clause(error, length=300)
        raise ValueError(
            f"{name}: {type(model).__name__} does not run on it ({type(error).__name__}: {said}); correct the network"
        ) from error
