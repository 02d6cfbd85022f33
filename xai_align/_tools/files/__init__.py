"""Safe reading of untrusted files: nothing in them is executed, fetched or trusted.

Files of models, fits and comparisons are read through this package. An invalid one raises a ``ValueError`` (or
``FileNotFoundError``) of one sentence that names it. Nothing is unpickled, imported or fetched, and nothing is
built that is larger than the file justifies.
"""
