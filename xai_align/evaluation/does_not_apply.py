"""When a metric has no value for what was asked."""

from __future__ import annotations


class MetricDoesNotApply(ValueError):
    """The question, or what is known of the images, does not fit the metric; the message says what would.

    Example::

        from xai_align import plugins

        ccs_metric = plugins.metric("ccs").evaluate  # for questions of the form "why A and not B?"
        try:
            ccs_metric(model, images, images.abs(), target=281)
        except MetricDoesNotApply as error:
            print(error)
    """
