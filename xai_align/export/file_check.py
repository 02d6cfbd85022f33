"""Check of an exported file: it is run, and must give the logits and maps that the network itself gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from xai_align._tools.logits import select_logits
from xai_align.hookspecs import FeatureSpace
from xai_align.pinet.all_classes import read_out_all_classes
from xai_align.pinet.completeness import CompletenessError
from xai_align.pinet.network.pseudo_linear import PseudoLinear


class ExportError(ValueError):
    """Error for a network that cannot be traced or written, or whose exported file gives other numbers.

    Example::

        pinet = conv_pinet(5, in_channels=3, width=4).eval()
        try:
            to_exported_program(pinet, images, "network.pt2", tolerance=0)
        except ExportError as error:
            print(error)  # how large the differences are; nothing was written
    """


@dataclass(frozen=True, kw_only=True)
class Differences:
    """Largest relative differences of an exported program.

    Attributes:
        logits: from the plain network's logits, over the largest of ``|logit|``, ``|bias|`` and ``|logit - bias|``.
        maps: from the maps of a readout, over the largest value of the maps.
        sum: of ``sum(maps) + bias`` from the program's own logits, over what ``logits`` is relative to.
    """

    logits: float
    maps: float
    sum: float

    @property
    def largest(self) -> float:
        """The largest of the three."""
        return max(self.logits, self.maps, self.sum)


def check_outputs(
    run: Callable[[Tensor], dict[str, Tensor]],
    network: nn.Module,
    space: FeatureSpace,
    example: Tensor,
    *,
    output: str | int | None = None,
    tolerance: float,
    runs_on: str,
) -> Differences:
    """Compare a program with the network, on the example and on batches of one and of three.

    Raises:
        ExportError: it fails on a batch, or a difference is beyond the tolerance.
    """
    found: list[Differences] = []
    for images in batches(example):
        try:
            outputs = run(images)
        except Exception as error:  # runtimes raise anything
            raise ExportError(
                f"the exported program fails on a batch of {len(images)} ({runs_on}): {first_line(error)}; nothing was "
                "written"
            ) from error
        try:
            difference = differences(outputs, network, space, images, output)
        except CompletenessError as error:  # there are no maps to compare with
            raise ExportError(f"the network itself cannot be read out: {error}; nothing was written") from error
        found.append(difference)
        if not difference.largest <= tolerance:
            raise ExportError(
                f"the exported program gives other numbers than the network for a batch of {len(images)} ({runs_on}): "
                f"relative differences {difference.logits:.1e} of the logits, {difference.maps:.1e} of the maps, "
                f"{difference.sum:.1e} of their sum, more than tolerance={tolerance:g}; nothing was written"
            )
    return Differences(
        logits=max(one.logits for one in found), maps=max(one.maps for one in found), sum=max(one.sum for one in found)
    )


def differences(
    outputs: dict[str, Tensor],
    network: nn.Module,
    space: FeatureSpace,
    images: Tensor,
    output: str | int | None = None,
) -> Differences:
    """Return the differences of a program's outputs from the plain network's logits and the maps of a readout."""
    with torch.inference_mode(False), torch.no_grad():
        plain = select_logits(network(images.clone()), output).double()
        own = isinstance(network, PseudoLinear)
        readout = read_out_all_classes(network, images, None if own else space, output=output)
    expected = [one.double() for one in (readout.maps if isinstance(readout.maps, tuple) else (readout.maps,))]
    maps = [value.double() for name, value in outputs.items() if name.startswith("maps")]
    logits, bias = outputs["logits"].double(), outputs["bias"].double()
    if [one.shape for one in maps] != [one.shape for one in expected] or logits.shape != plain.shape:
        raise ExportError(
            f"the exported program returns logits {list(logits.shape)} and maps {[list(one.shape) for one in maps]} "
            f"for a batch of {len(images)}, the network {list(plain.shape)} and "
            f"{[list(one.shape) for one in expected]}; nothing was written"
        )
    scale = max(float(one.abs().max()) for one in (plain, readout.bias, plain - readout.bias.double()))
    largest = max(float(one.abs().max()) for one in expected)
    total = torch.stack([one.flatten(2).sum(2) for one in maps]).sum(0) + bias
    total = total + (outputs["prefix"].double() if "prefix" in outputs else 0.0)
    return Differences(
        logits=_share(max(_gap(logits, plain), _gap(bias, readout.bias.double())), scale),
        maps=_share(max(map(_gap, maps, expected)), largest),
        sum=_share(_gap(total, logits), scale),
    )


def batches(example: Tensor) -> Iterator[Tensor]:
    """Yield the example, and batches of one and three images made from it."""
    several = torch.cat([example, example.flip(-1), example.flip(-2)])
    yield example
    yield from (several[-count:].contiguous() for count in (1, 3) if count != len(example))


def first_line(error: Exception) -> str:
    """Return the first line of an error."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _gap(a: Tensor, b: Tensor) -> float:
    """Return the largest difference; infinity if there is no number."""
    gap = float((a - b).abs().max())
    return gap if gap == gap else float("inf")


def _share(gap: float, scale: float) -> float:
    return gap / max(scale, torch.finfo(torch.float32).tiny)
