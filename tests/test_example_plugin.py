"""The example plugin installs like any package, is seen, and keeps the contract."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from captum.attr import NoiseTunnel
from torch import nn

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The example, installed into the environment that runs the tests, and taken out again."""
    source = tmp_path_factory.mktemp("source") / "plugin"
    shutil.copytree(ROOT / "examples" / "plugin", source)
    pip("install", "--no-deps", "--no-build-isolation", "--no-index", "--force-reinstall", str(source))
    importlib.invalidate_caches()
    yield
    pip("uninstall", "--yes", "xai-align-example")


def pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", arguments[0], "--quiet", "--disable-pip-version-check", *arguments[1:]]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def run(installed, tmp_path):
    """Run Python in this environment, away from the source folder; gives what it printed."""

    def run_python(*arguments: str, **environment: str) -> str:
        clean = {key: value for key, value in os.environ.items() if not key.startswith("XAI_ALIGN_")}
        env = {**clean, "COLUMNS": "200", **environment}
        done = subprocess.run([sys.executable, *arguments], env=env, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run_python


@pytest.fixture
def example(installed):
    """The installed package, imported here."""
    import xai_align_example

    yield xai_align_example
    for name in [name for name in sys.modules if name.split(".")[0] == "xai_align_example"]:
        del sys.modules[name]


ASK = """
from xai_align.cli.app import app
from xai_align.plugins import attribution_method, metric, origin, plugin_table
row = origin("centred_gradient")
print(row.name, row.distribution, row.version, *row.hooks)
print(attribution_method("centred_gradient").build.__name__, metric("gini").name)
app(["plugins"], standalone_mode=False)
print("methods")
app(["methods"], standalone_mode=False)
"""


def test_installed_example_is_found_by_name_and_listed_by_the_command_line(run):
    row, names, *lines = run("-c", ASK).splitlines()
    plugins, methods = lines[: lines.index("methods")], lines[lines.index("methods") :]
    assert row == "example xai-align-example 0.1.0 xai_align_attributions xai_align_metrics"
    assert names == "CentredGradient gini"
    (line,) = [line for line in plugins if "xai-align-example" in line]
    assert "0.1.0" in line
    (line,) = [line for line in methods if "centred_gradient" in line]
    assert "example" in line


def test_switched_off_example_is_not_offered(run):
    listed = run("-m", "xai_align", "methods", XAI_ALIGN_DISABLED_PLUGINS="example")
    assert "centred_gradient" not in listed


def test_example_passes_the_conformance_check(example):
    from xai_align.testing import check_attribution

    check_attribution(example.CentredGradient)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(100, 5)
    ).eval()


def test_attribution_of_a_linear_model_is_its_change_from_the_mean_picture(example):
    linear = nn.Sequential(nn.Flatten(), nn.Linear(75, 4)).double()
    images = torch.rand(2, 3, 5, 5, dtype=torch.float64)
    even = images.mean((2, 3), keepdim=True).expand_as(images)
    change = (linear(images) - linear(even))[:, 2]
    attributions = example.CentredGradient(linear).attribute(images, target=2)
    torch.testing.assert_close(attributions.flatten(1).sum(1), change)


@pytest.mark.parametrize("guard", [torch.no_grad, torch.inference_mode])
def test_attribution_is_the_same_where_gradients_are_off(example, model, guard):
    images = torch.rand(2, 3, 5, 5)
    method = example.CentredGradient(model)
    expected = method.attribute(images, target=[1, 3])
    with guard():
        torch.testing.assert_close(method.attribute(images.clone(), target=[1, 3]), expected, rtol=0, atol=0)


def test_attribution_leaves_model_and_inputs_as_they_were(example, model):
    model[0].weight.requires_grad_(False)
    images = torch.rand(2, 3, 5, 5)
    method = example.CentredGradient(model)
    tunnel = NoiseTunnel(method)
    attributions = method.attribute((images,), target=torch.tensor([0, 4]))
    assert isinstance(attributions, tuple)
    assert attributions[0].is_contiguous()
    assert not attributions[0].requires_grad
    assert tunnel.attribute(images, nt_samples=2, stdevs=0.1, target=1).shape == images.shape
    assert [parameter.grad for parameter in model.parameters()] == [None] * 6
    assert [parameter.requires_grad for parameter in model.parameters()] == [False] + [True] * 5
    assert not images.requires_grad
    assert images.grad is None


@pytest.mark.parametrize(
    ("images", "error", "said"),
    [
        (torch.ones(2, 3, dtype=torch.long), TypeError, "input 0 is of type torch.int64"),
        (torch.ones(2), ValueError, r"input 0 has shape \(2,\)"),
    ],
)
def test_attribution_refuses_what_it_cannot_explain(example, images, error, said):
    with pytest.raises(error, match=said):
        example.CentredGradient(nn.Identity()).attribute(images)


def test_gini_is_zero_for_equal_shares_and_grows_with_concentration(example):
    maps = torch.tensor([[1.0, -1, 1, -1], [0, 0, 0, 0], [0, 0, 0, -7], [1, 2, 3, 4]])
    expected = torch.tensor([0.0, 0.0, 0.75, 0.25])
    torch.testing.assert_close(example.gini(None, None, maps.view(4, 1, 2, 2)), expected)
    halves = (maps[:, :2], maps[:, 2:])
    torch.testing.assert_close(example.gini(None, None, halves), expected)
    torch.testing.assert_close(example.gini(None, None, maps * 1000), expected)
