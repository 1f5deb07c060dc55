"""Turn paths as people type them into paths."""

from __future__ import annotations

import os
import re
from pathlib import Path

_OWNER_AND_NAME = re.compile(r"[\w-][\w.-]{0,95}/[\w-][\w.@/-]{0,200}(:[\w.-]+)?(\[[-\d%:]+\])?")


def user_path(text: str | Path) -> Path:
    """Return ``text`` as a path, with a leading ``~`` or ``~name`` expanded if there is such a home.

    ``Path.expanduser`` would raise a RuntimeError that does not name the path.
    """
    try:
        return Path(os.path.expanduser(text))  # noqa: PTH111 - see above
    except ValueError:  # a null byte in the name of a user
        return Path(text)


def absolute_source(source: str) -> str:
    """Return a local path as an absolute one, and an address or hub id unchanged.

    ``owner/name`` is a hub id where there is no folder ``owner``.
    """
    path = user_path(source)
    elsewhere = "://" in source or (_OWNER_AND_NAME.fullmatch(source) and not path.parent.exists())
    return source if elsewhere else str(path.absolute())
