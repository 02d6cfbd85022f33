"""Images, folders of them, names and groups of classes."""
