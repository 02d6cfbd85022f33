"""Specifications of pytorch-grad-cam's own methods, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any

import pytorch_grad_cam
from pytorch_grad_cam.ablation_layer import AblationLayer
from torch import Tensor

from xai_align.adapter_tools import with_globals


class ZeroAblation(AblationLayer):
    """Ablation of a channel by setting it to zero, as in the paper (Ablation-CAM, WACV 2020, section 3.1).

    The package's own layer does so only for activations whose minimum is zero; for others it
    subtracts 1e7 from the minimum, again for every further channel of a batch.
    """

    def __call__(self, x: Tensor) -> Tensor:
        """Return the activations of the batch, with a different channel set to zero in each."""
        output = self.activations
        for row, channel in enumerate(self.indices[: len(output)]):
            output[row, int(channel)] = 0
        return output


#: Replacement of the package's progress bars, which it shows for every image.
_NO_BARS = SimpleNamespace(tqdm=lambda steps: steps)


class _ScoreCAM(pytorch_grad_cam.ScoreCAM):
    get_cam_weights = with_globals(pytorch_grad_cam.ScoreCAM.get_cam_weights, tqdm=_NO_BARS)


class _AblationCAM(pytorch_grad_cam.AblationCAM):
    get_cam_weights = with_globals(pytorch_grad_cam.AblationCAM.get_cam_weights, tqdm=_NO_BARS)


_SILENT = {"ScoreCAM": _ScoreCAM, "AblationCAM": _AblationCAM}


def package_class(name: str, module: str = "pytorch_grad_cam") -> Any:
    """Return a class of the package.

    Raises:
        ImportError: the installed version does not have it.
    """
    try:
        return getattr(import_module(module), name)
    except (AttributeError, ModuleNotFoundError) as error:
        text = f"grad-cam {version('grad-cam')} has no {name}; install a newer one"
        raise ImportError(text) from error


@dataclass(frozen=True, kw_only=True)
class BaselineSpec:
    """Specification of one of the package's methods.

    Attributes:
        cls: the class's name in ``pytorch_grad_cam``.
        options: further arguments of its constructor that a caller may give.
        fixed: arguments of its constructor that are created for every object.
        gradients: its formula uses the gradient.
        keeps_graph: it differentiates the gradient again.
        runs_network: it runs the network on many versions of an image; then images are explained one by one.
        squares_positions: it computes a positions-by-positions matrix.
        draws: it draws from numpy's global random state.
    """

    cls: str
    options: tuple[str, ...] = ()
    fixed: dict[str, Callable[[], Any]] = field(default_factory=dict)
    gradients: bool = True
    keeps_graph: bool = False
    runs_network: bool = False
    squares_positions: bool = False
    draws: bool = False

    def build(self, network: Any, options: dict[str, Any]) -> Any:
        """Return the package's object for a cut network.

        Raises:
            ImportError: the installed version does not have this class.
        """
        cls = _SILENT.get(self.cls) or package_class(self.cls)
        made = {name: make() for name, make in self.fixed.items()}
        return cls(network, [network.here], **made, **options)


# Left out: FullGrad (it takes no layer, hooks the biases of layers whose type is exactly Conv2d or BatchNorm2d and so
# misses those of timm's BatchNormAct2d, and scales every bias map to 0..1, which breaks completeness);
# RandomCAM (a control, not a method); GuidedBackpropReLUModel (captum_align has guided_backprop).
SPECS: dict[str, BaselineSpec] = {
    "gradcam": BaselineSpec(cls="GradCAM"),
    "hirescam": BaselineSpec(cls="HiResCAM"),
    "gradcam++": BaselineSpec(cls="GradCAMPlusPlus"),
    "xgradcam": BaselineSpec(cls="XGradCAM"),
    "layercam": BaselineSpec(cls="LayerCAM"),
    "gradcamelementwise": BaselineSpec(cls="GradCAMElementWise"),
    "finercam": BaselineSpec(cls="GradCAM"),  # Grad-CAM for another question: see finer.py
    "shapleycam": BaselineSpec(cls="ShapleyCAM", keeps_graph=True),
    "eigengradcam": BaselineSpec(cls="EigenGradCAM", squares_positions=True),
    "segeigencam": BaselineSpec(cls="SegEigenCAM", squares_positions=True),
    "eigencam": BaselineSpec(cls="EigenCAM", gradients=False, squares_positions=True),
    "kpcacam": BaselineSpec(
        cls="KPCA_CAM", options=("kernel", "gamma"), gradients=False, squares_positions=True, draws=True
    ),
    "fem": BaselineSpec(cls="FEM", options=("k",), gradients=False),
    "scorecam": BaselineSpec(cls="ScoreCAM", gradients=False, runs_network=True),
    "ablationcam": BaselineSpec(
        cls="AblationCAM",
        options=("batch_size", "ratio_channels_to_ablate"),
        fixed={"ablation_layer": ZeroAblation},
        gradients=False,
        runs_network=True,
    ),
}
