"""Image classifiers of transformers by folder: processor, labels, and the meaning of the outputs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from xai_align import compare, explain
from xai_align.data.output_description import describe_output
from xai_align.explanation import logits_of

transformers = pytest.importorskip("transformers")

from hf_align import load_hf_model, plugin  # noqa: E402

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 50, 3), np.uint8))


def configuration(**options):
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    return transformers.ViTConfig(**small, image_size=32, patch_size=8, **options)


def save(folder, **options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.ViTForImageClassification(configuration(**options)).eval()
    model.save_pretrained(folder)
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return model


LABELS = {0: "cat", 1: "dog", 2: "owl"}


@pytest.mark.parametrize(
    ("options", "kind", "names"),
    [
        ({"id2label": LABELS}, None, ("cat", "dog", "owl")),
        ({"id2label": LABELS, "problem_type": "single_label_classification"}, "classes", ("cat", "dog", "owl")),
        ({"id2label": LABELS, "problem_type": "multi_label_classification"}, "multi-label", ("cat", "dog", "owl")),
        ({"num_labels": 1}, "regression", ()),
        ({"num_labels": 1, "problem_type": "multi_label_classification"}, "one logit", ()),
        ({"id2label": {0: "age"}, "problem_type": "regression"}, "regression", ("age",)),
    ],
)
def test_a_folder_says_what_the_outputs_mean(tmp_path, options, kind, names):
    model = save(tmp_path, **options)
    loaded = load_hf_model(f"hf:{tmp_path}")
    assert (loaded.output_kind, loaded.class_names, loaded.random_weights) == (kind, names, False)
    x = loaded.preprocess(PICTURE)[None]
    with torch.no_grad():
        assert torch.equal(logits_of(loaded.model, x), model(x).logits)
    assert describe_output(loaded, logits_of(loaded.model, x)).kind == (kind or "classes")
    assert np.allclose(loaded.scale, ((0.5,) * 3, (0.5,) * 3))


def test_it_is_explained_and_compared(tmp_path):
    save(tmp_path / "model", id2label=LABELS)
    loaded = load_hf_model(f"hf:{tmp_path / 'model'}")
    PICTURE.save(tmp_path / "a.png")
    x = loaded.preprocess(PICTURE)[None]
    found = explain(loaded.model, x, 1)
    assert found.readout.completeness_error.abs().max() < 1e-4
    compared = compare(loaded, tmp_path / "a.png", methods=["pinet", "gradcam", "random"], metrics=["deletion"])
    assert compared.problems == ()


def test_a_head_that_is_not_in_the_files_is_random(tmp_path):
    body = transformers.ViTModel(configuration())
    body.save_pretrained(tmp_path)
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    loaded = load_hf_model(f"hf:{tmp_path}")
    assert loaded.random_weights
    assert "random (untrained): classifier.weight, classifier.bias" in loaded.notes[0]


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(ValueError, match="can't load an image classifier"):
        load_hf_model(f"hf:{tmp_path}")
    save(tmp_path)
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(ValueError, match="image processor"):
        load_hf_model(f"hf:{tmp_path}")


def test_without_transformers_the_advice_is_to_install_it(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'xai-align\[hf\]'"):
        load_hf_model("hf:owner/name")


def test_a_bare_model_has_its_labels_and_the_processor_beside_it(tmp_path):
    save(tmp_path, id2label=LABELS)
    model = transformers.ViTForImageClassification.from_pretrained(tmp_path)
    found = plugin.xai_align_describe_model(model)
    assert found.class_names == ("cat", "dog", "owl")
    assert torch.equal(found.preprocess(PICTURE), load_hf_model(f"hf:{tmp_path}").preprocess(PICTURE))
    fresh = plugin.xai_align_describe_model(transformers.ViTForImageClassification(configuration()))
    assert fresh.preprocess(PICTURE).shape == (3, 32, 32)
    assert "not normalised" in fresh.notes[0]
    assert plugin.xai_align_describe_model(model.train()).model.training
    assert plugin.xai_align_describe_model(torch.nn.Linear(2, 2)) is None
    assert plugin.xai_align_load_model("timm:resnet18") is None
