"""Networks with their maps, written to ONNX and ``torch.export`` files that are checked before they appear."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from xai_align._tools.counted import counted
from xai_align._tools.files.whole_file import whole_file
from xai_align._tools.thread_state import restores_thread_state
from xai_align._tools.version import __version__
from xai_align.export.exportable import as_input, prepared
from xai_align.export.exported_program import program_in, trace, write_program
from xai_align.export.file_check import Differences, ExportError, check_outputs, first_line
from xai_align.export.onnx_file import check_onnx_is_installed, onnx_in, write_onnx
from xai_align.export.pinet_terms import PiNetTerms
from xai_align.features.resolve_layer import Layer

#: Largest relative difference of an exported program from the network.
TOLERANCE = 1e-5
#: Suffixes of the files, and what they are for.
SUFFIXES = {".onnx": "ONNX runtimes", ".pt2": "torch.export"}

_Runner = tuple[Callable[[Tensor], dict[str, Tensor]], str]


@dataclass(frozen=True, kw_only=True)
class Exported:
    """An exported file: its content, and its differences from the network.

    Attributes:
        path: the file.
        kind: "local" (an unchanged network, read at its head) or "pinet" (a trained one).
        layer: the layer that the maps belong to.
        image: the shape of one image as a batch.
        shapes: the shape of each output for one image, by name.
        differences: the largest relative differences from the network, over all batches that were compared.
        checked_with: what ran the file, with its version.

    Example::

        pinet = conv_pinet(5, in_channels=3, width=4).eval()
        exported = to_exported_program(pinet, images, "network.pt2")
        exported.shapes["maps"]  # (1, 5, 32, 32)
        exported.differences.largest  # at most 1e-5
    """

    path: Path
    kind: str
    layer: str
    image: tuple[int, ...]
    shapes: dict[str, tuple[int, ...]]
    differences: Differences
    checked_with: str


@restores_thread_state
def to_onnx(
    model: Any,
    example: Tensor,
    file: str | os.PathLike[str],
    *,
    feature_space: Layer = None,
    output: str | int | None = None,
    class_names: Sequence[str] = (),
    metadata: Mapping[str, str] | None = None,
    tolerance: float = TOLERANCE,
) -> Exported:
    """Write the model with its maps to an ONNX file, which runs without PyTorch and this library.

    The input is ``images``, ``[N, C, H, W]``, preprocessed as in training; ``N`` is free, the other sizes are the
    example's. The outputs are ``logits`` ``[N, K]``, ``maps`` ``[N, K, h, w]`` and ``bias`` ``[K]``, with ``logits ==
    maps.sum((2, 3)) + bias``. The file is run (by onnxruntime, else by ``onnx.reference``) on the example and on other
    batch sizes before it appears under its name.

    Args:
        model: a network whose head is affine, or a trained PiNet; in eval mode.
        example: images ``[N, C, H, W]``.
        file: ends in ``.onnx``; an older file is replaced.
        feature_space: the layer of the maps; None: the head's input, or a retrofit's own.
        output: which of the model's outputs are the logits; None: the one named "logits", or the only one.
        class_names: kept in the file's metadata, as JSON; as many as logits (of one logit also its two sides').
        metadata: more of it.
        tolerance: the largest relative difference from the network's logits and maps.

    Returns:
        What was written.

    Raises:
        ExportError: the network cannot be traced, or the file gives other numbers; there is no file then.
        ImportError: onnx or onnxscript is missing.
        ValueError: the head is not affine, the suffix or the class names are wrong, or the weights are too large.
        OSError: the file cannot be written.

    Example::

        head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
        exported = to_onnx(nn.Sequential(nn.Conv2d(3, 8, 3), head).eval(), images, "network.onnx")
        exported.shapes["maps"]  # (1, 5, 30, 30)
    """
    path = checked_path(file, ".onnx")
    check_onnx_is_installed()
    job = _Job(model, example, feature_space, output, class_names, metadata)

    def write(program: ExportedProgram, to: Path) -> _Runner:
        try:
            write_onnx(program, to, inputs=["images"], outputs=job.module.outputs, metadata=job.metadata)
        except torch.onnx.OnnxExporterError as error:
            raise ExportError(
                f"PyTorch cannot write {job.name} as ONNX: {first_line(error)}; write .pt2 instead"
            ) from error
        return onnx_in(to)

    return job.run(path, write, tolerance)


@restores_thread_state
def to_exported_program(
    model: Any,
    example: Tensor,
    file: str | os.PathLike[str],
    *,
    feature_space: Layer = None,
    output: str | int | None = None,
    class_names: Sequence[str] = (),
    metadata: Mapping[str, str] | None = None,
    tolerance: float = TOLERANCE,
) -> Exported:
    """Write the model with its maps to a file of ``torch.export``, which runs without this library.

    Arguments, outputs, checks and errors are those of :func:`to_onnx`; the program returns a dictionary. The metadata
    is the file ``xai_align.json`` of the archive.

    Example::

        pinet = conv_pinet(5, in_channels=3, width=4).eval()
        to_exported_program(pinet, images, "network.pt2")
        program = torch.export.load("network.pt2").module()
        program(images)["maps"]  # [2, 5, 32, 32]
    """
    path = checked_path(file, ".pt2")
    job = _Job(model, example, feature_space, output, class_names, metadata)

    def write(program: ExportedProgram, to: Path) -> _Runner:
        write_program(program, to, job.metadata)
        return program_in(to), f"torch {torch.__version__}"

    return job.run(path, write, tolerance)


def checked_path(file: str | os.PathLike[str], *suffixes: str) -> Path:
    """Return the path if it ends in one of the suffixes.

    Raises:
        ValueError: it does not.
    """
    path = Path(file)
    if path.suffix not in suffixes:
        known = ", or ".join(f"{suffix} for {SUFFIXES[suffix]}" for suffix in suffixes)
        raise ValueError(f"'{path}' ends in '{path.suffix}'; write {known}")
    return path


@contextmanager
def writable(path: Path) -> Iterator[Path]:
    """Yield a path to write to, created at once, to detect a folder that cannot be written to before the work."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as waiting:
        waiting.touch()
        yield waiting


class _Job:
    """The module to be exported, with everything that belongs to it."""

    def __init__(
        self,
        model: Any,
        example: Tensor,
        feature_space: Layer,
        output: str | int | None,
        class_names: Sequence[str],
        metadata: Mapping[str, str] | None,
    ) -> None:
        self.module, self.network, self.space = prepared(model, example, feature_space, output)
        self.output = output
        self.example = as_input(example)
        self.name = type(self.network).__name__
        with torch.inference_mode(False), torch.no_grad():
            outputs = self.module(self.example[:1])
        self.shapes = {name: tuple(value.shape) for name, value in outputs.items()}
        classes = self.shapes["logits"][1:]
        if len(classes) != 1:
            raise ValueError(f"the output has shape {['N', *classes]}; maps of all classes need logits [N, K]")
        expected = (1, 2) if classes[0] == 1 else classes  # one logit may have a name for each of its two sides
        if class_names and len(class_names) not in expected:
            raise ValueError(
                f"there are {counted(len(class_names), 'class name')} for {counted(classes[0], 'logit')}; give one "
                "for each"
            )
        self.kind = "pinet" if isinstance(self.module, PiNetTerms) else "local"
        layer = self.space.layer
        self.layer = layer if isinstance(layer, str) else ", ".join(layer)
        self.metadata = described(self.kind, self.layer, self.shapes, self.example, class_names) | dict(metadata or {})

    def run(self, path: Path, write: Callable[[ExportedProgram, Path], _Runner], tolerance: float) -> Exported:
        with writable(path) as waiting:
            run, runs_on = write(self._traced(), waiting)
            found = check_outputs(
                run,
                self.network,
                self.space,
                self.example,
                output=self.output,
                tolerance=tolerance,
                runs_on=runs_on,
            )
        return Exported(
            path=path,
            kind=self.kind,
            layer=self.layer,
            image=tuple(self.example[:1].shape),
            shapes=self.shapes,
            differences=found,
            checked_with=runs_on,
        )

    def _traced(self) -> ExportedProgram:
        # two images or more: a size of one is taken for a constant
        pair = torch.cat([self.example, self.example]) if len(self.example) == 1 else self.example
        try:
            return trace(self.module, pair, {0: torch.export.Dim.DYNAMIC})
        except Exception as error:  # torch.export raises anything
            raise ExportError(f"torch.export cannot trace {self.name}: {first_line(error)}") from error


def described(
    kind: str, layer: str, shapes: Mapping[str, tuple[int, ...]], example: Tensor, class_names: Sequence[str]
) -> dict[str, str]:
    """Return a file's metadata, as text by name."""
    maps = [name for name in shapes if name.startswith("maps")]
    summed = [f"sum of {name} over rows and columns" for name in maps]
    total = " + ".join([*summed, *(name for name in ("prefix", "bias") if name in shapes)])
    of = "the pixels or cells of the second look" if kind == "pinet" else f"the cells of the layer '{layer}'"
    said = {
        "version": __version__,
        "kind": kind,
        "layer": layer,
        "input": f"images [N, {', '.join(map(str, example.shape[1:]))}], preprocessed as in training",
        "maps": f"contributions of {of} to each logit, in row-by-row order over the image, in units of the logits",
        "sum": f"logits = {total}",
    }
    if class_names:
        said["class_names"] = json.dumps(list(class_names), ensure_ascii=False)
    return {f"xai_align.{name}": text for name, text in said.items()}
