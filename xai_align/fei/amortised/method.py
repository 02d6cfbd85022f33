"""Amortised FEI as an attribution method with Captum's interface: a map in one pass, by a network that was fitted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from xai_align._tools.images import check_images
from xai_align._tools.model_state import state_of
from xai_align._tools.replica import Replica
from xai_align._tools.single_tensor import like_given, only_one, share_over_channels
from xai_align._tools.thread_state import restores_thread_state
from xai_align.fei.amortised.explained_network import ExplainedNetwork
from xai_align.fei.amortised.explainer import AmortisedExplainer
from xai_align.fei.amortised.explainer_file import HoldsExplainer, find_explainer
from xai_align.fei.micro_batches import micro_batches
from xai_align.fei.quantile_masks import standardised
from xai_align.fei.solid_colours import Normalization
from xai_align.pinet.input_checks import forward_arguments
from xai_align.question import Question, target_or_only_output


@dataclass(frozen=True)
class _Known:
    """A network that was verified to be an explainer's own, and a number that changes with its parameters."""

    model: nn.Module
    explainer: AmortisedExplainer
    state: int
    explained: ExplainedNetwork


class AmortisedFEI:
    """Attribution method that gives the map of :class:`~xai_align.fei.FEIMethod` in one pass, without a search.

    A score network, trained for this very model by :func:`~xai_align.fei.fit_fei`, sees some of the model's layers and
    the exact readout's map of the question. The values are scores with mean 0 and standard deviation 1; they are not
    contributions and do not sum to the answer.

    The cost is one forward pass of the model, where its head is affine, and the score network's. Elsewhere, as in a
    transformer with a class token, the readout needs up to five forward passes, its checks among them, and a backward
    pass. The first call also runs the model a few times to find its layers and to check that it is the one that the
    explainer was fitted to; later calls read its parameters to check that they have not changed.

    Args:
        forward_func: the model, an ``nn.Module`` in eval mode that returns logits.
        explainer: a fit, its explainer, or the path of a saved one. None: given with each call.
        normalization: ``(mean, std)`` of the images, compared with the fit's; None: not compared.
        internal_batch_size: number of images processed at a time; None: 8.

    Raises:
        FileNotFoundError: there is no such file.
        OtherNetwork: (a ValueError) the normalisation is another than the fit's.
        TypeError: it is not an explainer.
        ValueError: the file can't be used.

    Source: ours. The masks that it is trained for are those of the solver "curve", after FEI, Zhang & McMillan
    (arXiv 2509.04588).

    Example::

        fitted = fit_fei(model, torch.rand(4, 3, 32, 32), epochs=1, batch_size=2)  # in practice, thousands of images
        attributions = AmortisedFEI(model, fitted).attribute(images, target=281)
    """

    def __init__(
        self,
        forward_func: nn.Module,
        explainer: HoldsExplainer | None = None,
        *,
        normalization: Normalization | None = None,
        internal_batch_size: int | None = None,
    ) -> None:
        self.forward_func = forward_func
        self.explainer = None if explainer is None else find_explainer(explainer)
        self.normalization, self.internal_batch_size = normalization, internal_batch_size
        if self.explainer is not None:
            self.explainer.fingerprint.check_normalization(normalization)
        self._known: _Known | None = None

    @restores_thread_state
    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Any = None,
        additional_forward_args: Any = None,
        *,
        explainer: HoldsExplainer | None = None,
        internal_batch_size: int | None = None,
    ) -> Any:
        """Return the map in the shape and dtype of ``inputs``, spread evenly over the channels.

        Args:
            inputs: images ``[N, C, H, W]`` of the fit's size, or a tuple of one such tensor.
            target: a target as in Captum's methods, numpy integers and arrays, or a ``xai_align.Question``; None: the
                only output of a model that has one.
            additional_forward_args: none; an explainer is fitted to a model of images alone.
            explainer: replaces the constructor's for this call.
            internal_batch_size: as at construction, for this call.

        Returns:
            The attributions, a tuple if a tuple was given.

        Raises:
            OtherNetwork: (a ValueError) the explainer was fitted to another network or to other images; the message
                names what differs.
            TargetError: (an AssertionError) the target does not fit the output.
            TypeError: the images are not a floating-point tensor.
            ValueError: there is no explainer, or the inputs or the model are invalid.
        """
        images = check_images("the inputs", only_one("inputs", inputs))
        if forward_arguments(additional_forward_args):
            raise ValueError("additional_forward_args are not supported: an explainer is fitted to images alone")
        chosen = self._chosen(explainer)
        chosen.fingerprint.check_images(images)
        network, batches = micro_batches(
            self.forward_func,
            images,
            target_or_only_output(self.forward_func, target),
            internal_batch_size=self.internal_batch_size if internal_batch_size is None else internal_batch_size,
            additional_forward_args=None,
            options={},
        )
        with torch.inference_mode(False):
            explained = self._checked(network, chosen, images[:1])
            maps = []
            for batch in batches:
                with batch.noted_in_errors():
                    x = batch.inputs.detach().clone()
                    maps.append(scores(chosen, explained, x, batch.questions))
        return like_given(inputs, share_over_channels(torch.cat(maps), images))

    def _chosen(self, given: HoldsExplainer | None) -> AmortisedExplainer:
        if given is not None:
            found = find_explainer(given)
            found.fingerprint.check_normalization(self.normalization)
            return found
        if self.explainer is None:
            raise ValueError(
                f"no explainer was given: {type(self).__name__}(model, FILE), attribute(..., explainer=FILE), "
                "explain(..., method='fei-amortised', explainer=FILE), or a model that brings its own, 'fei:FILE'; "
                "`xai-align fit-fei` makes one"
            )
        return self.explainer

    def _checked(self, network: nn.Module, explainer: AmortisedExplainer, image: Tensor) -> ExplainedNetwork:
        """Return the network as it is read, after a check that the explainer was fitted to it."""
        known, state = self._known, state_of(network)
        same = known is not None and known.model is network and known.state == state
        if known is not None and same and known.explainer.fingerprint == explainer.fingerprint:
            return known.explained
        explainer.fingerprint.check_model(network)
        explained = ExplainedNetwork(network, torch.zeros_like(image))
        explainer.fingerprint.check_layers(explained)
        self._known = _Known(network, explainer, state, explained)
        return explained


def scores(
    explainer: AmortisedExplainer, explained: ExplainedNetwork, x: Tensor, questions: list[Question] | Any
) -> Tensor:
    """Return the maps of images ``[N, C, H, W]``, ``[N, H, W]``, with mean 0 and standard deviation 1 in cells."""
    seen = explained.see(x, questions)
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        own = Replica(explainer.network, evaluate=True).module.to(x.device, seen.start.dtype)
        found = standardised(own(x.to(seen.start), seen.layers, seen.start))
        if not bool(found.isfinite().all()):
            raise ValueError("the score network gave NaN or infinity; the explainer's file can't be used")
        return interpolate(found[:, None], x.shape[2:], mode="bilinear")[:, 0]
