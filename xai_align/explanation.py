"""Explanation of a batch by one method: the attribution, the answer, and the readout if there is one.

Methods with ``account=True`` decompose the answer: contributions and a bias sum to it. The others return
a map, whose sum, if it has a meaning, is shown next to the answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from xai_align._tools.logits import select_logits
from xai_align._tools.thread_state import restores_thread_state
from xai_align.features.resolve_layer import Layer
from xai_align.features.returning_logits import returning_logits
from xai_align.hookspecs import AttributionSpec, Values
from xai_align.pinet.rounding import wide
from xai_align.plugins import attribution_method, default_method
from xai_align.question import Question, answers, as_questions, ask

if TYPE_CHECKING:
    from xai_align.pinet.readout import Readout


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """Attributions of a batch by one method, with the explained answers.

    Attributes:
        method: the method's name.
        questions: one for each example.
        attribution: in the shape of the inputs (of a readout inside the network on inputs that are not images: in
            the shape of the feature space).
        answer: ``[N]``, the questions' answers from the logits; unit: logits.
        logits: ``[N, K]``, the model's output.
        seconds: time for building and running the method, for the batch.
        values: the meaning of the attribution's numbers.
        signed: whether numbers below zero are evidence against the answer; see :class:`~xai_align.AttributionSpec`.
        note: the method author's remark for readers of the map.
        readout: the exact decomposition of the answer; None for methods that have none.

    Example::

        found = explain(model, images, Question.why(281))
        found.map  # [N, H, W]
    """

    method: str
    questions: tuple[Question, ...]
    attribution: Tensor
    answer: Tensor
    logits: Tensor
    seconds: float
    values: Values = "scores"
    signed: bool = False
    note: str = ""
    readout: Readout | None = None

    @property
    def total(self) -> Tensor:
        """``[N]``: the sum of all attributions; plus the bias, it equals the answer where there is a readout."""
        return _sum_of_each(self.attribution) if self.readout is None else self.readout.total

    @property
    def map(self) -> Tensor:
        """``[N, H, W]``: the attribution of each pixel, its channels summed.

        Raises:
            ValueError: the inputs were not images.
        """
        if self.readout is not None:
            return self.readout.map()
        if self.attribution.dim() != 4:
            raise ValueError(
                f"there is no map: '{self.method}' answered in shape {list(self.attribution.shape)}, "
                "and only images [N, C, H, W] have one"
            )
        return self.attribution.sum(1)


@restores_thread_state
def explain(
    model: nn.Module,
    inputs: Tensor,
    question: Any = None,
    method: str | None = None,
    *,
    layer: Layer = None,
    output: str | int | None = None,
    **options: Any,
) -> Explanation:
    """Explain the model's answers to a question with a method, by name.

    The model is not changed.

    Args:
        model: a network in eval mode that gives logits ``[N, K]``.
        inputs: ``[N, C, H, W]``, or any floating tensor whose first axis is the batch.
        question: a :class:`~xai_align.Question`, one for each example, or any target
            that Captum accepts; None: why the predicted class?
        method: a name from ``xai-align methods``; None: the exact readout.
        layer: the layer to explain, for methods that take one: a layer's name, its module, a
            :class:`~xai_align.FeatureSpace`, or ``"input"``. None: the method's default.
        output: which of the model's outputs are the logits, by field or position; None: the field named "logits", or
            the only floating tensor.
        **options: passed to the method's ``attribute``, e.g. ``n_steps=50``; to its ``read_out`` if it decomposes the
            answer, e.g. ``internal_batch_size=1``.

    Raises:
        ValueError: there is no such method, it takes no layer, or inputs and model do not fit it.
        TargetError: the question names a class that the model does not have.

    Example::

        found = explain(model, images, Question.why_not(281, 282), method="pinet")
        found.map  # [2, 32, 32], logits for (+) and against (-)
    """
    method = default_method() if method is None else method
    spec = attribution_method(method)
    if layer is not None and not spec.takes_layer:
        raise ValueError(f"the method '{method}' takes no layer; leave out layer='{layer}'")
    _check_batch(inputs)
    questions = _questions(model, inputs, question, output)
    where = {} if layer is None else {"layer": layer}
    start = _now(inputs)
    if spec.account:
        readout = _method(spec, model, where, "read_out")(inputs, questions, output=output, **options)
        seconds = _now(inputs) - start
        attribution, answer, logits = _on_inputs(readout, inputs), readout.answer.detach(), readout.logits.detach()
    else:
        readout = None
        if output is not None:  # other methods take tensors only
            copy = returning_logits(model, output)
            model, where = copy.module, copy.rebind(where)
        asked, target = ask(model, questions, len(inputs))
        made = _method(spec, asked, where, "attribute")(inputs, target=target, **options)
        attribution = _checked_map(made, inputs, method).detach()
        seconds = _now(inputs) - start
        logits = logits_of(model, inputs)
        answer = answers(questions, logits)
    return Explanation(
        method=method,
        questions=tuple(questions),
        attribution=attribution,
        answer=answer,
        logits=logits,
        seconds=seconds,
        values=spec.values,
        signed=bool(spec.signed),
        note=spec.note,
        readout=readout,
    )


def logits_of(model: nn.Module, inputs: Tensor, output: str | int | None = None) -> Tensor:
    """Return the model's logits, without gradients."""
    with torch.no_grad():
        return select_logits(model(inputs.clone()), output)


def _method(spec: AttributionSpec, model: nn.Module, where: dict[str, Any], call: str) -> Any:
    """Build the method and return what is called on it."""
    try:
        built = spec.build(model, **where)
    except TypeError as error:
        if where and "layer" in str(error):
            error.add_note(f"(the record of the method '{spec.name}' says takes_layer=True, and its build takes none)")
        raise
    found = getattr(built, call, None)
    if not callable(found):
        raise TypeError(
            f"the method '{spec.name}' builds a {type(built).__name__} without {call}(inputs, ...), which its record "
            "promises; see docs/plugins.md"
        )
    return found


def _checked_map(made: Any, inputs: Tensor, method: str) -> Tensor:
    """Return the map if it has the shape of the inputs."""
    if not isinstance(made, Tensor) or made.shape != inputs.shape:
        found = f"a tensor {list(made.shape)}" if isinstance(made, Tensor) else f"a {type(made).__name__}"
        raise TypeError(
            f"the method '{method}' gave {found} for inputs {list(inputs.shape)}; an attribution is one tensor in the "
            "shape of the inputs"
        )
    return made


def _check_batch(inputs: Any) -> None:
    if not isinstance(inputs, Tensor):
        raise TypeError(
            f"inputs are {type(inputs).__name__}; explain takes one tensor whose first axis is the batch, "
            "xai_align.read_out takes several"
        )
    if inputs.dim() == 0 or len(inputs) == 0:
        raise ValueError(f"inputs have shape {list(inputs.shape)}; give a batch with one example at least")


def _questions(model: nn.Module, inputs: Tensor, question: Any, output: str | int | None) -> list[Question]:
    if question is not None:
        return as_questions(question, len(inputs))
    try:
        logits = logits_of(model, inputs, output)
    except (RuntimeError, ValueError) as error:
        if inputs.dim() == 3:
            error.add_note("(is this one image without a batch? give images [N, C, H, W]: x[None])")
        raise
    if logits.dim() == 0 or len(logits) != len(inputs):
        raise ValueError(
            f"the model gives {list(logits.shape)} for inputs {list(inputs.shape)}: not one row of logits for each "
            "example; give a batch [N, ...] (one image: x[None])"
        )
    if logits[0].numel() == 1:
        return as_questions((0,) * (logits.dim() - 1) or None, len(inputs))
    return as_questions(logits.flatten(1).argmax(1), len(inputs))


def _on_inputs(readout: Readout, inputs: Tensor) -> Tensor:
    """Return the contributions in the inputs' shape, spread over pixels and channels if read inside the network."""
    contributions = readout.contributions
    if isinstance(contributions, Tensor) and contributions.shape == inputs.shape and not readout.placed:
        return contributions
    if readout.image_size is not None:
        return readout.on_images(inputs.shape[1])
    if isinstance(contributions, Tensor):
        return contributions
    raise ValueError("the readout is in several tensors and the inputs are not images; use read_out instead")


def _sum_of_each(values: Tensor) -> Tensor:
    """Return the sums ``[N]``, in double where the device supports it."""
    return wide(values).flatten(1).sum(1)


def _now(inputs: Tensor) -> float:
    """Return the time in seconds, after pending GPU work has finished."""
    if inputs.is_cuda:
        torch.cuda.synchronize(inputs.device)
    return perf_counter()
