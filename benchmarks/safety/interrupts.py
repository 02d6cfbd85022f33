"""Interrupt methods at random moments, and count those that leave the thread, the process or the model changed.

    OMP_NUM_THREADS=1 python -m benchmarks.safety.interrupts [--count 2000] [--methods NAME ...]

A tiny convolutional network, two images. ``KeyboardInterrupt`` is raised by a timer at a random moment of a call;
then the thread's modes and hooks, gradient mode, autocast, an unrelated backward pass and the model are checked.
Calls that ended before it are not counted. An interrupt is hidden if the call raised another error in its place.
Without names, the attribution classes are run, and one registered method for each way of calling other packages.
"""

from __future__ import annotations

import argparse
import random
import signal
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.safety.all_methods import all_methods, is_same, quiet
from benchmarks.shared.markdown import heading, row
from benchmarks.shared.measuring import timed
from benchmarks.shared.positive_integer import positive_integer
from xai_align._tools.thread_state import ThreadState
from xai_align.testing.networks import TinyNetwork, fixed_images
from xai_align.testing.traces import differences, snapshot

METHODS = (
    "PiNetAttribution",
    "LayerPiNetAttribution",
    "FEIAttribution",
    "ClippedGradientAttribution",
    "ALIGNAttribution",
    "PiNetCAM",
    "FEICAM",
    "ALIGNCAM",
    "AttributionCAM of a question",
    "clip_gradients",
    "hidden layers",
    "integrated_gradients",
    "gradient_shap",
    "deep_lift",
    "layer_grad_cam",
    "gradcam",
    "shapleycam",
    "kpcacam",
)
#: Number of interrupts between comparisons of the whole model and the random state.
WHOLE = 50


def interrupted(call: Callable[[], Any], seconds: float) -> BaseException | None:
    """Run a call, interrupt it after this number of seconds, and return the interrupt; None: it came too late."""

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-6))
            call()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt as error:
        return error
    finally:
        signal.signal(signal.SIGALRM, before)
    return None


_FRESH = ThreadState.now()


def differing(now: ThreadState, before: ThreadState) -> list[str]:
    """Return the names of the parts of the thread's state that differ."""
    return [name for name, value, earlier in zip(now._fields, now, before, strict=True) if value != earlier]


def leftovers() -> list[str]:
    """Describe the state that an interrupt left in this thread."""
    found = differing(ThreadState.now(), _FRESH)
    if torch.is_inference_mode_enabled():
        found.append("inference mode")
    x = torch.ones(2, requires_grad=True)
    (x * x).sum().backward()
    if x.grad is None or x.grad.tolist() != [2, 2]:
        found.append("a backward pass")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=positive_integer, default=2000)
    parser.add_argument("--methods", nargs="+")
    options = parser.parse_args()
    quiet()
    torch.set_num_threads(1)
    methods = all_methods()
    images = fixed_images(2)
    print(heading("method", "interrupts", "hidden by another error", "left something"))
    for name in options.methods or METHODS:
        model, call, draw = TinyNetwork(), methods[name], random.Random(name)
        expected = call(model, images)
        seconds, _ = timed(lambda: call(model, images))  # noqa: B023 - run at once
        count = hidden = poisoned = 0
        before = snapshot(model)
        while count < options.count:
            error: BaseException | None
            try:
                error = interrupted(lambda: call(model, images), draw.uniform(0, seconds))  # noqa: B023 - run at once
            except Exception as other:
                error, hidden = other, hidden + 1
            if error is None:
                continue
            count += 1
            del error
            bad = bool(leftovers())
            if count % WHOLE == 0:
                bad |= bool(differences(before, snapshot(model))) or not is_same(call(model, images), expected)
            poisoned += bad
        print(row(name, count, hidden, poisoned), flush=True)


if __name__ == "__main__":
    main()
