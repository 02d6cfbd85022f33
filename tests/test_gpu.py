"""On a CUDA device: the same account as on the CPU, exact, and nothing left behind."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from tests.networks import conv_net, images, untouched
from xai_align import read_out, read_out_all_classes
from xai_align.fei import optimize_masks
from xai_align.perturbation import perturbation_curve
from xai_align.pinet import conv_pinet

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext", "test_efficientnet"])
@pytest.mark.parametrize("place", [None, "input"])
def test_the_account_is_that_of_the_cpu(name, place):
    model = timm.create_model(name).eval().double()
    size = model.default_cfg["input_size"][-1]
    x = torch.randn(2, 3, size, size, dtype=torch.float64)
    expected = read_out(model, x, 3, place)
    model.cuda()
    state = torch.cuda.get_rng_state()
    with untouched(model):
        readout = read_out(model, x.cuda(), 3, place)
    assert torch.equal(torch.cuda.get_rng_state(), state)
    assert readout.contributions.is_cuda
    assert readout.relative_error.max() < 1e-10
    assert torch.allclose(readout.contributions.cpu(), expected.contributions, atol=1e-9)


def test_half_precision_by_autocast():
    model = timm.create_model("test_vit").eval().cuda()
    x = torch.randn(2, 3, 160, 160, device="cuda")
    with torch.autocast("cuda", dtype=torch.bfloat16):
        readout = read_out(model, x, 3)
    assert torch.isfinite(readout.contributions).all()


def test_data_parallel_is_read_like_its_network():
    model = timm.create_model("test_resnet").eval().cuda()
    x = torch.randn(2, 3, 160, 160, device="cuda")
    expected = read_out_all_classes(model, x)
    assert torch.allclose(read_out_all_classes(nn.DataParallel(model), x).maps, expected.maps)


def test_memory_is_given_back():
    model = timm.create_model("test_resnet").eval().cuda()
    x = torch.randn(8, 3, 160, 160, device="cuda")
    read_out(model, x, 3, "input")
    before = torch.cuda.memory_allocated()
    for _ in range(5):
        read_out(model, x, 3, "input")
    assert torch.cuda.memory_allocated() <= before


@pytest.mark.parametrize("fill", [0.0, "blur", "noise", "noisy_linear"])
def test_perturbation_curves_are_those_of_the_processor(fill):
    model, x = conv_net(), images(3, 16)
    maps = torch.randn(3, 16, 16)
    here = perturbation_curve(model, x, maps, baselines=fill)
    there = perturbation_curve(conv_net().cuda(), x.cuda(), maps.cuda(), baselines=fill)
    assert there.masked.is_cuda
    torch.testing.assert_close(there.masked.cpu(), here.masked, rtol=0, atol=1e-4)


@pytest.mark.parametrize("solver", ["curve", "nested"])
def test_optimised_maps_are_those_of_the_processor(solver):
    options = {"n_iter": 3} | ({"quantiles": (0.2, 0.6)} if solver == "nested" else {})
    model, x = conv_net().double(), images(2, 16).double()
    here = optimize_masks(model, x, [1, 3], solver=solver, **options)
    there = optimize_masks(conv_net().double().cuda(), x.cuda(), [1, 3], solver=solver, **options)
    assert there.attribution.is_cuda
    torch.testing.assert_close(there.attribution.cpu(), here.attribution, rtol=0, atol=1e-6)


@pytest.mark.parametrize("z", ["pixels", "evidence", "features", "patch_means"])
def test_a_pinet_answers_as_on_the_cpu(z):
    pinet = conv_pinet(3, in_channels=3, width=4, z=z).eval().double()
    x = torch.rand(2, 3, 16, 16, dtype=torch.float64)
    expected = read_out(pinet, x, 1)
    pinet.cuda()
    readout = read_out(pinet, x.cuda(), 1)
    assert readout.contributions.is_cuda
    assert torch.allclose(readout.contributions.cpu(), expected.contributions, atol=1e-9)
    pinet.float()
    with torch.no_grad(), torch.autocast("cuda", dtype=torch.bfloat16):
        look = pinet.explain(x.cuda().float())
    terms = look.contributions.double().flatten(2)
    assert ((terms.sum(2) + look.bias - look.logits).abs() < 1e-5 * (terms.abs().sum(2) + look.bias.abs() + 1e-3)).all()
