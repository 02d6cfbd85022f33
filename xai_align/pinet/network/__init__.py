"""Trained pseudo-linear networks: encoders, second-look heads, losses, and saving."""
