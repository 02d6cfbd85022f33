"""Wherever a layer can be given, its name, its module and a feature space mean the same."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from captum_align import LayerPiNetAttribution, PiNetAttribution
from gradcam_align import PiNetCAM
from tests import hf_networks
from tests.networks import conv_net, images, untouched
from xai_align import FeatureSpace, explain, plugins, read_out
from xai_align.align import AlignTrainer, grad_cam
from xai_align.evaluation import hidden_activations, parameter_randomisation
from xai_align.features import layer_names, resolve_layer
from xai_align.features.resolve_layer import last_convolution
from xai_align.fei import clip_gradients, optimize_masks
from xai_align.pinet import ExactPiNet
from xai_align.question import ask

SPACE = FeatureSpace(layer="conv2", layout="NCHW")


def spellings(model):
    return ["conv2", model.conv2, SPACE]


def slopes(model, inputs, target):
    inputs = inputs.requires_grad_()
    return torch.autograd.grad(model(inputs)[:, 1].sum(), inputs)[0]


def clipped(model, layer):
    """The activation, named in the way in which the layer is."""
    by = {str: "act", nn.Conv2d: model.act, FeatureSpace: FeatureSpace(layer="act")}[type(layer)]
    x = images().requires_grad_()
    with clip_gradients(model, images(seed=1), layers=[by]) as clipping:
        return torch.autograd.grad(clipping.model(x)[:, 1].sum(), x)[0]


def trained(model, layer):
    trainer = AlignTrainer(model, target_layer=layer, masker_only_epochs=0, seed=0)
    data = [(images(4), torch.tensor([0, 1, 2, 3]))]
    trainer.fit(data, epochs=1)
    return trainer.space.layer, trainer.state_dict()["numbers"].get("epoch")


#: Everything of the library that takes a layer, as ``(model, layer)`` to something that can be compared.
TAKERS = {
    "read_out": lambda model, layer: read_out(model, images(), 1, layer).contributions,
    "a mixture": lambda model, layer: read_out(model, images(), 1, ["conv1", layer]).map(),
    "explain": lambda model, layer: explain(model, images(), 1, layer=layer).attribution,
    "explain by Grad-CAM": lambda model, layer: explain(model, images(), 1, "layer_grad_cam", layer=layer).attribution,
    "explain by a CAM": lambda model, layer: explain(model, images(), 1, "hirescam", layer=layer).attribution,
    "PiNetAttribution": lambda model, layer: PiNetAttribution(model, layer).attribute(images(), 1),
    "LayerPiNetAttribution": lambda model, layer: LayerPiNetAttribution(model, layer).attribute(images(), 1),
    "PiNetCAM": lambda model, layer: torch.from_numpy(PiNetCAM(model, [layer])(images(), [1, 1])),
    "ExactPiNet": lambda model, layer: ExactPiNet(model, layer).read_out(images(), 1).contributions,
    "ALIGN's Grad-CAM": lambda model, layer: grad_cam(model, images(), torch.tensor([1, 1]), layer=layer),
    "hidden layers": lambda model, layer: (
        hidden_activations(model, images(), images(seed=2).abs(), layers=[layer], num_steps=2)
        .measures["relative"]
        .nan_to_num(7.0)
    ),
    "randomisation": lambda model, layer: (
        parameter_randomisation(model, images(), slopes, target=1, layers=[layer]).similarity
    ),
    "clipping": clipped,
    "FEI's start": lambda model, layer: (
        optimize_masks(
            model, images(1), 1, n_iter=1, start_layer=layer, deviation_layers=[layer], clip_layers=[layer]
        ).attribution
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", TAKERS)
def test_a_name_a_module_and_a_feature_space_mean_the_same(name):
    model = conv_net()
    with untouched(model):
        found = [TAKERS[name](model, layer) for layer in spellings(model)]
    assert all(torch.equal(one, found[0]) for one in found)


@pytest.mark.filterwarnings("ignore")
def test_training_takes_them_too():
    found = []
    for number in range(3):
        model = conv_net()
        found.append(trained(model, spellings(model)[number]))
    assert found == [("conv2", 1)] * 3


def test_wrappers_are_looked_into():
    model = conv_net()
    asked, _ = ask(model, [0, 1], 2)
    for wrapped in (nn.DataParallel(model), torch.compile(model), asked):
        assert resolve_layer(wrapped, model.conv2).layer == "conv2"
    assert resolve_layer(ExactPiNet(model, "conv1")).layer == "conv1"
    assert resolve_layer(ExactPiNet(model, "conv1"), "conv2").layer == "conv2"


class OnTopOfABackbone(nn.Module):
    """A user's own network: the backbone's logits with a layer on top, and attributes like those of an ExactPiNet."""

    def __init__(self):
        super().__init__()
        self.backbone, self.feature_space = conv_net(), None
        self.top = nn.Linear(5, 3)

    def forward(self, x):
        return self.top(self.backbone(x))


def test_a_users_own_network_with_a_backbone_is_not_replaced_by_it():
    model = OnTopOfABackbone().eval()
    torch.testing.assert_close(read_out(model, images(), 1).logits, model(images()))
    assert resolve_layer(model, "backbone.conv2").layer == "backbone.conv2"


@pytest.mark.parametrize(
    ("layer", "error", "said"),
    [
        ("conv3", ValueError, "layer 'conv3' not found; this model has"),
        (nn.ReLU(), ValueError, "is not a module of this model"),
        (3, TypeError, "one layer is asked for here, got 3"),
        (["conv1", "conv2"], TypeError, "one layer is asked for here"),
    ],
)
def test_what_names_no_layer_is_told(layer, error, said):
    with pytest.raises(error, match=said):
        resolve_layer(conv_net(), layer)


def test_defaults_by_purpose():
    image = images(1, 32)
    unknown, resnet, vit = conv_net(), timm.create_model("test_resnet").eval(), timm.create_model("test_vit").eval()
    assert resolve_layer(unknown, image=image).layer == "conv2"
    assert resolve_layer(unknown, purpose="gradient", image=image).layer == "conv2"
    # the activation runs twice, so the last map that runs once is the second convolution's
    assert resolve_layer(unknown, purpose="map", image=image).layer == "conv2"
    for purpose in ("readout", "gradient", "map"):
        assert resolve_layer(resnet, purpose=purpose, image=image) == plugins.feature_space(resnet, "head")
    patches = resolve_layer(vit, purpose="gradient", image=images(1, 160))
    assert patches.layer.startswith("blocks.")
    assert patches.prefix_tokens == 1


class Backwards(nn.Module):
    """Its layers are defined in the reverse of the order in which they run."""

    def __init__(self, tokens=False):
        super().__init__()
        self.tokens = tokens
        self.fc, self.last, self.first = nn.Linear(6, 3), nn.Conv2d(4, 6, 3, padding=1), nn.Conv2d(3, 4, 3, padding=1)
        self.norm, self.patches = nn.LayerNorm(6), nn.Conv2d(3, 6, 2, stride=2)

    def forward(self, x):
        if self.tokens:
            return self.fc(self.norm(self.patches(x).flatten(2).transpose(1, 2)).mean(1))
        return self.fc(self.last(self.first(x).relu()).relu().mean((2, 3)))


def test_the_last_layer_is_the_one_that_runs_last():
    image, model = images(1), Backwards().eval()
    for purpose in ("gradient", "map"):
        assert resolve_layer(model, purpose=purpose, image=image).layer == "last"
    assert last_convolution(model, image).layer == "last"
    # tokens that come after the last map, and are defined before it
    for purpose in ("gradient", "map"):
        assert resolve_layer(Backwards(tokens=True).eval(), purpose=purpose, image=image).layer == "norm"


def test_maps_of_transformers_are_of_their_last_tokens_and_not_of_the_patches():
    """No plugin knows the network, and its only map with rows and columns is that of the patch embedding."""
    for purpose in ("gradient", "map"):
        found = resolve_layer(hf_networks.vit().eval(), purpose=purpose, image=images(1, 32))
        assert found.layer.endswith("layers.1.layernorm_before")
        assert found.prefix_tokens == 1
    # nothing comes after the last map of a convolutional network
    found = resolve_layer(hf_networks.resnet().eval(), purpose="map", image=images(1, 32))
    assert found.layer.endswith("encoder.stages.1")


def test_what_a_default_needs_is_told():
    with pytest.raises(TypeError, match=r"give image=, of shape \[1, C, H, W\]"):
        resolve_layer(conv_net(), purpose="map")
    with pytest.raises(ValueError, match="it is one of 'readout', 'gradient', 'map'"):
        resolve_layer(conv_net(), purpose="saliency")
    with pytest.raises(ValueError, match="has no Conv2d and no plugin knows it"):
        resolve_layer(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), purpose="gradient", image=torch.ones(1, 3, 2, 2))


def test_several_layers_become_names():
    model = conv_net()
    assert layer_names(model, [model.conv1, "norm", FeatureSpace(layer=("act", "pool"))]) == [
        "conv1",
        "norm",
        "act",
        "pool",
    ]
    assert layer_names(model, None) is None
    with pytest.raises(TypeError, match="give a list of names, modules or feature spaces"):
        layer_names(model, model.conv1)
