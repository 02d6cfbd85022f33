"""Scripts that measure what this project claims. `python -m benchmarks` lists them."""
