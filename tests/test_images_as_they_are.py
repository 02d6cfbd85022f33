"""Images of any depth, number of channels and name, in every command that reads them."""

from __future__ import annotations

import json
import os

import numpy as np
import png
import pytest
import tifffile
import torch
from cli_factory import NAMES, Colours, preprocess
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image, ImageOps
from torch import nn
from typer.testing import CliRunner

from xai_align._tools.files.legible import legible
from xai_align.cli.app import app
from xai_align.data.images import ImageError, expand_paths, open_image, read_picture, to_picture
from xai_align.data.value_range import range_of, to_unit
from xai_align.hookspecs import LoadedModel

MODEL = "cli_factory:load"
BAD = os.fsdecode(b"caf\xe9 \xff.png")  # Latin-1, and a byte that no encoding of text has here


class Bands(nn.Module):
    """Logits are the means of the first four of twelve channels."""

    def __init__(self):
        super().__init__()
        self.look = nn.Conv2d(12, 4, 1, bias=False)

    def forward(self, x):
        return self.look(x).mean((2, 3))


def channels(picture):
    array = np.asarray(picture, dtype=np.float32)
    assert array.ndim == 3
    return torch.from_numpy(array).permute(2, 0, 1).contiguous()


def bands():
    return LoadedModel(model=Bands().eval(), preprocess=channels)


def bands_with_the_mean_of_rgb():
    return LoadedModel(model=Bands().eval(), preprocess=channels, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))


def plain():
    return LoadedModel(model=Colours().eval(), preprocess=preprocess, class_names=NAMES)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(os.path.dirname(__file__))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    return tmp_path


def save_red(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (16, 16), (200, 10, 30)).save(path, format="PNG")
    return path


def run(*words):
    return CliRunner().invoke(app, [*map(str, words)], env={"COLUMNS": "300"})


def levels(path, *range_):
    return np.asarray(open_image(path, *range_))[..., 0]


# --- which numbers are black and white -------------------------------------------------------------

RAMP = np.linspace(0, 1, 64, dtype=np.float64).reshape(8, 8)


@pytest.mark.parametrize("bits", range(8, 17))
def test_integers_of_any_depth_use_the_whole_range(tmp_path, bits):
    values = np.rint(RAMP * (2**bits - 1)).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "x.png")
    tifffile.imwrite(tmp_path / "x.tif", values)
    np.save(tmp_path / "x.npy", values)
    found = {suffix: levels(tmp_path / f"x.{suffix}") for suffix in ("png", "tif", "npy")}
    assert found["png"].max() == (255 if bits % 2 == 0 else 127)  # of an odd depth, that of the next
    np.testing.assert_array_equal(found["png"], found["tif"])
    np.testing.assert_array_equal(found["png"], found["npy"])
    exact = levels(tmp_path / "x.png", (0, 2**bits - 1))
    assert np.abs(exact / 255 - RAMP).max() < 0.51 / 255 + 2.0**-bits


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_colour_of_sixteen_bits_keeps_them(tmp_path, suffix):
    values = np.rint(np.stack([RAMP, RAMP[::-1], RAMP.T], -1) * 4095).astype(np.uint16)
    if suffix == "tif":
        tifffile.imwrite(tmp_path / "x.tif", values, photometric="rgb")
    else:
        png.from_array(values.reshape(len(values), -1).tolist(), "RGB;16").save(tmp_path / "x.png")
    shown = np.asarray(open_image(tmp_path / f"x.{suffix}"))
    np.testing.assert_array_equal(shown, np.rint(values / 4095 * 255))


@pytest.mark.parametrize(
    ("largest", "white"), [(1.0, 1), (1.004, 1), (0.3, 1), (1.5, 1.5), (37.0, 37), (255.0, 255), (4000.0, 4095)]
)
def test_floats_are_never_nearly_black(tmp_path, largest, white):
    tifffile.imwrite(tmp_path / "x.tif", (RAMP * largest).astype(np.float32))
    expected = np.rint(255 * np.clip(RAMP.astype(np.float32) * largest / white, 0, 1))
    assert np.abs(levels(tmp_path / "x.tif").astype(int) - expected).max() <= 1


@pytest.mark.parametrize("values", [[0, 1000, 4095], [1000, 2000, 3000], [0, 0.25, 1], [0, 30, 3000.0], [-7, 0, 9]])
def test_white_is_zero_inverts_within_the_range_of_the_numbers(tmp_path, values):
    dtype = np.float32 if any(isinstance(one, float) for one in values) else np.int16 if values[0] < 0 else np.uint16
    row = np.array([values] * 2, dtype)
    tifffile.imwrite(tmp_path / "black.tif", row, photometric="minisblack")
    tifffile.imwrite(tmp_path / "white.tif", row, photometric="miniswhite")
    black, white = (np.asarray(open_image(tmp_path / f"{one}.tif")).astype(int) for one in ("black", "white"))
    assert np.ptp(black) > 100
    np.testing.assert_allclose(white, 255 - black, atol=1)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_tiff_of_any_depth_is_upright_as_pillow_turns_it(tmp_path, orientation):
    values = np.arange(6, dtype=np.uint8).reshape(2, 3) * 50
    lying = Image.fromarray(values)
    lying.getexif()[274] = orientation
    for saved in (values, values.astype(np.uint16) * 257):
        tags = [(274, "H", 1, orientation, True)]
        tifffile.imwrite(tmp_path / "x.tif", saved, photometric="minisblack", extratags=tags)
        found = np.asarray(open_image(tmp_path / "x.tif"))[..., 0]
        assert np.array_equal(found, np.asarray(ImageOps.exif_transpose(lying)))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_png_of_sixteen_bits_is_upright_as_pillow_turns_it(tmp_path, orientation, mode):
    values = np.arange(6).reshape(2, 3, 1) * 50 * np.ones(3, int)
    lying = Image.fromarray(values.astype(np.uint8))
    lying.getexif()[274] = orientation
    deep = np.concatenate([values * 257, np.full((2, 3, 1), 65535)], -1)
    deep = deep[..., 2:] if mode == "LA" else deep[..., : len(mode)]
    png.from_array(deep.reshape(2, -1).tolist(), f"{mode};16").save(tmp_path / "lying.png")
    chunks = list(png.Reader(filename=tmp_path / "lying.png").chunks())
    chunks.insert(1, (b"eXIf", lying.getexif().tobytes().removeprefix(b"Exif\0\0")))
    with (tmp_path / "x.png").open("wb") as file:
        png.write_chunks(file, chunks)
    found = np.asarray(open_image(tmp_path / "x.png"))
    assert np.array_equal(found, np.asarray(ImageOps.exif_transpose(lying)))


def test_hounsfield_units_below_zero_are_kept(tmp_path):
    values = np.rint(RAMP * 3000 - 1000).astype(np.int16)
    tifffile.imwrite(tmp_path / "x.tif", values)
    np.save(tmp_path / "x.npy", values)
    for name in ("x.tif", "x.npy"):
        assert np.abs(levels(tmp_path / name) / 255 - RAMP).max() < 0.51 / 255 + 1 / 3000
    window = levels(tmp_path / "x.npy", (-160, 240))
    assert (window[values <= -160] == 0).all()
    assert (window[values >= 240] == 255).all()
    assert window[(values > -100) & (values < 200)].min() > 0


@settings(max_examples=150, deadline=None)
@given(
    arrays.arrays(
        st.sampled_from([np.uint8, np.uint16, np.int16, np.int32, np.float32, np.float64, np.bool_]),
        arrays.array_shapes(min_dims=2, max_dims=2, max_side=5),
    )
)
def test_the_order_of_an_images_values_is_kept(values):
    finite = np.isfinite(values) if values.dtype.kind == "f" else np.ones_like(values, bool)
    if not finite.any():
        with pytest.raises(ValueError, match="finite"):
            to_unit(values)
        return
    shares = to_unit(values)
    assert ((shares >= 0) & (shares <= 1)).all()
    low, high = range_of(values)
    inside = finite & (values.astype(np.float64) >= low) & (values.astype(np.float64) <= high)
    order = np.argsort(values[inside], kind="stable")
    assert (np.diff(shares[inside][order]) >= 0).all()
    if values.dtype.kind in "iu" and values.dtype != np.uint8 and finite.any():
        largest = values.max()
        assert largest <= 255 or shares.max() > 0.24  # a quarter of the range at least: never nearly black


def test_a_range_that_holds_nothing_is_refused(folder):
    save_red(folder / "a.png")
    result = run("explain", "a.png", "--model", MODEL, "--device", "cpu", "--range", 5, 5)
    assert result.exit_code == 2
    assert "holds no numbers" in result.stderr


def test_the_range_reaches_the_model_in_every_command(folder):
    np.save(folder / "dark.npy", np.full((16, 16, 3), (40, 20, 0), np.uint8))
    for words in ([], ["--range", 0, 40]):
        result = run("explain", "dark.npy", "--model", MODEL, "--device", "cpu", "--out", "o", *words)
        assert result.exit_code == 0, result.output
    answer = json.loads((folder / "o/dark.pinet.json").read_text("utf-8"))["answer"]
    assert answer == pytest.approx(4 + 0.5)  # red is 1 now: four times its mean and the bias
    done = run("compare", "--images", "dark.npy", "--model", MODEL, "--device", "cpu", "--methods", "pinet",
               "--metrics", "tie_rate", "--format", "csv", "--out", "c", "--range", 0, 40)  # fmt: skip
    assert done.exit_code == 0, done.output
    assert json.loads((folder / "c/results.json").read_text("utf-8"))["provenance"]["settings"]["range"] == [0, 40]


# --- channels --------------------------------------------------------------------------------------


def twelve(folder):
    values = np.random.default_rng(0).random((12, 16, 16)).astype(np.float32)
    np.save(folder / "first.npy", values)
    np.save(folder / "last.npy", values.transpose(1, 2, 0))
    np.savez(folder / "one.npz", values)
    np.savez(folder / "named.npz", image=values, mask=np.ones(3))
    tifffile.imwrite(folder / "pages.tif", values)
    tifffile.imwrite(folder / "planes.tif", values, planarconfig="separate", photometric="minisblack")
    tifffile.imwrite(folder / "pixels.tif", values.transpose(1, 2, 0).copy(), planarconfig="contig")
    return values.transpose(1, 2, 0)


def test_twelve_channels_are_read_from_every_format(tmp_path):
    expected = twelve(tmp_path)
    for path in sorted(tmp_path.iterdir()):
        np.testing.assert_allclose(read_picture(path), expected, atol=1e-6, err_msg=path.name)
        with pytest.raises(ImageError, match=r"12 channels"):
            open_image(path)


def test_twelve_channels_are_explained_and_compared(folder):
    twelve(folder)
    done = run("explain", folder, "--model", "test_images_as_they_are:bands", "--device", "cpu", "--out", "o")
    assert done.exit_code == 0, done.output
    assert len(list((folder / "o").glob("*.png"))) == 7
    done = run("compare", "--images", "first.npy", "--model", "test_images_as_they_are:bands", "--device", "cpu",
               "--methods", "pinet,random", "--metrics", "tie_rate", "--out", "c")  # fmt: skip
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize(
    ("model", "misfit", "other"),
    [
        (MODEL, "first.npy", "z"),
        # the mean has too few channels, so that the picture is drawn with its values stretched
        ("test_images_as_they_are:bands_with_the_mean_of_rgb", "z.png", "first"),
    ],
)
def test_channels_that_do_not_fit_are_one_images_problem(folder, model, misfit, other):
    twelve(folder)
    save_red(folder / "z.png")
    done = run("explain", "first.npy", "z.png", "--model", model, "--device", "cpu", "--out", "o")
    assert done.exit_code == 1
    assert misfit in done.stderr
    assert "12 channels" in done.stderr
    assert "Traceback" not in done.output
    assert (folder / f"o/{other}.pinet.png").is_file()
    done = run("compare", "--images", "first.npy", "--images", "z.png", "--model", model, "--device", "cpu",
               "--methods", "pinet", "--metrics", "tie_rate", "--format", "csv", "--out", "c")  # fmt: skip
    assert done.exit_code == 1, done.output
    problems = json.loads((folder / "c/results.json").read_text("utf-8"))["problems"]
    assert any(misfit in one and "12 channels" in one for one in problems)


def test_mean_and_std_of_other_channels_are_named():
    with pytest.raises(ValueError, match="12 channels and the model's mean 3"):
        to_picture(torch.zeros(12, 4, 4), (0.5, 0.5, 0.5), (1.0,))


# --- bad files -------------------------------------------------------------------------------------


def bad_files(folder):
    folder.mkdir()
    (folder / "text.png").write_text("no image")
    (folder / "empty.jpg").write_bytes(b"")
    np.save(folder / "objects.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    np.save(folder / "four_axes.npy", np.zeros((2, 3, 4, 4)))
    np.save(folder / "nan.npy", np.full((4, 4), np.nan))
    np.save(folder / "complex.npy", np.zeros((4, 4), complex))
    np.savez(folder / "several.npz", a=np.zeros((4, 4)), b=np.zeros((4, 4)))
    (folder / "cut.tif").write_bytes(b"II*\x00\x08\x00\x00\x00\x01")
    (folder / "cut.npy").write_bytes(b"\x93NUMPY\x01\x00")
    return sorted(folder.iterdir())


def test_bad_files_are_named_and_the_others_are_done_and_shown(folder):
    bad = bad_files(folder / "bad")
    save_red(folder / "bad/zz good.png")
    done = run("explain", "bad", "--model", MODEL, "--device", "cpu", "--out", "o")
    assert done.exit_code == 1
    assert "zz good.png" in done.stdout  # the table
    for path in bad:
        assert path.name in done.stderr
    assert f"{len(bad)} of {len(bad) + 1} explanations failed" in done.stderr.replace("\n", " ")
    done = run("compare", "--images", "bad", "--model", MODEL, "--device", "cpu", "--methods", "pinet", "--metrics",
               "tie_rate", "--format", "csv", "--out", "c")  # fmt: skip
    assert done.exit_code == 1
    assert len(json.loads((folder / "c/results.json").read_text("utf-8"))["problems"]) == len(bad)


@pytest.mark.parametrize("path", ["text.png", "objects.npy", "cut.npy", "cut.tif", "complex.npy"])
def test_nothing_is_unpickled_and_what_is_damaged_is_named(folder, path):
    bad_files(folder / "bad")
    with pytest.raises(ImageError, match=path):
        open_image(folder / "bad" / path)


def test_what_was_done_is_shown_when_the_disk_is_full(folder, monkeypatch):
    from xai_align.cli import explain_files as module

    save_red(folder / "a.png")
    save_red(folder / "b.png")
    whole, written = module.write_whole, []

    def full(path, content):
        written.append(path)
        if len(written) > 1:
            raise OSError(28, "No space left on device", str(path))
        whole(path, content)

    monkeypatch.setattr(module, "write_whole", full)
    done = run("explain", "a.png", "b.png", "--model", MODEL, "--device", "cpu", "--out", "o")
    assert done.exit_code == 2
    assert "a.png" in done.stdout
    assert "No space left on device: 'o/b.pinet.png'" in done.stderr


# --- names -----------------------------------------------------------------------------------------


def test_names_of_any_bytes_are_explained_and_reported(folder):
    save_red(folder / "in" / BAD)
    (folder / "in" / os.fsdecode(b"bad\xfe.png")).write_text("no image")
    save_red(folder / "in/z.png")
    done = run("explain", "in", "--model", MODEL, "--device", "cpu", "--out", "o")
    assert done.exit_code == 1, done.output
    assert r"caf\xe9 \xff.png" in done.stdout
    assert "z.png" in done.stdout
    assert r"bad\xfe.png" in done.stderr
    about = json.loads((folder / "o/caf%E9 %FF.pinet.json").read_text("utf-8"))
    assert about["image"] == r"in/caf\xe9 \xff.png"


def test_names_of_any_bytes_are_compared(folder):
    save_red(folder / "in" / BAD)
    save_red(folder / "in" / os.fsdecode(b"same\xe9.png"))
    (folder / "in" / os.fsdecode(b"bad\xfe.png")).write_text("no image")
    Image.new("RGB", (16, 16), "lime").save(folder / "in/z.png")
    done = run("compare", "--images", "in", "--model", MODEL, "--device", "cpu", "--methods", "pinet,random",
               "--metrics", "tie_rate", "--out", "c", "--format", "csv")  # fmt: skip
    assert done.exit_code == 1, done.output
    found = json.loads((folder / "c/results.json").read_text("utf-8"))
    assert any(r"bad\xfe.png" in one for one in found["problems"])
    assert any("the same picture" in one for one in found["notes"])
    assert r"caf\xe9 \xff.png" in (folder / "c/values.csv").read_text("utf-8")
    assert r"caf\xe9" in (folder / "c/index.html").read_text("utf-8")
    again = run("compare", "--images", "in", "--model", MODEL, "--device", "cpu", "--methods", "pinet,random",
                "--metrics", "tie_rate", "--out", "c", "--format", "csv")  # fmt: skip
    assert again.exit_code == 1, again.output


def test_names_of_any_bytes_are_trained_on(folder):
    for number in range(4):
        noise = np.random.default_rng(number).integers(0, 200, (24, 24, 3), np.uint8)
        for path, channel in ((os.fsdecode(b"r\xe9d/%d\xff.png" % number), 0), (f"blue/{number}.png", 2)):
            noise[..., channel] = 250
            Image.fromarray(noise).save(save_red(folder / "p" / path))
    cut = folder / "p/blue" / os.fsdecode(b"cut\xfe.png")
    cut.write_text("no image")
    refused = run("fit-pinet", "p", "--backbone", "timm:test_resnet@random", "--device", "cpu", "--out", "out")
    assert refused.exit_code == 2
    assert r"cut\xfe.png: cannot be read as an image" in refused.stderr
    assert "Nothing was trained" in refused.stderr
    cut.unlink()
    done = run("fit-pinet", "p", "--backbone", "timm:test_resnet@random", "--device", "cpu", "--epochs", 1,
               "--batch-size", 4, "--examples", 2, "--head", "size=20", "--out", "out")  # fmt: skip
    assert done.exit_code == 0, done.output
    assert json.loads((folder / "out/classes.json").read_text("utf-8"))["classes"] == ["blue", r"r\xe9d"]
    assert len(list((folder / "out/examples").iterdir())) == 2
    # the folder that the fit wrote, and the one of the model in it
    for reference in ("pinet:out", "pinet:out/model"):
        done = run("explain", "p/blue/1.png", "--model", reference, "--device", "cpu", "--out", "o")
        assert done.exit_code == 0, done.output


@given(st.binary(min_size=1, max_size=12).filter(lambda name: b"/" not in name and b"\0" not in name))
def test_a_legible_name_can_be_printed_and_written(name):
    text = legible(os.fsdecode(name))
    assert text.encode("utf-8").decode("utf-8") == text
    assert text.isprintable()


# --- which files are meant -------------------------------------------------------------------------


def test_folders_are_searched_below(folder):
    for name in ("in/a.png", "in/x/b.png", "in/x/y/c.png"):
        save_red(folder / name)

    def names(*given, **options):
        return [path.name for path in expand_paths(given, **options)]

    assert names("in") == ["a.png"]
    assert names("in", recursive=True) == ["a.png", "b.png", "c.png"]
    assert names("in/**/*.png") == names("in/**") == ["a.png", "b.png", "c.png"]
    assert names("in/*", recursive=True) == ["a.png", "b.png", "c.png"]
    assert names("i?/x", recursive=True) == ["b.png", "c.png"]
    for command in (["explain", "in"], ["compare", "--images", "in", "--methods", "pinet", "--metrics", "tie_rate"]):
        out = command[0]
        done = run(*command, "--model", MODEL, "--device", "cpu", "--recursive", "--out", out)
        assert done.exit_code == 0, done.output
    assert len(list((folder / "explain").glob("*.png"))) == 3


@pytest.mark.parametrize(
    "command", [("explain",), ("compare", "--methods", "pinet", "--metrics", "tie_rate", "--images")]
)
@pytest.mark.parametrize(
    ("images", "out", "refused"),
    [
        (["ph"], "ph", True),
        (["ph"], "there/../ph/", True),
        (["ph", "--recursive"], "ph/o", True),
        ([".", "--recursive"], "o", True),
        (["ph/*"], "ph", True),
        (["ph/**/*.png"], "ph", True),
        (["ph"], "ph/o", False),
        (["ph"], ".", False),
        (["ph/a.png"], "ph", False),
        (["ph/*.jpg"], "ph", False),
        (["ph/*a.png"], "ph", False),
        (["ph/in", "--recursive"], "ph", False),
        (["ph/in"], "ph", False),
    ],
)
def test_results_are_not_written_among_the_images(folder, command, images, out, refused):
    (folder / "there").mkdir()
    for name in ("a.png", "b.jpg", "in/c.png"):
        save_red(folder / "ph" / name)
    words = (*command, *images, "--model", MODEL, "--device", "cpu", "--out", out)
    before = sorted(folder.rglob("*"))
    done = run(*words)
    if refused:
        assert done.exit_code == 2, done.output
        assert "the next run would take its pictures for images; give a folder beside it" in done.stderr
        assert sorted(folder.rglob("*")) == before
    else:
        assert done.exit_code == 0, done.output
        found = expand_paths(images[:1], recursive="--recursive" in images)
        assert set(found) <= {folder.joinpath(one).relative_to(folder) for one in before}


@pytest.mark.parametrize("images", ["ph/pictures", "ph/pictures/*.png", "ph/pictures/*"])
def test_pictures_of_a_comparison_are_not_written_among_the_images(folder, images):
    save_red(folder / "ph/pictures/a.png")
    words = ("--model", MODEL, "--device", "cpu", "--methods", "pinet", "--metrics", "tie_rate")
    done = run("compare", "--images", images, *words, "--out", "ph")
    assert done.exit_code == 2, done.output
    assert "pictures of --out are in 'ph/pictures', which is in the image folder 'ph/pictures'" in done.stderr
    assert sorted(folder.glob("ph/**/*")) == [folder / "ph/pictures", folder / "ph/pictures/a.png"]
    assert run("compare", "--images", images, *words, "--out", "o").exit_code == 0


def test_brackets_in_names_that_exist_are_no_pattern(folder):
    save_red(folder / "run[1]/a[2].png")
    save_red(folder / "run[1]/b.png")
    save_red(folder / "run1/other.png")
    assert [path.name for path in expand_paths(["run[1]"])] == ["a[2].png", "b.png"]
    assert [path.name for path in expand_paths(["run[1]/a[2].png"])] == ["a[2].png"]
    assert [path.name for path in expand_paths(["run[1]/*.png"])] == ["a[2].png", "b.png"]
    assert [path.name for path in expand_paths([folder / "run[1]/[ab]*.png"])] == ["a[2].png", "b.png"]
    assert [path.name for path in expand_paths(["run[12]/*.png"])] == ["other.png"]  # does not exist: a pattern


def test_links_that_form_loops_end_and_each_file_is_found_once(tmp_path, monkeypatch):
    deep = tmp_path / "photos" / "a" / "b"
    deep.mkdir(parents=True)
    for number, place in enumerate((tmp_path / "photos", deep)):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(place / f"{number}.png")
    (tmp_path / "photos" / "a" / "up").symlink_to("..")
    (deep / "itself").symlink_to(".")
    (deep / "again.png").symlink_to(deep / "1.png")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "photos").symlink_to(tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    both = ["0.png", "1.png"]
    for written, recursive in (
        (["photos"], True),
        (["photos/**/*.png"], False),
        (["**/*.png"], False),
        ([f"{tmp_path}/**"], False),
        (["*"], True),
        (["other"], True),
        (["photos", "other/**/*.png", "photos/a/../0.png", "photos/0.png", str(deep / "again.png")], True),
    ):
        found = expand_paths(written, recursive=recursive)
        assert sorted(path.resolve().name for path in found) == both, written
    (tmp_path / "photos" / ".cache").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "photos" / ".cache" / "2.png")
    assert len(expand_paths(["photos/**/*.png"])) == 2  # as glob does, hidden folders are left out
    result = CliRunner().invoke(app, ["explain", "photos/**/*.png", "--model", MODEL, "--out", "out"])
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in (tmp_path / "out").glob("*.png")) == ["0.pinet.png", "1.pinet.png"]
