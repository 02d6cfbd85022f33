"""Amortised FEI: a small network that gives the maps of FEI in one pass, trained on photographs without labels."""
