"""When a metric has no value for what was asked."""

from __future__ import annotations


class MetricDoesNotApply(ValueError):
    """The question, or what is known of the images, does not fit the metric; the message says what would."""
