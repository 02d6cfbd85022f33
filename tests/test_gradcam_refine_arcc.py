"""RefineCAM and ARCC of pytorch-grad-cam by name: the package's numbers, no trace, no batch mates."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import pytorch_grad_cam
import timm
import torch
from pytorch_grad_cam.metrics.road import ROADCombined
from pytorch_grad_cam.utils.image import scale_cam_image
from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget, ClassifierOutputTarget
from torch import nn

from gradcam_align import baseline_specs
from gradcam_align.arcc import arcc
from gradcam_align.target_question import TargetQuestion
from tests.networks import conv_net, filled, images, untouched
from xai_align import FeatureSpace, Question, explain, plugins
from xai_align.evaluation import deletion
from xai_align.question import TargetError
from xai_align.testing import check_attribution

SIDE = 96


@pytest.fixture(scope="module")
def resnet():
    return filled(timm.create_model("test_resnet", num_classes=7))


@pytest.fixture(scope="module")
def vit():
    return filled(timm.create_model("test_vit", num_classes=7, img_size=SIDE))


def build(model, **options):
    return plugins.attribution_method("refinecam").build(model, **options)


def channel_sum(maps):
    return maps.sum(1).numpy()


# --- RefineCAM ------------------------------------------------------------------------------------


def test_it_is_the_packages_on_the_last_four_stages(resnet):
    refined = pytest.importorskip("pytorch_grad_cam.refine_cam").RefineCAM
    x = images(2, SIDE)
    layers = [resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4]
    theirs = refined(resnet, layers)(x, [ClassifierOutputTarget(1), ClassifierOutputTarget(5)])
    resnet.requires_grad_(True)
    with untouched(resnet):
        ours = build(resnet).attribute(x, target=[1, 5])
    assert ours.shape == x.shape
    assert ours.dtype == x.dtype
    assert not ours.requires_grad
    assert theirs.std() > 0.01
    np.testing.assert_allclose(channel_sum(ours), theirs, atol=2e-4)
    for i, target in enumerate([1, 5]):  # an image alone has the same map
        alone = build(resnet).attribute(x[i : i + 1], target=target)
        torch.testing.assert_close(alone, ours[i : i + 1], rtol=1e-3, atol=1e-5)


def test_the_product_of_another_methods_maps_by_hand(resnet):
    x = images(2, SIDE)
    maps = [
        scale_cam_image(
            channel_sum(plugins.attribution_method("hirescam").build(resnet, layer=one).attribute(x, target=3))
        )
        for one in ("layer3", "layer4")
    ]
    expected = scale_cam_image(maps[0] * maps[1])
    for options in (
        {"layer": "layer3"},
        {"layer": resnet.layer3},
        {"layers": ["layer3", "layer4"]},
        {"layers": [resnet.layer3, FeatureSpace(layer="layer4", layout="NCHW")]},
    ):
        found = build(resnet, method="hirescam", **options).attribute(x, target=3)
        np.testing.assert_allclose(channel_sum(found), expected, atol=1e-5)
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(
            channel_sum(build(resnet, layer="layer3").attribute(x, target=3)), expected, atol=1e-3
        )


def test_in_front_of_a_class_token_it_takes_the_first_norm_of_each_block(vit):
    x, last = images(2, SIDE), len(vit.blocks)
    names = [f"blocks.{number}.norm1" for number in range(last - 4, last)]
    default = build(vit, method="hirescam").attribute(x, target=1)
    assert (default.flatten(1).std(1) > 0.01).all()
    assert torch.equal(default, build(vit, method="hirescam", layers=names).attribute(x, target=1))
    assert torch.equal(default, build(vit, method="hirescam", layer=f"blocks.{last - 4}").attribute(x, target=1))
    # Grad-CAM++ has nothing positive at the last layer of this network, which has not learned anything
    with pytest.warns(UserWarning, match=r"refinecam's map of image\(s\) \[0, 1\] is zero everywhere"):
        assert not build(vit).attribute(x, target=1).any()


def test_explain_and_questions_and_tuples(resnet):
    x = images(2, SIDE)
    question = Question.why_not(1, 2)
    found = explain(resnet, x, question, "refinecam", layer="layer2")
    assert found.values == "scores"
    assert torch.equal(found.attribution, build(resnet, layer="layer2").attribute(x, target=question))
    (in_a_tuple,) = build(resnet, layer="layer2").attribute((x,), target=question)
    assert torch.equal(in_a_tuple, found.attribution)


def test_it_keeps_the_conventions():
    skip = ["several_inputs"]
    outcomes = check_attribution(
        "refinecam",
        build=lambda model: build(model, layers=["first", "second"]),
        require=["numpy_targets", "detached", "inputs_after_error"],
        skip=skip,
    )
    assert {one.check for one in outcomes if one.status != "passed"} == set(skip)


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"layer": "conv1"}, ValueError, r"no plugin knows the stages of ConvNet; name the layers with layers=\[...\]"),
        ({"layers": ["conv1", "nowhere"]}, ValueError, "layer 'nowhere' not found"),
        ({"layers": "conv1"}, ValueError, "layers is 'conv1'; give a list"),
        ({"layers": []}, ValueError, r"layers is \[\]; give a list"),
        ({"layers": ["conv1"], "layer": "conv1"}, ValueError, "give one of the two"),
        ({"layers": ["conv1"], "method": "pinet"}, ValueError, "no method 'pinet' to refine; give one of gradcam"),
    ],
)
def test_where_it_cannot_look_is_said(options, error, said):
    with pytest.raises(error, match=said):
        build(conv_net(), **options).attribute(images(2, 16), target=1)


def test_without_stages_it_takes_the_last_layer_of_each_grid():
    found = build(conv_net()).attribute(images(2, 16), target=1)
    assert torch.equal(found, build(conv_net(), layers=["norm", "conv2"]).attribute(images(2, 16), target=1))
    (in_a_tuple,) = build(conv_net()).attribute((images(2, 16),), target=1)
    assert torch.equal(in_a_tuple, found)


def test_a_layer_that_is_no_stage_and_what_is_no_model(resnet):
    with pytest.raises(ValueError, match=r"'layer2\.0' is not a stage of ResNet; give one of act1, layer1"):
        build(resnet, layer="layer2.0").attribute(images(1, SIDE), target=1)
    with pytest.raises(TypeError, match=r"needs a torch\.nn\.Module, got function"):
        build(lambda x: x)


def test_an_older_version_of_the_package_is_named(monkeypatch, resnet):
    monkeypatch.delattr("pytorch_grad_cam.RefineCAM")
    monkeypatch.delattr("pytorch_grad_cam.metrics.arcc.ARCC")
    monkeypatch.setattr(baseline_specs, "version", lambda package: "1.5.5")
    with pytest.raises(ImportError, match=r"grad-cam 1\.5\.5 has no RefineCAM; install a newer one"):
        build(resnet)
    with pytest.raises(ImportError, match=r"grad-cam 1\.5\.5 has no ARCC; install a newer one"):
        arcc(resnet, images(1, SIDE), images(1, SIDE), explain=weighted, target=1)
    with pytest.raises(ImportError, match="has no ARCC"):
        baseline_specs.package_class("ARCC", "pytorch_grad_cam.metrics.nowhere")


# --- ARCC -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def net():
    return conv_net().requires_grad_(False)


def weighted(x, target):
    """A map of the image: the same formula of every image, whatever is asked."""
    return x * torch.linspace(0.5, 1.5, x.shape[-1])


def test_it_is_the_packages_arcc_of_scaled_maps_and_probabilities(net):
    package = pytest.importorskip("pytorch_grad_cam.metrics.arcc")
    x = images(2, 16)
    with untouched(net):
        found = plugins.metric("arcc").evaluate(net, x, weighted(x, None), target=[1, 3], explain=weighted)
    for i, label in enumerate([1, 3]):
        one = x[i : i + 1]

        def cam(input_tensor, targets):
            return scale_cam_image(np.maximum(channel_sum(weighted(input_tensor, None)), 0))

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            theirs = package.ARCC(cam)(one, cam(one, None), [ClassifierOutputSoftmaxTarget(label)], net)
        assert float(found[i]) == pytest.approx(float(theirs[0]), abs=1e-5)


def test_its_parts_by_hand(net):
    x = images(2, 16)
    best = max(range(5), key=lambda label: float(arcc(net, x, weighted(x, None), target=label, explain=weighted)[0]))
    found = arcc(net, x, weighted(x, None), target=best, explain=weighted)
    maps = scale_cam_image(np.maximum(channel_sum(weighted(x, None)), 0))
    again = scale_cam_image(np.maximum(channel_sum(weighted(x * torch.from_numpy(maps)[:, None], None)), 0))
    for i in range(2):
        coherency = (np.corrcoef(maps[i].ravel(), again[i].ravel())[0, 1] + 1) / 2
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            target = [ClassifierOutputSoftmaxTarget(best)]
            road = 2 * ROADCombined([20, 40, 60, 80])(x[i : i + 1], maps[i : i + 1], target, net)[0]
        parts = np.array([coherency, 1 - maps[i].mean(), road.clip(0, 1)]) + 1e-8
        assert float(found[i]) == pytest.approx(3 / (1 / parts).sum(), rel=0.02, abs=1e-6)
    assert float(found[0]) > 0.001


def test_an_image_alone_has_the_same_value_and_the_random_state_stays(net):
    x = images(3, 16)
    with untouched(net):
        whole = arcc(net, x, weighted(x, None), explain=weighted)
    predicted = net(x).argmax(1).tolist()
    torch.testing.assert_close(arcc(net, x, weighted(x, None), target=predicted, explain=weighted), whole)
    for i in range(3):
        alone = arcc(net, x[i : i + 1], weighted(x[i : i + 1], None), target=predicted[i], explain=weighted)
        torch.testing.assert_close(alone, whole[i : i + 1])


def test_a_question_is_passed_on_and_contrasts_are_judged_by_their_own_probability(net):
    x, asked = images(1, 16), []

    def watched(inputs, target):
        asked.append(target)
        return weighted(inputs, target)

    question = Question.why_not(1, 2)
    found = arcc(net, x, weighted(x, None), target=question, explain=watched)
    assert asked == [[question]]
    two = nn.Sequential(net, nn.Linear(5, 2, bias=False)).eval().requires_grad_(False)
    two[1].weight.copy_(torch.eye(5)[1:3])  # the other classes are gone: p_1 / (p_1 + p_2) is its softmax
    torch.testing.assert_close(arcc(two, x, weighted(x, None), target=0, explain=weighted), found)


def test_the_opposite_of_a_class_has_the_rest_of_its_probability(net):
    x = images(1, 16)
    two = nn.Sequential(net, nn.Linear(5, 2, bias=False)).eval().requires_grad_(False)
    opposite = arcc(two, x, weighted(x, None), target=Question.why_the_opposite(0), explain=weighted)
    torch.testing.assert_close(opposite, arcc(two, x, weighted(x, None), target=1, explain=weighted))


def test_a_target_of_the_package_has_no_probability(net):
    x, question = images(1, 16), TargetQuestion(target=ClassifierOutputTarget(1))
    for metric in (deletion, partial(arcc, explain=weighted)):
        with pytest.raises(TargetError, match=r"'why ClassifierOutputTarget\?' is a function of the output and has no"):
            metric(net, x, weighted(x, None), target=question)
    answer, logit = (deletion(net, x, weighted(x, None), target=one, activation=None) for one in (question, 1))
    torch.testing.assert_close(answer, logit)


def test_a_map_without_positive_values_has_no_value(net):
    x = images(2, 16)
    maps = weighted(x, None)
    maps[1] = -1
    assert arcc(net, x, maps, target=1, explain=weighted).isnan().tolist() == [False, True]


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"inputs": torch.ones(2, 16)}, ValueError, r"ARCC needs images \[N, C, H, W\]"),
        ({"attributions": torch.ones(2, 3, 8, 8)}, ValueError, "give a map for each of them"),
        ({"attributions": torch.ones(2, 16, 16) * torch.nan}, ValueError, "must be finite"),
        ({"target": 5}, TargetError, "out of range"),
        ({"explain": lambda x, target: None}, ValueError, "attributions are NoneType"),
        ({"forward_func": conv_net().train()}, ValueError, r"call model\.eval\(\) first"),
    ],
)
def test_bad_input_is_said(net, change, error, said):
    x = images(2, 16)
    given = {"forward_func": net, "inputs": x, "attributions": weighted(x, None), "target": 1, "explain": weighted}
    with pytest.raises(error, match=said):
        arcc(**{**given, **change})


def test_the_package_is_there_in_a_version_that_has_both():
    assert pytorch_grad_cam.RefineCAM
    assert plugins.origin("refinecam").name == "gradcam_align"
