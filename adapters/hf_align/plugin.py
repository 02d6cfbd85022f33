"""Plugin hooks of hf_align: image classifiers by name or folder, and the configuration of a bare one."""

from __future__ import annotations

from torch import nn

from xai_align.hookspecs import LoadedModel, hookimpl


@hookimpl
def xai_align_load_model(reference: str) -> LoadedModel | None:
    """Return the model of ``hf:OWNER/NAME`` or ``hf:FOLDER``."""
    if not reference.startswith("hf:"):
        return None  # before transformers is imported
    from hf_align.loading import load_hf_model

    return load_hf_model(reference)


@hookimpl
def xai_align_describe_model(model: nn.Module) -> LoadedModel | None:
    """Return a model of transformers with the labels of its configuration, and the processor that was saved with it."""
    if not type(model).__module__.startswith("transformers.") or not hasattr(model, "config"):
        return None
    from hf_align.loading import described

    return described(model)
