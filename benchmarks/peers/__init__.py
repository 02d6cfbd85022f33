"""Peers: other methods that search for what a network looks at, small and plain, from their published definitions.

Each takes ``(model, x [1, C, H, W], label, *, passes=...)`` and gives a map ``[H, W]``, more important is higher. A
pass is one input that goes forward, or forward and back, as `fei` counts them. No method takes more passes than it is
given.
"""
