"""Named groups of classes: what WordNet says of ImageNet, what a model confuses, what is refused."""

from __future__ import annotations

import importlib.util
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from xai_align.data.groups import ClassGroups
from xai_align.data.imagenet_groups import TABLE, default_foil, default_group, find_hypernym, hypernyms

ROOT = Path(__file__).parent.parent


def generator():
    spec = importlib.util.spec_from_file_location("generator", ROOT / "scripts" / "generate_imagenet_groups.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["generator"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


# two animals, of which the second is a pet too, and below it two kinds of dog; offsets made up
NOUNS = """\
  1 This line stands for the licence, which begins with two spaces.
00000100 03 n 01 animal 0 000 | something that moves
00000200 03 n 02 pet 0 house_friend 0 001 @ 00000100 n 0000 | lives with people | and not alone
00000300 05 n 01 dog 0 003 @ 00000200 n 0000 @ 00000100 n 0000 #m 00000900 n 0000 | barks
00000400 05 n 01 Samoyed 0 001 @ 00000300 n 0000 | white
00000500 05 n 0a a 0 b 0 c 0 d 0 e 0 f 0 g 0 h 0 i 0 j 0 002 @i 00000300 n 0000 + 00000999 v 0101 | ten names
00000600 05 n 01 axolotl 0 001 @ 00000100 n 0000 | pink
"""


def test_nouns_are_parsed():
    synsets = generator().parse_nouns(NOUNS.splitlines())
    assert list(synsets) == [f"n00000{n}00" for n in range(1, 7)]
    assert synsets["n00000200"].names == ("pet", "house friend")
    assert synsets["n00000300"].hypernyms == ("n00000200", "n00000100")  # not the member pointer #m
    assert synsets["n00000500"].names == tuple("abcdefghij")  # the count of words is hexadecimal
    assert synsets["n00000500"].hypernyms == ("n00000300",)


def test_the_table_has_each_group_of_two_or_more_once_narrow_ones_first():
    module = generator()
    text = module.table(module.parse_nouns(NOUNS.splitlines()), ["n00000600", "n00000500", "n00000400"])
    rows = [line for line in text.splitlines() if not line.startswith("#")]
    # dog and pet hold the same classes, and dog is the deeper
    assert rows == [
        "n00000300\tn00000200,n00000100\tdog\t1-2",
        "n00000200\tn00000100\tpet|house friend\t1-2",
        "n00000100\t\tanimal\t0-2",
    ]


def test_the_generator_refuses_classes_that_wordnet_lacks():
    module = generator()
    synsets = module.parse_nouns(NOUNS.splitlines())
    with pytest.raises(ValueError, match="the first is n00000777"):
        module.table(synsets, ["n00000300", "n00000777"])
    with pytest.raises(ValueError, match="two classes"):
        module.table(synsets, ["n00000300", "n00000300"])


@given(st.sets(st.integers(0, 60), min_size=1))
def test_ranges_say_what_the_loader_reads(indices):
    from xai_align.data.imagenet_groups import _parsed

    text = generator().ranges(sorted(indices))
    assert _parsed(f"n1\t\tname\t{text}").classes == tuple(sorted(indices))


def test_the_generator_writes_the_same_bytes_again(tmp_path):
    (tmp_path / "data.noun").write_text(NOUNS)
    (tmp_path / "classes").write_text("n00000600\nn00000500\nn00000400\n")
    module = generator()
    tables = []
    for name in ("one", "two"):
        paths = [str(tmp_path / part) for part in ("data.noun", "classes", name)]
        assert module.main(paths) == 0
        tables.append((tmp_path / name).read_bytes())
    assert tables[0] == tables[1]
    assert module.main([]) == 2


# counted in WordNet 3.0 with the class order of ILSVRC 2012
FACTS = {
    "dog": ("n02084071", list(range(151, 269))),
    "terrier": ("n02092468", list(range(179, 205))),
    "spitz": ("n02111626", [258, 259, 260, 261]),
    "domestic cat": ("n02121808", [281, 282, 283, 284, 285]),
    "big cat": ("n02127808", [288, 289, 290, 291, 292, 293]),
    "bird": ("n01503061", [*range(7, 25), *range(80, 101), *range(127, 147)]),
    "snake": ("n01726692", list(range(52, 69))),
    "fish": ("n02512053", [*range(7), *range(389, 398)]),
    "insect": ("n02159955", list(range(300, 327))),
    "truck": ("n04490091", [555, 569, 656, 675, 717, 734, 864, 867]),
    "automobile": ("n02958343", [407, 436, 468, 511, 609, 627, 656, 661, 751, 817]),
}


@pytest.mark.parametrize("name", FACTS)
def test_imagenet_facts(name):
    wnid, classes = FACTS[name]
    groups = ClassGroups.from_hypernyms([name])
    assert dict(groups) == {wnid: tuple(classes)}
    assert ClassGroups.from_hypernyms([wnid]) == groups
    assert groups.num_classes == 1000


def test_the_whole_table_hangs_together():
    groups = ClassGroups.from_hypernyms()
    assert groups["n00001740"] == tuple(range(1000))  # entity: every class has its place
    for wnid, hypernym in hypernyms().items():
        assert len(hypernym.classes) >= 2
        for above in hypernym.above:
            assert set(hypernym.classes) <= set(groups[above]), wnid
    assert TABLE.stat().st_size < 50_000


def test_the_classes_are_in_timms_order():
    from timm.data import ImageNetInfo

    names = [ImageNetInfo().index_to_description(index) for index in find_hypernym("spitz").classes]
    assert [name.split(",")[0] for name in names] == ["Samoyed", "Pomeranian", "chow", "keeshond"]
    assert all("terrier" in ImageNetInfo().index_to_description(index) for index in (179, 180, 193, 202))


def test_an_unclear_name_lists_the_groups_it_may_mean():
    six, seven = r"n02127808 \(big cat, cat; 6 classes\)", r"n02121620 \(cat, true cat; 7 classes\)"
    for name in ("cat", " CAT "):
        with pytest.raises(ValueError, match=f"means 2 groups: {six}, {seven}; ask by wnid"):
            ClassGroups.from_hypernyms([name])
    assert find_hypernym("true_cat").wnid == "n02121620"


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match=r"called 'hunting dogs'; did you mean hunting dog "):
        find_hypernym("hunting dogs")
    with pytest.raises(ValueError, match="unicorn"):
        ClassGroups.from_hypernyms(["dog", "unicorn"])
    with pytest.raises(TypeError, match="one string"):
        ClassGroups.from_hypernyms("dog")


@pytest.mark.parametrize(
    ("index", "group", "foil"),
    [
        (258, "spitz", "toy dog"),
        (281, "domestic cat", "big cat"),
        (269, "wolf", "fox"),
        (914, "boat", "ship"),
        (817, "car", "military vehicle"),
    ],
)
def test_default_groups_are_narrow_and_their_foils_stand_beside(index, group, foil):
    chosen = default_group(index)
    assert chosen.names[0] == group
    assert default_foil(chosen.wnid).names[0] == foil


def test_every_class_has_a_default_group_and_nearly_every_one_a_foil():
    without = 0
    for index in range(1000):
        chosen = default_group(index)
        assert index in chosen.classes
        assert len(chosen.classes) >= 4
        smaller = [one for one in hypernyms().values() if 4 <= len(one.classes) < len(chosen.classes)]
        assert not any(index in one.classes for one in smaller)
        try:
            foil = default_foil(chosen.wnid)
        except ValueError:
            without += 1
            continue
        assert not set(foil.classes) & set(chosen.classes)
        assert len(foil.classes) >= 4
    assert without == 6  # those whose narrowest group is "abstraction" or "causal agent"


@pytest.mark.parametrize(
    ("index", "error"), [(1000, ValueError), (-1, ValueError), (1.0, TypeError), (True, TypeError)]
)
def test_default_groups_are_for_classes_of_imagenet(index, error):
    with pytest.raises(error, match="class"):
        default_group(index)


def test_no_foil_stands_beside_everything():
    with pytest.raises(ValueError, match=r"entity .* name the foils"):
        default_foil("n00001740")
    with pytest.raises(ValueError, match="no group holds 1001"):
        default_group(3, at_least=1001)


def test_overlap_is_named():
    overlapping = ClassGroups.from_hypernyms(["truck", "automobile"])
    with pytest.raises(ValueError, match=r"1 class is .* 656 in 'n04490091', 'n02958343'"):
        overlapping.disjoint()
    assert overlapping.groups_of(656) == ("n04490091", "n02958343")  # eight classes, ten classes
    with pytest.raises(ValueError, match=r"2 in 'a', 'b'"):
        ClassGroups.from_dict({"a": [1, 2], "b": [2, 3]})
    apart = ClassGroups.from_hypernyms(["dog", "bird"])
    assert apart.disjoint() is apart


def test_a_class_belongs_to_the_smallest_group_and_of_equal_ones_to_the_first():
    groups = ClassGroups.from_overlapping_dict({"all": range(5), "odd": [1, 3], "first": [0, 1]})
    assert groups.group_of(1) == "odd"
    assert groups.groups_of(1) == ("odd", "first", "all")
    assert groups.siblings(1) == (3,)
    assert groups.siblings(4) == (0, 1, 2, 3)
    assert groups.groups_of(9) == ()
    with pytest.raises(ValueError, match="class 9 is in none of the 3 groups"):
        groups.group_of(9)


def test_groups_are_a_mapping_that_does_not_change():
    members = [3, 1]
    given = {"a": members}
    groups = ClassGroups.from_dict(given, num_classes=4)
    members.append(2)
    given["b"] = [0]
    assert dict(groups) == {"a": (1, 3)}
    assert groups == {"a": (1, 3)}
    with pytest.raises(TypeError):
        groups["b"] = (2,)
    with pytest.raises(AttributeError):
        groups.num_classes = 7
    assert pickle.loads(pickle.dumps(groups)) == groups
    assert "a: 2" in repr(groups)


@pytest.mark.parametrize(
    "members", [range(1, 3), (2, 1), {1, 2}, np.array([1, 2]), torch.tensor([2, 1]), [np.int64(1), 2]]
)
def test_members_come_in_any_collection(members):
    assert ClassGroups.from_dict({"a": members})["a"] == (1, 2)


@pytest.mark.parametrize(
    ("members", "error", "message"),
    [
        ([], ValueError, "'a' is empty"),
        ([1, 1], ValueError, r"'a' names \[1\] more than once"),
        ([-1], ValueError, "class -1; classes are numbered from 0"),
        ([10], ValueError, "class 10; there are 10, numbered 0 … 9"),
        ([1.0], TypeError, "1.0; class indices are integers"),
        ([True, 2], TypeError, "True; class indices are integers"),
        (["1"], TypeError, "'1'; class indices are integers"),
        (torch.tensor([1.5]), TypeError, "1.5; class indices"),
        (np.array([True]), TypeError, "True; class indices"),
        ([np.bool_(True)], TypeError, "class indices are integers"),
        (torch.tensor(1), TypeError, "give class indices"),
        ("12", TypeError, "give class indices"),
        (3, TypeError, "give class indices"),
    ],
)
def test_bad_members_are_refused(members, error, message):
    with pytest.raises(error, match=message):
        ClassGroups.from_dict({"a": members}, num_classes=10)


def test_bad_mappings_are_refused():
    with pytest.raises(TypeError, match="list"):
        ClassGroups.from_dict([[1, 2]])
    with pytest.raises(TypeError, match="called 7"):
        ClassGroups.from_dict({7: [1]})
    with pytest.raises(ValueError, match="num_classes must be a positive integer, got 0"):
        ClassGroups.from_dict({"a": [1]}, num_classes=0)
    with pytest.raises(ValueError, match="the question names class 12"):
        ClassGroups.from_dict({"a": [1]}, num_classes=10).groups_of(12)


def test_check_compares_with_an_output():
    open_ended = ClassGroups.from_dict({"a": [1, 5]})
    assert open_ended.check(6) is open_ended
    with pytest.raises(ValueError, match="'a' names class 5; there are 5"):
        open_ended.check(5)
    # a net of 21841 classes has the numbers too, but they mean other things
    with pytest.raises(ValueError, match="for 1000 classes, this output has 21841"):
        ClassGroups.from_hypernyms(["dog"]).check(21841)


def confusions(pairs, num_classes):
    """Probabilities whose two first choices are the pairs."""
    scores = torch.zeros(len(pairs), num_classes)
    for row, (first, second) in zip(scores, pairs, strict=True):
        row[first], row[second] = 0.6, 0.4
    return scores


def test_classes_that_turn_up_together_are_grouped():
    # 0 and 3 always go together; 1 goes with 4 three times of four and once with 5; 2 is never seen
    probabilities = confusions([(0, 3), (3, 0), (1, 4), (4, 1), (1, 4), (1, 5)], 6)
    groups = ClassGroups.from_confusion(probabilities, top=2, overlap=0.5)
    assert dict(groups) == {"confused-0": (0, 3), "confused-1": (1, 4)}  # 3/4 alike; 1 and 5 only 1/4
    assert groups.num_classes == 6
    # average linkage: {1, 4} and 5 are (1/4 + 0) / 2 alike
    assert ClassGroups.from_confusion(probabilities, top=2, overlap=0.126)["confused-1"] == (1, 4)
    assert ClassGroups.from_confusion(probabilities, top=2, overlap=0.125)["confused-1"] == (1, 4, 5)
    assert ClassGroups.from_confusion(probabilities, top=2, overlap=0.125, largest=2)["confused-1"] == (1, 4)


def test_average_linkage_agrees_with_means_over_all_pairs():
    probabilities = torch.rand(60, 12, generator=torch.Generator().manual_seed(3)).softmax(1)
    top, overlap = 4, 0.19
    first = probabilities.argsort(1, descending=True)[:, :top].tolist()

    def alike(i, j):
        both = sum(i in row and j in row for row in first)
        return both / sum(i in row or j in row for row in first)

    groups = [(index,) for index in range(12)]
    while len(groups) > 1:
        means = {
            (a, b): sum(alike(i, j) for i in a for j in b) / (len(a) * len(b)) for a in groups for b in groups if a < b
        }
        (a, b), best = max(means.items(), key=lambda item: item[1])
        if best < overlap:
            break
        groups = [one for one in groups if one not in (a, b)] + [tuple(sorted(a + b))]
    expected = {f"confused-{one[0]}": one for one in groups if len(one) > 1}
    assert len(expected) > 1  # otherwise this would compare nothing
    assert dict(ClassGroups.from_confusion(probabilities, top=top, overlap=overlap)) == expected


def test_ties_across_the_last_place_say_nothing():
    # certain of one class: the others are tied at zero, and none of them is confused with it
    assert dict(ClassGroups.from_confusion(torch.eye(8), top=5)) == {}
    assert dict(ClassGroups.from_confusion(torch.full((4, 8), 1 / 8), top=5)) == {}


@pytest.mark.parametrize(
    ("probabilities", "options", "error", "message"),
    [
        (torch.ones(3), {}, ValueError, r"shape \[3\]"),
        (torch.ones(0, 9), {}, ValueError, "shape"),
        (torch.ones(3, 1), {}, ValueError, "shape"),
        (torch.tensor([[0.1, float("nan"), 0.2, 0.3]]), {"top": 2}, ValueError, "NaN"),
        (torch.ones(2, 9, dtype=torch.int64), {}, TypeError, "int64"),
        ([[0.5, 0.5]], {}, TypeError, "list"),
        (torch.ones(2, 9), {"top": 1}, ValueError, "top must be from 2 to 8"),
        (torch.ones(2, 9), {"top": 9}, ValueError, "top must be from 2 to 8"),
        (torch.ones(2, 9), {"overlap": 0.0}, ValueError, "overlap"),
        (torch.ones(2, 9), {"largest": 1}, ValueError, "largest"),
    ],
)
def test_bad_confusions_are_refused(probabilities, options, error, message):
    with pytest.raises(error, match=message):
        ClassGroups.from_confusion(probabilities, **options)
