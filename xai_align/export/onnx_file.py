"""ONNX files: written from programs of ``torch.export``, and run by onnxruntime or ONNX's reference."""

from __future__ import annotations

import contextlib
import io
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

#: A protobuf message, and so an ONNX file, has at most this many bytes.
LIMIT = 2**31
#: Names of the axes of images ``[N, C, H, W]`` whose size a file leaves open.
AXES = {0: "batch", 2: "height", 3: "width"}
NEEDED = ("onnx", "onnxscript")


def check_onnx_is_installed() -> None:
    """Raise unless the packages that write ONNX files are installed.

    Raises:
        ImportError: one is missing; the message says what to install.
    """
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise ImportError(
            f"writing .onnx needs {' and '.join(missing)}, not installed here: pip install 'xai-align[export]'"
        )


def write_onnx(
    program: ExportedProgram,
    path: Path,
    *,
    inputs: Sequence[str],
    outputs: Sequence[str],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a program to one ONNX file; nothing is printed. Free axes of the images have the names of :data:`AXES`.

    Raises:
        ImportError: packages are missing.
        ValueError: the weights do not fit into one ONNX file.
    """
    check_onnx_is_installed()
    size = sum(one.numel() * one.element_size() for one in (*program.state_dict.values(), *program.constants.values()))
    if size >= LIMIT:
        raise ValueError(
            f"the weights take {size / 2**30:.1f} GiB, and an ONNX file holds at most 2; write .pt2 instead"
        )
    with contextlib.redirect_stdout(io.StringIO()), _errors_only("onnx_ir"):
        found: Any = torch.onnx.export(
            program, (), input_names=list(inputs), output_names=list(outputs), verbose=False, dynamo=True
        )
    _name_free_axes(found.model)
    found.model.metadata_props.update(metadata or {})
    found.save(path, external_data=False)


def _name_free_axes(model: Any) -> None:
    """Give the images' free axes the names of :data:`AXES`, in all shapes of an ONNX model, also in ``2*batch``.

    ``torch.export`` numbers them (``s34``), and the numbers change from run to run.
    """
    import onnx_ir

    sizes = model.graph.inputs[0].shape
    names = {
        size.value: AXES[axis]
        for axis, size in enumerate(sizes)
        if axis in AXES and isinstance(size, onnx_ir.SymbolicDim) and size.value is not None
    }
    if not names:
        return
    symbol = re.compile("|".join(rf"\b{re.escape(one)}\b" for one in names))

    def named(size: Any) -> Any:
        if isinstance(size, onnx_ir.SymbolicDim) and size.value is not None:
            return onnx_ir.SymbolicDim(symbol.sub(lambda found: names[found[0]], size.value))
        return size

    made = [value for node in model.graph.all_nodes() for value in node.outputs]
    for value in {id(one): one for one in (*model.graph.inputs, *model.graph.outputs, *made)}.values():
        if value.shape is not None:
            value.shape = onnx_ir.Shape(map(named, value.shape))


@contextlib.contextmanager
def _errors_only(name: str) -> Iterator[None]:
    """Suppress a library's log messages below errors."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def onnx_in(path: Path) -> tuple[Callable[[Tensor], dict[str, Tensor]], str]:
    """Return the function in a file, from images to outputs by name, and what runs it: onnxruntime, or ONNX's own."""
    content = path.read_bytes()
    try:
        import onnxruntime
    except ImportError:
        return _by_reference(content)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    name, names = session.get_inputs()[0].name, [one.name for one in session.get_outputs()]
    return _by_name(session, name, names), f"onnxruntime {onnxruntime.__version__}"


def _by_reference(content: bytes) -> tuple[Callable[[Tensor], dict[str, Tensor]], str]:
    import onnx
    from onnx.reference import ReferenceEvaluator

    session = ReferenceEvaluator(onnx.load_from_string(content))
    return _by_name(session, session.input_names[0], session.output_names), f"onnx.reference {onnx.__version__}"


def _by_name(session: Any, name: str, names: Sequence[str]) -> Callable[[Tensor], dict[str, Tensor]]:
    def run(images: Tensor) -> dict[str, Tensor]:
        found = session.run(list(names), {name: images.numpy()})
        return {key: torch.tensor(value) for key, value in zip(names, found, strict=True)}

    return run
