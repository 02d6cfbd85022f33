"""Attribution methods by name, with the signature that Quantus expects.

Quantus passes numpy arrays to an ``explain_func`` and scores the result::

    metric = quantus.MaxSensitivity(nr_samples=10)
    values = metric(model=model, x_batch=x, y_batch=y, explain_func=quantus_explain_func,
                    explain_func_kwargs={"method": "pinet"})

Quantus itself is not imported here.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from xai_align import plugins
from xai_align._tools.checks import check_choice


def quantus_explain_func(
    model: nn.Module,
    inputs: Any,
    targets: Any,
    *,
    method: str | None = None,
    device: Any = None,
    build: dict[str, Any] | None = None,
    channels: Literal["sum", "keep"] = "sum",
    **options: Any,
) -> np.ndarray:
    """Return attributions as Quantus expects them: ``[N, 1, H, W]`` for images, else in the shape of ``inputs``.

    Nothing is normalised: Quantus does that where a metric needs it.

    Args:
        model: the model, in eval mode; Quantus also passes copies with changed weights.
        inputs: array ``[N, ...]``, channels first; converted to the dtype of the model's parameters.
        targets: array of class indices ``[N]``.
        method: the name of an attribution method.
        device: where to run; None: where the model is. The model is not moved.
        build: options for building the method, e.g. ``{"layer": "layer4"}``.
        channels: "sum": as in Quantus' own explanations, required by its localisation metrics;
            "keep": ``[N, C, H, W]``, required by ``Completeness`` and other metrics that remove single
            entries of the input. Inputs other than images are unaffected.
        **options: for the method's ``attribute``, e.g. ``n_steps=20``.

    Raises:
        ValueError: the method or ``channels`` is not known, the model is in train mode, or ``device`` is not
            the model's.
        TypeError: the method has no such option, or does not return a tensor.
        TargetError: (an AssertionError) targets are not class indices of the output.

    Example::

        maps = quantus_explain_func(model, images.numpy(), labels.numpy())  # array [2, 1, 32, 32]
    """
    check_choice("channels", channels, ("sum", "keep"))
    x = _as_model_input(model, inputs, device)
    method = method or plugins.default_method()
    explainer = plugins.attribution_method(method).build(model, **(build or {}))
    attributions = explainer.attribute(x, target=_as_target(targets), **options)
    if not isinstance(attributions, Tensor):
        raise TypeError(f"method '{method}' gave a {type(attributions).__name__}; Quantus needs one array")
    if attributions.dtype in (torch.bfloat16, torch.float16):  # NumPy has no bfloat16
        attributions = attributions.float()
    if channels == "sum" and attributions.dim() == 4:
        attributions = attributions.sum(1, keepdim=True)
    return attributions.detach().cpu().numpy()


def _as_model_input(model: nn.Module, inputs: Any, device: Any) -> Tensor:
    x = torch.as_tensor(inputs).detach()
    parameter = next((p for p in model.parameters() if p.is_floating_point()), None)
    if parameter is None:
        return x.to(device) if device is not None else x
    if device is not None and torch.device(device).type != parameter.device.type:
        raise ValueError(f"the model is on {parameter.device} and device is {device}; move the model there first")
    return x.to(parameter.device, parameter.dtype)


def _as_target(targets: Any) -> Any:
    """Return class indices as a vector; whole numbers in float arrays, as some Quantus metrics pass, are accepted."""
    array = targets.detach().cpu().numpy() if isinstance(targets, Tensor) else np.asarray(targets)
    if array.dtype.kind == "f" and bool((array == np.floor(array)).all()):
        array = array.astype(np.int64)
    return array.reshape(-1)
