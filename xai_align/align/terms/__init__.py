"""Terms of the losses of classifier and masker: small callables that return one value for each image."""
