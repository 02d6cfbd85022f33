"""Options of a fit of prototypes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from xai_align._tools.checks import check_choice, check_integer, check_number

#: "orthogonal": a rotation of the channels. "invertible": any invertible matrix.
MatrixKind = Literal["orthogonal", "invertible"]
#: "gradient": Adam, as published. "procrustes": the best rotation for the round's prototypes, in closed form.
Solver = Literal["gradient", "procrustes"]


@dataclass(frozen=True, kw_only=True)
class PrototypeOptions:
    """Options of :func:`~xai_align.prototypes.fit_prototypes`; each can also be given to it by keyword.

    Attributes:
        matrix: "orthogonal" or "invertible". With an invertible one, two channels can represent the same kind of part,
            and it can become ill-conditioned, which a note reports.
        solver: "procrustes" (orthogonal matrices only): with prototypes and positions fixed, the mean purity is linear
            in a rotation, and its maximum is a polar factor. "gradient": Adam steps on the matrix exponential, as
            published. None: "procrustes" for orthogonal matrices, "gradient" for others.
        rounds: how often prototypes and positions are chosen again.
        steps: Adam steps in a round ("gradient").
        learning_rate: of Adam.
        batch_size: prototypes in a step.
        first, last: prototypes of a channel in the first and in the last round; the numbers between fall linearly. Not
            more than a quarter of the images, or ``prototypes`` if that is more.
        prototypes: prototypes of a channel that are kept, of each sign.
        memory: GiB for cached feature maps. If those of all images take more, the matrix is fitted to a random sample
            of the images that fits; prototypes are chosen among all. With ``out``, files hold the maps of all images
            until the fit has ended.
        internal_batch_size: images per forward pass.
        seed: seed of the sample and of the batches.

    Raises:
        ValueError: an option is out of its range, or the solver is not for this kind of matrix.

    Example::

        PrototypeOptions(matrix="invertible", rounds=20)
    """

    matrix: MatrixKind = "orthogonal"
    solver: Solver | None = None
    rounds: int = 20
    steps: int = 50
    learning_rate: float = 1e-2
    batch_size: int = 512
    first: int = 100
    last: int = 5
    prototypes: int = 5
    memory: float = 2.0
    internal_batch_size: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice("matrix", self.matrix, get_args(MatrixKind))
        if self.solver is not None:
            check_choice("solver", self.solver, get_args(Solver))
        if self.solver == "procrustes" and self.matrix != "orthogonal":
            raise ValueError("solver 'procrustes' finds orthogonal matrices; for an invertible one take 'gradient'")
        for name in ("rounds", "steps", "batch_size", "first", "last", "prototypes", "internal_batch_size"):
            check_integer(name, getattr(self, name))
        check_integer("seed", self.seed, least=0)
        check_number("learning_rate", self.learning_rate, above=0)
        check_number("memory", self.memory, above=0)
        if self.last > self.first:
            raise ValueError(
                f"the pool of prototypes shrinks, from first to last: first is {self.first}, last {self.last}"
            )

    @property
    def chosen_solver(self) -> Solver:
        """The solver, where None is given the one for this kind of matrix."""
        return self.solver or ("procrustes" if self.matrix == "orthogonal" else "gradient")

    def pool(self, round_number: int, images: int) -> int:
        """Return the number of prototypes of a channel in a round, counted from 0."""
        share = round_number / max(1, self.rounds - 1)
        wanted = round(self.first + (self.last - self.first) * share)
        return max(1, min(wanted, max(images // 4, self.prototypes), images))
