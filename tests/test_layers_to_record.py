"""Hidden-layer metrics on networks whose stages no plugin knows."""

from __future__ import annotations

import pytest
import torch
import torchvision
from hf_networks import Logits, swin
from networks import untouched
from torch import nn
from transformers import ViTConfig, ViTForImageClassification

from xai_align import Question
from xai_align.features.stage_layers import layers_to_record
from xai_align.plugins import metric
from xai_align.question import ask


class OneSize(nn.Module):
    """All maps have the image's size."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.second(self.first(x).relu()).relu().mean((2, 3)))


def vit():
    sizes = {"image_size": 32, "patch_size": 8, "hidden_size": 16, "num_hidden_layers": 6, "num_attention_heads": 2}
    return Logits(ViTForImageClassification(ViTConfig(**sizes, intermediate_size=32, num_labels=4)))


def torchvisions_vit():
    return torchvision.models.VisionTransformer(32, 8, 4, 2, 16, 32, num_classes=4)


def perceptron():
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 8), nn.ReLU(), nn.Linear(8, 4))


MODELS = [
    (vit, 4),
    (lambda: swin(4), 3),
    (torchvisions_vit, 4),
    (lambda: torchvision.models.mobilenet_v3_small(num_classes=4), 4),
    (OneSize, 2),
    (perceptron, 2),
]


@pytest.mark.parametrize(("make", "least"), MODELS)
def test_the_deviation_of_every_network_is_measured_inside_it(make, least):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, x, scores = make().eval(), torch.randn(2, 3, 32, 32), torch.randn(2, 32, 32)
    names = layers_to_record(model, x)
    assert len(set(names)) == len(names) >= least
    # not the logits, whose deviation is another metric
    last, out = model.get_submodule(names[-1]), []
    handle = last.register_forward_hook(lambda module, given, found: out.append(found))
    logits = model(x)
    handle.remove()
    assert out[0].shape != logits.shape
    found = metric("hidden_deviation").evaluate(model, x, scores, target=1)
    assert bool((found > 0).all())
    alone = metric("hidden_deviation").evaluate(model, x[:1], scores[:1], target=1)
    assert alone == pytest.approx(found[:1], rel=1e-4)
    asked, target = ask(model, Question.why(1), 2)
    assert layers_to_record(asked, x) == names
    assert metric("hidden_deviation").evaluate(asked, x, scores, target=target) == pytest.approx(found, rel=1e-4)


def test_the_layers_of_a_perceptron_by_hand():
    assert layers_to_record(perceptron(), torch.randn(2, 3, 32, 32)) == ("1", "2")
    wrapped = nn.Sequential(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)))
    assert layers_to_record(wrapped, torch.randn(2, 4)) == ("0.0", "0.1")


class Training(nn.Module):
    """Dropout before a batch norm of maps of 1 x 1, which refuses one example in train mode."""

    def __init__(self):
        super().__init__()
        self.conv, self.drop = nn.Conv2d(3, 4, 3, stride=2), nn.Dropout(0.5)
        self.norm, self.head = nn.BatchNorm2d(4), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.norm(self.drop(self.conv(x).relu()).mean((2, 3), keepdim=True)).flatten(1))


def test_the_layers_do_not_depend_on_the_mode():
    model, x = Training(), torch.rand(2, 3, 8, 8)
    with untouched(model.train()):
        found = layers_to_record(model, x)
    assert found == layers_to_record(model.eval(), x)
