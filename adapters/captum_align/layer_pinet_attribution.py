"""LayerPiNetAttribution: the exact readout in the layer's own shape."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from captum._utils.common import _format_tensor_into_tuples
from captum.attr import LayerAttribution
from captum.log import log_usage
from torch import Tensor, nn

from xai_align.adapter_tools import restores_thread_state
from xai_align.pinet.batches import read_out_in_batches

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xai_align.pinet.readout_layers import ReadoutLayers, RuleName


class LayerPiNetAttribution(LayerAttribution):
    """Contribution of every coordinate of a layer's output to the answer, without resizing.

    Args:
        forward_func: the model, an ``nn.Module`` in eval mode that returns logits.
        layer: the layer's module or name, or a ``FeatureSpace``; a list of them for a mixture. None: the plugins'
            default.
        device_ids: accepted for compatibility with Captum; a readout runs on the device of model and inputs.
        weights: the weights of the layers of a list; None: equal weights.
        rule: ``"gate"`` or ``"gamma"``, as in :func:`~xai_align.read_out`; None: the default's, or ``"gate"``.
        gamma: the strength of the gamma rule; None: 0.25.

    Source: Lobet & Chiaromonte 2026 (arXiv 2601.04378).

    Example::

        pinet = LayerPiNetAttribution(model, "conv2")
        pinet.attribute(images, target=281)  # [2, 8, 16, 16]
    """

    def __init__(
        self,
        forward_func: nn.Module,
        layer: ReadoutLayers = None,
        device_ids: list[int] | None = None,
        *,
        weights: Sequence[float] | None = None,
        rule: RuleName | None = None,
        gamma: float | None = None,
    ) -> None:
        LayerAttribution.__init__(self, forward_func, layer, device_ids)
        self._account: dict[str, Any] = {"weights": weights, "rule": rule, "gamma": gamma}

    @log_usage()
    @restores_thread_state
    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Any = None,
        additional_forward_args: Any = None,
        internal_batch_size: int | None = None,
        return_convergence_delta: bool = False,
        show_progress: bool = False,
    ) -> Any:
        """Return contributions in the shape of the layer's output; a tuple if that is one, and for a list of layers.

        Arguments and errors are those of :meth:`PiNetAttribution.attribute`. Prefix
        tokens keep their rows here.
        """
        readout = read_out_in_batches(
            self.forward_func,
            _format_tensor_into_tuples(inputs),
            target,
            self.layer,
            additional_forward_args=additional_forward_args,
            internal_batch_size=internal_batch_size,
            show_progress=show_progress,
            **self._account,
        )
        if return_convergence_delta:
            return readout.contributions, readout.completeness_error
        return readout.contributions

    def has_convergence_delta(self) -> bool:
        """Return True: the delta is the completeness error."""
        return True

    @property
    def multiplies_by_inputs(self) -> bool:
        """True: a contribution is coefficient times value."""
        return True

    @classmethod
    def get_name(cls) -> str:
        """Return the method's name in tables."""
        return "Layer PiNet"
