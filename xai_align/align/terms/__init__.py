"""What the losses of classifier and masker are made of: small callables, one value for each image."""
