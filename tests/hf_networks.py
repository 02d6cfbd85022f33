"""Small networks of Hugging Face Transformers with random weights."""

from __future__ import annotations

from torch import nn
from transformers import (
    ConvNextConfig,
    ConvNextForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
    SwinConfig,
    SwinForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)


class Logits(nn.Module):
    """The logits alone of a network that returns them in an output object."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x).logits


def swin(classes=5, side=32):
    """Two stages of one block each, with windows of 2 x 2 tokens."""
    sizes = {"image_size": side, "embed_dim": 12, "depths": [1, 1], "num_heads": [1, 2], "window_size": 2}
    return Logits(SwinForImageClassification(SwinConfig(**sizes, num_labels=classes)))


def resnet(classes=5):
    """Two stages of one block each; the module before the pooling returns an object with the map in it."""
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
    return Logits(ResNetForImageClassification(ResNetConfig(**sizes, num_labels=classes)))


def convnext(classes=5):
    """Two stages of one block each, and a norm after the pooling."""
    sizes = {"num_stages": 2, "hidden_sizes": [8, 16], "depths": [1, 1]}
    return Logits(ConvNextForImageClassification(ConvNextConfig(**sizes, num_labels=classes)))


def vit(classes=5, side=32):
    """Two blocks of 4 x 4 patches, and a class token that alone reaches the head."""
    sizes = {"image_size": side, "patch_size": side // 4, "hidden_size": 16, "intermediate_size": 32}
    config = ViTConfig(**sizes, num_hidden_layers=2, num_attention_heads=2, num_labels=classes)
    return Logits(ViTForImageClassification(config))
