"""A masker comes back from its file as it was, and runs as a program with the same masks."""

from __future__ import annotations

import json
import os
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from tests.networks import conv_net, images, untouched
from tests.test_align_attribution import masker
from xai_align.align import masker_export
from xai_align.align.masker_export import export_masker
from xai_align.align.masker_file import load_masker, save_masker
from xai_align.training.checkpoints import Snapshot, write_checkpoint

#: Sizes that the program was not traced with: other counts, odd ones, the smallest, one that is not square.
OTHERS = ((1, 9, 9), (3, 21, 33), (2, 40, 16))


def several(count, rows, columns, seed=0):
    return images(count, max(rows, columns), seed=seed)[:, :, :rows, :columns].contiguous()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_masker_comes_back_as_it_was(tmp_path, dtype):
    module = masker(width=16).to(dtype)
    with untouched(module):
        path = save_masker(module, tmp_path / "new" / "masker.safetensors")
    random = torch.get_rng_state()
    again = load_masker(path)
    assert torch.equal(torch.get_rng_state(), random)
    assert again.options == module.options
    assert not any(one.training for one in again.modules())
    x = several(2, 21, 33).to(dtype)
    with torch.no_grad():
        assert torch.equal(again(x), module(x))
    assert next(again.parameters()).dtype == dtype
    assert [one.name for one in path.parent.iterdir()] == ["masker.safetensors"]
    assert save_masker(SimpleNamespace(masker=again), str(path)) == path


def test_an_older_file_stays_when_writing_fails(tmp_path, monkeypatch):
    path = save_masker(masker(), tmp_path / "masker.safetensors")
    before = path.read_bytes()

    def full(*paths):
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="no space"):
        save_masker(masker(seed=1), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def with_header(path, **changes):
    """The file with other numbers in its header; the digest is made anew."""
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        numbers = json.loads(file.metadata()["numbers"])
    write_checkpoint(path, Snapshot(tensors, numbers | changes))
    return path


def test_files_that_hold_no_masker_are_refused(tmp_path):
    path = save_masker(masker(), tmp_path / "masker.safetensors")
    whole = path.read_bytes()
    with pytest.raises(FileNotFoundError, match=r"give the file in this folder, such as masker\.safetensors"):
        load_masker(tmp_path)
    with pytest.raises(FileNotFoundError, match="no masker's file"):
        load_masker(tmp_path / "other")
    path.write_bytes(whole[:-5])
    with pytest.raises(ValueError, match=r"damaged or truncated.*copy it again, or save it again"):
        load_masker(path)
    path.write_bytes(whole[:-5] + bytes([whole[-5] ^ 1]) + whole[-4:])
    with pytest.raises(ValueError, match="does not have the digest it was written with"):
        load_masker(path)
    save_file(masker().state_dict(), path)
    with pytest.raises(ValueError, match=r"not a checkpoint of a fit; a masker's file is what save_masker wrote"):
        load_masker(path)
    path.write_bytes(whole)
    with pytest.raises(ValueError, match=r"is a checkpoint, not a masker alone.*save_masker\(trainer, FILE\)"):
        load_masker(with_header(path, kind="fit"))
    path.write_bytes(whole)
    with pytest.raises(ValueError, match=r"is invalid: options\.in_channels is missing"):
        load_masker(with_header(path, options={"flavour": 3}))
    path.write_bytes(whole)
    with pytest.raises(ValueError, match=r"do not fit Masker: \d+ of another shape"):
        load_masker(with_header(path, options=masker(width=16).options))
    with pytest.raises(TypeError, match=r"ConvNet is not an xai_align\.align\.Masker"):
        save_masker(conv_net(), path)


def test_the_program_gives_the_same_masks_for_any_number_and_size(tmp_path):
    module = masker()
    with untouched(module):
        path = export_masker(module, tmp_path / "deep" / "masker.pt2", size=(32, 24))
    program = torch.export.load(path).module()
    with torch.no_grad():
        for shape in ((2, 32, 24), *OTHERS):
            x = several(*shape)
            torch.testing.assert_close(program(x), module(x), rtol=0, atol=1e-6)
        with pytest.raises(AssertionError, match="Guard failed"):  # rather than a wrong mask
            program(several(2, 8, 8))
    assert [one.name for one in path.parent.iterdir()] == ["masker.pt2"]


def test_what_only_trains_is_not_exported(tmp_path):
    module = nn.Sequential(nn.Conv2d(3, 1, 1), nn.Sigmoid(), nn.Dropout(0.5)).train()
    with untouched(module):
        path = export_masker(module, tmp_path / "masker.pt2", size=(8, 8), fixed_size=True)
    x = images(2, 8)
    with torch.no_grad():
        expected = module.eval()(x)
        torch.testing.assert_close(torch.export.load(path).module()(x), expected)


def test_a_file_can_be_exported_and_a_size_held(tmp_path):
    file = save_masker(masker(), tmp_path / "masker.safetensors")
    program = torch.export.load(export_masker(file, tmp_path / "one.pt2", size=(16, 16), fixed_size=True)).module()
    x = images(5, 16)
    with torch.no_grad():
        torch.testing.assert_close(program(x), masker()(x), rtol=0, atol=1e-6)
        with pytest.raises((AssertionError, RuntimeError)):
            program(images(5, 24))


@pytest.mark.slow
def test_onnx_gives_the_same_masks(tmp_path):
    pytest.importorskip("onnxscript")
    reference = pytest.importorskip("onnx.reference")
    module = masker()
    with untouched(module):
        path = export_masker(module, tmp_path / "masker.onnx", size=(16, 24))
    session = reference.ReferenceEvaluator(str(path))
    assert [*session.input_names, *session.output_names] == ["images", "masks"]
    sizes = session.input_types[0].tensor_type.shape.dim
    assert [one.dim_param or one.dim_value for one in sizes] == ["batch", 3, "height", "width"]
    for shape in ((2, 16, 24), (1, 9, 12)):
        x = several(*shape)
        (masks,) = session.run(None, {"images": x.numpy()})
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(masks), module(x), rtol=0, atol=1e-5)
    assert [one.name for one in path.parent.iterdir()] == ["masker.onnx"]


def test_another_ending_is_refused_and_nothing_is_left_when_writing_fails(tmp_path, monkeypatch):
    with pytest.raises(
        ValueError, match=r"ends in '\.pth'; write \.pt2 for torch\.export, or \.onnx for ONNX runtimes"
    ):
        export_masker(masker(), tmp_path / "masker.pth")

    class Broken(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, x):
            raise RuntimeError("no graph")

    module = Broken().train()
    with untouched(module), pytest.raises(Exception, match="no graph"):
        export_masker(module, tmp_path / "broken.pt2", size=(8, 8))
    assert list(tmp_path.iterdir()) == []

    def full(module, images, axes, path):
        path.write_bytes(b"half of it")
        raise OSError("no space left")

    monkeypatch.setattr(masker_export, "_write_program", full)
    with pytest.raises(OSError, match="no space left"):
        export_masker(masker(), tmp_path / "masker.pt2", size=(8, 8))
    assert list(tmp_path.iterdir()) == []

    def missing(*given):
        raise ImportError("writing .onnx needs two more packages: pip install onnx onnxscript")

    monkeypatch.setattr(masker_export, "_write_onnx", missing)
    with pytest.raises(ImportError, match="pip install onnx onnxscript"):
        export_masker(masker(), tmp_path / "masker.onnx", size=(8, 8))
