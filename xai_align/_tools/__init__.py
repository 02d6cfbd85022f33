"""Tools that know torch and files only."""
