"""Comparing attribution methods over folders of images: what ``xai-align compare`` runs."""

from xai_align.comparison.compare import compare
from xai_align.comparison.result import Comparison, CurveBand, Picture, Summary

__all__ = ["Comparison", "CurveBand", "Picture", "Summary", "compare"]
