"""Options in dataclasses: by record, by keyword, by name=value, by a file; and how many parameters callables have."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from dataclasses import fields, is_dataclass

import pytest
import torch

import xai_align
from tests.networks import conv_net, images
from xai_align._tools.options import parse_options, read_options, with_changes
from xai_align.align import AlignOptions, AlignTrainer
from xai_align.cli.option_settings import option_settings
from xai_align.comparison import CompareOptions
from xai_align.fei import CurveOptions, NestedOptions, optimize_masks
from xai_align.pinet import PiNetLoss
from xai_align.training import FitOptions, fit_pinet

FEW = {"n_iter": 2, "clip": "none"}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("solver", "record", "single"),
    [
        ("curve", CurveOptions(restarts=2, shift=0), {"restarts": 2, "shift": 0}),
        ("nested", NestedOptions(area_weight=0.3, order="parallel"), {"area_weight": 0.3, "order": "parallel"}),
    ],
)
def test_a_record_and_keywords_are_the_same(solver, record, single):
    model, x = conv_net(), images(2)
    by_record = optimize_masks(model, x, 1, solver=solver, options=record, **FEW)
    by_keyword = optimize_masks(model, x, 1, solver=solver, **single, **FEW)
    assert torch.equal(by_record.attribution, by_keyword.attribution)
    name, value = next(iter(single.items()))
    plain = optimize_masks(model, x, 1, solver=solver, **FEW)
    assert not torch.equal(plain.attribution, by_record.attribution) or getattr(type(record)(), name) == value


def test_keywords_go_before_the_record():
    trainer = AlignTrainer(conv_net(), options=AlignOptions(schedule="cosine", patience=3), patience=5)
    assert (trainer.settings.schedule, trainer.settings.patience) == ("cosine", 5)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: AlignTrainer(conv_net(), shedule="cosine"), "no option 'shedule'; did you mean 'schedule'"),
        (lambda: AlignTrainer(conv_net(), taget_layer="conv2"), "did you mean 'target_layer'"),
        (lambda: AlignTrainer(conv_net(), options={"schedule": "cosine"}), r"are dict; give AlignOptions\(\.\.\.\)"),
        (lambda: optimize_masks(conv_net(), images(), options=NestedOptions()), r"give CurveOptions\(\.\.\.\)"),
        (
            lambda: optimize_masks(conv_net(), images(), area_weight=1),
            "solver='curve' has no option 'area_weight'; solver='nested' has it",
        ),
        (lambda: fit_pinet(conv_net(), [], loss=PiNetLoss("binary"), pacience=3), "did you mean 'patience'"),
        (lambda: fit_pinet(conv_net(), [], loss=PiNetLoss("binary"), options=AlignOptions()), r"give FitOptions"),
    ],
)
def test_an_option_that_there_is_not_is_told(call, said):
    with pytest.raises(TypeError, match=said):
        call()


def test_values_are_written_as_in_toml():
    written = ["schedule=cosine", "patience = 3", "betas=[0.9, 0.95]", "gradient_clip=none", "keep='last'", "a=true"]
    assert parse_options(written) == {
        "schedule": "cosine",
        "patience": 3,
        "betas": (0.9, 0.95),
        "gradient_clip": None,
        "keep": "last",
        "a": True,
    }


@pytest.mark.parametrize("written", [["schedule"], ["=3"], ["a b=3"], ["patience="], ["patience=3", "patience=4"]])
def test_what_is_no_option_is_told(written):
    with pytest.raises(ValueError, match=r"does not set an option|is set twice"):
        parse_options(written)


def test_a_file_of_options(tmp_path):
    path = tmp_path / "options.toml"
    path.write_text('schedule = "plateau"\npatience = 3\n')
    assert option_settings(FitOptions, ["patience=5"], path, "fit-pinet") == {"schedule": "plateau", "patience": 5}
    path.write_text("schedule = plateau\n")
    with pytest.raises(ValueError, match="are not TOML"):
        read_options(path)
    with pytest.raises(ValueError, match="cannot be read: No such file"):
        read_options(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (["pacience=3"], "fit-pinet has no option 'pacience'; did you mean 'patience'"),
        (["optimizer=sgd"], "'optimizer' of fit-pinet is a function"),
        (["log=x"], "'log' of fit-pinet is a function"),
    ],
)
def test_options_that_words_cannot_set(written, said):
    with pytest.raises(ValueError, match=said):
        option_settings(FitOptions, written, None, "fit-pinet")


def test_changes_leave_the_record_alone():
    options = FitOptions(patience=2)
    assert with_changes(options, FitOptions, {"patience": 3}, "x").patience == 3
    assert options.patience == 2


@pytest.mark.parametrize("options", [AlignOptions, CompareOptions, FitOptions, CurveOptions, NestedOptions])
def test_every_field_is_documented_and_has_a_default(options):
    assert is_dataclass(options)
    options()
    documented = inspect.getdoc(options)
    for field in fields(options):
        assert f"{field.name}:" in documented or f"{field.name}," in documented, field.name


def public_callables():
    """Functions and classes that the packages of this project export."""
    yield from ((f"xai_align.{name}", getattr(xai_align, name)) for name in xai_align.__all__)
    for found in pkgutil.iter_modules(xai_align.__path__, "xai_align."):
        if found.name.endswith(("__main__", "cli", "_tools")):
            continue
        module = importlib.import_module(found.name)
        for name in getattr(module, "__all__", ()):
            value = getattr(module, name)
            if callable(value):
                yield f"{found.name}.{name}", value


def test_a_public_callable_has_about_a_dozen_parameters():
    counted = {}
    for name, value in public_callables():
        if inspect.isclass(value) and is_dataclass(value):
            continue  # records have as many fields as they need
        try:
            parameters = inspect.signature(value).parameters.values()
        except (TypeError, ValueError):
            continue
        counted[name] = sum(one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL) for one in parameters)
    assert [name for name, count in counted.items() if count > 14] == []
