"""Plugin hooks of torchvision_align: models by name, and the preprocessing and classifier of bare ones."""

from __future__ import annotations

from torch import Tensor, nn

from xai_align.hookspecs import InputOptions, LoadedModel, hookimpl


@hookimpl
def xai_align_load_model(reference: str, options: InputOptions | None = None) -> LoadedModel | None:
    """Return the model of ``torchvision:NAME``, ``torchvision:NAME@FILE``, ``@WEIGHTS`` or ``@random``."""
    if not reference.startswith("torchvision:"):
        return None  # before torchvision is imported
    from torchvision_align.loading import load_torchvision_model

    return load_torchvision_model(reference, options)


@hookimpl
def xai_align_describe_model(model: nn.Module, reference: str) -> LoadedModel | None:
    """Return a torchvision model with the preprocessing of the weights that torchvision has for it."""
    if not type(model).__module__.startswith("torchvision.models"):
        return None
    from torchvision_align.loading import described

    return described(model, reference)


@hookimpl
def xai_align_classifier(model: nn.Module, num_classes: int, image: Tensor | None = None) -> nn.Module | None:
    """Return a copy of a torchvision model with a new classifier, and without heads that are only used in training."""
    if not type(model).__module__.startswith("torchvision.models"):
        return None
    from torchvision_align.new_head import with_new_classifier

    return with_new_classifier(model, num_classes, image)
