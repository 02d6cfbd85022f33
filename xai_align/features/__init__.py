"""Feature spaces: how layers are found, how their tensors lie in the image, and how a network is cut there."""
