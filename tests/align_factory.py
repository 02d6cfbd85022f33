"""A task of seconds for a classifier and a masker: which way does the bar lie? And a program to be killed."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from xai_align.align import AlignTrainer, Masker, TrainingBatch

SIZE = 12


class Bars(Dataset):
    """Noise, and somewhere a bright bar: lying (0), standing (1), or a square (2). Items ``(image, label[, mask])``."""

    def __init__(self, count: int, *, seed: int = 0, masks: bool = False) -> None:
        dice = torch.Generator().manual_seed(seed)
        self.images = torch.rand(count, 1, SIZE, SIZE, generator=dice) * 0.6
        self.labels = torch.arange(count) % 3
        self.masks = torch.zeros_like(self.images)
        places = torch.randint(0, SIZE - 6, (count, 2), generator=dice).tolist()
        for i, (row, column) in enumerate(places):
            height, width = ((2, 6), (6, 2), (4, 4))[i % 3]
            self.masks[i, 0, row : row + height, column : column + width] = 1
        self.images = torch.where(self.masks > 0, 1.0, self.images) - 0.4
        self.with_masks = masks

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int):
        item = self.images[i], int(self.labels[i])
        return (*item, self.masks[i]) if self.with_masks else item


class NumberedBars(Bars):
    """Items ``(image, label, mask, index)``."""

    def __init__(self, count: int, *, seed: int = 0) -> None:
        super().__init__(count, seed=seed, masks=True)

    def __getitem__(self, i: int):
        return (*super().__getitem__(i), i)


def read_numbered(items) -> TrainingBatch:
    """A batch of :class:`NumberedBars`."""
    return TrainingBatch(images=items[0], labels=items[1], masks=items[2], indices=items[3])


class Bends(nn.Module):
    """Two convolutions, with batch norm and dropout if wanted, and a mean of what they find."""

    def __init__(self, classes: int = 3, *, width: int = 8, batch_norm: bool = True, dropout: float = 0.1) -> None:
        super().__init__()
        self.one = nn.Conv2d(1, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width) if batch_norm else nn.Identity()
        self.two = nn.Conv2d(width, 2 * width, 3, padding=1)
        self.act = nn.ReLU(inplace=True)
        self.drop = nn.Dropout(dropout)
        self.fc = nn.Linear(2 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.max_pool2d(self.act(self.norm(self.one(x))), 2)
        return self.fc(self.drop(self.act(self.two(x)).mean((2, 3))))


def bends(seed: int = 0, **options) -> Bends:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Bends(**options)


def small_masker(seed: int = 0) -> Masker:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Masker(1, width=4, depth=1)


def loader(count: int = 24, *, batch_size: int = 8, seed: int = 0, masks: bool = False, **options) -> DataLoader:
    return DataLoader(Bars(count, seed=seed, masks=masks), batch_size=batch_size, shuffle=True, **options)


def trainer(classifier: nn.Module | None = None, masker: nn.Module | None = None, **options) -> AlignTrainer:
    given = {"seed": 5, "learning_rate": 5e-3, "schedule": "cosine", "masker_every": 1} | options
    return AlignTrainer(
        bends() if classifier is None else classifier, small_masker() if masker is None else masker, **given
    )


def rows(history):
    """The log without what the clock says."""
    return [{name: value for name, value in row.items() if name != "seconds"} for row in history]


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same_weights(model: nn.Module, before: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


#: A fit through all phases: an epoch and two steps of warm-up, then the masker alone for four steps, then in turn.
PLAN = {"warmup_epochs": 1, "warmup_steps": 2, "masker_only_steps": 4}


def fit(out=None, classifier: nn.Module | None = None, masker: nn.Module | None = None, *, epochs: int = 5, **options):
    """The fit that the tests of interruptions repeat: five epochs of three steps, batch norm, dropout."""
    made = trainer(classifier, masker, out=out, **(PLAN | options))
    return made.fit(loader(), loader(12, seed=1), epochs=epochs)


def trained_by_name(name: str):
    """The trainer, the fit and the classifier's first weights, of two epochs of a training recipe with all it needs."""
    made = AlignTrainer(bends(), recipe=name, warmup_steps=2, masker_only_steps=1, read_batch=read_numbered)
    before = weights(made.classifier)
    data = DataLoader(NumberedBars(24), batch_size=8, shuffle=True)
    return made, made.fit(data, data, epochs=2), before


def fit_without_batch_norm(out=None, *, recipe: str = "align"):
    """For comparisons between numbers of processes: 21 examples in steps of 8, 8 and 5."""
    classifier = bends(batch_norm=False, dropout=0.0)
    made = trainer(classifier, out=out, recipe=recipe, learning_rate=2e-3, **PLAN)
    given = recipe in ("oracle", "random", "inverse", "rrr", "gradia", "care")
    return made.fit(loader(21, masks=given), loader(7, seed=1, masks=given), epochs=4)


def killed_after(seconds: float, out: Path, epochs: int) -> int:
    """The exit status of a process that fits and is killed, as from outside, so many seconds later."""
    child = os.fork()
    if child == 0:
        warnings.simplefilter("ignore")
        fit(out, epochs=epochs)
        os._exit(0)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_again_and_again(out: Path, times: int, epochs: int) -> dict[str, list[int]]:
    """The same fit killed so often at random moments, each time going on; and how far it was after each."""
    fit(epochs=1)  # what takes long to import is there before the first child
    began = time.monotonic()
    fit(epochs=6)
    six_epochs = time.monotonic() - began  # on a machine as fast, and as busy, as this one is now
    dice, codes, reached = random.Random(3), [], []
    for _ in range(times):
        codes.append(killed_after(dice.uniform(0.1, 0.9) * six_epochs, out, epochs))
        names = sorted(path.name for path in (out / "checkpoints").glob("epoch-*.safetensors"))
        reached.append(int(names[-1].removeprefix("epoch-").split(".")[0]) if names else -1)
    return {"codes": codes, "reached": reached}


if __name__ == "__main__":
    torch.set_num_threads(1)
    what, folder, *numbers = sys.argv[1:]
    if what == "killed":
        print(json.dumps(killed_again_and_again(Path(folder), int(numbers[0]), int(numbers[1]))))
    else:
        done = fit_without_batch_norm(Path(folder), recipe=numbers[0])
        if os.environ.get("RANK", "0") == "0":
            networks = [network for network in (done.classifier, done.masker) if network is not None]
            values = [value for network in networks for p in network.parameters() for value in p.flatten().tolist()]
            print(json.dumps({"rows": rows(done.history), "weights": values}))
