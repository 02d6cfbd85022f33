"""PiNetCAM and its base where a pipeline of pytorch-grad-cam expects a CAM."""

from __future__ import annotations

from functools import partial

import captum.attr
import cv2
import numpy as np
import pytest
import torch
from networks import conv_net, images, untouched
from pytorch_grad_cam import GradCAM, RefineCAM
from pytorch_grad_cam.base_cam import BaseCAM
from pytorch_grad_cam.metrics.cam_mult_image import CamMultImageConfidenceChange, multiply_tensor_with_cam
from pytorch_grad_cam.metrics.road import ROADCombined
from pytorch_grad_cam.utils.image import scale_cam_image, show_cam_on_image
from pytorch_grad_cam.utils.model_targets import (
    BinaryClassifierOutputTarget,
    ClassifierOutputSoftmaxTarget,
    ClassifierOutputTarget,
    RawScoresOutputTarget,
    SemanticSegmentationTarget,
)
from pytorch_grad_cam.utils.svd_on_activations import get_2d_projection
from torch import nn
from torchvision.transforms.functional import resize

import gradcam_align
from gradcam_align import AttributionCAM, PiNetCAM, TargetQuestion
from gradcam_align.first_component import first_component
from gradcam_align.target_question import questions_of
from xai_align import AttributionSpec, Question, plugins, read_out
from xai_align._tools.sum_keeping import resize_keeping_sum
from xai_align.question import TargetError


@pytest.fixture
def model():
    return conv_net()


@pytest.fixture
def pair():
    return images(2, 16)


def close(a, b, tolerance=1e-5):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * float(b.abs().max()))


def scaled(maps):
    """Each image from 0 to 1; what is zero stays zero."""
    least, most = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    assert bool((most > 0).any())
    return (maps - least) / (most - least).clamp(min=1e-9)


def test_raw_values_are_the_readout_and_the_picture_is_their_positive_part(model, pair):
    with untouched(model), PiNetCAM(model, [model.conv2]) as cam:
        raw, picture = cam.attributions(pair, [1, 3]), cam(pair, [1, 3])
    readout = read_out(model, pair, [1, 3], "conv2")
    close(raw, readout.map("smooth"))
    close(raw.sum((1, 2)) + readout.bias, readout.answer)
    close(cam.outputs, model(pair).detach())
    assert not raw.requires_grad
    close(torch.from_numpy(picture), scaled(raw.clamp(min=0)))
    by_area = PiNetCAM(model, [model.conv2], spread="area").attributions(pair, [1, 3])
    close(by_area, readout.map("area"))


def test_on_a_pooled_linear_head_it_is_grad_cam(pair):
    pair = images(2, 16, seed=1)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)
    ).eval()
    layer = [model[1]]
    with torch.no_grad():
        model[4].weight.abs_()  # then ReLU before and after enlarging is the same
    theirs = GradCAM(model, layer)(pair, [ClassifierOutputTarget(1)] * 2)
    np.testing.assert_allclose(PiNetCAM(model, layer)(pair, 1), theirs, atol=1e-5)


def test_it_is_a_base_cam_and_offers_its_names(model):
    cam = PiNetCAM(model=model, target_layers=[model.conv2], reshape_transform=None)
    assert isinstance(cam, BaseCAM)
    assert cam.target_layers == [model.conv2]
    assert cam.device == torch.device("cpu")
    assert cam.outputs is None
    assert {"PiNetCAM", "AttributionCAM"} <= set(dir(gradcam_align))
    with pytest.raises(AttributeError, match="'GradCAM'; it offers ALIGNCAM, FEICAM, AttributionCAM, PiNetCAM"):
        _ = gradcam_align.GradCAM


# targets


def test_one_class_in_every_form(model, pair):
    cam = PiNetCAM(model)
    expected = cam.attributions(pair, [1, 3])
    forms = [
        [ClassifierOutputTarget(1), ClassifierOutputTarget(3)],
        (ClassifierOutputTarget(1), ClassifierOutputTarget(np.int64(3))),
        [Question.why(1), ClassifierOutputTarget(3)],
        [lambda output: output[1], lambda output: output[3]],
        np.array([1, 3]),
        torch.tensor([1, 3]),
        [(1,), (3,)],
    ]
    for form in forms:
        close(cam.attributions(pair, form), expected)
    for one in (1, ClassifierOutputTarget(1), Question.why(1), lambda output: output[1]):
        close(cam.attributions(pair, one)[0], expected[0])


def test_no_targets_are_the_predicted_classes(model, pair):
    cam = PiNetCAM(model)
    close(cam.attributions(pair), cam.attributions(pair, model(pair).argmax(1)))
    other = AttributionCAM(model, method="saliency")
    close(other.attributions(pair), other.attributions(pair, model(pair).argmax(1)))


def test_a_linear_target_is_explained_exactly(model, pair):
    cam = PiNetCAM(model)
    each = [cam.attributions(pair, k) for k in range(5)]
    close(cam.attributions(pair, lambda output: output[1] - 2 * output[2] + 5), each[1] - 2 * each[2], 1e-4)
    question = TargetQuestion(target=lambda output: output[1] - 2 * output[2] + 5)
    readout = read_out(model, pair, question)
    close(readout.answer, model(pair)[:, 1].detach() - 2 * model(pair)[:, 2].detach() + 5)
    close(readout.map().sum((1, 2)) + readout.bias, readout.answer)


def test_any_other_target_is_explained_by_its_first_order_form(model, pair):
    cam = PiNetCAM(model)
    each = torch.stack([cam.attributions(pair, k) for k in range(5)], dim=1)
    p = model(pair).softmax(1).detach()
    # d p_2 / d z_k = p_2 (1[k = 2] - p_k)
    weights = p[:, 2:3] * (nn.functional.one_hot(torch.tensor(2), 5) - p)
    close(cam.attributions(pair, ClassifierOutputSoftmaxTarget(2)), (weights[:, :, None, None] * each).sum(1), 1e-4)


def test_a_binary_target_on_one_output(pair):
    model = conv_net(classes=1)
    cam = PiNetCAM(model)
    yes, no = (cam.attributions(pair, [BinaryClassifierOutputTarget(c)] * 2) for c in (1, 0))
    close(yes, -no)
    close(yes, cam.attributions(pair))
    close(yes, cam.attributions(pair, 0))


def test_a_segmentation_target_on_a_dense_output(pair):
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()
    mask = np.zeros((16, 16), dtype=np.float32)
    mask[4:8, 4:8] = 1
    targets = [SemanticSegmentationTarget(1, mask)] * 2
    raw = PiNetCAM(model).attributions(pair, targets)
    readout = read_out(model, pair, questions_of(targets, 2))
    expected = (model(pair)[:, 1] * torch.from_numpy(mask)).sum((1, 2)).detach()
    close(raw.sum((1, 2)) + readout.bias, expected)
    assert float(raw[:, :3].abs().max()) == 0  # 3 x 3 convolution: rows 3 to 8 alone are seen
    with pytest.raises(TargetError, match="has no one predicted class; say in targets"):
        PiNetCAM(model)(pair)


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        ([1], r"a list with 1 target for 2 examples; give one for each, \[target\] \* 2"),
        ([ClassifierOutputTarget(1)] * 3, "3 targets for 2 examples"),
        (ClassifierOutputTarget(5), "class 5 is out of range; this output has 5"),
        (RawScoresOutputTarget(), r"RawScoresOutputTarget gave shape \[5\] for an output of shape \[5\]"),
        (lambda output: 1.0, "<lambda> gave a float"),
        (lambda output: output[1].detach(), "does not depend on the output in a way that can be differentiated"),
        ([1.5, 2], "a class index is 1.5"),
    ],
)
@pytest.mark.parametrize("make", [PiNetCAM, partial(AttributionCAM, method="gradcam")])
def test_targets_that_make_no_sense_are_refused(model, pair, make, targets, said):
    with untouched(model), pytest.raises((TargetError, RuntimeError, ValueError), match=f"{said}|does not depend"):
        make(model)(pair, targets)


def test_of_several_outputs_a_module_with_the_logits_alone_is_asked_for(model, pair):
    """CAMs have no option ``output``, so it is not the only advice."""

    class TwoOutputs(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, x):
            return {"main": self.model(x), "aux": self.model(-x)}

    said = r"output=\.\.\. where there is such an option .*, or wrap the model so that it returns them alone"
    with pytest.raises(TypeError, match=said):
        PiNetCAM(TwoOutputs().eval())(pair, 1)


def test_questions_of_the_same_target_are_the_same():
    def target(output):
        return output[0]

    assert TargetQuestion(target=target) == TargetQuestion(target=target)
    assert len({TargetQuestion(target=target), TargetQuestion(target=target), Question.why(0)}) == 2
    assert TargetQuestion(target=target) != TargetQuestion(target=lambda output: output[0])
    assert str(TargetQuestion(target=ClassifierOutputSoftmaxTarget(2))) == "why ClassifierOutputSoftmaxTarget?"


# the other options


def test_several_target_layers_are_averaged(model, pair):
    layers = [model.conv1, model.conv2]
    each = [PiNetCAM(model, [layer]) for layer in layers]
    both = PiNetCAM(model, layers)
    close(both.attributions(pair, 1), torch.stack([cam.attributions(pair, 1) for cam in each]).mean(0))
    pictures = np.mean([cam(pair, 1) for cam in each], axis=0)
    np.testing.assert_allclose(both(pair, 1), scale_cam_image(pictures), atol=1e-5)


def test_the_first_component_is_that_of_the_package_but_for_its_sign():
    maps = torch.randn(3, 5, 4, 6, generator=torch.Generator().manual_seed(0))
    ours, theirs = first_component(maps), torch.from_numpy(get_2d_projection(maps.numpy()))
    close(ours.abs(), theirs.abs(), 1e-4)
    centred = maps - maps.mean((2, 3), keepdim=True)
    assert bool(((ours * centred.sum(1)).sum((1, 2)) >= 0).all())
    close(first_component(maps[1:2]), ours[1:2])


def test_eigen_smooth_is_taken_in_the_feature_space(model, pair):
    c = read_out(model, pair, 1, "conv2").contributions
    expected = scaled(resize_keeping_sum(first_component(c), (16, 16), "smooth").clamp(min=0))
    close(torch.from_numpy(PiNetCAM(model, [model.conv2])(pair, 1, eigen_smooth=True)), expected, 1e-4)


def test_aug_smooth_mirrors_back_and_keeps_the_class(model):
    x = images(1, 16)
    symmetric = torch.cat([x, x.flip(-1)], dim=-1)
    smooth = PiNetCAM(model)(symmetric, 1, aug_smooth=True)
    mirrored = PiNetCAM(model)(symmetric.flip(-1), 1, aug_smooth=True)
    np.testing.assert_allclose(smooth, mirrored[..., ::-1], atol=1e-5)
    cam = PiNetCAM(model)
    np.testing.assert_allclose(cam(x, aug_smooth=True), cam(x, model(x).argmax(1), aug_smooth=True), atol=1e-6)
    close(cam.outputs, model(x).detach())


@pytest.mark.parametrize("options", [{}, {"aug_smooth": True}, {"eigen_smooth": True}])
def test_an_image_has_the_same_map_in_any_batch(model, pair, options):
    cam = PiNetCAM(model)
    together = cam(pair, [1, 3], **options)
    np.testing.assert_allclose(cam(pair[1:], [3], **options)[0], together[1], atol=1e-5)


def test_nothing_the_user_passed_changes(model, pair):
    given = pair.clone().requires_grad_()
    with untouched(model):
        PiNetCAM(model)(given, 1, aug_smooth=True, eigen_smooth=True)
    assert torch.equal(given, pair)
    assert given.requires_grad
    assert given.grad is None


# any method


def test_any_method_by_name_and_a_class_of_it_in_two_lines(model, pair):
    class SaliencyCAM(AttributionCAM):
        method = "saliency"

    direct = captum.attr.Saliency(model).attribute(pair.clone(), target=torch.tensor([1, 3])).sum(1)
    close(SaliencyCAM(model).attributions(pair, [1, 3]), direct)
    close(AttributionCAM(model, method="saliency").attributions(pair, [1, 3]), direct)
    absolute = AttributionCAM(model, method="saliency", abs=False)  # an option of the method
    assert float(absolute.attributions(pair, 1).min()) < 0


def test_the_readout_by_its_name_is_that_of_pinet_cam(model, pair):
    by_name = AttributionCAM(model, [model.conv2], method="pinet").attributions(pair, 1)
    close(by_name, PiNetCAM(model, [model.conv2], spread="area").attributions(pair, 1))


def test_a_method_that_knows_no_questions_is_asked_in_a_way_it_understands(model, pair, monkeypatch):
    built = []

    def build(network):
        built.append(network)
        return captum.attr.Saliency(network)

    spec = AttributionSpec(name="plain", build=build, summary="")
    monkeypatch.setattr(plugins, "attribution_method", lambda name: spec)
    cam = AttributionCAM(model, method="plain")
    cam.attributions(pair, [1, 3])
    assert built == [model]
    found = cam.attributions(pair, [Question.why_not(1, 2), 3])
    x = pair.clone().requires_grad_()
    (model(x)[0, 1] - model(x)[0, 2] + model(x)[1, 3]).backward()
    close(found, x.grad.abs().sum(1))


def test_a_method_that_trains_is_built_once(model, pair, monkeypatch):
    class Trained:
        built = 0

        def __init__(self, network):
            Trained.built += 1

        def attribute(self, inputs, target=None):
            self.target = target
            return torch.ones_like(inputs)

    spec = AttributionSpec(name="trained", build=Trained, summary="", trains=True)
    monkeypatch.setattr(plugins, "attribution_method", lambda name: spec)
    cam = AttributionCAM(model, method="trained")
    cam(pair)
    cam(pair, Question.why_not(1, 2))
    assert Trained.built == 1


def test_what_is_wrong_with_a_construction_is_said(model, pair):
    with pytest.raises(ValueError, match="there is no attribution method 'salency'"):
        AttributionCAM(model, method="salency")
    with pytest.raises(ValueError, match="is not a module of this model"):
        PiNetCAM(model, [nn.Linear(1, 1)])
    with pytest.warns(UserWarning, match="'saliency' takes no layer: target_layers make no difference"):
        cam = AttributionCAM(model, [model.conv2], method="saliency")
    close(cam.attributions(pair, 1), AttributionCAM(model, method="saliency").attributions(pair, 1))
    with pytest.raises(ValueError, match=r"explains a batch of images \[B, C, H, W\], got \[3, 16, 16\]"):
        PiNetCAM(model)(pair[0])
    for cam in (PiNetCAM(model), AttributionCAM(model, method="saliency")):
        for aug_smooth in (False, True):
            with pytest.raises(ValueError, match=r"the inputs have shape \[0, 3, 16, 16\]; give at least one example"):
                cam(pair[:0], [], aug_smooth=aug_smooth)


def test_a_pinet_cam_warns_as_the_readout_that_it_shows():
    one_cell = nn.Sequential(nn.Conv2d(3, 4, 16), nn.ReLU(), nn.Flatten(), nn.Linear(4, 3)).eval()
    with pytest.warns(UserWarning, match="the map at '1' has one cell"):
        PiNetCAM(one_cell, ["1"]).attributions(images(2, 16), 1)
    cancelling = nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Linear(64, 2)).eval()
    with torch.no_grad():
        cancelling[2].weight.copy_(torch.tensor([1.0, -1.0]).repeat(32))
        cancelling[2].bias.fill_(0.01)
    with pytest.warns(UserWarning, match="mostly cancellation: 32 for and 32 against, with an answer of 0.01"):
        PiNetCAM(cancelling, ["0"]).attributions(torch.ones(1, 1, 8, 8), 0)


# in the package's own company


def test_refine_cam(model, pair):
    layers = [model.conv1, model.conv2]
    refined = RefineCAM(model, layers, base_method=PiNetCAM)(pair, [ClassifierOutputTarget(1)] * 2)
    product = np.prod([PiNetCAM(model, [layer])(pair, 1) for layer in layers], axis=0)
    np.testing.assert_allclose(refined, scale_cam_image(product), atol=1e-5)


def test_sess(model, pair):
    pytest.importorskip("pytorch_grad_cam.sess")
    from pytorch_grad_cam import SESS

    with untouched(model), SESS(model, [model.conv2], base_method=PiNetCAM, num_scales=2) as sess:
        found = sess(pair, [ClassifierOutputTarget(1)] * 2)
    # by hand: 16 x 16 is one window, and 21 x 21 (step 2/7 of 16, rounded) four, at 0 and 5, shifted into the image
    target, expected = ClassifierOutputTarget(1), []
    for image in pair.split(1):
        windows = [(image, 0, 0, 16)]
        larger = resize(image, 21)
        windows += [(larger[..., y : y + 16, x : x + 16], x, y, 21) for y in (0, 5) for x in (0, 5)]
        scores = [model(patch).softmax(1)[0, 1].item() for patch, *_ in windows]
        total, covered = np.zeros((16, 16), np.float32), np.zeros((16, 16), np.float32)
        for (patch, x, y, side), score in zip(windows, scores, strict=True):
            with PiNetCAM(model, [model.conv2]) as cam:
                part = cam(patch, [target])[0] * score / max(scores)
            canvas = np.zeros((side, side), np.float32)
            canvas[y : y + 16, x : x + 16] = part
            shown = cv2.resize(canvas, (16, 16))
            total += np.where(shown > 0, shown, 0)
            covered += shown > 0
        mean = np.divide(total, covered, out=np.zeros_like(total), where=covered > 0)
        expected.append(cv2.GaussianBlur(mean, (11, 11), 5.0))
    np.testing.assert_allclose(found, scale_cam_image(np.stack(expected)), atol=1e-4)
    assert found.std() > 0.05


def test_finer_cam(model, pair):
    finer = pytest.importorskip("pytorch_grad_cam.finer_cam")
    found = finer.FinerCAM(model, [model.conv2], base_method=PiNetCAM)(pair)
    logits = model(pair).detach()
    order = (logits - logits.amax(1, keepdim=True)).abs().argsort(1)
    targets = [finer.FinerWeightedTarget(int(row[0]), row[1:4].tolist(), 1) for row in order]
    np.testing.assert_allclose(found, PiNetCAM(model, [model.conv2])(pair, targets), atol=1e-4)


def test_metrics(model, pair):
    targets = [ClassifierOutputTarget(1), ClassifierOutputTarget(3)]
    cam = PiNetCAM(model)
    maps = cam(pair, targets)
    change = CamMultImageConfidenceChange()(pair, maps, targets, model)
    seen = torch.stack([multiply_tensor_with_cam(x, torch.from_numpy(m)) for x, m in zip(pair, maps, strict=True)])
    by_hand = (model(seen) - model(pair))[[0, 1], [1, 3]].detach().numpy()
    np.testing.assert_allclose(change, by_hand, atol=1e-5)
    assert np.isfinite(ROADCombined([20, 80])(pair, maps, targets, model)).all()


def test_arcc_calls_it_with_keywords(model, pair):
    arcc = pytest.importorskip("pytorch_grad_cam.metrics.arcc")
    targets = [ClassifierOutputTarget(1), ClassifierOutputTarget(3)]
    cam = PiNetCAM(model, ["conv1"])
    maps = cam(pair, targets)
    found = arcc.ARCC(cam, [20, 80])(pair, maps, targets, model)
    # by hand: the harmonic mean of coherency, sparsity and ROAD, each in [0, 1]
    again = cam(pair * torch.from_numpy(maps)[:, None], targets)
    coherency = [(np.corrcoef(a.ravel(), b.ravel())[0, 1] + 1) / 2 for a, b in zip(maps, again, strict=True)]
    road = (2 * ROADCombined([20, 80])(pair, maps, targets, model)).clip(0, 1)
    parts = np.stack([coherency, 1 - maps.mean((1, 2)), road]) + 1e-8
    np.testing.assert_allclose(found, 3 / (1 / parts).sum(0), rtol=0.02, atol=1e-6)


def test_show_cam_on_image(model, pair):
    picture = np.full((16, 16, 3), 0.5, dtype=np.float32)
    shown = show_cam_on_image(picture, PiNetCAM(model)(pair, 1)[0], use_rgb=True)
    assert shown.shape == (16, 16, 3)
    assert shown.dtype == np.uint8
