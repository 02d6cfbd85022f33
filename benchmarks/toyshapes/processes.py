"""Two processes train a PiNet to what one does with twice the batch.

    OMP_NUM_THREADS=1 python -m benchmarks.toyshapes.processes [--pictures 96] [--epochs 3]

ToyShapes, the paper's network and its recursive feedback, on the CPU (gloo). Three networks: with the paper's batch
norms, whose statistics are those of each process's own half of a batch; with group norms in their place, which know
no batch; and a head on a frozen backbone's maps, as a retrofit trains it. For each, one process with batches of 32
and two with batches of 16, and the largest relative difference between their losses, in training and
validation, after each step.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time

import torch
from torch import nn
from torch.utils.data import TensorDataset

from examples.toyshapes.generator import toy_shapes
from xai_align.pinet import FrozenEncoder, PiNet, SecondLookHead, conv_pinet
from xai_align.pinet.fit import fit_pinet
from xai_align.pinet.losses import PiNetLoss

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


def in_processes(count: int, kind: str, options: argparse.Namespace) -> dict[str, list[dict[str, float]]]:
    """The log of a run by so many processes, whose batches together are 32."""
    launch = [sys.executable]
    launch += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)] if count > 1 else []
    words = [__file__, "--one", kind, "--batch-size", str(32 // count)]
    words += ["--pictures", str(options.pictures), "--epochs", str(options.epochs)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([*launch, *words], env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def largest_difference(one: list[dict[str, float]], two: list[dict[str, float]]) -> float:
    assert len(one) == len(two)
    pairs = [(a[name], b[name]) for a, b in zip(one, two, strict=True) for name in COMPARED]
    return max(abs(a - b) / max(abs(a), 1e-12) for a, b in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=96)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--one", choices=NETWORKS, help="fit this network, in this process")
    parser.add_argument("--batch-size", type=int, default=32)
    options = parser.parse_args()
    if options.one:
        result = fit(options.one, options.batch_size, options.pictures, options.epochs)
        if os.environ.get("RANK", "0") == "0":
            print(json.dumps(result))
        return
    print("| network | steps | last loss, one / two | largest relative difference after a step | seconds, one / two |")
    print("|---|---|---|---|---|")
    for kind in NETWORKS:
        one, two = (in_processes(count, kind, options) for count in (1, 2))
        ends = " / ".join(f"{run['rows'][-1]['loss']:.5f}" for run in (one, two))
        seconds = " / ".join(f"{run['seconds']:.0f}" for run in (one, two))
        difference = largest_difference(one["rows"], two["rows"])
        print(f"| {kind} | {len(one['rows'])} | {ends} | {difference:.1e} | {seconds} |", flush=True)


if __name__ == "__main__":
    main()
