"""One line from a timm model to a network that can be read out exactly."""

from __future__ import annotations

from typing import Any

from torch import nn

from timm_align.feature_space import is_timm_model
from timm_align.loading import create_model
from xai_align.pinet import PiNet
from xai_align.pinet.readout import Where


def retrofit(
    model_or_name: nn.Module | str,
    *,
    pretrained: bool = False,
    num_classes: int | None = None,
    feature_space: Where = None,
    **options: Any,
) -> PiNet:
    """A timm model that accounts for its own logits.

    Args:
        model_or_name: a timm model, used as it is, or a name for ``timm.create_model`` (then in eval mode).
        pretrained: with a name: load timm's pretrained weights.
        num_classes: with a name: the number of classes of a fresh classifier.
        feature_space: ``"input"``, a layer's name, a module, or a record; None: the head's input where
            it is spatial and read, the patch embedding for class-token heads.
        options: with a name: anything else that ``timm.create_model`` takes.

    Raises:
        ValueError: no such model, a model without classifier, or options that only go with a name.
        TypeError: the module does not follow timm's conventions.

    Example::

        pinet = timm_align.retrofit("resnet50", pretrained=True)
        readout = pinet.read_out(images, 281)
        readout.map()  # [N, H, W]: sums, with the bias, to the logit of class 281
    """
    if isinstance(model_or_name, str):
        chosen = {} if num_classes is None else {"num_classes": num_classes}
        model = create_model(model_or_name, pretrained=pretrained, **chosen, **options).eval()
    else:
        model = model_or_name
        _refuse_options_of_names(pretrained, num_classes, options)
    if not is_timm_model(model):
        raise TypeError(
            f"{type(model).__name__} has no forward_features, forward_head and get_classifier as timm's models have; "
            "use xai_align.pinet.PiNet(model, feature_space=...) for other networks"
        )
    if getattr(model, "num_classes", None) == 0:
        raise ValueError(
            f"{type(model).__name__} has no classifier (num_classes is 0); give num_classes=... with the name, "
            "or call reset_classifier(...) on the model, and train that head"
        )
    return PiNet(model, feature_space)


def _refuse_options_of_names(pretrained: bool, num_classes: int | None, options: dict[str, Any]) -> None:
    given = [name for name, value in (("pretrained", pretrained), ("num_classes", num_classes)) if value] + list(
        options
    )
    if given:
        raise ValueError(
            f"{', '.join(given)} go with a model's name; this is a model already, and it is not changed. "
            "Call reset_classifier(...) or load weights on it first"
        )
