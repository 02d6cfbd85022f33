"""Explanations for people: records, pictures, tables and pages.

Nothing is imported here: figures need matplotlib, pages jinja2, tables rich,
and whoever only wants numbers needs none of them.
"""
