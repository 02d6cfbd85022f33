"""Measure how often intervals and marks are wrong when two methods do not differ, by the number of images.

    python -m benchmarks.judging.small_samples

Takes a minute. Differences of a metric, image by image, are drawn from distributions with mean 0; an interval is wrong
if it excludes 0, and any mark (one comparison) is wrong. For comparison: the percentile bootstrap, which ``compare``
used before, and whose marks were the intervals that exclude 0; and Student's t without the correction for skewness.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.shared.markdown import heading, row
from benchmarks.shared.positive_integer import positive_integer
from xai_align.comparison.intervals import mean_intervals
from xai_align.comparison.student_t import critical_value
from xai_align.comparison.verdicts import ERROR_RATE, judged_p

Array = NDArray[np.float64]
SIZES = (2, 4, 8, 20, 50)
RESAMPLES = 1000
#: Differences with mean 0, ``[n, samples]``.
DIFFERENCES: dict[str, Callable[[np.random.Generator, tuple[int, int]], Array]] = {
    "normal": lambda generator, shape: generator.normal(size=shape),
    "exponential": lambda generator, shape: generator.exponential(size=shape) - 1,
    "exponential, negative": lambda generator, shape: 1 - generator.exponential(size=shape),
    "gamma(2)": lambda generator, shape: generator.gamma(2, size=shape) - 2,
    "long tails": lambda generator, shape: generator.laplace(size=shape),
}


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Shares of samples with an error, each nominally 5 %."""

    intervals: float
    marks: float
    percentile_bootstrap: float
    student: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=positive_integer, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rates = error_rates(samples=options.samples, seed=options.seed)
    columns = {
        "before: marks": "percentile_bootstrap",
        "Student's t alone": "student",
        "intervals": "intervals",
        "marks": "marks",
    }
    print(heading("differences", "", *(f"n = {n}" for n in SIZES)))
    for name in DIFFERENCES:
        for words, field in columns.items():
            print(row(name, words, *(f"{100 * getattr(rates[name, n], field):.1f} %" for n in SIZES)))


def error_rates(*, samples: int, seed: int) -> dict[tuple[str, int], Rates]:
    """Return the rates for each distribution and number of images."""
    generator = np.random.default_rng(seed)
    found = {}
    for name, draw in DIFFERENCES.items():
        for n in SIZES:
            values = draw(generator, (n, samples))
            ours = mean_intervals(values)
            mean, error = values.mean(0), values.std(0, ddof=1) / n**0.5
            found[name, n] = Rates(
                intervals=float(np.mean((ours.low > 0) | (ours.high < 0))),
                marks=float(np.mean([judged_p(float(p), n) < ERROR_RATE for p in ours.p])),
                percentile_bootstrap=_percentile_bootstrap(values[:, :2000], generator),
                student=float(np.mean(np.abs(mean) > critical_value(0.95, n - 1) * error)),
            )
    return found


def _percentile_bootstrap(values: Array, generator: np.random.Generator) -> float:
    """Return the share of samples whose 95 % percentile bootstrap interval excludes 0."""
    n = len(values)
    counts = generator.multinomial(n, np.full(n, 1 / n), size=RESAMPLES)
    low, high = np.quantile(counts @ values / n, [0.025, 0.975], axis=0)
    return float(np.mean((low > 0) | (high < 0)))


if __name__ == "__main__":
    main()
