"""Check that a path can be read or written, with the error to raise when it cannot."""

from __future__ import annotations

import difflib
import os
import stat
from pathlib import Path

from backend.errors import DataError


def regular_file(path: Path) -> Path:
    """Return the path of a regular file; raises ``DataError``, with similar names when there is no such file."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise DataError(
            f"{path} does not exist.", remedy=_did_you_mean(path), code="file-not-found"
        ) from None
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from None
    if stat.S_ISREG(mode):
        return path
    what = "a folder" if stat.S_ISDIR(mode) else "a pipe, socket or device"
    raise DataError(f"{path} is {what}.", remedy="Name a data file, such as train.jsonl.", code="not-a-file")


def require_new(path: Path) -> Path:
    """Return a path to write a new file to; raises ``DataError`` when something is there already."""
    if os.path.lexists(path):
        raise DataError(
            f"{path} exists already and is not overwritten.",
            remedy="Name a file that does not exist yet.",
            code="output-exists",
        )
    return path


def unreadable(path: Path, error: OSError | ValueError) -> DataError:
    """Return the error for a path that the system does not let us read."""
    what = getattr(error, "strerror", None) or str(error)
    return DataError(
        f"{path} cannot be read: {what}.",
        remedy="Check its permissions and that nothing else is writing it.",
        code="unreadable-file",
    )


def unwritable(path: Path, error: OSError) -> DataError:
    """Return the error for a file that the system does not let us write."""
    return DataError(
        f"{path} cannot be written: {error.strerror or error}.",
        remedy="Check the folder's permissions and the free disk space, or name another place.",
        code="unwritable-file",
    )


def _did_you_mean(path: Path) -> str:
    try:
        neighbours = sorted(each.name for each in path.parent.iterdir())
    except OSError:
        return f"The folder {path.parent} cannot be listed either; check the path."
    close = difflib.get_close_matches(path.name, neighbours, n=3, cutoff=0.5)
    if close:
        return "Did you mean " + " or ".join(str(path.parent / name) for name in close) + "?"
    return "Check the path; relative paths start at the folder you are in."
