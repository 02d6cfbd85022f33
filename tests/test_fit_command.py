"""``xai-align fit-pinet``: from a folder of images to a saved PiNet, and what it says when that can't be."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from xai_align.cli.app import app
from xai_align.data.domain_folder import read_domains
from xai_align.data.image_folder import (
    LabelledImage,
    LabelledImages,
    mask_on_input,
    read_image_folder,
    stratified_split,
)
from xai_align.data.images import open_image

BACKBONE = ("--backbone", "timm:test_resnet@random", "--device", "cpu")


def save_picture(path, colour, square=True):
    """Noise with a coloured square at the top left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(str(path))).integers(0, 90, (24, 24, 3)).astype(np.uint8)
    if square:
        pixels[2:12, 2:12] = colour
    Image.fromarray(pixels).save(path)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    for i in range(5):
        save_picture(tmp_path / f"pictures/red/{i:02d}.png", (255, 0, 0))
        save_picture(tmp_path / f"pictures/blue/{i:02d}.png", (0, 0, 255))
    drawn = np.zeros((24, 24), np.uint8)
    drawn[2:12, 2:12] = 1
    (tmp_path / "masks/red").mkdir(parents=True)
    Image.fromarray(drawn).save(tmp_path / "masks/red/01.png")
    Image.fromarray(drawn).save(tmp_path / "masks/red/02.png")
    return tmp_path


def run(*words):
    return CliRunner().invoke(app, ["fit-pinet", *map(str, words)])


def refused(*words):
    result = run(*words)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    return result.stderr.replace("\n", " ")


def test_a_folder_becomes_a_saved_pinet_with_curves_and_maps(folder):
    words = (
        "pictures",
        *BACKBONE,
        "--epochs",
        2,
        "--examples",
        2,
        "--head",
        "size=20",
        "--out",
        "out",
    )
    done = run(*words, "--masks", "masks", "--loss", "feedback=1", "--loss", "masks=10")
    assert done.exit_code == 0, done.output
    assert "2 classes; 8 training images" in done.stdout
    assert "2 validation images" in done.stdout
    assert "2 epochs, 2 steps" in done.stdout  # all images in a batch, as they are fewer than 32
    out = folder / "out"
    assert json.loads((out / "classes.json").read_text())["classes"] == ["blue", "red"]
    with (out / "metrics.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["step"] for row in table] == ["1", "2"]
    assert {"feedback", "masks"} <= table[0].keys()
    assert Image.open(out / "curves.png").width > 400
    assert len(list((out / "examples").glob("*.png"))) == 2
    weights = out / "model/model.safetensors"
    assert weights.is_file()
    from xai_align.pinet import PiNet

    pinet = PiNet.from_pretrained(out / "model")
    assert pinet.class_names == ("blue", "red")
    look = pinet.explain(torch.zeros(1, 3, 160, 160))
    assert look.maps.shape == (1, 2, 20, 20)
    asked = CliRunner().invoke(app, ["explain", "pictures/red/00.png", "--model", "pinet:out/model", "--out", "why"])
    assert asked.exit_code == 0, asked.output
    assert "warning: these weights are random (untrained): those of the backbone" in " ".join(asked.stderr.split())
    assert (out / "metrics.csv").is_file()
    again = run(*words, "--masks", "masks", "--loss", "feedback=1", "--loss", "masks=10")
    assert again.exit_code == 0, again.output
    assert "had already finished after epoch 2; nothing was trained" in again.stdout
    assert "parsimony was 0.0, is 1.0" in refused(
        *words, "--masks", "masks", "--loss", "feedback=1", "--loss", "masks=10", "--loss", "parsimony=1"
    )


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("nowhere",), "the image folder 'nowhere' does not exist"),
        (("masks",), "'masks' holds the one sub-folder 'red'"),
        (("pictures/red",), "'pictures/red' holds no sub-folder with images"),
        (("pictures", "--masks", "pictures/none"), "the folder of masks 'pictures/none' does not exist"),
        (("pictures", "--validation-share", "1.5"), "the validation share must be a number in (0, 1)"),
        (("pictures", "--batch-size", "64"), "a step takes 64 examples (batch_size 64), but the training data have 8"),
        (("pictures", "--set", "schedule=sometimes"), "schedule must be 'none', 'cosine' or 'plateau'"),
        (("pictures", "--head", "z=sound"), "z='sound'"),
        (("pictures", "--head", "colour=red"), "colour"),
        (("pictures", "--loss", "feedback=-1"), "the weight of 'feedback' is -1.0"),
        (("pictures", "--loss", "feedbak=1"), "there is no loss term 'feedbak'; did you mean 'feedback'?"),
        (("pictures", "--loss", "feedback=much"), "the weight of 'feedback' is 'much'; give a number"),
        (("pictures", "--device", "nowhere"), "cannot be used"),
    ],
)
def test_what_cannot_be_used_is_said_in_a_line(folder, words, told):
    assert told in refused(*BACKBONE, *words, "--out", "out", "--epochs", 1)
    assert not (folder / "out" / "model").exists()


def test_a_backbone_that_is_not_known(folder):
    assert "timm has no model 'resnet5000'" in refused("pictures", "--backbone", "timm:resnet5000@random")


def test_a_damaged_image_is_named_before_training(folder):
    (folder / "pictures/red/03.png").write_bytes(b"no picture")
    assert "03.png: cannot be read as an image" in refused("pictures", *BACKBONE, "--epochs", 1, "--batch-size", 4)


def test_a_mask_of_another_size_is_named(folder):
    for name in ("01", "02"):
        Image.fromarray(np.ones((9, 9), np.uint8)).save(folder / f"masks/red/{name}.png")
    told = refused("pictures", *BACKBONE, "--epochs", 1, "--batch-size", 4, "--masks", "masks")
    assert "has 9 x 9 pixels, its image" in told
    assert "save it in the image's size" in told


def test_every_class_is_in_both_parts_and_the_seed_decides():
    images = [
        LabelledImage(Path(f"{label}/{i}.png"), label) for label, count in ((0, 10), (1, 3)) for i in range(count)
    ]
    train, validation = stratified_split(images, 0.2, seed=1)
    assert sorted(one.label for one in validation) == [0, 0, 1]
    assert set(train) | set(validation) == set(images)
    assert not set(train) & set(validation)
    assert stratified_split(images, 0.2, seed=1) == (train, validation)
    assert stratified_split(images, 0.2, seed=2) != (train, validation)
    with pytest.warns(UserWarning, match="holds one image"):
        train, validation = stratified_split(images[-1:], 0.5, seed=0)
    assert (len(train), len(validation)) == (1, 0)


def preprocess(picture):
    """The left half, 4 x 4, normalised."""
    half = picture.crop((0, 0, picture.width // 2, picture.height)).resize((4, 4), Image.Resampling.NEAREST)
    return torch.from_numpy(np.asarray(half, np.float32) / 255).permute(2, 0, 1) * 2 - 1


def test_masks_go_where_the_preprocessing_takes_the_image(folder):
    inside = np.zeros((8, 16), bool)
    inside[:4, 4:] = True  # the right half of what is kept of the top
    wanted = torch.tensor([[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0]]).bool()
    assert torch.equal(mask_on_input(inside, preprocess), wanted)


def test_masks_of_a_folder_are_shares_of_places(folder):
    names, images = read_image_folder("pictures", "masks")
    assert names == ["blue", "red"]
    assert [one.path.stem for one in images if one.mask] == ["01", "02"]
    assert {one.label for one in images if one.mask} == {1}
    data = LabelledImages(images, preprocess, (2, 2))
    assert data[0][2] is None
    masked = next(i for i, one in enumerate(images) if one.mask)
    # of 24 x 24 the left half is kept and seen at columns 1, 4, 7, 10 and rows 3, 9, 15, 21; the mask is 2 to 11
    assert data[masked][2].tolist() == [[[0.5, 1.0], [0.0, 0.0]]]
    assert data[masked][1] == 1
    assert torch.equal(data[masked][0], preprocess(open_image(images[masked].path)))
    (folder / "empty").mkdir()
    with pytest.raises(
        ValueError, match=r"no file in 'empty' has the name of an image; expected for example 'empty/blue"
    ):
        read_image_folder("pictures", "empty")


def test_a_mask_belongs_to_one_image(folder):
    os.rename("masks/red/01.png", "masks/01.png")
    told = r"mask 'masks/01.png' .* 'pictures/blue/01.png' and 'pictures/red/01.png'; .* belong in 'masks/CLASS/'"
    with pytest.raises(ValueError, match=told):
        read_image_folder("pictures", "masks")
    os.rename("pictures/blue/01.png", "pictures/blue/b01.png")
    _, images = read_image_folder("pictures", "masks")
    assert {str(one.path): str(one.mask) for one in images if one.mask} == {
        f"pictures/red/{name}.png": mask for name, mask in (("01", "masks/01.png"), ("02", "masks/red/02.png"))
    }


def test_a_mask_belongs_to_one_domain(folder):
    for domain in ("photo", "sketch"):
        shutil.copytree("pictures", f"domains/{domain}")
    read_domains("domains", ["photo"], Path("masks"))
    with pytest.raises(ValueError, match=r"'domains/photo/red/01.png' and 'domains/sketch/red/01.png'.*DOMAIN/CLASS/"):
        read_domains("domains", ["photo", "sketch"], Path("masks"))
    for domain in ("photo", "sketch"):
        shutil.copytree("masks/red", f"masks/{domain}/red")
    masks = [
        one.mask
        for image in read_domains("domains", ["photo", "sketch"], Path("masks")).images.values()
        for one in image
        if one.mask
    ]
    assert len(masks) == len(set(masks)) == 4


def test_folders_of_tools_are_no_classes(folder):
    for name in (".ipynb_checkpoints", "__pycache__"):
        shutil.copytree("pictures/red", f"pictures/{name}")
    names, images = read_image_folder("pictures")
    assert names == ["blue", "red"]
    assert not any(path.path.parent.name.startswith((".", "_")) for path in images)


@pytest.mark.slow
def test_two_processes_print_and_write_once(folder):
    root = Path(__file__).parent.parent
    program = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "xai_align",
    ]
    words = [
        "fit-pinet",
        "pictures",
        *BACKBONE,
        "--epochs",
        "1",
        "--batch-size",
        "2",
        "--out",
        "out",
        "--examples",
        "1",
    ]
    paths = os.pathsep.join([str(root), str(root / "adapters")])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([*program, *words], env=environment, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("2 classes") == 1
    assert (folder / "out/model/config.json").is_file()
