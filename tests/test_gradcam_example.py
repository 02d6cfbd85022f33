"""The example script and the pages of the documentation run as they are shown."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_docs import blocks

from xai_align.data.photographs import PHOTOGRAPHS

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "examples" / "gradcam_to_pinet.py"
AFTER = "from gradcam_align import PiNetCAM as GradCAM  # before: from pytorch_grad_cam import GradCAM"
BEFORE = "from pytorch_grad_cam import GradCAM"


def run(code, drawing):
    scope = {"__name__": "example"}
    exec(compile(code, str(SCRIPT), "exec"), scope)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # an untrained network draws its weights
        scope["main"](str(PHOTOGRAPHS[0].path), str(drawing), "timm:test_efficientnet")
    return np.asarray(Image.open(drawing)).astype(float)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_one_line_makes_a_pinet_script_of_a_grad_cam_script(tmp_path, monkeypatch):
    import timm_align.loading

    create = timm_align.loading.create_model

    def without_weights(name, **options):
        return create(name, **{**options, "pretrained": False})

    monkeypatch.setattr(timm_align.loading, "create_model", without_weights)
    code = SCRIPT.read_text(encoding="utf-8")
    assert code.count(AFTER) == 1
    pinet = run(code, tmp_path / "pinet.png")
    grad_cam = run(code.replace(AFTER, BEFORE), tmp_path / "grad_cam.png")
    assert pinet.shape == grad_cam.shape
    # on a pooled linear head both explain the same; ReLU comes before enlarging in one and behind it in the other
    assert np.abs(pinet - grad_cam).mean() < 12


@pytest.mark.parametrize(("page", "code"), blocks(ROOT / "docs" / "gradcam.md"))
def test_the_page_runs(page, code):
    exec(compile(code, str(page), "exec"), {"__name__": "example"})
