"""Feature spaces of timm models: the default layer, its axes, and the positions of tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from xai_align.features.spatial import proportional_grid
from xai_align.hookspecs import FeatureSpace, Layout, Split

#: Patch embeddings, where the evidence enters a network that classifies from a class
#: token, taken while their outputs are still maps, where possible.
PATCH_EMBEDDINGS: tuple[tuple[str, ...], ...] = (
    ("patch_embed.proj",),
    ("patch_embed.conv",),  # PiT
    ("patch_embed.0.proj", "patch_embed.1.proj"),  # CrossViT's two branches
    ("patch_embed1.proj",),  # CoaT
    ("pixel_embed.proj",),  # TNT
    ("embeds.proj",),  # NaFlexViT
)
#: Layers whose output is [N, C, H, W] even in channels-last networks.
CHANNELS_FIRST = (nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d, nn.AvgPool2d)


def is_timm_model(model: nn.Module) -> bool:
    """Return whether ``model`` follows timm's conventions for classifiers."""
    return all(callable(getattr(model, name, None)) for name in ("forward_features", "forward_head", "get_classifier"))


def feature_space(model: nn.Module, layer: str) -> FeatureSpace | None:
    """Return the feature space of a timm model at ``layer``; None for other models.

    Besides the names of modules there are ``"head"``, the head's input where the head uses spatial positions (None
    where it uses a class token), and ``"patch embedding"``, where the class token is a constant and all evidence
    enters through patches (None where there is none).

    Example::

        import timm

        network = timm.create_model("test_resnet").eval()
        readout = read_out(network, torch.rand(1, 3, 64, 64), 281, feature_space(network, "head"))
        readout.contributions  # [1, 96, 2, 2]
    """
    if not is_timm_model(model):
        return None
    if layer == "head":
        return None if getattr(model, "global_pool", None) == "token" else head_input(model)
    return _patch_embedding(model) if layer == "patch embedding" else _named_layer(model, layer)


def head_input(model: nn.Module) -> FeatureSpace:
    """Return the space of a timm classifier's input, spatial or not."""
    return FeatureSpace(
        layer="head input",
        layout=_layout_of_features(model),
        prefix_tokens=_prefix_tokens(model),
        split=Split(model.forward_features, model.forward_head),  # type: ignore[arg-type]
        grid=_grid(model),
        to_raster=_to_raster(model),
    )


def stages(model: nn.Module) -> tuple[str, ...] | None:
    """Return the modules that timm names as a model's stages, None for other models and if it names none."""
    if not is_timm_model(model):
        return None
    modules = dict(model.named_modules())
    named = [str(one.get("module", "")) for one in getattr(model, "feature_info", None) or ()]
    return tuple(dict.fromkeys(name for name in named if name and name in modules)) or None


def _patch_embedding(model: nn.Module) -> FeatureSpace | None:
    modules = dict(model.named_modules())
    if getattr(modules.get("pixel_embed"), "legacy", True) is False:
        del modules["pixel_embed.proj"]  # this TNT embeds each patch as a separate example
    for names in PATCH_EMBEDDINGS:
        if all(name in modules for name in names):
            return FeatureSpace(layer=names[0] if len(names) == 1 else names, grid=_grid(model))
    return None


def _named_layer(model: nn.Module, layer: str) -> FeatureSpace:
    module = dict(model.named_modules()).get(layer)
    channels_last = getattr(model, "output_fmt", None) == "NHWC" and not isinstance(module, CHANNELS_FIRST)
    # tokens of a patch embedding have no prefix yet
    embedding = "embed" in layer.split(".")[0]
    return FeatureSpace(
        layer=layer,
        layout="NHWC" if channels_last else "auto",
        prefix_tokens=0 if embedding else _prefix_tokens(model),
        grid=_grid(model),
    )


def _layout_of_features(model: nn.Module) -> Layout:
    if getattr(model, "output_fmt", None) == "NHWC":
        return "NHWC"
    return "NCL" if type(model).__name__.startswith("EfficientViM") else "auto"


def _prefix_tokens(model: nn.Module) -> int:
    return int(getattr(model, "num_prefix_tokens", 0) or 0)


def _grid(model: nn.Module) -> Callable[[tuple[int, int], int], tuple[int, int]] | None:
    """Return timm's own function, if it has one, which handles padding and non-square patches."""
    ask: Any = getattr(getattr(model, "patch_embed", None), "dynamic_feat_size", None)
    if ask is None:
        return None

    def grid(image_size: tuple[int, int], tokens: int) -> tuple[int, int]:
        rows, columns = ask(image_size)
        return (rows, columns) if rows * columns == tokens else proportional_grid(image_size, tokens)

    return grid


def _to_raster(model: nn.Module) -> Callable[[Tensor], Tensor] | None:
    """Return the reordering of Hiera's tokens, which are ordered by mask units, or None for other models."""
    reroll: Any = getattr(model, "reroll", None)
    if reroll is None:
        return None
    last = len(model.blocks) - 1  # type: ignore[arg-type]
    return lambda cells: reroll(cells.unsqueeze(-1), last).flatten(1)
