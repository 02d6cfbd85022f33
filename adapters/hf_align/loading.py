"""Loading image classifiers of transformers, with their processor, labels and the meaning of their outputs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from xai_align.adapter_tools import in_one_clause, optional_package, random_note
from xai_align.hookspecs import LoadedModel, OutputKind

#: Prefix of a reference to a model of transformers.
PREFIX = "hf:"
#: Ends a reference to an untrained model.
RANDOM = "@random"
#: Fields of a configuration that say where a model came from or how it is computed, and not what it is.
_OF_THIS_MACHINE = ("_name_or_path", "_attn_implementation", "attn_implementation", "auto_map")
#: transformers' names for what a classifier was trained for.
_KINDS: dict[str, OutputKind] = {
    "single_label_classification": "classes",
    "multi_label_classification": "multi-label",
    "regression": "regression",
}


def load_hf_model(reference: str) -> LoadedModel | None:
    """Return the image classifier of ``hf:OWNER/NAME`` or ``hf:FOLDER``, None for other references.

    A folder holds what ``save_pretrained`` of the model and of its processor write. No code of the folder or the
    repository is run. ``hf:FOLDER@random`` creates the architecture of the folder's configuration, untrained.

    Raises:
        ModuleNotFoundError: transformers is not installed.
        ValueError: there is no such model or processor, or they can't be loaded.

    Example::

        from hf_align import load_hf_model

        assert load_hf_model("timm:resnet18") is None  # of another plugin
    """
    if not reference.startswith(PREFIX):
        return None
    name = reference.removeprefix(PREFIX)
    untrained = name.endswith(RANDOM)
    name = name.removesuffix(RANDOM)
    place = str(Path(name).expanduser()) if os.path.isdir(Path(name).expanduser()) else name
    with optional_package("hf", "transformers", "models of Hugging Face"):
        from transformers import AutoImageProcessor
    model, info = _untrained(name, place) if untrained else _pretrained(name, place)
    try:
        processor = AutoImageProcessor.from_pretrained(place, trust_remote_code=False)
    except Exception as error:
        raise ValueError(
            f"the image processor of '{name}' can't be loaded ({type(error).__name__}: {in_one_clause(error)}); save "
            "it beside the model: processor.save_pretrained(FOLDER)"
        ) from error
    random = list(dict(model.named_parameters())) if untrained else _missing(model, info)
    return _loaded(
        model.eval(),
        Processed(processor),
        random_weights=bool(random),
        configuration=_configuration(model, processor),
        notes=(random_note(model, random),) if random else (),
    )


def _pretrained(name: str, place: str) -> tuple[Any, Any]:
    from transformers import AutoModelForImageClassification

    try:
        return AutoModelForImageClassification.from_pretrained(place, trust_remote_code=False, output_loading_info=True)
    except Exception as error:  # of many kinds: no such repository, no connection, another kind of model
        raise ValueError(
            f"transformers can't load an image classifier from '{name}' ({type(error).__name__}: "
            f"{in_one_clause(error)}); give the name of a repository, or a folder that save_pretrained wrote"
        ) from error


def _untrained(name: str, place: str) -> tuple[Any, Any]:
    from transformers import AutoConfig, AutoModelForImageClassification

    try:
        config = AutoConfig.from_pretrained(place, trust_remote_code=False)
        return AutoModelForImageClassification.from_config(config, trust_remote_code=False), {}
    except Exception as error:
        raise ValueError(
            f"transformers can't make an image classifier from the configuration of '{name}' ({type(error).__name__}: "
            f"{in_one_clause(error)}); give a folder with the config.json of one"
        ) from error


def _configuration(model: Any, processor: Any) -> dict[str, str]:
    """Return the texts of the files from which the architecture and its processor can be rebuilt."""
    config = {name: value for name, value in model.config.to_dict().items() if name not in _OF_THIS_MACHINE}
    return {
        "config.json": json.dumps(config, indent=1, sort_keys=True, default=str) + "\n",
        "preprocessor_config.json": processor.to_json_string(),
    }


def described(model: Any) -> LoadedModel:
    """Return a bare model with the processor saved next to it, or a preprocessing to its own size."""
    from transformers import AutoImageProcessor

    place = getattr(model.config, "_name_or_path", "") or getattr(model, "name_or_path", "")
    if place:
        try:
            found = AutoImageProcessor.from_pretrained(place, trust_remote_code=False, local_files_only=True)
        except Exception:  # none was saved there
            pass
        else:
            return _loaded(model, Processed(found))
    size = getattr(model.config, "image_size", None)
    if isinstance(size, list | tuple):
        size = size[0]
    note = (
        "the processor of the model is not known, so pictures are "
        + (f"resized to {size} pixels and " if size else "not resized and ")
        + "not normalised; return a xai_align.LoadedModel with preprocess=processor from the function"
    )
    return _loaded(model, _Plain(size), notes=(note,))


class Processed:
    """Processor of transformers as a preprocessing: a picture to ``[C, H, W]``."""

    def __init__(self, processor: Any) -> None:
        self.processor = processor

    def __call__(self, picture: Any) -> Any:
        """Return the image in the processor's output."""
        return self.processor(images=picture, return_tensors="pt")


class _Plain:
    def __init__(self, size: int | None) -> None:
        self.size = size

    def __call__(self, picture: Any) -> Tensor:
        picture = picture.convert("RGB")
        if self.size:
            picture = picture.resize((self.size, self.size))
        return torch.from_numpy(np.array(picture)).permute(2, 0, 1).to(torch.float32) / 255


def _loaded(model: Any, preprocess: Any, **more: Any) -> LoadedModel:
    config = model.config
    return LoadedModel(
        model=model,
        preprocess=preprocess,
        class_names=_names(config),
        output_kind=_kind(config),
        **more,
    )


def _names(config: Any) -> Any:
    """Return the labels, but not the name that transformers gives a single output."""
    labels = dict(config.id2label or {})
    return {} if list(labels.values()) == ["LABEL_0"] else labels


def _kind(config: Any) -> OutputKind | None:
    """Return the meaning that transformers' own losses assume for the outputs."""
    kind = _KINDS.get(getattr(config, "problem_type", None) or "")
    count = getattr(config, "num_labels", None)
    if count == 1:
        return "one logit" if kind == "multi-label" else "regression"
    return kind


def _missing(model: nn.Module, info: Any) -> list[str]:
    """Return the parameters that are not in the files and were initialised at random."""
    given = set(info.get("missing_keys", ()))
    given |= {one[0] if isinstance(one, tuple | list) else one for one in info.get("mismatched_keys", ())}
    return [name for name, _ in model.named_parameters() if name in given]
