"""Plugin hooks of timm_align: models and encoders by name, their feature spaces, and new heads."""

from __future__ import annotations

from typing import Any

from torch import nn

from xai_align.hookspecs import FeatureSpace, InputOptions, LoadedModel, hookimpl


@hookimpl
def xai_align_load_model(reference: str, options: InputOptions | None = None) -> LoadedModel | None:
    """Return the model of ``timm:NAME``, ``timm:NAME@FILE``, ``timm:NAME@random`` or one of timm's sources."""
    if not reference.startswith("timm:"):
        return None  # before timm is imported
    from timm_align.loading import load_timm_model

    return load_timm_model(reference, options)


@hookimpl
def xai_align_describe_model(model: nn.Module) -> LoadedModel | None:
    """Return a timm model with the preprocessing and class names of its ``pretrained_cfg``."""
    from timm_align.feature_space import is_timm_model

    if not is_timm_model(model) or not getattr(model, "pretrained_cfg", None):
        return None
    from timm_align.loading import ready

    return ready(model)


@hookimpl
def xai_align_feature_space(model: nn.Module, layer: str | None) -> FeatureSpace | None:
    """Return the space of a layer, of the head's input or of the patch embedding, but no default."""
    from timm_align.feature_space import feature_space

    return None if layer is None else feature_space(model, layer)


@hookimpl
def xai_align_stages(model: nn.Module) -> tuple[str, ...] | None:
    """Return the modules of timm's ``feature_info``."""
    from timm_align.feature_space import stages

    return stages(model)


@hookimpl
def xai_align_encoder(reference: str, options: dict[str, Any]) -> nn.Module | None:
    """Return the encoder of ``timm:NAME``, a backbone with its saved choice of feature maps."""
    if not reference.startswith("timm:"):
        return None
    from timm_align.second_look import rebuilt_encoder

    return rebuilt_encoder(reference, options)


@hookimpl
def xai_align_second_look(model: nn.Module, num_classes: int, options: dict[str, Any]) -> nn.Module | None:
    """Return a light decoder on the feature maps of a timm model."""
    from timm_align.feature_space import is_timm_model
    from timm_align.pinet_retrofit import retrofit

    if not is_timm_model(model):
        return None
    return retrofit(model, head="second_look", num_classes=num_classes, **options)


@hookimpl
def xai_align_classifier(model: nn.Module, num_classes: int) -> nn.Module | None:
    """Return a copy of a timm model with a new classifier."""
    from timm_align.feature_space import is_timm_model
    from timm_align.new_head import with_new_head

    return with_new_head(model, num_classes) if is_timm_model(model) else None
