"""LayerPiNetAttribution: the exact readout in the layer's own shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from captum._utils.common import _format_tensor_into_tuples
from captum.attr import LayerAttribution
from captum.log import log_usage
from torch import Tensor, nn

from captum_align.call_shapes import (
    captum_call,
    check_coefficients,
    check_construction,
    check_shapes,
    delta_call,
    no_sum,
)
from captum_align.layer_inputs import with_layer_inputs
from captum_align.module_of import ModuleOf, layers_in
from captum_align.without_futures import WithoutFutures
from xai_align.adapter_tools import restores_thread_state
from xai_align.pinet import MixedReadout, Readout
from xai_align.pinet.batches import read_out_in_batches
from xai_align.pinet.readout_layers import ReadoutLayers, RuleName
from xai_align.pinet.rounding import total_of

#: Options of ``attribute`` that have an effect.
OPTIONS = (
    "internal_batch_size",
    "show_progress",
    "return_convergence_delta",
    "return_bias",
    "attribute_to_layer_input",
)
#: Those of them that concern the result and not the readout.
OF_THE_RESULT = OPTIONS[2:4]


class LayerPiNetAttribution(WithoutFutures, LayerAttribution):
    """Contribution of every coordinate of a layer's output to the answer, without resizing.

    Args:
        forward_func: the model, an ``nn.Module`` in eval mode that returns logits, or a function that calls one.
        layer: the layer's module or name, or a ``FeatureSpace``. A list of them: one result for each, as in Captum's
            methods; with ``weights``, their mixture. None: the default of :func:`~xai_align.read_out`.
        device_ids: accepted for compatibility with Captum; a readout runs on the device of model and inputs.
        multiply_by_inputs: False: the coefficients ``d answer / dz`` with the network's gates held, instead of
            coefficients times the layer's output ``z``.
        weights: the weights of the layers of a list, for a mixture, whose contributions sum to one answer.
        rule: ``"gate"`` or ``"gamma"``, as in :func:`~xai_align.read_out`; None: the default's, or ``"gate"``.
        gamma: the strength of the gamma rule; None: 0.25.

    Raises:
        TypeError: coefficients of a mixture of layers are asked for.

    Source: Lobet & Chiaromonte 2026 (arXiv 2601.04378).

    Example::

        pinet = LayerPiNetAttribution(model, "conv2")
        pinet.attribute(images, target=281)  # [2, 8, 16, 16]
    """

    def __init__(
        self,
        forward_func: Any,
        layer: ReadoutLayers = None,
        device_ids: list[int] | None = None,
        multiply_by_inputs: bool = True,
        *,
        weights: Sequence[float] | None = None,
        rule: RuleName | None = None,
        gamma: float | None = None,
    ) -> None:
        check_construction(layer)
        if weights is not None and not multiply_by_inputs:
            raise TypeError("the coefficients of a mixture of layers have no common z; leave out weights")
        self._multiplies = bool(multiply_by_inputs)
        LayerAttribution.__init__(self, forward_func, layer, device_ids)
        self._module = ModuleOf()
        self._decomposition: dict[str, Any] = {"weights": weights, "rule": rule, "gamma": gamma}

    @property
    def network(self) -> nn.Module:
        """Return the network behind ``forward_func``."""
        return self._module(self.forward_func)

    @log_usage()
    @restores_thread_state
    def attribute(self, inputs: Tensor | tuple[Tensor, ...], *args: Any, **named: Any) -> Any:
        """Return contributions in the shape of the layer's output, a tuple if that is several tensors.

        Call shapes, arguments and errors are those of :meth:`PiNetAttribution.attribute`. Prefix tokens keep their
        rows here. With ``layer="input"`` the result is like the inputs. With ``return_convergence_delta`` and
        ``return_bias`` the result is a tuple of contributions, delta and bias; for a list of layers each of these is a
        list. The bias is the rest of the answer, ``[N]``: contributions and bias of a layer sum to the answer. With
        ``attribute_to_layer_input`` they are those of the layer's input, a tuple if the layer takes several tensors.
        """
        call = captum_call(self, inputs, args, named, OPTIONS)
        options = call.options
        delta, bias = (options.pop(name, False) for name in OF_THE_RESULT)
        if not self._multiplies:
            check_coefficients(call.baselines)
        readout = self._read_out(inputs, call.target, baselines=call.baselines, **options)
        call.warn_of_guess(readout.logits)
        layers = self._results(readout)
        found = [[self._shown(one, inputs) for one in layers]]
        found += [[one.completeness_error for one in layers]] * bool(delta) + [[_rest(one) for one in layers]] * bool(
            bias
        )
        made = found if self._gives_list(readout) else [one[0] for one in found]
        return tuple(made) if len(made) > 1 else made[0]

    def _read_out(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Any,
        *,
        attribute_to_layer_input: bool = False,
        **options: Any,
    ) -> Readout:
        given = _format_tensor_into_tuples(inputs)
        network, layers = self.network, layers_in(self.network, self.layer)
        if attribute_to_layer_input:
            network, layers = with_layer_inputs(network, layers)
        return read_out_in_batches(network, given, target, layers, **options, **self._decomposition)

    def _gives_list(self, readout: Readout) -> bool:
        return isinstance(self.layer, list | tuple) and self._decomposition["weights"] is None

    def _results(self, readout: Readout) -> list[Readout]:
        """Return the readout of each layer, or the mixture."""
        separate = isinstance(readout, MixedReadout) and self._gives_list(readout)
        return list(readout.parts) if separate and isinstance(readout, MixedReadout) else [readout]

    def _shown(self, readout: Readout, inputs: Any) -> Any:
        contributions = readout.contributions if self._multiplies else readout.slopes
        if isinstance(readout, MixedReadout) or not isinstance(contributions, tuple):
            return contributions
        several = isinstance(inputs, tuple) if readout.feature_space.layer == "input" else len(contributions) > 1
        return contributions if several else contributions[0]

    @restores_thread_state
    def compute_convergence_delta(self, attributions: Any, *args: Any, **named: Any) -> Tensor:
        """Return ``[N]``, the sum of one layer's attributions and of its bias minus the answer.

        Called as :meth:`PiNetAttribution.compute_convergence_delta`. The attributions are those of the layer's output.

        Raises:
            TypeError: attributions or inputs are not tensors.
            ValueError: there are several layers, or the attributions are coefficients, or don't have the shape of the
                layer's output.
        """
        if not self._multiplies:
            no_sum()
        if isinstance(self.layer, list | tuple) and len(self.layer) > 1 and self._decomposition["weights"] is None:
            raise ValueError(
                "each layer of a list has its own sum; use the deltas that attribute returns, one for each layer"
            )
        call = delta_call(attributions, args, named)
        readout = self._read_out(call.pop("inputs"), call.pop("target", None), **call)
        check_shapes(attributions, readout.contributions, "contributions of this layer have")
        parts = attributions if isinstance(attributions, tuple) else (attributions,)
        return total_of(parts) + _rest(readout) - readout.answer

    def has_convergence_delta(self) -> bool:
        """Return True: the delta is the completeness error."""
        return True

    @property
    def multiplies_by_inputs(self) -> bool:
        """Return whether attributions are coefficients times the layer's output."""
        return self._multiplies

    @classmethod
    def get_name(cls) -> str:
        """Return the method's name in tables."""
        return "Layer PiNet"


def _rest(readout: Readout) -> Tensor:
    """Return ``[N]``, the part of the answer that is not in the contributions."""
    placed = [part.flatten(1).sum(1) for part in readout.placed]
    return torch.stack([readout.bias, readout.around, *placed]).sum(0)
