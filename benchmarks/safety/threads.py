"""Count wrong calls during an explanation that shares the model, and differences between eight threads and one.

    OMP_NUM_THREADS=1 python -m benchmarks.safety.threads [--calls 5000] [--methods NAME ...]

A tiny convolutional network. One thread explains two images over and over while another calls the model on others;
a call is wrong where any bit of its logits is. Then eight threads explain the same images at once, three times.
Python switches threads every 10 microseconds.
"""

from __future__ import annotations

import argparse
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.safety.all_methods import Call, all_methods, is_same, quiet
from benchmarks.shared.markdown import heading, row
from benchmarks.shared.positive_integer import positive_integer
from xai_align.testing.networks import TinyNetwork, fixed_images

THREADS, ROUNDS = 8, 3


def together(jobs: Sequence[Callable[[], Any]]) -> list[Any]:
    """Run functions in one thread each, started at the same moment; return their results, or raise the first error."""
    found: list[Any] = [None] * len(jobs)
    errors: list[BaseException] = []
    barrier = threading.Barrier(len(jobs))

    def run(number: int, job: Callable[[], Any]) -> None:
        barrier.wait()
        try:
            found[number] = job()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return found


def beside(method: Call, model: nn.Module, images: Tensor, others: Tensor, calls: int) -> tuple[int, int, int]:
    """Count plain calls, wrong ones, and explanations meanwhile: at least one explanation, and this many calls."""
    with torch.no_grad():
        expected = model(others)
    count, wrong, explained = [0], [0], [0]
    done = threading.Event()

    def explain() -> None:
        try:
            while count[0] < calls:
                method(model, images)
                explained[0] += 1
        finally:
            done.set()

    def call() -> None:
        while not done.is_set():
            with torch.no_grad():
                logits = model(others)
            count[0] += 1
            wrong[0] += not torch.equal(logits, expected)

    together([explain, call])
    return count[0], wrong[0], explained[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=positive_integer, default=5000)
    parser.add_argument("--methods", nargs="+")
    options = parser.parse_args()
    quiet()
    torch.set_num_threads(1)
    sys.setswitchinterval(1e-5)
    methods = all_methods()
    images, others = fixed_images(2), fixed_images(4, seed=11)
    columns = ("explanations", "plain calls meanwhile", "wrong", "explained in eight threads", "other than in one")
    print(heading("method", *columns))
    for name in options.methods or methods:
        model, method = TinyNetwork(), methods[name]
        expected = method(model, images)
        calls, wrong, explained = beside(method, model, images, others, options.calls)
        found = [one for _ in range(ROUNDS) for one in together([lambda: method(model, images)] * THREADS)]  # noqa: B023
        other = sum(not is_same(one, expected) for one in found)
        print(row(name, explained, calls, wrong, len(found), other), flush=True)


if __name__ == "__main__":
    main()
