"""Grid pointing game: on a grid of pictures of different classes, does the map of a class lie on its own picture?

Boehle, Fritz & Schiele, "Convolutional Dynamic Alignment Networks for Interpretable Classifications", CVPR 2021, and
"B-cos Networks", CVPR 2022. A grid has ``n x n`` cells, each with one picture, all of different classes; by chance a
map has ``1 / n^2`` of its positive attribution in the cell of its class. Every picture, by itself, is classified
correctly by the network with a probability over one half.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from math import isqrt
from typing import Any

import torch
from torch import Tensor, nn

from xai_align._tools.checks import check_finite, check_integer, check_number
from xai_align._tools.counted import counted
from xai_align._tools.drawn import permutation
from xai_align._tools.model_state import check_evaluation_mode
from xai_align._tools.progress import progress_bar
from xai_align._tools.thread_state import restores_thread_state
from xai_align.evaluation.localisation import positive_mass
from xai_align.evaluation.maps_and_masks import pixel_maps
from xai_align.perturbation.spec import grid_mask

#: Grids in the papers.
COUNT = 500
#: Probability that a picture's class must exceed when the network is shown the picture alone.
CONFIDENCE = 0.5
#: Pictures in one forward pass, if nothing else is given.
BATCH_SIZE = 16


@dataclass(frozen=True, kw_only=True)
class PictureGrids:
    """Choice of the pictures of grids.

    Attributes:
        members: ``[G, n * n]``, int64: the index of the picture in each cell, cells row by row.
        labels: ``[G, n * n]``, int64: the classes of these pictures, all different within a grid.

    Example::

        grids = PictureGrids(members=torch.tensor([[4, 0, 2, 7]]), labels=torch.tensor([[1, 3, 0, 2]]))
        grids.n  # 2
    """

    members: Tensor
    labels: Tensor

    @property
    def n(self) -> int:
        """Number of rows, and of columns."""
        return isqrt(self.members.shape[1])

    def __len__(self) -> int:
        return len(self.members)


def grid_pointing_game(
    model: nn.Module | Callable[..., Tensor],
    images: Tensor,
    labels: Tensor,
    explain: Callable[[Any, Tensor, list[int]], Tensor],
    *,
    n: int | None = None,
    count: int | None = None,
    seed: int | None = None,
    grids: PictureGrids | None = None,
    scaled: bool = False,
    internal_batch_size: int | None = None,
    show_progress: bool = False,
) -> Tensor:
    """Compute the share of positive attribution in a class's own cell, mean over the classes of a grid; ``[G]``.

    Higher is better, ``1 / n^2`` is chance. Each grid is explained once for each of its classes; the model itself is
    run on single pictures only, to choose them. The authors first average their maps over 15 x 15 pixels; here
    maps are not averaged.

    Args:
        model: gives logits ``[N, K]``; an ``nn.Module`` must be in eval mode.
        images: pictures ``[N, C, H, W]``, on the model's device.
        labels: their classes ``[N]``, whole numbers.
        explain: ``explain(model, images, target)`` gives maps ``[M, H', W']`` or ``[M, C, H', W']`` for grids
            ``[M, C, H', W']`` and a class for each of them.
        n: rows and columns of the grids; None: 2.
        count: the largest number of grids; None: 500.
        seed: seed of the choice, see :func:`draw_grids`; None: 0.
        grids: an earlier choice, in place of ``n``, ``count`` and ``seed``: the same for several methods.
        scaled: False: pictures keep their size, and a grid is ``n`` times as large (networks that take any size).
            True: pictures are scaled down, and a grid is as large as one picture (networks with a fixed size).
        internal_batch_size: number of grids that are explained at once; None: ``n * n``.
        show_progress: show a progress bar.

    Raises:
        ValueError: shapes or labels don't fit, values are not finite, there are too few pictures (see
            :func:`draw_grids`), maps have another size than the grids, or grids are given with an option of their
            choice.

    Example::

        def gradient(model, images, target):
            images = images.clone().requires_grad_()
            return torch.autograd.grad(model(images)[range(len(target)), target].sum(), images)[0]

        pictures, classes = torch.cat([images, images]), torch.tensor([1, 3, 0, 2])
        members = torch.tensor([[0, 1, 2, 3], [3, 1, 0, 2]])
        grids = PictureGrids(members=members, labels=classes[members])
        grid_pointing_game(model, pictures, classes, gradient, grids=grids)  # [2]
    """
    given = {"n": n, "count": count, "seed": seed}
    choice: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if grids is None:
        grids = draw_grids(model, images, labels, **choice, batch_size=internal_batch_size)
    else:
        if choice:
            raise ValueError(f"the grids are chosen already; give either grids or {', '.join(choice)}")
        check_evaluation_mode(model)
        _check_labelled(images, labels)
        _check_grids(grids, labels)
    cells = grids.members.shape[1]
    size = check_integer("internal_batch_size", cells if internal_batch_size is None else internal_batch_size)
    shares = []
    with progress_bar("grid pointing", len(grids) * cells, shown=show_progress, timed="map") as bar:
        for first in range(0, len(grids) * cells, size):
            which = torch.arange(first, min(first + size, len(grids) * cells))
            grid, cell = which // cells, which % cells
            shown, place = grid.unique(return_inverse=True)
            pictures = images[grids.members[shown].to(images.device)]
            tiled = tile_pictures(pictures, scaled=scaled)[place.to(images.device)]
            maps = explain(model, tiled, grids.labels[grid, cell].tolist())
            check_maps(maps, tiled)
            shares.append(cell_share(maps, cell, n=grids.n))
            bar.advance(len(which))
    return torch.cat(shares).reshape(len(grids), cells).mean(1)


def draw_grids(
    model: nn.Module | Callable[..., Tensor],
    images: Tensor,
    labels: Tensor,
    *,
    n: int = 2,
    count: int = COUNT,
    seed: int = 0,
    confidence: float = CONFIDENCE,
    reuse: bool = False,
    batch_size: int | None = None,
) -> PictureGrids:
    """Draw grids of pictures of different classes, each classified correctly by itself.

    The classes of a grid are drawn with equal probability, without replacement, from those that have a picture left;
    of each class the remaining picture with the highest probability is used. No picture is used twice, and drawing
    ends when fewer than ``n * n`` classes have one left, or after ``count`` grids.

    Args:
        model: gives logits ``[N, K]``; an ``nn.Module`` must be in eval mode.
        images: pictures ``[N, C, H, W]``, on the model's device.
        labels: their classes ``[N]``, whole numbers.
        n: rows and columns of a grid, at least 2.
        count: the largest number of grids.
        seed: seed of the classes.
        confidence: a picture is used if its class is predicted with a probability (softmax) above this.
        reuse: a class whose pictures have all been used starts again with the first, so that there are ``count`` grids.
        batch_size: number of pictures in one forward pass.

    Raises:
        ValueError: shapes or labels don't fit, values are not finite, or fewer than ``n * n`` classes have a picture
            that is classified correctly.

    Example::

        colours = torch.eye(4)[:, :, None, None].expand(4, 4, 8, 8)  # the picture of class k is 1 in channel k
        draw_grids(lambda x: 10 * x.mean((2, 3)), colours, torch.arange(4)).members  # [1, 4]
    """
    check_integer("n", n, least=2)
    check_integer("count", count)
    check_number("confidence", confidence, below=1)
    _check_labelled(images, labels)
    labels = labels.cpu()
    classes = len(labels.unique())
    if len(images) < n * n or classes < n * n:
        raise ValueError(
            f"a grid of {n} x {n} needs {n * n} pictures of different classes; {counted(len(images), 'picture')} of "
            f"{counted(classes, 'class')} {'was' if len(images) == 1 else 'were'} given"
        )
    right = class_probabilities(model, images, labels, batch_size=batch_size)
    by_class = _most_confident_first(labels, right, confidence)
    if len(by_class) < n * n:
        raise ValueError(
            f"a grid of {n} x {n} needs {n * n} classes; of the {classes} given, only {len(by_class)} "
            f"{'has' if len(by_class) == 1 else 'have'} a picture "
            f"that the network classifies correctly with a probability above {confidence:g}; give more pictures, a "
            "smaller n or a lower confidence"
        )
    generator = torch.Generator().manual_seed(seed)
    members: list[list[int]] = []
    chosen: list[list[int]] = []
    used = dict.fromkeys(by_class, 0)
    while len(members) < count:
        left = [label for label, rows in by_class.items() if reuse or used[label] < len(rows)]
        if len(left) < n * n:
            break
        drawn = [left[i] for i in permutation(len(left), generator)[: n * n].tolist()]
        members.append([by_class[label][used[label] % len(by_class[label])] for label in drawn])
        chosen.append(drawn)
        for label in drawn:
            used[label] += 1
    return PictureGrids(members=torch.tensor(members), labels=torch.tensor(chosen))


def tile_pictures(pictures: Tensor, *, scaled: bool = False) -> Tensor:
    """Lay pictures ``[G, n * n, C, H, W]`` out as grids ``[G, C, H', W']``, cells row by row.

    Args:
        pictures: the pictures of each grid, which need not be square.
        scaled: False: ``H' = n H`` and ``W' = n W``. True: ``H' = H`` and ``W' = W``; each picture is resized
            (bilinear, antialiased) to its cell. Where ``n`` does not divide ``H``, cell row ``r`` has the rows from
            ``ceil(H r / n)`` to before ``ceil(H (r + 1) / n)``; columns in the same way.

    Raises:
        ValueError: the number of pictures is not a square, or a picture is smaller than ``n`` pixels.

    Example::

        tile_pictures(torch.rand(1, 4, 3, 32, 48)).shape  # [1, 3, 64, 96]
        tile_pictures(torch.rand(1, 9, 3, 32, 48), scaled=True).shape  # [1, 3, 32, 48]
    """
    if pictures.dim() != 5 or isqrt(pictures.shape[1]) ** 2 != pictures.shape[1]:
        raise ValueError(
            f"the pictures have shape {list(pictures.shape)}; give [G, n * n, C, H, W], a square number for each grid"
        )
    n, (height, width) = isqrt(pictures.shape[1]), pictures.shape[-2:]
    if scaled and min(height, width) < n:
        raise ValueError(f"pictures of {height} x {width} pixels have no room for {n} x {n} cells")
    rows, columns = (_cell_sizes(length, n, scaled) for length in (height, width))
    strips = []
    for r, high in enumerate(rows):
        cells = [pictures[:, r * n + c] for c in range(n)]
        if scaled:
            cells = [
                nn.functional.interpolate(cell, (high, wide), mode="bilinear", antialias=True, align_corners=False)
                for cell, wide in zip(cells, columns, strict=True)
            ]
        strips.append(torch.cat(cells, -1))
    return torch.cat(strips, -2)


def cell_share(attributions: Tensor, cells: Tensor, *, n: int = 2) -> Tensor:
    """Compute the share of positive attribution in a cell of a grid: ``sum_cell relu(A) / sum relu(A)``; ``[M]``.

    0 for a map without positive values, as in the authors' code.

    Args:
        attributions: maps of grids, ``[M, H, W]`` or ``[M, C, H, W]`` (channels are summed).
        cells: ``[M]``, whole numbers: the cell of each map's own class, counted row by row from 0.
        n: rows and columns; cell row ``r`` has the rows from ``ceil(H r / n)`` to before ``ceil(H (r + 1) / n)``.

    Raises:
        ValueError: shapes don't fit, maps are not finite, or there is no such cell.

    Example::

        cell_share(torch.ones(2, 32, 32), torch.tensor([0, 3]))  # [0.25, 0.25]
    """
    check_integer("n", n, least=2)
    maps = pixel_maps(attributions)
    if cells.is_floating_point() or cells.shape != maps.shape[:1]:
        raise ValueError(f"the cells are {cells.dtype} {list(cells.shape)}; give one whole number for each map")
    if bool(((cells < 0) | (cells >= n * n)).any()):
        raise ValueError(f"the cells are {cells.tolist()}; a grid of {n} x {n} has the cells 0 to {n * n - 1}")
    own = grid_mask(maps.shape[1:], (n, n)).to(maps.device) == cells.to(maps.device)[:, None, None]
    return positive_mass(maps, own).nan_to_num(0.0)


def predictions(
    model: nn.Module | Callable[..., Tensor], images: Tensor, *, batch_size: int | None = None
) -> tuple[Tensor, Tensor]:
    """Return the predicted class of each picture and its probability, ``[N]`` each, on the CPU.

    Raises:
        ValueError: the model is in train mode, or does not give logits ``[N, K]`` of at least two classes.
    """
    p = probabilities(model, images, batch_size).max(1)
    return p.indices, p.values


def class_probabilities(
    model: nn.Module | Callable[..., Tensor], images: Tensor, labels: Tensor, *, batch_size: int | None = None
) -> Tensor:
    """Return the probability of each picture's class where it is the predicted one, else 0; ``[N]`` on the CPU.

    Raises:
        ValueError: as of :func:`predictions`, or the network does not have a class.
    """
    p, labels = probabilities(model, images, batch_size), labels.cpu().long()
    if int(labels.max()) >= p.shape[1]:
        raise ValueError(f"class {int(labels.max())} is not among the network's {p.shape[1]} classes")
    return p.gather(1, labels[:, None])[:, 0] * (p.argmax(1) == labels)


@restores_thread_state
def probabilities(model: nn.Module | Callable[..., Tensor], images: Tensor, batch_size: int | None = None) -> Tensor:
    """Return probabilities ``[N, K]`` on the CPU.

    Raises:
        ValueError: as of :func:`predictions`.
    """
    check_evaluation_mode(model)
    size = BATCH_SIZE if batch_size is None else check_integer("batch_size", batch_size)
    parts = []
    for some in images.split(size):
        with torch.no_grad():
            logits = model(some)
        if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(some) or logits.shape[1] < 2:
            found = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ValueError(
                f"the network gave {found} for {counted(len(some), 'picture')}; logits [N, K] of K > 1 are needed"
            )
        parts.append(logits.float().softmax(1).cpu())
    return torch.cat(parts)


def _most_confident_first(labels: Tensor, probability: Tensor, confidence: float) -> dict[int, list[int]]:
    """Return, for each class with pictures above ``confidence``, their indices; ties in the order given."""
    order = probability.argsort(descending=True, stable=True)
    found: dict[int, list[int]] = {int(label): [] for label in labels.unique()}
    for row in order.tolist():
        if float(probability[row]) > confidence:
            found[int(labels[row])].append(row)
    return {label: rows for label, rows in found.items() if rows}


def _cell_sizes(length: int, n: int, scaled: bool) -> list[int]:
    """Return the rows (or columns) of each cell; the same split as of :func:`grid_mask`."""
    if not scaled:
        return [length] * n
    edges = [-(-length * i // n) for i in range(n + 1)]
    return [end - start for start, end in pairwise(edges)]


def check_pictures(images: Any) -> None:
    """Raise unless the images are a tensor ``[N, C, H, W]`` of finite values.

    Raises:
        ValueError: they are not.
    """
    if not isinstance(images, Tensor) or images.dim() != 4 or not images.numel():
        found = list(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise ValueError(f"the images are {found}; give one tensor of pictures [N, C, H, W], all of one size")
    check_finite("the images", images)


def _check_labelled(images: Any, labels: Any) -> None:
    check_pictures(images)
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.dtype == torch.bool:
        kind = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
        raise ValueError(f"the labels are {kind}; give a tensor of whole numbers [N]")
    if labels.shape != images.shape[:1] or bool((labels < 0).any()):
        raise ValueError(
            f"the labels have shape {list(labels.shape)} and start at {int(labels.min()) if labels.numel() else 'none'}"
            f"; give one class, 0 or more, for each picture, [{len(images)}]"
        )


def _check_grids(grids: PictureGrids, of_pictures: Tensor) -> None:
    members, labels, pictures = grids.members, grids.labels, len(of_pictures)
    square = members.dim() == 2 and members.shape[1] > 1 and grids.n**2 == members.shape[1]
    if not square or not len(members) or members.shape != labels.shape:
        raise ValueError(
            f"the grids have members {list(members.shape)} and labels {list(labels.shape)}; give [G, n * n] for both"
        )
    if bool(((members < 0) | (members >= pictures)).any()):
        raise ValueError(f"the grids name pictures {int(members.min())} to {int(members.max())}; there are {pictures}")
    if any(len(set(row)) < len(row) for row in labels.tolist()):
        raise ValueError("a grid names a class twice; all classes of a grid must be different")
    if not torch.equal(of_pictures.cpu()[members.cpu()], labels.cpu().to(of_pictures.dtype)):
        raise ValueError(
            "the grids' labels are not those of their members; give PictureGrids(members, labels[members])"
        )


def check_maps(maps: Any, grids: Tensor) -> None:
    """Raise unless there is a map of its size for each of the grids ``[M, C, H', W']``.

    Raises:
        ValueError: there is not.
    """
    fits = isinstance(maps, Tensor) and maps.dim() in (3, 4) and len(maps) == len(grids)
    if not fits or maps.shape[-2:] != grids.shape[-2:]:
        found = list(maps.shape) if isinstance(maps, Tensor) else type(maps).__name__
        count, _, height, width = grids.shape
        raise ValueError(
            f"explain gave {found} for grids {list(grids.shape)}; give maps [{count}, {height}, {width}], or with "
            "channels, in the size of the grids"
        )
