"""Encoder of a timm backbone: feature maps at several depths, and the classifier's input."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from timm.data import create_transform, resolve_data_config
from torch import Tensor, nn

from timm_align.feature_space import head_input, is_timm_model
from timm_align.input_size import input_size
from timm_align.loading import PREFIX, create_model
from timm_align.saved_options import check_saved_options
from xai_align.adapter_tools import kept_random_state
from xai_align.features.spatial import layout_of, on_grid
from xai_align.hookspecs import FeatureSpace
from xai_align.pinet.network.reference import Preprocessing

#: Number of depths used for a network whose maps all have the same size.
SAME_SIZE_DEPTHS = 4


class TimmEncoder(nn.Module):
    """Timm backbone as the encoder of a PiNet: its stages' maps, with the classifier's own input as the deepest.

    Where the last stage and the classifier's input have the same grid, only
    the latter is returned. Tokens are returned as maps, without prefix tokens. A
    classifier's input that is not a map (a class token alone, several tensors)
    is left out.

    Args:
        backbone: a timm model; it is not copied.
        indices: indices of maps of ``backbone.forward_intermediates``; None: every resolution that is at most a
            quarter of the input's, or four depths where all maps have the same size.
        image_size: rows and columns of a test input that gives the maps' channels; None: the backbone's own.
        create_options: the options of ``timm.create_model``, from which a saved model can be rebuilt.

    Raises:
        TypeError: the module does not follow timm's conventions.
        ValueError: its intermediate maps are not available; the message names the reason.

    Example::

        import timm

        encoder = TimmEncoder(timm.create_model("test_resnet").eval(), image_size=(64, 64))
        maps = encoder(torch.rand(1, 3, 64, 64))
        [tuple(one.shape[1:]) for one in maps]  # [(32, 16, 16), (48, 8, 8), (192, 4, 4), (96, 2, 2)]
    """

    def __init__(
        self,
        backbone: nn.Module,
        *,
        indices: Sequence[int] | None = None,
        image_size: tuple[int, int] | None = None,
        create_options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if not is_timm_model(backbone):
            raise TypeError(
                f"{type(backbone).__name__} has no forward_features, forward_head and get_classifier as timm's models "
                "have; write your own encoder, images -> list of maps, finest first, and give that to PiNet"
            )
        if not callable(getattr(backbone, "forward_intermediates", None)):
            raise ValueError(
                f"the intermediate maps of {type(backbone).__name__} are not available: it has no "
                'forward_intermediates; choose another backbone, or read this one out as it is with head="exact"'
            )
        self.backbone = backbone
        self.training = backbone.training
        image_size = image_size or input_size(backbone)
        final, grids = self._tried(image_size)
        self.indices = tuple(_usual_indices(grids, image_size) if indices is None else _checked(indices, len(grids)))
        #: Whether the deepest map is the classifier's input.
        self.ends_in_head_input = final
        #: Channels of the feature maps, finest first.
        self.channels = self._channels(image_size)
        #: Reference from which this package rebuilds the encoder.
        self.reference = _reference(backbone)
        self.options: dict[str, Any] = {
            "indices": list(self.indices),
            "image_size": list(image_size),
            "create": {
                "num_classes": getattr(backbone, "num_classes", 1000),
                **_input_options(backbone),
                **{name: value for name, value in (create_options or {}).items() if name not in WHERE_WEIGHTS_LIE},
            },
        }

    @property
    def space(self) -> FeatureSpace:
        """The classifier's input."""
        return head_input(self.backbone)

    @property
    def preprocessing(self) -> Preprocessing:
        """Preprocessing of the backbone's training."""
        size = (image_channels(self.backbone), *input_size(self.backbone))
        config = resolve_data_config({"input_size": size}, model=self.backbone)
        return Preprocessing(create_transform(**config), tuple(config["mean"]), tuple(config["std"]))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return feature maps ``[N, C_i, h_i, w_i]`` of images ``[N, C, H, W]``, finest first."""
        final, maps = self._run(x, list(self.indices))
        if not self.ends_in_head_input:
            return maps
        deepest = self._as_map(final, x)
        return [*(maps[:-1] if maps[-1].shape[-2:] == deepest.shape[-2:] else maps), deepest]

    def trainable_parameters(self) -> Iterator[nn.Parameter]:
        """Yield all parameters of the backbone except its classifier's, which is not used."""
        unused = {id(parameter) for parameter in classifier_parameters(self.backbone)}
        return (parameter for parameter in self.backbone.parameters() if id(parameter) not in unused)

    def _run(self, x: Tensor, indices: list[int] | None) -> tuple[Any, list[Tensor]]:
        final, maps = self.backbone.forward_intermediates(x, indices=indices, output_fmt="NCHW")  # type: ignore[operator]
        return final, list(maps)

    def _as_map(self, final: Tensor, x: Tensor) -> Tensor:
        space = self.space
        if final.dim() == 4:
            return final.permute(0, 3, 1, 2) if layout_of(final, space) == "NHWC" else final
        tokens = final if layout_of(final, space) == "NLC" else final.transpose(1, 2)
        return on_grid(tokens[:, space.prefix_tokens :].transpose(1, 2), final, space, (x.shape[-2], x.shape[-1]))

    def _tried(self, image_size: tuple[int, int]) -> tuple[bool, list[tuple[int, int]]]:
        """Return whether the classifier's input is a map, and rows and columns of all the maps before it."""
        with probing(self.backbone, image_size) as image:
            try:
                final, maps = self._run(image, None)
            except Exception as error:
                raise ValueError(
                    f"the intermediate maps of {type(self.backbone).__name__} are not available for an image of "
                    f"{image_size[0]} x {image_size[1]} ({type(error).__name__}: {str(error)[:160]}); choose another "
                    'backbone or image_size, or read this one out as it is with head="exact"'
                ) from error
            try:
                is_map = isinstance(final, Tensor) and self._as_map(final, image)[0, 0].numel() > 1
            except ValueError:  # the number of tokens fits no grid
                is_map = False
        return is_map, [(one.shape[-2], one.shape[-1]) for one in maps]

    def _channels(self, image_size: tuple[int, int]) -> tuple[int, ...]:
        with probing(self.backbone, image_size) as image:
            return tuple(int(one.shape[1]) for one in self(image))


#: Options of ``timm.create_model`` that locate weights, which a saved model contains itself.
WHERE_WEIGHTS_LIE = frozenset(("checkpoint_path", "cache_dir"))


def rebuilt_encoder(reference: str, options: dict[str, Any]) -> TimmEncoder:
    """Return the encoder with this reference and these options, without its weights.

    Raises:
        ValueError: a file may not set an option, or the encoder can't be built.
    """
    check_saved_options(options)
    backbone = create_model(reference.removeprefix(PREFIX), **options["create"]).eval()
    for parameter in classifier_parameters(backbone):
        parameter.requires_grad_(False)
    return TimmEncoder(
        backbone,
        indices=options["indices"],
        image_size=tuple(options["image_size"]),
        create_options=options["create"],
    )


def _usual_indices(grids: Sequence[tuple[int, int]], image_size: tuple[int, int]) -> list[int]:
    if len(set(grids)) == 1:
        depths = min(SAME_SIZE_DEPTHS, len(grids))
        return [len(grids) * (depth + 1) // depths - 1 for depth in range(depths)]
    coarse = [index for index, (rows, _) in enumerate(grids) if 4 * rows <= image_size[0]]
    return coarse or list(range(len(grids)))


def _reference(backbone: nn.Module) -> str | None:
    config = getattr(backbone, "pretrained_cfg", None) or getattr(backbone, "default_cfg", None) or {}
    name = config.get("architecture")
    return f"{PREFIX}{name}" if name else None


def _checked(indices: Sequence[int], count: int) -> list[int]:
    wrong = [index for index in indices if not -count <= index < count]
    if wrong or not indices:
        raise ValueError(f"indices are {list(indices)}; this backbone gives {count} maps, numbered 0 … {count - 1}")
    return sorted({index % count for index in indices})


def _input_options(backbone: nn.Module) -> dict[str, Any]:
    """Return the options of the input with which a backbone was made, where they are not its configuration's."""
    config: Any = getattr(backbone, "pretrained_cfg", None) or {}
    usual = tuple(config.get("input_size") or (3, 0, 0))
    options: dict[str, Any] = {}
    if image_channels(backbone) != usual[0]:
        options["in_chans"] = image_channels(backbone)
    size = input_size(backbone)
    if config.get("fixed_input_size") and size != usual[1:]:
        options["img_size"] = list(size)
    return options


def classifier_parameters(backbone: nn.Module) -> list[nn.Parameter]:
    """Return the parameters of the backbone's own classifier (or classifiers)."""
    found = backbone.get_classifier()  # type: ignore[operator]
    modules = found if isinstance(found, tuple | list) else (found,)
    return [parameter for one in modules if isinstance(one, nn.Module) for parameter in one.parameters()]


def image_channels(backbone: nn.Module) -> int:
    """Return the number of image channels of a backbone, which may differ from that of its pretrained weights."""
    own = getattr(backbone, "in_chans", None)
    return int(own or resolve_data_config({}, model=backbone)["input_size"][0])


@contextmanager
def probing(backbone: nn.Module, image_size: tuple[int, ...]) -> Iterator[Tensor]:
    """Yield a black image to test the backbone with, in eval mode and without gradients; restore its state."""
    modes = [(module, module.training) for module in backbone.modules()]
    like, channels = next(backbone.parameters()), image_channels(backbone)
    try:
        for module, _ in modes:
            module.training = False
        with kept_random_state(), torch.no_grad():
            yield torch.zeros(1, channels, *image_size, dtype=like.dtype, device=like.device)
    finally:
        for module, training in modes:
            module.training = training
