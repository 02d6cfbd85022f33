"""Every public name has an example in its docstring, and the examples run."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
import re
import textwrap
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

import xai_align
from tests.networks import conv_net, images

#: Packages whose ``__all__`` is the public interface.
PACKAGES = [
    "xai_align",
    *(one.name for one in pkgutil.iter_modules(xai_align.__path__, "xai_align.") if one.ispkg),
    "xai_align.report.watching",
    "attention_align",
    "captum_align",
    "gradcam_align",
    "timm_align",
]
#: Names without an example yet; the list may only become shorter.
WITHOUT: set[str] = set()


def public() -> dict[str, Any]:
    """``{"xai_align.pinet.Place": Place, ...}``, each object once, by the package that is nearest to it."""
    found: dict[str, Any] = {}
    for package in PACKAGES:
        module = importlib.import_module(package)
        for name in getattr(module, "__all__", ()):
            value = getattr(module, name)
            if not isinstance(value, ModuleType) and (inspect.isclass(value) or inspect.isfunction(value)):
                found[f"{package}.{name}"] = value
    return found


def example_of(value: Any) -> str:
    """The code behind ``Example::`` in a docstring, or ""."""
    own = value.__doc__ if inspect.isclass(value) else inspect.getdoc(value)
    match = re.search(r"^Example::\n\n((?:    .*\n|\n)+)", inspect.cleandoc(own or "") + "\n", re.M)
    return textwrap.dedent(match.group(1)).strip() if match else ""


def namespace(folder: Any) -> dict[str, Any]:
    """What examples may use without a word: every public name, a small classifier, two images, their classes."""
    names = {name.rpartition(".")[2]: value for name, value in PUBLIC.items()}
    model = conv_net(classes=1000)  # conv1, norm, act, pool, conv2, fc
    return names | {
        "torch": torch,
        "nn": nn,
        "model": model,
        "images": images(2, 32),
        "labels": torch.tensor([1, 3]),
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "loader": [(images(4, 32, seed=number), torch.tensor([0, 1, 2, 3])) for number in range(2)],
        "folder": folder,
    }


PUBLIC = public()
EXAMPLES = {name: example_of(value) for name, value in PUBLIC.items()}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", sorted(name for name, code in EXAMPLES.items() if code))
def test_the_example_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, names = EXAMPLES[name], namespace(tmp_path)
    if not code.startswith(">>>"):
        exec(compile(code, f"<example of {name}>", "exec"), names)
        return
    told: list[str] = []
    test = doctest.DocTestParser().get_doctest(code, names, name, None, 0)
    doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=told.append)
    assert not told, "".join(told)


def test_every_public_name_has_an_example():
    missing = {name for name, code in EXAMPLES.items() if not code}
    assert missing == WITHOUT


def test_one_public_name_means_one_thing():
    by_name: dict[str, set[int]] = {}
    for name, value in PUBLIC.items():
        by_name.setdefault(name.rpartition(".")[2], set()).add(id(value))
    assert [name for name, values in by_name.items() if len(values) > 1] == []
