"""Everything that PyTorch lets a mode override is linear, ruled, constant, a counted reading, or refused."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import get_overridable_functions, resolve_name
from torch.utils._pytree import tree_leaves, tree_map

from tests.frozen_function import decompose, projected
from xai_align.pinet.gates.operation_table import classify
from xai_align.pinet.gates.rule_registry import UnknownOperation, operation_name

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torch.testing._internal.common_methods_invocations import op_db

OPERATIONS = [op for op in op_db if torch.float64 in op.supported_dtypes("cpu")]
#: Samples of each operation that are tried.
SAMPLES = 3


def overridable() -> list[Any]:
    return list(dict.fromkeys(function for some in get_overridable_functions().values() for function in some))


def test_no_name_is_shared_by_functions_of_two_kinds():
    """A name clash once made ``torch.complex`` what ``Tensor.__complex__`` is."""
    kinds: dict[str, set[str]] = {}
    for function in overridable():
        kinds.setdefault(operation_name(function), set()).add(classify(function))
    assert {name: found for name, found in kinds.items() if len(found) > 1} == {}


def test_setting_a_property_is_refused():
    properties = [value for value in vars(torch._C.TensorBase).values() if hasattr(value, "__set__")]
    allowed = {"requires_grad.__set__", "_backward_hooks.__set__", "grad.__set__"}
    for one in properties:
        setter = one.__set__
        if operation_name(setter) not in allowed:
            assert classify(setter) == "refused", resolve_name(setter) or setter


def samples(op: Any) -> Iterator[tuple[list[Tensor], Any]]:
    """Its real floating tensors, and the function of these."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number, sample in enumerate(op.sample_inputs("cpu", torch.float64, requires_grad=False)):
            if number == SAMPLES:
                return
            given = (sample.input, sample.args, sample.kwargs)
            found = [x for x in tree_leaves(given) if _is_evidence(x)]
            if found:
                yield found, _function_of(op, given)


def _is_evidence(x: Any) -> bool:
    return isinstance(x, Tensor) and x.dtype == torch.float64 and x.numel() > 0 and x.layout == torch.strided


def _function_of(op: Any, given: Any) -> Any:
    def function(*inputs: Tensor) -> Any:
        left = iter(inputs)
        first, args, kwargs = tree_map(lambda x: next(left) if _is_evidence(x) else x, given)
        return op.op(first, *args, **kwargs)

    return function


#: Random numbers, uninitialised memory, and what is checked elsewhere.
NOT_RUN = """
    empty empty_like empty_permuted empty_strided new_empty new_empty_strided bernoulli normal multinomial rand_like
    randn_like randint_like nn.functional.dropout nn.functional.dropout2d nn.functional.dropout3d uniform
    nn.functional.alpha_dropout nn.functional.feature_alpha_dropout nn.functional.fractional_max_pool2d resize_
    nn.functional.fractional_max_pool3d nn.functional.rrelu exponential log_normal cauchy geometric randn randint
    nn.functional.scaled_dot_product_attention nn.functional.multi_head_attention_forward svd_lowrank pca_lowrank
    torch.ops.aten._flash_attention_forward torch.ops.aten._efficient_attention_forward resize_as_
""".split()


@pytest.mark.parametrize("op", OPERATIONS, ids=lambda op: op.full_name)
def test_an_operation_is_decomposed_exactly_or_refused(op):
    if op.name in NOT_RUN:
        pytest.skip("random, or without values")
    tried = 0
    for inputs, function in samples(op):
        try:
            plain = function(*[x.clone() for x in inputs])
            number = projected(plain)
        except Exception:
            continue
        if not torch.isfinite(number):
            continue
        try:
            found = decompose(function, inputs)
        except (UnknownOperation, NotImplementedError):
            continue  # refused
        except ValueError:
            continue  # train mode
        size = (
            1 + float(number.abs()) + sum(float((b * x).abs().sum()) for b, x in zip(found.betas, inputs, strict=True))
        )
        if not torch.isfinite(torch.tensor(size)):
            continue
        tried += 1
        bound = size * max([1e-9, *(4 * torch.finfo(x.dtype).eps for x in found.outputs)])
        assert abs(float(found.value - number)) <= bound, "the value changed"
        assert found.error(inputs) <= bound, "the sum is not the value"
        gradient = _plain_gradient(function, inputs)
        if not found.dependent and gradient is not None and classify(op.op) not in ("ruled", "reading"):
            assert all(float(g.abs().max()) == 0 for g in gradient), "a silent constant"
        if classify(op.op) == "linear" and found.dependent and gradient is not None:
            for beta, expected in zip(found.betas, gradient, strict=True):
                assert torch.allclose(beta, expected, rtol=1e-9, atol=1e-12), "coefficients are not the derivative"


def _plain_gradient(function: Any, inputs: list[Tensor]) -> list[Tensor] | None:
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    try:
        value = projected(function(*[leaf.clone() for leaf in leaves]))
        if not value.requires_grad:
            return None
        return list(torch.autograd.grad(value, leaves, allow_unused=True, materialize_grads=True))
    except RuntimeError:
        return None
