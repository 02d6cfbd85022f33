"""A training recipe of a plugin: how it is built by name, what options it has, and what is said when it is wrong."""

from __future__ import annotations

import pytest
import torch
from align_factory import bends, loader
from plugin_site import site_in

from xai_align import TrainingRecipeSpec, plugins
from xai_align.align import AlignTrainer, Recipe, recipe
from xai_align.align.recipe_by_name import recipe_options

HOOK = """
from xai_align.align import Classification, Recipe, recipe

@hookimpl
def xai_align_training_recipes():
    return [training(name, build) for name, build in RECIPES.items()]
"""


@pytest.fixture
def offered(tmp_path, monkeypatch):
    """Install a plugin whose code defines RECIPES; the core's own plugin stays in use."""
    with site_in(tmp_path, monkeypatch, keep=("builtin",)) as site:
        yield lambda code: site.add("mine", HOOK + code)


SMOOTHED = """
def smoothed(*, amount=0.1, **classification):
    return Recipe(name="whatever", terms=(Classification(label_smoothing=amount, **classification),))

RECIPES = {"smoothed": smoothed}
"""


def test_a_recipe_of_a_plugin_is_built_with_its_options_and_carries_its_registered_name(offered):
    offered(SMOOTHED)
    built = recipe("smoothed", amount=0.3, class_weights=[1.0, 2.0, 1.0])
    assert isinstance(built, Recipe)
    assert built.name == "smoothed"
    assert built.terms[0].label_smoothing == 0.3
    assert built.terms[0].class_weights.tolist() == [1.0, 2.0, 1.0]
    assert recipe_options("smoothed") == ("amount", "label_smoothing", "class_weights", "criterion")


def test_the_trainer_takes_it_by_name(offered):
    offered(SMOOTHED)
    trainer = AlignTrainer(bends(), recipe="smoothed")
    assert "recipe='smoothed'" in repr(trainer)
    done = trainer.fit(loader(), epochs=1)
    assert torch.isfinite(torch.tensor(done.history[0]["classification"]))


def test_a_recipe_may_extend_one_of_the_core(offered):
    offered("def plain(): return recipe('align', mixup=0.0, sparsity=3.0)\nRECIPES = {'plain': plain}")
    built = recipe("plain")
    assert (built.name, built.masker_terms[1].weight) == ("plain", 3.0)
    assert [term.name for term in built.terms] == ["classification", "alignment"]
    assert recipe_options("plain") == ()


@pytest.mark.parametrize(
    ("build", "options"),
    [
        ("lambda: None", ()),
        ("lambda *, a=1, b=2: None", ("a", "b")),
        ("lambda a=1, *, b=2: None", ("a", "b")),
        ("lambda a=1, /, b=2, *rest: None", ("b",)),
        ("lambda **rest: None", ("label_smoothing", "class_weights", "criterion")),
        ("lambda *, criterion=None, **rest: None", ("criterion", "label_smoothing", "class_weights")),
        ("dict.fromkeys", ("iterable", "value")),
        ("type('Maker', (), {'__init__': lambda self, a=1: None})", ("a",)),
    ],
)
def test_the_options_are_what_can_be_given_by_name(offered, build, options):
    offered(f"RECIPES = {{'odd': {build}}}")
    if build == "dict.fromkeys":
        options = ()  # its parameters are for positions only
    assert recipe_options("odd") == options


@pytest.mark.parametrize(
    ("code", "options", "error", "said"),
    [
        ("lambda: None", {"a": 1}, TypeError, "the training recipe 'odd' has no option 'a'; it takes none"),
        ("lambda *, b=1: None", {"a": 1}, TypeError, "the training recipe 'odd' has no option 'a'; it takes b"),
        ("lambda *, a: None", {}, TypeError, "the training recipe 'odd' needs the option 'a'"),
        ("lambda: {}", {}, TypeError, r"'odd' of plugin 'mine' \(mine-dist 1.2\) is built as a dict; `build` must"),
        ("lambda: 'align'", {}, TypeError, "is built as a str; `build` must return a xai_align.align.Recipe"),
        ("lambda: Recipe", {}, TypeError, "is built as a type; `build` must"),
        (
            "lambda: recipe('align', sparsity=-1)",
            {},
            ValueError,
            "weight of sparsity must be a non-negative number, got -1",
        ),
    ],
)
def test_what_cannot_be_built_says_why(offered, code, options, error, said):
    offered(f"RECIPES = {{'odd': {code}}}")
    with pytest.raises(error, match=said):
        recipe("odd", **options)


def test_an_unknown_recipe_is_told_what_there_is(offered):
    offered(SMOOTHED)
    with pytest.raises(ValueError, match=r"no training recipe 'smothed'; did you mean 'smoothed'\? Known: erm, .*smoo"):
        recipe("smothed")
    with pytest.raises(ValueError, match=r"no training recipe 'zebra'\. Known: erm, sgt"):
        AlignTrainer(bends(), recipe="zebra")


def test_the_core_keeps_its_names(offered):
    offered("RECIPES = {'align': lambda: None, 'other': lambda: recipe('erm')}")
    with pytest.warns(plugins.PluginWarning, match="duplicate: 'align' of xai_align_training_recipes is taken"):
        assert recipe("align").trains_masker
    assert recipe("other").name == "other"


def test_without_the_cores_plugin_the_recipes_of_others_are_there(tmp_path, monkeypatch):
    with site_in(tmp_path, monkeypatch) as site:
        site.add("mine", HOOK + SMOOTHED)
        assert list(plugins.training_recipes()) == ["smoothed"]
        assert recipe("smoothed").terms[0].label_smoothing == 0.1


@pytest.mark.parametrize(
    "given", [None, 3, ["align"], recipe, TrainingRecipeSpec(name="align", build=dict, summary="")]
)
def test_the_trainer_takes_nothing_else_for_a_recipe(given):
    with pytest.raises(TypeError, match=r"recipe is a \w+; give a xai_align.align.Recipe, or the name of one"):
        AlignTrainer(bends(), recipe=given)
