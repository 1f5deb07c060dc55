"""A run in other formats, each compared with what was trained."""
