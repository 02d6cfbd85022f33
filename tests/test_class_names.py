"""From what a person types to a question."""

from __future__ import annotations

import pytest

from xai_align.data.class_names import class_name, find_class, parse_sides, question_about
from xai_align.question import Question, TargetError

NAMES = ("tabby, tabby cat", "tiger cat", "tiger", "tiger shark", "missile", "projectile, missile", "Lynx")


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("3", 3),
        (" 0 ", 0),
        ("tiger", 2),  # the full name goes before the parts of others
        ("TIGER CAT", 1),
        ("tabby cat", 0),  # one of several names
        ("missile", 4),  # a full name goes before one of several
        ("shark", 3),  # a part that only one name has
        ("lynx", 6),
    ],
)
def test_a_class_is_found_by_number_name_or_part(typed, meant):
    assert find_class(typed, NAMES) == meant


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("tig", "is ambiguous.*'tiger cat' \\(1\\), 'tiger' \\(2\\), 'tiger shark' \\(3\\)"),
        ("tigr cat", "did you mean 'tiger cat' \\(1\\)"),
        ("white shark", "did you mean 'tiger shark' \\(3\\)"),
        ("zzz", "no class is called 'zzz'; give a class name of the model, or an index 0 … "),
        ("", "no class is called ''; give a class name"),
        ("7", "out of range.*has 7"),
        ("-1", "-1"),
    ],
)
def test_what_cannot_be_found_is_told_with_candidates(typed, told):
    with pytest.raises(TargetError, match=told):
        find_class(typed, NAMES)


def test_without_names_only_numbers_do():
    assert find_class("12", ()) == 12
    with pytest.raises(TargetError, match="no class names"):
        find_class("cat", ())


def test_a_class_is_called_by_its_first_name_or_its_number():
    assert [class_name(index, NAMES) for index in (0, 6, 7)] == ["tabby", "Lynx", "class 7"]


@pytest.mark.parametrize(
    ("targets", "foils", "question"),
    [
        ([], [], Question.why(5)),
        ([1], [], Question.why(1)),
        ([1, 2], [], Question.why_group([1, 2])),
        ([], [2], Question.why_not(5, 2)),
        ([1, 2], [3, 4], Question.why_group_not([1, 2], [3, 4])),
        ([], None, Question.against_all(5)),
        ([1, 2, 1], None, Question(((1,), (2,)), None)),
    ],
)
def test_two_sides_make_a_question(targets, foils, question):
    assert question_about(targets, foils, predicted=5) == question


def test_a_class_cannot_stand_on_both_sides():
    with pytest.raises(TargetError, match="both a target and a foil"):
        question_about([], [5], predicted=5)


def test_others_are_all_the_other_classes():
    assert parse_sides(["tiger"], ["Others"], NAMES) == ([2], None)
    assert parse_sides([], ["lynx", "0"], NAMES) == ([], [6, 0])
    with pytest.raises(TargetError, match="already stands for every other class"):
        parse_sides([], ["others", "lynx"], NAMES)


def test_case_matters_between_names_that_differ_in_nothing_else():
    names = ("polo", "Polo", "polo shirt")
    assert [find_class(typed, names) for typed in ("polo", "Polo", " Polo ")] == [0, 1, 1]
    with pytest.raises(TargetError, match=r"'POLO' is ambiguous: it may be 'polo' \(0\), 'Polo' \(1\)$"):
        find_class("POLO", names)
    with pytest.raises(TargetError, match="ambiguous"):
        find_class("Car", ("Car", "Car", "car"))
