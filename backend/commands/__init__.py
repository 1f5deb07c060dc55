"""The commands of ``tunesmith``, one module a group: parse, call one function, print. Heavy rooms load inside."""
