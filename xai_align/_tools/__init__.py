"""Internal tools that depend on torch and the file system only."""
