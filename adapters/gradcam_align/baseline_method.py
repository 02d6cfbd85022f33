"""Methods of pytorch-grad-cam as baselines: Captum's call, the input's shape, run on a copy of the model."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gradcam_align.baseline_specs import SPECS, BaselineSpec
from gradcam_align.finer import finer_questions
from gradcam_align.plain_attention import PlainAttention
from xai_align.adapter_tools import (
    callers_level,
    check_evaluation_mode,
    check_not_empty,
    fixed_random_state,
    restores_thread_state,
    select_logits,
)
from xai_align.features.cut_network import CutNetwork
from xai_align.features.resolve_layer import Layer, resolve_layer
from xai_align.features.unwrapping import unwrapped
from xai_align.hookspecs import FeatureSpace
from xai_align.pinet.input_checks import check_logits, forward_arguments, named_gradient_errors
from xai_align.question import Question, QuestionModel, TargetError, answers, as_questions

#: Largest number of rows of a positions-by-positions matrix: 400 MB in float32.
MOST_POSITIONS = 10_000
#: Methods whose formula in the package is defined for volumes too.
OF_VOLUMES = ("gradcam", "hirescam", "layercam", "gradcamelementwise", "finercam")
#: Options of Finer-CAM's call in the package: alpha, and the number of classes to compare with.
FINER_OPTIONS = {"alpha": 1.0, "comparisons": 3}


class BaselineMethod:
    """Method of pytorch-grad-cam, with Captum's call.

    The formula is the package's; activations and gradients are those of the plugins' feature space, on the right
    axes, without hooks on the model. The map is the package's before scaling to 0..1: positive parts, upsampled
    bilinearly, summed over the tensors of a feature space. The channels of a pixel get equal parts of it.

    Args:
        forward_func: an ``nn.Module`` on one batch of images, or a ``QuestionModel`` of one.
        name: the method's name.
        layer: a layer's name or module, or a ``FeatureSpace``. None: a retrofit's own feature space; else the head's
            input; before a class token the last layer whose patch tokens affect the answer (in a ViT, the last block's
            first norm); else the last ``Conv2d``.
        **options: options of the package's class, e.g. ``kernel="rbf"`` for ``kpcacam``.

    Raises:
        TypeError: the model is not an ``nn.Module``, or the method has no such option.
    """

    #: Attribute that Captum's code uses.
    multiplies_by_inputs = True

    def __init__(self, forward_func: Any, name: str, layer: Layer = None, **options: Any) -> None:
        if not isinstance(forward_func, nn.Module):
            raise TypeError(f"{name} needs a torch.nn.Module, got {type(forward_func).__name__}")
        self.forward_func = forward_func
        self.name = name
        self.layer = layer
        self.spec = SPECS[name]
        known = (*FINER_OPTIONS,) if name == "finercam" else self.spec.options
        unknown = [option for option in options if option not in known]
        if unknown:
            has = f"it has {', '.join(known)}" if known else "it has none but layer"
            raise TypeError(f"{name} has no option {', '.join(map(repr, unknown))}; {has}")
        self.options = options

    @restores_thread_state
    @torch.no_grad()  # a decorator also leaves `__wrapped__`, which Captum's NoiseTunnel calls
    def attribute(
        self, inputs: Tensor | tuple[Tensor, ...], target: Any = None, additional_forward_args: Any = None
    ) -> Any:
        """Return the map in the shape of ``inputs``, detached.

        Args:
            inputs: images ``[N, C, H, W]``, or a tuple of one such tensor; for :data:`OF_VOLUMES` also volumes
                ``[N, C, D, H, W]``.
            target: any target of Captum's methods, numpy integers and arrays, or an ``xai_align.Question``.
            additional_forward_args: further arguments of the model.

        Raises:
            TargetError: (an AssertionError) the target does not fit the output.
            ValueError: the inputs are not images, the layer has no positions in the image, the model is in train
                mode, or the method's formula gives NaN or infinity.
        """
        images = one_batch_of_images(self.name, inputs)
        extra = forward_arguments(additional_forward_args)
        model, questions = _asked(self.forward_func, target, len(images))
        check_evaluation_mode(model)
        if self.spec.keeps_graph and images.dtype in (torch.bfloat16, torch.float16):
            raise ValueError(f"{self.name} is not computed in {images.dtype}; convert model and inputs with .float()")
        with ExitStack() as stack:
            stack.enter_context(named_gradient_errors())
            stack.enter_context(torch.inference_mode(False))
            if self.spec.draws:  # kernel PCA starts from a random vector
                stack.enter_context(fixed_random_state())
            if self.spec.keeps_graph:
                stack.enter_context(PlainAttention())
            images = images.detach().clone()
            space = resolve_layer(self.forward_func, self.layer, purpose="gradient", image=images[:1])
            size = 1 if self.spec.runs_network else len(images)
            parts = [
                self._maps(_Network(model, space, _rows(extra, here, len(images)), images.dtype), images[here], some)
                for here, some in _batches(questions, size)
            ]
        maps = torch.cat(parts).to(images.dtype)
        _check_finite(maps, self.name)
        attributions = (maps.unsqueeze(1) / images.shape[1]).expand_as(images).contiguous()
        return (attributions,) if isinstance(inputs, tuple) else attributions

    def _maps(self, network: _Network, images: Tensor, questions: list[Question]) -> Tensor:
        """Return maps ``[N, H, W]``, on the images' device."""
        total = images.new_zeros((len(images), *images.shape[2:]), dtype=torch.float32)
        while network.part == 0 or network.part < network.parts:  # their number is known after the first pass
            cells = self._cells(network, images, questions).clamp(min=0)
            size = tuple(images.shape[2:])
            mode = "trilinear" if len(size) == 3 else "bilinear"
            total = total + nn.functional.interpolate(cells[:, None], size, mode=mode)[:, 0].to(total.device)
            network.part += 1
        return total

    def _cells(self, network: _Network, images: Tensor, questions: list[Question]) -> Tensor:
        """Return the package's map before ReLU and scaling, ``[N, h, w]`` float32 on the CPU."""
        kept: list[Tensor] = []
        handle = network.here.register_forward_hook(lambda module, args, output: kept.append(output))
        with torch.set_grad_enabled(self.spec.gradients):
            logits = check_logits(select_logits(network(images)))
        handle.remove()
        (z,) = kept
        questions = self._posed(questions, logits.detach())
        _check_positions(self.name, self.spec, z)
        gradients: Any = None
        with torch.set_grad_enabled(self.spec.gradients):
            answer = answers(questions, logits)  # even where it isn't needed: a wrong target is an error
            if self.spec.gradients:
                if network.parts > 1 and not answer.requires_grad:  # another of the tensors is what it depends on
                    return torch.zeros(len(z), *z.shape[2:])
                gradients = _gradients(answer, z, network.space, keeps_graph=self.spec.keeps_graph)
        given = (z, gradients) if self.spec.keeps_graph else (_numbers(z), _numbers(gradients))
        return self._by_the_package(network, images, questions, *given)

    def _by_the_package(
        self, network: _Network, images: Tensor, questions: list[Question], activations: Any, gradients: Any
    ) -> Tensor:
        options = {} if self.name == "finercam" else self.options
        method = self.spec.build(network, options)
        method.activations_and_grads.release()  # it would keep the activations of every further pass
        targets = [question.answer for question in questions]
        with np.errstate(divide="ignore", invalid="ignore"):
            cells = method.get_cam_image(images, network.here, targets, activations, gradients, False)
        return torch.from_numpy(np.ascontiguousarray(cells, dtype=np.float32))

    def _posed(self, questions: list[Question], logits: Tensor) -> list[Question]:
        if self.name != "finercam":
            return questions
        return finer_questions(questions, logits, **{**FINER_OPTIONS, **self.options})

    def has_convergence_delta(self) -> bool:
        """Return False: these maps have no sum to converge to."""
        return False

    def get_name(self) -> str:
        """Return the method's name in tables."""
        return self.name


class _Network(CutNetwork):
    """Cut network as the package runs it: on images alone, of any number and dtype."""

    def __init__(self, model: nn.Module, space: FeatureSpace, extra: tuple[Any, ...], dtype: torch.dtype) -> None:
        super().__init__(model, space)
        self.extra, self.dtype = extra, dtype
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        self.anchor = nn.Parameter(torch.zeros((), device=device), requires_grad=False)  # the package reads its device

    def forward(self, images: Tensor) -> Any:
        extra = [_repeated(x, len(images)) for x in self.extra]
        return super().forward(images.to(self.dtype), *extra)


def one_batch_of_images(name: str, inputs: Any) -> Tensor:
    """Return the images of Captum's ``inputs``, a tensor or a tuple of one.

    Raises:
        ValueError: they are not one batch of images; for :data:`OF_VOLUMES`, of images or volumes.
    """
    images = inputs if isinstance(inputs, tuple) else (inputs,)
    dims = (4, 5) if name in OF_VOLUMES else (4,)
    if len(images) != 1 or not isinstance(images[0], Tensor) or images[0].dim() not in dims:
        shapes = ", ".join(str(list(x.shape)) if isinstance(x, Tensor) else type(x).__name__ for x in images)
        also = "; volumes [N, C, D, H, W] too" if name in OF_VOLUMES else ""
        raise ValueError(f"{name} explains one batch of images [N, C, H, W], got {shapes}{also}")
    check_not_empty(images)
    return images[0]


def _asked(model: nn.Module, target: Any, num_examples: int) -> tuple[nn.Module, list[Question]]:
    """Return the network itself and one question per example."""
    model, _ = unwrapped(model)
    if not isinstance(model, QuestionModel):
        return model, as_questions(target, num_examples)
    if isinstance(target, Question) or (isinstance(target, list) and any(isinstance(t, Question) for t in target)):
        raise TargetError("this model answers questions already; give the target that ask() gave, or the plain model")
    return unwrapped(model.model)[0], model.questions_for(target, num_examples)


def _batches(questions: list[Question], size: int) -> Iterator[tuple[slice, list[Question]]]:
    for start in range(0, len(questions), size):
        here = slice(start, start + size)
        yield here, questions[here]


def _rows(extra: tuple[Any, ...], here: slice, number: int) -> tuple[Any, ...]:
    """Return further arguments for these images: the rows of batched tensors, anything else unchanged."""
    return tuple(x[here] if isinstance(x, Tensor) and x.dim() and len(x) == number else x for x in extra)


def _repeated(x: Any, number: int) -> Any:
    """Repeat a further argument for many versions of one image."""
    single = isinstance(x, Tensor) and x.dim() > 0 and len(x) == 1
    return x.expand(number, *x.shape[1:]) if single else x


def _gradients(answer: Tensor, z: Tensor, space: FeatureSpace, *, keeps_graph: bool) -> Tensor:
    if not answer.requires_grad:
        raise ValueError(f"the answer does not depend on '{space.layer}'; choose another layer")
    (gradient,) = torch.autograd.grad(answer.sum(), z, create_graph=keeps_graph, materialize_grads=True)
    if not bool(gradient.any()):
        warnings.warn(
            f"nothing that lies in the image at '{space.layer}' affects the answer: the gradient is zero everywhere. "
            "If only a class token goes on from there to the head, choose an earlier layer, or give none",
            stacklevel=callers_level(),
        )
    if keeps_graph and not gradient.requires_grad:
        gradient = gradient + 0 * z  # a linear head has a zero second derivative, which needs a graph
    return gradient


def _numbers(x: Tensor | None) -> np.ndarray | None:
    """Convert a tensor for numpy, which has no bfloat16."""
    if x is None:
        return None
    x = x.detach().cpu()
    return (x if x.dtype in (torch.float32, torch.float64) else x.float()).numpy()


def _check_positions(name: str, spec: BaselineSpec, z: Tensor) -> None:
    positions = z.shape[-2] * z.shape[-1]
    if spec.squares_positions and positions > MOST_POSITIONS:
        raise ValueError(
            f"{name} makes a matrix of {positions} x {positions} positions here; choose a layer with at most "
            f"{MOST_POSITIONS} of them"
        )


def _check_finite(maps: Tensor, name: str) -> None:
    wrong = (~torch.isfinite(maps)).flatten(1).any(1).nonzero().flatten().tolist()
    if wrong:
        raise ValueError(
            f"{name} gives no number for image(s) {wrong}: its formula divides by something that is zero there "
            "(for ablationcam, the answer)"
        )
