"""The commands of ``tunesmith``: parse, call one function, print.

One module a group; whatever is slow to import is imported inside the command that needs it.
"""
