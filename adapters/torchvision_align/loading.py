"""Loading torchvision models by reference, with the transforms and categories of torchvision's own weights."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torchvision import models
from torchvision.transforms._presets import ImageClassification

from torchvision_align.channels import for_channels, stem_of, with_channels
from xai_align.adapter_tools import (
    RANDOM_WEIGHTS,
    in_one_clause,
    load_all_weights,
    named_as,
    read_weights_file,
)
from xai_align.data.picture_channels import OfChannels
from xai_align.hookspecs import InputOptions, LoadedModel, OutputKind

#: Prefix of a reference to a torchvision model.
PREFIX = "torchvision:"
#: Stands for a file: weights as torchvision initialises them.
RANDOM = "random"
#: Rows and columns that torchvision's classifiers usually get.
_USUAL_SIZE = 224
#: Channels that they take.
_USUAL_CHANNELS = 3
_SEGMENTATION, _DETECTION = "torchvision.models.segmentation", "torchvision.models.detection"


def load_torchvision_model(reference: str, options: InputOptions | None = None) -> LoadedModel | None:
    """Return the model of ``torchvision:NAME`` (torchvision's default weights), None for other references.

    ``torchvision:NAME@FILE`` loads weights from a file, in any layout that training scripts save; the number of classes
    follows from it. ``torchvision:NAME@IMAGENET1K_V1`` names weights of torchvision, ``@random`` leaves them untrained.
    Images are prepared by the weights' own transforms; for a file, by those of the default weights.

    Args:
        reference: see above.
        options: the user's options of the input: ``img_size``, ``in_chans``, ``mean``, ``std``. torchvision's weights
            are adapted to other numbers of channels than three; for a file, the number is that of its weights.

    Raises:
        ValueError: there is no such model, file or weights, or they do not fit.

    Example::

        from torchvision_align import load_torchvision_model

        loaded = load_torchvision_model("torchvision:squeezenet1_1@random")
        loaded.class_names[281]  # "tabby"
    """
    if not reference.startswith(PREFIX):
        return None
    name, _, weights = reference.removeprefix(PREFIX).partition("@")
    known = _weights_of(name)
    given = {} if options is None else options.take()
    channels, size = given.pop("in_chans", None), given.get("img_size")
    extra = {"image_size": size[0]} if size and "image_size" in _parameters(name) else {}
    if weights == RANDOM:
        model = with_channels(_made(name, weights=None, **extra), channels or _USUAL_CHANNELS)
        return _loaded(model.eval(), _default(known), random=True, **given)
    if not weights or weights in known.__members__:
        chosen = known[weights] if weights else _default(known)
        if chosen is None:
            raise ValueError(f"torchvision has no weights of '{name}'; give a file: {PREFIX}{name}@weights.pth")
        model = with_channels(_made(name, weights=chosen, **extra), channels or _USUAL_CHANNELS)
        return _loaded(model.eval(), chosen, notes=_adapted(channels), **given)
    model, notes = _from_file(name, Path(weights).expanduser(), extra, channels)
    return _loaded(model.eval(), _default(known), notes=notes, **given)


def described(model: nn.Module, reference: str) -> LoadedModel:
    """Return a bare torchvision model, prepared as for the weights of the function that the reference names."""
    name = reference.rpartition(":")[2].rpartition(".")[2]
    weights = _default(models.get_model_weights(name)) if name in models.list_models() else None
    how = "of its weights" if weights is not None else "usual for its classifiers"
    note = f"pictures are prepared as torchvision says: the transforms {how}"
    return _loaded(model, weights, notes=(note,))


def _loaded(
    model: nn.Module,
    weights: Any,
    *,
    notes: tuple[str, ...] = (),
    random: bool = False,
    img_size: tuple[int, int] | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> LoadedModel:
    transform = ImageClassification(crop_size=_USUAL_SIZE) if weights is None else weights.transforms()
    if img_size is not None:
        transform.resize_size = transform.crop_size = list(img_size)
    channels = stem_of(model)[1].in_channels
    for name, stated in (("mean", mean), ("std", std)):
        setattr(transform, name, for_channels(name, stated, getattr(transform, name), channels))
    count = _outputs(model)
    names = tuple((weights.meta.get("categories") or ()) if weights is not None else ())
    dense: OutputKind | None = "dense" if type(model).__module__.startswith(_SEGMENTATION) else None
    return LoadedModel(
        model=model,
        preprocess=OfChannels(transform, channels),
        mean=tuple(transform.mean),
        std=tuple(transform.std),
        class_names=names if len(names) == count else (),
        output_kind=dense,
        random_weights=random,
        notes=((RANDOM_WEIGHTS,) if random else ()) + notes,
    )


def _weights_of(name: str) -> Any:
    """Return torchvision's weights of a model, an enumeration.

    Raises:
        ValueError: there is no such model, or its outputs are boxes.
    """
    known = models.list_models()
    if name not in known:
        from difflib import get_close_matches

        close = get_close_matches(name, known, n=3)
        advice = f"did you mean {', '.join(close)}?" if close else "see torchvision.models.list_models()"
        raise ValueError(f"torchvision has no model '{name}'; {advice}")
    if models.get_model_builder(name).__module__.startswith(_DETECTION):
        raise ValueError(
            f"'{name}' detects objects: its outputs are lists of boxes, not logits [N, K]; wrap it in a module that "
            "returns the scores to explain"
        )
    return models.get_model_weights(name)


def _default(known: Any) -> Any:
    return getattr(known, "DEFAULT", None)


def _parameters(name: str) -> set[str]:
    """Return the options of a model's class that can be given to its builder."""
    return {"image_size"} if name.startswith("vit_") else set(signature(models.get_model_builder(name)).parameters)


def _made(name: str, **options: Any) -> nn.Module:
    if options.get("weights") is None and "weights_backbone" in _parameters(name):
        options["weights_backbone"] = None  # segmentation's builders fetch them otherwise
    try:
        return models.get_model(name, **options)
    except Exception as error:
        if options.get("weights") is None:
            raise ValueError(
                f"torchvision can't create '{name}' ({type(error).__name__}: {in_one_clause(error)})"
            ) from error
        raise ValueError(
            f"torchvision's weights of '{name}' could not be fetched ({type(error).__name__}: {in_one_clause(error)}); "
            f"give a file you have: {PREFIX}{name}@weights.pth"
        ) from error


def _adapted(channels: int | None) -> tuple[str, ...]:
    """Return a note on weights for three channels that were adapted to others."""
    if channels in (None, _USUAL_CHANNELS):
        return ()
    how = "summed to one" if channels == 1 else f"repeated for {channels}"
    return (f"the weights are for pictures of {_USUAL_CHANNELS} channels; those of the first layer were {how}",)


def _from_file(name: str, path: Path, extra: dict[str, Any], channels: int | None) -> tuple[nn.Module, tuple[str, ...]]:
    """Return a model with the weights of a file and as many classes, and notes on the choice of weights."""
    try:
        found = read_weights_file(path)
    except FileNotFoundError as error:
        raise ValueError(f"{error} for '{name}'; write {PREFIX}{name}@PATH with a file that exists") from error
    options: dict[str, Any] = {"weights": None, **extra}
    if not any("aux" in key.lower() for key in found.tensors) and name in ("googlenet", "inception_v3"):
        options["aux_logits"] = False  # heads for training, which files of other scripts leave out
    model = _made(name, **options)
    own = model.state_dict()
    renamed = named_as(found.tensors, own.keys(), path)
    classes = _classes(own, renamed.tensors)
    if classes is not None:
        model = _made(name, **options, num_classes=classes)
    stem = f"{stem_of(model)[0]}.weight"
    theirs = renamed.tensors[stem].shape[1] if stem in renamed.tensors else _USUAL_CHANNELS
    if channels not in (None, theirs):
        raise ValueError(
            f"the weights in '{path}' are for {theirs} channels, and --in-chans is {channels}; leave it out"
        )
    model = with_channels(model, theirs)
    load_all_weights(model, renamed.tensors, str(path))
    return model, (*found.notes(path), *renamed.notes)


def _classes(own: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> int | None:
    """Return the number of classes of a file's head: the rows of the tensors that differ only in their rows."""
    rows = {
        found[name].shape[0]
        for name, one in own.items()
        if name in found
        and found[name].dim() == one.dim() > 0
        and found[name].shape != one.shape
        and found[name].shape[1:] == one.shape[1:]
    }
    return rows.pop() if len(rows) == 1 else None


def _outputs(model: nn.Module) -> int | None:
    """Return the number of outputs: those of the last linear layer or convolution."""
    layers = [one for one in model.modules() if isinstance(one, nn.Linear | nn.Conv2d)]
    if not layers:
        return None
    last = layers[-1]
    return last.out_features if isinstance(last, nn.Linear) else last.out_channels
