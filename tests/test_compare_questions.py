"""From a kind of question to the question of one image; boxes through the model's preprocessing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from compare_factory import save_pictures, use_test_metrics
from PIL import Image

from xai_align.comparison.asked_questions import Asking, NoQuestion, parse_asking, read_groups
from xai_align.comparison.image_labels import boxes_on_input, read_labels
from xai_align.comparison.method_reference import MethodReference, parse_methods
from xai_align.data.groups import ClassGroups
from xai_align.question import Question, TargetError
from xai_align.report.compare import compare

NAMES = ("ant", "bee", "cat", "dog", "elk")
GROUPS = ClassGroups.from_dict({"insects": [0, 1], "pets": [2, 3]})
LOGITS = torch.tensor([1.0, 0.5, 3.0, 2.0, 2.5])  # cat, elk, dog, ant, bee


def asked(kind, targets=(), foils=(), groups=GROUPS, logits=LOGITS):
    return parse_asking([kind], targets, foils, NAMES, groups).question(kind, logits)


@pytest.mark.parametrize(
    ("kind", "targets", "foils", "question"),
    [
        ("why", [], [], Question.why(2)),
        ("why", ["bee"], [], Question.why(1)),
        ("why-not", [], [], Question.why_not(2, 4)),
        ("why-not", ["elk"], [], Question.why_not(4, 2)),
        ("why-not", [], ["ant"], Question.why_not(2, 0)),
        ("why-not", ["elk"], ["ant", "bee"], Question.why_group_not([4], [0, 1])),
        ("why-not", [], ["others"], Question.against_all(2)),
        ("why-not-rest", [], [], Question.why_not_rest(2, [2, 3])),
        ("why-not-rest", ["ant"], [], Question.why_not(0, 1)),
        ("group", [], [], Question.why_group([2, 3])),
        ("group", ["ant"], [], Question.why_group([0, 1])),
        ("group", ["ant", "elk"], [], Question.why_group([0, 4])),
        ("group-not", [], [], Question.why_group_not([2, 3], [0, 1])),
        ("group-not", ["ant"], [], Question.why_group_not([0, 1], [2, 3])),
        ("group-not", [], ["bee"], Question.why_group_not([2, 3], [0, 1])),
        ("group-not", [], ["ant", "elk"], Question.why_group_not([2, 3], [0, 4])),
    ],
)
def test_questions(kind, targets, foils, question):
    assert asked(kind, targets, foils) == question


def test_a_class_in_no_group_has_no_group_question():
    for kind in ("why-not-rest", "group", "group-not"):
        with pytest.raises(NoQuestion, match="class 4"):
            asked(kind, ["elk"])
    with pytest.raises(NoQuestion, match="no other group"):
        asked("group-not", groups=ClassGroups.from_dict({"pets": [2, 3]}))
    with pytest.raises(TargetError, match="both a target and a foil"):
        asked("why-not", [], ["cat"])


def test_wordnets_groups_are_the_default_for_imagenet():
    logits = torch.zeros(1000)
    logits[281] = 1  # tabby
    kinds = Asking(kinds=("group", "group-not", "why-not-rest"))
    kinds.check(1000)
    assert kinds.question("group", logits).targets == tuple((index,) for index in range(281, 286))
    against = kinds.question("group-not", logits)
    assert against.foils == tuple((index,) for index in range(288, 294))  # big cats
    assert len(kinds.question("why-not-rest", logits).foils) == 4
    with pytest.raises(ValueError, match="WordNet's are for ImageNet's 1000"):
        kinds.check(10)


def test_groups_from_a_file(tmp_path):
    path = tmp_path / "groups.json"
    path.write_text(json.dumps({"insects": ["ant", 1], "pets": ["cat", "dog"]}))
    assert dict(read_groups(path, NAMES)) == dict(GROUPS)
    for content, told in (
        ("{", "not JSON"),
        ("[1]", "look like"),
        ('{"x": ["cow"]}', "cow"),
        ('{"x": [9]}', "class 9"),
    ):
        path.write_text(content)
        with pytest.raises(ValueError, match=told):
            read_groups(path, NAMES)


def test_methods_are_split_at_the_first_at():
    assert parse_methods(["pinet@blocks.4", " pinet", "pinet"]) == [
        MethodReference("pinet", "blocks.4"),
        MethodReference("pinet"),
    ]
    assert str(MethodReference("pinet", "a@b")) == "pinet@a@b"


# --- boxes ------------------------------------------------------------------------------------------


def crop(image):
    """The middle 8 x 8 of 8 rows and 16 columns, standardised."""
    pixels = np.asarray(image, dtype=np.float32)[:, 4:12] / 255
    return (torch.from_numpy(pixels).permute(2, 0, 1) - 0.4) / 0.2


def test_boxes_go_through_the_crop():
    # columns 6 to 10 of 16, rows 2 to 6 of 8; after the crop columns 2 to 6 of 8
    boxes, mask = boxes_on_input([(0.5, 0.5, 0.25, 0.5)], (16, 8), crop)
    assert boxes.tolist() == [[0.5, 0.5, 0.5, 0.5]]
    expected = torch.zeros(8, 8, dtype=torch.bool)
    expected[2:6, 2:6] = True
    assert torch.equal(mask, expected)


def test_a_box_that_is_cropped_away_is_none_and_one_at_the_edge_is_cut():
    boxes, mask = boxes_on_input([(0.1, 0.5, 0.2, 1.0), (0.25, 0.5, 0.25, 1.0)], (16, 8), crop)
    # the first covers columns 0 to 3, all before the crop; the second 2 to 6, of which 4 and 5 are left
    assert boxes.tolist() == [[0.125, 0.5, 0.25, 1.0]]
    assert mask.sum() == 16
    assert mask[:, :2].all()


def test_labels_are_read_and_wrong_ones_are_told(tmp_path):
    entries = [
        {"file": "a.png", "label": 1},
        {"file": "b.png", "label": None, "imagenet_class": 2, "boxes_xywh_centre_norm": [[0.5, 0.5, 1, 1]]},
    ]
    (tmp_path / "labels.json").write_text(json.dumps(entries))
    paths = [tmp_path / name for name in ("a.png", "b.png", "c.png")]
    known = read_labels(paths)
    assert known[paths[0]].label == 1
    assert known[paths[1]].label == 2
    assert known[paths[1]].boxes == ((0.5, 0.5, 1.0, 1.0),)
    assert paths[2] not in known
    for content, told in (("{", "not JSON"), ("{}", "should be a list"), ('[{"label": 1}]', "entry 0")):
        (tmp_path / "labels.json").write_text(content)
        with pytest.raises(ValueError, match=told):
            read_labels(paths)


def test_metrics_that_ask_for_boxes_get_them_where_there_are_any(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    use_test_metrics(monkeypatch.setitem)
    pictures = save_pictures(tmp_path / "pictures", ("a_red", "b_green", "d_mixed"))
    Image.new("RGB", (8, 8), "red").save(pictures / "all_red.png")
    entries = [
        {"file": "a_red.png", "label": 0, "boxes_xywh_centre_norm": [[0.25, 0.5, 0.5, 1.0]]},  # the left half
        {"file": "b_green.png", "label": 3, "boxes_xywh_centre_norm": [[0.25, 0.5, 0.5, 1.0], [0.75, 0.25, 0.5, 0.5]]},
        {"file": "d_mixed.png", "label": 0},
    ]
    (pictures / "labels.json").write_text(json.dumps(entries))
    got = compare(
        "cli_factory:load", [pictures], methods=["saliency"], metrics=["inside", "boxed"], device="cpu", batch_size=3
    )
    inside, boxed = got.summaries
    assert not got.problems
    assert (inside.n, inside.missing, boxed.n) == (2, 2, 2)
    # the gradient is the same everywhere: the share inside is the share of the picture
    assert inside.mean == pytest.approx((0.5 + 0.75) / 2)
    assert boxed.mean == pytest.approx((0.5 + 1.0) / 2)
    assert "inside does not apply without boxes (2 images)" in got.notes
    assert "the model predicts the label of 2 of 3 labelled images" in got.notes


def test_groups_can_be_what_the_model_confuses(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    use_test_metrics(monkeypatch.setitem)
    seen = []
    known = ClassGroups.from_confusion

    def spy(probabilities):
        seen.append(probabilities.shape)
        return known(probabilities, top=2)

    monkeypatch.setattr(ClassGroups, "from_confusion", spy)
    got = compare(
        "cli_factory:load",
        save_pictures(tmp_path / "pictures"),
        methods=["pinet"],
        metrics=["mass"],
        question="group",
        groups="confusion",
        device="cpu",
    )
    assert seen == [(7, 4)]
    assert got.provenance["settings"]["groups"]
    assert got.summaries[0].n + got.summaries[0].missing == 7
