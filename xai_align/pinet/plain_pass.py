"""The plain model's own logits, with which those of a readout are compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from xai_align._tools.logits import select_logits
from xai_align._tools.model_state import signature
from xai_align._tools.replica import Replica
from xai_align._tools.thread_state import hides_interrupt
from xai_align.features.run_with_features import cloned, run_and_take_features
from xai_align.hookspecs import FeatureSpace
from xai_align.pinet.completeness import CompletenessError
from xai_align.pinet.input_checks import check_logits
from xai_align.pinet.precision import Precision
from xai_align.pinet.request import Request
from xai_align.pinet.rounding import misses, wide

#: Parameter states and input shapes for which a model's structural copy is known to reproduce its logits.
_faithful: WeakKeyDictionary[nn.Module, tuple[Any, ...]] = WeakKeyDictionary()


def own_logits(model: nn.Module, inputs: Sequence[Any], extra: Sequence[Any], output: str | int | None) -> Tensor:
    """Return the model's logits as it computes them, without gradients."""
    with torch.no_grad():
        returned = model(*cloned(inputs), *cloned(extra))
    return check_logits(select_logits(returned, output), len(inputs[0])).detach()


class PlainPass:
    """The plain pass of one reading: of the model itself, or of an unmodified replica in another precision.

    Where the replica's parameters do not match dtypes that the forward pass writes out, casts are replaced.

    Args:
        request: the arguments of the readout.
        copy: the replica on which the reading works.
        inputs: the model's inputs, in the precision of the reading.
        extra: further arguments of the model, in that precision.
        precision: the precision; its ``replaces_casts`` is set here if the replica needs it.
        split: a space with a split, whose values are captured during the pass.

    Attributes:
        captured: the values of the space with a split, after the pass.
        with_gradients: whether the pass runs with gradients. PyTorch's fast paths without gradients may give NaN, and
            fill padded positions with other values.
    """

    def __init__(
        self,
        request: Request,
        copy: Replica,
        inputs: Sequence[Any],
        extra: Sequence[Any],
        *,
        precision: Precision,
        split: FeatureSpace | None,
    ) -> None:
        self._request, self._copy, self._inputs, self._extra = request, copy, inputs, extra
        self._precision, self._split = precision, split
        self.captured: Any = None
        self.with_gradients = False

    def logits(self) -> Tensor:
        """Run the pass, and return its logits without graph."""
        precision = self._precision
        try:
            logits = self._run()
        except RuntimeError as error:
            if precision.dtype is None or precision.replaces_casts or hides_interrupt(error):
                raise
        else:
            if precision.replaces_casts or precision.dtype in (None, logits.dtype):
                return logits
        precision.replaces_casts = True
        return self._run()

    def logits_with_gradients(self) -> Tensor:
        """Run the pass with gradients from here on, and return its logits without graph."""
        self.with_gradients = True
        return self.logits()

    def _run(self) -> Tensor:
        request, precision = self._request, self._precision
        with torch.set_grad_enabled(self.with_gradients):
            if self._split is not None:
                # one pass for both: the features are captured during the replica's plain forward pass
                with precision.region(request.inputs[0]):
                    returned, self.captured = run_and_take_features(
                        self._copy.module, self._split, cloned(self._inputs), self._extra
                    )
                check_copy_once(request)
            elif precision.own:
                returned = request.model(*cloned(self._inputs), *cloned(self._extra))
            else:
                with precision.region(request.inputs[0]):
                    copy = precision.copy_of(request.model)
                    returned = copy.module(*cloned(self._inputs), *cloned(self._extra))
        logits = select_logits(returned, request.output)
        if isinstance(logits, Tensor) and not self.with_gradients and not bool(torch.isfinite(logits).all()):
            self.with_gradients = True
            return self._run()
        return check_logits(logits, len(self._inputs[0])).detach()


def check_copy(request: Request) -> None:
    """Raise if the structural copy computes another function than the original model.

    Raises:
        CompletenessError: its logits differ on the same inputs in the same precision.
    """
    with torch.no_grad():
        own, again, copied = (
            wide(check_logits(select_logits(model(*cloned(request.inputs), *cloned(request.extra)), request.output)))
            for model in (request.model, request.model, Replica(request.model).module)
        )
    if not torch.equal(own, again):
        return  # the model draws random numbers; the other checks detect this
    if own.shape != copied.shape or bool(misses((own - copied).abs().max(), own.abs().max(), 64, torch.float32)):
        raise CompletenessError(
            "a structural copy of the model, on which readouts work, gives other logits than the model itself: its "
            "forward pass looks up modules or parameters by identity or type, or keeps state between calls; make "
            "it depend on its attributes alone"
        )


def check_copy_once(request: Request) -> None:
    """Run :func:`check_copy` once per state of the model's parameters and shape of its inputs."""
    key = (signature(request.model), tuple(x.shape[1:] for x in request.inputs))
    if _faithful.get(request.model) != key:
        check_copy(request)
        _faithful[request.model] = key
