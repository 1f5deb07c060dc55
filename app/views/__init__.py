"""Functions that draw values on a page."""
