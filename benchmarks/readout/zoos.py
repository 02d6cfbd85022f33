"""Read out networks of other libraries by default: the layer, the kind, the error, or the refusal.

    OMP_NUM_THREADS=1 python -m benchmarks.readout.zoos [--zoos torchvision transformers sequences ...]

Random weights, scales and biases that are not the initial ones, one example. torchvision's classifiers at 224 px
(Inception at 299); transformers' with their configuration's own sizes and at most four hidden layers; networks of
segmentation_models_pytorch, MONAI and vit_pytorch, where these are installed; networks on sequences of PyTorch alone.
"""

from __future__ import annotations

import argparse
import importlib
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.shared.markdown import heading, row
from xai_align import read_out

TORCHVISION = (
    "alexnet convnext_tiny densenet121 efficientnet_b0 efficientnet_v2_s googlenet inception_v3 maxvit_t mnasnet0_5 "
    "mobilenet_v2 mobilenet_v3_small regnet_x_400mf regnet_y_400mf resnet18 resnext50_32x4d shufflenet_v2_x0_5 "
    "squeezenet1_1 swin_t swin_v2_t vgg11_bn vit_b_32 wide_resnet50_2"
)
TRANSFORMERS = (
    "ViT DeiT Beit Data2VecVision Dinov2 Dinov2WithRegisters Swin Swinv2 ConvNext ConvNextV2 ResNet RegNet MobileNetV1 "
    "MobileNetV2 MobileViT MobileViTV2 EfficientNet PoolFormer Levit Cvt Pvt PvtV2 Hiera FocalNet Bit Siglip ViTMSN "
    "SwiftFormer Segformer"
)
MOST_HIDDEN_LAYERS = 4
#: Function that builds a network and its inputs with one example.
Entry = Callable[[], tuple[nn.Module, Any]]


def of_torchvision() -> Iterator[tuple[str, Entry]]:
    from torchvision.models import get_model

    def build(name: str) -> tuple[nn.Module, Tensor]:
        options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
        side = 299 if name == "inception_v3" else 224
        return get_model(name, weights=None, num_classes=10, **options), torch.randn(1, 3, side, side)

    for name in TORCHVISION.split():
        yield name, partial(build, name)


def of_transformers() -> Iterator[tuple[str, Entry]]:
    transformers = importlib.import_module("transformers")

    def build(name: str) -> tuple[nn.Module, Tensor]:
        config = getattr(transformers, f"{name}Config")()
        if name == "Siglip":
            config = transformers.SiglipConfig(vision_config={"num_hidden_layers": MOST_HIDDEN_LAYERS})
        config.num_labels = 10
        if isinstance(getattr(config, "num_hidden_layers", None), int):
            config.num_hidden_layers = min(config.num_hidden_layers, MOST_HIDDEN_LAYERS)
        side = getattr(config, "image_size", None)
        side = side if isinstance(side, int) else 224
        return getattr(transformers, f"{name}ForImageClassification")(config), torch.randn(1, 3, side, side)

    for name in TRANSFORMERS.split():
        yield name, partial(build, name)


def of_segmentation_models() -> Iterator[tuple[str, Entry]]:
    smp = importlib.import_module("segmentation_models_pytorch")

    def build(name: str) -> tuple[nn.Module, Tensor]:
        network = getattr(smp, name)("resnet18", encoder_weights=None, classes=3)
        return _Pooled(network), torch.randn(1, 3, 128, 128)

    for name in ("Unet", "UnetPlusPlus", "FPN", "PSPNet", "DeepLabV3", "Linknet", "MAnet"):
        yield f"{name}, mean over the picture", partial(build, name)


def of_monai() -> Iterator[tuple[str, Entry]]:
    nets = importlib.import_module("monai.networks.nets")
    flat, volume = torch.randn(1, 1, 64, 64), torch.randn(1, 1, 32, 32, 32)
    options: dict[str, tuple[dict[str, Any], Tensor]] = {
        "DenseNet121": ({"spatial_dims": 2, "in_channels": 1, "out_channels": 3}, flat),
        "EfficientNetBN": (
            {"model_name": "efficientnet-b0", "in_channels": 1, "num_classes": 3, "pretrained": False},
            flat,
        ),
        "SEResNet50": ({"spatial_dims": 2, "in_channels": 1, "num_classes": 3}, flat),
        "ViT": (
            {"in_channels": 1, "img_size": 64, "patch_size": 16, "spatial_dims": 2, "classification": True,
             "num_classes": 3, "num_layers": 4},
            flat,
        ),
        "Classifier": (
            {"in_shape": (1, 64, 64), "classes": 3, "channels": (4, 8), "strides": (2, 2)},
            flat,
        ),
        "Regressor": ({"in_shape": (1, 64, 64), "out_shape": (1,), "channels": (4, 8), "strides": (2, 2)}, flat),
        "DenseNet121 on volumes": ({"spatial_dims": 3, "in_channels": 1, "out_channels": 3}, volume),
        "resnet18": ({"spatial_dims": 2, "n_input_channels": 1, "num_classes": 3}, flat),
        "Discriminator": (
            {"in_shape": (1, 64, 64), "channels": (4, 8), "strides": (2, 2), "last_act": None},
            flat,
        ),
        "UNet": (
            {"spatial_dims": 2, "in_channels": 1, "out_channels": 3, "channels": (4, 8, 16), "strides": (2, 2)},
            flat,
        ),
        "SegResNet": ({"spatial_dims": 2, "in_channels": 1, "out_channels": 3}, flat),
        "SwinUNETR": ({"spatial_dims": 2, "in_channels": 1, "out_channels": 3, "feature_size": 12}, flat),
    }  # fmt: skip

    def build(name: str, given: dict[str, Any], x: Tensor) -> tuple[nn.Module, Tensor]:
        network = getattr(nets, name.split(" ")[0])(**given)
        return _Pooled(network) if name in ("UNet", "SegResNet", "SwinUNETR") else network, x

    for name, (given, x) in options.items():
        yield name, partial(build, name, given, x)


def of_vit_pytorch() -> Iterator[tuple[str, Entry]]:
    size = {"image_size": 64, "patch_size": 8, "num_classes": 3, "dim": 32, "depth": 3, "heads": 2, "mlp_dim": 64}
    several = {"image_size": 64, "num_classes": 3, "dim": (16, 24, 32), "depth": 1, "heads": (2, 2, 2), "mlp_mult": 2}
    narrow = {"num_classes": 3}
    nested = {"image_size": 64, "patch_size": 4, "dim": 16, "heads": 2, "num_hierarchies": 2, "block_repeats": (1, 1)}
    options: dict[str, tuple[str, dict[str, Any]]] = {
        "ViT": ("vit_pytorch", size),
        "SimpleViT": ("vit_pytorch.simple_vit", size),
        "DeepViT": ("vit_pytorch.deepvit", size),
        "CaiT": ("vit_pytorch.cait", {**size, "cls_depth": 1}),
        "PiT": ("vit_pytorch.pit", {**size, "depth": (1, 1)}),
        "CvT": ("vit_pytorch.cvt", {"num_classes": 3}),
        "LeViT": ("vit_pytorch.levit", several),
        "NesT": ("vit_pytorch.nest", {**nested, "num_classes": 3}),
        "CrossViT": (
            "vit_pytorch.cross_vit",
            {"image_size": 64, "num_classes": 3, "sm_dim": 16, "lg_dim": 16, "lg_patch_size": 16, "sm_patch_size": 8},
        ),
        "CCT": ("vit_pytorch.cct", {**narrow, "img_size": 64, "embedding_dim": 32, "num_heads": 2, "num_layers": 2}),
        "CrossFormer": (
            "vit_pytorch.crossformer",
            {**narrow, "dim": (32, 64, 128, 256), "depth": (1, 1, 1, 1), "global_window_size": (8, 4, 2, 1),
             "local_window_size": 2},
        ),
        "MaxViT": (
            "vit_pytorch.max_vit",
            {**narrow, "dim": 16, "depth": (1, 1), "dim_head": 8, "dim_conv_stem": 16, "window_size": 8},
        ),
        "XCiT": ("vit_pytorch.xcit", {**size, "cls_depth": 1, "local_patch_kernel_size": 3}),
        "ParallelViT": ("vit_pytorch.parallel_vit", size),
        "SimpleViT of registers": ("vit_pytorch.simple_vit_with_register_tokens", size),
    }  # fmt: skip

    def build(name: str, place: str, given: dict[str, Any]) -> tuple[nn.Module, Tensor]:
        kind = {"ParallelViT": "ViT"}.get(name, name.split(" ")[0])
        side = 128 if name in ("CrossFormer", "MaxViT") else 64
        return getattr(importlib.import_module(place), kind)(**given), torch.randn(1, 3, side, side)

    for name, (place, given) in options.items():
        yield name, partial(build, name, place, given)


def of_sequences() -> Iterator[tuple[str, Entry]]:
    signal, vectors = torch.randn(1, 4, 64), torch.randn(1, 12, 8)
    networks: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
        "convolutions, mean": (
            lambda: nn.Sequential(
                nn.Conv1d(4, 8, 5), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, 3)
            ),
            signal,
        ),
        "convolutions, flattened": (
            lambda: nn.Sequential(nn.Conv1d(4, 8, 5, 2), nn.GELU(), nn.Flatten(), nn.Linear(240, 3)),
            signal,
        ),
        "dilated convolutions": (
            lambda: nn.Sequential(
                *(nn.Conv1d(4, 8, 3, dilation=2), nn.ReLU(), nn.Conv1d(8, 8, 3, dilation=4), nn.ReLU()),
                *(nn.AdaptiveMaxPool1d(1), nn.Flatten(), nn.Linear(8, 3)),
            ),
            signal,
        ),
        "LSTM, last state": (lambda: _Recurrent(nn.LSTM(8, 16, batch_first=True)), vectors),
        "GRU, both directions": (lambda: _Recurrent(nn.GRU(8, 8, bidirectional=True, batch_first=True)), vectors),
        "RNN, two layers": (lambda: _Recurrent(nn.RNN(8, 16, 2, batch_first=True)), vectors),
        "Transformer encoder": (
            lambda: nn.Sequential(
                *(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True) for _ in range(2)),
                nn.AdaptiveAvgPool2d((1, 8)), nn.Flatten(), nn.Linear(8, 3),
            ),
            vectors,
        ),
        "perceptron": (lambda: nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3)), torch.randn(1, 8)),
    }  # fmt: skip

    def build(make: Callable[[], nn.Module], x: Tensor) -> tuple[nn.Module, Tensor]:
        return make(), x

    for name, (make, x) in networks.items():
        yield name, partial(build, make, x)


class _Pooled(nn.Module):
    """Network with the mean over the positions of a dense network's output, ``[N, K]``."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x).mean((2, 3))


class _Recurrent(nn.Module):
    """Linear layer on the last output of a recurrent one."""

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.layer, self.head = layer, nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x)[0][:, -1])


ZOOS: dict[str, Callable[[], Iterator[tuple[str, Entry]]]] = {
    "torchvision": of_torchvision,
    "transformers": of_transformers,
    "segmentation_models_pytorch": of_segmentation_models,
    "monai": of_monai,
    "vit_pytorch": of_vit_pytorch,
    "sequences": of_sequences,
}


def woken(model: nn.Module) -> nn.Module:
    """Return the network in eval mode with random numbers in place of initial zeros and ones."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.dim() == 1 or not bool(parameter.any()):
            parameter.data.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def result_of(entry: Entry) -> tuple[str, str, str]:
    """Return the layer of the default readout, the largest relative error, and the messages."""
    try:
        model, x = entry()
    except Exception as error:
        return "–", "–", f"not built: {_in_one_line(error)}"
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            readout = read_out(woken(model), x, (0,) if x.dim() == 0 else 0)
        except Exception as error:
            return "refused", "–", f"{type(error).__name__}: {_in_one_line(error)}"
    parts = getattr(readout, "parts", (readout,))
    place = f"{parts[0].feature_space.layer}" + (f" and {len(parts) - 1} more" if len(parts) > 1 else "")
    own = [str(one.message) for one in said if "feature_space=" in str(one.message)]
    return place, f"{float(readout.relative_error.max()):.0e}", _in_one_line(own[0]) if own else ""


def _in_one_line(said: Any) -> str:
    return str(said).splitlines()[0][:110].replace("|", "/") if str(said) else type(said).__name__


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zoos", nargs="+", choices=ZOOS, default=list(ZOOS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for zoo in options.zoos:
        print(heading(zoo, "read at", "relative error", "said"))
        try:
            entries = list(ZOOS[zoo]())
        except ImportError as error:
            print(row(f"not installed ({error})", "–", "–", ""))
            continue
        for name, entry in entries:
            print(row(name, *result_of(entry)), flush=True)
        print()


if __name__ == "__main__":
    main()
