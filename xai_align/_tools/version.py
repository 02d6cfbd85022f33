"""The version of the software, in the one place where it is written; the build reads it from here as text."""

__version__ = "0.1.0"
