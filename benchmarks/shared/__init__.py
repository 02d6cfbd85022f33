"""Data and measures shared by several benchmarks; nothing here is a benchmark."""
