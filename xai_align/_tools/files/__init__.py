"""Files are data: reading what somebody else may have written without running, fetching or trusting any of it.

Files of models, fits and comparisons are read through this room. One that is not what it should be is a ``ValueError``
(or ``FileNotFoundError``) of one sentence that names it. Nothing is unpickled, imported or fetched, and nothing is
built that is larger than the file that asks for it.
"""
