"""Paths as people write them. Floor F0: standard library only, no domain word."""

from __future__ import annotations

import os
from pathlib import Path


def user_path(text: str | Path) -> Path:
    """``text`` as a path, with the home that a leading ``~`` or ``~name`` means; as it stands where there is none.

    ``Path.expanduser`` raises RuntimeError there instead, which says nothing of the path.
    """
    try:
        return Path(os.path.expanduser(text))  # noqa: PTH111 - see above
    except ValueError:  # no name of a person holds a null
        return Path(text)


def absolute_source(source: str) -> str:
    """A local path made absolute; an address such as ``hf://owner/name`` as it is."""
    return source if "://" in source else str(user_path(source).absolute())
