"""Fit of a matrix that makes channels pure, and of each channel's prototypes; resumable.

A round chooses each channel's prototypes (the pool shrinks from round to round) and the positions at which they are
strongest, then changes the matrix so that their purity rises, by one of two solvers:

- "procrustes": for a rotation ``||U z|| = ||z||``, so the mean purity is ``tr(U^T C) / D`` with ``C_k`` the mean of
  ``z / ||z||`` over channel ``k``'s prototypes, and its maximum over rotations is the polar factor of ``C``;
- "gradient": Adam steps on the matrix exponential, as published.

Source: EPIC, Borycki et al. (AAAI 2026, arXiv 2505.12897); the closed form, and prototypes of both signs, are ours.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from xai_align._tools.counted import counted
from xai_align._tools.files.folder_lock import locked_folder
from xai_align._tools.full_precision import full_precision
from xai_align._tools.logits import select_logits
from xai_align._tools.options import with_changes
from xai_align._tools.progress import progress_bar
from xai_align._tools.refused_images import refused_images
from xai_align._tools.replica import Replica
from xai_align._tools.thread_state import restores_thread_state
from xai_align.features.resolve_layer import Layer
from xai_align.features.unwrapping import unwrapped
from xai_align.pinet.input_checks import check_comparable, check_inputs, check_model
from xai_align.prototypes.feature_cache import CachedFeatures, gather_features, stacked
from xai_align.prototypes.fingerprint import fingerprint_of, fixed_image
from xai_align.prototypes.layer_maps import LayerMaps, mixing_space
from xai_align.prototypes.mixing import AdamOnMatrices, nearest_rotation
from xai_align.prototypes.options import PrototypeOptions
from xai_align.prototypes.prototype_file import load_prototypes, save_prototypes
from xai_align.prototypes.purity import channel_purity, prototype_images, purity_at, strongest_positions
from xai_align.prototypes.record import Prototypes
from xai_align.training.checkpoints import Checkpoints, Snapshot
from xai_align.training.digest import DigestOfRows, digest_of
from xai_align.training.diverged import DivergedError

#: Name of the file in the folder of a fit.
FILE = "prototypes.safetensors"
#: Weight of the last round's matrix beside a channel's directions, whose length is up to 1.
_STAYS = 1e-6
#: Condition number of an invertible matrix from which on it is noted.
ILL_CONDITIONED = 1e4


@restores_thread_state
def fit_prototypes(
    model: nn.Module,
    images: Any,
    layer: str | None = None,
    *,
    names: Sequence[str] | None = None,
    out: str | Path | None = None,
    output: str | int | None = None,
    options: PrototypeOptions | None = None,
    show_progress: bool = False,
    **changed: Any,
) -> Prototypes:
    """Fit a matrix that makes the channels of a layer pure, and return it with each channel's prototypes.

    The model is not changed. Each image passes through it once, and its features are kept. With ``out``, all images are
    read once before that, one at a time, to know them again.

    Args:
        model: the network, in eval mode.
        images: a sequence or a map-style dataset of tensors ``[C, H, W]`` in one size, as the model takes them, or of
            tuples that begin with one; or a ``DataLoader``, of which the data set is taken. Labels are not used.
        layer: the layer's name, or ``"head"``. None: the head's input; where the head reads class tokens alone, the
            last patch tokens that affect the answer.
        names: of the images; None: their numbers.
        out: folder for ``prototypes.safetensors`` and the checkpoints. A fit that was stopped resumes from it, with
            the same result as an uninterrupted one; a finished fit is loaded. Cached features are removed at the end.
            None: nothing is written.
        output: which of the model's outputs are the logits.
        options: see :class:`PrototypeOptions`.
        show_progress: show a progress bar.
        **changed: options by keyword.

    Raises:
        ValueError: there are fewer images than prototypes, or model, layer, images or options are not suitable; or
            ``out`` has a fit of another model, of other images or with other options.
        TypeError: there is no such option, or an item is not an image.
        DivergedError: with the solver "gradient", the matrix holds NaN or infinity.

    Source: EPIC, Borycki et al. (AAAI 2026, arXiv 2505.12897).

    Example::

        found = fit_prototypes(model, list(images), "conv2", prototypes=2)
        found.purity.mean(1)  # before and after
    """
    chosen = with_changes(options, PrototypeOptions, changed, "fit_prototypes", ("names", "out", "output", "layer"))
    images = images.dataset if isinstance(images, DataLoader) else images
    if not (hasattr(images, "__len__") and hasattr(images, "__getitem__")):
        raise TypeError(
            f"the images are {type(images).__name__}; give a sequence or a data set of known length, whose items are "
            "images [C, H, W] or begin with one"
        )
    count = len(images)
    if count < chosen.prototypes:
        raise ValueError(
            f"there {'is' if count == 1 else 'are'} {counted(count, 'image')}, and each channel gets "
            f"{counted(chosen.prototypes, 'prototype')}; give more images, or prototypes={max(1, count)}"
        )
    named = [str(name) for name in (range(count) if names is None else names)]
    if len(named) != count:
        raise ValueError(f"{counted(len(named), 'name')} for {counted(count, 'image')}; give one for each")
    model, own_layer = unwrapped(model)
    check_model(model)
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    first = stacked(images, [0]).to(device)
    check_inputs(model, (first,))
    with refused_images(model, first), torch.no_grad():
        copy = Replica(model).module
        logits = select_logits(copy(first.clone()), output)
        check_comparable(lambda images: select_logits(copy(images), output), first, logits)
    asked: Layer = own_layer if layer is None else layer
    space = mixing_space(model, asked, first, output)
    maps_of = LayerMaps(model, space)
    maps_of.check_runs_once(first)
    fingerprint = fingerprint_of(model, space, maps_of(fixed_image(first)), (first.shape[-2], first.shape[-1]))
    settings = {**asdict(chosen), "solver": chosen.chosen_solver}
    folder = None if out is None else Path(out)
    known = {name: value for name, value in fingerprint.items() if name != "features"}  # these are rounded
    fitted_to = {"fingerprint": known, "images": count, "names": digest_of({}, "\n".join(named))}
    if folder is not None:
        with progress_bar("reading", count, shown=show_progress) as bar:
            fitted_to["content"] = _content(images, bar.advance)
    checkpoints = None if folder is None else Checkpoints(folder / "checkpoints", {**fitted_to, "options": settings})
    with (
        torch.inference_mode(False),
        full_precision(device.type),
        locked_folder(folder, "fit"),
        progress_bar("features", count, shown=show_progress) as bar,
    ):
        if folder is not None and checkpoints is not None:
            done = _finished(folder / FILE, checkpoints, chosen.rounds)
            if done is not None:
                shutil.rmtree(folder / "features", ignore_errors=True)  # of a run that stopped after its file
                return done
        features = gather_features(
            maps_of,
            images,
            memory=chosen.memory,
            least=max(2, chosen.prototypes) if count > 1 else 1,
            batch_size=chosen.internal_batch_size,
            seed=chosen.seed,
            device=device,
            folder=None if folder is None else folder / "features",
            config=fitted_to,
            advance=bar.advance,
        )
        bar.describe("rounds")
        bar.move_to(0, chosen.rounds)
        state = _fit_rounds(features, chosen, checkpoints, bar)
        found = _with_prototypes(features, state, chosen, maps_of, images, device)
        before = _purity(features, _unmixed(len(state.matrix)), chosen)
        record = Prototypes(
            matrix=state.matrix,
            kind=chosen.matrix,
            layer=layer,
            **found,
            purity=torch.stack([before, _purity(features, state.matrix, chosen, state.positions)]),
            names=tuple(named),
            fingerprint=fingerprint,
            output=output,
            notes=_notes(features, state.matrix, chosen),
            history=tuple(state.history),
        )
        if folder is not None:
            save_prototypes(record, folder / FILE)
            shutil.rmtree(folder / "features", ignore_errors=True)
    return record


def _content(images: Any, advance: Callable[[int], None]) -> str:
    """Return a digest of all images, in their order, holding one at a time; others may have their names."""
    digest = DigestOfRows()
    for number in range(len(images)):
        digest.add(stacked(images, [number]))
        advance(1)
    return digest.value()


def _finished(path: Path, checkpoints: Checkpoints, rounds: int) -> Prototypes | None:
    """Return what a fit with this configuration that has ended wrote; None if there is none.

    Raises:
        ValueError: the folder has a fit with another configuration.
    """
    saved = checkpoints.newest()
    if saved is None or len(saved[1].numbers["history"]) < rounds or not path.is_file():
        return None
    try:
        found = load_prototypes(path)
    except ValueError:  # damaged: made again from the checkpoint
        return None
    return found if torch.equal(found.matrix, saved[1].tensors["matrix"]) else None


@dataclass
class _State:
    """State after some rounds; ``positions [M, D]`` are where each channel is strongest with this matrix."""

    matrix: Tensor
    adam: AdamOnMatrices
    history: list[float]
    positions: Tensor


def _unmixed(channels: int) -> Tensor:
    return torch.eye(channels, dtype=torch.float32, device="cpu")


def _fit_rounds(
    features: CachedFeatures, options: PrototypeOptions, checkpoints: Checkpoints | None, bar: Any
) -> _State:
    channels = features.sums.shape[1]
    orthogonal = options.matrix == "orthogonal"
    zeros = torch.zeros(channels, channels, dtype=torch.float32, device="cpu")
    adam = AdamOnMatrices(zeros, zeros.clone(), 0, orthogonal, options.learning_rate)
    state = _State(_unmixed(channels), adam, [], torch.empty(0, dtype=torch.int64, device="cpu"))
    saved = None if checkpoints is None else checkpoints.newest()
    if saved is not None:
        _restore(state, saved[1])
    state.positions = strongest_positions(features.maps, state.matrix)
    for number in range(len(state.history), options.rounds):
        bar.move_to(number)
        _one_round(features, options, state, number)
        if checkpoints is not None:
            checkpoints.write(number + 1, _snapshot(state, options))
    return state


def _one_round(features: CachedFeatures, options: PrototypeOptions, state: _State, number: int) -> None:
    """Choose prototypes and positions, and change the matrix."""
    maps, sums = features.maps, features.sums[features.sample]
    images, _ = prototype_images(sums, state.matrix, options.pool(number, len(maps)))
    channels = torch.arange(len(state.matrix), device="cpu")[:, None].expand_as(images)
    cells = state.positions[images, channels]
    if options.chosen_solver == "procrustes":
        directions = _directions(maps, images, cells)
        # a channel that is 0 everywhere has no direction, and stays as it is
        state.matrix = nearest_rotation(directions + _STAYS * state.matrix)
    else:
        _descend(maps, (images.flatten(), cells.flatten(), channels.flatten()), options, state, number)
        if not bool(state.matrix.isfinite().all()):
            raise DivergedError(
                f"the matrix holds NaN or infinity after round {number + 1}; give a smaller learning_rate than "
                f"{options.learning_rate:g}"
            )
        if options.matrix == "orthogonal":
            state.matrix = nearest_rotation(state.matrix)
    state.positions = strongest_positions(maps, state.matrix)
    state.history.append(float(_purity(features, state.matrix, options, state.positions).mean()))


def _directions(maps: Tensor, images: Tensor, cells: Tensor) -> Tensor:
    """Return ``C [D, D]``: per channel the mean of ``z / ||z||`` over its prototypes."""
    rows = []
    for image, cell in zip(images, cells, strict=True):
        z = maps[image, cell]
        rows.append((z / z.norm(dim=1, keepdim=True).clamp_min(torch.finfo(z.dtype).tiny)).mean(0))
    return torch.stack(rows)


def _descend(
    maps: Tensor, pairs: tuple[Tensor, Tensor, Tensor], options: PrototypeOptions, state: _State, number: int
) -> None:
    """Take the Adam steps of a round; ``pairs`` are images, positions and channels of all prototypes."""
    images, cells, channels = pairs
    generator = torch.Generator().manual_seed((options.seed * options.rounds + number) % 2**63)
    for _ in range(options.steps):
        some = torch.randint(len(images), (options.batch_size,), generator=generator, device="cpu")
        with torch.enable_grad():
            matrix = state.matrix.clone().requires_grad_()
            loss = -purity_at(maps[images[some], cells[some]], matrix, channels[some]).mean()
            (gradient,) = torch.autograd.grad(loss, matrix)
        state.matrix = state.adam.move(state.matrix, gradient)


def _purity(
    features: CachedFeatures, matrix: Tensor, options: PrototypeOptions, positions: Tensor | None = None
) -> Tensor:
    count = min(options.prototypes, len(features.maps))
    return channel_purity(features.maps, matrix, count, features.sums[features.sample], positions)


def _with_prototypes(
    features: CachedFeatures,
    state: _State,
    options: PrototypeOptions,
    maps_of: LayerMaps,
    images: Any,
    device: torch.device,
) -> Mapping[str, Tensor]:
    """Return images, positions and activations of both signs; images without a cached map pass the network again."""
    matrix = state.matrix
    chosen, activations = zip(
        *(prototype_images(features.sums, matrix, options.prototypes, sign) for sign in (1, -1)), strict=True
    )
    found = torch.stack(chosen)
    used = found.unique()
    table = torch.empty(2, len(used), len(matrix), dtype=torch.int32, device="cpu")
    cached = torch.isin(used, features.sample)
    for rows in cached.nonzero()[:, 0].split(options.internal_batch_size):
        maps = features.maps[torch.searchsorted(features.sample, used[rows])]
        for side, sign in enumerate((1, -1)):
            table[side, rows] = strongest_positions(maps, matrix, sign).int()
    for rows in (~cached).nonzero()[:, 0].split(options.internal_batch_size):
        if len(rows):
            maps = maps_of(stacked(images, used[rows].tolist()).to(device)).float().cpu().flatten(2).transpose(1, 2)
            for side, sign in enumerate((1, -1)):
                table[side, rows] = strongest_positions(maps, matrix, sign).int()
    channels = torch.arange(len(matrix), device="cpu")[None, :, None]
    positions = table[torch.arange(2, device="cpu")[:, None, None], torch.searchsorted(used, found), channels].long()
    return {"images": found, "positions": positions, "activations": torch.stack(activations)}


def _notes(features: CachedFeatures, matrix: Tensor, options: PrototypeOptions) -> tuple[str, ...]:
    notes = []
    if len(features.sample) < len(features.sums):
        notes.append(
            f"the maps of all {len(features.sums)} images take more than {options.memory:g} GiB, so the matrix was "
            f"fitted to a random sample of {len(features.sample)}; prototypes are chosen among all"
        )
    if options.matrix == "invertible" and (condition := float(torch.linalg.cond(matrix.double()))) > ILL_CONDITIONED:
        notes.append(f"the matrix is ill-conditioned (condition number {condition:.3g}); an orthogonal one is not")
    if features.grid == (1, 1):
        notes.append(
            "the layer has a single position (1 x 1), so the parts are whole images; larger images, or an earlier "
            "layer, have more"
        )
    silent = int((features.maps.abs().amax((0, 1)) == 0).sum())
    if silent:
        notes.append(
            f"{silent} of {counted(len(matrix), 'channel')} {'is' if silent == 1 else 'are'} 0 in all images of the fit"
        )
    return tuple(notes)


def _snapshot(state: _State, options: PrototypeOptions) -> Snapshot:
    tensors = {"matrix": state.matrix}
    if options.chosen_solver == "gradient":
        tensors |= {"mean": state.adam.mean, "square": state.adam.square}
    return Snapshot(tensors, {"step": state.adam.step, "history": state.history})


def _restore(state: _State, saved: Snapshot) -> None:
    state.matrix = saved.tensors["matrix"]
    state.adam.mean = saved.tensors.get("mean", state.adam.mean)
    state.adam.square = saved.tensors.get("square", state.adam.square)
    state.adam.step, state.history = int(saved.numbers["step"]), [float(one) for one in saved.numbers["history"]]
