"""Built-in plugin of the core: methods, controls, metrics, training recipes, the convolutional encoder, factories.

A reference ``package.module:factory`` is imported and called without arguments, or with the user's ``img_size`` and
``in_chans`` if it has parameters of these names. The factory returns a :class:`~xai_align.LoadedModel`, or a bare
module, which is then put in eval mode. A bare module gets the preprocessing that an adapter knows for it; if none does,
plain RGB pictures in [0, 1]. Weights that are random when the factory returns are reported.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial, reduce
from importlib import import_module
from inspect import signature
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from xai_align._tools.did_you_mean import did_you_mean
from xai_align._tools.files.fields import check_fields
from xai_align._tools.files.references import FACTORY, importing_a_reference
from xai_align._tools.random_weights import following_weights, random_note
from xai_align.hookspecs import (
    AttributionSpec,
    InputOptions,
    LoadedModel,
    MetricSpec,
    TrainingRecipeSpec,
    hookimpl,
)
from xai_align.plugins.models import described_model
from xai_align.plugins.plugin_problems import PLUGIN_ERRORS, describe_error

if TYPE_CHECKING:
    from collections.abc import Callable


#: Note on a model of which nothing but the network is known.
PLAIN_PICTURES = (
    "the model's preprocessing is not known, so pictures are neither resized nor normalised; return a "
    "xai_align.LoadedModel from the function to say how"
)
#: Prefixes of references that other plugins know.
_OTHERS = ("timm:", "torchvision:", "hf:")
#: Names of the methods of this project.
PINET, FEI, FEI_NESTED, FEI_BOTH = "pinet", "fei", "fei-nested", "fei-both"
ALIGN, CLIPPED_GRADIENT = "align", "clipped-gradient"
FEI_AMORTISED = "fei-amortised"


def _build_pinet(model: Any, layer: Any = None, **options: Any) -> Any:
    from xai_align.pinet.method import PiNetMethod

    return PiNetMethod(model, layer, **options)


def _build_fei(model: Any, **options: Any) -> Any:
    from xai_align.fei import FEIMethod

    return FEIMethod(model, **options)


def _build_amortised_fei(model: Any, explainer: Any = None, **options: Any) -> Any:
    from xai_align.fei import AmortisedFEI
    from xai_align.fei.amortised.reference import explainer_of

    return AmortisedFEI(model, explainer_of(model) if explainer is None else explainer, **options)


def _build_align(model: Any, masker: Any = None, **options: Any) -> Any:
    from xai_align.align.masker_file import find_masker
    from xai_align.align.method import ALIGNMethod
    from xai_align.align.saved_fit import masker_of

    given = masker_of(model) if masker is None else masker
    return ALIGNMethod(None if given is None else find_masker(given, network=model), **options)


def _build_clipped_gradient(model: Any, **options: Any) -> Any:
    from xai_align.fei import ClippedGradientMethod

    return ClippedGradientMethod(model, **options)


#: The exact readout, FEI and ALIGN. Their code is imported when one is built.
METHODS = [
    AttributionSpec(
        name=PINET,
        build=_build_pinet,
        summary="exact readout: contributions that sum to the answer",
        values="contributions",
        takes_layer=True,
        account=True,
        by_default=True,
    ),
    AttributionSpec(
        name=FEI,
        build=_build_fei,
        summary="a map optimised for its insertion and deletion curves (100 passes)",
        note="The map of fei is centred on its mean: below zero is less relevant than the mean, not evidence against.",
    ),
    AttributionSpec(
        name=FEI_NESTED,
        build=partial(_build_fei, solver="nested"),
        summary="nested masks, optimised one after another, as published (500 passes)",
    ),
    AttributionSpec(
        name=FEI_BOTH,
        build=partial(_build_fei, solver="both"),
        summary="mean of the maps of fei and of nested masks with a tenth of the steps (150 passes)",
        note=(
            "The map of fei-both is centred on its mean: below zero is less relevant than the mean, not evidence "
            "against."
        ),
    ),
    AttributionSpec(
        name=FEI_AMORTISED,
        build=_build_amortised_fei,
        summary="the map of fei from a network fitted to this model; one pass (explainer=FILE, or fei:FILE)",
        note=(
            "The map of fei-amortised is centred on its mean: below zero is less relevant than the mean, not evidence "
            "against."
        ),
    ),
    AttributionSpec(
        name=ALIGN,
        build=_build_align,
        summary="the mask of a trained masker, the same for every class; one pass (masker=FILE, or align:FOLDER)",
        note="The mask of align is the same for every question: the masker's only input is the image, not the class.",
    ),
    AttributionSpec(
        name=CLIPPED_GRADIENT,
        build=_build_clipped_gradient,
        summary="mean clipped gradient along the paths from two solid colours to the image; nothing is optimised",
        values="slopes",
        note=(
            "The map of clipped-gradient holds slopes of the answer along the paths from solid colours to the "
            "image, clipped so that the computation is not rerouted. Their sum has no meaning."
        ),
    ),
]


@hookimpl
def xai_align_attributions() -> list[AttributionSpec]:
    """Return the methods of this project, and the controls for comparison."""
    from xai_align.evaluation.controls import CONTROLS

    return [*METHODS, *CONTROLS]


@hookimpl
def xai_align_metrics() -> list[MetricSpec]:
    """Return the metrics of :mod:`xai_align.evaluation`."""
    from xai_align.evaluation.standard_metrics import METRICS

    return METRICS


@hookimpl
def xai_align_training_recipes() -> list[TrainingRecipeSpec]:
    """Return ALIGN and the recipes that it is compared with, from :mod:`xai_align.align.recipes`."""
    from xai_align.align.recipes import RECIPES

    return RECIPES


@hookimpl
def xai_align_load_model(reference: str, trust: bool, options: InputOptions | None = None) -> LoadedModel | None:
    """Load ``pinet:FOLDER``, ``align:FOLDER``, ``fei:FILE`` or the result of a factory; None for others.

    Raises:
        ValueError: the folder or file can't be used, the module cannot be imported, or the factory is missing, fails or
            returns no model.
    """
    if reference.startswith("pinet:"):
        from xai_align.pinet.network.reference import load_pinet

        try:
            return load_pinet(reference, trust=trust)
        except FileNotFoundError as error:
            raise ValueError(str(error)) from error
    if reference.startswith("align:"):
        from xai_align.align.saved_fit import load_fit

        return load_fit(reference, trust=trust)
    if reference.startswith("fei:"):
        from xai_align.fei.amortised.reference import load_explained

        return load_explained(reference, trust=trust)
    match = FACTORY.fullmatch(reference)
    if match is None or reference.startswith(_OTHERS):
        return None
    module_name, factory_name = match.groups()
    with importing_a_reference(), following_weights() as origins:
        factory = _find_factory(module_name, factory_name)
        made = _call(factory, reference, _accepted(factory, options))
    loaded = _as_loaded(made, reference)
    random = origins.random_weights(loaded.model)
    if not random or loaded.random_weights:
        return loaded
    return replace(loaded, random_weights=True, notes=(random_note(loaded.model, random), *loaded.notes))


@hookimpl(trylast=True)
def xai_align_classifier(model: nn.Module, num_classes: int, image: Tensor | None = None) -> nn.Module | None:
    """Replace the linear layer that computes the logits, found by running the model; None without an image."""
    if image is None:
        return None
    from xai_align.features.new_head import with_new_head

    return with_new_head(model, num_classes, image)


@hookimpl
def xai_align_encoder(reference: str, options: dict[str, Any]) -> nn.Module | None:
    """Build the :class:`~xai_align.pinet.ConvEncoder` for ``conv``; None for other references."""
    from xai_align.pinet.network.conv_detector import ConvEncoder
    from xai_align.pinet.network.saved_config import CONV_OPTIONS

    if reference != ConvEncoder.reference:
        return None
    check_fields(options, CONV_OPTIONS, "encoder.options")
    return ConvEncoder(**options)


def _accepted(factory: Callable[..., Any], options: InputOptions | None) -> dict[str, Any]:
    """Return the user's options that the factory has parameters for."""
    if options is None or not options.left:
        return {}
    try:
        known = set(signature(factory).parameters)
    except (TypeError, ValueError):  # a builtin without a signature
        known = set()
    return (
        {name: value for name, value in options.take().items() if name in known} if set(options.left) <= known else {}
    )


def _find_factory(module_name: str, factory_name: str) -> Callable[..., Any]:
    try:
        factory = reduce(getattr, factory_name.split("."), _import(module_name))
    except AttributeError as error:
        names = [name for name, value in vars(import_module(module_name)).items() if callable(value)]
        raise ValueError(
            f"module '{module_name}' has no '{factory_name}'{did_you_mean(factory_name, names)} "
            "Name a function of that module that returns the model"
        ) from error
    if isinstance(factory, (nn.Module, LoadedModel)) or not callable(factory):
        raise ValueError(
            f"'{module_name}:{factory_name}' is a {type(factory).__name__}, not a function; "
            "write a function without arguments that makes and returns the model, and name that"
        )
    return factory


def _import(module_name: str) -> Any:
    try:
        return import_module(module_name)
    except PLUGIN_ERRORS as error:
        if _is_missing(error, module_name):
            advice = "install it, or put the folder that holds it on PYTHONPATH"
        else:
            advice = "the module is there but cannot be imported; `python -c 'import ...'` shows where it fails"
        raise ValueError(f"importing '{module_name}' raised {describe_error(error)}; {advice}") from error


def _is_missing(error: BaseException, module_name: str) -> bool:
    """Check that the missing module is the named one (or a package above it), not one that it imports."""
    return isinstance(error, ModuleNotFoundError) and f"{module_name}.".startswith(f"{error.name}.")


def _call(factory: Callable[..., Any], reference: str, options: dict[str, Any]) -> Any:
    try:
        return factory(**options)
    except PLUGIN_ERRORS as error:
        raise ValueError(
            f"calling '{reference}' without arguments raised {describe_error(error)}; it must make the model on its own"
        ) from error


def _as_loaded(made: Any, reference: str) -> LoadedModel:
    if isinstance(made, LoadedModel):
        return made  # the caller's record; its model is left in the mode it was given in
    if isinstance(made, nn.Module):
        made = made.eval()
        return described_model(made, reference) or LoadedModel(
            model=made, preprocess=_picture_to_tensor, notes=(PLAIN_PICTURES,)
        )
    raise ValueError(
        f"'{reference}' returned an object of type {type(made).__name__}; "
        "return a torch.nn.Module, or a xai_align.LoadedModel to bring preprocessing and class names"
    )


def _picture_to_tensor(picture: Any) -> Tensor:
    """Convert a PIL image to ``[3, H, W]`` in [0, 1], neither resized nor normalised."""
    pixels = torch.from_numpy(np.array(picture.convert("RGB")))
    return pixels.permute(2, 0, 1).contiguous().to(torch.float32) / 255
