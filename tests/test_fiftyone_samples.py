"""Heatmaps and numbers on the samples of a FiftyOne dataset, with a stand-in for its documented calls."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from tests.networks import conv_net, images
from xai_align import explain
from xai_align.report.fiftyone_samples import field_name, fill_samples, range_of
from xai_align.report.record import record_of


class Sample(dict):
    def __init__(self, filepath):
        super().__init__()
        self.filepath = filepath
        self.saved = {}

    def save(self):
        self.saved = dict(self)

    def has_field(self, name):
        return name in self

    def __setitem__(self, name, value):
        assert value is not None or name in self, "the type of a new field cannot be found from None"
        super().__setitem__(name, value)


class Dataset:
    """A dataset: select_by, values and iter_samples, as FiftyOne documents them."""

    def __init__(self, samples):
        self.samples = samples

    def select_by(self, field, values):
        assert field == "filepath"
        return Dataset([one for one in self.samples if one.filepath in values])

    def values(self, field):
        return [getattr(one, field) for one in self.samples]

    def iter_samples(self, autosave=False):
        for one in self.samples:
            yield one
            if autosave and isinstance(one, Sample):
                one.save()


@pytest.fixture
def fiftyone(monkeypatch):
    module = SimpleNamespace(Heatmap=lambda map, range: SimpleNamespace(map=map, range=range))
    monkeypatch.setitem(sys.modules, "fiftyone", module)


def records(method="pinet", count=2):
    found = [explain(conv_net(), images(1, 16, seed=seed), 1, method) for seed in range(count)]
    return [record_of(one, image=str(seed)) for seed, one in enumerate(found)]


@pytest.mark.usefixtures("fiftyone")
def test_maps_and_numbers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dataset = Dataset([Sample(str(tmp_path / name)) for name in ("b.png", "other.png", "a.png")])
    a, b = records()
    metrics = {"a.png": {"insertion auc": 0.25, "lost": float("nan")}}
    assert fill_samples(dataset, {"a.png": a, tmp_path / "b.png": b}, metrics=metrics) == 2
    of_b, other, of_a = (one.saved for one in dataset.samples)
    assert other == {}
    assert np.array_equal(of_a["pinet"].map, a.map.numpy())
    assert np.array_equal(of_b["pinet"].map, b.map.numpy())
    largest = float(a.map.abs().max())
    assert of_a["pinet"].range == [-largest, largest]
    assert of_a["pinet_answer"] == a.answer
    assert of_a["pinet_completeness_error"] == a.completeness_error
    assert of_a["pinet_amplification"] == a.amplification
    assert of_a["pinet_question"] == "Why class 1?"
    assert of_a["pinet_insertion_auc"] == 0.25
    assert "pinet_lost" not in of_a
    assert "pinet_insertion_auc" not in of_b


@pytest.mark.usefixtures("fiftyone")
def test_a_method_without_a_decomposition_has_no_numbers_of_one(tmp_path):
    sample = Sample(str(tmp_path / "a.png"))
    fill_samples(Dataset([sample]), {sample.filepath: records("gradcam++", 1)[0]}, field="epoch 3")
    assert set(sample.saved) == {"epoch_3", "epoch_3_question", "epoch_3_answer", "epoch_3_seconds"}


@pytest.mark.usefixtures("fiftyone")
def test_numbers_of_an_earlier_call_do_not_stay(tmp_path):
    sample = Sample(str(tmp_path / "a.png"))
    exact, other = (records(name, 1)[0] for name in ("pinet", "gradcam++"))
    fill_samples(Dataset([sample]), {sample.filepath: exact}, field="map", metrics={sample.filepath: {"auc": 0.5}})
    metrics = {sample.filepath: {"auc": float("nan")}}
    fill_samples(Dataset([sample]), {sample.filepath: other}, field="map", metrics=metrics)
    assert (sample["map_auc"], sample["map_bias"], sample["map_answer"]) == (None, None, other.answer)


@pytest.mark.usefixtures("fiftyone")
def test_nothing_is_written_if_a_file_has_no_sample(tmp_path):
    dataset = Dataset([Sample(str(tmp_path / "a.png"))])
    a, b = records()
    with pytest.raises(ValueError, match=r"no sample for the file\(s\) '.*b\.png'; add"):
        fill_samples(dataset, {tmp_path / "a.png": a, tmp_path / "b.png": b})
    with pytest.raises(ValueError, match=r"metrics without a record for the file\(s\) '.*b\.png'"):
        fill_samples(dataset, {tmp_path / "a.png": a}, metrics={tmp_path / "b.png": {"x": 1.0}})
    assert dataset.samples[0] == {}


def test_ranges_and_names():
    assert range_of(np.array([[-1.0, 3.0]]), signed=True) == [-3, 3]
    assert range_of(np.array([[1.0, 3.0]]), signed=False) == [1, 3]
    assert range_of(np.zeros((2, 2)), signed=True) == [0, 1]
    assert [field_name(text) for text in ("gradcam++", "a-b c", "2nd", "_x")] == [
        "gradcam_plus_plus", "a_b_c", "field_2nd", "x",
    ]  # fmt: skip


def test_a_missing_fiftyone_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "fiftyone", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install fiftyone$"):
        fill_samples(Dataset([]), {})


def test_real_samples(tmp_path, monkeypatch):
    """Samples of FiftyOne that are in no dataset: a dataset needs its database."""
    monkeypatch.setenv("FIFTYONE_DO_NOT_TRACK", "true")
    fiftyone = pytest.importorskip("fiftyone")
    sample = fiftyone.Sample(filepath=str(tmp_path / "a.png"))
    (record,) = records(count=1)
    fill_samples(Dataset([sample]), {tmp_path / "a.png": record}, metrics={tmp_path / "a.png": {"insertion": 0.5}})
    assert isinstance(sample["pinet"], fiftyone.Heatmap)
    assert np.array_equal(sample["pinet"].get_map(), record.map.numpy())
    assert sample["pinet"].range == range_of(record.map.numpy(), signed=True)
    assert (sample["pinet_answer"], sample["pinet_insertion"]) == (record.answer, 0.5)
