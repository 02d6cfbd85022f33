"""A complete table of operations: whatever PyTorch lets a mode intercept is what the table says, numerically."""

from __future__ import annotations

from functools import cache

import pytest
import timm
import torch

from tests.intercepted_call import complaints
from tests.networks import conv_net, images
from tests.operation_samples import interceptable_functions, name_of, op_db, samples_by_function, samples_of
from xai_align import read_out
from xai_align.pinet.gates.operation_table import classify

FUNCTIONS = {name_of(func): func for func in interceptable_functions()}
KNOWN = [name for name, func in FUNCTIONS.items() if classify(func) != "refused"]

TENSOR = torch._C.TensorType.get()

#: Known functions that no sample can be written for here.
WITHOUT_SAMPLE = {
    "needs another device": "torch.Tensor.cuda torch.Tensor.pin_memory torch.Tensor.record_stream",
    "a tensor that requires grad and is no leaf has none": """
        torch.Tensor.grad_dtype.__get__ torch.Tensor.retain_grad torch.Tensor.register_hook torch.Tensor.__deepcopy__
        torch.Tensor.register_post_accumulate_grad_hook
    """,
    "another layout": "torch.Tensor.is_coalesced torch.view_as_complex_copy torch.Tensor.unsqueeze_",
    "no tensors": """
        torch.can_cast torch.range torch.Tensor.new torch.Tensor.storage torch.arange torch.full torch.logspace
        torch.scalar_tensor
    """,
}


@cache
def results(name: str) -> list[list[str] | None]:
    """For each sample of this function what is wrong, None if the sample is none."""
    return [complaints(FUNCTIONS[name], call) for call in samples_by_function().get(FUNCTIONS[name], [])]


@pytest.mark.parametrize("name", KNOWN)
def test_a_known_function_is_what_the_table_says(name):
    assert [wrong for found in results(name) for wrong in found or []] == []


def test_only_what_cannot_be_run_here_has_no_sample():
    excused = {name for names in WITHOUT_SAMPLE.values() for name in names.split()}
    ran = {name for name in KNOWN if any(found is not None for found in results(name))}
    whole = {"bitwise", "bincount", "one_hot", "__index__", "and__", "or__", "xor__", "invert__"}  # of whole numbers
    missing = set(KNOWN) - ran - excused
    assert {name for name in missing if not any(part in name for part in whole)} == set()


def test_aten_overloads_are_what_the_table_says():
    """The overloads that graphs of ``torch.export`` are made of, on the samples of the functions they belong to."""
    wrong: dict[str, list[str]] = {}
    ran = set()
    for op in op_db():
        packets = {getattr(torch.ops.aten, name, None) for name in (op.aten_name, f"{op.aten_name}_")}
        overloads = [getattr(packet, name) for packet in packets if packet for name in packet.overloads()]
        # those on Python's numbers are given none of the network's tensors
        overloads = [func for func in overloads if func._schema.arguments[0].type.isSubtypeOf(TENSOR)]
        for func in [func for func in overloads if classify(func) != "refused"]:
            if "rand" in op.name:
                continue  # random numbers
            for call in samples_of(op, 1):
                if any(isinstance(argument, bool) for argument in call.args):
                    continue  # a flag for the function, an axis for the overload
                found = complaints(func, call)
                if found is not None:
                    ran.add(str(func))
                if found:
                    wrong.setdefault(str(func), []).extend(found)
    assert wrong == {}
    assert len(ran) > 400


@pytest.mark.parametrize("name", ["convolutions", "test_vit", "test_convnext"])
def test_an_exported_program_is_read_like_its_network(name):
    torch.manual_seed(0)
    model, size = (conv_net(), 8) if name == "convolutions" else (timm.create_model(name, num_classes=3), 160)
    model, x = model.double().eval(), images(2, size, dtype=torch.float64)
    exported = torch.export.export(model, (x,)).module()
    found, wanted = read_out(exported, x, 1, "input"), read_out(model, x, 1, "input")
    assert torch.allclose(found.contributions, wanted.contributions, rtol=1e-9, atol=1e-12)
    assert torch.allclose(found.bias, wanted.bias, rtol=1e-9, atol=1e-12)
