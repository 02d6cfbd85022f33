"""Trained pseudo-linear networks: encoders, heads that look twice, their losses, and how they are saved."""
