"""Plugin hooks of this package; the entry point in pyproject.toml names this module."""

from xai_align import AttributionSpec, MetricSpec, hookimpl
from xai_align_example.centred_gradient import CentredGradient
from xai_align_example.gini import gini

#: The version of the plugin contract that this module was written for.
XAI_ALIGN_CONTRACT = 1


@hookimpl
def xai_align_attributions():
    return [
        AttributionSpec(
            name="centred_gradient",
            build=CentredGradient,
            summary="gradient times the input's distance from its own mean",
        )
    ]


@hookimpl
def xai_align_metrics():
    return [
        MetricSpec(
            name="gini",
            evaluate=gini,
            higher_is_better=True,
            summary="how concentrated the absolute attributions are, from 0 to 1",
        )
    ]
