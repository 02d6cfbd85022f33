"""Files are data: reading what somebody else may have written without running, fetching or trusting any of it.

Every file that this library reads goes through this room. A file that is not what it should be is a ``ValueError``
(or ``FileNotFoundError``) of one sentence that names it. Nothing is unpickled, imported or fetched, and nothing is built
that is larger than the file that asks for it.
"""
