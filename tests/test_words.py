"""Sentences on maps: by hand, and every number in them recomputed from the map."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xai_align.data.output_description import OutputDescription
from xai_align.evaluation import coverage_at_k, grid_labels, salient_regions, verbal_coverage
from xai_align.evaluation.salient_regions import STANDS_OUT
from xai_align.report.phrases import ENGLISH
from xai_align.report.record import Record
from xai_align.report.words import words_of

NAMES = OutputDescription(num_outputs=3, class_names=("cat", "dog", "car"))


def record(
    values, *, bias=0.5, question="Why cat?", targets=(0,), foils=(), output=NAMES, kind="contributions", **more
):
    values = torch.as_tensor(values, dtype=torch.float32)
    total = float(values.double().sum())
    account = {"bias": bias, "prefix": 0.0, "around": 0.0} if bias is not None else {"bias": None}
    answer = total + (bias or 0.0)
    given = {
        "image": "a",
        "question": question,
        "method": "pinet",
        "class_name": "cat",
        "targets": targets,
        "foils": foils,
        "answer": answer,
        "contributions": total,
        "positive": 0.0,
        "negative": 0.0,
        "layer": None,
        "kind": None,
        "prefix": None,
        "around": None,
        "completeness_error": None,
        "relative_error": None,
        "amplification": None,
        "seconds": 0.0,
        "logits": torch.zeros(3),
        "map": values,
        "raw": (),
        "values": kind,
        "signed": kind == "contributions",
        "output": output,
    }
    return Record(**{**given, **account, **more})


def hot_corner():
    values = torch.zeros(64, 64)
    values[:16, :16] = 3 / 256  # 3 logits on four of 64 cells
    values[48:, 24:40] = 0.75 / 256  # three quarters of a logit on four
    values[24:40, 48:] = -1 / 256
    return values


def test_a_hot_corner_by_hand():
    said = words_of(record(hot_corner()))
    assert said.text == (
        "Why cat? Of the evidence for cat, 80 % lies in the upper left (3.000 logits, 6 % of the picture) and 20 % "
        "lies at the bottom (0.750 logits, 6 % of the picture). Of the evidence against it, 100 % lies on the right "
        "(−1.000 logits, 6 % of the picture). The picture contributes 2.750 and the terms without a position 0.500: "
        "3.250 logits."
    )
    assert said.coverage == pytest.approx(1.0)


def test_two_regions_that_stand_out_are_told_largest_first():
    values = hot_corner()
    values[48:, 24:40] *= 4  # 3 logits, the same as in the corner, and later
    text = words_of(record(values)).text
    assert "for cat, 50 % lies in the upper left (3.000 logits, 6 % of the picture) and 50 % lies at the bottom" in text


@pytest.mark.parametrize(
    ("rows", "columns", "place"),
    [
        (slice(0, 8), slice(0, 8), "in the upper left"),
        (slice(28, 36), slice(28, 36), "in the centre"),
        (slice(56, 64), slice(56, 64), "in the lower right"),
        (slice(24, 40), slice(0, 8), "on the left"),
        (slice(0, 8), slice(0, 64), "across the top"),
        (slice(0, 64), slice(56, 64), "down the right side"),
    ],
)
def test_places(rows, columns, place):
    values = torch.zeros(64, 64)
    values[rows, columns] = 1.0
    assert place in words_of(record(values)).text


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"foils": (1,)}, "Of the evidence for cat rather than dog, "),
        ({"foils": None}, "Of the evidence for cat rather than any other, "),
        ({"targets": (0, 1), "foils": (2,)}, "Of the evidence for cat or dog rather than car, "),
        ({"targets": (), "foils": (1,)}, "Of the evidence for anything but dog, "),
        (
            {"kind": "scores"},
            "Of the weight of the map, 80 % lies in the upper left (6 % of the picture) and 20 % lies at the bottom",
        ),
        ({"bias": None, "answer": 4.0}, "The map sums to 2.750 and the answer is 4.000 logits: 1.250 is not explained"),
        (
            {"output": OutputDescription(kind="regression", num_outputs=1, class_names=("age",), unit="years")},
            "Of the evidence for a higher value of age, 80 % lies in the upper left (3.000 years, ",
        ),
    ],
)
def test_words_follow_the_question_and_the_meaning(given, said):
    assert said in words_of(record(hot_corner(), **given)).text


def test_a_ranking_is_told_without_sums():
    text = words_of(record(hot_corner(), kind="scores")).text
    assert "logits" not in text
    assert "against" not in text


#: Evidence everywhere, a little more in cells that do not touch: none of them holds a twentieth.
NEARLY_FLAT = 1 + (torch.eye(2).repeat(4, 4) * 0.5).repeat_interleave(4, 0).repeat_interleave(4, 1)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (torch.zeros(32, 32), "The map is zero everywhere."),
        (torch.ones(32, 32), "is spread out, and no region stands out: at most"),
        (-torch.ones(32, 32), "There is no evidence for cat in the picture."),
        (torch.eye(32).flip(0), "There is no evidence against it."),
        (1 + torch.arange(1024).reshape(32, 32) % 5 / 100, "The evidence for cat is spread out, and no region stands"),
        (NEARLY_FLAT, "The evidence for cat is spread out, and no region stands out."),
        (-NEARLY_FLAT, "The evidence against it is spread out, and no region stands out."),
        (2 * torch.eye(2).repeat(16, 16) - 1.5, "the evidence against cat outweighs the evidence for it."),
        (torch.randn(32, 32, generator=torch.Generator().manual_seed(0)).abs(), "is spread out"),
    ],
)
def test_maps_with_nothing_to_point_at(values, said):
    text = words_of(record(values)).text
    assert said in text
    assert ("There is no evidence for" in text) == (not bool((values > 0).any()) and bool(values.any()))


def test_a_map_that_is_not_finite_says_nothing():
    said = words_of(record(torch.full((8, 8), torch.nan)))
    assert said.text == "Why cat? The map contains values that are not finite, and cannot be described."
    assert said.regions == ()


MAPS = st.builds(
    lambda seed, size, power, scale: (
        torch.randn(*size, generator=torch.Generator().manual_seed(seed)).sign()
        * torch.rand(*size, generator=torch.Generator().manual_seed(seed + 1)) ** power
        * 10.0**scale
    ),
    st.integers(0, 10**6),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.floats(0.2, 30.0),
    st.sampled_from([0, -2, -5, -12, 4, 9]),  # networks whose answers are tiny or large numbers, too
)
#: A share, or a number with its decimals and its power of ten.
TOLD = re.compile(r"less than 1 %|\d+ %|−?\d+\.\d+(?:e[+−]\d+)?")


@settings(max_examples=150, deadline=None)
@given(MAPS, st.booleans())
def test_every_number_is_the_maps(values, decomposition):
    """The text's numbers, in their order, are those of the regions' pixels, and no others."""
    rest = 0.1 * float(values.abs().max())
    one = record(values, bias=rest if decomposition else None, answer=float(values.double().sum()) + rest)
    said = words_of(one)
    grid = values.double()
    labels = grid_labels(*values.shape)
    cells = torch.zeros(int(labels.max()) + 1, dtype=torch.float64).index_add_(0, labels.flatten(), grid.flatten())
    shares, numbers = [], []
    for region in said.regions:
        inside = float(grid[region.mask].sum())
        mass = cells.clamp(min=0).sum() if inside > 0 else -cells.clamp(max=0).sum()
        shares += [percent(abs(inside) / float(mass)), percent(float(region.mask.double().mean()))]
        numbers.append(inside)
    total = float(grid.sum())
    numbers += [total, rest, total + rest] if decomposition else [total, total + rest, rest]
    found = TOLD.findall(said.text)
    assert [one for one in found if "%" in one] == shares
    check_told([one for one in found if "%" not in one], numbers)
    assert words_of(one).text == said.text


def check_told(texts, numbers):
    """Each text is its number, rounded at the digit where all of them end, and the largest has three digits or more."""
    parts = [one.replace("−", "-").partition("e") for one in texts]
    texts = ["".join(one) for one in parts]
    last = {float(f"1e{power or 0}") * 10.0 ** -len(mantissa.partition(".")[2]) for mantissa, _, power in parts}
    assert len(last) == 1
    (digit,) = last
    assert len(texts) == len(numbers)
    for text, value in zip(texts, numbers, strict=True):
        assert abs(float(text) - value) <= (0.5 + 1e-6) * digit
    assert max(map(abs, numbers)) >= 99 * digit or not any(numbers)


def test_a_tiny_answer_is_told_with_its_digits():
    years = OutputDescription(kind="regression", num_outputs=1, class_names=("age",), unit="m")
    text = words_of(record(1e-7 * hot_corner(), bias=5e-8, output=years)).text
    assert "(3.000e−07 m, 6 % of the picture) and 20 % lies at the bottom (0.750e−07 m" in text
    assert text.endswith("The picture contributes 2.750e−07 and the terms without a position 0.500e−07: 3.250e−07 m.")


def percent(share):
    return f"{round(100 * share)} %" if round(100 * share) else "less than 1 %"


@settings(max_examples=100, deadline=None)
@given(MAPS)
def test_finds_are_disjoint_and_cover_no_more_than_all(values):
    found = salient_regions(values, grid_labels(*values.shape), max_regions=9, min_coverage=0.0)
    assert sum(region.coverage for region in found) <= 1 + 1e-9
    assert int(sum(region.mask.int() for region in found).max() if found else 1) == 1
    assert all(a.total >= b.total for a, b in pairwise(found))
    assert bool(found) == bool((cell_sums(values) > 0).any())


def cell_sums(values):
    labels = grid_labels(*values.shape)
    return torch.zeros(int(labels.max()) + 1, dtype=torch.float64).index_add_(
        0, labels.flatten(), values.double().flatten()
    )


def test_named_parts_are_told_as_they_are():
    parts = torch.full((64, 64), -1)
    parts[:32, :32], parts[40:, :] = 0, 1
    said = words_of(record(hot_corner()), regions=parts, names={0: "the head", 1: "the body"})
    assert (
        "80 % lies on the head (3.000 logits, 25 % of the picture) and 20 % lies on the body (0.750 logits, 38 %"
        in said.text
    )
    assert said.coverage == pytest.approx(1.0)


def test_superpixels_are_joined_with_their_neighbours():
    labels = torch.arange(64).repeat(64, 1) // 20  # four stripes, the last one narrow
    values = torch.zeros(64, 64)
    values[:, 20:60] = 1.0
    (found,) = salient_regions(values, labels)
    assert found.labels == (1, 2)
    assert found.area == pytest.approx(40 / 64)


@pytest.mark.parametrize(
    ("values", "labels", "said"),
    [
        (torch.full((4, 4), torch.nan), grid_labels(4, 4), "finite"),
        (torch.zeros(4, 4), grid_labels(4, 5), r"\[4, 4\] and \[4, 5\]"),
        (torch.zeros(4, 4), torch.zeros(4, 4), "float32"),
        (torch.zeros(4, 4), torch.ones(4, 4, dtype=torch.bool), "bool"),
    ],
)
def test_bad_maps_and_labels(values, labels, said):
    with pytest.raises(ValueError, match=said):
        salient_regions(values, labels)


def test_a_region_without_a_name():
    with pytest.raises(ValueError, match=r"region\(s\) 1 have no name"):
        words_of(record(hot_corner()), regions=grid_labels(64, 64, cells=2) % 2, names={0: "the head"})


def test_coverage_at_k_by_hand():
    a = torch.tensor([[4.0, 3.0, 2.0, 1.0, -5.0], [0.0, -1.0, 0.0, 0.0, 0.0]])
    told = torch.tensor([[True, False, True, True, True]] * 2)
    torch.testing.assert_close(
        coverage_at_k(a, told, k=3), torch.tensor([0.6, torch.nan], dtype=torch.float64), equal_nan=True
    )
    assert coverage_at_k(a, told, k=5)[0] == pytest.approx(0.7)
    with pytest.raises(ValueError, match="at least 1"):
        coverage_at_k(a, told, k=0)


def test_coverage_of_maps():
    peaked, flat = torch.zeros(1, 3, 64, 64), torch.ones(1, 3, 64, 64)
    peaked[..., :16, :16] = 1.0
    assert verbal_coverage(peaked).tolist() == [1.0]
    assert verbal_coverage(flat, k=10)[0] == pytest.approx(10 / 64)
    assert STANDS_OUT == 0.2


def test_all_words_are_in_one_place():
    """A language is a set of phrases: nothing else in the text is a word, apart from names and the question."""
    from dataclasses import fields, replace

    blank = {
        field.name: re.sub(r"(\{[^}]*\})|[A-Za-z]", lambda m: m.group(1) or "", getattr(ENGLISH, field.name))
        for field in fields(ENGLISH)
        if isinstance(getattr(ENGLISH, field.name), str)
    }
    silent = replace(ENGLISH, **blank, places=("",) * 9, rows=("",) * 3, columns=("",) * 3)
    for values in (hot_corner(), torch.zeros(8, 8), torch.ones(8, 8), -torch.ones(8, 8), NEARLY_FLAT, -NEARLY_FLAT):
        text = words_of(record(values, question=""), phrases=silent).text
        assert set(re.findall(r"[A-Za-z]+", text)) <= {"cat", "logits"}


def test_a_record_without_its_map_has_no_sentences():
    with pytest.raises(ValueError, match="has no map"):
        words_of(record(hot_corner()).without_arrays())
