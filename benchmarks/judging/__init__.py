"""Metrics: agreement with independent code, speed, and a leaderboard of attribution methods."""
