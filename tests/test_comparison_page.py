"""The comparison page says what the record says, holds all it needs, and prints no name as markup."""

from __future__ import annotations

import base64
import dataclasses
import re
from html import unescape
from html.parser import HTMLParser
from io import BytesIO, StringIO
from itertools import pairwise
from math import nan

import pytest
from comparison_factory import METHODS, NUMBERS, comparison, curve, pictures, summary
from PIL import Image
from rich.console import Console

from benchmarks.shared.browser import CHROMIUM, Browser
from xai_align.cli.comparison_table import print_comparison
from xai_align.report import comparison_page
from xai_align.report.comparison_page import write_comparison_page
from xai_align.report.comparison_sentences import metric_sentences
from xai_align.report.comparison_table import comparison_table, figure
from xai_align.report.curve_figure import curve_panels, perturbation_text, ticks
from xai_align.report.method_style import method_styles
from xai_align.report.thumbnail import SIDE, photograph, thumbnail

HOSTILE = """<script>alert(1)</script>"'&{{ 1 + 1 }}"""


class Page(HTMLParser):
    """Start tags with their attributes, text, and the tags that were left open."""

    VOID = frozenset(("meta", "img", "input", "wbr", "br", "link"))

    def __init__(self, html):
        super().__init__()
        self.tags, self.text, self.open, self.crossed = [], [], [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if self.open[-1:] == [tag]:
            self.open.pop()
        else:
            self.crossed.append(tag)

    def handle_data(self, data):
        if self.open[-1:] not in (["style"], ["script"]):
            self.text.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def words(self):
        return " ".join("".join(self.text).split())


def page(folder, **changes):
    return Page(write_comparison_page(comparison(**changes), folder).read_text("utf-8"))


def cell(method, metric, question="why", **changes):
    table = comparison_table(comparison(**changes), question)
    column = [one.name for one in table.columns].index(metric)
    return next(row.cells[column] for row in table.rows if row.style.method == method)


# --- the numbers ---------------------------------------------------------------------------------


def test_a_cell_holds_mean_interval_and_difference():
    one = cell("gradcam@blocks.4", "insertion")
    assert (one.mean, one.interval, one.difference) == ("0.750", "[0.710, 0.790]", "+0.050 [0.010, 0.090]")
    assert one.hint == (
        "gradcam@blocks.4, insertion: 0.750; 95 % interval [0.710, 0.790]; n = 12; "
        "difference to pinet +0.050 [0.010, 0.090]: better"
    )


@pytest.mark.parametrize(
    ("method", "metric", "mark"),
    [
        ("gradcam@blocks.4", "insertion", "better"),  # higher, and higher is better
        ("gradcam@blocks.4", "deletion", "worse"),  # higher, and lower is better
        ("lime", "deletion", "better"),
        ("random", "insertion", "worse"),
        ("lime", "insertion", ""),  # the interval holds zero
        ("pinet", "insertion", ""),  # the reference
    ],
)
def test_the_mark_follows_the_direction_of_the_metric(method, metric, mark):
    assert cell(method, metric).mark == mark


def test_without_a_direction_nothing_is_better_or_best():
    one = cell("gradcam@blocks.4", "insertion", higher_is_better={"deletion": False})
    assert (one.mark, one.best) == ("", False)
    assert "clear" not in cell("lime", "insertion", higher_is_better={"insertion": None}).hint
    stream, higher = StringIO(), {"insertion": None, "deletion": False}
    given = comparison(metrics=tuple(higher), questions=("why",), higher_is_better=higher)
    print_comparison(Console(file=stream, width=400), given)
    assert re.search(r"insertion +┃ +deletion ↓", stream.getvalue())


def test_the_best_of_each_column():
    best = {
        (row.style.method, column.name)
        for table in [comparison_table(comparison(), "why")]
        for row in table.rows
        for column, one in zip(table.columns, row.cells, strict=True)
        if one.best
    }
    # the control is the fastest of all, but computes nothing
    assert best == {
        ("gradcam@blocks.4", "insertion"),
        ("lime", "deletion"),
        ("gradcam@blocks.4", "seconds per image"),
    }


def with_lime(**changes):
    """The comparison with other numbers for lime's deletion, which is the lowest."""
    return tuple(summary(*key, **changes) if key == ("why", "lime", "deletion") else summary(*key) for key in NUMBERS)


def test_a_mean_over_fewer_images_is_not_marked_as_best(tmp_path):
    partial = with_lime(n=9, missing=3, complete=False)
    table = comparison_table(comparison(summaries=partial), "why")
    (column,) = (number for number, one in enumerate(table.columns) if one.name == "deletion")
    assert [row.style.method for row in table.rows if row.cells[column].best] == ["pinet"]
    lime = next(row.cells[column] for row in table.rows if row.style.method == "lime")
    assert "not compared for the best mean" in lime.hint
    told = metric_sentences(table, "pinet")[1]
    assert told.startswith(
        "deletion (lower is better): pinet has the best mean, 0.200 [0.160, 0.240]. lime has values for fewer images "
        "and is left out of this. Compared with it, lime is better;"
    )
    words = page(tmp_path, summaries=partial).words
    assert "best of its column, among the methods with a value for every image on which any method has one." in words
    assert "means over fewer images cannot be compared: lime in deletion." in words


def test_where_every_method_misses_an_image_none_is_best():
    numbers = [summary(*key, n=11, missing=1, complete=False) for key in NUMBERS if key[2] == "deletion"]
    table = comparison_table(comparison(summaries=tuple(numbers)), "why")
    assert not any(cell.best for row in table.rows for cell in row.cells[:-1])
    assert metric_sentences(table, "pinet")[0].startswith(
        "deletion (lower is better): no method has a value for every image, so none is said to have the best mean. "
    )


def test_the_leader_wins_most_metrics_and_is_no_control():
    assert comparison_table(comparison(), "why").leader == "gradcam@blocks.4"  # the first of two with one win each
    numbers = [summary("why", "random", "insertion", mean=0.99), summary("why", "random", "deletion", mean=0.0)]
    assert comparison_table(comparison(summaries=tuple(numbers)), "why").leader == ""


def test_what_is_missing_is_counted_and_what_does_not_apply_is_a_dash():
    some = dataclasses.replace(summary("why", "lime", "insertion"), n=5, missing=3)
    assert cell("lime", "insertion", summaries=(some,)).missing == "3 missing"
    none = cell("pinet", "ccs")
    assert (none.value, none.mean, none.missing) == (None, "–", "")
    assert none.hint == "no value for any of 12 images"
    assert cell("random", "ccs", question="why-not").mean == "–"  # no summary at all


def test_an_interval_that_is_not_there_is_left_out():
    one = cell("lime", "insertion", summaries=(summary("why", "lime", "insertion", n=1, low=nan, high=nan),))
    assert (one.mean, one.interval) == ("0.600", "")


def test_equal_values_have_a_dash_for_an_interval_and_the_page_says_why(tmp_path):
    one = summary("why", "lime", "insertion", n=4, mean=0.0, low=nan, high=nan)
    assert cell("lime", "insertion", summaries=(one,)).interval == "[–]"
    html = write_comparison_page(comparison(summaries=(one,)), tmp_path).read_text("utf-8")
    assert html.count("equal for all images have no interval") >= 1
    assert "equal for all images" not in write_comparison_page(comparison(), tmp_path).read_text("utf-8")


def test_digits_are_those_of_the_largest_number_of_the_column():
    small = ("why-not", "pinet", "ccs"), ("why-not", "lime", "ccs")
    assert [cell(method, "ccs", question).mean for question, method, _ in small] == ["0.00123", "−0.00045"]
    assert cell("lime", "seconds per image").mean == "3.000"
    tiny = comparison_table(comparison(seconds={"pinet": 3.1e-7}), "why")
    assert tiny.rows[0].cells[-1].mean == "3.1e−07"
    large = comparison_table(comparison(seconds={"pinet": 12345.6}), "why")
    assert large.rows[0].cells[-1].mean == "12346"
    assert figure(float("inf"), 3) == figure(nan, None) == "–"


def test_a_small_number_beside_a_large_one_has_digits_of_its_own():
    large = summary("why", "lime", "insertion", mean=1519.0, low=1500.0, high=1538.0)
    small = summary("why", "pinet", "insertion", mean=0.157, low=0.12, high=0.19)
    beside = (large, small)
    assert cell("lime", "insertion", summaries=beside).mean == "1519"
    assert cell("pinet", "insertion", summaries=beside).mean == "0.157"
    assert cell("pinet", "insertion", summaries=beside).interval == "[0.120, 0.190]"


# --- the curves ----------------------------------------------------------------------------------


def test_a_curve_lies_where_its_numbers_are():
    (panel,) = curve_panels([curve(mean=(0.8, 0.4, 0.0), half=0.0)])
    frame = panel.frame
    corners = (frame.left, frame.width - frame.right), (frame.height - frame.bottom, frame.top)
    assert (frame.x, frame.y) == ((0.0, 1.0), (0.0, pytest.approx(0.8)))
    across, up = corners
    middle = f"{sum(across) / 2:.1f} {sum(up) / 2:.1f}"
    assert panel.lines[0].path == f"M{across[0]:.1f} {up[1]:.1f}L{middle}L{across[1]:.1f} {up[0]:.1f}"


def test_a_band_goes_there_below_and_back_above():
    (panel,) = curve_panels([curve(mean=(0.5, 0.5, 0.5), half=0.25)])
    points = [tuple(map(float, one.split())) for one in re.split("[MLZ]", panel.lines[0].band) if one]
    heights = [panel.frame.place(0, value)[1] for value in (0.25, 0.75)]
    assert [x for x, _ in points] == sorted(x for x, _ in points[:3]) + sorted((x for x, _ in points[3:]), reverse=True)
    assert [y for _, y in points] == pytest.approx([heights[0]] * 3 + [heights[1]] * 3, abs=0.06)


def test_a_curve_breaks_where_there_is_no_number_and_never_prints_one():
    (panel,) = curve_panels([curve("a", mean=(0.5, nan, 0.2)), curve("b", mean=(nan, nan, nan))])
    assert [line.method for line in panel.lines] == ["a"]
    assert panel.lines[0].path.count("M") == panel.lines[0].path.count("h0") == 2
    assert panel.lines[0].band == ""
    assert "nan" not in repr(panel.lines)
    assert curve_panels([curve(mean=(nan, nan, nan))]) == []


def test_panels_share_their_height_and_what_is_picked_out_lies_in_front():
    curves = [
        curve("pinet"),
        curve("lime", mean=(0.3, 0.2, 0.1)),
        curve("lime", perturbation="other", mean=(0.1, 0.1, 0.1)),
    ]
    first, second = curve_panels(curves, front=["pinet"])
    assert first.frame.y == second.frame.y
    assert [line.method for line in first.lines] == ["lime", "pinet"]
    assert first.lines[1].text == "pinet: 0.900 at 0 %, 0.100 at 100 %"


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-0.3, 0.7), (0, 3e-4), (-12, 900)])
def test_ticks_are_few_and_even(low, high):
    found = ticks(low, high)
    assert 3 <= len(found) <= 7
    assert low - 1e-9 <= found[0] < found[-1] <= high * (1 + 1e-9)
    steps = [after - before for before, after in pairwise(found)]
    assert steps == pytest.approx([steps[0]] * len(steps))


def test_series_are_told_in_words():
    assert perturbation_text("morf blur") == "Most relevant first, replaced by blur"
    assert perturbation_text("lerf zero 14x14") == "Least relevant first, replaced by zero 14x14"
    assert perturbation_text("my own way") == "my own way"


def test_methods_differ_by_hue_or_dash_and_controls_by_their_name():
    controls = {"random", "centre_gaussian@x"}
    styles = method_styles([f"m{number}" for number in range(30)] + ["random", "centre_gaussian@x"], "m3", controls)
    assert len({(style.colour, style.dash) for style in styles}) == 32
    assert [style.method for style in styles if style.role == "reference"] == ["m3"]
    assert [style.method for style in styles if style.role == "control"] == ["random", "centre_gaussian@x"]


def test_the_table_is_told_in_sentences():
    shown = comparison()
    sentences = metric_sentences(comparison_table(shown, "why"), "pinet")
    assert sentences == [
        "insertion (higher is better): gradcam@blocks.4 has the best mean, 0.750 [0.710, 0.790]. Compared with pinet "
        "(0.700 [0.660, 0.740]), gradcam@blocks.4 is better; random is worse; lime is not clearly different.",
        "deletion (lower is better): lime has the best mean, 0.100 [0.060, 0.140]. Compared with pinet "
        "(0.200 [0.160, 0.240]), lime is better; gradcam@blocks.4 and random are worse.",
    ]
    (insertion, ccs) = metric_sentences(comparison_table(shown, "why-not"), "pinet")
    assert insertion == "insertion (higher is better): pinet has the best mean, 0.900 [0.860, 0.940]."
    assert "Compared with it, no method is clearly better or worse (judged from 10 images on)." in ccs


def test_a_wide_band_stays_inside_its_panel(tmp_path):
    """Bands are drawn in an inner picture of the panel's size, which cuts off what lies outside."""
    wide = (curve("pinet", half=50.0),)
    html = write_comparison_page(comparison(questions=("why",), curves=wide), tmp_path).read_text("utf-8")
    inner = re.search(
        r'<svg x="(.*?)" y="(.*?)" width="(.*?)" height="(.*?)" viewBox="(.*?)">(.*?)</svg>', html, re.DOTALL
    )
    assert inner[5] == " ".join(inner.group(1, 2, 3, 4))
    assert 'class="band"' in inner[6]
    assert html.count('class="band"') == 1
    assert "figure > svg {" in html


# --- the pictures --------------------------------------------------------------------------------


def test_a_thumbnail_is_small_and_shows_the_picture(tmp_path):
    Image.new("RGB", (900, 450), (200, 40, 30)).save(tmp_path / "red.png")
    small = thumbnail(tmp_path / "red.png")
    assert (small.width, small.height) == (SIDE, SIDE // 2)
    image = Image.open(BytesIO(base64.b64decode(small.uri.partition(",")[2])))
    assert image.size == (SIDE, SIDE // 2)
    assert image.getpixel((100, 50)) == pytest.approx((200, 40, 30), abs=4)


def test_a_picture_that_is_missing_or_damaged_is_none(tmp_path):
    (tmp_path / "damaged.png").write_bytes(b"\x89PNG")
    assert thumbnail(tmp_path / "damaged.png") is thumbnail(tmp_path / "missing.png") is None


def test_every_image_shows_every_method_under_every_question(tmp_path):
    made = pictures(tmp_path)
    shown = page(tmp_path, pictures=made)
    images = shown.all("img")
    assert [image["alt"] for image in images] == [
        "chelsea.jpg, as the model's input",
        *(f"{method}, chelsea.jpg: Why tabby?" for method in METHODS),
        *(f"{method}, chelsea.jpg: Why tabby and not lynx?" for method in METHODS),
    ]
    for image, picture in zip(images[1:], made[1:], strict=True):
        assert image["src"] == thumbnail(tmp_path / picture.file).uri
    assert images[0]["src"] == photograph(tmp_path / made[0].file).uri


def test_more_pictures_than_a_page_can_hold_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(comparison_page, "MOST_PHOTOGRAPHS", 2)
    made = pictures(tmp_path, methods=("pinet",), questions=("why",))
    many = tuple(dataclasses.replace(one, image=f"{number}.jpg") for number in range(3) for one in made)
    shown = page(tmp_path, pictures=many)
    assert "The first 2 of 3 images that were drawn" in shown.words
    assert "2.jpg" not in shown.words


def test_a_method_without_a_picture_keeps_its_place(tmp_path):
    made = [one for one in pictures(tmp_path) if (one.question, one.method) != ("why", "lime")]
    (tmp_path / made[1].file).unlink()
    shown = page(tmp_path, pictures=tuple(made))
    assert shown.words.count("no picture") == 2
    assert len(shown.all("img")) == len(made) - 1


def test_hundreds_of_pictures_make_a_page_of_a_few_megabytes(tmp_path):
    one = pictures(tmp_path, methods=("pinet",), questions=("why",))
    noise = Image.effect_noise((224, 224), 60).convert("RGB")
    noise.save(tmp_path / one[1].file)  # noise is the hardest to compress
    many = tuple(
        dataclasses.replace(one[1], image=f"{number}.jpg", method=f"m{method}")
        for number in range(6)
        for method in range(25)
    )
    methods = tuple(f"m{method}" for method in range(25))
    path = write_comparison_page(comparison(methods=methods, reference="m0", curves=(), pictures=many), tmp_path)
    assert path.stat().st_size < 10e6


# --- the page ------------------------------------------------------------------------------------


def test_the_page_is_one_well_formed_file_that_needs_nothing_else(tmp_path):
    path = write_comparison_page(comparison(pictures=pictures(tmp_path)), tmp_path)
    html = path.read_text("utf-8")
    shown = Page(html)
    assert path == tmp_path / "index.html"
    assert (shown.open, shown.crossed) == ([], [])
    assert all(source.startswith("data:") for source in re.findall(r'src="([^"]*)"', html))
    assert not re.search(r"https?://|url\(|<link|@import|srcset|fetch\(", html)
    assert "default-src 'none'" in html
    assert 'name="viewport"' in html
    assert "prefers-color-scheme: dark" in html


def test_the_head_says_what_was_compared(tmp_path):
    shown = page(tmp_path)
    assert "Four methods on cats" in shown.words
    assert "Why this class?" in shown.words
    assert "Why this class and not that one?" in shown.words
    for fact in ("timm:resnet50", "4, each compared with pinet", "1 March 2025"):
        assert fact in shown.words


def test_a_table_for_each_question_with_headers_that_say_their_scope(tmp_path):
    shown = page(tmp_path)
    scopes = [attributes["scope"] for attributes in shown.all("th")]
    assert len(shown.all("table")) == 2
    assert scopes == (["col"] * 5 + ["row"] * 4) * 2
    values = [attributes["data-value"] for attributes in shown.all("td") if "data-value" in attributes]
    known = [number for number, *_ in NUMBERS.values() if number == number]
    assert sorted(map(float, values)) == sorted([*known, *2 * [0.05, 0.02, 3.0, 0.001]])
    assert "area under the curve of what is kept" in shown.words


def test_better_and_worse_are_told_in_words(tmp_path):
    html = write_comparison_page(comparison(questions=("why",)), tmp_path).read_text("utf-8")
    table = html[html.index("<tbody>") : html.index("</tbody>")]
    shown = [re.sub(r"<[^>]+>", "", one) for one in re.findall(r'<span class="mark.*?</span></span>', table)]
    assert sorted(shown) == ["better than pinet: "] * 2 + ["worse than pinet: "] * 3
    assert not set("▲▼") & set(html)
    assert "Holm's correction" in unescape(html)
    assert "for all 6 comparisons of the table together" in html


def test_with_few_images_the_page_says_why_nothing_is_judged(tmp_path):
    few = tuple(
        dataclasses.replace(one, n=min(one.n, 4), pairs=min(one.pairs, 4), verdict="", adjusted_p=nan)
        for one in comparison().summaries
    )
    html = write_comparison_page(comparison(questions=("why",), summaries=few), tmp_path).read_text("utf-8")
    assert 'class="mark' not in html
    assert "that takes 10 images on which both methods have a value, and here there are 4 at most" in html
    assert "not judged with fewer than 10 images" in html


def test_the_reference_the_leader_and_the_controls_are_picked_out(tmp_path):
    shown = page(tmp_path, questions=("why",))
    ticked = ["checked" in box for box in shown.all("input") if box["type"] == "checkbox"]
    ticked = ticked[1:]  # the first changes the table
    assert ticked == [True, True, False, True]
    assert next(svg for svg in shown.all("svg") if svg.get("role") == "img")["aria-label"].startswith(
        "least relevant first: curves of 4 methods. pinet: 0.900 at 0 %"
    )


def test_no_name_is_markup_and_no_number_is_nan(tmp_path):
    made = pictures(tmp_path, image=f"/photos/{HOSTILE.replace('/', '')}.jpg", methods=(HOSTILE,), questions=("why",))
    shown_values = {
        "title": HOSTILE,
        "reference": HOSTILE,
        "methods": (HOSTILE, "random"),
        "metrics": (HOSTILE,),
        "higher_is_better": {HOSTILE: True},
        "summaries_of_metrics": {HOSTILE: HOSTILE},
        "questions": ("why", HOSTILE),
        "summaries": (
            dataclasses.replace(summary("why", "random", "insertion"), metric=HOSTILE),
            dataclasses.replace(summary("why", "pinet", "ccs"), metric=HOSTILE, method=HOSTILE),
        ),
        "seconds": {HOSTILE: nan},
        "curves": (curve(HOSTILE, perturbation=HOSTILE), curve("random", mean=(nan, nan, nan))),
        "pictures": tuple(dataclasses.replace(one, question_text=HOSTILE) for one in made),
        "problems": (HOSTILE,),
        "notes": (HOSTILE,),
        "values_file": HOSTILE,
        "provenance": {HOSTILE: {"a": nan, "b": [HOSTILE, nan, {"c": float("inf")}]}, "model": HOSTILE},
    }
    html = write_comparison_page(comparison(**shown_values), tmp_path).read_text("utf-8")
    shown = Page(html)
    assert len(re.findall("<script", html)) == html.count("</script>") == 4  # three scripts and the data
    assert "alert(1)" in shown.words
    assert "{{ 1 + 1 }}" in shown.words  # names are not templates
    assert (shown.open, shown.crossed) == ([], [])
    assert not re.search(r"\b(nan|inf)\b", shown.words, re.IGNORECASE)
    for _, attributes in shown.tags:
        assert not any(name.startswith("on") for name in attributes)
        assert not re.search(r"\b(nan|inf)\b", " ".join(filter(None, attributes.values())), re.IGNORECASE)


def test_an_address_cannot_leave_its_scheme(tmp_path):
    shown = page(tmp_path, values_file="javascript:alert(1)")
    assert "javascript%3Aalert%281%29" in [link["href"] for link in shown.all("a")]


def test_problems_notes_and_provenance_are_told(tmp_path):
    images = [{"file": f"{number}.jpg", "sha256": "ab"} for number in range(13)]
    shown = page(
        tmp_path,
        problems=("a.jpg: cannot be read", "b.jpg: lime failed"),
        notes=("c.jpg is a.jpg",),
        provenance={"seed": 7, "deterministic": True, "limit": None, "versions": {"torch": "2.4.0"}, "images": images},
    )
    for words in ("2 problems", "b.jpg: lime failed", "1 note", "c.jpg is a.jpg", "7", "yes", "2.4.0", "13 entries"):
        assert words in shown.words
    assert "12.jpg" in shown.words


def test_a_bare_comparison_has_a_page(tmp_path):
    shown = page(
        tmp_path, summaries=(), curves=(), seconds={}, provenance={}, values_file="", questions=("why",), metrics=()
    )
    assert (shown.open, shown.crossed) == ([], [])
    assert "Problems" not in shown.words
    assert "Pictures" not in shown.words


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="sorting runs in a browser; there is no Chromium here")
def test_a_click_sorts_best_first_then_reversed_with_missing_values_last(tmp_path):
    path = write_comparison_page(comparison(), tmp_path)
    script = """
      const table = document.querySelectorAll("table")[%d];
      const names = () => [...table.tBodies[0].rows].map((row) => row.cells[0].dataset.value).join(" ");
      const head = table.tHead.rows[0].cells[%d];
      const told = [];
      for (let click = 0; click < 2; click++) {
        head.querySelector("button").click();
        told.push(`${head.getAttribute("aria-sort")}: ${names()}`);
      }
      return told.join("; ") + "; " + document.querySelectorAll("[aria-sort]").length;
    """
    cam = "gradcam@blocks.4"
    with Browser(tmp_path) as browser:

        def sorted_by(table, column):
            return browser.open(path.as_uri()).run(script % (table, column))

        assert sorted_by(0, 1) == f"descending: {cam} pinet lime random; ascending: random lime pinet {cam}; 1"
        assert sorted_by(0, 2) == f"ascending: lime pinet {cam} random; descending: random {cam} pinet lime; 1"
        assert sorted_by(1, 3) == f"descending: pinet lime {cam} random; ascending: lime pinet {cam} random; 1"
        assert sorted_by(0, 0) == f"ascending: {cam} lime pinet random; descending: random pinet lime {cam}; 1"
