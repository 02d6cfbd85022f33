"""Views that terms are called with: the examples of a step and their forward passes, each made once."""
