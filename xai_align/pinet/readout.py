"""The exact account of an answer: ``answer = sum(contributions) + bias``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from xai_align import plugins
from xai_align.hookspecs import FeatureSpace
from xai_align.model_state import frozen_parameters, unchanged_rng, without_checkpointing
from xai_align.pinet.accounts import check_completeness, frozen_account, local_account
from xai_align.pinet.head_probe import probe_head
from xai_align.pinet.input_checks import check_inputs, check_model, explained_failures, forward_arguments
from xai_align.pinet.routes import layer_name, route_through
from xai_align.pinet.unwrapping import unwrapped
from xai_align.question import QuestionModel, as_questions
from xai_align.spatial import Spread, contribution_map, prefix_part, resize_keeping_sum

#: How a caller may say where to read: a name, a module, several, or a record.
Where = str | nn.Module | FeatureSpace | Sequence[str] | None


@dataclass(frozen=True, kw_only=True)
class Readout:
    """What every coordinate of a feature space adds to the answer.

    Attributes:
        answer: ``[N]``, what the question makes of the logits.
        contributions: in the shape of the feature space ``z`` (a tuple where ``z`` is several tensors).
        bias: ``[N]``, the rest of the answer: what the network, with its gates held, gives at ``z = 0``.
        prefix: ``[N]``, the part of ``contributions`` that lies on prefix tokens and so has no place in the image.
        completeness_error: ``[N]``, ``sum(contributions) + bias - answer``, summed in float64 where the
            device has it. The bias is found without the gradient, so this is a check and not an identity.
        kind: ``"local"``: taking a position out of ``z`` lowers the answer by exactly its contribution;
            ``"frozen"``: the sum is exact with the gates, scales and attention of this input held.
        logits: ``[N, ...]``, the model's output.
        feature_space: where this was read.
        image_size: rows and columns of the input, None if it is no image.
    """

    answer: Tensor
    contributions: Tensor | tuple[Tensor, ...] = field(repr=False)
    bias: Tensor
    prefix: Tensor
    completeness_error: Tensor
    kind: Literal["local", "frozen"]
    logits: Tensor = field(repr=False)
    feature_space: FeatureSpace
    image_size: tuple[int, int] | None

    @property
    def relative_error(self) -> Tensor:
        """``[N]``: the completeness error over the largest of ``|answer|``, ``|bias|`` and ``|answer - bias|``."""
        bias, answer = self.bias.to(self.completeness_error), self.answer.to(self.completeness_error)
        scale = answer.abs().maximum(bias.abs()).maximum((answer - bias).abs())
        return self.completeness_error.abs() / scale.clamp_min(torch.finfo(scale.dtype).tiny)

    def map(self, spread: Spread = "area") -> Tensor:
        """``[N, H, W]``: contributions on the input's pixels, channels summed; ``map.sum() + prefix + bias == answer``.

        Raises:
            ValueError: the input is no image, or the feature space has no grid.
        """
        if self.image_size is None:
            raise ValueError("the input is not a batch of images [N, C, H, W]; use Readout.contributions as they are")
        parts = self.contributions if isinstance(self.contributions, tuple) else (self.contributions,)
        cells = [contribution_map(part, self.feature_space, self.image_size) for part in parts]
        return torch.stack([resize_keeping_sum(part, self.image_size, spread) for part in cells]).sum(0)

    def on_images(self, channels: int) -> Tensor:
        """``[N, channels, H, W]``: :meth:`map`, shared equally by the channels of each pixel.

        Raises:
            ValueError: as :meth:`map`.
        """
        return (self.map().unsqueeze(1) / channels).expand(-1, channels, -1, -1).contiguous()


def read_out(
    model: nn.Module,
    inputs: Tensor | tuple[Tensor, ...],
    question: Any = None,
    feature_space: Where = None,
    *,
    additional_forward_args: Any = None,
) -> Readout:
    """Read exactly what every coordinate of a feature space adds to the answer to a question.

    The model is not changed. Where the head behind the feature space is affine
    the readout is local and costs no backward pass of the backbone; elsewhere
    it costs one forward, one backward, and one forward for the check.

    Args:
        model: any ``nn.Module`` in eval mode whose output is logits ``[N, K]`` (or ``[N]``, or dense).
        inputs: floating tensor ``[N, ...]``, or a tuple of them.
        question: a :class:`~xai_align.Question`, one for each example, or any target that Captum takes.
        feature_space: ``"input"``, a layer's name, a module, several names, or a
            :class:`~xai_align.FeatureSpace`. None: where the plugins say, or the input.
        additional_forward_args: further arguments of the model, as in Captum.

    Raises:
        TargetError: the question names a class that the output does not have.
        UnknownOperation: the network computes something that no rule covers.
        CompletenessError: the parts do not add up.
        ValueError: inputs, model or layer are not fit for a readout; the message says what to do.

    Source: Lobet & Chiaromonte 2026 (arXiv 2601.04378); the frozen gates are the detaching of
    B-cos networks and layer-wise relevance propagation.
    """
    parts = inputs if isinstance(inputs, tuple) else (inputs,)
    # what requires grad is what depends on the feature space, and nothing else
    parts = tuple(part.detach() if isinstance(part, Tensor) else part for part in parts)
    model, own_place = unwrapped(model)
    asked = None
    if isinstance(model, QuestionModel):
        asked = model
        model, own_place = unwrapped(model.model)
    check_model(model)
    check_inputs(model, parts)
    questions = (asked.questions_for if asked else as_questions)(question, len(parts[0]))
    space = where_to_read(model, own_place if feature_space is None else feature_space)
    with unchanged_rng(), explained_failures(parts):
        route = route_through(model, space, parts, forward_arguments(additional_forward_args))
        local = probe_head(model, space, route.z).affine
        if local:
            account = local_account(route, questions)
        else:
            _refuse_inference_mode(space)
            with frozen_parameters(model), without_checkpointing(model):
                account = frozen_account(model, route, questions)
    check_completeness(account, space)
    several = isinstance(inputs, tuple) or len(account.contributions) > 1
    return Readout(
        answer=account.answer,
        contributions=account.contributions if several else account.contributions[0],
        bias=account.bias,
        prefix=torch.stack([prefix_part(part, space) for part in account.contributions]).sum(0),
        completeness_error=account.error,
        kind="local" if local and all(one.is_linear for one in questions) else "frozen",
        logits=account.logits,
        feature_space=space,
        image_size=_image_size(parts),
    )


def where_to_read(model: nn.Module, asked: Where = None) -> FeatureSpace:
    """The feature space that ``asked`` means, or the default: where the plugins say, or the input.

    Raises:
        ValueError: the module is not part of the model.
    """
    if isinstance(asked, FeatureSpace):
        return asked
    if asked is None:
        return plugins.feature_space(model) or FeatureSpace(layer="input")
    name = layer_name(model, asked) if isinstance(asked, nn.Module) else asked
    if name == "input":
        return FeatureSpace(layer="input", layout="NCHW")
    if not isinstance(name, str):
        return FeatureSpace(layer=tuple(name))
    return plugins.feature_space(model, name) or FeatureSpace(layer=name)


def _refuse_inference_mode(space: FeatureSpace) -> None:
    if torch.is_inference_mode_enabled():
        raise ValueError(
            f"inference_mode is on, and the readout at '{space.layer}' needs gradients; "
            "use torch.no_grad() instead, or leave inference_mode around the readout"
        )


def _image_size(parts: Sequence[Tensor]) -> tuple[int, int] | None:
    return (parts[0].shape[-2], parts[0].shape[-1]) if len(parts) == 1 and parts[0].dim() == 4 else None
