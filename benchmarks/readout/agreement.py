"""Compare readouts with independent implementations, in float64 and float32.

python -m benchmarks.readout.agreement
"""

from __future__ import annotations

import warnings

import timm
import torch
from captum.attr import LayerGradCam, LayerGradientXActivation
from torch import Tensor, nn

from xai_align import read_out

#: Affine heads whose input is some module's output.
LOCAL_HEADS = {
    "resnet18": "layer4",
    "tf_efficientnet_lite0": "bn2",
    "regnetx_002": "s4",
    "densenet121": "features",
    "swin_tiny_patch4_window7_224": "norm",
    "mixer_s32_224": "norm",
    "test_byobnet": "final_conv",
    "test_nfnet": "final_act",
}


def main() -> None:
    warnings.filterwarnings("ignore")
    print("affine heads: largest difference over the largest contribution")
    for name, layer in LOCAL_HEADS.items():
        for dtype in (torch.float32, torch.float64):
            print(
                f"  {name}, {dtype}: "
                + ", ".join(f"{who} {gap:.1e}" for who, gap in against_captum(name, layer, dtype).items())
            )
    print("a norm after pooling: against the closed form")
    for name in ("convnext_atto", "poolformer_s12", "davit_tiny"):
        print(f"  {name}: {against_closed_form(name):.1e}")
    print("deleting a position of a local feature space: change of the logit against its contribution")
    for name in ("resnet18", "tf_efficientnet_lite0", "swin_tiny_patch4_window7_224", "levit_128s"):
        print(f"  {name}: {deletion(name):.1e}")


def build(name: str, dtype: torch.dtype) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    model = timm.create_model(name).eval()
    with torch.no_grad():
        classifier = model.get_classifier()
        for parameter in classifier.parameters() if isinstance(classifier, nn.Module) else ():
            parameter.normal_(0, 0.05)
    size = model.default_cfg["input_size"][-1]
    return model.to(dtype), torch.randn(2, 3, size, size).to(dtype)


def against_captum(name: str, layer: str, dtype: torch.dtype) -> dict[str, float]:
    model, x = build(name, dtype)
    ours = read_out(model, x, 3)
    assert ours.kind == "local"
    contributions = ours.contributions
    module = model.get_submodule(layer)
    theirs = LayerGradientXActivation(model, module).attribute(x, target=3).detach()
    gaps = {"layer gradient x activation": distance(contributions, theirs)}
    if contributions.dim() == 4 and contributions.shape[1] == model.num_features:
        cam = LayerGradCam(model, module).attribute(x, target=3, relu_attributions=False).detach()
        # Captum's weights are the gradient's mean over positions, which for these heads is the gradient
        gaps["Layer Grad-CAM"] = distance(contributions.sum(1, keepdim=True), cam)
    return gaps


def against_closed_form(name: str) -> float:
    """Compare with ``c_p = sum_k W_k gamma_k (F_pk - mean_k F_p) / (P sigma)`` for mean, LayerNorm, linear."""
    model, x = build(name, torch.float64)
    ours = read_out(model, x, 3)
    with torch.no_grad():
        features = model.forward_features(x)
        norm, fc = model.head.norm, model.head.fc
        pooled = features.mean((2, 3))
        sigma = (pooled.var(1, correction=0) + norm.eps).sqrt()
        centred = features - features.mean(1, keepdim=True)
        cells = torch.einsum("c,nchw->nhw", fc.weight[3] * norm.weight, centred)
        cells = cells / features[0, 0].numel() / sigma[:, None, None]
    return distance(ours.contributions.sum(1), cells)


def deletion(name: str) -> float:
    """Return the largest gap, over ten positions, relative to the logit."""
    model, x = build(name, torch.float32)
    readout = read_out(model, x[:1], 3)
    with torch.no_grad():
        z = model.forward_features(x[:1])
        cells = z.flatten(2).transpose(1, 2) if z.shape[1] == model.num_features and z.dim() == 4 else z.flatten(1, -2)
        parts = readout.contributions
        parts = parts.flatten(2).transpose(1, 2) if cells.shape != parts.flatten(1, -2).shape else parts.flatten(1, -2)
        gaps = []
        for position in range(min(10, cells.shape[1])):
            without = cells.clone()
            without[:, position] = 0
            back = (
                without.transpose(1, 2).reshape(z.shape)
                if z.shape[1] == model.num_features and z.dim() == 4
                else without.view(z.shape)
            )
            fall = readout.answer - model.forward_head(back)[:, 3]
            gaps.append(float((fall - parts[:, position].sum(1)).abs() / readout.answer.abs()))
    return max(gaps)


def distance(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs.reshape(ours.shape)).abs().max() / theirs.abs().max())


if __name__ == "__main__":
    main()
