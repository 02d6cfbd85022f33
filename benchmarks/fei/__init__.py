"""FEI: optimised maps on real photographs, compared with other methods."""
