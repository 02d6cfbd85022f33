"""The page: what it stores, what it adds up, what it weighs, and what names can't do to it."""

from __future__ import annotations

import base64
import dataclasses
import errno
import json
import os
import re
from hashlib import sha256
from html import unescape
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

from benchmarks.shared.made_pages import QUESTIONS, coarse_record, many, noise, picture, record, section
from xai_align.report.page import bars, render_page, write_page
from xai_align.report.page_answer import answer_json, answer_of, read_answer
from xai_align.report.stored_map import MOST_CELLS, stored_map
from xai_align.report.sum_terms import PLACES, sum_terms

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\u2028\"'&{{ 7 * 7 }}\x1b[31m"


class Tags(HTMLParser):
    """The attributes of all elements."""

    def __init__(self, html):
        super().__init__()
        self.attributes = []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.attributes.append(dict(attributes))


def restored(stored):
    """The values of a stored map, decoded here by what its file format says."""
    bytes_ = np.frombuffer(base64.b64decode(stored.data), np.uint8).astype(float)
    return np.where(bytes_ == 0, np.nan, (bytes_ - 128) / 127 * stored.scale).reshape(stored.rows, stored.columns)


# --- maps ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(224, 224), (112, 112), (4, 4), (1, 1), (225, 300), (64, 500)])
@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_a_stored_value_is_within_its_tolerance(shape, size):
    values = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * size
    stored = stored_map(values, signed=True)
    assert max(stored.rows, stored.columns) <= MOST_CELLS
    rows, columns = round(stored.height * shape[0]), round(stored.width * shape[1])
    padded = np.zeros((stored.rows * rows, stored.columns * columns))
    padded[: shape[0], : shape[1]] = values
    cells = padded.reshape(stored.rows, rows, stored.columns, columns).sum((1, 3))
    assert np.abs(restored(stored) - cells).max() <= stored.tolerance * (1 + 1e-9)
    assert stored.scale == pytest.approx(np.abs(cells).max())


def test_a_coarse_map_is_stored_in_its_own_size():
    cells = torch.randn(7, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    spread = cells.repeat_interleave(32, 0).repeat_interleave(32, 1) / 32**2
    for stored in (stored_map(spread, signed=True), stored_map(spread, signed=True, cells=cells)):
        assert (stored.rows, stored.columns) == (7, 5)
        assert (stored.height, stored.width) == pytest.approx((1 / 7, 1 / 5))
        np.testing.assert_allclose(restored(stored), cells, atol=stored.tolerance * 1.0001)
    assert len(stored.data) == 48  # 35 bytes


def test_cells_without_a_value_are_stored_as_such():
    values = torch.tensor([[1.0, float("nan")], [float("inf"), -2.0]])
    np.testing.assert_allclose(restored(stored_map(values, signed=True)), [[1, np.nan], [np.nan, -2]], atol=0.01)
    assert np.all(restored(stored_map(torch.zeros(3, 3), signed=True)) == 0)


def test_the_ends_of_the_colour_scale_are_those_of_the_picture_files():
    from xai_align.data.overlay import density, limit_of

    values = noise(0)
    stored = stored_map(values, signed=True)
    # a density is per hundredth of the picture; a cell is (2 / 224) ** 2 of it
    assert stored.high == -stored.low == pytest.approx(limit_of(density(values, (224, 224))) * 100 * (2 / 224) ** 2)


# --- sums ------------------------------------------------------------------------------------------


def test_the_terms_are_the_sums_of_the_map_over_the_regions():
    values = torch.tensor(
        [
            [1.0, 1.0, 0.5, 0.0, -1.0, 0.0],
            [1.0, 2.0, 0.5, 0.0, 0.0, 0.0],
            [0.0, 0.0, 4.0, 0.0, 0.0, 0.0],
            [0.0, 0.0, 0.0, 0.0, 0.0, 2.0],
            [0.0, -3.0, 0.0, 0.0, 0.0, 0.0],
            [0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
        ]
    )
    terms = sum_terms(record(values, bias=0.5, prefix=0.25, contributions=8.25, around=-0.125, answer=8.625))
    assert [(one.kind, one.text, pytest.approx(one.value)) for one in terms] == [
        ("region", "top left", 5),
        ("region", "middle", 4),
        ("region", "right", 2),
        ("rest", "other regions in favour", 1),
        ("against", "all regions against", -4),
        ("apart", "tokens without a position", 0.25),
        ("apart", "evidence that bypasses the layer", -0.125),
        ("bias", "bias", 0.5),
    ]
    assert terms[0].box == (0, 0, pytest.approx(1 / 3), pytest.approx(1 / 3))
    assert [one.share for one in terms[:4]] == pytest.approx([5 / 12, 4 / 12, 2 / 12, 1 / 12])


@pytest.mark.parametrize("shape", [(224, 224), (7, 7), (2, 5), (1, 1)])
def test_the_terms_add_up_to_the_answer(shape):
    values = torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    for one in (record(values, bias=-0.75), record(values)):
        assert sum(term.value for term in sum_terms(one)) == pytest.approx(one.answer, abs=1e-9)
    assert sum_terms(record(values))[-1].kind == "gap"
    assert sum_terms(record(values, cells=values * 1, bias=1.0))[-1].value == 1.0


def test_what_does_not_add_up_has_no_terms():
    assert sum_terms(record(torch.rand(6, 6), values="scores")) == ()
    assert sum_terms(record(torch.rand(6, 6), values="slopes")) == ()
    assert sum_terms(record(torch.full((6, 6), float("nan")))) == ()
    assert len({name for row in PLACES for name in row}) == 9


def test_the_bars_join_and_end_at_the_answer():
    answer = answer_of(record(torch.randn(9, 9, generator=torch.Generator().manual_seed(4)), bias=-2.0))
    *terms, total = bars(answer)
    at, scale = 0.0, None
    zero = next(iter(terms)).left if answer.terms[0].value > 0 else None
    for bar, term in zip(terms, answer.terms, strict=True):
        scale = scale or bar.width / abs(term.value)
        assert bar.width == pytest.approx(abs(term.value) * scale)
        assert bar.left == pytest.approx(zero + min(at, at + term.value) * scale)
        at += term.value
    assert at == pytest.approx(answer.answer, abs=1e-6)
    assert min(one.left for one in terms) >= 0
    assert max(one.left + one.width for one in [*terms, total]) == pytest.approx(100)


# --- files -----------------------------------------------------------------------------------------


def test_an_answer_is_read_as_it_was_written(tmp_path):
    ranked = record(noise(1), values="scores", signed=False)
    for one in (coarse_record(torch.randn(7, 7), bias=0.5), record(noise(1)), ranked):
        answer = answer_of(one)
        (tmp_path / "a.json").write_text(answer_json(answer), "utf-8")
        assert read_answer(tmp_path / "a.json") == answer


@pytest.mark.parametrize(
    "change",
    [
        {"map": {"rows": 8}},
        {"map": {"data": "<script>"}},
        {"map": {"scale": "1"}},
        {"keys": [{"colour": "red;background:url(x)", "text": "a"}]},
        {"terms": [1]},
        {"answer": "1.0"},
        {"more": 1},
    ],
)
def test_a_damaged_answer_is_left_out(tmp_path, change):
    content = json.loads(answer_json(answer_of(coarse_record(torch.randn(7, 7), bias=0.5))))
    for name, value in change.items():
        content[name] = content[name] | value if isinstance(value, dict) else value
    (tmp_path / "a.json").write_text(json.dumps(content), "utf-8")
    assert read_answer(tmp_path / "a.json") is None
    assert read_answer(tmp_path / "missing.json") is None


def test_on_a_full_disk_the_old_page_stays(tmp_path, monkeypatch):
    path = tmp_path / "index.html"
    write_page(path, [section()], title="old")
    before = path.read_bytes()

    def full(fd):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*index\.html'"):
        write_page(path, [section()], title="new")
    assert path.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == ["index.html"]


# --- the page --------------------------------------------------------------------------------------


def test_the_page_needs_nothing_from_elsewhere():
    html = render_page([section()], title="Why?", lead=["Because."])
    assert all(source.startswith("data:image/jpeg;base64,") for source in re.findall(r'src="([^"]*)"', html))
    assert not re.search(r"https?://|url\(|<link|@import|srcset|fetch\(", html)
    assert 'name="viewport"' in html
    assert "prefers-color-scheme: dark" in html


def test_its_policy_allows_its_own_scripts_only():
    html = render_page([section()], title="Why?")
    scripts = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    (allowed,) = re.findall(r"script-src ([^;]*);", unescape(html))
    assert sorted(allowed.split()) == sorted(
        f"'sha256-{base64.b64encode(sha256(one.encode()).digest()).decode()}'" for one in scripts
    )
    assert "default-src 'none'" in html
    assert len(re.findall("<script", html)) == len(scripts) + 1  # and the data


def test_no_name_is_markup_or_ends_the_data():
    one = record(noise(0), bias=0.5, method=HOSTILE, question=HOSTILE, class_name=HOSTILE, note=HOSTILE, layer=HOSTILE)
    made = section(records=[one], title=HOSTILE)
    shown = dataclasses.replace(made.questions[0].shown[0], label=HOSTILE, file=f"{HOSTILE}.png", role="")
    asked = dataclasses.replace(made.questions[0], text=HOSTILE, kind=HOSTILE, shown=[shown])
    made = dataclasses.replace(made, questions=[asked], predictions=[(HOSTILE, 0.5, 1.0)], credit=HOSTILE)
    html = render_page([made], [one], title=HOSTILE, lead=[HOSTILE])
    assert len(re.findall("<script", html)) == html.count("</script") == 3
    tags = Tags(html)
    assert not any(name.startswith("on") for attributes in tags.attributes for name in attributes)
    assert all(one["src"].startswith("data:image/jpeg") for one in tags.attributes if "src" in one)
    assert "{{ 7 * 7 }}" in unescape(html)
    data = json.loads(re.search(r'id="maps">(.*?)</script>', html, re.DOTALL)[1])
    assert len(data["maps"]) == 1
    assert not set("<>&\u2028") & set(re.search(r'id="maps">(.*?)</script>', html, re.DOTALL)[1])


def test_pictures_and_numbers_are_there_without_scripts():
    one, fine = coarse_record(torch.full((7, 7), 0.1), bias=0.25), record(noise(1))
    html = render_page([section(records=[one, fine], title="Half & half")], [one, fine], title="Why?")
    body = unescape(re.sub(r"<script.*?</script>", "", html[html.index("<body>") :], flags=re.DOTALL))
    assert "5.150 = 4.900 (picture) + 0.250 (bias)" in body
    assert len(re.findall(r"<img [^>]*data:image/jpeg", body)) == 3
    for words in ("Half & half", "66.5 %", QUESTIONS[0], "pinet at conv", "local: removing a position"):
        assert words in body
    assert body.count("<td") == 2 * 9


def test_the_first_sentence_says_what_the_colours_and_numbers_are():
    exact = render_page([section(records=[record(noise(0), bias=1.0)])], title="Why?")
    assert "Red is evidence for the answer, blue against it. The numbers are logits" in exact
    assert "add up to the prediction" not in render_page([section(records=[record(noise(0))])], title="Why?")


def test_the_demos_page_weighs_a_megabyte_at_most():
    """Four photographs, two questions, four maps, of which two have a value for each pixel."""
    records = [
        one
        for question in QUESTIONS
        for one in (
            coarse_record(torch.randn(7, 7), bias=0.5, question=question),
            record(noise(1), bias=0.5, question=question),
            coarse_record(torch.randn(7, 7), question=question, method="layer_grad_cam"),
            record(noise(2), question=question, method="integrated_gradients"),
        )
    ]
    made = [section(number, records, f"Photograph {number}") for number in range(4)]
    html = render_page(made, records * 4, title="Why?")
    assert len(html.encode()) < 1e6


def test_sixty_four_photographs_by_six_methods_weigh_fifteen_megabytes_at_most():
    sections, records = many()
    html = render_page(sections, records * 64, title="Why?")
    assert 5e6 < len(html.encode()) < 15e6


def test_photographs_are_no_larger_than_the_models_picture():
    from xai_align.report.thumbnail import photograph_of, thumbnail_of

    assert photograph_of(picture(0, 96)).width == 96
    assert photograph_of(picture(0, 600)).width == 448
    assert thumbnail_of(picture(0, 600)).width == 144
    assert thumbnail_of(np.full((2, 3, 3), np.nan)).height == 2
