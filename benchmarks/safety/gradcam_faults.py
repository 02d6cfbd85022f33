"""Table of thirteen faults that users of pytorch-grad-cam have met, tested on GradCAM and on PiNetCAM.

python -m benchmarks.safety.gradcam_faults

Takes less than a minute.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from typing import Any, NamedTuple

import timm
import torch
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from pytorch_grad_cam.utils.reshape_transforms import swinT_reshape_transform, vit_reshape_transform
from torch import Tensor, nn

from benchmarks.shared.markdown import heading, row
from gradcam_align import PiNetCAM

SIDE = 96
SWIN = {"embed_dim": 12, "depths": (1, 1), "num_heads": (1, 2), "window_size": 3}


class Finding(NamedTuple):
    """Result of a probe: True if the fault is absent, and the observation."""

    well: bool
    seen: str


def network(name: str, **options: Any) -> nn.Module:
    """Return a small timm network in eval mode, with random weights, none of them zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = timm.create_model(name, num_classes=7, **options)
        for parameter in model.parameters():
            scale = (2 / parameter[0].numel()) ** 0.5 if parameter.dim() > 1 else 0.1
            parameter.data.add_(scale * torch.randn_like(parameter))
    return model.eval()


def resnet() -> nn.Module:
    return network("test_resnet")


def vit() -> nn.Module:
    return network("test_vit", img_size=SIDE)


def images(number: int = 2) -> Tensor:
    return torch.randn(number, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


def classes(model: nn.Module, number: int = 2) -> list[ClassifierOutputTarget]:
    """Return the predicted classes, for which there is evidence."""
    with torch.no_grad():
        return [ClassifierOutputTarget(int(row.argmax())) for row in model(images(number).to(dtype_of(model)))]


def dtype_of(model: nn.Module) -> torch.dtype:
    return next(model.parameters()).dtype


def raised(call: Callable[[], Any]) -> Exception | None:
    try:
        call()
    except Exception as error:
        return error
    return None


def in_words(error: Exception) -> str:
    first = str(error).strip().splitlines()[0].split(";")[0]
    return f"{type(error).__name__}: {first[:90]}"


def runs(call: Callable[[], Any]) -> Finding:
    """Return a good finding if the call gives a map that is not flat."""
    found: list[Any] = []
    error = raised(lambda: found.append(call()))
    if error is not None:
        return Finding(False, in_words(error))
    spans = (found[0].max() - found[0].min()) if len(found[0]) else 0
    return Finding(bool(spans > 0.5), f"a map from {found[0].min():.2f} to {found[0].max():.2f}")


def fewer_targets_than_images(CAM: Any) -> Finding:
    model, found = resnet(), []
    cam, targets = CAM(model, [model.layer3]), classes(model)[:1]
    error = raised(lambda: found.append(cam(images(), targets)))
    if error is not None:
        return Finding(True, in_words(error))
    return Finding(False, f"the second image's map goes from {found[0][1].min():.2f} to {found[0][1].max():.2f}")


def model_left_in_eval_mode(CAM: Any) -> Finding:
    model = resnet().train()
    CAM(model, [model.layer3])
    return Finding(model.training, f"train mode before, {'train' if model.training else 'eval'} mode after")


def gradients_of_the_user(CAM: Any) -> Finding:
    model = resnet()
    model(images()).square().sum().backward()
    before = sum(p.grad.abs().sum() for p in model.parameters())
    CAM(model, [model.layer3])(images(), classes(model))
    after = sum(p.grad.abs().sum() for p in model.parameters() if p.grad is not None)
    return Finding(bool(before == after), f"their sum was {before:.5g} and is {after:.5g}")


def index_error_in_the_block(CAM: Any) -> Finding:
    model = resnet()

    def block() -> None:
        with CAM(model, [model.layer3]):
            _ = [][1]

    error = raised(block)
    return Finding(isinstance(error, IndexError), "it comes out" if error else "it is swallowed")


def constructor_that_failed(CAM: Any) -> Finding:
    heard: list[str] = []
    kept, sys.unraisablehook = sys.unraisablehook, lambda event: heard.append(str(event.exc_value))
    try:
        raised(lambda: CAM("no model", [None]))
    finally:
        sys.unraisablehook = kept
    return Finding(not heard, f"__del__ raises too: {heard[0][:70]}" if heard else "its error and no other")


def bfloat16(CAM: Any) -> Finding:
    model = resnet().bfloat16()
    return runs(lambda: CAM(model, [model.layer3])(images().bfloat16(), classes(model)))


def compiled(CAM: Any) -> Finding:
    model = resnet()
    fast = torch.compile(model, backend="eager")
    fast(images())
    return runs(lambda: CAM(fast, [model.layer3])(images(), classes(model)))


def without_gradients(CAM: Any) -> Finding:
    model, findings = resnet(), []
    for off in (torch.no_grad, torch.inference_mode):
        with off():
            findings.append(runs(lambda: CAM(model, [model.layer3])(images(), classes(model))))
    return next((one for one in findings if not one.well), findings[0])


def vit_without_reshape_transform(CAM: Any) -> Finding:
    model = vit()
    return runs(lambda: CAM(model, [model.blocks[-1].norm1])(images(), classes(model)))


def vit_last_block(CAM: Any) -> Finding:
    model, side = vit(), SIDE // 16
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        cam = CAM(model, [model.blocks[-1]], partial(vit_reshape_transform, height=side, width=side))
        found = cam(images(), classes(model))
    said = [one for one in said if "map of zeros" in str(one.message)]
    seen = f"a map from {found.min():.2f} to {found.max():.2f}, {'with a' if said else 'no'} warning"
    return Finding(bool(said) or bool(found.max() > 0), seen)


def swin_with_the_shipped_transform(CAM: Any) -> Finding:
    model, side = network("swin_tiny_patch4_window7_224", img_size=SIDE, **SWIN), SIDE // 8
    shipped = partial(swinT_reshape_transform, height=side, width=side)
    return runs(lambda: CAM(model, [model.norm], shipped)(images(), classes(model)))


def aug_smooth(CAM: Any) -> Finding:
    model = resnet()
    found = CAM(model, [model.layer3])(images(), classes(model), aug_smooth=True)
    tops = found.reshape(2, -1).max(1)
    return Finding(bool((tops > 0.99).all()), f"the maps go up to {', '.join(f'{top:.2f}' for top in tops)}")


def size_and_sign(CAM: Any) -> Finding:
    model, side = vit(), SIDE // 16
    cam = CAM(model, [model.blocks[-1].norm1], partial(vit_reshape_transform, height=side, width=side))
    if not hasattr(cam, "attributions"):
        found = cam(images(), classes(model))
        return Finding(False, f"every map goes from {found.min():.2f} to {found.max():.2f}")
    found = cam.attributions(images(), classes(model))
    return Finding(bool(found.min() < 0 < found.max()), f"attributions from {found.min():.2g} to {found.max():.2g}")


FAULTS: dict[str, Callable[[Any], Finding]] = {
    "fewer targets than images": fewer_targets_than_images,
    "a model in train mode": model_left_in_eval_mode,
    "gradients the user has": gradients_of_the_user,
    "an IndexError in the `with` block": index_error_in_the_block,
    "a constructor that fails": constructor_that_failed,
    "bfloat16": bfloat16,
    "`torch.compile`": compiled,
    "`no_grad` and `inference_mode`": without_gradients,
    "a ViT without `reshape_transform`": vit_without_reshape_transform,
    "a ViT's last block as target layer": vit_last_block,
    "Swin with `swinT_reshape_transform`": swin_with_the_shipped_transform,
    "`aug_smooth`": aug_smooth,
    "size and sign": size_and_sign,
}


def finding(probe: Callable[[Any], Finding], CAM: Any) -> Finding:
    """Run a probe; a version that fails in a new way is a finding too."""
    try:
        return probe(CAM)
    except Exception as error:
        return Finding(False, in_words(error))


def table() -> str:
    rows = [heading("tried", f"pytorch-grad-cam {version('grad-cam')}", "gradcam_align")]
    for name, probe in FAULTS.items():
        cells = [finding(probe, CAM) for CAM in (GradCAM, PiNetCAM)]
        rows.append(row(name, *(("" if c.well else "**fault:** ") + c.seen for c in cells)))
    return "\n".join(rows)


if __name__ == "__main__":
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    print(table())
