"""No hook stays on the models of Captum's configurations: after success, a wrong target, a raising layer."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from captum_configurations import INPUT, LAYER, WITHOUT_LOGITS, arguments_of, method_for, name_of

from xai_align.testing.networks import Failing
from xai_align.testing.traces import differences, snapshot

ENTRIES = [entry for entry in INPUT + LAYER if name_of(entry) not in WITHOUT_LOGITS]


@pytest.fixture(autouse=True)
def _same_random_state():
    """NoiseTunnel draws, and is not what is tested here."""
    with torch.random.fork_rng():
        yield


def traces(before, model):
    return [found for found in differences(before, snapshot(model)) if "random state" not in found]


@pytest.mark.parametrize("entry", ENTRIES, ids=name_of)
def test_after_an_explanation_the_model_is_as_before(entry):
    entry = deepcopy(entry)
    inputs, arguments = arguments_of(entry)
    method, before = method_for(entry), snapshot(entry["model"])
    method.attribute(inputs, **arguments)
    assert traces(before, entry["model"]) == []


@pytest.mark.parametrize("entry", ENTRIES, ids=name_of)
def test_after_a_wrong_target_too(entry):
    entry = deepcopy(entry)
    inputs, arguments = arguments_of(entry)
    method, before = method_for(entry), snapshot(entry["model"])
    with pytest.raises(AssertionError):
        method.attribute(inputs, **{**arguments, "target": (9999,) * 20})
    assert traces(before, entry["model"]) == []


@pytest.mark.parametrize("entry", ENTRIES, ids=name_of)
def test_after_a_layer_that_raised_too(entry):
    entry = deepcopy(entry)
    inputs, arguments = arguments_of(entry)
    holder = getattr(entry["model"], "model", entry["model"])
    holder.linear2 = Failing()
    method, before = method_for(entry), snapshot(entry["model"])
    with pytest.raises(RuntimeError, match="always fails"):
        method.attribute(inputs, **arguments)
    assert traces(before, entry["model"]) == []
