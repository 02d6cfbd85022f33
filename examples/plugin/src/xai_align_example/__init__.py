"""One attribution method and one metric, as a plugin of xai-align."""

from xai_align_example.centred_gradient import CentredGradient
from xai_align_example.gini import gini

__all__ = ["CentredGradient", "gini"]
