"""Rows as token ids and a mask of what is trained; what of them is kept on disk, and how they look."""
