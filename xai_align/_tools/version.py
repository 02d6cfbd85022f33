"""The version of the package, defined only here; the build reads it from this file as text."""

__version__ = "0.1.0"
