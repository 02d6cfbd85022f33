"""Scripts behind this project's claims. `python -m benchmarks` lists them."""
