"""Retrofits: a frozen EfficientNet-Lite0 with a second look at 56 x 56."""
