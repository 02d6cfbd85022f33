"""PiNets trained on ToyShapes, which see at input resolution."""
