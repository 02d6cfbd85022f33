"""Which files are meant, and what becomes of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from xai_align.data.images import ImageError, distinct_stems, expand_paths, open_image, read_mask, to_picture
from xai_align.data.photographs import FOLDER, PHOTOGRAPHS


def touch(folder, *names):
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"")


def test_folders_and_patterns_give_their_images_sorted_and_once(tmp_path):
    touch(tmp_path, "b.PNG", "a.jpg", "notes.txt", "odd")
    touch(tmp_path / "deeper", "c.png")

    def names(*given):
        return [path.name for path in expand_paths(given)]

    assert names(tmp_path) == ["a.jpg", "b.PNG"]
    assert names(tmp_path / "*") == ["a.jpg", "b.PNG"]
    assert names(tmp_path / "**" / "*.png") == ["c.png"]
    assert names(tmp_path / "b.PNG", tmp_path) == ["b.PNG", "a.jpg"]
    assert names(tmp_path / "odd") == ["odd"]  # named, so meant


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(tmp_path):
    touch(tmp_path, "a[1].png", "a1.png")
    assert expand_paths([tmp_path / "a[1].png"]) == [tmp_path / "a[1].png"]


@pytest.mark.parametrize("given", ["nowhere.png", "empty", "empty/*.png"])
def test_what_is_not_there_is_told_by_name(tmp_path, monkeypatch, given):
    monkeypatch.chdir(tmp_path)
    touch(tmp_path / "empty", "notes.txt")
    with pytest.raises(ValueError, match=given.replace("*", r"\*")):
        expand_paths([given])


def test_no_path_at_all_is_an_error():
    with pytest.raises(ValueError, match="no image was given"):
        expand_paths([])


def test_results_of_files_with_one_name_do_not_overwrite_each_other(tmp_path):
    paths = [tmp_path / one for one in ("x/a.png", "y/A.jpg", "z/a-2.png", "a.bmp")]
    assert distinct_stems(paths) == ["a", "A-2", "a-2-2", "a-3"]


def test_damaged_images_are_named(tmp_path):
    text = tmp_path / "text.png"
    text.write_text("no image")
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(PHOTOGRAPHS[0].path.read_bytes()[:5000])
    for path in (text, cut, tmp_path / "missing.png"):
        with pytest.raises(ImageError, match=path.name):
            open_image(path)


def test_images_come_upright_in_rgb_on_white(tmp_path):
    turned = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter
    Image.new("RGB", (20, 10), "red").save(turned, exif=exif)
    assert open_image(turned).size == (10, 20)

    clear = tmp_path / "clear.png"
    Image.new("RGBA", (2, 2), (255, 0, 0, 0)).save(clear)
    assert open_image(clear).getpixel((0, 0)) == (255, 255, 255)

    deep = tmp_path / "deep.png"
    Image.fromarray(np.array([[0, 32768, 65535]], dtype=np.uint16)).save(deep)
    assert [open_image(deep).getpixel((x, 0))[0] for x in range(3)] == [0, 128, 255]

    grey = tmp_path / "grey.png"
    Image.new("L", (2, 2), 7).save(grey)
    assert open_image(grey).getpixel((1, 1)) == (7, 7, 7)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P", "PA", "1"])
def test_what_is_black_or_transparent_is_outside_a_mask(tmp_path, mode):
    drawn = np.zeros((16, 16, 4), np.uint8)
    drawn[2:6, 3:7] = 255
    with_alpha = Image.fromarray(drawn)
    plain = Image.fromarray(drawn[..., :3])
    mask = with_alpha.convert(mode) if mode in ("LA", "RGBA") else plain.convert(mode.rstrip("A"))
    if mode == "PA":  # saved as a palette with a transparent colour, here that of the outside
        mask.info["transparency"] = mask.getpixel((0, 0))
    mask.save(tmp_path / "mask.png")
    inside = read_mask(tmp_path / "mask.png")
    assert (inside.dtype, inside.sum()) == (bool, 16)
    assert inside[2:6, 3:7].all()


def test_pixels_of_a_mask_by_colour_and_opacity(tmp_path):
    pixels = [(0, 0, 0, 0), (255, 255, 255, 0), (0, 0, 0, 255), (0, 0, 0, 9), (0, 1, 0, 9), (1, 0, 0, 255)]
    Image.fromarray(np.array([pixels], np.uint8)).save(tmp_path / "mask.png")
    assert read_mask(tmp_path / "mask.png")[0].tolist() == [False, False, False, False, True, True]


def test_a_tensor_becomes_the_picture_that_it_was_made_from():
    picture = torch.rand(3, 4, 5, dtype=torch.float64)
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    x = (picture - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    np.testing.assert_allclose(to_picture(x, mean, std), picture.permute(1, 2, 0), atol=1e-6)
    assert to_picture(torch.full((1, 2, 2), 9.0), (0.0,), (1.0,)).tolist() == np.ones((2, 2, 3)).tolist()


def test_the_shipped_photographs_are_small_and_their_licences_are_stated():
    files = sorted(FOLDER.glob("*.jpg"))
    assert files == sorted(photograph.path for photograph in PHOTOGRAPHS)
    assert sum(file.stat().st_size for file in files) < 300_000
    stated = (FOLDER / "LICENCES.md").read_text("utf-8")
    for file in files:
        assert min(open_image(file).size) <= 320
        assert f"`{file.name}`" in stated


def test_a_file_of_no_format_is_named_once(tmp_path):
    (tmp_path / "a.jpg").write_text("no image")
    with pytest.raises(ImageError, match=r"a\.jpg: cannot be read as an image \(cannot identify its format\)$"):
        open_image(tmp_path / "a.jpg")


def test_large_scans_are_read_in_silence_and_larger_ones_are_refused_in_plain_words(tmp_path, monkeypatch, recwarn):
    Image.new("L", (10, 10)).save(tmp_path / "scan.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 60)  # Pillow warns above it, and refuses above twice as much
    assert open_image(tmp_path / "scan.png").size == (10, 10)
    assert not recwarn.list
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)
    with pytest.raises(ImageError, match=r"scan\.png: .*\(it has more than 80 pixels; make it smaller\)$"):
        open_image(tmp_path / "scan.png")
