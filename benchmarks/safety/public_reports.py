"""Public bug reports and questions of users of other libraries, each tested here: it works, or an error says why not.

    OMP_NUM_THREADS=1 python -m benchmarks.safety.public_reports

Each case is a small version of the report: a tiny network of the same kind with random weights, and the call that
failed. It checks the answer, not only that there is one. Takes about a minute.
"""

from __future__ import annotations

import gc
import tempfile
import warnings
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from pytorch_grad_cam.utils.model_targets import (
    BinaryClassifierOutputTarget,
    ClassifierOutputTarget,
    RawScoresOutputTarget,
)
from torch import Tensor, nn

from benchmarks.shared.markdown import heading, row
from captum_align import LayerPiNetAttribution, PiNetAttribution
from gradcam_align import AttributionCAM, PiNetCAM
from xai_align import plugins, read_out
from xai_align.evaluation.quantus_explain_func import quantus_explain_func

REPOSITORIES = {
    "captum": "meta-pytorch/captum",
    "grad-cam": "jacobgil/pytorch-grad-cam",
    "torch-cam": "frgfm/torch-cam",
    "zennit": "chr5tphr/zennit",
    "Quantus": "understandable-machine-intelligence-lab/Quantus",
    "timm": "huggingface/pytorch-image-models",
    "vit-explain": "jacobgil/vit-explain",
}


@dataclass(frozen=True)
class Report:
    """Report: a thread, its author's aim, and the case that tests it.

    Attributes:
        thread: library and number.
        wanted: the author's aim, in half a line.
        case: function that raises the library's errors; an ``AssertionError`` is a wrong answer.
        refused: words of the expected error; empty if the case should work.
    """

    thread: str
    wanted: str
    case: Callable[[], None]
    refused: str = ""


REPORTS: list[Report] = []


def report(thread: str, wanted: str, refused: str = "") -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Add the function that follows to the table."""

    def add(case: Callable[[], None]) -> Callable[[], None]:
        REPORTS.append(Report(thread, wanted, case, refused))
        return case

    return add


# ---------------------------------------------------------------- networks


def small(outputs: int = 5, channels: int = 3) -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(channels, 6, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 8, 3, padding=1), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(2)),
        *(nn.Flatten(), nn.Linear(32, outputs)),
    ).eval()


def images(number: int = 2, channels: int = 3, side: int = 32) -> Tensor:
    return torch.randn(number, channels, side, side, generator=torch.Generator().manual_seed(1))


class Then(nn.Module):
    """A network, followed by a function of its output."""

    def __init__(self, network: nn.Module, function: Callable[[Any], Any]) -> None:
        super().__init__()
        self.network, self.function = network, function
        self.eval()

    def forward(self, x: Tensor) -> Any:
        return self.function(self.network(x))


def adds_up(model: Callable[..., Tensor], inputs: Any, target: Any = None, **options: Any) -> None:
    """Check that attributions and bias of the readout sum to the answer, which is not zero."""
    attributions, bias = PiNetAttribution(model).attribute(inputs, target=target, return_bias=True, **options)
    parts = attributions if isinstance(attributions, tuple) else (attributions,)
    given = inputs if isinstance(inputs, tuple) else (inputs,)
    assert [one.shape for one in parts] == [one.shape for one in given]
    with torch.no_grad():
        output = model(*given)
    output = output if isinstance(output, Tensor) else output.logits
    answer = output.reshape(len(output)) if target is None else output[(slice(None), *np.atleast_1d(target))]
    close(sum(one.flatten(1).sum(1) for one in parts) + bias, answer)


def is_map(found: np.ndarray, inputs: Tensor) -> None:
    """Check that this is a CAM of each image, which is not empty."""
    assert found.shape == (len(inputs), *inputs.shape[2:])
    assert np.isfinite(found).all()
    assert (found.max(axis=tuple(range(1, found.ndim))) > 0.99).all()


def close(a: Any, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4, check_dtype=False)


def vit(**options: Any) -> nn.Module:
    return timm.create_model("test_vit", num_classes=5, img_size=64, **options).eval()


def tokens_to_grid(height: int, width: int) -> Callable[[Tensor], Tensor]:
    """Return the package's transform for vision transformers, with a grid of this size."""
    return lambda z: z[:, 1:].reshape(len(z), height, width, z.shape[2]).permute(0, 3, 1, 2)


# ---------------------------------------------------------------- Captum


@report("captum#206", "a 3-D network with one number as its output, on volumes")
def volumes() -> None:
    model = nn.Sequential(nn.Conv3d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 1))
    adds_up(model.eval(), torch.randn(2, 1, 8, 8, 8))


@report("captum#1532", "a regression needs no target")
def regression() -> None:
    adds_up(small(1), images())


@report("captum#1039", "several outputs of a regression, each of them")
def several_outputs() -> None:
    model = small(3)
    for output in range(3):
        adds_up(model, images(), output)


@report("captum#352", "label 1 as the target of a network with one output", "leave the target out")
def label_as_target() -> None:
    PiNetAttribution(small(1)).attribute(images(), target=1)


@report("captum#455", "a target for outputs of shape [N]", "leave the target out")
def target_of_a_vector() -> None:
    PiNetAttribution(Then(small(1), lambda z: z[:, 0])).attribute(images(), target=2)


@report("captum#1358", "no target for a network of several classes", "no target was given")
def no_target() -> None:
    PiNetAttribution(small()).attribute(images())


@report("captum#475", "what a binary classifier that ends in a sigmoid attributes to: its probability")
def ends_in_sigmoid() -> None:
    adds_up(nn.Sequential(small(1), nn.Sigmoid()).eval(), images())


@report("captum#698", "two inputs in one tensor without an axis of examples", "needs logits [N, ...]")
def no_batch_axis() -> None:
    model = Then(nn.Identity(), lambda x: ((x[0].relu() - 1).relu() - x[1].relu()).relu())
    PiNetAttribution(model).attribute(torch.tensor([3.0, 1.0]))


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.still, self.moving = nn.Linear(7, 6), nn.GRU(5, 6, batch_first=True)
        self.head = nn.Linear(12, 3)

    def forward(self, still: Tensor, moving: Tensor) -> Tensor:
        return self.head(torch.cat([self.still(still).relu(), self.moving(moving)[0][:, -1]], 1))


@report("captum#722", "GradientShap's distribution of baselines for a recurrent network of two inputs")
def distribution_of_baselines() -> None:
    model, inputs = TwoInputs().eval(), (torch.randn(2, 7), torch.randn(2, 4, 5))
    drawn = (torch.randn(3, 7), torch.randn(3, 4, 5))
    parts, bias = PiNetAttribution(model, "input").attribute(inputs, drawn, 1, return_bias=True)
    with torch.no_grad():
        answer = model(*inputs)[:, 1] - model(*drawn)[:, 1].mean()
    close(sum(part.flatten(1).sum(1) for part in parts) + bias, answer)


@report("captum#445", "a number as the baseline and further arguments of the model")
def number_and_arguments() -> None:
    class Scaled(nn.Linear):
        def forward(self, x: Tensor, scale: Tensor, plain: bool) -> Tensor:
            return super().forward(x) * (1 if plain else scale)

    model, x, scale = Scaled(6, 3).eval(), torch.randn(2, 6), torch.tensor([[2.0], [3.0]])
    found, bias = PiNetAttribution(model, "input").attribute(
        x, baselines=2, target=0, additional_forward_args=(scale, False), n_steps=50, return_bias=True
    )
    close(found.sum(1) + bias, (model(x, scale, False) - model(0 * x + 2, scale, False))[:, 0].detach())


@report("captum#612", "a target of its own for each example")
def targets_of_a_batch() -> None:
    method, x = PiNetAttribution(small()), images(3)
    together = method.attribute(x, target=[4, 0, 2])
    for number, target in enumerate((4, 0, 2)):
        close(method.attribute(x[number : number + 1], target=target), together[number : number + 1])


@report("captum#700", "attributions that sum to the prediction")
def sum_is_the_prediction() -> None:
    adds_up(small(), images(), 3)


@report("captum#351", "a delta of zero for a network of ReLUs")
def delta_is_zero() -> None:
    _, delta = PiNetAttribution(small()).attribute(images(), 0, 1, return_convergence_delta=True)
    assert float(delta.abs().max()) < 1e-5


@report("captum#1413", "inputs and baselines swapped change the sign alone")
def swapped() -> None:
    method, x, black = PiNetAttribution(small()), images(), 0 * images()
    close(method.attribute(x, black, 1), -method.attribute(black, x, 1))


class ReusedModules(nn.Module):
    """The network of the CIFAR tutorial with one ReLU and one pooling, in place, for all layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 5), nn.Conv2d(6, 16, 5)
        self.pool, self.relu, self.head = nn.MaxPool2d(2, 2), nn.ReLU(inplace=True), nn.Linear(400, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.relu(self.first(x)))
        return self.head(self.pool(self.relu(self.second(x))).view(-1, 400))


@report("captum#200", "one pooling module used twice")
def reused_pooling() -> None:
    adds_up(ReusedModules().eval(), images(), 1)


@report("captum#578", "one ReLU module used twice, in place")
def reused_relu() -> None:
    found, bias = PiNetAttribution(model := ReusedModules().eval(), "input").attribute(images(), 0, 1, return_bias=True)
    close(found.flatten(1).sum(1) + bias, (model(images()) - model(0 * images()))[:, 1].detach())


@report("captum#1082", "activations made inside forward")
def activations_inside() -> None:
    adds_up(Then(small(), lambda z: nn.ReLU()(z) + torch.nn.functional.silu(z)), images(), 1)


@report("captum#934", "ShuffleNet with LeakyReLU in place")
def shuffled() -> None:
    from torchvision.models import shufflenet_v2_x0_5

    model = shufflenet_v2_x0_5(num_classes=5).eval()
    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU):
                setattr(module, name, nn.LeakyReLU(0.1, inplace=True))
    adds_up(model, images(1, side=64), 1)


@report("captum#1121", "a layer of a network whose output is an image, by the sum of its pixels")
def sum_of_pixels() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 3, padding=1)).eval()

    def total(x: Tensor) -> Tensor:
        return network(x).sum((1, 2, 3))

    found, bias = LayerPiNetAttribution(total, "1").attribute(images(), return_bias=True)
    close(found.flatten(1).sum(1) + bias, total(images()).detach())


@report("captum#119", "one pixel's class of a segmentation")
def one_pixel() -> None:
    adds_up(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 1)).eval(), images(), (2, 5, 6))


@report("captum#538", "less memory: a few examples at a time")
def a_few_at_a_time() -> None:
    model = small()
    one_by_one = PiNetAttribution(model).attribute(images(4), target=1, internal_batch_size=1)
    close(one_by_one, PiNetAttribution(model).attribute(images(4), target=1))


# ---------------------------------------------------------------- pytorch-grad-cam


@report("grad-cam#76", "timm's ViT with a transform for another number of patches")
def other_grid() -> None:
    model, x = vit(), images(side=64)
    is_map(PiNetCAM(model, [model.blocks[-1].norm1], tokens_to_grid(14, 14))(x, [1, 2]), x)


@report("grad-cam#257", "ViT without a transform")
def no_transform() -> None:
    model, x = vit(), images(side=64)
    is_map(PiNetCAM(model, [model.blocks[-1].norm1])(x, [1, 2]), x)


@report("grad-cam#511", "DINOv2 of Hugging Face with the transform of the example")
def dino() -> None:
    from transformers import Dinov2Config, Dinov2ForImageClassification

    config = Dinov2Config(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=56, patch_size=14, num_labels=5
    )
    model, x = Dinov2ForImageClassification(config).eval(), images(side=56)
    layer = model.dinov2.encoder.layer[-1].norm1
    is_map(PiNetCAM(model, [layer], tokens_to_grid(4, 4))(x, [1, 2]), x)


@report("grad-cam#474", "DaViT: which layer, which transform")
def davit() -> None:
    sizes = {"depths": (1, 1, 1, 1), "embed_dims": (8, 16, 32, 64), "num_heads": (1, 2, 4, 8), "window_size": 2}
    x = images(side=64)
    is_map(PiNetCAM(timm.create_model("davit_tiny", num_classes=5, **sizes).eval())(x, [1, 2]), x)


@report("grad-cam#426", "torchvision's Swin v2: which layer")
def swin() -> None:
    from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformer, SwinTransformerBlockV2

    model = SwinTransformer(
        [4, 4], 12, [1, 1], [1, 2], [4, 4], num_classes=5, block=SwinTransformerBlockV2, downsample_layer=PatchMergingV2
    ).eval()
    is_map(PiNetCAM(model, [model.features[-1][-1].norm1])(images(side=64), [1, 2]), images(side=64))


@report("grad-cam#481", "Swin of Hugging Face, which returns a ClassifierOutput")
def classifier_output() -> None:
    from transformers import SwinConfig, SwinForImageClassification

    config = SwinConfig(
        image_size=64, patch_size=4, embed_dim=12, depths=[1, 1], num_heads=[1, 2], window_size=4, num_labels=5
    )
    model, x = SwinForImageClassification(config).eval(), images(side=64)
    is_map(PiNetCAM(model, [model.swin.encoder.layers[-1].blocks[-1].layernorm_before])(x, [1, 2]), x)


@report("grad-cam#121", "a model that returns two tensors", "wrap the model")
def two_outputs() -> None:
    PiNetCAM(Then(small(), lambda z: (z, 2 * z)))(images(), [1, 2])


@report("grad-cam#156", "a model that returns its logits and a hidden state: which of them, named")
def which_output() -> None:
    model = Then(small(), lambda z: (z, 2 * z))
    readout = read_out(model, images(), 1, "input", output=1)
    close(readout.answer, 2 * model(images())[0][:, 1].detach())
    is_map(PiNetCAM(Then(model, lambda z: z[0]))(images(), [1, 2]), images())


@report("grad-cam#325", "one logit: evidence for and against")
def both_sides() -> None:
    model, x = small(1), images()
    cam = PiNetCAM(model)
    speaks_for = cam.attributions(x, [BinaryClassifierOutputTarget(1)] * 2)
    close(speaks_for, -cam.attributions(x, [BinaryClassifierOutputTarget(0)] * 2))


@report("grad-cam#410", "BinaryClassifierOutputTarget on 34 outputs", "a target gives a tensor with one number")
def not_binary() -> None:
    PiNetCAM(small(34))(images(), [BinaryClassifierOutputTarget(1)] * 2)


@report("grad-cam#293", "evidence for a larger number, of a regression")
def larger_number() -> None:
    model, x = small(1), images()
    found = PiNetCAM(model).attributions(x, [RawScoresOutputTarget()] * 2)
    close(found, PiNetCAM(model).attributions(x, [0, 0]))


@report("grad-cam#375", "a layer in place of a list of layers", "give a list")
def a_layer_alone() -> None:
    model = small()
    PiNetCAM(model, model[3])


@report("grad-cam#169", "an output [N, 64, 5, 5] without a target", "say in targets what to explain")
def dense_output() -> None:
    PiNetCAM(nn.Conv2d(3, 64, 3).eval())(images(side=7))


@report("grad-cam#386", "a segmentation: the pixels of a class, by a function")
def pixels_of_a_class() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 1)).eval()
    is_map(PiNetCAM(model)(images(), [lambda z: (z[1] * (z.argmax(0) == 1)).sum()] * 2), images())


@report("grad-cam#469", "X-rays of one channel")
def one_channel() -> None:
    x = images(channels=1)
    is_map(PiNetCAM(small(2, channels=1))(x, [0, 1]), x)


@report("grad-cam#328", "two targets for three images", "give one, or one for each")
def too_few_targets() -> None:
    PiNetCAM(small())(images(3), [ClassifierOutputTarget(1)] * 2)


@report("grad-cam#363", "a ViT's last block as the layer: a map of zeros")
def last_block() -> None:
    model, x = vit(global_pool="token"), images(side=64)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        AttributionCAM(model, [model.blocks[-1]], method="gradcam")(x, [1, 2])
    assert any("choose an earlier layer" in str(one.message) for one in said)
    is_map(AttributionCAM(model, method="gradcam++")(x, [1, 2]), x)


@report("grad-cam#329", "bfloat16")
def half() -> None:
    x = images().bfloat16()
    is_map(PiNetCAM(small().bfloat16())(x, [1, 2]), x)


@report("grad-cam#267", "values before they are scaled to 0..1")
def raw_values() -> None:
    model, x = small(), images()
    readout = read_out(model, x, 1)
    close(PiNetCAM(model).attributions(x, [1, 1]).flatten(1).sum(1) + readout.bias, readout.answer)


@report("grad-cam#132", "memory that stays after the CAM is deleted")
def memory() -> None:
    model, x = small(), images()
    cam = PiNetCAM(model)
    cam(x, [1, 2])
    left = weakref.ref(model)
    del cam, model
    gc.collect()
    assert left() is None


@report("vit-explain#18", "a fine-tuned ViT with other patches than the example")
def other_patches() -> None:
    model, x = timm.create_model("test_vit", num_classes=2, img_size=96).eval(), images(side=96)
    adds_up(model, x, 1)


# ---------------------------------------------------------------- the others


@report("torch-cam#68", "BiT, whose classifier is a convolution")
def bit() -> None:
    model = timm.models.resnetv2.ResNetV2([1, 1], (128, 256), num_classes=5, stem_chs=32).eval()
    assert isinstance(model.head.fc, nn.Conv2d)
    is_map(PiNetCAM(model)(images(side=64), [1, 2]), images(side=64))


@report("torch-cam#126", "Grad-CAM++ of an Xception with activations in place")
def in_place() -> None:
    x = images()
    for method in ("gradcam", "gradcam++", "layercam", "xgradcam"):
        is_map(AttributionCAM(ReusedModules().eval(), ["second"], method=method)(x, [1, 2]), x)


@report("zennit#184", "torchvision's ViT")
def torchvision_vit() -> None:
    from torchvision.models import VisionTransformer

    model = VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=5).eval()
    nn.init.normal_(model.heads.head.weight)
    adds_up(model, images(), 1)


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.low = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 8, 3, stride=2, padding=1)
        self.up, self.large = nn.ConvTranspose2d(8, 4, 2, stride=2), nn.Upsample(scale_factor=2, mode="bilinear")
        self.head = nn.Conv2d(16, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        down = self.down(x).relu()
        low = self.low(down).relu()
        return self.head(torch.cat([down, self.up(low), self.large(low)], 1))


@report("zennit#43", "a U-Net with Upsample and ConvTranspose2d")
def unet() -> None:
    adds_up(UNet().eval(), images(channels=1), (0, 5, 6))


@report("Quantus#122", "Grad-CAM in another size than the image")
def size_of_the_image() -> None:
    found = quantus_explain_func(small(), images().numpy(), np.array([1, 2]), method="layer_grad_cam")
    assert found.shape == (2, 1, 32, 32)


@report("Quantus#174", "metrics of a regression on signals")
def regression_on_signals() -> None:
    model = nn.Sequential(nn.Conv1d(2, 4, 5), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(4, 1)).eval()
    x = torch.randn(3, 2, 20)
    found = quantus_explain_func(model, x.numpy(), np.zeros(3, dtype=int), channels="keep", build={"layer": "input"})
    assert found.shape == x.shape


@report("timm#1172", "the averaged weights of a file of timm's training script")
def averaged_weights() -> None:
    raw, averaged = (timm.create_model("test_resnet", num_classes=3).eval() for _ in range(2))
    content = {"state_dict": raw.state_dict(), "state_dict_ema": averaged.state_dict(), "epoch": 3}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "last.pth.tar"
        torch.save(content, file)
        loaded = plugins.load_model(f"timm:test_resnet@{file}").model
    x = images(side=64)
    close(loaded(x), averaged(x))


# ---------------------------------------------------------------- the table


def outcome(one: Report) -> tuple[bool, str]:
    """Return whether a case ends as expected, and its result in words."""
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        try:
            one.case()
        except Exception as error:
            said = " ".join(str(error).split()).replace("|", "/")
            return bool(one.refused) and one.refused in said, f"refused: {said}"
    return not one.refused, "works"


def main() -> None:
    torch.set_num_threads(1)
    print(heading("thread", "wanted", "outcome"))
    for one in REPORTS:
        well, said = outcome(one)
        library, number = one.thread.split("#")
        print(
            row(f"{REPOSITORIES[library]}#{number}", one.wanted, said if well else f"**not as stated**: {said}"),
            flush=True,
        )


if __name__ == "__main__":
    main()
