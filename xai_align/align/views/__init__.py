"""What terms look at: the examples of a step and the passes of them, each made once."""
