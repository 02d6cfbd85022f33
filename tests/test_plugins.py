"""Plugins are found as installed distributions, and one that is wrong is named and stops no other."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import warnings
from pathlib import Path
from textwrap import dedent

import pytest
from plugin_site import site_in
from torch import nn

from xai_align import plugins
from xai_align.plugins import PluginError, PluginWarning

SOURCES = Path(plugins.__file__).parents[1]
OPTIONAL = ("xai_align.align", "captum", "timm", "torchvision", "cv2", "matplotlib", "pytorch_grad_cam", "typer")


def offering(*names: str) -> str:
    return f"""
    @hookimpl
    def xai_align_attributions():
        return [method(name) for name in {names!r}]
    """


@pytest.fixture
def site(tmp_path, monkeypatch):
    """An environment where the only plugins in use are the test's."""
    with site_in(tmp_path, monkeypatch) as site:
        yield site


def rows() -> dict[str, plugins.PluginRecord]:
    return {row.name: row for row in plugins.plugin_table()}


def message_of(ask) -> str:
    """The one warning about plugins that ``ask`` gives."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ask()
    (warning,) = [one for one in caught if issubclass(one.category, PluginWarning)]
    return str(warning.message)


# --- what works -------------------------------------------------------------------------------------


def test_plugin_is_found_and_its_records_come_with_their_origin(site):
    site.add("good", offering("alpha", "beta"), distribution="good-methods", version="3.1")
    assert [name for name in plugins.attribution_methods() if name in {"alpha", "beta"}] == ["alpha", "beta"]
    assert plugins.attribution_method("beta").summary == "a test's"
    row = plugins.origin("alpha")
    assert (row.name, row.distribution, row.version) == ("good", "good-methods", "3.1")
    assert row.hooks == ("xai_align_attributions",)
    assert (row.status, row.reason) == ("ok", "")
    assert row in plugins.plugin_table()


def test_metric_and_method_of_one_name_are_two_things(site):
    site.add("one", offering("same"))
    site.add("two", "@hookimpl\ndef xai_align_metrics():\n    return (measure(name) for name in ['same'])")
    assert plugins.metric("same").higher_is_better
    assert plugins.origin("same").name == "one"
    assert plugins.origin("same", kind="metric").name == "two"


def test_training_recipe_is_found_and_comes_with_its_origin(site):
    site.add("one", offering("same"))
    site.add("two", "@hookimpl\ndef xai_align_training_recipes():\n    return [training('same'), training('other')]")
    assert list(plugins.training_recipes()) == ["same", "other"]
    assert plugins.training_recipe("other").summary == "a test's"
    assert plugins.origin("same", kind="training_recipe").name == "two"
    assert plugins.origin("same").name == "one"
    with pytest.raises(ValueError, match=r"no training recipe 'othr'; did you mean 'other'\? Known: same, other"):
        plugins.training_recipe("othr")


def test_origin_of_an_unknown_kind_is_refused(site):
    site.add("good", offering("alpha"))
    with pytest.raises(ValueError, match="kind must be 'attribution', 'metric' or 'training_recipe', got 'recipe'"):
        plugins.origin("alpha", kind="recipe")


def test_changing_the_answer_does_not_change_the_next_one(site):
    site.add("good", offering("alpha"))
    plugins.attribution_methods().clear()
    assert "alpha" in plugins.attribution_methods()


def test_ours_come_first_and_the_rest_sorted_by_distribution(site):
    site.add("a", offering("from_a"), distribution="zoo")
    site.add("z", offering("from_z"), distribution="ark")
    site.add("own_test", offering("from_own"), distribution="XAI_Align")
    assert list(plugins.attribution_methods()) == ["from_own", "from_z", "from_a"]


def test_ours_keep_their_names_also_against_a_plugin_that_wants_to_be_first(site):
    greedy = offering("pinet_test").replace("@hookimpl", "@hookimpl(trylast=True)")
    site.add("greedy", greedy, distribution="aaa")
    site.add("own_test", offering("pinet_test"), distribution="xai-align")
    message = message_of(plugins.attribution_methods)
    assert "plugin 'greedy' (aaa 1.2)" in message
    assert plugins.origin("pinet_test").name == "own_test"


LOADER = """
@hookimpl
def xai_align_load_model(reference):
    if reference.startswith("zoo:"):
        return LoadedModel(model=nn.Identity(), preprocess=str, class_names=("{who}",))
"""


def test_third_parties_are_asked_for_a_model_before_us(site):
    site.add("own_test", LOADER.format(who="we"), distribution="xai-align")
    assert plugins.load_model("zoo:lion").class_names == ("we",)
    site.add("third", LOADER.format(who="they"))
    assert plugins.load_model("zoo:lion").class_names == ("they",)


def test_feature_space_is_the_first_that_is_known_else_none(site):
    site.add(
        "spaces",
        """
        @hookimpl
        def xai_align_feature_space(model, layer):
            return FeatureSpace(layer=layer or "0") if isinstance(model, nn.Sequential) else None
        """,
    )
    assert plugins.feature_space(nn.Sequential(nn.Identity())).layer == "0"
    assert plugins.feature_space(nn.Sequential(nn.Identity()), "last").layer == "last"
    assert plugins.feature_space(nn.Identity()) is None


NEW_HEAD = """
@hookimpl
def xai_align_classifier(model, num_classes):
    if isinstance(model, nn.Linear):
        return nn.Linear(model.in_features, num_classes + {more})
"""


def test_third_parties_are_asked_for_a_new_head_before_us(site):
    site.add("own_test", NEW_HEAD.format(more=100), distribution="xai-align")
    assert plugins.classifier(nn.Linear(4, 2), 3).out_features == 103
    site.add("third", NEW_HEAD.format(more=0))
    assert plugins.classifier(nn.Linear(4, 2), 3).out_features == 3
    with pytest.raises(
        ValueError, match="cannot give Identity a head for 3 classes: no plugin knows such models"
    ) as no:
        plugins.classifier(nn.Identity(), 3)
    assert "write the hook xai_align_classifier" in str(no.value)
    assert "Plugins asked: third, own_test" in str(no.value)


def test_hook_may_take_fewer_arguments_than_it_is_offered(site):
    site.add("few", "@hookimpl\ndef xai_align_feature_space():\n    return FeatureSpace(layer='input')")
    assert plugins.feature_space(nn.Identity()).layer == "input"


def test_a_plugin_may_name_a_hook_of_another_version_as_optional(site):
    future = "@hookimpl(optionalhook=True)\ndef xai_align_hook_of_tomorrow():\n    return 1\n"
    site.add("both", future + dedent(offering("alpha")))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "alpha" in plugins.attribution_methods()


def test_manager_is_made_once_and_anew_after_a_reset(site):
    site.add("good", offering("alpha"))
    manager = plugins.get_plugin_manager()
    assert manager is plugins.get_plugin_manager()
    assert manager.has_plugin("good")
    plugins.reset_plugins()
    assert manager is not plugins.get_plugin_manager()


def test_without_any_entry_point_there_is_nothing_and_no_error(site, monkeypatch):
    monkeypatch.setattr("xai_align.plugins.loading.entry_points", lambda group: ())
    assert plugins.plugin_table() == []
    assert plugins.attribution_methods() == plugins.metrics() == plugins.training_recipes() == {}
    assert plugins.feature_space(nn.Identity()) is None
    with pytest.raises(ValueError, match=r"there is no metric 'x'\. Known: none"):
        plugins.metric("x")


# --- plugins that cannot be used --------------------------------------------------------------------

UNUSABLE = {
    "broken": ("raise RuntimeError('no GPU here')", ["broken: importing", "RuntimeError: no GPU here"]),
    "exiting": ("raise SystemExit(3)", ["broken: importing", "SystemExit: 3"]),
    "missing": ("import a_module_that_nobody_has", ["ModuleNotFoundError", "a_module_that_nobody_has"]),
    "misspelt": (
        "@hookimpl\ndef xai_align_atribution():\n    return []",
        ["no hook 'xai_align_atribution'", "did you mean 'xai_align_attributions'?"],
    ),
    "far_off": (
        "@hookimpl\ndef zebra():\n    return []",
        ["no hook 'zebra'. The hooks are xai_align_attributions, "],
    ),
    "extra_argument": (
        "@hookimpl\ndef xai_align_feature_space(model, device):\n    return None",
        ["outdated", "xai_align_feature_space", "{'device'}"],
    ),
    "other_contract": (
        "XAI_ALIGN_CONTRACT = 2\n" + dedent(offering("alpha")),
        ["outdated: written for plugin contract 2, and this xai-align uses 1"],
    ),
    "unmarked": (
        "def xai_align_metrics():\n    return []",
        ["xai_align_metrics is not marked", "@xai_align.hookimpl"],
    ),
    "empty": ("", ["no hook is implemented", "xai_align_load_model"]),
    "wrapper": (
        "@hookimpl(wrapper=True)\ndef xai_align_metrics():\n    return (yield)",
        ["'xai_align_metrics' is a hook wrapper"],
    ),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_unusable_plugin_is_named_with_its_reason_and_the_rest_work(site, name):
    code, reasons = UNUSABLE[name]
    site.add("a_before", offering("before"))
    site.add(name, code, distribution=f"m-{name}", version="0.7")
    site.add("z_after", offering("after"))
    message = message_of(plugins.plugin_table)
    assert message.startswith(f"plugin '{name}' (m-{name} 0.7): ")
    assert [reason for reason in reasons if reason not in message] == []
    assert {"before", "after"} <= set(plugins.attribution_methods())
    assert (rows()[name].status, rows()[name].hooks) == ("failed", ())
    assert rows()[name].reason in message
    assert rows()["z_after"].status == "ok"


@pytest.mark.parametrize("name", UNUSABLE)
def test_strict_mode_makes_it_an_error(site, monkeypatch, name):
    site.add(name, UNUSABLE[name][0])
    monkeypatch.setenv("XAI_ALIGN_STRICT", "1")
    with pytest.raises(PluginError, match=f"plugin '{name}' \\({name}-dist 1.2\\): "):
        plugins.attribution_methods()


@pytest.mark.parametrize("off", ["", "0", "False", "no"])
def test_strict_mode_can_be_spelt_off(site, monkeypatch, off):
    site.add("broken", "raise RuntimeError")
    monkeypatch.setenv("XAI_ALIGN_STRICT", off)
    with pytest.warns(PluginWarning, match="raised RuntimeError"):
        plugins.plugin_table()


def test_an_interrupt_during_import_is_the_users_and_passes(site):
    site.add("slow", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        plugins.attribution_methods()


def test_one_warning_a_plugin_not_one_a_question(site):
    site.add("broken", "raise RuntimeError")
    message_of(plugins.attribution_methods)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plugins.attribution_methods(), plugins.metrics(), plugins.plugin_table()


# --- duplicates -------------------------------------------------------------------------------------


def test_entry_point_name_belongs_to_the_first_and_both_are_named(site):
    site.add("twin", offering("of_first"), distribution="first", version="1.0")
    site.add("twin", offering("of_second"), distribution="second", version="2.0")
    message = message_of(plugins.plugin_table)
    assert "plugin 'twin' (second 2.0): duplicate" in message
    assert "'twin' (first 1.0)" in message
    assert "of_first" in plugins.attribution_methods()
    assert "of_second" not in plugins.attribution_methods()
    assert [row.status for row in plugins.plugin_table() if row.name == "twin"] == ["ok", "failed"]


@pytest.mark.parametrize(
    ("hook", "make", "ask"),
    [
        ("xai_align_attributions", "method", plugins.attribution_methods),
        ("xai_align_metrics", "measure", plugins.metrics),
        ("xai_align_training_recipes", "training", plugins.training_recipes),
    ],
)
def test_listed_name_belongs_to_the_first_and_the_rest_of_the_second_is_used(site, hook, make, ask):
    for plugin, own in (("one", "left"), ("two", "right")):
        code = f"@hookimpl\ndef {hook}():\n    return [{make}('shared'), {make}({own!r})]"
        site.add(plugin, code, distribution=f"dist-{plugin}")
    message = message_of(ask)
    assert f"plugin 'two' (dist-two 1.2): duplicate: 'shared' of {hook}" in message
    assert "'one' (dist-one 1.2)" in message
    assert {"shared", "left", "right"} <= set(ask())
    kind = {"method": "attribution", "measure": "metric", "training": "training_recipe"}[make]
    assert plugins.origin("shared", kind=kind).distribution == "dist-one"
    assert rows()["two"].status == "ok"
    assert "'shared'" in rows()["two"].reason


def test_second_name_for_the_same_module_is_a_duplicate(site):
    module = site.add("first_name", offering("alpha"), distribution="both")
    stanza = site.folder / "both-1.2.dist-info" / "entry_points.txt"
    stanza.write_text(stanza.read_text() + f"second_name = {module}\n")
    importlib.invalidate_caches()
    plugins.reset_plugins()
    message = message_of(plugins.plugin_table)
    assert "plugin 'second_name' (both 1.2): duplicate: 'first_name' names the same object" in message
    assert plugins.origin("alpha").name == "first_name"


# --- switched off -----------------------------------------------------------------------------------


def test_disabled_plugin_is_never_imported(site, monkeypatch):
    module = site.add("loud", "raise RuntimeError('imported')")
    other = site.add("good", offering("alpha"))
    monkeypatch.setenv("XAI_ALIGN_DISABLED_PLUGINS", os.environ["XAI_ALIGN_DISABLED_PLUGINS"] + ", loud ,stranger")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        row = rows()["loud"]
    assert (row.status, row.hooks) == ("disabled", ())
    assert row.reason == "named in XAI_ALIGN_DISABLED_PLUGINS"
    assert module not in sys.modules
    assert other in sys.modules


# --- hooks that fail when asked ---------------------------------------------------------------------

BAD_LISTS = {
    "raises": ("raise KeyError('weights')", "xai_align_attributions raised KeyError: 'weights'"),
    "exits": ("raise SystemExit", "xai_align_attributions raised SystemExit"),
    "raises_late": ("yield method('early')\n    raise OSError('disk')", "raised OSError: disk"),
    "none": ("pass", "returned None instead of a list of AttributionSpec"),
    "unlisted": ("return method('x')", "returned an object of type AttributionSpec instead of a list"),
    "mapping": ("return {'x': method('x')}", "returned an object of type dict instead of a list"),
}


@pytest.mark.parametrize("name", BAD_LISTS)
def test_list_that_cannot_be_had_is_skipped_and_the_rest_work(site, name):
    body, reason = BAD_LISTS[name]
    site.add(name, f"@hookimpl\ndef xai_align_attributions():\n    {body}")
    site.add("zz_good", offering("alpha"))
    message = message_of(plugins.attribution_methods)
    assert message.startswith(f"plugin '{name}' ({name}-dist 1.2): ")
    assert reason in message
    assert list(plugins.attribution_methods()) == ["alpha"]
    assert (rows()[name].status, rows()[name].hooks) == ("failed", ("xai_align_attributions",))


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ("measure('x')", "listed an object of type MetricSpec where AttributionSpec is expected"),
        ("'saliency'", "listed an object of type str"),
        ("method('')", "with the name ''"),
        ("AttributionSpec(name='x', build='captum', summary='')", "'x', whose `build` cannot be called"),
    ],
)
def test_wrong_entry_of_a_list_is_skipped_and_its_neighbours_are_used(site, entry, reason):
    code = f"@hookimpl\ndef xai_align_attributions():\n    return [method('left'), {entry}, method('right')]"
    site.add("mixed", code)
    assert reason in message_of(plugins.attribution_methods)
    assert list(plugins.attribution_methods()) == ["left", "right"]
    assert rows()["mixed"].status == "ok"
    assert reason in rows()["mixed"].reason


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("None", "xai_align_training_recipes returned None instead of a list of TrainingRecipeSpec"),
        ("1 / 0", "xai_align_training_recipes raised ZeroDivisionError"),
        ("[method('x')]", "listed an object of type AttributionSpec where TrainingRecipeSpec is expected"),
        ("[training('')]", "listed a TrainingRecipeSpec with the name ''"),
        ("[training('x', build='align')]", "listed 'x', whose `build` cannot be called"),
    ],
)
def test_unusable_training_recipes_are_named_and_the_rest_work(site, answer, reason):
    site.add("bad", f"@hookimpl\ndef xai_align_training_recipes():\n    return {answer}")
    site.add("good", "@hookimpl\ndef xai_align_training_recipes():\n    return [training('useful')]")
    message = message_of(plugins.training_recipes)
    assert message.startswith("plugin 'bad' (bad-dist 1.2): ")
    assert reason in message
    assert list(plugins.training_recipes()) == ["useful"]
    assert reason in rows()["bad"].reason


BAD_ANSWERS = {
    "raises": ("raise RuntimeError('no table')", "raised RuntimeError: no table"),
    "wrong": ("return 'layer4'", "returned an object of type str where "),
}


@pytest.mark.parametrize("name", BAD_ANSWERS)
def test_feature_space_hook_that_fails_is_named_and_the_next_is_asked(site, name):
    body, reason = BAD_ANSWERS[name]
    site.add("good", "@hookimpl\ndef xai_align_feature_space():\n    return FeatureSpace(layer='input')")
    site.add(f"z_{name}", f"@hookimpl\ndef xai_align_feature_space(model):\n    {body}")
    message = message_of(lambda: plugins.feature_space(nn.Identity()))
    assert f"plugin 'z_{name}'" in message
    assert reason in message
    with pytest.warns(PluginWarning):
        assert plugins.feature_space(nn.Identity()).layer == "input"


@pytest.mark.parametrize("name", BAD_ANSWERS)
def test_loader_that_fails_is_only_a_warning_when_another_one_knows_the_model(site, monkeypatch, name):
    body, reason = BAD_ANSWERS[name]
    site.add("good", LOADER.format(who="good"))
    site.add(f"z_{name}", f"@hookimpl\ndef xai_align_load_model(reference):\n    {body}")
    with pytest.warns(PluginWarning, match=reason):
        assert plugins.load_model("zoo:lion").class_names == ("good",)
    monkeypatch.setenv("XAI_ALIGN_STRICT", "1")
    with pytest.raises(PluginError, match=reason):
        plugins.load_model("zoo:lion")


def test_error_of_the_only_loader_that_knows_the_form_is_the_error(site):
    body = "if reference.startswith('zoo:'):\n        raise ValueError('the zoo has no lion')"
    site.add("zoo", f"@hookimpl\ndef xai_align_load_model(reference):\n    {body}")
    with pytest.raises(ValueError, match="cannot load the model 'zoo:lion': the zoo has no lion") as caught:
        plugins.load_model("zoo:lion")
    assert "plugin 'zoo' (zoo-dist 1.2)" in str(caught.value)
    assert str(caught.value.__cause__) == "the zoo has no lion"


# --- errors for who asks ----------------------------------------------------------------------------


def test_unknown_reference_says_which_forms_are_known_and_who_was_asked(site):
    site.add("zoo", LOADER.format(who="zoo"))
    with pytest.raises(ValueError, match="no plugin knows the model reference 'resnet50'") as caught:
        plugins.load_model("resnet50")
    for part in ("timm:resnet50", "package.module:factory", "Plugins asked: zoo", "xai-align plugins"):
        assert part in str(caught.value)


@pytest.mark.parametrize("ask", [plugins.attribution_method, plugins.origin])
def test_unknown_method_gets_the_closest_and_all_known(site, ask):
    site.add("good", offering("alpha", "saliency"))
    with pytest.raises(ValueError, match="there is no attribution method 'salency'") as caught:
        ask("salency")
    assert "did you mean 'saliency'? Known: alpha, saliency" in str(caught.value)


# --- nothing before it is asked for -----------------------------------------------------------------


def test_importing_the_library_loads_no_plugin_and_no_ecosystem(site):
    module = site.add("watched", offering("alpha"))
    code = f"""
import sys
import xai_align
assert not {{"torch", "numpy", "pluggy"}} & set(sys.modules), "importing the package alone loads nothing"
xai_align.read_out, xai_align.explain, xai_align.compare, xai_align.plugins
print(sorted(name for name in {(*OPTIONAL, module)!r} if name in sys.modules))
from xai_align.plugins import attribution_methods
assert "alpha" in attribution_methods()
print({module!r} in sys.modules)
"""
    path = os.pathsep.join([str(site.folder), str(SOURCES), str(SOURCES / "adapters")])
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:2] == ["[]", "True"]
