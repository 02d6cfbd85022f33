"""The command line: the only room that prints, draws progress bars and reads typed words."""
