"""The command line: the only package that prints, draws progress bars and parses command-line text."""
