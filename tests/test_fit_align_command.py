"""``xai-align fit-align``: from a folder of domains to a classifier and its masker, and what can't be."""

from __future__ import annotations

import csv
import json
import math
import os
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from command_line import run
from PIL import Image
from plugin_site import site_in
from safetensors.torch import load_file
from torch import nn

from tests.networks import conv_net, untouched
from xai_align.align import CollapseWarning, ShortcutWarning, StageMasker
from xai_align.align.forward_passes.training_batch import TrainingBatch
from xai_align.align.saved_fit import load_fit, masker_of
from xai_align.builtin import METHODS
from xai_align.cli import fit_align_folder
from xai_align.cli.fit_align_data import check_data
from xai_align.comparison.domain_scores import score_domain
from xai_align.data.domain_folder import read_domains, split_domains
from xai_align.plugins import classifier, load_model

BACKBONE = ("--backbone", "timm:test_resnet@random", "--device", "cpu")
SHORT = (*BACKBONE, "--epochs", 2, "--warmup-epochs", 0, "--masker-only-epochs", 1, "--batch-size", 4, "--judged", 2)
COLOURS = {"blue": (0, 0, 255), "red": (255, 0, 0)}


def save_picture(path, colour, level):
    """Noise about a level, and a coloured square at the top left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(str(path))).integers(level, level + 90, (24, 24, 3)).astype(np.uint8)
    pixels[2:12, 2:12] = colour
    Image.fromarray(pixels).save(path)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Two domains, dark and light, with seven and two pictures of each class."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    for domain, level, count in (("dark", 0, 7), ("light", 160, 2)):
        for name, colour in COLOURS.items():
            for i in range(count):
                save_picture(tmp_path / f"pictures/{domain}/{name}/{i:02d}.png", colour, level)
    return tmp_path


def refused(*words):
    result = run("fit-align", *words)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    return result.stderr.replace("\n", " ")


def test_a_folder_of_domains_becomes_a_classifier_and_a_masker_that_can_be_asked(folder):
    words = (
        "fit-align",
        "pictures",
        "--source",
        "dark",
        *SHORT,
        "--examples",
        2,
        "--set",
        "figure_every=2",
        "--out",
        "out",
    )
    done = run(*words)
    assert done.exit_code == 0, done.output
    assert "2 classes; 10 training images, 2 validation images" in done.stdout
    assert "2 epochs, 6 steps" in done.stdout
    assert "trained on" in done.stdout
    out = folder / "out"
    about, results = (json.loads((out / f"{name}.json").read_text()) for name in ("classes", "results"))
    assert about["classes"] == ["blue", "red"]
    assert {name: one["images"] for name, one in results["domains"].items()} == {"dark": 2, "light": 4}
    assert {name: one["source"] for name, one in results["domains"].items()} == {"dark": True, "light": False}
    for one in results["domains"].values():
        assert one["judged"] == 2
        assert 0 < one["maps"]["mask"]["mean"] < 1
        assert all(math.isfinite(value) for value in one["maps"]["mask"].values())
    with (out / "metrics.csv").open(newline="") as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["1", "2"]
    assert Image.open(out / "curves.png").width > 400
    assert sorted(path.name for path in (out / "examples").iterdir()) == ["dark.png", "light.png"]

    assert [path.name for path in (out / "figures").iterdir()] == ["epoch-002.png"]

    random = torch.get_rng_state()
    loaded = load_model("align:out")
    assert torch.equal(torch.get_rng_state(), random)
    assert loaded.class_names == ("blue", "red")
    assert not loaded.model.training
    by_name = load_model("timm:test_resnet@out/classifier.safetensors").model  # timm's own way, without the names
    x = loaded.preprocess(Image.open("pictures/dark/red/00.png"))[None]
    with torch.no_grad():
        assert torch.equal(by_name(x), loaded.model(x))
    asked = run(
        "explain", "pictures/dark/red/00.png", "--model", "align:out", "--method", "align", "--out", "why",
        "--device", "cpu",
    )  # fmt: skip
    assert asked.exit_code == 0, asked.output
    mask = np.load("why/00.align.npz")["map"]
    assert 0 <= mask.min() <= mask.max() <= 1.001

    weights = load_file(out / "classifier.safetensors")
    again = run(*words)
    assert again.exit_code == 0, again.output
    assert "2 epochs, 6 steps" in again.stdout
    after = load_file(out / "classifier.safetensors")
    assert all(torch.equal(value, after[name]) for name, value in weights.items())
    assert "mixup" in refused(*words[1:], "--recipe-set", "mixup=0.5")


def test_one_domain_and_a_recipe_without_a_masker(folder):
    done = run("fit-align", "pictures/dark", *SHORT, "--recipe", "erm", "--examples", 0, "--out", "out")
    assert done.exit_code == 0, done.output
    results = json.loads((folder / "out/results.json").read_text())
    assert list(results["domains"]) == ["dark"]
    assert list(results["domains"]["dark"]["maps"]) == ["cam"]
    assert not (folder / "out/masker.safetensors").exists()
    assert masker_of(load_model("align:out").model) is None
    assert not (folder / "out/examples").exists()


def test_the_readout_is_aligned_and_scored(folder):
    words = ("fit-align", "pictures/dark", *SHORT, "--saliency", "readout", "--examples", 1, "--out", "out")
    done = run(*words)
    assert done.exit_code == 0, done.output
    assert list(json.loads((folder / "out/results.json").read_text())["domains"]["dark"]["maps"]) == ["cam", "mask"]
    assert "another configuration" in refused("pictures/dark", *SHORT, "--examples", 1, "--out", "out")


def test_a_recipe_of_a_plugin_goes_by_its_name(folder, tmp_path_factory, monkeypatch):
    with site_in(tmp_path_factory.mktemp("site"), monkeypatch, keep=("builtin", "timm_align")) as site:
        code = """
        @hookimpl
        def xai_align_training_recipes():
            from xai_align.align import recipe
            return [training("gentle", lambda *, mixup=1.0: recipe("dre", mixup=mixup / 2))]
        """
        site.add("gentle", code)
        done = run("fit-align", "pictures/dark", *SHORT, "--recipe", "gentle", "--examples", 0, "--out", "out")
        assert "the training recipe 'gentle' has no option 'sparsity'; it takes mixup" in refused(
            "pictures/dark", *SHORT, "--recipe", "gentle", "--recipe-set", "sparsity=1", "--out", "out"
        )
        assert "there is no training recipe 'gently'; did you mean 'gentle'?" in refused(
            "pictures/dark", *SHORT, "--recipe", "gently", "--out", "out"
        )
    assert done.exit_code == 0, done.output
    assert json.loads((folder / "out/results.json").read_text())["recipe"] == "gentle"


def test_given_masks_go_with_their_images(folder):
    drawn = np.zeros((24, 24), np.uint8)
    drawn[2:12, 2:12] = 1
    (folder / "masks/dark/red").mkdir(parents=True)
    for i in range(7):
        Image.fromarray(drawn).save(folder / f"masks/dark/red/{i:02d}.png")
    words = ("pictures", "--source", "dark", *SHORT, "--recipe", "oracle", "--examples", 0, "--out", "out")
    assert "the recipe 'oracle' needs masks; give a folder of them with --masks FOLDER" in refused(*words)
    done = run("fit-align", *words, "--masks", "masks")
    assert done.exit_code == 0, done.output
    results = json.loads((folder / "out/results.json").read_text())
    assert results["recipe"] == "oracle"


def test_training_images_are_shuffled_and_come_with_their_numbers(folder, monkeypatch):
    given = []

    class Captures:
        def __init__(self, *networks, **options):
            given.append(options["normalization"])
            self.state = SimpleNamespace()

        def fit(self, train, validation, *, epochs):
            given.extend([train, validation])
            raise ValueError("seen")

    monkeypatch.setattr(fit_align_folder, "AlignTrainer", Captures)
    assert "seen" in refused("pictures/dark", *SHORT, "--out", "out")
    normalization, train, validation = given
    assert normalization == ((0.5,) * 3, (0.5,) * 3)
    orders = [[int(i) for batch in train for i in batch.indices] for _ in range(2)]
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(10))
    assert [int(i) for batch in validation for i in batch.indices] == [0, 1]
    batch = next(iter(train))
    assert batch.masks is None
    labels = [train.dataset[int(i)][1][1] for i in batch.indices]
    assert batch.labels.tolist() == labels


PRETRAINED = """
import torch
from torch import nn
from xai_align.hookspecs import LoadedModel
from torchvision.transforms.functional import to_tensor

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 12, 3, 2, 1)
        self.three, self.head = nn.Conv2d(12, 12, 3, 2, 1), nn.Linear(12, 2)
    def forward(self, x):
        x = self.three(self.two(self.one(x).relu()).relu()).relu()
        return self.head(x.mean((2, 3)))

class Wide(Net):
    def __init__(self):
        super().__init__()
        self.one = nn.Conv2d(3, 12, 8, 8)
    def forward(self, x):
        return self.head(self.one(x).relu().mean((2, 3)))

def loaded(kind):
    model = kind().eval()
    with torch.no_grad():
        for p in model.parameters():  # weights that no random generator made
            p.copy_(torch.arange(p.numel()).view_as(p).mul(1.7).sin() * 0.3)
    return LoadedModel(model=model, preprocess=to_tensor)

def net():
    return loaded(Net)

def wide():
    return loaded(Wide)

@hookimpl
def xai_align_classifier(model, num_classes):
    import copy
    return copy.deepcopy(model) if type(model).__name__ in ("Net", "Wide") else None
"""


def test_a_pretrained_backbone_gives_its_stages_and_the_folder_brings_them_back(folder, tmp_path_factory, monkeypatch):
    site = tmp_path_factory.mktemp("site")
    with site_in(site, monkeypatch, keep=("builtin", "timm_align")) as plugins:
        module = plugins.add("pretrained", PRETRAINED)
        short = (*SHORT[4:], "--device", "cpu", "--examples", 0)
        words = ("fit-align", "pictures/dark", "--backbone", f"{module}:net", *short)
        done = run(*words, "--out", "out")
        assert done.exit_code == 0, done.output
        assert "from scratch" not in done.stderr
        start = load_model(f"{module}:net", trust=True).model
        saved = load_file(folder / "out/masker.safetensors")
        frozen = {key: value for key, value in saved.items() if key.startswith("frozen.")}
        assert {key.split(".")[1] for key in frozen} == {"one", "two"}
        assert all(torch.equal(value, start.state_dict()[key.removeprefix("frozen.")]) for key, value in frozen.items())
        assert not torch.equal(start.one.weight, load_file(folder / "out/classifier.safetensors")["one.weight"])
        aligned = load_model("align:out", trust=True).model
        method = next(one for one in METHODS if one.name == "align").build(aligned)
        assert isinstance(method.masker, StageMasker)
        assert "another configuration" in refused(*words[1:], "--masker", "plain", "--out", "out")

        wide = ("pictures/dark", "--backbone", f"{module}:wide", *short)
        done = run("fit-align", *wide, "--out", "wide")
        assert done.exit_code == 0, done.output
        assert "the masker is trained from scratch and not on the backbone's stages: Wide has" in done.stderr
        assert done.stderr.count("from scratch") == 1
        assert "a masker on its stages reads at least two" in refused(*wide, "--masker", "stages", "--out", "no")


def test_untrained_stages_are_read_only_if_that_is_asked_for(folder, monkeypatch):
    given = []

    class Captures:
        def __init__(self, model, masker, layer, **options):
            given.append(masker)
            raise ValueError("seen")

    monkeypatch.setattr(fit_align_folder, "AlignTrainer", Captures)
    assert "the masker is trained from scratch: the backbone's stages are untrained" in refused(
        "pictures/dark", *SHORT, "--out", "out"
    )
    for more in (("--masker", "stages"), ("--masker", "plain"), ("--recipe", "erm", "--masker", "stages")):
        assert "from scratch" not in refused("pictures/dark", *SHORT, *more, "--out", "out")
    plain, stages, *others = given
    assert plain is None
    assert isinstance(stages, StageMasker)
    assert others == [None, None]


def pictures_of(folder, name, counts):
    for sub, count in counts.items():
        for i in range(count):
            save_picture(folder / name / sub / f"{i:02d}.png", (9, 90, 200), 20)


@pytest.mark.parametrize(
    ("counts", "more", "told"),
    [
        ({"red": 3}, (), "holds the one sub-folder 'red'; give a folder with one sub-folder of images for each class"),
        ({"red": 1, "blue": 1}, (), "no image is left for validation: no class of a source has more than 1 image, and"),
        ({"red": 2, "blue": 2}, (), "has more than 2 images, and three are needed"),
    ],
)
def test_folders_that_cannot_be_trained_on_are_refused_before_training(folder, counts, more, told):
    pictures_of(folder, "some", counts)
    assert told in refused("some", *SHORT, *more, "--out", "out")
    assert not (folder / "out").exists()


def test_what_a_folder_does_not_allow_is_said_before_training(folder, monkeypatch):
    class Stops:
        def __init__(self, *networks, **options):
            raise ValueError("training would begin here")

    monkeypatch.setattr(fit_align_folder, "AlignTrainer", Stops)
    pictures_of(folder, "many", {"a/red": 20, "a/blue": 20, "a/lone": 1, "a/two": 2})
    pictures_of(folder, "many", {"b/red": 20, "b/blue": 3, "c/blue": 1, "c/two": 1})
    told = refused("many", "--source", "a,b", *SHORT, "--out", "out")
    told, _, last = told.partition("error: ")
    assert last.startswith("training would begin here")
    assert "; with fewer than" not in told
    assert "only one training image is left of 'lone', 'two'" in told
    assert "no validation image is left of 'lone', 'two'" in told
    assert "the domain 'b' has no images of 'lone', 'two'; features common to this domain" in told
    assert "the domain 'c' has no images of 'lone', 'red'; its scores are over other classes" in told
    assert "the domain 'a'" not in told
    assert "the training set has only 10 images; with fewer than 30" in refused("pictures/dark", *SHORT, "--out", "out")
    pictures_of(folder, "enough", {"red": 30, "blue": 30})
    assert "; with fewer than" not in refused("enough", *SHORT, "--out", "out")


def test_a_mask_of_another_size_is_found_before_training(folder):
    (folder / "masks/red").mkdir(parents=True)
    for i in range(7):
        Image.fromarray(np.ones((24, 24 - (i == 5)), np.uint8)).save(folder / f"masks/red/{i:02d}.png")
    words = ("pictures/dark", *SHORT, "--recipe", "oracle", "--masks", "masks", "--out", "out")
    told = refused(*words)
    assert "05.png' has 23 x 24 pixels, its image" in told
    assert "save it in the image's size. Nothing was trained" in told
    assert not (folder / "out").exists()


def plain_net():
    """A network from a function, with nothing said of what it takes, so that no picture is resized."""
    torch.manual_seed(int(os.environ.get("PLAIN_NET", 0)))
    body = (nn.Conv2d(3, 4, 5, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(*body, nn.BatchNorm1d(4), nn.Linear(4, 3))


PLAIN = "tests.test_fit_align_command:plain_net"


def test_masks_of_held_out_images_alone_are_refused_before_the_fit(folder):
    """One of seven images of each class has a mask; for some seed it is not among those of training."""
    (folder / "masks/red").mkdir(parents=True)
    Image.fromarray(np.ones((24, 24), np.uint8)).save(folder / "masks/red/03.png")
    words = ("pictures/dark", *SHORT, "--recipe", "oracle", "--masks", "masks", "--examples", 0, "--out", "out")
    images = read_domains("pictures/dark", (), Path("masks"))
    seed = next(
        seed
        for seed in range(40)
        if not any(one.mask for one in split_domains(images, validation_share=0.15, test_share=0.15, seed=seed).train)
    )
    assert "no training image (10) has one" in refused(*words, "--seed", seed)
    assert not list(folder.glob("out/checkpoints/*"))


def test_links_to_no_file_are_told(folder):
    (folder / "pictures/dark/red/lost.png").symlink_to("nowhere.png")
    assert read_domains("pictures/dark").notes == ["1 link in 'pictures/dark/red' points to no file, and is left out"]


@pytest.mark.parametrize(("name", "share"), [("test", 0), ("test", 1.5), ("validation", -0.1), ("validation", 0)])
def test_a_share_is_refused_under_its_own_name(folder, name, share):
    said = refused("pictures/dark", *SHORT, f"--{name}-share", share, "--out", "out")
    assert f"the {name} share must be a number in (0, 1), got {float(share)}" in said


def test_a_fit_with_another_batch_size_is_not_resumed(folder):
    """Ten images are three steps of four and, without the last one, of three."""
    words = ("pictures/dark", *SHORT, "--recipe", "erm", "--examples", 0, "--out", "out")
    assert run("fit-align", *words).exit_code == 0
    assert "batch_size was 4, is 3" in refused(*words, "--batch-size", 3)


def test_a_fit_of_other_pictures_or_another_backbone_is_not_resumed(folder, monkeypatch):
    """Counts, names and shapes are the same; only the content says that the folder's fit is another one."""

    def ends(*args, **options):
        raise ValueError("the test would begin here")

    monkeypatch.setattr(fit_align_folder, "score_domain", ends)
    words = ("pictures/dark", *SHORT, "--backbone", PLAIN, "--recipe", "erm", "--out", "out")
    assert "the test would begin here" in refused(*words)
    before = {path: path.read_bytes() for path in (folder / "out/checkpoints").iterdir()}
    # 7 of each class: 5, 1 and 1; then 3, 2 and 2, of which two would be tested on that the network was trained on
    shares = ("--validation-share", 0.3, "--test-share", 0.3, "--batch-size", 2)
    both = "training_images changed; validation_images changed"
    assert both in refused(*words, *shares)
    assert "range was null, is [0.0, 99.0]" in refused(*words, "--range", 0, 99)
    monkeypatch.setenv("PLAIN_NET", "1")
    assert "backbone changed" in refused(*words)
    monkeypatch.delenv("PLAIN_NET")
    invert(folder / "pictures/dark")
    assert both in refused(*words)
    assert before == {path: path.read_bytes() for path in (folder / "out/checkpoints").iterdir()}
    invert(folder / "pictures/dark")
    (folder / "pictures/dark").rename(folder / "pictures/moved")
    assert "the test would begin here" in refused("pictures/moved", *words[1:])


def test_a_last_batch_of_one_image_stops_no_training(folder, monkeypatch):
    """10 training images in batches of 3: a batch norm over one position can't take the tenth alone."""

    def ends(*args, **options):
        raise ValueError("the test would begin here")

    monkeypatch.setattr(fit_align_folder, "score_domain", ends)
    words = ("--backbone", PLAIN, "--recipe", "erm", "--batch-size", 3, "--out", "out")
    assert "the test would begin here" in refused("pictures/dark", *SHORT, *words)


def test_images_below_the_folder_of_a_class_are_told_before_training(folder):
    save_picture(folder / "pictures/dark/red/more/00.png", (255, 0, 0), 0)
    save_picture(folder / "pictures/dark/green/deep/00.png", (0, 255, 0), 0)
    save_picture(folder / "pictures/dark/green/deep/01.png", (0, 255, 0), 0)
    told = refused("pictures/dark", *SHORT, "--layer", "nowhere", "--out", "out")
    assert "2 images in folders below 'pictures/dark/green' are not read; move them up into that folder" in told
    assert "1 image in folders below 'pictures/dark/red' is not read" in told
    assert "'pictures/dark/blue'" not in told
    assert len(read_domains("pictures", ["dark"]).notes) == 2


def invert(pictures):
    for path in pictures.rglob("*.png"):
        Image.fromarray(255 - np.asarray(Image.open(path))).save(path)


@pytest.mark.parametrize("command", ["fit-align", "fit-epic"])
def test_pictures_that_the_model_takes_in_several_sizes_are_found_before_the_work(folder, command):
    """Nothing resizes them; the odd one is of a domain that only the test, or the page, would have come to."""
    Image.fromarray(np.zeros((30, 24, 3), np.uint8)).save(folder / "pictures/light/red/odd.png")
    model = (*SHORT, "--source", "dark", "--backbone") if command == "fit-align" else ("--prototypes", 2, "--model")
    done = run(command, "pictures", *model, PLAIN, "--out", "out")
    assert done.exit_code == 2, done.output
    told = done.stderr.replace("\n", " ")
    assert ".png' to [3, 24, 24] and " in told
    assert "pictures/light/red/odd.png' to [3, 30, 24], and a batch needs one size" in told
    assert not (folder / "out").exists()


def test_options_that_the_recipe_has_no_use_for_are_told(folder):
    (folder / "masks/red").mkdir(parents=True)
    Image.fromarray(np.ones((24, 24), np.uint8)).save(folder / "masks/red/00.png")
    words = ("pictures/dark", *SHORT, "--layer", "nowhere", "--masks", "masks", "--out", "out")
    assert "the recipe 'align' reads no masks, so those of --masks are not used" in refused(*words)
    told = refused(*words, "--recipe", "erm", "--masker", "stages")
    assert "the recipe 'erm' trains no masker, so --masker stages is not used" in told
    assert "not used" not in refused(*words, "--recipe", "oracle")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("pictures/dark", "--masker", "stage"), "masker must be 'stages' or 'plain', got 'stage'; did you mean"),
        (("nowhere",), "the image folder 'nowhere' does not exist"),
        (("nowhere", "--source", "dark"), "the image folder 'nowhere' does not exist"),
        (("pictures",), "say which of these domains are trained on: --source dark"),
        (
            ("pictures", "--source", "drak"),
            "has no domain 'drak'; did you mean 'dark'? Its domains: dark, light",
        ),
        (("pictures/dark", "--source", "red"), "has no domain 'red'"),
        (("pictures/dark", "--recipe", "algin"), "there is no training recipe 'algin'; did you mean 'align'?"),
        (
            ("pictures/dark", "--recipe", "erm", "--recipe-set", "sparsity=1"),
            "the training recipe 'erm' has no option 'sparsity'",
        ),
        (
            ("pictures/dark", "--recipe-set", "baseline=another_imgae"),
            "'another_imgae'; did you mean 'another_image'?",
        ),
        (
            ("pictures/dark", "--recipe", "dre", "--recipe-set", "baseline=0"),
            "the training recipe 'dre' has no option 'baseline'",
        ),
        (("pictures/dark", "--test-share", "0.9"), "validation (0.15) and test (0.9) take all the images"),
        (("pictures/dark", "--test-share", "-0.1"), "share must be a number in"),
        (("pictures/dark", "--set", "alternation=sometimes"), "alternation must be 'batch' or 'epoch'"),
        (("pictures/dark", "--saliency", "attention"), "saliency must be 'gradcam' or 'readout'"),
        (("pictures/dark", "--layer", "nowhere"), "nowhere"),
        (("pictures/dark", "--warmup-epochs", "1"), "of 2 epochs, 1 for warm-up and 1 for the masker only leave none"),
        (("pictures/dark", "--device", "nowhere"), "cannot be used"),
        (("pictures/dark", "--backbone", "timm:resnet5000@random"), "timm has no model 'resnet5000'"),
    ],
)
def test_what_cannot_be_used_is_said_in_a_line(folder, words, told):
    assert told in refused(*SHORT, *words, "--out", "out")
    assert not (folder / "out/classifier.safetensors").exists()


def test_domains_share_one_numbering_and_what_the_sources_lack_is_left_out(folder):
    save_picture(folder / "pictures/dark/green/00.png", (0, 255, 0), 0)
    save_picture(folder / "pictures/light/amber/00.png", (255, 200, 0), 0)
    (folder / "pictures/notes").mkdir()
    domains = read_domains("pictures", ["dark"])
    assert domains.classes == ["blue", "green", "red"]
    assert list(domains.images) == ["dark", "light"]
    labels = {(one.path.parent.name, one.label) for images in domains.images.values() for one in images}
    assert labels == {("blue", 0), ("green", 1), ("red", 2)}
    assert domains.notes == ["1 image of 'light' is of no class that a source has, and left out"]
    both = read_domains("pictures", ["light", "dark"])
    assert both.classes == ["amber", "blue", "green", "red"]
    assert list(both.images) == ["light", "dark"]


def test_a_warning_that_is_a_note_as_well_is_printed_once(folder, monkeypatch):
    """As a line at the time of the warning; what only the notes say, and warnings of others, remain."""

    def fitted(images, **options):
        warnings.warn("epoch 2: collapsed", CollapseWarning, stacklevel=1)
        warnings.warn("a sign\nanother sign", ShortcutWarning, stacklevel=1)
        warnings.warn("of another library", FutureWarning, stacklevel=1)
        notes = ("epoch 1: of the run before", "epoch 2: collapsed", "a sign", "another sign")
        fit = SimpleNamespace(notes=notes, epochs=2, steps=4, seconds=1.0, stopped="epochs", best=None, masker=None)
        return SimpleNamespace(
            fit=fit,
            split=SimpleNamespace(train=[], validation=[]),
            domains=SimpleNamespace(classes=["blue", "red"], sources=[]),
            scores={},
            needs_trust=False,
        )

    monkeypatch.setattr(fit_align_folder, "fit_align_folder", fitted)
    with pytest.warns(FutureWarning, match="of another library") as others:
        done = run("fit-align", "pictures/dark", *BACKBONE)
    assert done.exit_code == 0, done.output
    assert len(others) == 1
    assert done.stderr.splitlines() == ["warning: epoch 2: collapsed", "warning: a sign", "warning: another sign"]
    assert [line for line in done.stdout.splitlines() if "note" in line] == ["note: epoch 1: of the run before"]


def test_a_domain_of_one_class_is_read_and_told_and_the_sources_together_need_two(folder):
    pictures_of(folder, "pictures", {"grey/red": 3})
    domains = read_domains("pictures", ["dark"])
    assert [one.label for one in domains.images["grey"]] == [1, 1, 1]
    told = check_data(domains, split_domains(domains, validation_share=0.2, test_share=0.2, seed=0))
    assert "the domain 'grey' has no images of 'blue'; its scores are over other classes" in " ".join(told)
    both = read_domains("pictures", ["grey", "dark"])
    assert both.classes == ["blue", "red"]
    told = check_data(both, split_domains(both, validation_share=0.2, test_share=0.2, seed=0))
    assert "the domain 'grey' has no images of 'blue'; features common to this domain" in " ".join(told)
    with pytest.raises(ValueError, match="the images of 'grey' are all of the class 'red', and a classifier needs two"):
        read_domains("pictures", ["grey"])


def test_no_image_is_in_two_parts_and_every_class_in_each(folder):
    domains = read_domains("pictures", ["dark"])
    split = split_domains(domains, validation_share=0.4, test_share=0.3, seed=1)
    parts = [split.train, split.validation, split.test["dark"]]
    assert [len(part) for part in parts] == [4, 6, 4]
    assert sorted(one.path for part in parts for one in part) == sorted(one.path for one in domains.images["dark"])
    assert all({one.label for one in part} == {0, 1} for part in parts)
    assert list(split.test["light"]) == list(domains.images["light"])
    again, other = (split_domains(domains, validation_share=0.4, test_share=0.3, seed=seed) for seed in (1, 2))
    assert again.train == split.train
    assert other.train != split.train


def test_scores_are_worked_out_by_hand():
    """Three classes; of 1, 2 and 1 images, 1, 1 and 0 are right."""
    model = SimpleNamespace(answers=iter([torch.tensor([0, 1]), torch.tensor([0, 1])]))

    class Says(nn.Module):
        def __init__(self):
            super().__init__()
            self.bias = nn.Parameter(torch.zeros(3))

        def forward(self, x):
            return nn.functional.one_hot(next(model.answers), 3) + self.bias

    images = torch.zeros(2, 3, 8, 8)
    batches = [TrainingBatch(images=images, labels=torch.tensor(labels)) for labels in ([0, 1], [1, 2])]
    found = score_domain(Says(), batches, judged=0)
    assert (found.images, found.judged, found.maps) == (4, 0, {})
    assert found.accuracy == 0.5
    assert found.macro_accuracy == pytest.approx((1 + 0.5 + 0) / 3)
    assert found.worst_class == 0
    with pytest.raises(ValueError, match="no images to test with"):
        score_domain(Says(), [])


def test_a_mask_over_what_counts_is_sufficient_and_comprehensive():
    """Class 1 is the mean of the left half; the mask lies there, and then beside it."""

    class Left(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 1, 1)
            nn.init.ones_(self.conv.weight)
            nn.init.zeros_(self.conv.bias)

        def forward(self, x):
            left = self.conv(x)[:, :, :, :4].mean((1, 2, 3))
            return torch.stack([torch.zeros_like(left), 4 * left], 1)

    class Half(nn.Module):
        def __init__(self, shift):
            super().__init__()
            self.shift = shift

        def forward(self, x):
            columns = torch.arange(8.0, device=x.device).roll(self.shift)
            return (1 - 0.1 * columns).expand(len(x), 1, 8, 8)

    batches = [TrainingBatch(images=torch.ones(2, 1, 8, 8), labels=torch.ones(2, dtype=torch.int64))]
    model = Left()
    with untouched(model):
        right, wrong = (score_domain(model, batches, masker=Half(shift), space="conv").maps["mask"] for shift in (0, 4))
    assert right.mean == pytest.approx(0.65)
    assert right.comprehensiveness > wrong.comprehensiveness == pytest.approx(0, abs=1e-6)
    assert right.sufficiency < wrong.sufficiency


def test_a_new_head_is_a_copys():
    model = load_model("timm:test_vit@random").model
    model.blocks[0].train()
    with untouched(model), torch.random.fork_rng():  # its weights are drawn
        fresh = classifier(model, 3)
    assert fresh(torch.zeros(2, 3, 160, 160)).shape == (2, 3)
    assert fresh.blocks[0].training
    assert not fresh.training
    assert not fresh.head.training
    assert next(fresh.parameters()).data_ptr() != next(model.parameters()).data_ptr()
    with pytest.raises(ValueError, match="num_classes is 1; a classifier needs at least two classes"):
        classifier(model, 1)
    with pytest.raises(ValueError, match="cannot give ConvNet a head for 3 classes: no plugin knows such models"):
        classifier(conv_net(), 3)


def test_folders_that_hold_no_fit_are_refused(tmp_path):
    assert load_fit("pinet:somewhere") is None
    with pytest.raises(ValueError, match=r"there is no '.*classifier\.safetensors'; write align:FOLDER"):
        load_model(f"align:{tmp_path}")
    (tmp_path / "classifier.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"damaged or truncated.*copy it again, or train again"):
        load_model(f"align:{tmp_path}")


@pytest.mark.slow
def test_two_processes_print_and_write_once(folder):
    root = Path(__file__).parent.parent
    launched = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "xai_align"]
    words = ["fit-align", "pictures", "--source", "dark", *map(str, SHORT), "--examples", "1", "--out", "out"]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(root), str(root / "adapters")]),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    done = subprocess.run(
        [sys.executable, *launched, *words], env=environment, capture_output=True, text=True, timeout=250, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("2 classes") == 1
    assert (folder / "out/classifier.safetensors").is_file()
