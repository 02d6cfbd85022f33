"""Attribution methods with the constructor and the call of pytorch-grad-cam's classes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from typing import Any, ClassVar, TypeAlias

import numpy as np
import torch
from pytorch_grad_cam.activations_and_gradients import ActivationsAndGradients
from pytorch_grad_cam.base_cam import BaseCAM
from pytorch_grad_cam.utils.image import scale_cam_image
from torch import Tensor, nn

from gradcam_align.first_component import channel_sum, first_component
from gradcam_align.target_question import predicted_class, questions_of
from gradcam_align.target_scores import TargetScores, is_one_for_each
from gradcam_align.transformed_space import transformed_space
from xai_align import plugins
from xai_align.adapter_tools import callers_level, check_evaluation_mode, check_not_empty, restores_thread_state
from xai_align.explanation import logits_of
from xai_align.features.routes import layer_name
from xai_align.features.unwrapping import unwrapped
from xai_align.hookspecs import FeatureSpace
from xai_align.question import Question, TargetError, ask

#: Function from a map with channels ``[N, C, h, w]`` to one without, ``[N, h, w]``.
Combine: TypeAlias = Callable[[Tensor], Tensor]
#: Layer of a method; None: its default.
Place: TypeAlias = str | FeatureSpace | None
#: Mirroring and brightness factor of each version of the image, for ``aug_smooth``.
AUGMENTATIONS = tuple(product((False, True), (0.9, 1.0, 1.1)))


class AttributionCAM(BaseCAM):
    """Attribution method, by name, as a CAM of pytorch-grad-cam.

    It replaces a ``BaseCAM`` anywhere (``RefineCAM``, ``SESS``, ``FinerCAM``, the metrics). The model is not
    changed: no hooks are set, it isn't switched to eval mode (a model in train mode is an error), and its
    gradients are not modified. A subclass only needs ``method = "name"``.

    Args:
        model: the network, which may be compiled or data-parallel.
        target_layers: the method's layers: modules of the model, their names, or ``FeatureSpace`` records.
            None or ``[]``: the method's default. With several, their maps are averaged.
        reshape_transform: a function that rearranges a layer's output to ``[N, C, h, w]``; it is used for
            ``target_layers``. It is not needed: tokens and channels-last maps are recognised.
        method: a name from ``xai-align methods``.
        **options: options of the method, as in
            ``xai_align.plugins.attribution_method(method).build(model, **options)``.

    Attributes:
        outputs: the logits of the last call, ``[B, ...]``.

    Raises:
        TypeError: the model is not an ``nn.Module``.
        ValueError: there is no such method, or a target layer is not a module of the model; or, in the call, the
            ``reshape_transform`` computes with the values instead of rearranging them.

    Example::

        with AttributionCAM(model, method="integrated_gradients") as cam:
            picture = cam(images, [281, 282])  # numpy [2, 32, 32], in [0, 1]
    """

    method: ClassVar[str] = ""

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[Any] | None = None,
        reshape_transform: Callable[..., Any] | None = None,
        *,
        method: str | None = None,
        **options: Any,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"a CAM needs a torch.nn.Module, got {type(model).__name__}")
        # BaseCAM.__init__ is not run: it switches the model to eval mode and puts hooks on its layers
        self.model = model
        if isinstance(target_layers, str | nn.Module | FeatureSpace):
            raise TypeError(f"target_layers is a {type(target_layers).__name__}; give a list: target_layers=[...]")
        self.target_layers = list(target_layers or [])
        self.reshape_transform = reshape_transform
        self.compute_input_gradient, self.uses_gradients, self.detach = False, False, True
        self.activations_and_grads = ActivationsAndGradients(model, [], None)  # SESS releases it, FinerCAM runs it
        self.outputs: Tensor | None = None
        self._name = method or self.method
        self._options = options
        self._places = [_place(model, layer) for layer in self.target_layers] or [None]
        self._methods = self._build()

    @property
    def device(self) -> torch.device:
        """Return the model's device."""
        return next((p.device for p in self.model.parameters()), torch.device("cpu"))

    @restores_thread_state
    def attributions(self, input_tensor: Tensor, targets: Any = None) -> Tensor:
        """Return the signed map ``[B, H, W]`` behind the scaled one, in the method's own unit.

        Channels are summed, and several target layers averaged. The map is detached and on the device
        of ``input_tensor``.

        Args:
            input_tensor: images ``[B, C, H, W]``.
            targets: as in the call.

        Raises:
            TargetError: the targets do not fit the batch or the output.
            ValueError: inputs or model are not suitable for the method, or the model is in train mode.
        """
        maps = self._maps(input_tensor, targets, channel_sum)
        return torch.stack(maps).mean(0).to(input_tensor.device)

    @restores_thread_state
    def __call__(
        self, input_tensor: Tensor, targets: Any = None, aug_smooth: bool = False, eigen_smooth: bool = False
    ) -> np.ndarray:
        """Return the positive part of :meth:`attributions`, each image scaled to 0..1.

        Args:
            input_tensor: images ``[B, C, H, W]``.
            targets: one per image (or one for all): targets of pytorch-grad-cam, ints,
                ``xai_align.Question``; or any target of Captum; None: the predicted class.
            aug_smooth: average over the image and its mirror image, each at three brightness levels.
            eigen_smooth: the first principal component over channels instead of their sum.

        Returns:
            numpy float32 ``[B, H, W]``.

        Raises:
            TargetError: the targets do not fit the batch or the output.
            ValueError: inputs or model are not suitable for the method, or the model is in train mode.
        """
        smooth = self.forward_augmentation_smoothing if aug_smooth else self.forward
        return smooth(input_tensor, targets, eigen_smooth)

    @restores_thread_state
    def forward(self, input_tensor: Tensor, targets: Any = None, eigen_smooth: bool = False) -> np.ndarray:
        """Run the call without augmentation."""
        return self.aggregate_multi_layers(self.compute_cam_per_layer(input_tensor, targets, eigen_smooth))

    @restores_thread_state
    def compute_cam_per_layer(self, input_tensor: Tensor, targets: Any, eigen_smooth: bool) -> list[np.ndarray]:
        """Return the scaled map of each target layer, ``[B, 1, H, W]``, for ``FinerCAM``."""
        maps = self._maps(input_tensor, targets, first_component if eigen_smooth else channel_sum)
        return [scaled_positive(one)[:, None].float().cpu().numpy() for one in maps]

    @restores_thread_state
    def forward_augmentation_smoothing(
        self, input_tensor: Tensor, targets: Any = None, eigen_smooth: bool = False
    ) -> np.ndarray:
        """Return the mean map of six versions of each image, scaled to 0..1, all for the original image's class."""
        check_evaluation_mode(self.model)
        with torch.inference_mode(False):
            logits = logits_of(self.model, self._images(input_tensor))
        asked = _fixed(questions_of(targets, len(input_tensor)), logits)
        pictures = []
        for mirrored, factor in AUGMENTATIONS:
            image = input_tensor.flip(-1) if mirrored else input_tensor
            picture = self.forward(image * factor, asked, eigen_smooth)
            pictures.append(picture[..., ::-1] if mirrored else picture)
        self.outputs = logits
        return scale_cam_image(np.mean(pictures, axis=0))

    def __enter__(self) -> AttributionCAM:
        return self

    def __exit__(self, exc_type: Any, exc_value: Any, exc_tb: Any) -> None:
        """Do nothing; there is nothing to close, and exceptions propagate."""

    #: There is nothing to release. A finaliser in Python could swallow an interrupt, so this is not one.
    __del__ = object.__init__

    def _build(self) -> list[Any]:
        """Return the method, once per layer."""
        spec = plugins.attribution_method(self._name)
        if self._places != [None] and not spec.takes_layer:
            warnings.warn(
                f"the method '{self._name}' takes no layer: target_layers make no difference",
                stacklevel=callers_level(),
            )
            self._places = [None]
        return [spec.build(self.model, **self._built_with(place)) for place in self._places]

    def _resolved(self, images: Tensor) -> list[Place]:
        """Return the layers, with the positions that ``reshape_transform`` gives them for images of this size."""
        transform = self.reshape_transform
        if transform is None or self._places == [None]:
            return self._places
        return [
            place if place is None else transformed_space(self.model, place, images[:1], transform)
            for place in self._places
        ]

    def _built_with(self, place: Place) -> dict[str, Any]:
        return self._options if place is None else {**self._options, "layer": place}

    def _maps(self, input_tensor: Tensor, targets: Any, combine: Combine) -> list[Tensor]:
        """Return signed maps ``[B, H, W]`` on the model's device, one per layer, and set ``outputs``."""
        check_evaluation_mode(self.model)
        images = self._images(input_tensor)
        with torch.inference_mode(False):
            places = self._resolved(images)
            questions = questions_of(targets, len(images))
            try:
                maps = self._explained(images, questions, combine, places)
            except TypeError:  # the output is no tensor
                detected = self._detections(images)
                if detected is None:
                    raise
                maps = self._of_detections(detected, images, targets, combine, places)
        for one, place in zip(maps, places, strict=True):
            _warn_of_nothing(one, self._name, place)
        return maps

    def _explained(
        self, images: Tensor, questions: list[Question], combine: Combine, places: list[Place]
    ) -> list[Tensor]:
        self.outputs = logits_of(self.model, images)
        questions = _fixed(questions, self.outputs)
        methods = self._methods
        if places is not self._places:
            spec = plugins.attribution_method(self._name)
            methods = [spec.build(self.model, **self._built_with(place)) for place in places]
        return [
            combine(self._attributed(method, place, images, questions))
            for method, place in zip(methods, places, strict=True)
        ]

    def _detections(self, images: Tensor) -> Any:
        """Return the model's output if it is a list of records, one for each image, else None."""
        with torch.no_grad():
            output = self.model(images.clone())
        return output if is_one_for_each(output, len(images)) else None

    def _of_detections(
        self, detected: Any, images: Tensor, targets: Any, combine: Combine, places: list[Place]
    ) -> list[Tensor]:
        """Return the maps of a detector's images, one by one; targets are functions of one image's record."""
        given = list(targets) if isinstance(targets, list | tuple) else [targets]
        if len(given) != len(images) or not all(map(callable, given)):
            raise TargetError(
                "the model returns a list of records, one for each image; give as many functions of such a record as "
                "targets, e.g. FasterRCNNBoxScoreTarget"
            )
        self.outputs = detected
        spec = plugins.attribution_method(self._name)
        if spec.account:
            raise ValueError(
                "a detector selects its boxes by non-maximum suppression, which has no exact readout; use "
                f"AttributionCAM(model, target_layers, method='eigencam') or another method in place of '{self._name}'"
            )
        maps = []
        for place in places:
            rows = []
            for number, target in enumerate(given):
                scores = TargetScores(self.model, [target])
                method = spec.build(scores, **self._built_with(_inside(place)))
                rows.append(combine(method.attribute(images[number : number + 1], target=None).detach()))
            maps.append(torch.cat(rows))
        return maps

    def _attributed(self, method: Any, place: Place, images: Tensor, questions: list[Question]) -> Tensor:
        spec = plugins.attribution_method(self._name)
        classes = [_one_class(question) for question in questions]
        if None not in classes:  # a form that every method takes
            return method.attribute(images, target=classes).detach()
        if spec.trains:  # not repeated for these questions
            return method.attribute(images, target=questions).detach()
        asked, target = ask(self.model, questions, len(images))
        return spec.build(asked, **self._built_with(place)).attribute(images, target=target).detach()

    def _images(self, input_tensor: Tensor) -> Tensor:
        """Return an ordinary copy on the model's device, even of an inference tensor."""
        if not isinstance(input_tensor, Tensor) or input_tensor.dim() not in (4, 5):
            found = list(input_tensor.shape) if isinstance(input_tensor, Tensor) else type(input_tensor).__name__
            raise ValueError(f"a CAM explains a batch of images [B, C, H, W], got {found}; volumes [B, C, D, H, W] too")
        check_not_empty([input_tensor])
        with torch.inference_mode(False):
            return input_tensor.detach().to(self.device).clone()


def _inside(place: Place) -> Place:
    """Return a layer of the model as a layer of its :class:`TargetScores`."""
    if isinstance(place, FeatureSpace):
        names = (place.layer,) if isinstance(place.layer, str) else place.layer
        inner = tuple(f"model.{name}" for name in names)
        return replace(place, layer=inner[0] if isinstance(place.layer, str) else inner, split=None)
    return place if place is None or place == "input" else f"model.{place}"


def _place(model: nn.Module, layer: Any) -> Place:
    """Return a module's name, which is also valid for a copy of the model."""
    return layer_name(unwrapped(model)[0], layer) if isinstance(layer, nn.Module) else layer


def _fixed(questions: list[Question], logits: Tensor) -> list[Question]:
    """Replace questions about the predicted class by the class's index."""
    rows = [row.reshape(-1) for row in logits]
    return [
        Question.why(int(row.argmax())) if getattr(question, "target", None) is predicted_class else question
        for question, row in zip(questions, rows, strict=True)
    ]


def _one_class(question: Question) -> int | tuple[int, ...] | None:
    """Return the class of a question about a single class, in Captum's form."""
    if type(question) is not Question or len(question.targets) != 1 or question.foils != ():
        return None
    index = question.targets[0]
    return index[0] if len(index) == 1 else index or None


def scaled_positive(maps: Tensor) -> Tensor:
    """Return positive parts ``[B, H, W]``, each image scaled to 0..1; an image without positive parts is zero."""
    positive = maps.clamp(min=0).flatten(1)
    positive = positive - positive.amin(1, keepdim=True)
    top = positive.amax(1, keepdim=True)
    return (positive / torch.where(top > 0, top, 1)).reshape(maps.shape)


def _warn_of_nothing(maps: Tensor, method: str, place: Place) -> None:
    empty = (maps == 0).flatten(1).all(1).nonzero().flatten().tolist()
    if empty:
        where = f" at '{place.layer if isinstance(place, FeatureSpace) else place}'" if place else ""
        warnings.warn(
            f"'{method}' gives a map of zeros for image(s) {empty}{where}. If only a class token goes on from there to "
            "the head, leave target_layers out or choose an earlier layer",
            stacklevel=callers_level(),
        )
