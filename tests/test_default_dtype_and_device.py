"""PyTorch's default dtype and device, and the caller's autocast, change no random number and no map."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from gradcam_align.first_component import first_component
from tests.networks import conv_net, images
from xai_align import read_out
from xai_align.evaluation.controls import RandomAttribution
from xai_align.features import cell_places, paired_axes
from xai_align.fei import AmortisedFEI, ClippedGradientMethod, fit_fei, optimize_masks
from xai_align.perturbation import Noise
from xai_align.pinet.rounding import total_of
from xai_align.prototypes import EPICMethod, fit_prototypes, load_prototypes, save_prototypes

pytestmark = pytest.mark.filterwarnings("ignore::xai_align.fei.AreaMissed", "ignore::xai_align.perturbation.TieWarning")


@contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


#: The device "meta" has no values: what is made on it by default can't get into a map.
SETTINGS = {
    "float64": lambda: default_dtype(torch.float64),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "device": lambda: torch.device("meta"),
}
COLOURS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
MAPS = {
    "readout": lambda net, x: read_out(net, x, 1).map(),
    "curve": lambda net, x: optimize_masks(net, x, 1, n_iter=2).attribution,
    "colours": lambda net, x: optimize_masks(net, x, 1, n_iter=2, fills="colour", normalization=COLOURS).attribution,
    "number": lambda net, x: optimize_masks(net, x, 1, n_iter=2, baselines=0.1).attribution,
    "nested": lambda net, x: optimize_masks(net, x, 1, solver="nested", n_iter=2).attribution,
    "clipped": lambda net, x: ClippedGradientMethod(net).attribute(x, target=1),
    "noise": lambda net, x: Noise()(x),
    "random": lambda net, x: RandomAttribution().attribute(x),
    "prototypes": lambda net, x: fit_prototypes(net, list(x), prototypes=2, rounds=2).matrix,
    "invertible": lambda net, x: (
        fit_prototypes(net, list(x), prototypes=2, rounds=2, steps=2, matrix="invertible").matrix
    ),
}


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", MAPS)
def test_the_defaults_change_no_map(name, setting):
    net, x = conv_net(), images(4)
    wanted = MAPS[name](net, x)
    with SETTINGS[setting]():
        found = MAPS[name](net, x)
    assert found.dtype == wanted.dtype
    assert torch.equal(found, wanted)


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_defaults_change_no_fitted_map(setting, tmp_path):
    net, x = conv_net(), images(4)
    explainer, prototypes = fit_fei(net, x, epochs=1, batch_size=2), fit_prototypes(net, list(x), prototypes=2)
    amortised, epic = AmortisedFEI(net, explainer).attribute(x, 1), EPICMethod(net, prototypes).attribute(x, 1)
    with SETTINGS[setting]():
        assert torch.equal(AmortisedFEI(net, explainer).attribute(x, 1), amortised)
        again = load_prototypes(save_prototypes(prototypes, tmp_path / "prototypes.safetensors"))
        assert torch.equal(EPICMethod(net, again).attribute(x, 1), epic)


def test_an_explainer_is_fitted_on_the_network_s_device():
    net, x = conv_net(), images(4)
    wanted = fit_fei(net, x, epochs=1, batch_size=2).explainer.network.state_dict()
    with torch.device("meta"):
        found = fit_fei(net, x, epochs=1, batch_size=2).explainer.network.state_dict()
    assert all(torch.equal(found[name], value) for name, value in wanted.items())


@pytest.mark.parametrize("matrix", ["orthogonal", "invertible"])
@pytest.mark.parametrize("mode", [lambda: torch.autocast("cpu", torch.bfloat16), torch.inference_mode])
def test_prototypes_are_fitted_and_used_in_full_precision_with_gradients(matrix, mode):
    net, x = conv_net(), images(4)

    def found():
        prototypes = fit_prototypes(net, list(x), prototypes=2, rounds=2, matrix=matrix)
        return prototypes.matrix, EPICMethod(net, prototypes).attribute(x, 1)

    wanted = found()
    with mode():
        again = found()
    assert all(torch.equal(a, b) for a, b in zip(again, wanted, strict=True))


class WithoutFloat64(TorchFunctionMode):
    """Tensors say that they are on the device "mps", and have no float64 before they are moved to the CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.moved: list[Tensor] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func == Tensor.device.__get__:
            return torch.device("mps")
        if func is Tensor.double and not any(one is args[0] for one in self.moved):
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        found = func(*args, **(kwargs or {}))
        self.moved += [found] if func is Tensor.cpu else []
        return found


OF_MAPS = {
    "sum": lambda x: total_of((x, x)),
    "first component": first_component,
    "centre": lambda x: torch.tensor(paired_axes._centre(x, 2)),
    "places": lambda x: cell_places._what_is_seen((leaf := x[:1].clone().requires_grad_()).square().sum(), leaf),
}


@pytest.mark.parametrize("name", OF_MAPS)
def test_a_device_without_float64_has_the_same_values(name):
    x = images(2)
    expected = OF_MAPS[name](x)
    with WithoutFloat64():
        found = OF_MAPS[name](x)
    torch.testing.assert_close(found, expected, check_dtype=False)
