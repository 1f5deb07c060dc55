"""The command under its own name: ``python -m tunesmith``, and what the installed script calls."""
