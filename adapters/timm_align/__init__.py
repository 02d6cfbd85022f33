"""Exact readout and PiNet retrofits of timm models."""

from timm_align.loading import load_timm_model
from timm_align.retrofit import retrofit
from timm_align.second_look import TimmEncoder

__all__ = ["TimmEncoder", "load_timm_model", "retrofit"]
