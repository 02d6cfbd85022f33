"""A task of seconds: is there a bright square in the picture? And a program that fits it, to be killed."""

from __future__ import annotations

import json
import os
import signal
import sys
from itertools import count as counter
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from xai_align.pinet import conv_pinet
from xai_align.pinet.network.losses import PiNetLoss
from xai_align.training.pinet.fit import fit_pinet

SIZE = 8
_item = counter(1)


def count_or_die() -> None:
    """The process is killed, as from outside, when item number ``FIT_DIES_AT`` is asked for."""
    if next(_item) == int(os.environ.get("FIT_DIES_AT", "0")):
        os.kill(os.getpid(), signal.SIGKILL)


class Squares(torch.utils.data.Dataset):
    """Grey noise; in every second picture a bright square of 3 x 3. Items ``(image, label)``, or with a mask."""

    def __init__(self, count: int, *, seed: int = 0, masks: bool = False, label=int) -> None:
        dice = torch.Generator().manual_seed(seed)
        self.images = torch.rand(count, 1, SIZE, SIZE, generator=dice) * 0.5
        self.masks = torch.zeros_like(self.images)
        self.places = torch.randint(0, SIZE - 3, (count, 2), generator=dice)
        for i in range(1, count, 2):
            row, column = self.places[i]
            self.masks[i, 0, row : row + 3, column : column + 3] = 1
        self.images = torch.where(self.masks > 0, 1.0, self.images)
        self.with_masks, self.label = masks, label

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int):
        count_or_die()
        item = (self.images[i], self.label(i % 2))
        return (*item, self.masks[i]) if self.with_masks else item


class Plain(nn.Module):
    """``pi = sigmoid(w * x + c)``, ``logit = a + s * mean(pi * x)``: no batch norm, three numbers to learn."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([1.0]))
        self.c = nn.Parameter(torch.tensor([0.0]))
        self.a = nn.Parameter(torch.tensor([0.5]))
        self.s = nn.Parameter(torch.tensor([1.0]))

    def explain(self, x: Tensor):
        pi = torch.sigmoid(self.w * x + self.c)[:, None]
        logits = self.a + self.s * (pi[:, 0] * x).mean((1, 2, 3))[:, None]
        return SimpleNamespace(logits=logits, coefficients=pi, coefficient_maps=pi[:, :, 0])

    def forward(self, x: Tensor) -> Tensor:
        return self.explain(x).logits


def small_pinet(seed: int = 0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return conv_pinet(1, width=4, depth=2, dropout=0.1)


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same_weights(model: nn.Module, before: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def rows(history):
    """The log without what the clock says."""
    return [{name: value for name, value in row.items() if name != "seconds"} for row in history]


def fit(out=None, model=None, **options):
    """The fit that the tests of interruptions repeat: three epochs, nine steps, dropout, feedback."""
    given = {"epochs": 3, "batch_size": 8, "validate_every": 2, "seed": 5, "schedule": "cosine"} | options
    loss = PiNetLoss("binary", feedback=10.0, parsimony=1e-3)
    train, validation = Squares(24), Squares(8, seed=1)
    return fit_pinet(model or small_pinet(), train, validation, loss=loss, out=out, **given)


def fit_without_batch_norm(out, batch_size):
    """For comparisons between numbers of processes."""
    loss = PiNetLoss("binary", parsimony=1e-3, feedback=1.0)
    data = Squares(21), Squares(8, seed=1)
    return fit_pinet(Plain(), *data, loss=loss, out=out, epochs=3, batch_size=batch_size, learning_rate=0.05)


def killed_at(item: int, out: Path) -> int:
    """The exit status of a process that fits and is killed when it asks for item number ``item``."""
    child = os.fork()
    if child == 0:
        os.environ["FIT_DIES_AT"] = str(item)
        fit(out / str(item))
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    torch.set_num_threads(1)
    what, out, *numbers = sys.argv[1:]
    if what == "killed":
        print(json.dumps([killed_at(int(item), Path(out)) for item in numbers]))
    else:
        done = fit_without_batch_norm(Path(out), int(numbers[0]))
        if os.environ.get("RANK", "0") == "0":
            print(json.dumps({"rows": rows(done.history), "weights": [p.item() for p in done.model.parameters()]}))
