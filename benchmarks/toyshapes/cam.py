"""Baseline of the ToyShapes benchmark: a classifier with mean pooling, its CAM and its Grad-CAM."""

from __future__ import annotations

import torch
from captum.attr import LayerAttribution, LayerGradCam
from torch import Tensor, nn

from benchmarks.toyshapes.scores import Look
from examples.toyshapes.generator import SIZE
from xai_align._tools.sum_keeping import resize_keeping_sum
from xai_align.pinet import ConvClassifier, SecondLook


class Cam(nn.Module):
    """Classifier with mean pooling, which is already pseudo-linear: ``pi = W``, ``z`` its last feature map."""

    def __init__(self, classifier: ConvClassifier) -> None:
        super().__init__()
        self.network = classifier

    def explain(self, x: Tensor) -> SecondLook:
        features = self.network.encoder(x)[-1].float()
        linear = self.network.classifier
        scale = linear.bias.new_full((1,), 1 / features[0, 0].numel())
        coefficients = linear.weight[None, :, :, None, None]
        with torch.autocast(x.device.type, enabled=False):
            logits = linear.bias + scale * (coefficients * features[:, None]).sum((2, 3, 4))
        return SecondLook(logits=logits, coefficients=coefficients, z=features[:, None], scale=scale, bias=linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.explain(x).logits


def cam_maps(model: nn.Module) -> Look:
    """Return the signed contributions of the last feature map, 20 x 20, spread over the picture; their sum is exact."""

    def look(x: Tensor) -> tuple[Tensor, Tensor]:
        seen = model.explain(x)
        return seen.logits[:, 0], resize_keeping_sum(seen.maps[:, 0], (SIZE, SIZE), "smooth")

    return look


def grad_cam_maps(model: nn.Module) -> Look:
    """Return the maps of Captum's ``LayerGradCam`` (ReLU, bilinear) on the encoder, as in the paper."""

    def look(x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            maps = LayerGradCam(model, model.network.encoder.blocks[-1]).attribute(x, 0, relu_attributions=True)
        maps = LayerAttribution.interpolate(maps.detach(), (SIZE, SIZE), "bilinear")
        return model(x)[:, 0], maps[:, 0]

    return look
