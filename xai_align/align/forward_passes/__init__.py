"""Arguments of terms: the examples of a step and their forward passes, each made once."""
