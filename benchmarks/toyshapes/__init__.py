"""PiNets at input resolution, trained on ToyShapes."""
