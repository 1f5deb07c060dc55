"""The folder that holds the runs: their names, which of them have moved, and how a new one appears.

Floor F0: imports errors, run_files and utils.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import re
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from backend.errors import RunError
from backend.run_files import RunFiles
from backend.utils.file_utils import FileSystem, publish_folder

LATEST, BASE = "latest", "base"
"""Words that mean something where a run can be named: the newest run, and the model that runs began with."""

EXPORTS = "exports"
"""The folder for exports: in the current folder for a command, beside the runs in the studio."""


def stamps(root: Path) -> dict[str, tuple[int, ...]]:
    """The id of every run under ``root``, each with times and sizes that move when a run at rest changes.

    Those are the folder's own time and the time and size of its outcome. Oldest name first; a missing root has no
    runs. Plain text, since ten thousand runs are looked at several times a minute.
    """
    found: dict[str, tuple[int, ...]] = {}
    try:
        entries = sorted(os.scandir(root.absolute()), key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return found
    outcome_name = RunFiles.outcome_file.name
    for entry in entries:
        if entry.name.startswith(".") or not entry.is_dir(follow_symlinks=False):
            continue
        folder = entry.stat(follow_symlinks=False).st_mtime_ns
        try:
            outcome = os.stat(f"{entry.path}/{outcome_name}")  # noqa: PTH116
        except OSError:
            if RunFiles(Path(entry.path)).exists():
                found[entry.name] = (folder,)
        else:
            found[entry.name] = (folder, outcome.st_mtime_ns, outcome.st_size)
    return found


def publish_new(root: Path, slug: str, name: str, text: str, fs: FileSystem) -> Path:
    """A new folder ``<utc date>-<slug>-<4 hex>`` under ``root`` with one file in it, whole or not at all.

    Raises OSError, and leaves nothing then.
    """
    while True:
        final = root / f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{slugify(slug)}-{secrets.token_hex(2)}"
        staging = final.with_name(f".{final.name}.{secrets.token_hex(8)}.tmp")
        try:
            fs.mkdir(staging)
            fs.write(staging / name, text.encode("utf-8"))
            publish_folder(staging, final, fs=fs)
        except OSError as error:
            taken = isinstance(error, FileExistsError)
            for folder in (staging,) if taken else (staging, final):
                _discard(folder, name)
            if not taken:
                raise
        else:
            return final


def _discard(folder: Path, name: str) -> None:
    """Remove a folder of one file, without opening anything: there may be no descriptors left."""
    with contextlib.suppress(OSError):
        (folder / name).unlink()
    with contextlib.suppress(OSError):
        folder.rmdir()


def slugify(text: str) -> str:
    """Lower-case letters, digits and single dashes, at most 40; ``run`` when nothing is left."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower())[:40].strip("-") or "run"


def require_name(name: str) -> None:
    """Pass a name by which a run can be asked for. Raises RunError (``bad-name``) where it means something else."""
    wrong = {
        f"{name!r} has a meaning of its own where a run is named": name in {LATEST, BASE},
        f"{name!r} is a folder": name in {".", ".."},
        f"A name that begins with a dash, like {name!r}, is read as an option": name.startswith("-"),
        f"A name with @, like {name!r}, is read as a checkpoint of a run": "@" in name,
        f"The name {name!r} holds characters that nobody can type": not name.isprintable(),
    }
    reason = next((words for words, so in wrong.items() if so), "")
    if reason:
        raise RunError(f"{reason}.", remedy="Choose another name.", code="bad-name")


def match_name(wanted: str, names: Sequence[str]) -> str:
    """The one name that ``wanted`` is, or begins. Raises RunError (``no-such-run``, ``ambiguous-run``)."""
    matches = [name for name in names if wanted and name.startswith(wanted)]
    if wanted in names or len(matches) == 1:
        return wanted if wanted in names else matches[0]
    if matches:
        raise RunError(
            f"{wanted!r} begins the names of {len(matches)} runs.",
            remedy=f"Give a longer beginning: {', '.join(matches[:5])}",
            code="ambiguous-run",
        )
    near = difflib.get_close_matches(wanted, names, n=3, cutoff=0.5)
    remedy = f"Did you mean {' or '.join(near)}?" if near else "See them all with: tunesmith runs list"
    raise RunError(f"There is no run {wanted!r}.", remedy=remedy, code="no-such-run")
