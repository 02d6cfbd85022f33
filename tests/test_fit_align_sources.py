"""``xai-align fit-align`` on backbones of every source: trained, saved, read again, resumed; and what can't be."""

from __future__ import annotations

import json
import shutil
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import run
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from tests.networks import conv_net, untouched
from xai_align._tools.logits import LogitsOf
from xai_align.features.new_head import with_new_head
from xai_align.features.trained_head import freeze_all_but_head
from xai_align.plugins import classifier, load_model

torchvision = pytest.importorskip("torchvision")
transformers = pytest.importorskip("transformers")
timm = pytest.importorskip("timm")

SHORT = (
    *("--epochs", 2, "--warmup-epochs", 0, "--masker-only-epochs", 1, "--batch-size", 8, "--judged", 2),
    *("--examples", 0, "--device", "cpu"),
)

FACTORIES = """
import torch
from torch import nn
from xai_align.hookspecs import LoadedModel
from torchvision.transforms import v2

class Out(dict):
    pass

class Net(nn.Module):
    def __init__(self, record=False):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 12, 3, 2, 1)
        self.three, self.scores = nn.Conv2d(12, 12, 3, 2, 1), nn.Linear(12, 5)
        self.record = record
    def forward(self, x):
        x = self.three(self.two(self.one(x).relu()).relu()).relu()
        y = self.scores(x.mean((2, 3)))
        return {"features": x, "scores": y} if self.record else y

small = v2.Compose([v2.ToImage(), v2.Resize((32, 32)), v2.ToDtype(torch.float32, scale=True)])

def bare():
    return Net()

def record():
    return LoadedModel(model=Net(True).eval(), preprocess=small, output_field="scores")
"""


def seeded(make):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make().eval()


def of_five_classes(make, name: str, folder: Path) -> Path:
    torch.save(seeded(lambda: make(name, num_classes=5)).state_dict(), folder / "w.pth")
    return folder / "w.pth"


def squeezenet_file(folder: Path) -> Path:
    return of_five_classes(torchvision.models.get_model, "squeezenet1_1", folder)


def timm_folder(folder: Path) -> Path:
    """A model as ``timm.models.save_for_hf`` writes it: with other statistics of the pixels, and for five classes."""
    model = seeded(lambda: timm.create_model("test_resnet", num_classes=5))
    timm.models.save_for_hf(model, folder, model_config={"mean": (0.1, 0.2, 0.3), "input_size": (3, 64, 64)})
    return folder


def of_transformers(folder: Path, kind: str) -> Path:
    wide = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = {
            "vit": lambda: transformers.ViTForImageClassification(
                transformers.ViTConfig(**wide, image_size=32, patch_size=8, num_labels=5)
            ),
            "resnet": lambda: transformers.ResNetForImageClassification(
                transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 12, 16], depths=[1, 1, 1], num_labels=2)
            ),
            "deit": lambda: transformers.DeiTForImageClassificationWithTeacher(
                transformers.DeiTConfig(**wide, image_size=32, patch_size=8, num_labels=5)
            ),
        }[kind]()
    model.save_pretrained(folder)
    size = {"height": 32, "width": 32}
    transformers.ViTImageProcessor(size=size, image_mean=[0.1, 0.2, 0.3]).save_pretrained(folder)
    return folder


#: Source: a function of a folder to the reference, and words for the command.
READOUT = ("--saliency", "readout")
SOURCES = {
    "timm, random": (lambda folder: "timm:test_resnet@random", ()),
    "timm, a file of five classes": (
        lambda folder: f"timm:test_resnet@{of_five_classes(timm.create_model, 'test_resnet', folder)}",
        (),
    ),
    "timm, a folder": (lambda folder: f"timm:local-dir:{timm_folder(folder / 'timm')}", ()),
    "torchvision, random": (lambda folder: "torchvision:mobilenet_v3_small@random", ()),
    "torchvision, a convolution as head, from a file": (
        lambda folder: f"torchvision:squeezenet1_1@{squeezenet_file(folder)}",
        (),
    ),
    "transformers, tokens": (lambda folder: f"hf:{of_transformers(folder / 'vit', 'vit')}", READOUT),
    "transformers, maps, as many classes": (lambda folder: f"hf:{of_transformers(folder / 'resnet', 'resnet')}", ()),
    "transformers, two heads": (lambda folder: f"hf:{of_transformers(folder / 'deit', 'deit')}", READOUT),
    "a module of one's own": (lambda folder: "own_networks:bare", ()),
    "a module with a record of outputs": (lambda folder: "own_networks:record", ()),
}


#: Every source, fine-tuned with one masker and frozen with the other by turns; all four pairs on one network.
PAIRS = [(source, frozen, ("stages", "plain")[frozen]) for source, frozen in zip(SOURCES, cycle((False, True)))]
PAIRS += [("timm, random", True, "plain"), ("timm, random", False, "plain"), ("timm, random", True, "stages")]
MARKED = [pytest.param(*pair, marks=pytest.mark.slow) if pair[1] else pair for pair in PAIRS]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Five pictures of each of two classes, and a module of networks."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "own_networks", raising=False)
    (tmp_path / "own_networks.py").write_text(FACTORIES)
    for name, colour in {"blue": (0, 0, 255), "red": (255, 0, 0)}.items():
        for i in range(5):
            pixels = np.random.default_rng(i).integers(0, 90, (32, 32, 3)).astype(np.uint8)
            pixels[4:20, 4:20] = colour
            (tmp_path / "pictures" / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / f"pictures/{name}/{i}.png")
    return tmp_path


def done(*words):
    result = run("fit-align", "pictures", *words)
    assert result.exit_code == 0, result.output
    return result


@pytest.mark.parametrize(("source", "frozen", "masker"), MARKED)
def test_every_source_is_trained_saved_read_again_and_resumed(folder, monkeypatch, source, frozen, masker):
    make, more = SOURCES[source]
    reference = make(folder)
    words = ("--backbone", reference, *SHORT, *more, "--masker", masker, *(("--frozen",) if frozen else ()))
    done(*words, "--out", "out")
    saved = load_file(folder / "out/classifier.safetensors")

    for later in (folder / "out/checkpoints").glob("epoch-002*"):
        later.unlink()
    again = done(*words, "--out", "out")  # as after a stop in the second epoch: the same fit to the last bit
    assert "2 epochs, 2 steps" in again.stdout
    assert ("--model align:out --method align --trust-code`" in again.stdout) == ("own" in reference)
    other = load_file(folder / "out/classifier.safetensors")
    assert all(torch.equal(value, other[key]) for key, value in saved.items())

    prepared = load_model(reference, trust=True).preprocess(Image.open("pictures/red/0.png"))
    for gone in ("w.pth", "timm", "vit", "resnet", "deit"):  # the results need nothing that they were made from
        path = folder / gone
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    Path("out").rename("elsewhere")
    loaded = load_model("align:elsewhere", trust="own" in reference)
    assert loaded.class_names == ("blue", "red")
    torch.testing.assert_close(loaded.preprocess(Image.open("pictures/red/0.png")), prepared)
    assert all(torch.equal(value, saved[key]) for key, value in loaded.model.state_dict().items())
    with torch.no_grad():
        assert loaded.model(prepared[None]).shape == (1, 2)
    asked = ("explain", "pictures/red/0.png", "--model", "align:elsewhere", "--method", "align", "--device", "cpu")
    told = run(*asked, "--out", "why", *(("--trust-code",) if "own" in reference else ()))
    assert told.exit_code == 0, told.output
    mask = np.load("why/0.align.npz")["map"]
    assert 0 <= mask.min() <= mask.max() <= 1.001


@pytest.mark.parametrize("source", ["torchvision, random", "transformers, maps, as many classes"])
def test_only_the_head_of_a_frozen_backbone_learns(folder, source):
    reference = SOURCES[source][0](folder)
    done("--backbone", reference, *SHORT, "--frozen", "--out", "out")
    start, saved = load_model(reference).model.state_dict(), load_file(folder / "out/classifier.safetensors")
    changed = [
        key for key, value in saved.items() if not torch.equal(value, start.get(key.removeprefix("model."), value + 1))
    ]
    head = {"torchvision, random": ["classifier.3.bias", "classifier.3.weight"]}.get(
        source, ["model.classifier.1.bias", "model.classifier.1.weight"]
    )
    if "random" in source:  # its weights are drawn anew each time
        changed = [key for key in changed if key.startswith("classifier.3")]
    assert sorted(changed) == head


def test_a_fit_is_the_backbone_of_the_next_one(folder):
    done("--backbone", f"hf:{of_transformers(folder / 'vit', 'vit')}", *SHORT, *READOUT, "--out", "first")
    done("--backbone", "align:first", *SHORT, *READOUT, "--out", "second")
    shutil.rmtree("vit"), shutil.rmtree("first")
    assert load_model("align:second").class_names == ("blue", "red")


def refused(*words):
    result = run("fit-align", "pictures", *words, *SHORT, "--out", "no")
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    assert not (Path("no") / "metrics.csv").exists()
    return result.stderr.replace("\n", " ")


def test_what_cannot_be_a_backbone_is_said_before_training(folder):
    for reference in ("pinet:somewhere", "fei:some.safetensors"):
        assert "give the reference of the network that it was made from" in refused("--backbone", reference)
    told = refused("--backbone", "torchvision:lraspp_mobilenet_v3_large@random")
    assert "is not a classifier of images, so it can't be given other classes; choose" in told
    Path("own_networks.py").write_text(
        "import torch\nfrom torch import nn\n"
        "def maps():\n    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())\n"
        "def fixed():\n    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.ReLU(),\n"
        "        nn.BatchNorm1d(4))\n"
    )
    assert "gave [1, 4, 30, 30] for one image; only a network with logits [N, K]" in refused(
        "--backbone", "own_networks:maps"
    )
    assert "no linear layer of Sequential makes its 4 logits" in refused("--backbone", "own_networks:fixed")
    model = seeded(lambda: timm.create_model("test_resnet", num_classes=5, stem_width=24))
    timm.models.save_for_hf(model, "odd", model_args={"stem_width": 24})
    told = refused("--backbone", "timm:local-dir:odd")
    assert "is another network than timm:test_resnet without further options" in told
    assert "write a function that returns it, and give that: package.module:function" in told


def test_configurations_are_data(folder):
    done("--backbone", f"hf:{of_transformers(folder / 'vit', 'vit')}", *SHORT, *READOUT, "--out", "out")
    config = Path("out/backbone/config.json")
    known = json.loads(config.read_text())
    assert "_name_or_path" not in known
    config.write_text(json.dumps(known | {"hidden_size": 2**16, "intermediate_size": 2**16}))
    with pytest.raises(ValueError, match="describes a model of more than"):
        load_model("align:out")
    config.rename("outside.json")
    config.symlink_to(Path("outside.json").resolve())
    with pytest.raises(ValueError, match="is a link to a file outside its folder"):
        load_model("align:out")
    shutil.rmtree("out/backbone")
    with pytest.raises(ValueError, match="lacks the configuration of the backbone; copy the whole folder"):
        load_model("align:out")


class TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.a, self.b = nn.Conv2d(3, 4, 3), nn.Linear(4, 6), nn.Linear(4, 6)

    def forward(self, x):
        x = self.body(x).mean((2, 3))
        return self.a(x) + self.b(x)


def test_a_new_head_replaces_what_makes_the_logits():
    image = torch.randn(1, 3, 16, 16)
    model = nn.Sequential(nn.Conv2d(3, 7, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(7, 7), nn.Linear(7, 7))
    model[3].eval()
    with untouched(model), torch.random.fork_rng():
        fresh = with_new_head(model, 3, image)
    assert fresh(image).shape == (1, 3)
    assert torch.equal(fresh[3].weight, model[3].weight)
    assert [one.training for one in fresh] == [one.training for one in model]
    assert freeze_all_but_head(fresh, model) == ["4.weight", "4.bias"]
    same = with_new_head(model, 7, image)  # as many classes as before: new all the same
    assert freeze_all_but_head(same, model) == ["4.weight", "4.bias"]
    assert same[4].training
    assert not same[0].training
    both = with_new_head(TwoHeads(), 3, image)
    assert both(image).shape == (1, 3)
    assert (both.a.out_features, both.b.out_features) == (3, 3)
    with pytest.raises(ValueError, match="there is no head to train alone"):
        freeze_all_but_head(conv_net(), conv_net())
    with pytest.raises(ValueError, match="a classifier needs at least two classes"):
        with_new_head(model, 1, image)
    assert classifier(conv_net(), 3, torch.zeros(1, 3, 8, 8))(torch.zeros(2, 3, 8, 8)).shape == (2, 3)


def test_heads_that_only_training_uses_are_left_out():
    for name in ("googlenet", "inception_v3"):
        made = torchvision.models.get_model(name, weights=None, init_weights=False)
        fresh = classifier(made, 3)
        assert isinstance(fresh.train()(torch.zeros(2, 3, 128, 128)), torch.Tensor)
        assert made.aux_logits
    assert not isinstance(fresh, LogitsOf)
