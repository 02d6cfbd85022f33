"""Unwrapping of compiled, data-parallel and retrofitted models, whose wrappers rename layers or hide operations."""

from __future__ import annotations

from typing import Any

from torch import nn

from xai_align.question import QuestionModel


class Retrofitted:
    """Base class of modules that only add a readout to a network: :class:`~xai_align.pinet.ExactPiNet`.

    A class and not a protocol, because users' own networks have a ``backbone`` too, and compute something with it.
    """

    backbone: nn.Module

    @property
    def feature_space(self) -> Any:
        """The layer where the network is read out; None: the default."""
        raise NotImplementedError


def unwrapped(model: Any) -> tuple[Any, Any]:
    """Return the network inside compiled, data-parallel and retrofitted models, and a retrofit's feature space."""
    where = None
    while isinstance(model, nn.Module):
        if isinstance(getattr(model, "_orig_mod", None), nn.Module):  # torch.compile
            model = model._orig_mod
        elif isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        elif isinstance(model, Retrofitted):
            model, where = model.backbone, model.feature_space
        else:
            break
    return model, where


def network_of(model: Any) -> tuple[Any, Any]:
    """Return :func:`unwrapped`, also from within models that answer questions.

    Example::

        from xai_align.question import Question, ask

        asked, target = ask(model, Question.why(1), 2)
        network_of(asked)[0] is model  # True
    """
    inner, where = unwrapped(model)
    while isinstance(inner, QuestionModel):
        inner, where = unwrapped(inner.model)
    return inner, where
