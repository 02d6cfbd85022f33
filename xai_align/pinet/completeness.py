"""Checks of a readout: its logits are the plain model's, and its parts add up to the answer.

Both are within rounding (:mod:`~xai_align.pinet.rounding`), or the readout is refused with a message that names what
differs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from xai_align._tools.replica import LOW_PRECISION
from xai_align.pinet.decomposition import Decomposition, is_complete, size_of
from xai_align.pinet.rounding import misses, wide

#: Number of the check of the logits; those of the sums have the numbers of their layers.
LOGITS = -1


class CompletenessError(ArithmeticError):
    """Logits or sum of a decomposition differ from the plain model's by more than rounding.

    Example::

        class Noisy(nn.Sequential):
            def forward(self, x):
                return super().forward(x) + torch.rand(())

        try:
            read_out(Noisy(model), images, 281)
        except CompletenessError as error:
            print(error)  # names the first module whose output differs, and by how much the logits do
    """


@dataclass
class Checks:
    """Results of the checks of several decompositions.

    Attributes:
        missed: functions that give the messages of the checks that failed, by number.
        worst: for each check, the largest difference relative to the scale of the values compared.
    """

    missed: dict[int, Callable[[], str]] = field(default_factory=dict)
    worst: dict[int, float] = field(default_factory=dict)

    def complaint(self) -> str:
        """Return a message that names the first failed check and the size of the difference."""
        return next(iter(self.missed.values()))()

    def check_logits(self, decomposition: Decomposition, plain: Tensor, find_module: Callable[[], str]) -> None:
        """Note whether a decomposition's logits are the plain model's.

        Args:
            decomposition: the decomposition.
            plain: the plain model's logits.
            find_module: gives the name of the first module that differs, or "".
        """
        logits = decomposition.logits
        if logits.shape != plain.shape:
            shapes = f"the logits have shape {list(logits.shape)}, the plain model's have {list(plain.shape)}"
            self.worst[LOGITS] = float("inf")
            self.missed.setdefault(LOGITS, lambda: shapes)
            return
        difference, size = _by_example(logits, plain)
        self._note(LOGITS, difference, size)
        if not reproduces(decomposition, plain):
            worst = int(difference.argmax())
            self.missed.setdefault(LOGITS, lambda: _logits_complaint(worst, float(difference[worst]), find_module()))

    def check_sum(self, number: int, layer: object, decomposition: Decomposition) -> None:
        """Note whether the parts of the decomposition at a layer add up to its answer."""
        size = size_of(decomposition)
        self._note(number, decomposition.error.abs(), size)
        if not bool(is_complete(decomposition).all()):
            self.missed.setdefault(number, lambda: _sum_complaint(layer, decomposition, size))

    def _note(self, check: int, difference: Tensor, size: Tensor) -> None:
        relative = float(_relative(difference, size).nan_to_num(nan=torch.inf).max())
        self.worst[check] = max(self.worst.get(check, 0.0), relative)


def reproduces(decomposition: Decomposition, plain: Tensor) -> bool:
    """Return whether a decomposition's logits equal the plain model's to rounding."""
    logits = decomposition.logits
    if logits.shape != plain.shape:
        return False
    difference, size = _by_example(logits, plain)
    operations, coarsest = max(decomposition.operations, 64), decomposition.coarsest or logits.dtype
    return not bool(misses(difference, size, operations, coarsest).any())


def check_close(own: Tensor, logits: Tensor, operations: int) -> None:
    """Raise if a model's own logits, of low precision, differ from those in float32 by more than their rounding.

    Raises:
        CompletenessError: they do.
    """
    precision = own.dtype if own.dtype in LOW_PRECISION else torch.bfloat16
    difference, size = _by_example(own, logits)
    if bool(misses(difference, size, operations, precision).any()):
        raise CompletenessError(
            f"in float32 the model's logits are off by {float(difference.max()):.3g} from those in {precision}, "
            "more than its rounding: the model does not compute one function in both; give it in float32"
        )


def _by_example(logits: Tensor, of: Tensor) -> tuple[Tensor, Tensor]:
    """Return, for each example, the largest difference of logits from others and the largest of these."""
    rows = (len(of), -1)
    return (wide(logits) - wide(of)).abs().reshape(rows).amax(1), wide(of).abs().reshape(rows).amax(1)


def _relative(difference: Tensor, size: Tensor) -> Tensor:
    return difference / size.clamp_min(torch.finfo(size.dtype).tiny)


def _logits_complaint(example: int, difference: float, module: str) -> str:
    where = f"; the first module that differs is {module}" if module else ""
    return (
        f"the logits that the rules compute for example {example} differ from the plain model's by "
        f"{difference:.3g}, more than rounding{where}. A rule does not compute its operation's value, or the model "
        "gives other logits at every call: read out after that module, with feature_space=..."
    )


def _sum_complaint(layer: object, decomposition: Decomposition, size: Tensor) -> str:
    error, answer = decomposition.error, decomposition.answer
    if len(answer) > 1 and not bool(misses(error.sum(), size.sum(), 4096, torch.float32)):
        return (
            f"the contributions at '{layer}' add up over the batch but not for each example: the network mixes the "
            "examples of a batch, so that one's evidence counts for another's answer; explain each in its own call"
        )
    example = int(_relative(error.abs(), size).argmax())
    return (
        f"the contributions at '{layer}' and the bias of example {example} miss the answer "
        f"{float(answer[example]):.6g} by {float(error[example]):.3g}, more than "
        "rounding; the network has an operation that is not intercepted and is not linear (a "
        "custom autograd function, activation checkpointing, scripted or compiled code), or gives something else "
        "at every call: read out after it, with feature_space=..."
    )
