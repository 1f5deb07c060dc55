"""The folder of all runs: their names, their stamps, and how a new run appears in it."""

from __future__ import annotations

import contextlib
import difflib
import os
import re
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from backend.errors import NextStep, RunError
from backend.run.files import RunFiles
from backend.utils.file_utils import FileSystem, UnsafeNameError, publish_folder, safe_join, temporary_name

LATEST, BASE = "latest", "base"
"""Words that mean something where a run can be named: the newest run, and the model that runs began with."""

_STAMP = re.compile(r"^(\d{8}-\d{6})-")

EXPORTS = "exports"
"""The folder for exports: in the current folder for a command, beside the runs in the studio."""
IMATRIX = "-imatrix.gguf"
"""What the name of an importance matrix ends in, which lies beside the model that was rounded by it."""
CERTIFICATE, CARD = "certificate.json", "README.md"
"""Files of every export: the parity certificate for programs, and the model card."""

QUEUE_SLOTS = "queue.json"
"""The file beside the runs that says how many may train at a time."""


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
        if entry.name.startswith("."):
            continue
        try:
            if not entry.is_dir(follow_symlinks=False):
                continue
            folder = entry.stat(follow_symlinks=False).st_mtime_ns
        except OSError:  # deleted since the folder was listed
            continue
        try:
            outcome = os.stat(f"{entry.path}/{outcome_name}")  # noqa: PTH116
        except OSError:
            if RunFiles(Path(entry.path)).exists():
                found[entry.name] = (folder,)
        else:
            found[entry.name] = (folder, outcome.st_mtime_ns, outcome.st_size)
    return found


def created(folder: Path) -> datetime:
    """Return when the run in ``folder`` was made, UTC: the second in its name, else the time of its configuration.

    That file is written once. Within the second of the name it tells which of two runs came first.
    """
    written = _written(folder / RunFiles.config.name) or _written(folder) or datetime.fromtimestamp(0, UTC)
    stamp = _STAMP.match(folder.name)
    try:
        second = datetime.strptime(stamp[1], "%Y%m%d-%H%M%S").replace(tzinfo=UTC) if stamp else written
    except ValueError:
        return written
    return written if timedelta() <= written - second < timedelta(seconds=1) else second


def _written(path: Path) -> datetime | None:
    try:
        return datetime.fromtimestamp(path.stat().st_mtime_ns // 10**6 / 1000, UTC)
    except (OSError, OverflowError, ValueError):
        return None


def new_id(slug: str) -> str:
    """Return an id for a new run, ``<utc date>-<slug>-<4 hex>``, which nobody has yet unless by great chance."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{slugify(slug)}-{secrets.token_hex(2)}"


def is_run_id(name: str) -> bool:
    """Return whether a run's folder may be called so: safe on any disk, and nothing that already means something."""
    try:
        safe_join(Path(), name)
        require_name(name)
    except (UnsafeNameError, RunError):
        return False
    return not name.startswith(".") and name not in {EXPORTS, QUEUE_SLOTS}


def publish_new(root: Path, slug: str, name: str, text: str, fs: FileSystem) -> Path:
    """Create a folder ``<utc date>-<slug>-<4 hex>`` under ``root`` with one file in it, whole or not at all.

    Raises OSError, and leaves nothing then.
    """
    while True:
        final = root / new_id(slug)
        staging = temporary_name(final)  # no staged_folder: see _discard, and each operation is one of ``fs``
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
    """Return lower-case letters, digits and single dashes, at most 40; ``run`` if nothing is left."""
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
    """Return the one name that ``wanted`` is or begins. Raises RunError (``no-such-run``, ``ambiguous-run``)."""
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
    raise RunError(
        f"There is no run {wanted!r}.",
        remedy=f"Did you mean {' or '.join(near)}?" if near else "Choose another.",
        code="no-such-run",
        next_step=None if near else NextStep.LIST_RUNS,
    )
