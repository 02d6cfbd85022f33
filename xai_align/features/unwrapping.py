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
    """Return the network inside compiled, data-parallel and retrofitted models, and a retrofit's feature space.

    Raises:
        ValueError: the wrapper computes something itself, by a forward hook or a forward function of its own, so the
            network inside gives other logits.
    """
    where = None
    while isinstance(model, nn.Module):
        wrapper = model
        if isinstance(getattr(model, "_orig_mod", None), nn.Module):  # torch.compile
            model = model._orig_mod
        elif isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        elif isinstance(model, Retrofitted):
            model, where = model.backbone, model.feature_space
        else:
            break
        _check_only_wraps(wrapper, model)
    return model, where


def network_of(model: Any) -> tuple[Any, Any]:
    """Return :func:`unwrapped`, also from within models that answer questions.

    Raises:
        ValueError: as :func:`unwrapped`.

    Example::

        from xai_align.question import Question, ask

        asked, target = ask(model, Question.why(1), 2)
        network_of(asked)[0] is model  # True
    """
    inner, where = unwrapped(model)
    while isinstance(inner, QuestionModel):
        inner, where = unwrapped(inner.model)
    return inner, where


def _check_only_wraps(wrapper: nn.Module, inside: nn.Module) -> None:
    """Raise if a wrapper has forward hooks, or a forward function that is not the library's."""
    kind, name = type(wrapper).__name__, type(inside).__name__
    if wrapper._forward_hooks or wrapper._forward_pre_hooks:
        raise ValueError(
            f"the model is {kind} around {name} and has forward hooks of its own, which {name} alone does not run, so "
            "its answer may be another one; register them on the network inside, or give that network"
        )
    library = type(wrapper).forward.__module__.partition(".")[0] in ("torch", __name__.partition(".")[0])
    data_parallel = isinstance(wrapper, nn.DataParallel | nn.parallel.DistributedDataParallel)
    if not library or (data_parallel and "forward" in vars(wrapper)):
        raise ValueError(
            f"the model is {kind} around {name} and has a forward function of its own, so {name} alone may give "
            "another answer; give the network inside, or move the computation into a module inside the wrapper"
        )
