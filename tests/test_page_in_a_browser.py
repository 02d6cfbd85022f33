"""The page in a real browser: drawn, read, switched and faded, by pointer and keys, in every colour and width."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
import torch
from comparison_factory import comparison, pictures
from test_page import HOSTILE

from benchmarks.shared.browser import CHROMIUM, Browser
from benchmarks.shared.made_pages import coarse_record, many, noise, record, section
from xai_align.data.overlay import FOR, STRONGEST
from xai_align.report.comparison_page import write_comparison_page
from xai_align.report.page import render_page
from xai_align.report.page_answer import answer_json, answer_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="pages run in a browser; there is no Chromium here"),
]
CELLS = torch.arange(-24.0, 25.0, dtype=torch.float64).reshape(7, 7) / 10
STAGE = "#photograph-1 .stage"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


def saved(html, folder):
    (folder / "index.html").write_text(html, "utf-8")
    return (folder / "index.html").as_uri()


def ordinary(number=0):
    """A photograph with two questions, a coarse and a fine map, and one without a sign."""
    records = [
        one
        for question in ("Why tabby?", "Why tabby and not lynx?")
        for one in (
            coarse_record(CELLS if question == "Why tabby?" else -CELLS, bias=0.25, question=question),
            record(noise(number), bias=-0.5, question=question),
            record(noise(number + 2).abs(), method="fei", question=question, values="scores", signed=False),
        )
    ]
    return section(number, records, f"Photograph {number}"), records


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    made = [ordinary(number) for number in range(3)]
    records = [one for _, several in made for one in several]
    html = render_page([one for one, _ in made], records, title="Why?")
    return saved(html, tmp_path_factory.mktemp("page"))


def value(told):
    return float(re.match(r"[+−]?[\d.]+(e−?\d+)?", told)[0].replace("−", "-"))


@pytest.mark.parametrize(("row", "column"), [(0, 0), (3, 3), (6, 6), (2, 5)])
def test_the_value_under_the_pointer_is_the_cells(browser, address, row, column):
    tab = browser.open(address)
    tab.point(STAGE, (column + 0.5) / 7, (row + 0.4) / 7)
    told = tab.text(f"{STAGE} ~ .reading .told")
    assert value(told) == pytest.approx(float(CELLS[row, column]), abs=2.4 / 254 * 1.1)
    assert f"row {row + 1} of 7, column {column + 1} of 7" in told
    meaning = {1: "logits: supports the answer", -1: "logits: opposes it", 0: "logits;"}
    assert meaning[int(torch.sign(CELLS[row, column]))] in told
    assert tab.errors == []


def test_a_fine_maps_values_are_sums_over_its_cells(browser, address):
    tab = browser.open(address)
    tab.click("#photograph-1 .question:not([hidden]) .card:nth-child(2) input")
    tab.point(STAGE, 60.5 / 112, 20.5 / 112)
    told = tab.text(f"{STAGE} ~ .reading .told")
    cells = noise(0).reshape(112, 2, 112, 2).sum((1, 3))
    assert value(told) == pytest.approx(float(cells[20, 60]), abs=float(cells.abs().max()) / 254 * 1.1)
    assert "row 21 of 112, column 61 of 112" in told


@pytest.mark.parametrize("size", [1e-9, 1e-3, 1.0, 12345.0, 1e9])
def test_values_of_any_size_are_read(browser, tmp_path, size):
    tab = browser.open(
        saved(render_page([section(records=[coarse_record(CELLS * size, bias=0.0)])], title="a"), tmp_path)
    )
    for row, column in ((0, 1), (3, 3), (6, 5)):
        tab.point(STAGE, (column + 0.5) / 7, (row + 0.5) / 7)
        shown = value(tab.text("#photograph-1 .told"))
        assert shown == pytest.approx(float(CELLS[row, column]) * size, abs=2.4 * size / 254 * 1.1)


def test_arrow_keys_read_the_map_and_are_spoken(browser, address):
    tab = browser.open(address)
    tab.run(f"document.querySelector('{STAGE}').focus()")
    tab.press("ArrowRight")  # shows the cursor in the middle
    tab.press("ArrowRight")
    tab.press("ArrowUp")
    spoken = tab.text("#photograph-1 .live")
    assert "row 3 of 7, column 5 of 7" in spoken
    assert value(spoken) == pytest.approx(float(CELLS[2, 4]), abs=0.011)
    tab.press("ArrowLeft", shift=True)
    assert "row 3 of 7, column 1 of 7" in tab.text("#photograph-1 .live")
    about = tab.run(f"const one = document.querySelector('{STAGE}'); return [one.role, one.ariaLabel, one.tabIndex]")
    assert about[0] == "application"
    assert about[1].startswith("pinet at conv: Why tabby?")
    assert about[2] == 0


def test_the_slider_fades_the_map_over_the_photograph(browser, address):
    tab = browser.open(address)

    def slide(to):
        return tab.run(
            f"const one = document.querySelector('#photograph-1 .mix input'); one.value = {to};"
            "one.dispatchEvent(new Event('input', { bubbles: true }));"
            "return getComputedStyle(document.querySelector('#photograph-1 .veil')).opacity"
        )

    assert [slide(0), slide(40), slide(100)] == ["0", "0.4", "1"]


def test_the_map_is_drawn_in_the_colours_of_the_picture_files(browser, address):
    tab = browser.open(address)
    drawn = tab.run(
        "const one = document.querySelector('#photograph-1 canvas');"
        "const at = (row, column) => [...one.getContext('2d').getImageData((column + 0.5) / 7 * one.width,"
        "(row + 0.5) / 7 * one.height, 1, 1).data]; return [at(6, 6), at(3, 3), at(0, 0)]"
    )
    strongest, zero, against = drawn
    np.testing.assert_allclose(strongest[:3], 255 * FOR[-1], atol=8)
    assert strongest[3] == pytest.approx(255 * STRONGEST, abs=8)
    assert zero[3] < 20
    assert against[2] > against[0] + 60


def test_method_and_question_are_switched(browser, address):
    tab = browser.open(address)
    shown = (
        "return [...document.querySelectorAll('#photograph-1 .answer')].filter((one) => one.checkVisibility())"
        ".map((one) => one.dataset.alt.split('?')[0])"
    )
    assert tab.run(shown) == ["pinet at conv: Why tabby"]
    tab.click("#photograph-1 .question:not([hidden]) .card:nth-child(3) input")
    assert tab.run(shown) == ["fei: Why tabby"]
    tab.click("#photograph-1 .switch label:nth-of-type(2) input")
    assert tab.run(shown) == ["fei: Why tabby and not lynx"]
    tab.click("#photograph-1 .question:not([hidden]) .card:nth-child(1) input")
    tab.point(STAGE, 0.95, 0.95)
    assert value(tab.text("#photograph-1 .told")) == pytest.approx(-2.4, abs=0.011)
    assert tab.errors == []


def test_a_choice_for_all_photographs_reaches_those_that_come_later(browser, address):
    tab = browser.open(address, height=500)
    found = tab.run(
        "const { method, kind, mix } = document.querySelector('.every').elements;"
        "for (const [one, value] of [[kind, kind.options[1].value], [method, 'fei'], [mix, 30]]) {"
        "  one.value = value; one.dispatchEvent(new Event('input', { bubbles: true })); }"
        "document.querySelector('#photograph-3').scrollIntoView();"
        "for (let i = 0; i < 20; i++) await new Promise((done) => requestAnimationFrame(done));"
        "return [1, 3].map((number) => { const one = document.querySelector(`#photograph-${number}`);"
        "  return [one.querySelector('.stage').ariaLabel, one.querySelector('.veil').style.opacity]; })"
    )
    for label, opacity in found:
        assert label.startswith("fei: Why tabby and not lynx?")
        assert opacity == "0.3"


def test_a_region_of_the_sum_is_marked_on_the_picture(browser, address):
    tab = browser.open(address)
    tab.run("document.querySelector('#photograph-1 [data-box]').focus()")
    box = tab.run(
        "const { left, top, width, height } = document.querySelector('#photograph-1 .region').style;"
        "return [left, top, width, height].map(parseFloat)"
    )
    assert box[2:] == pytest.approx([100 / 3, 100 / 3], abs=0.01)
    assert box[1] == pytest.approx(200 / 3, abs=0.01)  # the values grow downwards


@pytest.mark.parametrize("width", [390, 320, 1280])
@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_the_screen_in_either_colours(browser, address, width, dark):
    tab = browser.open(address, width=width, height=800, dark=dark)
    wide, ground, ink = tab.run(
        "const style = getComputedStyle(document.body);"
        "return [document.documentElement.scrollWidth, style.backgroundColor, style.color]"
    )
    assert wide <= width
    bright = [sum(map(int, re.findall(r"\d+", one)[:3])) for one in (ground, ink)]
    assert (bright[0] < bright[1]) == dark
    tab.click(".theme")
    turned = tab.run("return getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", turned)[:3])) > 384) == dark
    assert tab.errors == []


def test_without_scripts_all_pictures_and_numbers_are_seen(browser, address):
    tab = browser.open(address, scripts=False)
    seen = tab.run(
        "const shown = (selector) => [...document.querySelectorAll(selector)].filter((one) => one.checkVisibility());"
        "return [shown('.answer .sum').length, shown('.card img').length, shown('.photograph').length,"
        "shown('.scripted').length, shown('.bars').length]"
    )
    assert seen == [18, 18, 3, 0, 12]


def test_names_run_no_script(browser, tmp_path):
    one = record(noise(0), bias=0.5, method=HOSTILE, question=HOSTILE, note=HOSTILE, layer=HOSTILE)
    html = render_page([section(records=[one], title=HOSTILE)], [one], title=HOSTILE)
    tab = browser.open(saved(html, tmp_path))
    assert tab.run("return document.title").startswith("</script><script>alert(1)")
    assert tab.run("return document.querySelectorAll('img[src=x]').length") == 0
    assert tab.errors == []


def test_nothing_but_its_own_scripts_runs(browser, tmp_path):
    html = render_page([section()], title="Why?").replace("</main>", "</main><script>window.ran = true</script>")
    tab = browser.open(saved(html, tmp_path))
    assert tab.run("return window.ran === undefined")
    assert any("Content Security Policy" in one for one in tab.errors)


def test_a_comparison_shows_values_where_they_are_stored_and_pictures_elsewhere(browser, tmp_path):
    made = pictures(tmp_path, methods=("pinet", "lime"), questions=("why",))
    answer = answer_of(coarse_record(CELLS, bias=0.25))
    (tmp_path / made[1].file).with_suffix(".json").write_text(answer_json(answer), "utf-8")
    path = write_comparison_page(comparison(pictures=made), tmp_path)
    tab = browser.open(path.as_uri())
    tab.point(STAGE, 0.95, 0.95)
    assert value(tab.text("#photograph-1 .told")) == pytest.approx(2.4, abs=0.011)
    tab.click("#photograph-1 .card:nth-child(3) input")
    tab.point(STAGE, 0.95, 0.95)
    assert tab.text("#photograph-1 .told") == "Only a picture of this map is stored."
    still = tab.run("return document.querySelector('#photograph-1 .veil img:not(.grey)').checkVisibility()")
    assert still
    tab.click("#photograph-1 .card:nth-child(2) input")  # this method has no picture at all
    assert tab.errors == []


def test_a_long_page_is_usable_at_once(browser, tmp_path):
    """64 photographs by 6 fine maps: loaded and the first map drawn in 2 s; three times that for a busy machine."""
    sections, records = many()
    tab = browser.open(saved(render_page(sections, records, title="Why?"), tmp_path))
    tab.point(STAGE, 0.5, 0.5)
    assert "row 57 of 112" in tab.text("#photograph-1 .told")
    ready = tab.run("return document.querySelectorAll('.viewer.ready').length")
    assert 1 <= ready < 10
    assert tab.seconds < 6
    print(f"loaded in {tab.seconds:.2f} s")
    tab.run("document.querySelector('#photograph-60').scrollIntoView()")
    tab.frames(30)
    assert tab.run("return document.querySelector('#photograph-60').classList.contains('ready')")
    assert tab.errors == []


def test_an_empty_section_and_a_tiny_photograph_are_no_error(browser, tmp_path):
    empty = dataclasses.replace(section(), questions=(), photograph=None)
    tiny = section(records=[record(torch.randn(4, 4), bias=0.5)], side=4)
    nothing = section(records=[record(torch.full((8, 8), float("nan")))], side=8)
    tab = browser.open(saved(render_page([empty, tiny, nothing], title="Why?"), tmp_path))
    tab.point("#photograph-3 .stage", 0.5, 0.5)
    assert "no value" in tab.text("#photograph-3 .told")
    assert tab.errors == []
