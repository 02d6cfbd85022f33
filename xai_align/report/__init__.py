"""Explanations for people: records, pictures, tables and pages.

Nothing is imported here: figures need matplotlib, pages jinja2, tables rich;
numbers alone need none of them.
"""
