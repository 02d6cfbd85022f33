"""ExactPiNet: an unchanged network together with the layer where it is read out."""

from __future__ import annotations

from collections.abc import Iterator
from os import PathLike
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from xai_align.features.resolve_layer import Layer
from xai_align.features.routes import layer_name
from xai_align.features.unwrapping import Retrofitted
from xai_align.pinet.all_classes import ClassReadout, read_out_all_classes
from xai_align.pinet.network.module import PiNet
from xai_align.pinet.network.second_look import SecondLook
from xai_align.pinet.readout import Readout, read_out


class ExactPiNet(PiNet, Retrofitted):
    """Unchanged network with an exact readout.

    A network that ends in the mean over positions and a linear layer is already a
    PiNet: its coefficients are constant, and ``z`` is its class evidence at the
    positions of the last feature map. ``pinet(x)`` returns the backbone's logits,
    bit for bit. All other attributes of the backbone (``num_features``,
    ``get_classifier()``, ``default_cfg`` …) are available on it, and
    ``state_dict()`` has the backbone's own keys.

    Args:
        backbone: the network. It is not copied.
        feature_space: the layer to read out, as in :func:`~xai_align.read_out`.

    Raises:
        ValueError: the module given as feature space is not part of the backbone.

    Source: Lobet & Chiaromonte 2026 (arXiv 2601.04378).

    Example::

        pinet = ExactPiNet(model, "conv2")
        assert torch.equal(pinet(images), model(images))
        pinet.read_out(images, 281).map()  # [2, 32, 32]
    """

    backbone: nn.Module

    def __init__(self, backbone: nn.Module, feature_space: Layer = None) -> None:
        nn.Module.__init__(self)
        self.backbone = backbone
        self.training = backbone.training
        # a name and not a module: a copy of this PiNet reads its own backbone
        self._where = layer_name(backbone, feature_space) if isinstance(feature_space, nn.Module) else feature_space
        self._register_state_dict_hook(_without_backbone)
        self.register_load_state_dict_pre_hook(_with_backbone)

    @property
    def feature_space(self) -> Layer:
        """The layer where this network is read out, as given, a module by its name; None: the default."""
        return self._where

    @property
    def num_classes(self) -> Any:
        """The backbone's own number of classes."""
        return self.backbone.num_classes

    def trainable_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the backbone's parameters that require grad."""
        return (parameter for parameter in self.backbone.parameters() if parameter.requires_grad)

    def forward(self, *inputs: Any, **options: Any) -> Any:
        """Return the backbone's own output."""
        return self.backbone(*inputs, **options)

    def explain(self, x: Tensor) -> SecondLook:
        """Return the logits as the sum of the contributions of positions, without gradients.

        Raises:
            ValueError: the head is not local, so there is no such sum for all classes at once.
        """
        found = self.read_out_all_classes(x)
        if not isinstance(found.maps, Tensor) or bool(found.prefix.any()):
            raise ValueError("the evidence of this network lies on several maps or on prefix tokens; use read_out")
        positions = found.maps.shape[-2] * found.maps.shape[-1]
        return SecondLook(
            logits=found.logits,
            coefficients=torch.ones_like(found.maps[:, :1, None]),
            z=(found.maps * positions).unsqueeze(2),
            scale=torch.full_like(found.bias, 1 / positions),
            bias=found.bias,
        )

    def save_pretrained(self, folder: str | PathLike[str]) -> NoReturn:
        """Raise, because there is nothing to save but the backbone.

        Raises:
            TypeError: always.
        """
        raise TypeError("an unchanged network is saved as usual: its state_dict() has the backbone's own keys")

    @classmethod
    def from_pretrained(cls, *args: Any, **options: Any) -> NoReturn:
        """Raise, because only the backbone can be saved and loaded.

        Raises:
            TypeError: always.
        """
        raise TypeError(f"{cls.__name__} is built around a network: load that as usual, then {cls.__name__}(network)")

    def read_out(self, inputs: Tensor, question: Any = None, feature_space: Layer = None) -> Readout:
        """Return the contribution of every coordinate of the feature space: :func:`~xai_align.read_out`."""
        return read_out(self.backbone, inputs, question, self._where if feature_space is None else feature_space)

    def read_out_all_classes(self, inputs: Tensor) -> ClassReadout:
        """Return the maps of all classes if the head is local: :func:`~xai_align.pinet.read_out_all_classes`."""
        return read_out_all_classes(self.backbone, inputs, self._where)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "backbone":
                raise
            return getattr(self.backbone, name)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *dir(self.backbone)})


def _without_backbone(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    """Rename ``backbone.conv1.weight`` to ``conv1.weight``."""
    inside = f"{prefix}backbone."
    for key in [key for key in state if key.startswith(inside)]:
        state[prefix + key[len(inside) :]] = state.pop(key)


def _with_backbone(module: nn.Module, state: dict[str, Any], prefix: str, *rest: Any) -> None:
    """Rename ``conv1.weight`` to ``backbone.conv1.weight``."""
    for key in [key for key in state if key.startswith(prefix)]:
        state[f"{prefix}backbone.{key[len(prefix) :]}"] = state.pop(key)
