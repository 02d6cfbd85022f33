"""On Captum's configurations a batch with a target for each example is explained as its examples are."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from captum_configurations import INPUT, LAYER, WITHOUT_LOGITS, arguments_of, method_for, name_of


def as_tuple(value):
    return value if isinstance(value, tuple) else (value,)


def example(value, index, count):
    """The part of a value that belongs to one example."""
    return value[index : index + 1] if isinstance(value, torch.Tensor) and len(value) == count else value


def target_of_each(target, count):
    return list(target) if isinstance(target, list | torch.Tensor) and len(target) == count else [target] * count


def one_by_one(entry, form):
    """The attributions of each example alone, with its target in this form."""
    inputs, arguments = arguments_of(entry)
    given = as_tuple(inputs)
    count = len(given[0])
    extra, targets = arguments["additional_forward_args"], target_of_each(arguments["target"], count)
    for index, target in enumerate(targets):
        part = tuple(example(x, index, count) for x in given)
        yield method_for(deepcopy(entry)).attribute(
            part if isinstance(inputs, tuple) else part[0],
            **{
                **arguments,
                "target": form(target),
                "additional_forward_args": None if extra is None else tuple(example(x, index, count) for x in extra),
            },
        )


FORMS = {"as it is": lambda target: target, "in a list of one": lambda target: [_plain(target)]}


def _plain(target):
    return int(target) if isinstance(target, torch.Tensor) else target


APPLY = [entry for entry in INPUT + LAYER if name_of(entry) not in WITHOUT_LOGITS]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("entry", APPLY, ids=name_of)
def test_the_batch_is_explained_as_its_examples_are(entry, form):
    inputs, arguments = arguments_of(entry)
    together = as_tuple(method_for(deepcopy(entry)).attribute(inputs, **arguments))
    for index, alone in enumerate(one_by_one(entry, FORMS[form])):
        for whole, part in zip(together, as_tuple(alone), strict=True):
            torch.testing.assert_close(part, whole[index : index + 1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("entry", [entry for entry in APPLY if "layer" not in entry], ids=name_of)
def test_attributions_have_the_shapes_of_the_inputs(entry):
    inputs, arguments = arguments_of(entry)
    answer = method_for(deepcopy(entry)).attribute(inputs, **arguments)
    assert isinstance(answer, tuple) == isinstance(inputs, tuple)
    for part, x in zip(as_tuple(answer), as_tuple(inputs), strict=True):
        assert part.shape == x.shape


@pytest.mark.parametrize("entry", [entry for entry in APPLY if not entry.get("noise_tunnel")], ids=name_of)
def test_the_parts_make_up_the_answer(entry):
    inputs, arguments = arguments_of(entry)
    parts, delta = method_for(deepcopy(entry)).attribute(inputs, **arguments, return_convergence_delta=True)
    assert delta.shape == (len(as_tuple(inputs)[0]),)
    size = sum(part.abs().flatten(1).sum(1) for part in as_tuple(parts))
    assert bool((delta.abs() <= 1e-6 * (1 + size)).all())


@pytest.mark.parametrize("entry", [entry for entry in LAYER if name_of(entry) in WITHOUT_LOGITS], ids=name_of)
def test_a_network_that_ends_in_softmax_is_refused_in_words(entry):
    inputs, arguments = arguments_of(entry)
    with pytest.raises(ValueError, match="give a model that returns logits"):
        method_for(deepcopy(entry)).attribute(inputs, **arguments)


def test_all_the_configurations_that_apply_are_here():
    assert len(INPUT) >= 13
    assert len(LAYER) >= 7
    assert sum(bool(entry.get("noise_tunnel")) for entry in INPUT) >= 6
    assert {name_of(entry) for entry in LAYER} >= WITHOUT_LOGITS
