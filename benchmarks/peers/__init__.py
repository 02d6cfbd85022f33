"""Yardsticks written from their published definitions: small, plain and not part of the library."""
