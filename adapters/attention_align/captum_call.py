"""Captum's interface for methods that read a vision transformer's layers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from torch import Tensor, nn

from xai_align.adapter_tools import check_not_empty, restores_thread_state


class CaptumCall(ABC):
    """Method on one batch of images; subclasses compute its attributions.

    Args:
        forward_func: an ``nn.Module`` on one batch of images, or a ``QuestionModel`` of one.

    Raises:
        TypeError: the model is not an ``nn.Module``.
    """

    #: Name in tables and messages.
    name: ClassVar[str]
    #: Attribute that Captum's code uses.
    multiplies_by_inputs = False

    def __init__(self, forward_func: Any) -> None:
        if not isinstance(forward_func, nn.Module):
            raise TypeError(f"{self.name} needs a torch.nn.Module, got {type(forward_func).__name__}")
        self.forward_func = forward_func

    @abstractmethod
    def attributions(
        self, images: Tensor, target: Any, additional_forward_args: Any, internal_batch_size: int | None
    ) -> Tensor:
        """Return attributions in the shape of the images ``[N, C, H, W]``."""

    @restores_thread_state
    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Any = None,
        additional_forward_args: Any = None,
        internal_batch_size: int | None = 4,
    ) -> Any:
        """Return the map in the shape of ``inputs``, detached.

        Args:
            inputs: images ``[N, C, H, W]``, or a tuple of one such tensor.
            target: any target of Captum's methods, numpy integers and arrays, or an ``xai_align.Question``.
            additional_forward_args: further arguments of the model.
            internal_batch_size: number of images whose attention matrices are in memory at once; None: all.

        Raises:
            TargetError: (an AssertionError) the target does not fit the output.
            ValueError: the inputs are not images, the model is in train mode, or it has no layers that this method
                can follow.
        """
        parts = inputs if isinstance(inputs, tuple) else (inputs,)
        if len(parts) != 1 or not isinstance(parts[0], Tensor) or parts[0].dim() != 4:
            shapes = ", ".join(str(list(x.shape)) if isinstance(x, Tensor) else type(x).__name__ for x in parts)
            raise ValueError(f"{self.name} explains one batch of images [N, C, H, W], got {shapes}")
        check_not_empty(parts)
        attributions = self.attributions(parts[0], target, additional_forward_args, internal_batch_size)
        return (attributions,) if isinstance(inputs, tuple) else attributions

    def has_convergence_delta(self) -> bool:
        """Return False: these maps leave a part of the answer out."""
        return False

    def get_name(self) -> str:
        """Return the method's name in tables."""
        return self.name
