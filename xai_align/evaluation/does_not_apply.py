"""Error for metrics that are not defined for a question."""

from __future__ import annotations


class MetricDoesNotApply(ValueError):
    """Error for a metric that is not defined for the question or the images; the message names what it needs.

    Example::

        from xai_align import plugins

        ccs_metric = plugins.metric("ccs").evaluate  # for questions of the form "why A and not B?"
        try:
            ccs_metric(model, images, images.abs(), target=281)
        except MetricDoesNotApply as error:
            print(error)
    """
