"""Export of networks with their exact maps to programs that run without this library."""

from xai_align.export.exportable import exportable
from xai_align.export.file_check import ExportError
from xai_align.export.to_file import Exported, to_exported_program, to_onnx

__all__ = ["ExportError", "Exported", "exportable", "to_exported_program", "to_onnx"]
