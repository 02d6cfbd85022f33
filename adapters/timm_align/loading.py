"""Loading timm models by reference: ``timm:NAME``, ``timm:NAME@weights`` and ``timm:NAME@random``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import ImageNetInfo, create_transform, resolve_data_config
from torch import Tensor, nn

from xai_align.adapter_tools import check_weights, in_one_clause, read_tensor_file
from xai_align.hookspecs import LoadedModel


class WeightsUnavailable(RuntimeError, ValueError):
    """Pretrained weights that could not be fetched."""


#: Stands for a file: weights as timm initialises them, for experiments and for training from scratch.
RANDOM = "random"
#: Prefix of a reference to a timm model.
PREFIX = "timm:"


def load_timm_model(reference: str) -> LoadedModel | None:
    """Return the model of a reference ``timm:NAME`` (pretrained) or ``timm:NAME@FILE``, None for other references.

    FILE is a ``.safetensors`` file, a PyTorch file of plain tensors, or ``random`` for untrained weights.

    Raises:
        ValueError: there is no such model or file, or the weights do not fit; the message names what was found.

    Example::

        loaded = load_timm_model("timm:test_resnet@random")
        loaded.class_names[281]  # "tabby"
    """
    if not reference.startswith(PREFIX):
        return None
    name, _, weights = reference.removeprefix(PREFIX).partition("@")
    if weights == RANDOM:
        model = create_model(name)
    elif weights:
        state = _weights_of(name, weights)
        model = create_model(name, num_classes=_number_of_classes(name, state))
        load_weights(model, state, source=weights)
    else:
        model = create_model(name, pretrained=True)
    return ready(model)


def create_model(name: str, **options: Any) -> nn.Module:
    """Run ``timm.create_model``, with an error that suggests names.

    Raises:
        ValueError: timm has no model of this name.
        WeightsUnavailable: the pretrained weights cannot be fetched.
    """
    if not timm.is_model(name.partition(".")[0]):
        from difflib import get_close_matches

        close = get_close_matches(name, timm.list_models(), n=3)
        raise ValueError(
            f"timm has no model '{name}'; "
            + (f"did you mean {', '.join(close)}?" if close else "see timm.list_models()")
        )
    try:
        return timm.create_model(name, **options)
    except Exception as error:
        if not options.get("pretrained"):
            raise
        raise WeightsUnavailable(
            f"the pretrained weights of '{name}' could not be fetched ({type(error).__name__}: "
            f"{in_one_clause(error)}); give a file you have: timm:{name}@weights.safetensors"
        ) from error


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return a state dict from a file, without running code from it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a file of tensors.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no weights at '{path}'")
    if path.suffix == ".safetensors":
        return read_tensor_file(path)[1]
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling damaged files raises almost any exception
        raise ValueError(
            f"'{path}' is no file of plain tensors ({in_one_clause(error)}); save it as .safetensors"
        ) from error
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(key, str) and _is_plain(one) for key, one in state.items()):
        raise ValueError(f"'{path}' holds {type(state).__name__}, not a state dict of plain tensors")
    return {key.removeprefix("module."): value for key, value in state.items()}


def _is_plain(value: object) -> bool:
    """Return whether this is a tensor whose storage holds all its elements; an expanded one may claim any size."""
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_meta or value.is_quantized:
        return False
    return value.untyped_storage().nbytes() >= value.numel() * value.element_size()


def load_weights(model: nn.Module, state: dict[str, Tensor], *, source: str) -> None:
    """Load every tensor, or raise with those that do not fit.

    Raises:
        ValueError: keys are missing or unexpected, or tensors have another shape or dtype, or NaN or infinity.
    """
    check_weights(model, state, source)
    model.load_state_dict(state)


def ready(model: nn.Module) -> LoadedModel:
    """Return the model in eval mode with the preprocessing and class names of its configuration."""
    config = resolve_data_config({}, model=model)
    return LoadedModel(
        model=model.eval(),
        preprocess=create_transform(**config),
        class_names=class_names(getattr(model, "num_classes", 0)),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )


def class_names(num_classes: int) -> tuple[str, ...]:
    """Return ImageNet's names (first synonym) for 1000 classes, no names for other numbers."""
    if num_classes != 1000:
        return ()
    info = ImageNetInfo("imagenet-1k")
    return tuple(info.index_to_description(index).split(",")[0] for index in range(num_classes))


def _weights_of(name: str, path: str) -> dict[str, Tensor]:
    try:
        return read_weights(Path(path))
    except FileNotFoundError as error:
        raise ValueError(f"{error} for '{name}'; write timm:{name}@PATH with a file that is there") from error


def _number_of_classes(name: str, state: dict[str, Tensor]) -> int:
    """Return the number of classes of the classifier in the file."""
    config = timm.get_pretrained_cfg(name)
    classifier = getattr(config, "classifier", None)
    key = classifier[0] if isinstance(classifier, tuple | list) else classifier
    bias = state.get(f"{key}.bias", state.get(f"{key}.weight"))
    return 1000 if bias is None or bias.dim() == 0 else len(bias)
