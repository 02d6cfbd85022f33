"""Masks optimised for the whole insertion and deletion curve, without rerouting the computation (FEI)."""
