"""On a CUDA device: the same fit in every precision, and what was given is left where it was."""

from __future__ import annotations

import math

import pytest
import torch
from align_factory import bends, fit, loader, small_masker, trainer

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.mark.parametrize("mixed_precision", ["no", "bf16", "fp16"])
def test_a_fit_on_a_gpu_is_about_that_on_a_cpu(mixed_precision):
    state = torch.cuda.get_rng_state()
    options = {"recipe": "align", "schedule": "none"}
    there = trainer(bends(dropout=0.0).cuda(), small_masker().cuda(), mixed_precision=mixed_precision, **options)
    here = trainer(bends(dropout=0.0), small_masker(), **options)
    one, two = (made.fit(loader(), loader(9), epochs=2) for made in (there, here))
    assert torch.equal(torch.cuda.get_rng_state(), state)
    for row, wanted in zip(one.history, two.history, strict=True):
        assert math.isfinite(row["loss"])
        assert row["loss"] == pytest.approx(wanted["loss"], rel=0.05)


def test_a_masker_on_the_cpu_goes_with_the_classifier_and_comes_back():
    masker = small_masker()
    done = trainer(bends().cuda(), masker).fit(loader(), epochs=1)
    assert next(masker.parameters()).device.type == "cpu"
    assert next(done.classifier.parameters()).is_cuda


def test_a_stopped_fit_in_half_precision_goes_on(tmp_path):
    """The scale of the gradients is part of the checkpoint."""

    class Stop(Exception):
        pass

    def stop(row):
        if row["epoch"] == 3:
            raise Stop

    options = {"mixed_precision": "fp16", "schedule": "none"}
    wanted = fit(None, bends().cuda(), small_masker().cuda(), **options)
    with pytest.raises(Stop):
        fit(tmp_path, bends().cuda(), small_masker().cuda(), log=stop, **options)
    done = fit(tmp_path, bends(seed=7).cuda(), small_masker(seed=7).cuda(), **options)
    losses = [[row["validation_loss"] for row in one.history] for one in (done, wanted)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)  # sums on a GPU have no fixed order
