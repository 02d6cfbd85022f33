"""For authors of attribution methods: does a class keep the conventions that pipelines rely on?

::

    from xai_align.testing import check_attribution

    def test_conventions():
        check_attribution(MyAttribution)

The check is ``conformance.py``; the single checks lie in ``*_checks.py`` and in the
adapter of the library they need, the tiny networks they run on in ``networks.py``.
"""

from xai_align.testing.conformance import (
    ConformanceError,
    Outcome,
    check_attribution,
    conformance_checks,
)
from xai_align.testing.networks import TinyNetwork, fixed_images

__all__ = [
    "ConformanceError",
    "Outcome",
    "TinyNetwork",
    "check_attribution",
    "conformance_checks",
    "fixed_images",
]
