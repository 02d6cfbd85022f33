"""Pages, sentences and files of maps whose numbers are huge, tiny or not finite, in float64 and float32."""

from __future__ import annotations

import dataclasses
import json
import math
import warnings

import numpy as np
import pytest
import torch
from test_words import record
from torch import nn

from xai_align.explanation import explain
from xai_align.report.overlay import overlay_figure
from xai_align.report.page import Asked, Section, Shown, render_page
from xai_align.report.page_answer import answer_json, answer_of, overlay_of, read_answer
from xai_align.report.record import record_of, save_arrays
from xai_align.report.thumbnail import photograph_of
from xai_align.report.words import words_of

PICTURE = np.full((32, 32, 3), 0.5)
NOISE = torch.randn(32, 32, generator=torch.Generator().manual_seed(0)).double()


def with_one(value):
    values = NOISE.clone()
    values[3, 4] = value
    return values


MAPS = {
    "1e300": NOISE * 1e300,
    "1e306": NOISE * 1e306,
    "the largest": torch.full((32, 32), 1.7e308, dtype=torch.float64),
    "the largest of both signs": NOISE.sign() * 1.7e308,
    "one is large": with_one(1e305),
    "one is infinite": with_one(math.inf),
    "one is NaN": with_one(math.nan),
    "infinite": torch.full((32, 32), -math.inf),
    "1e38 in float32": NOISE.float() * 1e38,
    "1e-300": NOISE * 1e-300,
    "1e-320": NOISE * 1e-320,
}


def record_with(values, kind):
    total = float(values.double().sum())
    answer = total + 0.5 if kind == "contributions" else 1.0
    return dataclasses.replace(record(torch.zeros(32, 32), kind=kind), map=values, contributions=total, answer=answer)


@pytest.mark.parametrize("kind", ["contributions", "scores"])
@pytest.mark.parametrize("name", MAPS)
def test_a_page_is_made_and_says_nothing_that_is_not_so(tmp_path, name, kind):
    one = record_with(MAPS[name], kind)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        answer = answer_of(one)
        shown = Shown(label="x", overlay=overlay_of(one, PICTURE), answer=answer)
        section = Section(
            title="a", photograph=photograph_of(PICTURE), questions=[Asked(text="Why cat?", shown=[shown])]
        )
        page = render_page([section], [one], title="Maps")
        overlay_figure(PICTURE, one.map, signed=one.signed)
    assert "nan%" not in page
    assert "inf%" not in page
    file = tmp_path / "a.json"
    file.write_text(answer_json(answer), "utf-8")
    json.loads(file.read_text("utf-8"), parse_constant=lambda word: pytest.fail(f"{word} in JSON"))
    again = read_answer(file)
    assert again is not None
    assert math.isfinite(answer.answer) == math.isfinite(again.answer)
    assert dataclasses.replace(again, answer=0.0) == dataclasses.replace(answer, answer=0.0)
    finite = bool(one.map.isfinite().all()) and math.isfinite(float(one.map.double().abs().sum()))
    assert ("cannot be described." in answer.words) == (not finite)
    if kind == "contributions" and not math.isfinite(one.contributions):
        assert answer.sum_text.endswith("is the answer; the map's values have no finite sum")
        assert answer.terms == ()


class Scaled(nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.features, self.scale = nn.Conv2d(3, 4, 3, padding=1), scale

    def forward(self, x):
        return self.scale * self.features(x).relu().mean((2, 3))


@pytest.mark.parametrize("scale", [1e300, 1e-300, 1.0])
def test_a_records_map_keeps_the_values_that_float32_cannot_hold(tmp_path, scale):
    torch.manual_seed(0)
    explanation = explain(Scaled(scale).double().eval(), torch.rand(1, 3, 16, 16).double(), 1, "input_x_gradient")
    one = record_of(explanation, image="a")
    assert bool(one.map.isfinite().all())
    torch.testing.assert_close(one.map.double() / scale, explanation.map[0] / scale, rtol=1e-6, atol=1e-8)
    assert float(one.map.double().sum()) == pytest.approx(one.contributions, rel=1e-5)
    assert one.map.dtype == (torch.float32 if scale == 1 else torch.float64)
    save_arrays(one, tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as arrays:
        np.testing.assert_array_equal(arrays["map"], one.map.numpy())
    assert "e+" in words_of(one).text or "e−" in words_of(one).text or scale == 1
