"""FEI: optimised maps on real photographs, beside the methods they compete with."""
