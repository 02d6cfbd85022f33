"""Comparison of attribution methods over folders of images; :func:`xai_align.compare` runs it."""

from xai_align.comparison.options import CompareOptions
from xai_align.comparison.result import Comparison, CurveBand, Picture, Summary

__all__ = ["CompareOptions", "Comparison", "CurveBand", "Picture", "Summary"]
