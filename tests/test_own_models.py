"""A user's own network: its class names, its preprocessing, its scale, and whether its weights are random."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from command_line import run
from PIL import Image
from torch import nn

from tests import output_factory
from xai_align import compare
from xai_align._tools.random_weights import RANDOM, following_weights, random_note
from xai_align.data.class_names_file import read_class_names
from xai_align.data.model_picture import picture_of
from xai_align.hookspecs import LoadedModel
from xai_align.plugins import ModelOptions, load_model

NAMES = ("cat", "guard dog", "owl, barn owl")


# ---------------------------------------------------------------- class names

FILES = {
    "lines.txt": "cat\nguard dog\nowl, barn owl\n",
    "windows.txt": "\ufeffcat\r\nguard dog\r\nowl, barn owl\r\n\r\n",
    "numbered.txt": "0 cat\n1: guard dog\n2\towl, barn owl\n",
    "names.names": "cat\nguard dog\nowl, barn owl",
    "list.json": json.dumps(NAMES),
    "dict.json": json.dumps({"2": NAMES[2], "0": NAMES[0], "1": NAMES[1]}),
    "reversed.json": json.dumps({NAMES[2]: 2, NAMES[0]: 0, NAMES[1]: 1}),
    "config.json": json.dumps({"architectures": ["ViT"], "id2label": dict(enumerate(NAMES)), "label2id": {"x": 0}}),
    "timm.json": json.dumps({"architecture": "vit", "pretrained_cfg": {"label_names": NAMES}}),
    "ours.json": json.dumps({"classes": NAMES, "backbone": "timm:resnet18"}),
    "imagenet.json": json.dumps({str(i): [f"n{i}", name] for i, name in enumerate(NAMES)}),
    "column.csv": 'cat\nguard dog\n"owl, barn owl"\n',
    "headed.csv": 'name\ncat\nguard dog\n"owl, barn owl"\n',
    "index.csv": 'id,name\n2,"owl, barn owl"\n0,cat\n1,guard dog\n',
    "name_first.csv": 'class_name,class_id\n"owl, barn owl",2\ncat,0\nguard dog,1\n',
    "no_heading.csv": '2,"owl, barn owl"\n0,cat\n1,guard dog\n',
    "pandas.csv": ',label,count\n0,cat,7\n1,guard dog,7\n2,"owl, barn owl",9\n',
    "semicolons.csv": "index;label\n0;cat\n1;guard dog\n2;owl, barn owl\n",
    "bars.csv": "id|name\n2|owl, barn owl\n0|cat\n1|guard dog\n".replace("owl, barn owl", '"owl, barn owl"'),
    "data.yaml": "path: photos\nnc: 3\nnames: [cat, guard dog, 'owl, barn owl']\n",
    "numbered.yml": "names:\n  2: owl, barn owl\n  0: cat\n  1: guard dog\n",
    "list.yaml": "- cat\n- guard dog\n- owl, barn owl\n",
    "names.toml": 'names = ["cat", "guard dog", "owl, barn owl"]\n',
    "objects.jsonl": "".join(json.dumps({"id": i, "name": name}) + "\n" for i, name in enumerate(NAMES)),
    "names.jsonl": "".join(json.dumps(name) + "\n" for name in NAMES),
    "tabs.tsv": "0\tcat\n1\tguard dog\n2\towl, barn owl\n",
}


@pytest.mark.parametrize("name", FILES)
def test_class_names_from_a_file(tmp_path, name):
    (tmp_path / name).write_bytes(FILES[name].encode())
    assert read_class_names(tmp_path / name) == NAMES


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "name,count\ncat,1\ndog,0\nowl,2\n"),  # numbers of images, not of classes
        ("a.csv", "name,n_train\ncat,2\ndog,1\nowl,0\n"),
        ("a.csv", "count,name,id\n0,owl,2\n1,cat,0\n2,dog,1\n"),
        ("a.csv", "class,label\n1,dog\n0,cat\n2,owl\n"),
        ("a.csv", ",name\n2,owl\n1,dog\n0,cat\n"),  # as pandas writes its index
        ("a.csv", "2,owl\n0,cat\n1,dog\n"),
        ("a.json", '{"categories": [{"id": 1, "name": "dog"}, {"id": 0, "name": "cat"}, {"id": 2, "name": "owl"}]}'),
        ("a.json", '[{"id": 1, "name": "dog"}, {"id": 0, "name": "cat"}, {"id": 2, "name": "owl"}]'),
    ],
)
def test_only_a_column_that_is_called_so_has_the_numbers_of_classes(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    assert read_class_names(tmp_path / name) == ("cat", "dog", "owl")


def test_class_names_of_a_folder_are_in_the_order_of_torchvision(tmp_path):
    from torchvision.datasets import ImageFolder

    for name in ("b", "a10", "a9", "Z", "über"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (2, 2)).save(tmp_path / name / "1.png")
    (tmp_path / "notes.txt").write_text("x")
    assert list(read_class_names(tmp_path)) == ImageFolder(tmp_path).classes


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", "is empty"),
        ("a.txt", b"cat\n\ndog\n", "line 2 is empty"),
        ("a.txt", "käfer".encode("latin-1"), "not UTF-8"),
        ("a.json", b"{", "not JSON"),
        ("a.json", b"3", "holds a int"),
        ("a.yaml", b"names: [cat", "is not YAML"),
        ("a.toml", b"names = [", "is not TOML"),
        ("a.jsonl", b'"cat"\n{', "not JSON"),
        ("a.json", b'{"0": "cat", "2": "dog"}', "indices 0, 1"),
        ("a.json", b'["cat", 3]', "name of class 1 is 3"),
        ("a.json", b'["cat", " "]', "name of class 1"),
        ("a.csv", b"wnid,place,kind\na,b,c\n", "none of them is headed 'name'"),
        ("a.csv", b"id,name\n1,cat\n2,dog\n", "'id' of .* are 1, 2; those of 2 outputs are 0, 1.*counted from 0"),
        ("a.csv", b"class_id,name\n0,cat\n2,dog\n", "are 0, 2"),
        ("a.csv", b"idx,name\n1,cat\n1,dog\n", "are 1, 1"),
        ("a.csv", b"1,cat\n2,dog\n", "are 1, 2"),
        ("a.csv", b"id,name\n", "a heading and no names"),
        ("a.json", b'{"categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]}', "are 1, 2"),
        ("a.json", b'{"info": {"year": 2017}}', "a dictionary with a dict in it"),
        ("a.csv", b"0,cat\n1\n", "row 2 of .* has 1 column"),
    ],
)
def test_what_is_no_list_of_names_is_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_class_names(tmp_path / name)
    with pytest.raises(ValueError, match="there are no class names"):
        read_class_names(tmp_path / "nothing")


@pytest.mark.parametrize("names", [{0: "a", 1: "b", 2: "c"}, {"2": "c", "0": "a", "1": "b"}, {"a": 0, "b": 1, "c": 2}])
def test_a_dictionary_of_labels_is_taken(names):
    assert output_factory.loaded(3, class_names=names).class_names == ("a", "b", "c")


def test_names_on_the_command_line_must_be_as_many_as_the_outputs(tmp_path):
    image = output_factory.half_red(tmp_path / "images")
    for number, names in enumerate((("red", "green"), ("red", "green", "blue"))):
        file = tmp_path / f"{number}.txt"
        file.write_text("\n".join(names))
        common = ("--model", "tests.output_factory:classes", "--class-names", file, "--out", tmp_path / str(number))
        results = [
            run("explain", image, *common),
            run("compare", "--images", image, "--methods", "random", "--metrics", "tie_rate", *common),
        ]
        for result in results:
            assert result.exit_code == (2 if len(names) == 2 else 0), result.output
            if len(names) == 2:
                assert "2 class names ('red', 'green'), and the model has 3 outputs" in " ".join(result.output.split())
    assert json.loads(next((tmp_path / "1").glob("half*.json")).read_text())["question"] == "Why red?"


# ---------------------------------------------------------------- random weights


def test_a_random_network_is_never_explained_in_silence(tmp_path):
    image = output_factory.half_red(tmp_path / "images")
    common = ("--model", "tests.output_factory:random", "--out", tmp_path / "out")
    result = run("explain", image, *common)
    assert result.exit_code == 0, result.output
    assert f"warning: {RANDOM}" in result.stderr
    (file,) = (tmp_path / "out").glob("*.json")
    assert RANDOM in json.loads(file.read_text())["warnings"]
    result = run("compare", "--images", image, "--methods", "random", "--metrics", "tie_rate", *common)
    assert f"warning: {RANDOM}" in result.stderr
    assert RANDOM in (tmp_path / "out" / "index.html").read_text()
    assert RANDOM in (tmp_path / "out" / "results.json").read_text()


@pytest.mark.parametrize(
    "reference", ["torchvision.models:squeezenet1_1", "timm.models:test_resnet", "timm:test_vit@random"]
)
def test_bare_factories_of_libraries_are_random(reference):
    loaded = load_model(reference)
    assert loaded.random_weights
    assert RANDOM in loaded.notes


def built(make):
    with following_weights() as origins:
        model = make()
    return origins.random_weights(model)


def file_of(folder, model):
    torch.save(model.state_dict(), folder / "weights.pth")
    return folder / "weights.pth"


def layers():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2), nn.LayerNorm(2))


DRAWN = ["0.weight", "0.bias", "3.weight", "3.bias"]


@pytest.mark.parametrize(
    "draw",
    [
        lambda weight: nn.init.orthogonal_(weight.flatten(1)),
        nn.init.kaiming_normal_,
        nn.init.trunc_normal_,
        lambda weight: weight.data.copy_(torch.randn(weight.shape) * 0.1),
        lambda weight: setattr(weight, "data", torch.rand(weight.shape)),
        lambda weight: weight.data.uniform_(-1, 1),
    ],
)
def test_drawn_weights_are_random_with_any_seed(draw):
    def make():
        torch.manual_seed(0)
        model = layers()
        with torch.no_grad():
            model[3].weight.zero_()
            draw(model[0].weight)
        return model

    assert built(make) == ["0.weight", "0.bias", "3.bias"]
    assert built(layers) == DRAWN


def test_loaded_copied_and_trained_weights_are_not_random(tmp_path):
    from safetensors.torch import load_file, save_file

    file = file_of(tmp_path, layers())
    save_file(layers().state_dict(), tmp_path / "weights.safetensors")

    def loaded(assign=False, read=lambda: torch.load(file)):
        model = layers()
        model.load_state_dict(read(), assign=assign)
        return model

    def on_meta():
        with torch.device("meta"):
            model = layers()
        model.load_state_dict(torch.load(file), assign=True)
        return model

    def by_hand():
        model = nn.Linear(2, 2)
        with torch.no_grad():
            model.weight.copy_(torch.eye(2))
            model.bias.zero_()
        return model

    def trained():
        model = nn.Linear(3, 2)
        optimizer = torch.optim.Adam(model.parameters())
        model(torch.randn(4, 3)).sum().backward()
        optimizer.step()
        return model

    def half_loaded():
        return loaded().half()

    def with_new_head():
        model = loaded()
        model[3] = nn.Linear(16, 5)
        return model

    for make in (loaded, lambda: loaded(assign=True), on_meta, by_hand, trained, half_loaded):
        assert built(make) == []
    assert built(lambda: loaded(read=lambda: load_file(tmp_path / "weights.safetensors"))) == []
    assert built(with_new_head) == ["3.weight", "3.bias"]


def test_a_random_head_is_named():
    model = nn.Sequential(nn.Linear(50, 50), nn.Linear(50, 2))
    note = random_note(model, ["1.weight", "1.bias"])
    assert note == f"{RANDOM}: 1.weight, 1.bias, 2 of the model's 4 tensors of weights"


# ---------------------------------------------------------------- preprocessing

PIXELS = np.linspace(0, 1, 48, dtype=np.float32).reshape(3, 4, 4)


@pytest.mark.parametrize(
    "made",
    [
        torch.from_numpy(PIXELS),
        torch.from_numpy(PIXELS)[None],
        PIXELS,
        PIXELS[None],
        PIXELS.astype(np.float64),
        {"pixel_values": torch.from_numpy(PIXELS)[None]},
        {"pixel_values": [PIXELS]},
        {"pixel_values": PIXELS[None], "pixel_mask": np.ones((1, 4, 4))},
        [PIXELS],
        (torch.from_numpy(PIXELS),),
    ],
)
def test_what_processors_return_becomes_one_image(made):
    loaded = LoadedModel(model=nn.Identity(), preprocess=lambda picture: made)
    x = loaded.preprocess(None)
    assert x.dtype == torch.float32
    assert torch.equal(x, torch.from_numpy(PIXELS))


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (Image.new("RGB", (2, 2)), "an object of type Image"),
        (np.zeros((224, 224, 3), np.float32), "channels last"),
        (torch.zeros(3, 4, 4, dtype=torch.uint8), "whole numbers"),
        (torch.zeros(5, 3, 4, 4), r"shape \[5, 3, 4, 4\]"),
        ({"a": PIXELS, "b": PIXELS}, "'pixel_values'"),
        (None, "NoneType"),
    ],
)
def test_what_is_no_image_is_said(made, message, tmp_path):
    loaded = LoadedModel(model=output_factory.Colours(3).eval(), preprocess=lambda picture: made)
    with pytest.raises(ValueError, match=message):
        loaded.preprocess(None)
    output_factory.half_red(tmp_path)
    with pytest.raises(ValueError, match=message):
        compare(loaded, tmp_path, methods=["random"], metrics=["tie_rate"])


class Flat(nn.Module):
    """A network that views its input, and takes pictures of 8 x 8 alone."""

    def __init__(self):
        super().__init__()
        self.judge = nn.Linear(3 * 8 * 8, 2)

    def forward(self, x):
        return self.judge(x.view(len(x), -1))


def unsized(picture):
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255


def flat():
    return LoadedModel(model=Flat().eval(), preprocess=unsized)


def square(path, side):
    Image.new("RGB", (side, side), "red").save(path)
    return path


def test_prepared_images_are_contiguous_whatever_the_preprocessing_leaves(tmp_path):
    picture = square(tmp_path / "a.png", 8)
    assert not unsized(Image.open(picture)).is_contiguous()
    assert flat().preprocess(Image.open(picture)).is_contiguous()
    found = compare(flat(), tmp_path, methods=["random"], metrics=["deletion"])
    assert not found.problems
    done = run("explain", picture, "--model", "test_own_models:flat", "--method", "random", "--out", tmp_path / "o")
    assert done.exit_code == 0, done.output


def test_a_first_image_that_the_model_does_not_take_is_a_problem_like_any_other(tmp_path):
    square(tmp_path / "a.png", 9)
    square(tmp_path / "b.png", 8)
    found = compare(flat(), tmp_path, methods=["random"], metrics=["deletion"])
    assert [(one.n, one.missing) for one in found.summaries] == [(1, 0)]
    assert len(found.problems) == 1
    assert "a.png: the model failed" in found.problems[0]


def test_images_none_of_which_the_model_takes_are_a_clear_error(tmp_path):
    square(tmp_path / "a.png", 9)
    with pytest.raises(ValueError, match=r"^the image can't be used: .*a\.png: the model failed: "):
        compare(flat(), tmp_path, methods=["random"], metrics=["deletion"])


def test_a_processor_of_transformers_can_be_the_preprocessing():
    transformers = pytest.importorskip("transformers")
    processor = transformers.ViTImageProcessor(
        size={"height": 8, "width": 8}, image_mean=[0.5] * 3, image_std=[0.25] * 3
    )
    loaded = LoadedModel(model=nn.Identity(), preprocess=processor)
    assert loaded.preprocess(Image.new("RGB", (20, 20), "red")).shape == (3, 8, 8)
    assert np.allclose(loaded.scale, ((0.5,) * 3, (0.25,) * 3))


MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def normalised(picture):
    x = torch.from_numpy(np.array(picture.resize((8, 8)))).permute(2, 0, 1) / 255
    return (x - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def standardised(picture):
    x = torch.from_numpy(np.array(picture.resize((8, 8)))).permute(2, 0, 1) / 255
    return (x - x.mean()) / (x.std() + 1e-6)


def test_photographs_are_drawn_as_they_are_without_mean_and_std():
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8))
    loaded = LoadedModel(model=nn.Identity(), preprocess=normalised)
    assert np.allclose(loaded.scale, (MEAN, STD), atol=1e-5)
    assert np.allclose(picture_of(loaded.preprocess(picture), loaded), np.array(picture) / 255, atol=1e-5)
    # scaled by itself: stretched, all channels alike, so that colours stay
    loaded = LoadedModel(model=nn.Identity(), preprocess=standardised)
    assert loaded.scale is None
    drawn, original = picture_of(loaded.preprocess(picture), loaded), np.array(picture, np.float64)
    stretched = (original - original.min()) / (original.max() - original.min())
    assert np.allclose(drawn, stretched, atol=1e-5)


def test_a_bare_factory_of_timm_is_prepared_by_its_configuration():
    import timm

    loaded, expected = load_model("timm.models:test_vit"), load_model("timm:test_vit@random")
    config = timm.data.resolve_data_config({}, model=loaded.model)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 120, 3), np.uint8))
    assert (loaded.mean, loaded.std) == (config["mean"], config["std"])
    assert torch.equal(loaded.preprocess(picture), expected.preprocess(picture))
    assert loaded.class_names == expected.class_names


def test_an_unknown_module_says_that_its_pictures_are_plain():
    loaded = load_model("tests.output_factory:random")
    assert any("neither resized nor normalised" in note for note in loaded.notes)


def test_a_factory_gets_the_size_if_it_takes_one():
    loaded = load_model("tests.output_factory:sized", options=ModelOptions(img_size=(6, 4)))
    assert loaded.preprocess(Image.new("RGB", (20, 20))).shape == (3, 8, 4)
    with pytest.raises(ValueError, match="takes no img_size"):
        load_model("tests.output_factory:classes", options=ModelOptions(img_size=6))
    with pytest.raises(ValueError, match="takes no in_chans"):
        load_model("tests.output_factory:sized", options=ModelOptions(in_chans=6))


@pytest.mark.parametrize(
    "options",
    [
        ("--img-size", "8x"),
        ("--mean", "a,b"),
        ("--mean", "nan"),
        ("--std", "0"),
        ("--std=-1,1,1",),
        ("--output-kind", "classs"),
        ("--class-names", "nowhere.txt"),
    ],
)
def test_options_that_cannot_be_read_are_refused(tmp_path, options):
    image = output_factory.half_red(tmp_path)
    result = run("explain", image, "--model", "tests.output_factory:classes", "--out", tmp_path / "out", *options)
    assert result.exit_code == 2
    assert "error:" in result.output


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"mean": (0.5, float("nan"), 0.5)}, "mean is 0.5, nan, 0.5; give finite numbers"),
        ({"mean": [float("inf")]}, "mean is inf; give finite numbers"),
        ({"std": (1, 0, 1)}, "std is 1, 0, 1; give finite numbers above 0"),
        ({"std": np.array([-1.0, 1.0])}, "std is -1, 1; give finite numbers above 0"),
        ({"std": torch.tensor([float("inf")])}, "std is inf; give finite numbers above 0"),
    ],
)
def test_a_mean_is_finite_and_a_std_above_0(options, told):
    with pytest.raises(ValueError, match=f"^{told}$"):
        ModelOptions(**options)
    assert ModelOptions(mean=(-1, 0), std=[1e-3]).of_input.mean == (-1, 0)
