"""Masker on the frozen first stages of a pretrained network, for small sets of photographs.

    images ─ frozen stages ─ finest grid ───────────────── 1x1 + ─ smooth ─ logits ─ up ─ sigmoid
                           └ next grid ─── 1x1 + ─ smooth ─ up ┘
                           └ coarsest ─ 1x1 ─ up ┘

From a few hundred photographs a masker trained from scratch learns little more than that objects are near the centre.
The features of a pretrained network's first stages already have outlines, and only some ten thousand weights have to be
trained on them. Which layers are read, and how they are combined, is our choice.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from xai_align._tools.checks import check_integer, check_number
from xai_align._tools.counted import counted
from xai_align._tools.files.plain_json import in_one_clause
from xai_align._tools.model_state import parameters_of
from xai_align._tools.replica import Replica
from xai_align._tools.thread_state import hides_interrupt, restores_thread_state
from xai_align.align.masker_layers import convolution, enlarged, last_layer
from xai_align.features.cut_network import as_raster
from xai_align.features.recorded_grids import recorded_grids
from xai_align.features.routes import find_layer
from xai_align.features.stage_layers import layers_to_record
from xai_align.features.unwrapping import network_of
from xai_align.hookspecs import FeatureSpace

__all__ = ["NoStagesError", "StageMasker"]

#: Number of layers that are read if none are named: those before the deepest one, whose features separate classes and
#: not edges.
READ = 3


class NoStagesError(ValueError):
    """Error of a network without two hidden layers on grids over the image, for which there is no stage masker.

    Example::

        try:
            StageMasker(nn.Sequential(nn.Flatten(), nn.Linear(3072, 10)), size=(32, 32))
        except NoStagesError as error:
            print(error)  # Sequential has 0 hidden layers on a grid over the image ...
    """


class StageMasker(nn.Module):
    """Network from images to soft masks in [0, 1], near 1 where the evidence is, on frozen stages of a network.

    It reads the maps of some of the network's first stages, or of a transformer's first blocks, and trains a few layers
    on them. The stages are a copy: the network is not changed, and training it later changes no mask. They are frozen:
    in eval mode, with their running statistics, without gradients, also in ``train()``; so no gradient
    reaches the images through the masks. Only the layers after them require gradients.

    It takes the image and no label. Images may have any size that the network takes: any at all for most convolutional
    networks, ``size`` alone for many transformers. With the defaults it trains about 50,000 parameters.

    Args:
        network: a pretrained classifier, as it is before it is trained further. Only its part up to the last layer
            that is read is copied.
        in_channels: of the images.
        size: rows and columns of an image that the network takes; it is run once on one of zeros.
        layers: names of at least two layers to read, on grids over the image; None: up to three stages before the
            deepest one.
        width: channels of the trained layers.
        start: approximate value of untrained masks, inside (0, 1).

    Attributes:
        options: the arguments after the network, with the layers' names; ``StageMasker(network, **options)`` builds
            the same architecture from a network of the same architecture.
        layers: names of the layers that are read, the finest grid first.
        frozen: the copy of the network's first part.

    Raises:
        NoStagesError: the network has no two hidden layers on grids over the image.
        ValueError: an option is out of range, there is no such layer, or the network does not take such images.

    Example::

        masker = StageMasker(model, width=16, size=(32, 32))  # a pretrained network
        masks = masker(images)  # [N, 1, H, W], in [0, 1]
    """

    def __init__(
        self,
        network: nn.Module,
        in_channels: int = 3,
        *,
        size: tuple[int, int] = (224, 224),
        layers: Sequence[str] | None = None,
        width: int = 48,
        start: float = 0.6,
    ) -> None:
        super().__init__()
        size = _check_options(in_channels, size, width, start)
        self.in_channels = in_channels
        copy = _frozen_copy(network_of(network)[0])
        image = _zeros_like_images_of(copy, in_channels, size)
        self._spaces, channels = _spaces_on_grids(copy, image, layers)
        self.layers = tuple(self._spaces)
        self._taken = _Taken()
        for name in self.layers:
            find_layer(copy, name).register_forward_hook(_Take(self._taken, name, len(self.layers)))
        self.frozen = _without_what_follows(copy, image, self._taken)
        self.options: dict[str, Any] = {
            "in_channels": in_channels, "size": list(size), "layers": list(self.layers), "width": width, "start": start,
        }  # fmt: skip
        self.projected = nn.ModuleList(convolution(count, width, size=1) for count in channels)
        self.smooth = nn.ModuleList(convolution(width, width) for _ in channels[1:])
        self.last = last_layer(width, start)
        like = parameters_of(copy)
        if like and not self.last.weight.is_meta:
            trained = nn.ModuleList([self.projected, self.smooth, self.last])
            trained.to(like[0].device, like[0].dtype if like[0].is_floating_point() else None)

    def train(self, mode: bool = True) -> StageMasker:
        """Set the mode of the trained layers; the frozen stages stay in eval mode."""
        super().train(mode)
        self.frozen.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Return masks ``[N, 1, H, W]`` in [0, 1] for images ``[N, C, H, W]``, in the images' dtype.

        Raises:
            ValueError: the images have another shape, number of channels or size than the network takes.
        """
        return self.logits(images).sigmoid()

    def logits(self, images: Tensor) -> Tensor:
        """Return the masks before the sigmoid, ``[N, 1, H, W]``."""
        maps = self.features(images)
        joined: Tensor | None = None
        for number in reversed(range(len(maps))):  # from the coarsest grid to the finest
            here = self.projected[number](maps[number])
            joined = here if joined is None else self.smooth[number](here + enlarged(joined, here))
        # upsampled before the sigmoid, for edges between cells; not in half precision, which is coarse near 1
        return enlarged(self.last(joined).to(images.dtype), images)

    @torch.no_grad()
    def features(self, images: Tensor) -> list[Tensor]:
        """Return the maps ``[N, C_l, h_l, w_l]`` of the frozen layers, the finest grid first."""
        if images.dim() != 4 or images.shape[1] != self.in_channels:
            raise ValueError(
                f"the masker was made for images [N, {self.in_channels}, H, W] and got {list(images.shape)}; "
                "build one with StageMasker(network, in_channels=...) for others"
            )
        size = (images.shape[2], images.shape[3])
        with self._taken.collecting() as taken:
            _run_to_last_layer(self.frozen, images)
        dtype = self.last.weight.dtype
        try:
            return [as_raster(taken[name], space, size)[0].to(dtype) for name, space in self._spaces.items()]
        except KeyError as error:
            raise ValueError(
                f"the layer {error} did not run on images {list(images.shape)}, and it did on {self.options['size']}; "
                "give images of this size"
            ) from None

    def __repr__(self) -> str:
        return f"StageMasker({type(self.frozen).__name__}, layers={list(self.layers)}, width={self.options['width']})"


class _AllTakenError(Exception):
    """End of a pass: every layer has run, and what follows is not needed."""


class _Taken:
    """Outputs of the pass that runs in each thread; a copy of a masker has its own."""

    def __init__(self) -> None:
        self._local = threading.local()

    @contextmanager
    def collecting(self) -> Iterator[dict[str, Tensor]]:
        """Collect the outputs of the passes in the block, by layer."""
        before, self._local.now = self.now, {}
        try:
            yield self._local.now
        finally:
            self._local.now = before

    @property
    def now(self) -> dict[str, Tensor] | None:
        """Collection of this thread; None outside of :meth:`collecting`."""
        return getattr(self._local, "now", None)

    def __reduce__(self) -> Any:
        return _Taken, ()


class _Take:
    """Forward hook that takes a layer's output, and ends the pass with the last of ``count`` layers."""

    def __init__(self, taken: _Taken, name: str, count: int) -> None:
        self.taken, self.name, self.count = taken, name, count

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        now = self.taken.now
        output = output[0] if isinstance(output, tuple | list) and output else output
        if now is None or self.name in now or not isinstance(output, Tensor):
            return
        now[self.name] = output.clone()  # later layers may write into it
        if len(now) == self.count:
            raise _AllTakenError


def _run_to_last_layer(network: nn.Module, images: Tensor) -> None:
    """Run a network until all of its layers are taken.

    Raises:
        ValueError: it does not take such images.
    """
    try:
        with _calls_as_they_are():
            network(images.clone())  # the network may write into them
    except _AllTakenError:
        return
    except torch.OutOfMemoryError:
        raise
    except (AssertionError, RuntimeError, ValueError) as error:
        if hides_interrupt(error):
            raise
        raise ValueError(
            f"the frozen stages of {type(network).__name__} can't take images {list(images.shape)} "
            f"({type(error).__name__}: {in_one_clause(error, length=300)}); give images of a size, dtype and device "
            "that the network takes"
        ) from error


@contextmanager
def _calls_as_they_are() -> Iterator[None]:
    """Call modules in the block without ``torch.export``'s list of what runs, which our exception would leave wrong.

    The list is made by another ``nn.Module.__call__``, which the exporter itself puts there and takes away.
    """
    if not torch.compiler.is_exporting():
        yield
        return
    listing = nn.Module.__call__
    nn.Module.__call__ = nn.Module._wrapped_call_impl  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.__call__ = listing  # type: ignore[method-assign]


def _frozen_copy(network: nn.Module) -> nn.Module:
    """Return a copy in eval mode whose parameters have their own memory and require no gradient."""
    if not isinstance(network, nn.Module):
        raise TypeError(f"the network is a {type(network).__name__}; give a torch.nn.Module, a pretrained classifier")
    copy: nn.Module = deepcopy(Replica(network, evaluate=True).module)  # a replica has no gradients and no graph
    known: dict[int, nn.Parameter] = {}  # tied parameters stay tied
    for module in copy.modules():
        for name, tensor in module._parameters.items():
            if tensor is not None:
                own = known.setdefault(id(tensor), nn.Parameter(tensor.detach(), requires_grad=False))
                module._parameters[name] = own
    return copy


def _zeros_like_images_of(network: nn.Module, channels: int, size: tuple[int, int]) -> Tensor:
    """Return an image of zeros, of the network's dtype and on its device, also inside ``torch.device("meta")``."""
    like = next((p for p in parameters_of(network) if p.is_floating_point()), torch.zeros((), device="cpu"))
    return torch.zeros(1, channels, *size, dtype=like.dtype, device=like.device)


@restores_thread_state
def _spaces_on_grids(
    network: nn.Module, image: Tensor, layers: Sequence[str] | None
) -> tuple[dict[str, FeatureSpace], list[int]]:
    """Return the layers to read, the finest grid first, and their numbers of channels.

    Raises:
        NoStagesError: there are no two.
        ValueError: there is no such layer, or the network does not take the image.
    """
    named = _named(network, image, layers)
    taken = _Taken()
    handles = [
        find_layer(network, name).register_forward_hook(_Take(taken, name, len(named) + 1))  # no end of the pass
        for name in named
    ]
    with torch.no_grad(), taken.collecting() as outputs:
        _run_to_last_layer(network, image)
    for handle in handles:
        handle.remove()
    found = recorded_grids(network, named, outputs, image)
    if layers is None and len(found) > 2:
        order = [name for name in outputs if name in found]  # as they run
        found = {name: found[name] for name in order[-READ - 1 : -1]}
    if len(found) < 2 or (layers is not None and len(found) < len(named)):
        lacking = [name for name in named if name not in found]
        raise NoStagesError(
            f"{type(network).__name__} has {counted(len(found), 'hidden layer')} on a grid over the image "
            f"({', '.join(found) or 'none'}{'; not ' + ', '.join(lacking) if lacking else ''}), and a masker on its "
            "stages reads at least two; name others with layers=..., or use Masker(), which reads the image itself"
        )
    order = sorted(found, key=lambda name: -found[name][1][0, 0].numel())
    return {name: found[name][0] for name in order}, [found[name][1].shape[1] for name in order]


def _named(network: nn.Module, image: Tensor, layers: Sequence[str] | None) -> list[str]:
    """Return the names of layers that may be read.

    Raises:
        ValueError: one of the given layers isn't there, or the network does not take the image.
    """
    if layers is None:
        with torch.no_grad():
            _run_to_last_layer(network, image)  # so that its own error is the one that is shown
        return list(layers_to_record(network, image))
    if isinstance(layers, str) or not all(isinstance(name, str) for name in layers):
        raise ValueError(f"layers is {layers!r}; give a list of the names of at least two layers")
    for name in layers:
        find_layer(network, name)
    return list(dict.fromkeys(layers))


@torch.no_grad()
def _without_what_follows(network: nn.Module, image: Tensor, taken: _Taken) -> nn.Module:
    """Return the network without the modules that follow the last layer that is read.

    Modules that had not begun when the pass ended are removed from those that were then running. A module that had run
    by then is left whole: it may read parameters of children that it doesn't call.
    """
    begun: set[int] = set()
    ended: set[int] = set()
    handles = []
    for module in network.modules():
        handles.append(module.register_forward_pre_hook(lambda module, args: begun.add(id(module))))
        handles.append(module.register_forward_hook(lambda module, args, output: ended.add(id(module)), prepend=True))
    with taken.collecting() as outputs:
        _run_to_last_layer(network, image)
    for handle in handles:
        handle.remove()
    removed = []
    for parent in list(network.modules()):
        if id(parent) in ended:
            continue
        if id(parent) not in begun and not any(id(child) in begun for child in parent.modules()):
            continue  # it is removed from its own parent
        for name, child in parent.named_children():
            if not any(id(one) in begun for one in child.modules()):
                removed.append((parent, name, child))
                parent._modules[name] = nn.Identity()
    try:
        with taken.collecting() as again:
            _run_to_last_layer(network, image)
        same = all(torch.equal(outputs[name], again[name]) for name in outputs)
    except (ValueError, AttributeError, TypeError):  # it reads something of a later module first
        same = False
    if not same:
        for parent, name, child in removed:
            parent._modules[name] = child
    return network


def _check_options(in_channels: int, size: Any, width: int, start: float) -> tuple[int, int]:
    """Return the size as a pair of integers."""
    check_integer("in_channels", in_channels)
    check_integer("width", width)
    check_number("start", start, above=0, below=1)
    if not isinstance(size, tuple | list) or len(size) != 2:
        raise ValueError(f"size is {size!r}; give rows and columns of the images, such as (224, 224)")
    rows, columns = (check_integer("size", one) for one in size)
    return rows, columns
