"""Three experimental training recipes for ALIGN's trainer, as a plugin of xai-align.

They are written from published descriptions, not from code; names, options and results may change.
"""
