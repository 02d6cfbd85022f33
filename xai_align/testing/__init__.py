"""Conformance checks for authors of attribution methods and metrics.

::

    from xai_align.testing import check_attribution, check_metric

    def test_conventions():
        check_attribution(MyAttribution)
        check_metric(my_metric)

The entry points are ``conformance.py`` and ``metric_conformance.py``; the single checks of methods are in
``*_checks.py`` and in the adapter of the library they need, the tiny networks they run on in ``networks.py``.
"""

from xai_align.testing.conformance import (
    ConformanceError,
    Outcome,
    check_attribution,
    conformance_checks,
)
from xai_align.testing.metric_conformance import check_metric
from xai_align.testing.networks import TinyNetwork, fixed_images
from xai_align.testing.subject import Check, Subject

__all__ = [
    "Check",
    "ConformanceError",
    "Outcome",
    "Subject",
    "TinyNetwork",
    "check_attribution",
    "check_metric",
    "conformance_checks",
    "fixed_images",
]
