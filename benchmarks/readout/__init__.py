"""Exact readouts: agreement with independent code, speed, every architecture of timm, and sharper maps."""
