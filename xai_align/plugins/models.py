"""Models by reference, and plugins' knowledge about a model: its feature space, stages, new heads."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from xai_align._tools.counted import counted
from xai_align.hookspecs import FeatureSpace, LoadedModel
from xai_align.plugins.hook_calls import first_answer, first_answer_or_raise
from xai_align.plugins.model_options import ModelOptions

#: Examples of the references that :func:`load_model` knows without third-party plugins.
REFERENCE_FORMS = (
    "timm:resnet50",
    "timm:resnet50@weights.safetensors",
    "timm:hf-hub:OWNER/NAME",
    "timm:local-dir:FOLDER",
    "torchvision:resnet50",
    "torchvision:resnet50@weights.pth",
    "hf:OWNER/NAME",
    "hf:FOLDER",
    "pinet:FOLDER",
    "align:FOLDER",
    "fei:FILE",
    "package.module:factory",
)


def load_model(reference: str, *, trust: bool = False, options: ModelOptions | None = None) -> LoadedModel:
    """Load the model that ``reference`` names, from the first plugin that knows it, third parties first.

    Args:
        reference: like one of :data:`REFERENCE_FORMS`. ``package.module:factory`` is imported and called.
        trust: whether a folder or file (``pinet:FOLDER``, ``align:FOLDER``, ``fei:FILE``) may itself name
            ``package.module:function``, which is then imported and called; without, it is data, and may name
            architectures of timm.
        options: statements of the user about the model: class names, the meaning of its outputs, the size of its input.

    Raises:
        ValueError: no plugin knows this form of reference, or the one that does could not load the model, or it has no
            such option.
        PluginError: in strict mode, a plugin failed on a reference that another one could load.

    Example::

        loaded = load_model("timm:resnet18@random")  # without "@random": the pretrained weights
        loaded.model, loaded.preprocess, loaded.class_names
    """
    stated = options or ModelOptions()
    of_input = stated.of_input
    loaded = first_answer_or_raise(
        "xai_align_load_model",
        LoadedModel,
        doing=f"cannot load the model '{reference}'",
        unknown=f"no plugin knows the model reference '{reference}'; write it like one of "
        f"{', '.join(REFERENCE_FORMS)}, or as a plugin of yours documents.",
        reference=reference,
        trust=trust,
        options=of_input,
    )
    if of_input.left:
        names = " and ".join(of_input.left)
        raise ValueError(f"the model '{reference}' is loaded as it is and takes no {names}; leave that out")
    return stated.stated(loaded)


def described_model(model: nn.Module, reference: str) -> LoadedModel | None:
    """Return a bare model with the preprocessing and names that a plugin knows for it; None: no plugin knows it.

    Raises:
        PluginError: in strict mode, a plugin failed on ``model``.

    Example::

        import timm

        described_model(timm.create_model("test_resnet"), "my.module:factory").preprocess  # timm's own
    """
    return first_answer("xai_align_describe_model", LoadedModel, model=model, reference=reference)


def encoder(reference: str, options: dict[str, Any]) -> nn.Module:
    """Build the encoder of a saved PiNet with the first plugin that knows it, third parties first.

    Raises:
        ValueError: no plugin knows it, or the one that does could not build it.
        PluginError: in strict mode, a plugin failed on an encoder that another one could build.

    Example::

        encoder("conv", ConvEncoder(3).options)(images)  # a list of feature maps [2, C, H, W], finest first
    """
    return first_answer_or_raise(
        "xai_align_encoder",
        nn.Module,
        doing=f"cannot build the encoder '{reference}'",
        unknown=f"no plugin knows the encoder '{reference}'; install the package that defines it, or build it "
        "and pass it as encoder=...",
        reference=reference,
        options=options,
    )


def second_look(model: nn.Module, num_classes: int, options: dict[str, Any]) -> nn.Module:
    """Build a PiNet on ``model``, to be trained, with the first plugin that knows the model, third parties first.

    Raises:
        ValueError: no plugin knows it, or the one that does could not build the PiNet.
        PluginError: in strict mode, a plugin failed on a model that another one could take.

    Example::

        backbone = load_model("timm:resnet18@random").model
        second_look(backbone, 10, {"frozen": True})  # a PiNet with 10 classes; only its head is trained
    """
    doing = f"cannot add a second look to {type(model).__name__}"
    return first_answer_or_raise(
        "xai_align_second_look",
        nn.Module,
        doing=doing,
        unknown=f"{doing}: no plugin knows such models; build xai_align.pinet.PiNet(encoder, SecondLookHead(...)) "
        "yourself.",
        model=model,
        num_classes=num_classes,
        options=options,
    )


def classifier(model: nn.Module, num_classes: int, image: Tensor | None = None) -> nn.Module:
    """Return a copy of ``model`` with a new head, from the first plugin that knows it, third parties first.

    Args:
        model: a model; it is not changed.
        num_classes: the number of logits.
        image: ``[1, C, H, W]``, an image that the model accepts. With it, networks that no plugin knows get a new head
            too, where a linear layer makes their logits.

    Raises:
        ValueError: no plugin knows it, or the one that does could not build the copy.
        PluginError: in strict mode, a plugin failed on a model that another one could take.

    Example::

        backbone = load_model("timm:resnet18@random").model
        classifier(backbone, 10)(torch.rand(2, 3, 64, 64))  # [2, 10]
    """
    doing = f"cannot give {type(model).__name__} a head for {counted(num_classes, 'class')}"
    return first_answer_or_raise(
        "xai_align_classifier",
        nn.Module,
        doing=doing,
        unknown=f"{doing}: no plugin knows such models; write the hook xai_align_classifier for it (docs/plugins.md).",
        model=model,
        num_classes=num_classes,
        image=image,
    )


def feature_space(model: nn.Module, layer: str | None = None) -> FeatureSpace | None:
    """Return the feature space of ``model`` at ``layer``; None: the default layer of a readout.

    The first plugin that knows the model answers, third parties first; None: no plugin knows it, or all leave it to
    the structure of the network.

    Raises:
        PluginError: in strict mode, a plugin failed on ``model``.

    Example::

        from xai_align.plugins import feature_space

        feature_space(load_model("timm:resnet18@random").model, "head")  # a FeatureSpace with its layer and layout
    """
    return first_answer("xai_align_feature_space", FeatureSpace, model=model, layer=layer)


def stages(model: nn.Module) -> tuple[str, ...]:
    """Return the names of the modules whose outputs are the stages of ``model``; empty: no plugin knows it.

    Raises:
        PluginError: in strict mode, a plugin failed on ``model``.

    Example::

        stages(load_model("timm:resnet18@random").model)  # ("act1", "layer1", "layer2", "layer3", "layer4")
    """
    return first_answer("xai_align_stages", tuple, model=model) or ()
