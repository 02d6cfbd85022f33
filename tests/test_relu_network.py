"""The benchmarks' ResNet-20 on PACS: its shape, its training on the shared engine, and the pictures it is judged on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from benchmarks.fei.relu_network import accuracy, train
from benchmarks.shared import photographs, relu_network
from benchmarks.shared.pacs import load_pacs
from benchmarks.shared.relu_network import CLASSES, SIZE, VARIABLE, parts_of, resnet20


def test_twenty_layers_of_plain_relu():
    network = resnet20(7)
    deep = [m for m in network.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    assert len(deep) + 1 == 20
    assert all(conv.bias is None for conv in deep)
    assert {type(m) for m in network.modules() if "ReLU" in type(m).__name__ or "GELU" in type(m).__name__} == {nn.ReLU}
    assert network[:4](torch.zeros(1, 3, SIZE, SIZE)).shape == (1, 64, 12, 12)


def flat_pictures(count=64):
    """Pictures of one colour, red for class 0 and blue for class 1."""
    labels = torch.arange(count) % 2
    x = torch.full((count, 3, 32, 32), -1.0)
    x[labels == 0, 0], x[labels == 1, 2] = 1.0, 1.0
    return x, labels


def test_training_learns_and_goes_on_from_its_last_epoch(tmp_path):
    x, labels = flat_pictures()
    network = train(x, labels, epochs=3, folder=tmp_path)
    assert not network.training
    again = train(x, labels, epochs=3, folder=tmp_path)  # nothing is left to do
    for name, value in network.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)
    assert accuracy(train(x, labels, epochs=8), x, labels) == 1.0


@pytest.fixture
def pacs_folder(tmp_path):
    for number, name in enumerate(CLASSES):
        folder = tmp_path / "pacs" / "photo" / name
        folder.mkdir(parents=True)
        for k in range(20):
            Image.fromarray(np.full((16, 16, 3), 12 * k + number, np.uint8)).save(folder / f"{k:02d}.png")
    return tmp_path / "pacs"


def test_pictures_are_held_out_and_right(pacs_folder, tmp_path, monkeypatch):
    torch.manual_seed(0)
    network = resnet20(7)
    nn.init.zeros_(network.head.weight)
    network.head.bias.data = torch.eye(7)[2]  # every picture is a giraffe
    save_file(network.state_dict(), tmp_path / "network.safetensors")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "network.safetensors"))
    photographs._loaded.cache_clear()
    judged, others = photographs.photographs_of("resnet20", pacs_folder)
    photographs._loaded.cache_clear()
    pacs = load_pacs(pacs_folder)
    parts = parts_of(pacs)
    expected = {int(i) for i in torch.cat([parts.validation, parts.test]) if pacs.labels[i] == 2}
    assert {int(one.name) for one in judged} == expected
    assert others == []
    assert len(expected) == 6  # 30 % of 20
    assert judged[0].pixels.shape == (3, SIZE, SIZE)


def test_what_is_missing_is_said(pacs_folder, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(ValueError, match=r"RESNET20 names no file; train the network with .*relu_network"):
        relu_network.load()
    (pacs_folder / "photo" / "dog").rename(pacs_folder / "photo" / "wolf")
    with pytest.raises(ValueError, match="PACS has"):
        parts_of(load_pacs(pacs_folder))
