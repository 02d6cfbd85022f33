"""Methods whose values are a ranking or a mask, with no sum to check."""

from __future__ import annotations


class WithoutSum:
    """Attribution method whose values don't sum to the answer, and are not products with the input."""

    def has_convergence_delta(self) -> bool:
        """Return False: a ranking or a mask has no sum to converge to."""
        return False

    @property
    def multiplies_by_inputs(self) -> bool:
        """Return False: scores and masks are not products with the image."""
        return False
