"""Chat templates: rendering, what of the text is an answer, how a turn ends, and what a template may do."""
