"""The plugin contract: eleven hooks and the typed records they return.

A plugin is any module (or object) named in the entry-point group ``xai_align``
that carries functions marked with :data:`hookimpl` and named like the hooks of
:class:`HookSpecs`. Built-ins and our own adapters are loaded through the same
entry points; see ``docs/plugins.md`` for one runnable example per hook.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple, get_args

import pluggy
from torch import Tensor, nn

from xai_align._tools.listed_names import listed_names
from xai_align._tools.model_input import Preprocessing, scale_of

#: The project name for pluggy, and the name of the entry-point group.
PROJECT = "xai_align"
#: A plugin may state the version it was written for: ``XAI_ALIGN_CONTRACT = 1``.
CONTRACT_VERSION = 1

hookspec = pluggy.HookspecMarker(PROJECT)
#: Marks a function as an implementation of one of the hooks.
hookimpl = pluggy.HookimplMarker(PROJECT)

#: Order of the axes of a feature space: N batch, C channels, H and W rows and columns, L tokens.
#: "auto" reads four axes as NCHW and three as NLC.
Layout = Literal["NCHW", "NHWC", "NLC", "NCL", "auto"]


#: The meaning of the numbers in an attribution. "contributions": parts of the answer, in logits. "slopes": derivatives
#: of the answer, whose sum has no meaning. "scores": a ranking; only the order has a meaning.
Values = Literal["contributions", "slopes", "scores"]


#: The meaning of a model's outputs. "classes": one class is right, softmax. "one logit": two classes, of which positive
#: values speak for the second, sigmoid. "multi-label": each output by itself, sigmoid. "regression": numbers in a unit
#: of their own. "dense": logits for every position of the image.
OutputKind = Literal["classes", "one logit", "multi-label", "regression", "dense"]


@dataclass(frozen=True, kw_only=True)
class AttributionSpec:
    """An attribution method that can be run by name.

    Everything that tables, pages and the command line show about a method is stated here; they have no special cases
    for methods.

    Attributes:
        name: the method's name in ``explain``, ``compare`` and on the command line.
        build: ``build(model, **options)`` returns an object with Captum's interface, ``attribute(inputs, target=...)``,
            which returns a tensor of the shape of ``inputs``.
        summary: one line for lists of methods.
        values: the meaning of the map's numbers.
        signed: whether numbers below zero are evidence against the answer (slopes: it falls with the pixel's value),
            so that pictures have two colours. None: those of contributions and slopes are, those of scores are not.
        note: one or two sentences for the reader of a page, such as what the map sums to.
        control: whether the method uses neither model nor question, so that it serves as a control for the others.
        takes_layer: whether ``build`` takes ``layer=``, the layer of the network to explain.
        account: whether the object that is built also has ``read_out(inputs, question, output=None, **options)``,
            which returns a :class:`~xai_align.pinet.Readout`, the exact decomposition of the answer. Its options are
            those of ``attribute``.
        trains: whether building it trains something first.
        by_default: whether a comparison runs it if no methods are named.

    Raises:
        ValueError: ``values`` is not one of :data:`Values`, or a method with ``account`` has other values than
            contributions, or no sign.

    Example::

        class Edges:
            def __init__(self, model):
                pass

            def attribute(self, inputs, target=None):
                return inputs.diff(dim=-1, append=inputs[..., -1:]).abs()

        AttributionSpec(name="edges", build=Edges, summary="size of the image's gradient", values="scores")
    """

    name: str
    build: Callable[..., Any]
    summary: str
    values: Values = "scores"
    signed: bool | None = None
    note: str = ""
    control: bool = False
    takes_layer: bool = False
    account: bool = False
    trains: bool = False
    by_default: bool = False

    def __post_init__(self) -> None:
        if self.values not in get_args(Values):
            known = ", ".join(map(repr, get_args(Values)))
            raise ValueError(f"values of method '{self.name}' is {self.values!r}; it is one of {known}")
        if self.signed is None:
            object.__setattr__(self, "signed", self.values != "scores")
        if self.account and self.values != "contributions":
            raise ValueError(
                f"method '{self.name}' decomposes the answer, so its values are 'contributions', not {self.values!r}"
            )
        if self.account and not self.signed:
            raise ValueError(f"method '{self.name}' decomposes the answer, so its values have a sign; leave out signed")


@dataclass(frozen=True, kw_only=True)
class MetricSpec:
    """A metric of attributions that can be run by name.

    ``evaluate(forward_func, inputs, attributions, *, target=None, **options)``
    returns one value per example, a tensor of shape ``[N]``. ``output_kinds`` are the meanings of a model's outputs for
    which it is defined (:data:`OutputKind`); none: all. ``higher_is_better`` is None for a metric without a better
    direction, in which no method is the best.

    Example::

        def size(forward_func, inputs, attributions, *, target=None):
            return attributions.abs().flatten(1).mean(1)  # [N]

        MetricSpec(name="size", evaluate=size, higher_is_better=False, summary="mean absolute attribution")
    """

    name: str
    evaluate: Callable[..., Tensor]
    higher_is_better: bool | None
    summary: str
    output_kinds: tuple[OutputKind, ...] = ()


@dataclass(frozen=True, kw_only=True)
class TrainingRecipeSpec:
    """A training recipe of ALIGN that can be run by name.

    ``build(**options)`` returns a new :class:`xai_align.align.Recipe`, whose terms no other recipe shares. The named
    parameters of ``build`` are the recipe's options; each has a default. If it also takes ``**classification``, the
    options of :class:`xai_align.align.Classification` are options of the recipe too, and are passed to it. The recipe
    gets the name ``name``, whatever name ``build`` gives it.

    Example::

        def build(label_smoothing=0.1):
            return Recipe(name="smoothed", terms=(Classification(label_smoothing=label_smoothing),))

        TrainingRecipeSpec(name="smoothed", build=build, summary="cross entropy with smoothed labels")
    """

    name: str
    build: Callable[..., Any]
    summary: str


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A model in eval mode with its preprocessing, and what its outputs mean.

    ``preprocess`` turns a PIL image into a tensor ``[C, H, W]``. Functions that return an array, a batch of one
    ``[1, C, H, W]`` or a processor's dictionary with ``"pixel_values"`` are taken too.

    Attributes:
        model: the network.
        preprocess: see above; its results are tensors ``[C, H, W]``.
        class_names: in the order of the outputs, as a list or as a dictionary like ``id2label``. May be empty; classes
            are then referred to by number. Of one logit: the names of its two sides, the negative one first.
        mean: per channel; with ``std``, ``x * std + mean`` is the picture in [0, 1]. None: found from ``preprocess``.
        std: see ``mean``.
        output_kind: the meaning of the outputs; None: classes, and of a single output one logit if there are names for
            its two sides, else a number (regression).
        output_field: which of several outputs are the logits, by field or position; None: the field named "logits", or
            the only floating tensor.
        unit: the unit of a regression's outputs, e.g. ``"years"``.
        random_weights: whether weights are random, so that explanations are of an untrained network.
        configuration: texts of files by name, from which the same plugin rebuilds the architecture and its
            preprocessing: without weights, for the reference ``PREFIX:FOLDER@random`` to a folder of these files. None
            where the reference itself names the architecture.
        notes: remarks for the user on how the model was loaded, one sentence without a full stop each.

    Raises:
        ValueError: the class names or the output kind are not of these forms.

    Example::

        import numpy as np

        def preprocess(picture):
            return torch.from_numpy(np.array(picture.resize((32, 32)))).permute(2, 0, 1) / 255  # [3, 32, 32]

        LoadedModel(model=model, preprocess=preprocess, class_names=("cat", "dog"))
    """

    model: nn.Module
    preprocess: Callable[[Any], Tensor]
    class_names: tuple[str, ...] = ()
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    output_kind: OutputKind | None = None
    output_field: str | int | None = None
    unit: str = ""
    random_weights: bool = False
    configuration: Mapping[str, str] | None = field(default=None, repr=False)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.preprocess, Preprocessing):
            object.__setattr__(self, "preprocess", Preprocessing(self.preprocess))
        object.__setattr__(self, "class_names", listed_names(self.class_names or ()))
        if self.output_kind is not None and self.output_kind not in get_args(OutputKind):
            known = ", ".join(map(repr, get_args(OutputKind)))
            raise ValueError(f"output_kind is {self.output_kind!r}; it is one of {known}")

    @cached_property
    def scale(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """Mean and std of the inputs, per channel; found from the preprocessing where they are not given.

        None: they are not known, as for a preprocessing that scales each image by itself.
        """
        if self.mean is not None or self.std is not None:
            return self.mean or (0.0,), self.std or (1.0,)
        return scale_of(self.preprocess)


@dataclass(frozen=True, kw_only=True)
class InputOptions:
    """Options of a model's input that the user gave; a plugin that loads a model applies and takes them.

    Attributes:
        in_chans: number of channels of the input; None: the model's own.
        img_size: rows and columns of the input; None: the model's own.
        mean: mean with which the input is normalised, per channel; None: the model's own. A plugin may ignore it:
            pictures are drawn with it in any case.
        std: see ``mean``.

    Example::

        options = InputOptions(img_size=(256, 256))
        options.take()  # {"img_size": (256, 256)}
        options.left  # {}
    """

    in_chans: int | None = None
    img_size: tuple[int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    _taken: list[bool] = field(default_factory=list, repr=False, compare=False)

    def take(self) -> dict[str, Any]:
        """Return the options that are given, by name; a plugin that calls this applies them."""
        self._taken.append(True)
        return self._given()

    @property
    def left(self) -> dict[str, Any]:
        """The options that are given and that no plugin has taken."""
        given = {} if self._taken else self._given()
        return {name: value for name, value in given.items() if name not in ("mean", "std")}

    def _given(self) -> dict[str, Any]:
        given = {"in_chans": self.in_chans, "img_size": self.img_size, "mean": self.mean, "std": self.std}
        return {name: value for name, value in given.items() if value is not None}


class Split(NamedTuple):
    """A model cut in two at a feature space: ``model(x) == head(features(x))``.

    Example::

        head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
        split = Split(features=nn.Conv2d(3, 8, 3), head=head)
        split.head(split.features(images))  # [2, 10]
    """

    features: Callable[..., Any]
    head: Callable[[Any], Tensor]


@dataclass(frozen=True, kw_only=True)
class FeatureSpace:
    """Layer at which a readout is taken, and the position of its coordinates in the image.

    Attributes:
        layer: dotted name(s) of the module(s) whose output is ``z``, or ``"input"``.
        layout: order of the axes of ``z`` (of every tensor of ``z``).
        prefix_tokens: leading tokens of an ``NLC`` space that have no position in the image.
        suffix_tokens: the same, at the end.
        split: the model cut in two at this space, where that is possible (``layer`` is then only
            a name for it); the head can be probed and replayed without the rest.
        grid: for token layouts, ``grid((H, W), L)`` returns the number of rows and columns of the
            ``L`` tokens without prefix and suffix; None: proportional to the image.
        to_raster: reorders cells ``[N, L]`` of tokens (prefix and suffix left out) into row-by-row
            order; None: they are in this order.

    Example::

        FeatureSpace(layer="blocks.11", layout="NLC", prefix_tokens=1)  # a vision transformer with a class token
    """

    layer: str | tuple[str, ...]
    layout: Layout = "auto"
    prefix_tokens: int = 0
    suffix_tokens: int = 0
    split: Split | None = field(default=None, repr=False)
    grid: Callable[[tuple[int, int], int], tuple[int, int]] | None = field(default=None, repr=False)
    to_raster: Callable[[Tensor], Tensor] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        names = self.layer if isinstance(self.layer, tuple) else (self.layer,)
        if not names or not all(isinstance(name, str) for name in names):
            raise TypeError(
                f"layer of a FeatureSpace is {self.layer!r}; give a layer's dotted name, or a tuple of names"
            )

    def patches(self, tokens: int) -> slice:
        """Return the indices of the tokens with a position in the image."""
        return slice(self.prefix_tokens, tokens - self.suffix_tokens)


class HookSpecs:
    """The eleven hooks. Arguments may be added in later versions, never removed."""

    @hookspec
    def xai_align_attributions(self) -> list[AttributionSpec]:  # type: ignore[empty-body]
        """Return the attribution methods that this plugin offers."""

    @hookspec
    def xai_align_metrics(self) -> list[MetricSpec]:  # type: ignore[empty-body]
        """Return the metrics that this plugin offers."""

    @hookspec
    def xai_align_conformance_checks(self) -> list[Any]:  # type: ignore[empty-body]
        """Return checks that :func:`~xai_align.testing.check_attribution` runs in addition to its own.

        Each is a :class:`~xai_align.testing.Check`, for conventions of an ecosystem.
        """

    @hookspec
    def xai_align_training_recipes(self) -> list[TrainingRecipeSpec]:  # type: ignore[empty-body]
        """Return the training recipes that this plugin offers."""

    @hookspec(firstresult=True)
    def xai_align_load_model(self, reference: str, trust: bool, options: InputOptions) -> LoadedModel | None:
        """Return the model that ``reference`` names, or None if this plugin does not know this form of reference.

        ``trust``: whether a file that the reference points to may name code that is then run. ``options``: the user's
        options of the model's input; a plugin that applies them calls ``options.take()``.
        """

    @hookspec(firstresult=True)
    def xai_align_describe_model(self, model: nn.Module, reference: str) -> LoadedModel | None:
        """Return a bare model with the preprocessing and class names of its ecosystem; None for those of others.

        ``model`` was returned by the function that ``reference``, ``package.module:function``, names; the record has
        this very model.
        """

    @hookspec(firstresult=True)
    def xai_align_feature_space(self, model: nn.Module, layer: str | None) -> FeatureSpace | None:
        """Return the feature space of ``model`` at ``layer``, a module's name.

        Further values of ``layer``: None: the default layer of a readout, for networks that should not be read at the
        layer that follows from their structure (:func:`~xai_align.pinet.default_layers`); ``"head"``: the head's input;
        ``"patch embedding"``: where evidence enters a network of tokens. None if this plugin does not know the model,
        or leaves the choice to the structure.
        """

    @hookspec(firstresult=True)
    def xai_align_stages(self, model: nn.Module) -> tuple[str, ...] | None:
        """Return the names of the modules whose outputs are the stages of ``model``, in order; None if it is not known.

        A metric of hidden layers records these outputs.
        """

    @hookspec(firstresult=True)
    def xai_align_encoder(self, reference: str, options: dict[str, Any]) -> nn.Module | None:
        """Build the encoder of a saved PiNet, without its weights; None if this plugin does not know it.

        ``reference`` and ``options`` are the attributes of these names that the encoder had when it was
        saved, and come from a file: check them. Only ``timm:NAME`` and, where the user trusts the file,
        ``package:name`` are passed. The encoder maps images ``[N, C, H, W]`` to a list of feature maps, finest
        first; its attribute ``channels`` gives the number of channels of each.
        """

    @hookspec(firstresult=True)
    def xai_align_second_look(self, model: nn.Module, num_classes: int, options: dict[str, Any]) -> nn.Module | None:
        """Build a :class:`~xai_align.pinet.PiNet` on ``model``, to be trained; None if this plugin does not know it.

        ``options`` are those of :class:`~xai_align.pinet.SecondLookHead`, and ``frozen``: whether the weights of the
        model itself are frozen.
        """

    @hookspec(firstresult=True)
    def xai_align_classifier(self, model: nn.Module, num_classes: int, image: Tensor | None) -> nn.Module | None:
        """Return a copy of ``model`` with a new head of ``num_classes`` logits, to be trained.

        ``model`` itself is not changed. The head's initial weights are drawn from PyTorch's random state. ``image`` is
        one that the model accepts, ``[1, C, H, W]``, or None. None if this plugin does not know the model.
        """
