"""CAMs that can be trained: equal to Captum's with their gradients, on any layout, and without a trace."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from captum.attr import LayerGradCam
from torch import nn

from tests.networks import conv_net, images, untouched
from xai_align.align.captured_pass import CapturedPass, cam_space, capture
from xai_align.align.saliency import cam_at, dead, evidence_at, grad_cam, normalised, saliency_at
from xai_align.hookspecs import FeatureSpace

LABELS = torch.tensor([0, 3, 4])
CAPTUM = {"first": {}, "second": {"grad_kwargs": {"create_graph": True}}}


def gap_net(channels=4, classes=3, size=1):
    """A convolution, global average pooling, a linear layer: its CAM can be written down."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, channels, size), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)
        )


def smooth_net():
    model = conv_net()
    model.act = nn.SiLU(inplace=True)
    return model


def gradients(cam, model):
    """Of some function of the CAM, for every parameter; None where it does not reach."""
    weights = torch.linspace(0.5, 2, cam.numel()).reshape(cam.shape)
    found = torch.autograd.grad((cam.square() * weights).sum(), list(model.parameters()), allow_unused=True)
    return {name: g for (name, _), g in zip(model.named_parameters(), found, strict=True)}


@pytest.mark.parametrize("order", ["first", "second"])
@pytest.mark.parametrize("layer", ["conv1", "norm", "pool", "conv2"])
@pytest.mark.parametrize("net", [conv_net, smooth_net], ids=["relu", "silu"])
def test_cam_and_its_gradients_are_captums(order, layer, net):
    model, x = net(), images(3)
    plain = net()
    plain.act.inplace = False  # Captum holds the tensor itself, which the next layer would overwrite
    oracle = LayerGradCam(plain, plain.get_submodule(layer))
    theirs = oracle.attribute(x, LABELS, relu_attributions=True, **CAPTUM[order])
    ours = grad_cam(model, x, LABELS, layer=layer, order=order)
    assert ours.max() > 0
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)
    expected = gradients(theirs, plain)
    for name, gradient in gradients(ours, model).items():
        # Captum's graph holds zeros where ours holds nothing
        zero = torch.zeros_like(model.get_parameter(name))
        want = zero if expected[name] is None else expected[name]
        torch.testing.assert_close(zero if gradient is None else gradient, want, rtol=1e-5, atol=1e-8)


def test_only_the_second_order_reaches_behind_the_layer():
    model, x = smooth_net(), images(3)
    first = gradients(grad_cam(model, x, LABELS, layer="conv1"), model)
    second = gradients(grad_cam(model, x, LABELS, layer="conv1", order="second"), model)
    assert {name for name, g in first.items() if g is not None} == {"conv1.weight", "conv1.bias"}
    assert {name for name, g in second.items() if g is not None} >= {
        "conv1.weight",
        "norm.weight",
        "conv2.weight",
        "fc.weight",
    }


@pytest.mark.parametrize("order", ["first", "second"])
def test_second_order_gradients_are_those_of_finite_differences(order):
    """First order is the derivative with the channel weights held, second order the whole derivative."""
    model, x, y = gap_net().double(), images(2, dtype=torch.float64), torch.tensor([0, 2])
    held = model[4].weight.detach()[y][:, :, None, None] / 64

    def value(model):
        if order == "second":
            return grad_cam(model, x, y, layer="1").square().sum()
        return (held * model[1](model[0](x))).sum(1).relu().square().sum()

    cam = grad_cam(model, x, y, layer="1", order=order)
    for name, place in (("0.weight", (1, 2, 0, 0)), ("4.weight", (2, 1))):
        gradient = torch.autograd.grad(
            cam.square().sum(), model.get_parameter(name), retain_graph=True, allow_unused=True
        )[0]
        moved = []
        for step in (1e-6, -1e-6):
            other = copy.deepcopy(model)
            other.get_parameter(name).data[place] += step
            moved.append(value(other).item())
        slope = (moved[0] - moved[1]) / 2e-6
        assert (0.0 if gradient is None else gradient[place].item()) == pytest.approx(slope, rel=1e-5, abs=1e-10)


def test_after_global_pooling_the_channel_weights_are_the_heads():
    model, x, y = gap_net(), images(2), torch.tensor([2, 0])
    by_hand = torch.einsum("nc,nchw->nhw", model[4].weight[y] / (8 * 8), model[1](model[0](x)))
    torch.testing.assert_close(grad_cam(model, x, y)[:, 0], by_hand.relu())
    assert cam_space(model, x).layer == "1"


def test_a_layer_that_is_overwritten_shows_what_it_gave():
    """conv2's output is written into by the next activation; the CAM is that of the network that doesn't."""
    model, x = conv_net(), images(3)
    careful = copy.deepcopy(model)
    careful.act.inplace = False
    for order in ("first", "second"):
        ours = grad_cam(model, x, LABELS, layer="conv2", order=order)
        theirs = grad_cam(careful, x, LABELS, layer="conv2", order=order)
        torch.testing.assert_close(ours, theirs)
        assert capture(model, x, FeatureSpace(layer="conv2")).activations.min() < 0
        expected = gradients(theirs, careful)
        for name, gradient in gradients(ours, model).items():
            torch.testing.assert_close(gradient, expected[name])


def tiny_timm(name):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if name == "swin":
            return timm.models.SwinTransformer(
                img_size=32, patch_size=4, window_size=4, embed_dim=8, depths=(1, 1), num_heads=(1, 2), num_classes=5
            ).eval()
        return timm.create_model(name, num_classes=5).eval()


def test_channels_last_maps_are_read_as_maps():
    model, x = tiny_timm("swin"), images(3, 32)
    features = model.forward_features(x)
    assert features.shape == (3, 4, 4, 16)
    by_hand = torch.einsum("nhwc,nc->nhw", features, model.head.fc.weight[LABELS] / 16).relu()
    torch.testing.assert_close(grad_cam(model, x, LABELS)[:, 0], by_hand)
    # a stage in the middle, by its name
    assert grad_cam(model, x, LABELS, layer="layers.0").shape == (3, 1, 8, 8)


def test_of_tokens_the_patches_count():
    model, x = tiny_timm("test_vit"), images(3, 160)
    space = cam_space(model, x)
    assert (space.layer, space.prefix_tokens) == ("blocks.5.norm1", 1)
    held = []
    handle = model.blocks[5].norm1.register_forward_hook(lambda module, args, output: held.append(output))
    logits = model(x)
    handle.remove()
    (gradient,) = torch.autograd.grad(logits.gather(1, LABELS[:, None]).sum(), held[0])
    patches = held[0][:, 1:]
    by_hand = torch.einsum("nlc,nc->nl", patches, gradient[:, 1:].mean(1)).relu().reshape(3, 10, 10)
    cam = grad_cam(model, x, LABELS)
    assert cam.max() > 0
    torch.testing.assert_close(cam[:, 0], by_hand)
    assert gradients(cam, model)["patch_embed.proj.weight"].abs().sum() > 0


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_convnext"])
@pytest.mark.parametrize("order", ["first", "second"])
def test_timm_networks_find_their_place(name, order):
    model, x = tiny_timm(name), images(3, 96)
    with untouched(model):
        cam = grad_cam(model, x, LABELS, order=order)
    assert cam.shape[:2] == (3, 1)
    assert 1 < cam.shape[2] * cam.shape[3] < 96 * 96 / 64
    assert any(g is not None and g.abs().sum() > 0 for g in gradients(cam, model).values())
    torch.testing.assert_close(capture(model, x, cam_space(model, x)).logits, model(x), rtol=0, atol=0)


def test_an_unknown_residual_network_is_read_behind_its_last_block():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.act = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True)

        def forward(self, x):
            return self.act(x + self.norm(self.conv(x)))

    model = nn.Sequential(nn.Conv2d(3, 8, 1), Block(), nn.Sequential(Block()), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with untouched(model):  # in train mode: no statistics are learnt from the noise it is found with
        assert cam_space(model, images(3)).layer == "2"


def test_a_dead_cam_is_zero_and_is_found():
    model, x = gap_net(), images(3)
    with torch.no_grad():
        model[4].weight[1] = -1.0
    cam = grad_cam(model, x, torch.tensor([1, 0, 1]))
    assert dead(cam).tolist() == [True, False, True]
    assert normalised(cam)[0].eq(0).all()


@pytest.mark.parametrize("how", ["max", "minmax"])
def test_normalised_maps_are_between_zero_and_one(how):
    cam = images(3)[:, :1].relu().requires_grad_()
    scaled = normalised(cam, how=how)
    assert (scaled.amax((1, 2, 3)) == 1).all()
    assert (scaled.amin((1, 2, 3)) == 0).all()
    torch.testing.assert_close(normalised(cam * 1e-4, how=how), scaled)
    flat = torch.full((1, 1, 4, 4), 0.5, requires_grad=True)
    assert normalised(flat, how=how).unique().tolist() == [1.0 if how == "max" else 0.0]
    for maps in (cam, flat, torch.zeros(1, 1, 4, 4, requires_grad=True)):
        (gradient,) = torch.autograd.grad(normalised(maps, how=how).square().sum(), maps)
        assert gradient.isfinite().all()


def test_a_signed_map_is_the_evidence_on_both_sides_and_cannot_die():
    """Where all evidence speaks against a class, the rectified CAM is dead and has no gradient; this one has."""
    model, x = gap_net(), images(2)
    with torch.no_grad():
        model[4].weight[1] = -1.0
    seen, target = capture(model, x, FeatureSpace(layer="1")), torch.tensor([1, 1])
    evidence = evidence_at(seen, target)
    assert (evidence <= 0).all()
    assert torch.equal(cam_at(seen, target), evidence.relu())
    signed = saliency_at(seen, target, how="signed")
    lowest, highest = evidence.amin((2, 3), keepdim=True), evidence.amax((2, 3), keepdim=True)
    torch.testing.assert_close(signed, (evidence - lowest) / (highest - lowest))
    weight = model[0].weight
    assert torch.autograd.grad(signed.square().sum(), weight, retain_graph=True)[0].any()
    for how in ("max", "minmax"):
        assert dead(saliency_at(seen, target, how=how)).all()
        assert not torch.autograd.grad(saliency_at(seen, target, how=how).sum(), weight, retain_graph=True)[0].any()


def test_minmax_by_hand():
    cam = torch.tensor([[[[1.0, 2.0, 5.0]]]])
    assert normalised(cam, how="minmax").flatten().tolist() == [0.0, 0.25, 1.0]
    assert normalised(cam, how="max").flatten().tolist() == pytest.approx([0.2, 0.4, 1.0])


@pytest.mark.parametrize("order", ["first", "second"])
def test_images_do_not_depend_on_their_mates(order):
    model, x = conv_net(), images(3)
    together = grad_cam(model, x, LABELS, order=order)
    for i in range(3):
        alone = grad_cam(model, x[i : i + 1], LABELS[i : i + 1], order=order)
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-5, atol=1e-7)


def test_half_precision_gives_single_precision_maps():
    model, x = conv_net(), images(3)
    exact = grad_cam(model, x, LABELS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        seen = capture(model, x, cam_space(model, x))
        cam = cam_at(seen, LABELS, order="second")
        scaled = normalised(cam)
    assert seen.activations.dtype == seen.logits.dtype == torch.bfloat16
    assert cam.dtype == scaled.dtype == torch.float32
    torch.testing.assert_close(cam, exact, rtol=0.1, atol=0.02 * exact.max().item())
    assert gradients(scaled, model)["conv1.weight"].isfinite().all()
    assert grad_cam(model.double(), x.double(), LABELS).dtype == torch.float64


def test_small_gradients_survive_half_precision():
    """alpha is 1e-4 / 256, below float16's precision; A is 2, so each cell of the CAM is 2 alpha."""
    activations = torch.full((1, 1, 16, 16), 2.0, dtype=torch.float16, requires_grad=True)
    weight = torch.tensor([[1e-4], [0.0]], dtype=torch.float16)
    cam = cam_at(CapturedPass(activations.mean((2, 3)) @ weight.T, activations), torch.tensor([0]))
    torch.testing.assert_close(cam, torch.full((1, 1, 16, 16), 2e-4 / 256), rtol=2e-3, atol=0)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_without_gradients_the_values_are_the_same(context):
    model, x = conv_net(), images(3)
    with untouched(model):
        with context():
            quiet = grad_cam(model, x.clone(), LABELS, order="second")
    assert not quiet.requires_grad
    torch.testing.assert_close(quiet, grad_cam(model, x, LABELS))


def test_a_frozen_backbone_has_cams_too():
    model, x = conv_net(), images(3)
    expected = grad_cam(model, x, LABELS)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("fc"))
    cam = grad_cam(model, x, LABELS, order="second")
    torch.testing.assert_close(cam, expected)
    cam.sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is not None] == ["fc.weight"]


def test_the_logits_still_train_everything():
    model, x = conv_net(), images(3)
    seen = capture(model, x, cam_space(model, x))
    torch.testing.assert_close(seen.logits, model(x), rtol=0, atol=0)
    cam_at(seen, LABELS)  # its backward pass leaves the graph alone
    ours = torch.autograd.grad(seen.logits.square().sum(), model.conv1.weight)
    torch.testing.assert_close(ours, torch.autograd.grad(model(x).square().sum(), model.conv1.weight))


def test_recomputed_activations_are_kept_for_the_pass():
    model, x = tiny_timm("test_vit"), images(3, 160)
    expected = gradients(grad_cam(model, x, LABELS), model)
    model.set_grad_checkpointing()
    found = gradients(grad_cam(model, x, LABELS), model)
    assert model.grad_checkpointing
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name])


def test_the_input_itself_can_be_looked_at():
    model, x = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 3)), images(2, 4)
    cam = grad_cam(model, x, torch.tensor([1, 2]), layer="input")
    alpha = model[1].weight[[1, 2]].reshape(2, 3, 4, 4).mean((2, 3), keepdim=True)
    torch.testing.assert_close(cam, (alpha * x).sum(1, keepdim=True).relu())
    assert not x.requires_grad


def test_wrapped_models_are_looked_into():
    model, x = conv_net(), images(3)
    for wrapped in (torch.compile(model), nn.DataParallel(model)):
        torch.testing.assert_close(grad_cam(wrapped, x, LABELS), grad_cam(model, x, LABELS))


class Interrupted(nn.Module):
    """The tiny network, stopped behind its second convolution."""

    def __init__(self, error):
        super().__init__()
        self.net, self.error = conv_net(), error

    def forward(self, x):
        x = self.net.act(self.net.conv2(self.net.conv1(x)[:, :8]))
        if self.error is not None:
            raise self.error
        return self.net.fc(x.mean((2, 3)))


@pytest.mark.parametrize("error", [None, RuntimeError("stop"), KeyboardInterrupt()])
def test_nothing_is_left_behind(error):
    model, x = Interrupted(error).eval(), images(3)
    model.net.conv1.requires_grad_(False)
    for context in (torch.enable_grad, torch.no_grad):
        with untouched(model), context():
            try:
                grad_cam(model, x, LABELS, layer="net.conv2", order="second")
                assert error is None
            except (RuntimeError, KeyboardInterrupt) as raised:
                assert raised is error  # noqa: PT017
    assert x.grad is None
    assert not x.requires_grad


def gives(change):
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.spare = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)

        def forward(self, x):
            return change(self.conv(x))

    return Odd()


@pytest.mark.parametrize(
    ("model", "layer", "message"),
    [
        (gives(lambda z: z.mean((2, 3))), "spare", "'spare' did not run"),
        (gives(lambda z: z.mean((2, 3))), "conv3", "layer 'conv3' not found; this model has conv, spare"),
        (conv_net(), "act", "'act' runs more than once"),
        (conv_net(), "fc", "has no position in an image"),
        (gives(lambda z: z), "conv", r"gave \[3, 4, 8, 8\] for 3 images; logits \[N, K\] are needed.*lack its head"),
        (gives(lambda z: (z.mean((2, 3)), z)), "conv", "gave a tuple for 3 images"),
        (gives(lambda z: {"logits": z.mean((2, 3))}), "conv", "gave a dict with logits for 3 images"),
        (gives(lambda z: z.mean((1, 2, 3))[:, None]), "conv", "has one output"),
        (gives(lambda z: z.mean((0, 2, 3))[None]), "conv", r"gave \[1, 4\] for 3 images"),
        (gives(lambda z: z.detach().mean((2, 3)) + 1), "conv", "do not depend on the layer's output"),
        (gives(lambda z: z.mean((2, 3))), FeatureSpace(layer=("conv", "spare")), "'spare' did not run"),
        (nn.Sequential(nn.Flatten(), nn.Linear(192, 3)), None, "no Conv2d and no plugin knows it"),
        (nn.Sequential(nn.Conv2d(3, 4, 8), nn.Flatten()), "0", r"single position \(1 x 1\)"),
    ],
)
def test_what_cannot_be_looked_at_is_refused(model, layer, message):
    with untouched(model), pytest.raises(ValueError, match=message):
        grad_cam(model, images(3), torch.tensor([0, 1, 2]), layer=layer)


def test_several_tensors_have_no_single_cam():
    model = gives(lambda z: z.mean((2, 3)))
    model.conv = type("Twice", (nn.Conv2d,), {"forward": lambda self, x: (nn.Conv2d.forward(self, x),) * 2})(3, 4, 1)
    model.forward = lambda x: model.conv(x)[0].mean((2, 3))
    with pytest.raises(ValueError, match="'conv' has several tensors"):
        grad_cam(model, images(3), torch.tensor([0, 1, 2]), layer="conv")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([0, 1]), r"give one class each, int64 \[3\]"),
        (torch.tensor([0.0, 1.0, 2.0]), "type torch.float32"),
        (torch.eye(5, dtype=torch.int64)[:3], r"labels.argmax\(1\)"),
        (torch.tensor([0, 1, 5]), "a label is 5, but the classifier has classes 0 … 4"),
        (torch.tensor([0, -1, 2]), "a label is -1"),
    ],
)
def test_labels_that_are_none_are_refused(labels, message):
    with pytest.raises(ValueError, match=message):
        grad_cam(conv_net(), images(3), labels)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: grad_cam(conv_net(), images(3), LABELS, order="third"), ValueError, "order must be .* got 'third'"),
        (lambda: normalised(images(1)[:, :1], how="sum"), ValueError, "how must be .* got 'sum'"),
        (lambda: grad_cam(conv_net(), images(3)[0], LABELS), ValueError, r"shape .* got \[3, 8, 8\]"),
        (lambda: grad_cam(conv_net(), images(3).long(), LABELS), TypeError, "got torch.int64"),
        (lambda: grad_cam(conv_net(), [1], LABELS), TypeError, "got list"),
        (lambda: grad_cam(lambda x: x, images(3), LABELS, layer="input"), TypeError, "wrap functions in a module"),
        (lambda: grad_cam(conv_net(), images(3), [0, 3, 4]), TypeError, "the labels are a list"),
    ],
)
def test_other_bad_input_is_refused(call, kind, message):
    with pytest.raises(kind, match=message):
        call()
