"""Peers: other methods that search for the regions a network uses, written plainly from their published definitions.

Each takes ``(model, x [1, C, H, W], label, *, passes=...)`` and returns a map ``[H, W]``, higher for more important. A
pass is a forward pass, or a forward and a backward pass, of one input, as `fei` counts them. No method takes more
passes than ``passes``.
"""
