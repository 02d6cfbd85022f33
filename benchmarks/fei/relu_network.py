"""Train a ResNet-20 with plain ReLU and batch norm on PACS, and print its accuracy on held-out pictures.

    python -m benchmarks.fei.relu_network --images DIR --out FILE [--epochs 30]
    RESNET20=FILE python -m benchmarks.fei.maps --images DIR --out OUT --network resnet20 --methods fei,readout

DIR holds DOMAIN/CLASS/*.jpg. 70 % of every class in every domain are used for training, in random crops, half of them
mirrored, with SGD and a cosine schedule; nothing is chosen on the rest. A stopped run resumes from the last epoch,
whose file is in a folder beside FILE.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import affine_grid, cross_entropy, grid_sample

from benchmarks.shared.pacs import load_pacs
from benchmarks.shared.positive_integer import positive_integer
from benchmarks.shared.relu_network import CLASSES, MEAN, STD, parts_of, resnet20, small
from xai_align._tools.random_state import seed_all
from xai_align.training.checkpoints import Checkpoints
from xai_align.training.diverged import DivergedError
from xai_align.training.engine import Program, StepContext
from xai_align.training.epoch_plan import derived_seed, epoch_plan, steps_in_epoch
from xai_align.training.network_fit_state import NetworkFitState
from xai_align.training.options import TrainingOptions
from xai_align.training.process_group import ProcessGroup
from xai_align.training.run import run_fit
from xai_align.training.step_means import StepMeans
from xai_align.training.training_log import Row

SEED = 0
BATCH = 32
RATE, MOMENTUM, WEIGHT_DECAY = 0.1, 0.9, 5e-4
LABEL_SMOOTHING = 0.1
#: Smallest side of a random crop as a share of the picture's.
SMALLEST_CROP = 0.6


@dataclass
class ReluProgram(Program):
    """Training program on crops of pictures ``[N, 3, 96, 96]`` from -1 to 1; the last weights are kept."""

    network: nn.Module
    state: NetworkFitState
    images: Tensor
    labels: Tensor
    group: ProcessGroup

    def steps_in_epoch(self) -> int:
        return steps_in_epoch(len(self.labels), BATCH)

    def batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        seed_all(derived_seed(SEED, "epoch", epoch))
        for (shard,) in epoch_plan(len(self.labels), batch_size=BATCH, seed=SEED, epoch=epoch):
            some = list(shard.indices)
            yield cropped(self.images[some]), self.labels[some]

    def step(self, batch: tuple[Tensor, Tensor], context: StepContext, means: StepMeans) -> None:
        x, labels = batch
        self.network.train()
        logits = self.network(x)
        loss = cross_entropy(logits, labels, label_smoothing=LABEL_SMOOTHING)
        self.state.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.state.optimizer.step()
        self.state.scheduler.step()
        means.add("loss", loss)
        means.add("accuracy", (logits.argmax(1) == labels).float().mean())

    def measure(self, means: StepMeans) -> Row:
        row = means.values(("loss", "accuracy"), self.group)
        if not math.isfinite(row["loss"] or 0.0):
            raise DivergedError(f"the loss was {row['loss']} in epoch {self.state.epoch + 1}; lower RATE")
        return dict(row)

    def validate(self) -> Row:
        return {}

    def compare(self, row: Row, best: Row | None, since_best: int) -> None:
        return None


def cropped(images: Tensor) -> Tensor:
    """Return a random crop of each picture at its size, half of them mirrored; drawn from PyTorch's generator."""
    count = len(images)
    side = SMALLEST_CROP + (1 - SMALLEST_CROP) * torch.rand(count)
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0] = side * (1 - 2 * torch.randint(2, (count,)))
    theta[:, 1, 1] = side
    theta[:, :, 2] = (2 * torch.rand(count, 2) - 1) * (1 - side)[:, None]
    grid = affine_grid(theta, list(images.shape), align_corners=False)
    return grid_sample(images, grid, align_corners=False).contiguous(memory_format=torch.channels_last)


def train(images: Tensor, labels: Tensor, *, epochs: int, folder: Path | None = None) -> nn.Module:
    """Return the network in eval mode after this number of epochs on pictures ``[N, 3, H, W]`` from -1 to 1."""
    torch.manual_seed(SEED)
    network = resnet20(len(CLASSES)).to(memory_format=torch.channels_last)
    sgd = torch.optim.SGD(network.parameters(), RATE, MOMENTUM, weight_decay=WEIGHT_DECAY, nesterov=True)
    steps = epochs * steps_in_epoch(len(labels), BATCH)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, steps)
    state = NetworkFitState(network, dict(network.named_parameters()), sgd, cosine)
    program = ReluProgram(network, state, images, labels, ProcessGroup())
    checkpoints = None if folder is None else Checkpoints(folder / "checkpoints", {"epochs": epochs, "seed": SEED})
    options = TrainingOptions(keep="last")
    run_fit(program, state, options, epochs=epochs, checkpoints=checkpoints, shown={"loss": "loss"})
    return network.eval()


@torch.no_grad()
def accuracy(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the share of pictures that the network classifies correctly."""
    found = [network(some).argmax(1) for some in images.split(64)]
    return float((torch.cat(found) == labels).float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="PACS: DOMAIN/CLASS/*.jpg")
    parser.add_argument("--out", type=Path, required=True, help="the file of weights (safetensors)")
    parser.add_argument("--epochs", type=positive_integer, default=30)
    options = parser.parse_args()
    pacs = load_pacs(options.images)
    parts = parts_of(pacs)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    x = (small(pacs.pixels) - mean) / std
    folder = options.out.with_name(f"{options.out.name}.run")
    network = train(x[parts.train], pacs.labels[parts.train], epochs=options.epochs, folder=folder)
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, options.out)
    held_out = torch.cat([parts.validation, parts.test])
    print(f"{len(parts.train)} pictures: {accuracy(network, x[parts.train], pacs.labels[parts.train]):.3f}")
    for number, domain in enumerate(pacs.domain_names):
        some = held_out[pacs.domains[held_out] == number]
        print(f"{domain}, {len(some)} held out: {accuracy(network, x[some], pacs.labels[some]):.3f}")
    print(f"all {len(held_out)} held out: {accuracy(network, x[held_out], pacs.labels[held_out]):.3f}")


if __name__ == "__main__":
    main()
