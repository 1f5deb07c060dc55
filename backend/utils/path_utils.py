"""Paths as people write them."""

from __future__ import annotations

import os
import re
from pathlib import Path

_OWNER_AND_NAME = re.compile(r"[\w-][\w.-]{0,95}/[\w-][\w.@/-]{0,200}(:[\w.-]+)?(\[[-\d%:]+\])?")


def user_path(text: str | Path) -> Path:
    """``text`` as a path, with the home that a leading ``~`` or ``~name`` means; as it stands where there is none.

    ``Path.expanduser`` raises RuntimeError there instead, which says nothing of the path.
    """
    try:
        return Path(os.path.expanduser(text))  # noqa: PTH111 - see above
    except ValueError:  # no name of a person holds a null
        return Path(text)


def absolute_source(source: str) -> str:
    """A local path made absolute; as it is ``hf://owner/name``, and ``owner/name`` where no folder is ``owner``."""
    path = user_path(source)
    elsewhere = "://" in source or (_OWNER_AND_NAME.fullmatch(source) and not path.parent.exists())
    return source if elsewhere else str(path.absolute())
