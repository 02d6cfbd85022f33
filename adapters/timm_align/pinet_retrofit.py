"""Retrofit of a timm model as a PiNet, which decomposes its own logits."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Literal

from timm.data import resolve_data_config
from torch import nn

from timm_align.feature_space import is_timm_model
from timm_align.linear_classifier import NO_CLASSIFIER, has_classifier, linear_classifier, number_of_classes
from timm_align.loading import create_model
from timm_align.second_look import TimmEncoder, classifier_parameters, image_channels
from xai_align.adapter_tools import callers_level
from xai_align.features.resolve_layer import Layer
from xai_align.pinet import ExactPiNet, FrozenEncoder, PiNet, SecondLookHead
from xai_align.pinet.network.head_options import Size

#: Default rows and columns of a second look's maps.
USUAL_SIZE = 56
#: Options of a retrofit for its head; the others are for ``timm.create_model``.
HEAD_OPTIONS = frozenset(SecondLookHead.option_names) - {"classifier"}


def retrofit(
    model_or_name: nn.Module | str,
    head: Literal["exact", "second_look"] = "exact",
    *,
    pretrained: bool = False,
    num_classes: int | None = None,
    feature_space: Layer = None,
    **options: Any,
) -> PiNet:
    """Return a timm model as a PiNet, which decomposes its own logits.

    ``head="exact"`` changes nothing: the logits are the model's own.
    ``head="second_look"`` puts a light decoder on the model's feature maps, to be trained
    (:func:`~xai_align.training.fit_pinet`), for finer maps. With ``z="evidence"``, the default, it starts with the
    model's own logits if these are a linear classifier of mean features.

    Args:
        model_or_name: a timm model, not copied, or a name for ``timm.create_model`` (then in eval mode).
        head: the kind of head.
        pretrained: with a name: load timm's pretrained weights.
        num_classes: ``"exact"``, with a name: the number of classes of a fresh classifier. ``"second_look"``: the
            number of classes of the head; None: the model's own.
        feature_space: ``"exact"`` only: ``"input"``, ``"head"``, a layer's name, a module, or a record; None: the
            default of :func:`~xai_align.read_out`.
        options: ``"second_look"``: ``frozen`` (True: the model is not trained, False: it is trained too),
            ``indices`` and ``image_size`` of :class:`~timm_align.TimmEncoder`, and the options of
            :class:`~xai_align.pinet.SecondLookHead`, of which ``z`` is ``"evidence"``, ``size`` 56 (for
            ``z="pixels"`` the input's), and ``mean`` and ``std`` the model's, by default. Both,
            with a name: any other option of ``timm.create_model``.

    Raises:
        ValueError: there is no such model, it has no classifier or no intermediate maps, or an option requires a
            name.
        TypeError: the module does not follow timm's conventions.

    Example::

        images = torch.rand(2, 3, 64, 64)
        pinet = retrofit("test_resnet")  # for real use, a larger network with pretrained=True
        readout = pinet.read_out(images, 281)
        readout.map()  # [2, 64, 64]: sums, with the bias, to the logit of class 281

        fine = retrofit("test_resnet", head="second_look", num_classes=7)
        look = fine.explain(images)
        look.maps  # [2, 7, 56, 56]: sums, with look.bias, to the logits
    """
    if head == "exact":
        return _exact(model_or_name, pretrained, num_classes, feature_space, options)
    if head != "second_look":
        raise ValueError(f"head={head!r}; it must be 'exact' or 'second_look'")
    if feature_space is not None:
        raise ValueError('feature_space is an option of head="exact"; for head="second_look" use z=...')
    return _second_look(model_or_name, pretrained=pretrained, num_classes=num_classes, **options)


def _exact(
    model_or_name: nn.Module | str,
    pretrained: bool,
    num_classes: int | None,
    feature_space: Layer,
    options: dict[str, Any],
) -> ExactPiNet:
    if isinstance(model_or_name, str):
        chosen = {} if num_classes is None else {"num_classes": num_classes}
        model = create_model(model_or_name, pretrained=pretrained, **chosen, **options).eval()
    else:
        model = model_or_name
        _refuse_options_of_names(options, pretrained=pretrained, num_classes=num_classes)
    if not is_timm_model(model):
        raise TypeError(
            f"{type(model).__name__} has no forward_features, forward_head and get_classifier as timm's models have; "
            "use xai_align.pinet.ExactPiNet(model, feature_space=...) for other networks"
        )
    if not has_classifier(model):
        raise ValueError(
            f"{type(model).__name__} {NO_CLASSIFIER}; give num_classes=... with the name, or call "
            "reset_classifier(...) on the model, and train that head"
        )
    return ExactPiNet(model, feature_space)


def _second_look(
    model_or_name: nn.Module | str,
    *,
    pretrained: bool,
    num_classes: int | None,
    frozen: bool = True,
    indices: Sequence[int] | None = None,
    image_size: tuple[int, int] | None = None,
    size: Size = None,
    **options: Any,
) -> PiNet:
    of_head = {name: options.pop(name) for name in HEAD_OPTIONS & options.keys()}
    if isinstance(model_or_name, str):
        backbone = create_model(model_or_name, pretrained=pretrained, **options).eval()
    else:
        backbone = model_or_name
        _refuse_options_of_names(options, pretrained=pretrained)
    encoder = TimmEncoder(backbone, indices=indices, image_size=image_size, create_options=options)
    if isinstance(model_or_name, str):
        # created here, so requires_grad may be set: training then does not wait for gradients of unused parameters
        for parameter in backbone.parameters() if frozen else classifier_parameters(backbone):
            parameter.requires_grad_(False)
    own = number_of_classes(encoder)
    classes = num_classes or own
    if classes == 0:
        raise ValueError(
            f"{type(backbone).__name__} {NO_CLASSIFIER}; give num_classes=... for a new head, to be trained "
            "(fit_pinet), or call reset_classifier(...) on the model and load weights for it first"
        )
    z = of_head.setdefault("z", "evidence")
    of_head = {**_pixels_of(backbone), **of_head}
    head = SecondLookHead(
        encoder.channels,
        classes,
        size=size or (None if z == "pixels" else USUAL_SIZE),
        classifier=_own_classifier(encoder) if z == "evidence" and classes == own else None,
        **of_head,
    )
    pinet = PiNet(FrozenEncoder(encoder) if frozen else encoder, head.eval())
    pinet.training = encoder.training
    like = next(backbone.parameters())
    head.to(device=like.device, dtype=like.dtype)
    return pinet


def _pixels_of(backbone: nn.Module) -> dict[str, Any]:
    """Return the normalisation of the backbone's images, to be undone."""
    config, channels = resolve_data_config({}, model=backbone), image_channels(backbone)
    fits = len(config["mean"]) == channels
    # for another number of channels: the mean over the known channels
    normalisation = {
        name: config[name] if fits else (sum(config[name]) / len(config[name]),) for name in ("mean", "std")
    }
    return {"image_channels": channels, **normalisation}


def _own_classifier(encoder: TimmEncoder) -> nn.Linear | None:
    """Return the backbone's classifier, if it is linear in mean features."""
    classifier = linear_classifier(encoder)
    if classifier is None:
        warnings.warn(
            f"the head of {type(encoder.backbone).__name__} is not a linear classifier of mean features, so the "
            "evidence can't start as the network's own: it starts at zero, and so do the logits; train it (fit_pinet) "
            "before use",
            stacklevel=callers_level(),
        )
    return classifier


def _refuse_options_of_names(options: dict[str, Any], *, pretrained: bool, num_classes: int | None = None) -> None:
    given = ["pretrained"] * pretrained + ["num_classes"] * (num_classes is not None) + list(options)
    if given:
        raise ValueError(
            f"{', '.join(given)} require a model's name; this is a model, and it is not changed. "
            "Call reset_classifier(...) or load weights on it first"
        )
