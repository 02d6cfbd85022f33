"""Loading timm models by reference: ``timm:NAME``, ``timm:NAME@weights``, ``timm:NAME@random``, and timm's own sources.

The sources are those of ``timm.create_model``: ``timm:hf-hub:OWNER/NAME`` and ``timm:local-dir:FOLDER``, a folder with
``config.json`` and the weights, as timm saves them for the hub. They include the names of the classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
from timm.data import CustomDatasetInfo, ImageNetInfo, create_transform, infer_imagenet_subset, resolve_data_config
from torch import nn

from timm_align.channels import OfChannels
from timm_align.checkpoints import Checkpoint, load_weights, read_checkpoint, read_weights
from timm_align.input_size import input_size
from xai_align.adapter_tools import RANDOM_WEIGHTS, in_one_clause
from xai_align.hookspecs import InputOptions, LoadedModel

__all__ = ["create_model", "load_timm_model", "load_weights", "read_weights", "ready"]


class WeightsUnavailable(RuntimeError, ValueError):
    """Pretrained weights that could not be fetched."""


#: Stands for a file: weights as timm initialises them, for experiments and for training from scratch.
RANDOM = "random"
#: Prefix of a reference to a timm model.
PREFIX = "timm:"
#: timm's own sources of models with their configuration.
SOURCES = ("hf-hub:", "hf_hub:", "local-dir:")


def load_timm_model(reference: str, options: InputOptions | None = None) -> LoadedModel | None:
    """Return the model of a reference ``timm:NAME`` (pretrained) or ``timm:NAME@FILE``, None for other references.

    FILE is a ``.safetensors`` file, a PyTorch file with weights in any layout that timm loads, a NumPy file of a JAX
    model, or ``random`` for untrained weights. The number of classes and of input channels follow from it. NAME may be
    ``hf-hub:OWNER/NAME`` or ``local-dir:FOLDER``.

    Args:
        reference: see above.
        options: the user's options of the input: ``in_chans``, ``img_size``, ``mean``, ``std``.

    Raises:
        ValueError: there is no such model or file, or the weights do not fit; the message names what was found.

    Example::

        loaded = load_timm_model("timm:test_resnet@random")
        loaded.class_names[281]  # "tabby"
    """
    if not reference.startswith(PREFIX):
        return None
    given = {} if options is None else options.take()
    name = reference.removeprefix(PREFIX)
    if name.lower().startswith(SOURCES):
        return ready(_from_source(name, given).eval(), **given)
    name, _, weights = name.partition("@")
    if weights == RANDOM:
        return ready(create_model(name, **_of_model(name, given)).eval(), random=True, **given)
    if not weights:
        return ready(create_model(name, pretrained=True, **_of_model(name, given)).eval(), **given)
    checkpoint = _checkpoint(name, weights)
    model = create_model(name, **{**checkpoint.create_options(name), **_of_model(name, given)})
    notes = checkpoint.load_into(model)
    return ready(model.eval(), settings=checkpoint.data_settings, notes=notes, **given)


def create_model(name: str, **options: Any) -> nn.Module:
    """Run ``timm.create_model``, with an error that suggests names.

    Raises:
        ValueError: timm has no model of this name, or it has no such option.
        WeightsUnavailable: the pretrained weights cannot be fetched.
    """
    source = name.lower().startswith(SOURCES)
    if not source and not timm.is_model(name.partition(".")[0]):
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
            asked = {key: value for key, value in options.items() if key in ("img_size", "in_chans")}
            if not asked:
                raise
            raise ValueError(
                f"timm can't create '{name}' with {', '.join(f'{key}={value}' for key, value in asked.items())} "
                f"({type(error).__name__}: {in_one_clause(error)})"
            ) from error
        what = f"the model '{name}'" if source else f"the pretrained weights of '{name}'"
        advice = (
            "local-dir: takes a folder with config.json and the weights, hf-hub: the name of a repository"
            if source
            else f"give a file you have: timm:{name}@weights.safetensors"
        )
        raise WeightsUnavailable(
            f"{what} could not be fetched ({type(error).__name__}: {in_one_clause(error)}); {advice}"
        ) from error


def ready(
    model: nn.Module,
    *,
    settings: Mapping[str, Any] | None = None,
    notes: tuple[str, ...] = (),
    random: bool = False,
    img_size: tuple[int, int] | None = None,
    in_chans: int | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> LoadedModel:
    """Return the model, in the mode it is in, with the preprocessing and class names of its configuration.

    Args:
        model: a timm model.
        settings: the data settings of its training, which take precedence over its configuration.
        notes: remarks for the user on how it was loaded.
        random: whether its weights are random.
        img_size: rows and columns of the input, over both; None: those that the network was built for.
        in_chans: number of channels of the input.
        mean: of each channel, or one for all, in place of the configuration's.
        std: see ``mean``.

    Raises:
        ValueError: mean or std have another number of channels.
    """
    channels = in_chans or getattr(model, "in_chans", None) or _channels(model)
    given = settings or {}
    size = img_size or (None if {"img_size", "input_size"} & given.keys() else input_size(model))
    config = resolve_data_config(_data_arguments(given, channels, size), model=model)
    stated = {"mean": mean, "std": std}
    for name, values in stated.items():
        if values is not None and len(values) not in (1, channels):
            raise ValueError(
                f"the {name} has {len(values)} values, and the model takes {channels} channels; give one, or one for "
                "each"
            )
    config |= {name: _for_channels(stated[name] or config[name], channels) for name in ("mean", "std")}
    transform = create_transform(**config)
    return LoadedModel(
        model=model,
        preprocess=OfChannels(transform, channels),
        class_names=class_names(model),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        random_weights=random,
        notes=((RANDOM_WEIGHTS,) if random else ()) + notes,
    )


def class_names(model: nn.Module | int) -> tuple[str, ...]:
    """Return the class names of the model's configuration, or those of ImageNet if their number fits, or none.

    Of several synonyms the first is used. An integer stands for a model with that many classes and no names.
    """
    count = model if isinstance(model, int) else getattr(model, "num_classes", 0)
    config = getattr(model, "pretrained_cfg", None) or {}
    labels = config.get("label_names")
    if labels and len(labels) == count:
        info: Any = CustomDatasetInfo(labels, config.get("label_descriptions"))
    else:
        subset = infer_imagenet_subset({"num_classes": count})
        if subset is None:
            return ()
        info = ImageNetInfo(subset)
    try:
        return tuple(info.index_to_description(index).split(",")[0] for index in range(count))
    except (KeyError, AssertionError, IndexError):  # names of some classes only
        return ()


def _from_source(name: str, given: Mapping[str, Any]) -> nn.Module:
    """Return a model as its source configures it; a size that the network rejects is used for the images only."""
    options = _of_model(name, given)
    if "img_size" not in given:
        return create_model(name, pretrained=True, **options)
    try:
        return create_model(name, pretrained=True, img_size=given["img_size"], **options)
    except WeightsUnavailable as error:
        if not isinstance(error.__cause__, TypeError):
            raise
        return create_model(name, pretrained=True, **options)


def _of_model(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of the input that shape the network itself; others change only the preprocessing."""
    options = {"in_chans": given["in_chans"]} if "in_chans" in given else {}
    config = None if name.lower().startswith(SOURCES) else timm.get_pretrained_cfg(name.partition("@")[0])
    if "img_size" in given and getattr(config, "fixed_input_size", False):
        options["img_size"] = given["img_size"]
    return options


def _data_arguments(settings: Mapping[str, Any], channels: int, size: tuple[int, int] | None) -> dict[str, Any]:
    """Return the arguments of ``timm.data.resolve_data_config``."""
    arguments = {**settings, "in_chans": channels}
    for name in ("mean", "std"):
        if len(arguments.get(name) or ()) not in (0, 1, channels):
            del arguments[name]
    if size is not None:
        arguments |= {"input_size": (channels, *size), "crop_pct": arguments.get("crop_pct")}
    return arguments


def _channels(model: nn.Module) -> int:
    """Return the channels of the model's first convolution."""
    first = next((one for one in model.modules() if isinstance(one, nn.Conv2d)), None)
    return 3 if first is None else first.in_channels


def _for_channels(values: Any, channels: int) -> tuple[float, ...]:
    """Return one value for each channel; if the configuration's are for three, their mean."""
    values = tuple(values)
    return values if len(values) == channels else (sum(values) / len(values),) * channels


def _checkpoint(name: str, path: str) -> Checkpoint:
    try:
        return read_checkpoint(Path(path).expanduser())
    except FileNotFoundError as error:
        raise ValueError(f"{error} for '{name}'; write timm:{name}@PATH with a file that exists") from error
