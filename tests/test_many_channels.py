"""Arrays of many channels into timm's own transforms: the size, crop and scale that pictures have."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tifffile
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config
from typer.testing import CliRunner

from timm_align.channels import OfChannels
from xai_align.cli.app import app
from xai_align.hookspecs import InputOptions
from xai_align.plugins import ModelOptions, load_model


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(48, 48), (40, 56)])
def test_three_channels_in_an_array_are_prepared_as_a_picture_is(crop_mode, interpolation, size):
    smooth = np.linspace(20, 230, 100)[:, None, None] * np.linspace(0.5, 1, 130)[None, :, None]
    pixels = np.uint8(np.broadcast_to(smooth, (100, 130, 3)) * np.array([1, 0.7, 0.4]))
    config = {"input_size": (3, *size), "crop_pct": 0.9, "crop_mode": crop_mode, "interpolation": interpolation}
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
    transform = OfChannels(create_transform(**config, mean=mean, std=std), 3)
    picture, array = transform(Image.fromarray(pixels)), transform(pixels / 255)
    assert array.shape == picture.shape == (3, *size)
    assert float((picture - array).abs().max()) < 2.5 / 255 / 0.2  # rounding to 8 bits, twice


@pytest.mark.parametrize("file", ["a.npy", "a.npz", "a.tif"])
@pytest.mark.parametrize("library", ["timm:test_resnet", "torchvision:squeezenet1_1"])
def test_twelve_channels_are_explained_from_the_command_line(tmp_path, file, library):
    values = np.random.default_rng(0).random((40, 50, 12), dtype=np.float32)
    path = tmp_path / file
    {"a.npy": np.save, "a.npz": np.savez, "a.tif": lambda to, x: tifffile.imwrite(to, x.transpose(2, 0, 1))}[file](
        path, values
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        options = ["--in-chans", "12", "--img-size", "64", "--mean", "0.5", "--std", "0.25", "--out", tmp_path / "out"]
        command = ["explain", path, "--model", f"{library}@random", *options]
        result = CliRunner().invoke(app, list(map(str, command)))
    assert result.exit_code == 0, result.output
    (written,) = (tmp_path / "out").glob("*.json")
    found = json.loads(written.read_text())
    assert found["contributions"] + found["bias"] == pytest.approx(found["answer"], abs=1e-4)


@pytest.mark.parametrize("library", ["timm:test_resnet", "torchvision:squeezenet1_1"])
def test_channels_that_do_not_fit_are_said_in_one_sentence(library):
    twelve, three = (
        load_model(f"{library}@random", options=ModelOptions(in_chans=number, img_size=64)) for number in (12, 3)
    )
    with pytest.raises(ValueError, match="has 3 channels and the model takes 12: load the model with --in-chans 3"):
        twelve.preprocess(Image.new("RGB", (70, 70)))
    with pytest.raises(ValueError, match="has 12 channels and the model takes 3: load the model with --in-chans 12"):
        three.preprocess(np.zeros((70, 70, 12), np.float32))


def test_mean_and_std_are_the_configuration_s_or_those_given():
    config = resolve_data_config({}, model=timm.create_model("test_resnet"))
    loaded = load_model("timm:test_resnet@random", options=ModelOptions(in_chans=12))
    assert loaded.mean == pytest.approx((sum(config["mean"]) / 3,) * 12)
    values, mean, std = np.full((160, 160, 12), 0.75, np.float32), tuple(np.arange(12) / 12), (0.5,) * 12
    loaded = load_model("timm:test_resnet@random", options=ModelOptions(in_chans=12, mean=mean, std=std))
    assert loaded.preprocess(values).mean((1, 2)).tolist() == pytest.approx([(0.75 - one) / 0.5 for one in mean])
    with pytest.raises(ValueError, match="mean has 2 values, and the model takes 12 channels"):
        load_model("timm:test_resnet@random", options=ModelOptions(in_chans=12, mean=(0.1, 0.2)))
    assert InputOptions(mean=(0.5,)).left == {}  # pictures are drawn with it in any case
