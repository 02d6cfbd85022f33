"""A saved PiNet comes back as it was, or the reader is told what is wrong with the files."""

from __future__ import annotations

import json
import os

import pytest
import torch
from networks import untouched
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

import timm_align
from xai_align.pinet import ExactPiNet, FrozenEncoder, PiNet, SecondLookHead, Start, conv_pinet
from xai_align.pinet.network.persistence import CONFIG_FILE, WEIGHTS_FILE
from xai_align.plugins import load_model


def pictures(channels=3, size=16):
    return torch.rand(2, channels, size, size, generator=torch.Generator().manual_seed(0))


def moved(pinet, seed=0):
    """Away from its start, batch statistics too."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for value in pinet.head.state_dict().values():
            if value.is_floating_point():
                value.add_(0.1 * torch.rand_like(value))
    return pinet.eval()


def small(**options):
    return moved(conv_pinet(3, in_channels=3, width=4, **options))


def edit(file, change):
    config = json.loads(file.read_text())
    change(config)
    file.write_text(json.dumps(config))


MADE = {
    "pixels": lambda: small(),
    "start and size": lambda: small(z="patch_means", size=(4, 8), start=Start(coefficient=0.3, bias=0.0)),
    "areas": lambda: small(activation="softmax", second_look="soft", scale="one", bias="zero"),
    "learned features": lambda: small(z="features", decoder="fpn", decoder_options={"width": 8}, mean=(0.1, 0.2, 0.3)),
    "pooled": lambda: small(decoder="pooled", size=16),
    "retrofit": lambda: moved(timm_align.retrofit("test_resnet", "second_look")),
    "fine-tuned": lambda: moved(timm_align.retrofit("test_vit", "second_look", frozen=False, num_classes=3, z="ones")),
    "bfloat16": lambda: small().to(torch.bfloat16),
}


@pytest.mark.parametrize("kind", MADE)
def test_there_and_back(kind, tmp_path):
    pinet = MADE[kind]()
    size = 160 if kind in ("retrofit", "fine-tuned") else 16
    x = pictures(size=size).to(next(pinet.parameters()).dtype)
    with untouched(pinet):
        folder = pinet.save_pretrained(tmp_path / "saved")
    assert sorted(file.name for file in folder.iterdir()) == [CONFIG_FILE, WEIGHTS_FILE]
    again = PiNet.from_pretrained(folder)
    with torch.no_grad():
        assert torch.equal(again(x), pinet(x))
        assert torch.equal(again.explain(x).contributions, pinet.explain(x).contributions)
    assert not again.training
    assert again.head.options == pinet.head.options
    assert [p.dtype for p in again.parameters()] == [p.dtype for p in pinet.parameters()]
    trained = [name for name, p in pinet.named_parameters() if p.requires_grad]
    assert [name for name, p in again.named_parameters() if p.requires_grad] == trained
    assert isinstance(again.encoder, type(pinet.encoder))
    again.save_pretrained(tmp_path / "twice")
    assert (tmp_path / "twice" / CONFIG_FILE).read_text() == (folder / CONFIG_FILE).read_text()


class Own(nn.Module):
    """An encoder that no plugin knows."""

    channels = (2,)

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 3, padding=1)

    def forward(self, x):
        return [self.conv(x)]


class OwnDecoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.last = nn.Conv2d(2, 3, 1)

    def forward(self, features, size):
        return self.last(features[-1])


def test_modules_of_ones_own_are_given_again(tmp_path):
    pinet = moved(PiNet(FrozenEncoder(Own().eval()), SecondLookHead([2], 3, decoder=OwnDecoder())))
    folder = pinet.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"no plugin knows .*encoder="):
        PiNet.from_pretrained(folder)
    with pytest.raises(ValueError, match="decoder="):
        PiNet.from_pretrained(folder, encoder=Own())
    again = PiNet.from_pretrained(folder, encoder=Own().eval(), decoder=OwnDecoder())
    with torch.no_grad():
        assert torch.equal(again(pictures()), pinet(pictures()))
    with pytest.raises(ValueError, match=r"do not fit PiNet: .*encoder"):
        PiNet.from_pretrained(folder, encoder=nn.Sequential().eval(), decoder=OwnDecoder())


def test_a_plugin_that_is_not_there(tmp_path):
    pinet = small()
    pinet.encoder.reference = "somebody:else"
    folder = pinet.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"names the code 'somebody:else', which is run only if you trust the file"):
        PiNet.from_pretrained(folder)
    with pytest.raises(ValueError, match=r"no plugin knows the encoder 'somebody:else'.*Plugins asked"):
        PiNet.from_pretrained(folder, trust=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda config: config.update(format=2), r"format 2 .*reads format 1; install that version"),
        (lambda config: config.update(format=None), "format null"),
        (lambda config: config.update(model="bert"), "config of something else"),
        (lambda config: config.pop("head"), "head is missing"),
        (
            lambda config: config["head"].update(z="ones"),
            r"another config .*head.z is 'pixels' .*, 'ones' in",
        ),
        (lambda config: config["encoder"]["options"].update(width=8), "encoder.options.width is 4 .*, 8 in the config"),
    ],
)
def test_a_config_that_does_not_belong_to_the_weights(change, message, tmp_path):
    folder = small().save_pretrained(tmp_path)
    edit(folder / CONFIG_FILE, change)
    with pytest.raises(ValueError, match=message):
        PiNet.from_pretrained(folder)


def test_a_newer_version_with_the_same_format_is_read(tmp_path):
    folder = small().save_pretrained(tmp_path)
    edit(folder / CONFIG_FILE, lambda config: config.update(version="99.0"))
    PiNet.from_pretrained(folder)


@pytest.mark.parametrize("kept", [0, 4, 200, -1])
def test_weights_that_are_cut_short(kept, tmp_path):
    folder = small().save_pretrained(tmp_path)
    file = folder / WEIGHTS_FILE
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(ValueError, match="damaged or truncated"):
        PiNet.from_pretrained(folder)


def test_a_flipped_bit_is_found_out(tmp_path):
    folder = small().save_pretrained(tmp_path)
    data = bytearray((folder / WEIGHTS_FILE).read_bytes())
    data[-100] ^= 1
    (folder / WEIGHTS_FILE).write_bytes(data)
    with pytest.raises(ValueError, match=r"the numbers in .* are damaged"):
        PiNet.from_pretrained(folder)


def test_a_config_that_is_no_json(tmp_path):
    folder = small().save_pretrained(tmp_path)
    (folder / CONFIG_FILE).write_text((folder / CONFIG_FILE).read_text()[:50])
    with pytest.raises(ValueError, match=r"config\.json' is damaged"):
        PiNet.from_pretrained(folder)


def test_weights_of_another_tool(tmp_path):
    folder = small().save_pretrained(tmp_path)
    save_file(load_file(folder / WEIGHTS_FILE), folder / WEIGHTS_FILE)
    with pytest.raises(ValueError, match=r"not written by PiNet\.save_pretrained"):
        PiNet.from_pretrained(folder)


@pytest.mark.parametrize("name", [CONFIG_FILE, WEIGHTS_FILE])
def test_files_that_are_not_there(name, tmp_path):
    folder = small().save_pretrained(tmp_path)
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"there is no {name} in it"):
        PiNet.from_pretrained(folder)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        PiNet.from_pretrained(tmp_path / "nothing" / "here" / "at all")


def test_the_hub_is_asked_for_names(tmp_path, monkeypatch):
    import huggingface_hub

    folder, asked = small().save_pretrained(tmp_path), []

    def download(name, file):
        asked.append((name, file))
        return str(folder / file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    PiNet.from_pretrained("someone/a-pinet")
    assert asked == [("someone/a-pinet", CONFIG_FILE), ("someone/a-pinet", WEIGHTS_FILE)]

    def unreachable(name, file):
        raise ConnectionError("the hub does not answer")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", unreachable)
    with pytest.raises(ValueError, match=r"could not be fetched from the hub \(ConnectionError: .*give the path"):
        PiNet.from_pretrained("someone/a-pinet")


@pytest.mark.parametrize("interrupted", [CONFIG_FILE, WEIGHTS_FILE])
def test_an_interrupted_save_keeps_the_old_model(interrupted, tmp_path, monkeypatch):
    old, new = small(), moved(small(), seed=5)
    folder = old.save_pretrained(tmp_path)
    replace = os.replace

    def killed(source, target):
        if str(target).endswith(interrupted):
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        new.save_pretrained(folder)
    assert sorted(file.name for file in folder.iterdir()) == [CONFIG_FILE, WEIGHTS_FILE]
    # whichever of the two it is, it is whole
    expected = old if interrupted == WEIGHTS_FILE else new
    with torch.no_grad():
        assert torch.equal(PiNet.from_pretrained(folder)(pictures()), expected(pictures()))


def test_a_saved_pinet_is_a_model_by_name(tmp_path):
    pinet = moved(timm_align.retrofit("test_resnet", "second_look", num_classes=2))
    pinet.class_names = ("cat", "dog")
    loaded = load_model(f"pinet:{pinet.save_pretrained(tmp_path / 'coloured')}")
    assert loaded.class_names == ("cat", "dog")
    assert loaded.mean == pinet.encoder.inner.backbone.default_cfg["mean"]
    x = loaded.preprocess(Image.new("RGB", (300, 200), "red"))[None]
    assert x.shape == (1, 3, 160, 160)
    with torch.no_grad():
        assert torch.equal(loaded.model(x), pinet(x))
    grey = load_model(f"pinet:{moved(conv_pinet(width=4)).save_pretrained(tmp_path / 'grey')}")
    assert grey.preprocess(Image.new("RGB", (6, 4), "white")).eq(torch.ones(1, 4, 6)).all()
    with pytest.raises(ValueError, match="there is no folder"):
        load_model(f"pinet:{tmp_path / 'missing'}")


def test_an_unchanged_network_has_nothing_of_its_own_to_save(tmp_path):
    with pytest.raises(TypeError, match="state_dict"):
        ExactPiNet(Own()).save_pretrained(tmp_path)
