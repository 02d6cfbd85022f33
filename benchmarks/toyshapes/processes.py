"""Compare a PiNet trained by one process and by two with half the batch each.

    OMP_NUM_THREADS=1 python -m benchmarks.toyshapes.processes [--pictures 96] [--epochs 3]

ToyShapes, the paper's network and its recursive feedback, on the CPU (gloo). Three networks: with the paper's batch
norms, whose statistics are those of each process's own half of a batch; with group norms in their place, which do not
depend on the batch; and a head on a frozen backbone's maps, as a retrofit trains it. For each, one process with
batches of 32 and two with batches of 16, and the largest relative difference between their losses, in training and
validation, after each step.
"""

from __future__ import annotations

import argparse
import time

import torch
from torch import nn
from torch.utils.data import TensorDataset

from benchmarks.shared.markdown import heading, row
from benchmarks.shared.positive_integer import positive_integer
from benchmarks.shared.processes import ends, in_processes, largest_difference, print_once
from examples.toyshapes.generator import toy_shapes
from xai_align.pinet import FrozenEncoder, PiNet, SecondLookHead, conv_pinet
from xai_align.pinet.network.losses import PiNetLoss
from xai_align.training.pinet.fit import fit_pinet

NETWORKS = ("batch norms", "group norms", "frozen backbone")
COMPARED = ("loss", "validation_loss")


def network(kind: str) -> PiNet:
    torch.manual_seed(0)
    model = conv_pinet()
    if kind == "frozen backbone":
        encoder = model.encoder.eval()

        model = PiNet(
            FrozenEncoder(encoder), SecondLookHead(encoder.channels, 1, decoder="conv", z="pixels", image_channels=1)
        )
    if kind != "batch norms":
        with_group_norms(model.head if kind == "frozen backbone" else model)
    return model


def with_group_norms(model: nn.Module) -> None:
    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, nn.GroupNorm(4, child.num_features))


def fit(kind: str, batch_size: int, pictures: int, epochs: int) -> dict[str, object]:
    train, validation = toy_shapes(pictures, seed=0), toy_shapes(48, seed=10_000)
    began = time.monotonic()
    done = fit_pinet(
        network(kind),
        TensorDataset(train.images, train.labels),
        TensorDataset(validation.images, validation.labels),
        loss=PiNetLoss("binary", feedback=100.0),
        epochs=epochs,
        batch_size=batch_size,
        validate_every=1,
    )
    return {"rows": done.history, "seconds": time.monotonic() - began}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=positive_integer, default=96)
    parser.add_argument("--epochs", type=positive_integer, default=3)
    parser.add_argument("--one", choices=NETWORKS, help="fit this network in this process")
    parser.add_argument("--batch-size", type=positive_integer, default=32)
    options = parser.parse_args()
    if options.one:
        print_once(fit(options.one, options.batch_size, options.pictures, options.epochs))
        return
    columns = ("steps", "last loss, one / two", "largest relative difference after a step", "seconds, one / two")
    print(heading("network", *columns))
    length = ("--pictures", options.pictures, "--epochs", options.epochs)
    for kind in NETWORKS:
        one, two = (  # the processes' batches together are 32
            in_processes(n, "benchmarks.toyshapes.processes", "--one", kind, "--batch-size", 32 // n, *length)
            for n in (1, 2)
        )
        losses, seconds = ends((one, two))
        difference = largest_difference(one["rows"], two["rows"], COMPARED)
        print(row(kind, len(one["rows"]), losses, f"{difference:.1e}", seconds), flush=True)


if __name__ == "__main__":
    main()
