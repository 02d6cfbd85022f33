"""PiNetAttribution: the exact readout as a Captum method."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from captum.attr import Attribution
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
from captum_align.module_of import ModuleOf, layers_in
from captum_align.without_futures import WithoutFutures
from xai_align.adapter_tools import restores_thread_state
from xai_align.pinet.method import PiNetMethod, check_kind
from xai_align.pinet.readout_layers import ReadoutLayers

#: Options of ``attribute`` that have an effect.
OPTIONS = ("internal_batch_size", "show_progress", "kind", "return_convergence_delta", "return_bias")
#: Those of them that concern the result and not the readout.
OF_THE_RESULT = OPTIONS[2:]


class PiNetAttribution(PiNetMethod, WithoutFutures, Attribution):
    """Contribution of every input pixel to the answer, by the exact readout of an unchanged network.

    Options and errors are those of :class:`xai_align.pinet.PiNetMethod`; this class adds Captum's interface, in the
    call shapes of its main methods. ``forward_func`` may also be a function of the inputs.

    Args:
        forward_func: the model, or a function of the inputs that calls one.
        layer: as in :class:`xai_align.pinet.PiNetMethod`.
        multiply_by_inputs: False: the coefficients ``d answer / d input`` with the network's gates held, instead of
            coefficients times inputs. They are read at the input.
        **options: as in :class:`xai_align.pinet.PiNetMethod`.

    Raises:
        TypeError: coefficients of another layer than the input are requested in the shape of the inputs.

    Source: Lobet & Chiaromonte 2026 (arXiv 2601.04378).

    Example::

        pinet = PiNetAttribution(model)
        attributions, delta, bias = pinet.attribute(images, target=281, return_convergence_delta=True, return_bias=True)
        attributions.flatten(1).sum(1) + bias  # [2], equals model(images)[:, 281]
        pinet.attribute(images, 0 * images, 281)  # the difference to black images, as in IntegratedGradients
    """

    def __init__(
        self, forward_func: Any, layer: ReadoutLayers = None, *, multiply_by_inputs: bool = True, **options: Any
    ) -> None:
        check_construction(layer)
        if not multiply_by_inputs and layer not in (None, "input"):
            raise TypeError(
                f"with multiply_by_inputs=False coefficients are those of the inputs; for those of {layer!r} take "
                "LayerPiNetAttribution"
            )
        layer = layer if multiply_by_inputs else "input"
        self._multiplies = bool(multiply_by_inputs)
        PiNetMethod.__init__(self, forward_func, layer, **options)
        self._module = ModuleOf()

    @property
    def network(self) -> nn.Module:
        """Return the network behind ``forward_func``."""
        return self._module(self.forward_func)

    @property
    def layers(self) -> ReadoutLayers:
        """Return the layer or layers, as layers of :attr:`network`."""
        found: ReadoutLayers = layers_in(self.network, self.layer)
        return found

    @log_usage()
    @restores_thread_state
    def attribute(self, inputs: Tensor | tuple[Tensor, ...], *args: Any, **named: Any) -> Any:
        """Return contributions in the shape of ``inputs``; with the bias, they sum to the answer.

        Called as Captum's methods are: ``attribute(inputs, baselines, target, additional_forward_args)``, as
        IntegratedGradients, or ``attribute(inputs, target, additional_forward_args)``, as Saliency. Floating-point
        values are baselines; class indices and questions are targets; of two numbers, the first is the baseline.
        Options of approximations (``n_steps``, ``method`` ...) have no effect; one warning says so.

        Args:
            inputs: tensor ``[N, ...]`` or tuple of tensors.
            *args: baselines, target and ``additional_forward_args`` by position.
            **named: these by name, and ``internal_batch_size``, ``return_convergence_delta``, ``return_bias``,
                ``show_progress`` and ``kind`` of :meth:`xai_align.pinet.PiNetMethod.attribute`.

        Raises:
            TypeError: an option would change the meaning of the result, or is unknown.
            TargetError: (an AssertionError) the target does not fit the output.
            ValueError: inputs, baselines, model or layer are not suitable for a readout; the message says why.
        """
        call = captum_call(self, inputs, args, named, OPTIONS)
        options = call.options
        if not self._multiplies:
            check_coefficients(call.baselines)
        wanted = {name: options.pop(name) for name in OF_THE_RESULT if name in options}
        sums = any(wanted.get(name) for name in OF_THE_RESULT[1:]) or call.baselines is not None
        check_kind(wanted.get("kind", "contribution"), adds_up=sums)
        readout = self.read_out(inputs, call.target, baselines=call.baselines, **options)
        call.warn_of_guess(readout.logits)
        if not self._multiplies and readout.slopes is not None:
            readout = replace(readout, contributions=readout.slopes)
        return self.attributions_of(readout, inputs, options.get("additional_forward_args"), **wanted)

    @restores_thread_state
    def compute_convergence_delta(self, attributions: Tensor | tuple[Tensor, ...], *args: Any, **named: Any) -> Tensor:
        """Return ``[N]``, the sum of these attributions and of the bias minus the answer.

        Called as Captum's, ``(attributions, start_point, end_point, target, additional_forward_args)``, with baselines
        as the start; or ``(attributions, inputs, target, additional_forward_args)``, without. Captum's own delta has no
        bias in its sum: for the difference to baselines it is this one minus the difference of the biases.

        Raises:
            TypeError: attributions or inputs are not tensors.
            ValueError: the attributions are coefficients, or don't have the shape of the inputs.
        """
        if not self._multiplies:
            no_sum()
        call = delta_call(attributions, args, named)
        inputs = call["inputs"] if isinstance(call["inputs"], tuple) else (call["inputs"],)
        floating = tuple(x for x in inputs if x.is_floating_point())  # others have no attributions
        check_shapes(attributions, floating or inputs, "the inputs have")
        return PiNetMethod.compute_convergence_delta(self, attributions, **call)

    def has_convergence_delta(self) -> bool:
        """Return True: the delta is the completeness error."""
        return True

    @property
    def multiplies_by_inputs(self) -> bool:
        """Return whether attributions are coefficients times inputs."""
        return self._multiplies

    @classmethod
    def get_name(cls) -> str:
        """Return the method's name in tables."""
        return "PiNet"
