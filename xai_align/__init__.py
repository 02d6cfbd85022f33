"""Aligned explanations for existing pipelines: the prediction is the sum of its attributions."""
