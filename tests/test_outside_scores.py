"""Importance from outside: files of every form, geometry of the preprocessing, and comparisons."""

from __future__ import annotations

import codecs
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision import transforms
from typer.testing import CliRunner

from xai_align import compare
from xai_align.cli.app import app
from xai_align.data.outside_scores import OutsideScores, photograph_positions, read_scores
from xai_align.evaluation import Scored, agreement_with_scores
from xai_align.hookspecs import LoadedModel

GRID = [[0.0, 1.0], [0.25, -2.0]]


def written(folder, suffix):
    file = folder / f"human.{suffix}"
    if suffix == "csv":
        lines = [f"a.png,{row},{column},{GRID[row][column]}" for row in range(2) for column in range(2)]
        file.write_text("\n".join(["image,row,column,score", *lines]))
    elif suffix == "json":
        file.write_text(json.dumps({"a.png": GRID}))
    elif suffix == "npz":
        np.savez(file, **{"a.png": np.array(GRID)})
    else:
        np.save(file, np.array(GRID))
    return file


@pytest.mark.parametrize("suffix", ["csv", "json", "npz", "npy"])
def test_every_form_of_file_gives_the_same(tmp_path, suffix):
    scores = read_scores(written(tmp_path, suffix), images=["folder/a.png"])
    assert scores.name == "human"
    np.testing.assert_array_equal(scores.of("folder/a.png"), GRID)


@pytest.mark.parametrize("suffix", ["csv", "json"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le with mark"])
def test_text_files_of_editors_and_spreadsheets_are_read(tmp_path, suffix, encoding):
    """They put a byte order mark first, which is not part of the text."""
    file = written(tmp_path, suffix)
    text = file.read_text("utf-8").replace("a.png", "é.png")
    data = codecs.BOM_UTF16_LE + text.encode("utf-16-le") if "mark" in encoding else text.encode(encoding)
    file.write_bytes(data)
    np.testing.assert_array_equal(read_scores(file).of("é.png"), GRID)


def test_scores_of_tokens(tmp_path):
    file = tmp_path / "words.csv"
    file.write_text("image,token,score\nreview,1,0.5\nreview,0,-1\n")
    np.testing.assert_array_equal(read_scores(file).of("review"), [-1, 0.5])
    with pytest.raises(ValueError, match="has a list for 'review', like a text's tokens; give rows of cells"):
        read_scores(file).on_input("review", torch.zeros(4, 4, 2))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt", "1", r"write \.csv"),
        ("a.csv", "image,score\na,1\n", "has the columns image, score; give image, row, column, score"),
        ("a.csv", "", "has the columns none"),
        ("a.csv", "image,row,column,score\n", "holds no scores"),
        ("a.csv", "image,row,column,score\na,0,0,1\na,0,0,2\n", "line 3: a second score"),
        ("a.csv", "image,row,column,score\na,0,0,1\na,1,1,2\n", "2 scores for 2 x 2 cells"),
        ("a.csv", "image,row,column,score\na,0,0,high\n", "line 2: the score is 'high'; give a number"),
        ("a.csv", "image,row,column,score\na,0,-1,1\n", "count from 0"),
        ("a.csv", "image,row,column,score\na,0,0,nan\n", "NaN"),
        ("a.csv", "image,row,column,score\na,0,0,1_0\n", "line 2: the score is '1_0'; give a number"),
        ("a.csv", "image,row,column,score\na,0,0,\n", "line 2: the score is missing; give a number"),
        ("a.csv", "image,row,column,score\na,0,0,\x1b[31m\n", r"the score is '\\x1b\[31m'; give a number"),
        ("a.csv", "image,row,column,score\na,0.0,0,1\n", "line 2: the row is '0.0'; give a whole number"),
        ("a.csv", "image,row,column,score\na,1_0,0,1\n", "line 2: the row is '1_0'; give a whole number"),
        ("a.csv", f"image,row,column,score\na,0,{'9' * 5000},1\n", "line 2: the column is '9999"),
        ("a.csv", "image,row,column,score\na,1,0,1\n", "'a': 1 score for 2 x 1 cells"),
        ("a.csv", 'image,row,column,score\n"a\n', "line 2: 1 entry for 4 columns"),
        ("a.csv", "image,row,column,score\na,0\n", "line 2: 2 entries for 4 columns"),
        (
            "a.csv",
            "image,row,column,score\na,0,0,1,5\n",
            "line 2: 5 entries for 4 columns; write decimals",
        ),
        ("a.csv", "image,row,column,score,score\na,0,0,1,2\n", "column score twice"),
        ("a.csv", "image;row;column;score\na;0;0;1\n", "separated by commas"),
        ("a.csv", f"image,row,column,score\n{'a' * 200_000},0,0,1\n", "not a CSV file .field larger"),
        ("a.json", f'{{"a": [[1{"0" * 400}]]}}', "'a': not a list of numbers"),
        ("a.json", "[1]", "holds a list"),
        ("a.json", '{"a": [[1, 2], [3]]}', "rows of one length"),
        ("a.json", '{"a": [["x"]]}', "'a': holds a text; give numbers without quotes"),
        ("a.json", '{"a": ["0.5", "1_000"]}', "'a': holds a text; give numbers without quotes"),
        ("a.json", '{"a": "12"}', "'a': holds a text; give numbers without quotes"),
        ("a.json", '{"a": {"b": 1}}', "not a list of numbers"),
        ("a.json", '{"a": []}', r"shape \[0\]"),
        ("a.json", '{"a": 1}', r"shape \[\]"),
        ("a.json", "{", "a.json"),
        ("a.npy", "x", "is not an .npy file"),
        ("a.npz", "x", "is not an .npz file"),
    ],
)
def test_bad_files_are_named(tmp_path, name, content, said):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=said):
        read_scores(tmp_path / name, images=["a.png"])


@pytest.mark.parametrize("written", ["1", "-1.5", "+2", ".5", "3.", "1e-3", "2E5", " 7 "])
def test_numbers_of_every_spelling_are_read(tmp_path, written):
    (tmp_path / "a.csv").write_text(f"image,row,column,score\na, 0,0 ,{written}\n")
    assert read_scores(tmp_path / "a.csv").of("a")[0, 0] == float(written)


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_an_array_whose_header_breaks_numpys_reader_is_named(tmp_path, suffix):
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1, 2, 2), ".ljust(117) + b"\n"  # no closing brace
    broken = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(32)
    file = tmp_path / f"a.{suffix}"
    if suffix == "npy":
        file.write_bytes(broken)
    else:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("a.png.npy", broken)
    with pytest.raises(ValueError, match=rf"a\.{suffix}' is "):
        read_scores(file, images=["a.png"])


class Pickled:
    """Object that leaves a file behind when it is unpickled."""

    def __reduce__(self):
        return (open, ("unpickled", "w"))


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.array([[Pickled()]], dtype=object), "allow_pickle=False"),
        (np.array([[1 + 2j]]), "an array of complex128; give real numbers"),
        (np.array([["1"]]), "an array of <U1; give real numbers"),
        (np.zeros((1, 1), "M8[D]"), "give real numbers"),
        (np.zeros((1, 1), [("a", "f4")]), "give real numbers"),
    ],
    ids=["objects", "complex", "texts", "dates", "records"],
)
@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_arrays_of_other_than_numbers_are_refused_and_not_unpickled(tmp_path, monkeypatch, array, said, suffix):
    monkeypatch.chdir(tmp_path)
    np.save("a.npy", array, allow_pickle=True)
    np.savez("a.npz", **{"a.png": array})
    with pytest.raises(ValueError, match=said):
        read_scores(f"a.{suffix}", images=["a.png"])
    assert not (tmp_path / "unpickled").exists()


def test_damaged_and_misnamed_arrays_are_named(tmp_path):
    npz, npy = written(tmp_path, "npz"), written(tmp_path, "npy")
    content = bytearray(npz.read_bytes())
    for name, data, said in (
        ("swapped.npy", bytes(content), r"swapped\.npy' is not an \.npy file; it is a \.npz file"),
        ("swapped.npz", npy.read_bytes(), r"swapped\.npz' is not an \.npz file"),
        ("flipped.npz", bytes(content[:100]) + b"\xff" + bytes(content[101:]), r"flipped\.npz"),
        ("huge.npy", npy.read_bytes().replace(b"(2, 2), }" + b" " * 12, b"(2000000, 2000000), }"), r"huge\.npy"),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match=said):
            read_scores(tmp_path / name, images=["a.png"])


def test_scores_of_other_images_or_of_two_are_refused():
    scores = OutsideScores("human", {"a.png": np.eye(2), "y/b.png": np.eye(2)})
    scores.check_images([Path("x/a.png"), Path("x/b.png"), Path("y/b.png")])
    with pytest.raises(ValueError, match=r"'a.png' in 'human' fit two images, 'x/a.png' and 'y/a.png'"):
        scores.check_images([Path("x/a.png"), Path("y/a.png")])
    with pytest.raises(ValueError, match=r"scores of none of the images: its first are of 'a.png'.* 'c.png'"):
        scores.check_images([Path("c.png")])


def test_a_missing_file_and_a_wrong_number_of_images(tmp_path):
    with pytest.raises(ValueError, match="cannot be read"):
        read_scores(tmp_path / "none.csv")
    with pytest.raises(ValueError, match=r"shape \[1, 2, 2\] for 3 image"):
        read_scores(written(tmp_path, "npy"), images=["a", "b", "c"])


@pytest.mark.parametrize(
    ("geometry", "where"),
    [
        (lambda: [transforms.Resize((32, 32))], lambda u: u),
        (lambda: [transforms.Resize((64, 64)), transforms.CenterCrop(32)], lambda u: 0.25 + u / 2),
        (lambda: [transforms.Resize((32, 32)), transforms.RandomHorizontalFlip(1.0)], lambda u: 1 - u),
    ],
    ids=["resized", "cropped", "mirrored"],
)
@pytest.mark.parametrize("normalised", [False, True])
def test_positions_in_the_photograph(geometry, where, normalised):
    ends = [transforms.Normalize((0.4, 0.5, 0.3), (0.2, 0.3, 0.1))] if normalised else []
    preprocess = transforms.Compose([*geometry(), transforms.ToTensor(), *ends])
    at = photograph_positions((120, 90), preprocess)
    centres = (torch.arange(32) + 0.5) / 32
    assert at.shape == (32, 32, 2)
    # nearest levels of 255, and the resampling of a ramp at its ends
    torch.testing.assert_close(at[16, :, 0].float(), where(centres), atol=0.02, rtol=0)
    plain = (lambda u: u) if where(torch.tensor(0.0)) == 1 else where
    torch.testing.assert_close(at[:, 16, 1].float(), plain(centres), atol=0.02, rtol=0)


def test_padding_shows_nothing_of_the_photograph():
    preprocess = transforms.Compose([transforms.Resize((32, 32)), transforms.Pad(8), transforms.ToTensor()])
    at = photograph_positions((40, 40), preprocess)
    assert bool(at[:8].isnan().all())
    assert not bool(at[8:-8, 8:-8].isnan().any())
    scores = OutsideScores("human", {"a": np.ones((2, 2))})
    on_input = scores.on_input("a", at)
    assert float(on_input[:8].abs().max()) == 0.0
    torch.testing.assert_close(on_input[8:-8, 8:-8], torch.ones(32, 32, dtype=torch.float64))


def test_cells_are_spread_smoothly_and_keep_their_order():
    at = photograph_positions((64, 64), transforms.Compose([transforms.Resize((64, 64)), transforms.ToTensor()]))
    on_input = OutsideScores("human", {"a": np.array(GRID)}).on_input("a.png", at)
    assert int(on_input.flatten().argmax()) // 64 < 32
    assert float(on_input[16, 48]) == pytest.approx(1.0, abs=0.1)
    assert float(on_input[48, 48]) == pytest.approx(-2.0, abs=0.1)
    assert len(on_input[20:44, 40].unique()) > 20


class BrightCorner(nn.Module):
    """Class 1 is the brightness of the upper right quarter."""

    def forward(self, x):
        right = x[:, :, :16, 16:].mean((1, 2, 3))
        return torch.stack([1 - right, 4 * right], 1)


@pytest.fixture
def study(tmp_path):
    random = np.random.default_rng(0)
    for name in "abcd":
        Image.fromarray(random.integers(100, 256, (32, 32, 3), dtype=np.uint8)).save(tmp_path / f"{name}.png")
    right = {f"{name}.png": [[0, 1], [0, 0]] for name in "abcd"}
    wrong = {f"{name}.png": [[0, 0], [1, 0]] for name in "abc"}  # none of d
    (tmp_path / "knows.json").write_text(json.dumps(right))
    (tmp_path / "guesses.json").write_text(json.dumps(wrong))
    loaded = LoadedModel(
        model=BrightCorner().eval(), preprocess=transforms.ToTensor(), class_names=("dark", "bright"), mean=(0,) * 3
    )
    return tmp_path, loaded


def test_outside_scores_are_judged_like_a_method(study):
    folder, loaded = study
    found = compare(
        loaded,
        sorted(folder.glob("*.png")),
        methods=["input_x_gradient"],
        metrics=["deletion", "insertion", "agreement_fa", "agreement_rc", "agreement_sa", "parameter_randomisation"],
        scores=[folder / "knows.json", f"guesses={folder / 'guesses.json'}"],
        out=folder / "out",
        batch_size=2,
    )
    table = {(row.method, row.metric): row.mean for row in found.summaries}
    assert table["knows", "deletion"] < table["guesses", "deletion"]
    assert table["knows", "insertion"] > table["guesses", "insertion"]
    # the gradient lies in the quarter that the person marked, and nowhere else
    assert table["input_x_gradient", "agreement_fa"] == table["input_x_gradient", "agreement_sa"] == 1.0
    assert table["input_x_gradient", "agreement_rc"] == pytest.approx(1.0)
    assert table["guesses", "agreement_fa"] == 0.0
    assert table["knows", "agreement_fa"] == 1.0
    assert any("d.png: guesses" in problem and "no scores" in problem for problem in found.problems)
    assert any("scores from outside" in note for note in found.notes)
    assert (folder / "out" / "index.html").is_file()
    again = compare(
        loaded,
        sorted(folder.glob("*.png")),
        methods=["input_x_gradient"],
        metrics=["deletion"],
        scores=[folder / "knows.json"],
        reference="knows",
    )
    assert {row.method for row in again.summaries} == {"input_x_gradient", "knows"}


def test_names_of_any_length_and_alike_have_files_of_their_own(study):
    """File systems take 255 bytes; "h h" and "h-h" are the same as parts of file names."""
    folder, loaded = study
    picture = folder / f"{'p' * 250}.png"
    (folder / "a.png").rename(picture)
    file = folder / "scores.json"
    file.write_text(json.dumps({picture.name: [[0, 1], [0, 0]]}))
    names = ["n" * 300, "n" * 299 + "m", "é" * 200, "h h", "h_h", "H H"]
    found = compare(
        loaded,
        [picture],
        methods=["input_x_gradient"],
        metrics=["tie_rate"],
        scores=[f"{name}={file}" for name in names],
        out=folder / "out",
    )
    assert found.problems == ()
    files = {one.method: one.file for one in found.pictures}
    assert set(files) == {"", "input_x_gradient", *names}
    assert len({one.casefold() for one in files.values()}) == len(files)
    assert all((folder / "out" / one).is_file() for one in files.values())


def test_settings_hold_the_scores_so_that_others_are_not_taken_for_them(study):
    folder, loaded = study
    given = {"methods": ["random"], "metrics": ["tie_rate"], "out": folder / "out"}
    images = sorted(folder.glob("*.png"))
    compare(loaded, images, scores=[folder / "knows.json"], **given)
    (folder / "knows.json").write_text((folder / "knows.json").read_text().replace("1", "2"))
    with pytest.raises(ValueError, match="scores"):
        compare(loaded, images, scores=[folder / "knows.json"], **given)


@pytest.mark.parametrize(
    ("scores", "metrics", "said"),
    [
        ([], ["agreement_fa"], "give a file of them"),
        (["random=knows.json"], ["deletion"], "can't be called 'random'"),
        (["knows.json", "knows.json"], ["deletion"], "can't be called 'knows'"),
        (["none.json"], ["deletion"], "none.json"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_work(study, monkeypatch, scores, metrics, said):
    folder, loaded = study
    monkeypatch.chdir(folder)
    with pytest.raises(ValueError, match=said):
        compare(loaded, "a.png", methods=["pinet"], metrics=metrics, scores=scores)


def test_agreement_by_hand():
    labels = torch.arange(4).reshape(2, 2).repeat_interleave(8, 0).repeat_interleave(8, 1)
    maps = torch.zeros(1, 3, 16, 16)
    maps[..., :8, 8:] = 1.0  # the most in cell 1, some in cell 2
    maps[..., 8:, :8] = 0.1
    human = Scored(values=torch.tensor([0.0, 5.0, 3.0, 4.0]), labels=labels)
    assert agreement_with_scores(maps, [human], measure="fa", share=0.5).item() == 0.5  # {1, 2} and {1, 3}
    assert agreement_with_scores(maps, [human], measure="ra", share=0.25).item() == 1.0


def test_scores_on_the_command_line(study):
    folder, _ = study
    done = CliRunner().invoke(
        app,
        f"compare --model timm:test_resnet@random --images {folder}/a.png --methods pinet --metrics agreement_rc "
        f"--scores {folder}/knows.json --out {folder}/out",
    )
    assert done.exit_code == 0, done.output
    assert "knows" in done.output
