"""Change every kind of file that is written and read, in many ways, and count the outcomes.

    python -m benchmarks.safety.changed_files [KIND ...]

A changed file is refused in one sentence that names it, or loads to exactly its content. Keys are deleted and replaced
and weights changed with matching digests, as an attacker would; bytes are changed and truncated without them.
"""

from __future__ import annotations

import copy
import json
import os
import pickle
import random
import re
import shutil
import socket
import struct
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

import timm_align
from benchmarks.shared.markdown import heading, row
from timm_align.loading import load_timm_model
from xai_align.align import AlignTrainer, Masker, StageMasker
from xai_align.align.masker_file import load_masker, save_masker
from xai_align.align.saved_fit import masker_of, save_fit
from xai_align.comparison.store import FolderStore, ImageCurve, Part, Value, _digest
from xai_align.pinet import PiNet, conv_pinet
from xai_align.pinet.network import persistence
from xai_align.plugins import classifier, load_model
from xai_align.prototypes import Prototypes, load_prototypes, save_prototypes
from xai_align.training.checkpoints import Checkpoints, Snapshot, read_checkpoint, write_checkpoint
from xai_align.training.network_fit_state import NetworkFitState

#: ``(plain values, tensors)``: everything that was loaded.
Loaded = tuple[Any, dict[str, Tensor]]
OUTCOMES = ("refused", "unchanged", "other finite weights", "anything else")

#: Values that replace every value in turn; NaN and infinity as JSON of Python writes them.
WRONG: tuple[Any, ...] = (
    None, True, -1, 3, 10**12, 10**30, 0.5, float("nan"), float("inf"), "", "x", "../../x", "/etc/passwd", "os:abort",
    "evil_module:run", "align:.", "pinet:.", "timm:hf_hub:evil/model", "timm:hf-hub:evil/model", "timm:local-dir:.",
    "timm:../x", "https://evil.example/x", "\ud800", [], [1, 2], ["x"], {}, {"file": "evil.pth"}, [[[[[[]]]]]],
)  # fmt: skip


class Attempted(BaseException):
    """Error raised when a file makes something run, be fetched or end."""


@dataclass(frozen=True)
class Kind:
    """A kind of file, or folder.

    Attributes:
        make: function that writes it to a folder.
        load: function that reads it and returns everything loaded.
        files: the names of its files.
        read: function that returns its JSON.
        write: function that replaces its JSON, with matching digests.
        tensors: the files of tensors, and a function for each that replaces its tensors, with matching digests.
        recomputed: whether an unusable file may be skipped, so that its content is computed again.
    """

    make: Callable[[Path], None]
    load: Callable[[Path], Loaded | None]
    files: tuple[str, ...]
    read: Callable[[Path], Any] | None = None
    write: Callable[[Path, Any], None] | None = None
    tensors: dict[str, Callable[[Path, dict[str, Tensor]], None]] = field(default_factory=dict)
    recomputed: bool = False


# ------------------------------------------------------------------------------------------------ saved PiNets


def _pinet(make: Callable[[], PiNet]) -> Kind:
    def write_both(folder: Path, config: Any, tensors: dict[str, Tensor]) -> None:
        about = {"xai_align_config": json.dumps(config), "xai_align_sha256": persistence._digest(tensors)}
        save_file(tensors, folder / persistence.WEIGHTS_FILE, metadata=about)
        (folder / persistence.CONFIG_FILE).write_text(json.dumps(config))

    def load(folder: Path) -> Loaded:
        pinet = PiNet.from_pretrained(folder)
        return persistence.config_of(pinet), dict(pinet.state_dict())

    def read(folder: Path) -> Any:
        return json.loads((folder / persistence.CONFIG_FILE).read_text())

    return Kind(
        make=lambda folder: make().save_pretrained(folder) and None,
        load=load,
        files=(persistence.CONFIG_FILE, persistence.WEIGHTS_FILE),
        read=read,
        write=lambda folder, config: write_both(folder, config, _tensors(folder / persistence.WEIGHTS_FILE)),
        tensors={persistence.WEIGHTS_FILE: lambda folder, tensors: write_both(folder, read(folder), tensors)},
    )


# ------------------------------------------------------------------------------------- files with a JSON header


def _with_header(
    file: str, make: Callable[[Path], Any], load: Callable[[Path], Loaded], also: tuple[str, ...] = ()
) -> Kind:
    def read(folder: Path) -> Any:
        return dict(read_checkpoint(folder / file).numbers)

    def write(folder: Path, numbers: Any, tensors: dict[str, Tensor] | None = None) -> None:
        tensors = _tensors(folder / file) if tensors is None else tensors
        write_checkpoint(folder / file, Snapshot(tensors, numbers))

    return Kind(
        make=lambda folder: make(folder) and None,
        load=load,
        files=(file, *also),
        read=read,
        write=write,
        tensors={file: lambda folder, tensors: write(folder, read(folder), tensors)},
    )


def _save_fit(folder: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        backbone = load_model("timm:test_efficientnet@random").model
        model, masker = classifier(backbone, 2), Masker(3, width=4, depth=1)
    save_fit(folder, model, masker, backbone="timm:test_efficientnet@random", classes=["cat", "dog"])


def _load_fit(folder: Path) -> Loaded:
    loaded = load_model(f"align:{folder}")
    said = {
        "kind": "classifier",
        "backbone": loaded.model.align_backbone.reference,
        "classes": list(loaded.class_names),
    }
    tensors = dict(loaded.model.state_dict())
    if file := masker_of(loaded.model):  # as the method does
        tensors |= {f"masker.{key}": one for key, one in load_masker(file, loaded.model).state_dict().items()}
    return {**said, "masker": file is not None}, tensors


def _save_prototypes(folder: Path) -> None:
    whole = torch.zeros(2, 2, 1, dtype=torch.int64)
    fingerprint = {"network": "Net", "weights": "0" * 64, "layer": "conv", "channels": 2, "grid": [2, 3]}
    prototypes = Prototypes(
        matrix=torch.eye(2),
        kind="orthogonal",
        layer="conv",
        images=whole,
        positions=whole + 5,
        activations=torch.ones(2, 2, 1),
        purity=torch.ones(2, 2) / 2,
        names=("a.jpg", "b.jpg"),
        fingerprint={**fingerprint, "image_size": [20, 30]},
        notes=("a note",),
        history=(0.5,),
    )
    save_prototypes(prototypes, folder / "prototypes.safetensors")


def _load_prototypes(folder: Path) -> Loaded:
    found = load_prototypes(folder / "prototypes.safetensors")
    tensors = ("matrix", "images", "positions", "activations", "purity")
    said = {
        "kind": "prototypes",
        "matrix_kind": found.kind,
        "layer": found.layer,
        "names": list(found.names),
        "fingerprint": found.fingerprint,
        "output": found.output,
        "notes": list(found.notes),
        "history": list(found.history),
    }
    return said, {name: getattr(found, name) for name in tensors}


def _load_masker(folder: Path) -> Loaded:
    masker = load_masker(folder / "masker.safetensors")
    return {"kind": "masker", "options": masker.options}, dict(masker.state_dict())


def _stages() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 2, 3, 2), nn.ReLU(), nn.Conv2d(2, 3, 3, 2), nn.ReLU(), nn.Conv2d(3, 3, 3, 2))


def _save_stage_masker(folder: Path) -> None:
    save_masker(StageMasker(_stages(), 1, size=(16, 16), width=2), folder / "masker.safetensors")


def _load_stage_masker(folder: Path) -> Loaded:
    file = folder / "masker.safetensors"
    masker = load_masker(file, _stages())
    answers = read_checkpoint(file).numbers["answers"]  # compared with the stages' own when it is loaded
    return {"kind": "stage masker", "options": masker.options, "answers": answers}, dict(masker.state_dict())


# ------------------------------------------------------------------------------------------- training checkpoints

_CONFIG = {"seed": 0}


def _training(seed: int) -> tuple[nn.Module, NetworkFitState]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 2))
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        model(torch.rand(3, 1, 4, 4)).square().sum().backward()
        optimizer.step()
    return model, NetworkFitState(model, dict(model.named_parameters()), optimizer)


def _save_training(folder: Path) -> None:
    _, training = _training(0)
    row = {"epoch": 1, "step": 3, "seconds": 0.25, "loss": 1.5, "accuracy": 0.5, "best": True}
    training.epoch, training.step, training.history = 1, 3, [row]
    training.remember_as_best(row)
    Checkpoints(folder, _CONFIG).write(1, training.snapshot())


def _load_training(folder: Path) -> Loaded:
    _, training = _training(1)
    before = training.snapshot()
    tensors = {name: one.clone() for name, one in before.tensors.items()}
    try:
        found = Checkpoints(folder, _CONFIG).newest()
        if found is None:
            raise FileNotFoundError(f"'{folder}' holds no checkpoint")
        training.restore(found[1], f"'{found[0]}'")
    except (ValueError, FileNotFoundError):
        _check_untouched(training.snapshot(), tensors)
        raise
    after = training.snapshot()
    return {**after.numbers, "config": _CONFIG}, dict(after.tensors)


def _check_untouched(snapshot: Snapshot, tensors: dict[str, Tensor]) -> None:
    if any(not torch.equal(one, tensors[name]) for name, one in snapshot.tensors.items()):
        raise Attempted("a checkpoint that was refused changed the fit")


class _Bars(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.norm(self.conv(x)).relu().mean((2, 3)))


def _trainer(seed: int) -> AlignTrainer:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AlignTrainer(_Bars(), Masker(1, width=2, depth=0, stride=1), seed=3)


def _save_trainer(folder: Path) -> None:
    trainer = _trainer(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        batch = (torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 0, 1]))
        trainer.masker_step(batch)
        trainer.classifier_step(batch)
    trainer.save(folder / "epoch-00001.safetensors")


def _load_trainer(folder: Path) -> Loaded:
    trainer = _trainer(1)
    trainer.resume(folder / "epoch-00001.safetensors")
    state = trainer.state_dict()
    return state["numbers"], state["tensors"]


# ------------------------------------------------------------------------------------------------- comparisons

_SETTINGS = {"seed": 0, "methods": ["pinet", "random"], "images": {"a.png": "ab12"}}


def _save_comparison(folder: Path) -> None:
    store = FolderStore(folder, _SETTINGS)
    store.begin()
    (folder / "pictures").mkdir(exist_ok=True)
    (folder / "pictures" / "a.png").write_bytes(b"a picture")
    named = {"image": "a.png", "question": "why", "method": "pinet"}
    part = Part(
        number=0,
        images=["a.png"],
        values=[
            Value(**named, question_text="why?", metric=f"m{i}", value=one, seconds=0.5, metric_seconds=0.25)
            for i, one in enumerate((0.25, float("nan")))
        ],
        curves=[ImageCurve(**named, perturbation="insertion", fractions=(0.0, 1.0), probabilities=(0.1, 0.9))],
        pictures=[{**named, "question_text": "why?", "file": "pictures/a.png"}],
        problems=["b.png: no image"],
        notes={"one": 1},
        labelled=1,
        right=1,
    )
    store.write(part)


def _load_comparison(folder: Path) -> Loaded | None:
    part = FolderStore(folder, _SETTINGS).read(0)
    return None if part is None else (json.loads(json.dumps(_finite(asdict(part)))), {})


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and value != value else value


def _part_file(folder: Path) -> Path:
    return folder / "parts" / "part-00000.json"


def _write_part(folder: Path, content: Any) -> None:
    try:
        digest = _digest(content)
    except ValueError:
        digest = ""
    stored = {"settings": _digest(_SETTINGS), "sha256": digest, "content": content}
    _part_file(folder).write_text(json.dumps(stored))


# ----------------------------------------------------------------------------------------- weights by reference


def _save_weights(folder: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        state = timm_align.loading.create_model("test_efficientnet", num_classes=3).state_dict()
    save_file(state, folder / "weights.safetensors")
    torch.save(state, folder / "weights.pth")


def _load_weights(name: str) -> Callable[[Path], Loaded]:
    def load(folder: Path) -> Loaded:
        loaded = load_timm_model(f"timm:test_efficientnet@{folder / name}")
        assert loaded is not None
        return None, dict(loaded.model.state_dict())

    return load


def _write_pickle(folder: Path, tensors: dict[str, Tensor]) -> None:
    torch.save(tensors, folder / "weights.pth")


def _small_pinet() -> PiNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return conv_pinet(2, in_channels=3, width=2, depth=2).eval()


def _retrofit() -> PiNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        options = {"image_size": (32, 32), "num_classes": 2, "z": "ones", "width": 4, "drop_rate": 0.1}
        return timm_align.retrofit("test_efficientnet", "second_look", **options)


CHECKPOINT = "epoch-00001.safetensors"
KINDS: dict[str, Kind] = {
    "PiNet": _pinet(_small_pinet),
    "PiNet on a timm backbone": _pinet(_retrofit),
    "aligned classifier and masker": _with_header(
        "classifier.safetensors", _save_fit, _load_fit, ("masker.safetensors",)
    ),
    "masker": _with_header(
        "masker.safetensors",
        lambda folder: save_masker(Masker(1, width=2, depth=1), folder / "masker.safetensors"),
        _load_masker,
    ),
    "masker on stages": _with_header("masker.safetensors", _save_stage_masker, _load_stage_masker),
    "prototypes": _with_header("prototypes.safetensors", _save_prototypes, _load_prototypes),
    "checkpoint of fit_pinet": _with_header(CHECKPOINT, _save_training, _load_training),
    "checkpoint of AlignTrainer": _with_header(CHECKPOINT, _save_trainer, _load_trainer),
    "parts of a comparison": Kind(
        make=_save_comparison,
        load=_load_comparison,
        files=("settings.json", "parts/part-00000.json"),
        read=lambda folder: json.loads(_part_file(folder).read_text())["content"],
        write=_write_part,
        recomputed=True,
    ),
    "settings of a comparison": Kind(
        make=_save_comparison,
        load=_load_comparison,
        files=("settings.json",),
        read=lambda folder: json.loads((folder / "settings.json").read_text()),
        write=lambda folder, said: (folder / "settings.json").write_text(json.dumps(said)) and None,
    ),
    "timm weights, safetensors": Kind(
        make=_save_weights,
        load=_load_weights("weights.safetensors"),
        files=("weights.safetensors",),
        tensors={"weights.safetensors": lambda folder, tensors: save_file(tensors, folder / "weights.safetensors")},
    ),
    "timm weights, PyTorch": Kind(
        make=_save_weights,
        load=_load_weights("weights.pth"),
        files=("weights.pth",),
        tensors={"weights.pth": _write_pickle},
    ),
}


# -------------------------------------------------------------------------------------------------- the changes


@dataclass(frozen=True)
class Change:
    """One change of a folder: its name, the function that makes it, and the resulting JSON, if known."""

    name: str
    apply: Callable[[Path], None]
    said: Any = None


def changes(kind: Kind, folder: Path, *, flips: int = 24, wrong: int | None = None, seed: int = 0) -> Iterator[Change]:
    """Return all changes of the table, for a folder as it was made.

    Args:
        kind: kind of the folder.
        folder: the folder, which is read and not changed.
        flips: number of bytes that are changed, one at a time, in every file.
        wrong: number of wrong values that replace each value in turn, drawn by ``seed``; None: all.
        seed: seed of the draws.
    """
    dice = random.Random(seed)
    for file in kind.files:
        yield from _changed_bytes(file, (folder / file).read_bytes(), flips, dice)
    if kind.read is not None:
        yield from _changed_words(kind, kind.read(folder), wrong, dice)
    for file, write in kind.tensors.items():
        yield from _changed_tensors(file, _tensors(folder / file), write)


def _changed_bytes(file: str, data: bytes, flips: int, dice: random.Random) -> Iterator[Change]:
    size = len(data)
    cuts = sorted({0, 1, 7, 8, 9, size // 4, size // 2, size - 9, size - 1} & set(range(size)))
    for cut in cuts:
        yield Change(f"{file} cut to {cut}", _writes(file, data[:cut]))
    yield Change(f"{file} and more", _writes(file, data + b"\0more"))
    yield Change(f"{file} twice", _writes(file, data + data))
    for place in {dice.randrange(size) for _ in range(flips)} | {dice.randrange(min(size, 2000)) for _ in range(flips)}:
        changed = bytearray(data)
        changed[place] ^= 1 << dice.randrange(8)
        yield Change(f"{file} byte {place}", _writes(file, bytes(changed)))
    deep = b"[" * 100_000 + b"]" * 100_000
    nested = b'{"a":' * 500 + b"1" + b"}" * 500
    other = {"a list": b"[1, 2]", "a number": b"7", "deep JSON": deep, "a deep object": nested}
    huge = b'{"w":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}}'
    other["a header of an exabyte"] = struct.pack("<Q", 2**60) + data[8:]
    other["a tensor of terabytes"] = struct.pack("<Q", len(huge)) + huge
    other["a pickle"] = pickle.dumps(Payload())
    for name, content in other.items():
        yield Change(f"{file} is {name}", _writes(file, content))
    yield Change(f"{file} is a PyTorch file that runs code", lambda folder: torch.save(Payload(), folder / file))
    yield Change(f"{file} is not there", lambda folder: (folder / file).unlink())
    yield Change(f"{file} is a folder", lambda folder: _as_folder(folder / file))
    yield Change(f"{file} is larger than memory", lambda folder: _sparse(folder / file))
    yield Change(f"{file} is a link that leads out", lambda folder: _linked(folder / file))


class Payload:
    """Pickle that reports that it was run."""

    def __reduce__(self) -> Any:
        return (Path.touch, (Path("was_run"),))


def _writes(file: str, data: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / file).write_bytes(data) and None


def _as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _sparse(path: Path) -> None:
    header = b'{"w":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}}'
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + 4_000_000_000_000)


def _linked(path: Path) -> None:
    outside = path.parents[1] / f"outside-{path.name}"
    shutil.move(path, outside)
    path.symlink_to(outside)


def _changed_words(kind: Kind, said: Any, wrong: int | None, dice: random.Random) -> Iterator[Change]:
    assert kind.write is not None
    write = kind.write

    def change(name: str, value: Any) -> Change:
        return Change(name, lambda folder: write(folder, value), said=value)

    for where in _places(said):
        if where[:1] == ("config",) and len(where) > 2:  # compared as a whole
            continue
        name = ".".join(map(str, where)) or "all"
        if where:
            yield change(f"{name} deleted", _without(said, where))
            if isinstance(where[-1], str):
                yield change(f"{name} renamed", _renamed(said, where))
        for value in WRONG if wrong is None else dice.sample(WRONG, wrong):
            yield change(f"{name} = {value!r}"[:80], _with(said, where, value))
    # a checkpoint's config is compared as a whole by the fit that resumes from it, and its fields are not checked
    for where in [one for one in _places(said) if isinstance(_at(said, one), dict) and "config" not in one]:
        for key, value in EXTRA.items():
            name = ".".join(map(str, (*where, key)))
            yield change(f"{name} added", _with(said, (*where, key), value))


#: Names that are added to every object.
EXTRA: dict[str, Any] = {
    "pretrained": True,
    "checkpoint_path": "evil.pth",
    "pretrained_cfg": {"hf_hub_id": "evil/model"},
    "pretrained_cfg_overlay": {"file": "evil.pth"},
    "cache_dir": ".",
    "hf_hub_id": "evil/model",
    "url": "https://evil.example/x",
    "weights": "../../x",
}


def _places(value: Any, where: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield where
    if isinstance(value, dict):
        for key, one in value.items():
            yield from _places(one, (*where, key))
    elif isinstance(value, list):
        for i, one in enumerate(value[:2]):
            yield from _places(one, (*where, i))


def _at(value: Any, where: tuple[Any, ...]) -> Any:
    for key in where:
        value = value[key]
    return value


def _with(said: Any, where: tuple[Any, ...], value: Any) -> Any:
    if not where:
        return value
    changed = copy.deepcopy(said)
    _at(changed, where[:-1])[where[-1]] = value
    return changed


def _without(said: Any, where: tuple[Any, ...]) -> Any:
    changed = copy.deepcopy(said)
    del _at(changed, where[:-1])[where[-1]]
    return changed


def _renamed(said: Any, where: tuple[Any, ...]) -> Any:
    return _with(_without(said, where), (*where[:-1], where[-1] + "_"), _at(said, where))


def _changed_tensors(
    file: str, tensors: dict[str, Tensor], write: Callable[[Path, dict[str, Tensor]], None]
) -> Iterator[Change]:
    def change(name: str, value: dict[str, Tensor]) -> Change:
        return Change(f"{file}: {name}", lambda folder: write(folder, value))

    floating = [name for name, one in tensors.items() if one.is_floating_point() and one.numel() > 1]
    for name in (*tensors,)[:4] + (*floating,)[-4:]:
        one = tensors[name]
        yield change(f"without {name}", {key: value for key, value in tensors.items() if key != name})
        yield change(f"{name} flat", {**tensors, name: torch.cat([one.flatten(), one.flatten()])})
        yield change(f"{name} renamed", {**{k: v for k, v in tensors.items() if k != name}, name + "_": one})
        yield change(f"{name} of whole numbers", {**tensors, name: one.to(torch.int32)})
        yield change(f"{name} true or false", {**tensors, name: one.to(torch.bool)})
        yield change(f"{name} complex", {**tensors, name: one.to(torch.complex64)})
    for name in floating[:3] + floating[-3:]:
        for value in (float("nan"), float("inf"), -float("inf")):
            damaged = tensors[name].clone()
            damaged.view(-1)[-1] = value
            yield change(f"{name} with {value}", {**tensors, name: damaged})
        yield change(f"{name} moved", {**tensors, name: tensors[name] + 0.25})
    yield change("one more", {**tensors, "more": torch.zeros(3)})
    yield change("none", {})


def _tensors(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".pth":
        return torch.load(path, weights_only=True)
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict


# -------------------------------------------------------------------------------------------------- the verdict


@contextmanager
def nothing_is_run(inside: Path) -> Iterator[None]:
    """Change to a directory with a module and files that report when they are run; nothing may be fetched or ended.

    Raises:
        Attempted: something was.
    """
    (inside / "evil_module.py").write_text("import pathlib\npathlib.Path('was_run').touch()\ndef run(): pass\n")
    (inside / "evil.pth").write_bytes(pickle.dumps(Payload()))
    here, path = os.getcwd(), list(sys.path)
    patched, fsync = _traps(), os.fsync
    before = [(owner, name, getattr(owner, name)) for owner, name in patched]
    try:
        os.chdir(inside)
        sys.path.insert(0, "")
        os.fsync = lambda descriptor: None  # thousands of files are written
        for owner, name in patched:
            setattr(owner, name, _trap(name))
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)
        os.fsync = fsync
        sys.path[:] = path
        os.chdir(here)
        sys.modules.pop("evil_module", None)
    if (inside / "was_run").exists():
        raise Attempted("code from a file was run")


def _traps() -> list[tuple[Any, str]]:
    import huggingface_hub
    import timm.models._builder as builder
    import timm.models._hub as hub

    found = [(os, "abort"), (os, "_exit"), (os, "system"), (socket, "create_connection"), (socket.socket, "connect")]
    found += [(huggingface_hub, "hf_hub_download"), (huggingface_hub, "snapshot_download")]
    found += [(torch.hub, "load_state_dict_from_url"), (torch.hub, "download_url_to_file")]
    for module in (builder, hub):
        found += [(module, name) for name in ("load_state_dict_from_hf", "hf_hub_download", "load_model_config_from_hf")
                  if hasattr(module, name)]  # fmt: skip
    return found


def _trap(name: str) -> Callable[..., Any]:
    def caught(*given: Any, **options: Any) -> Any:
        raise Attempted(f"{name}({', '.join(map(repr, given))})"[:200])

    return caught


def outcome(kind: Kind, folder: Path, change: Change, original: Loaded) -> tuple[str, str]:
    """Return one of :data:`OUTCOMES`, and a remark on it.

    Args:
        kind: kind of the folder.
        folder: the changed folder.
        change: the change.
        original: the result of loading the folder before.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loaded = kind.load(folder)
    except (ValueError, FileNotFoundError) as error:
        problem = sentence_problem(str(error), folder)
        return ("anything else", f"{problem}: {error}") if problem else ("refused", str(error))
    except BaseException as error:
        return "anything else", f"{type(error).__name__}: {error}"
    if loaded is None:
        return ("refused", "computed anew") if kind.recomputed else ("anything else", "nothing was loaded")
    said, tensors = loaded
    expected = original[0] if change.said is None else change.said
    if not _says(said, expected):
        return "anything else", f"it says {json.dumps(said)[:300]}"
    if tensors.keys() != original[1].keys() and not (isinstance(said, dict) and said.get("masker") is False):
        return "anything else", "other names of tensors"
    if all(_same(one, original[1][name]) for name, one in tensors.items()):
        return "unchanged", ""
    odd = [name for name, one in tensors.items()
           if one.shape != original[1][name].shape or not bool(torch.isfinite(one).all())]  # fmt: skip
    return ("anything else", f"{odd[:3]} hold NaN or have another shape") if odd else ("other finite weights", "")


def sentence_problem(message: str, folder: Path) -> str:
    """Return a complaint about a message that should be one sentence with the name of a file in it; "" for none."""
    if "\n" in message:
        return "several lines"
    if len(message) > 900:
        return "too long"
    if str(folder) not in message:
        return "names no file"
    return "several sentences" if re.search(r"[a-z\d)'][.!?] +[A-Z][a-z]", message) else ""


def _says(said: Any, expected: Any) -> bool:
    """Compare two values, 1 and 1.0 as equal, except for the version and keys that the expected value leaves out."""
    if isinstance(said, dict) and isinstance(expected, dict):
        return all(key in said and _equal(said[key], one) for key, one in expected.items() if key != "version")
    return _equal(said, expected)


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_equal(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_equal, one, other))
    return isinstance(one, bool) == isinstance(other, bool) and (one == other or (one != one and other != other))


def _same(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and torch.equal(one, other)


def tried(kind: Kind, base: Path, *, every: int = 1, **options: Any) -> Iterator[tuple[Change, str, str]]:
    """Yield every change of a kind, with its outcome and a remark.

    Args:
        kind: the kind.
        base: an empty folder to work in.
        every: make only every so many-th change.
        options: options of :func:`changes`.
    """
    whole, changed = base / "whole", base / "somewhere" / "changed"
    whole.mkdir(parents=True)
    kind.make(whole)
    with nothing_is_run(base):
        original = kind.load(whole)
        assert original is not None
        for change in islice(changes(kind, whole, **options), 0, None, every):
            shutil.rmtree(changed.parent, ignore_errors=True)
            shutil.copytree(whole, changed)
            change.apply(changed)
            yield change, *outcome(kind, changed, change, original)


def main() -> None:
    """Print the table, for the named kinds only if there are any."""
    print(heading("kind of file", "changed files", *OUTCOMES))
    total: Counter[str] = Counter()
    for name, kind in KINDS.items():
        if sys.argv[1:] and name not in sys.argv[1:]:
            continue
        with tempfile.TemporaryDirectory() as base:
            results = list(tried(kind, Path(base), flips=100))
        counts = Counter(result for _, result, _ in results)
        total += counts
        print(row(name, len(results), *(counts[one] for one in OUTCOMES)), flush=True)
        for change, result, told in results:
            if result == "anything else":
                print(f"{name}: {change.name}: {told}", file=sys.stderr)
    print(row("all", total.total(), *(total[one] for one in OUTCOMES)))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
