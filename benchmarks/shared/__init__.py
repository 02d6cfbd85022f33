"""Material and measures that several benchmarks share; nothing here is a benchmark."""
