"""Import a copy of a run folder from elsewhere. Nothing is written to the original, and nothing in it is trusted."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from backend.errors import RunError
from backend.manager.run_summary import Labels, read_labels
from backend.run.folder import RunDir
from backend.run.root import is_run_id, new_id
from backend.utils.file_utils import publish_folder, scratch_folder, sweep_temporaries, write_json_durably
from backend.utils.lock_utils import hold_folder
from backend.utils.record_utils import record_to_json


def import_folder(root: Path, source: Path, accept: Callable[[RunDir, Labels], Labels]) -> RunDir:
    """Return a copy of the run in ``source`` under ``root``, whole or not at all.

    It keeps its id where a run may be called so, and gets a new one otherwise. ``accept`` says which of its labels
    it keeps. Raises RunError: ``not-a-run``, ``already-running``, ``run-exists``, and ``bad-run-folder`` for links
    and whatever else is no plain file.
    """
    origin = RunDir(source.absolute())
    if not origin.exists():
        raise RunError(f"{source} is no run folder.", remedy="Give the folder of a run.", code="not-a-run")
    target = RunDir(root / (origin.id if is_run_id(origin.id) else new_id(origin.id)))
    if target.path.exists():
        raise _exists(target)
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    sweep_temporaries(root)
    try:
        with origin.hold_still():
            _refuse_links(origin)
            # the copy is as old as what it is a copy of: held until it has its name, so that nobody sweeps it up
            with scratch_folder(target.path) as staging, hold_folder(staging):
                shutil.copytree(
                    origin.path,
                    staging,
                    ignore=_left_behind(origin),
                    copy_function=shutil.copy2,
                    dirs_exist_ok=True,
                )
                staging.chmod(0o700)
                _keep_labels(RunDir(staging), target, accept)
                publish_folder(staging, target.path)
    except FileExistsError as error:
        raise _exists(target) from error
    except shutil.Error as error:
        raise RunError(
            f"{source} could not be copied: {error.args[0][0][-1]}",
            remedy="Mend its permissions, or make room for the copy.",
            code="cannot-copy",
        ) from error
    return target


def _exists(target: RunDir) -> RunError:
    return RunError(f"{target.path} exists already.", remedy="Rename one of the two.", code="run-exists")


def _refuse_links(run: RunDir) -> None:
    """Raise RunError where the folder holds a link, which would lead a copy back to what it is a copy of."""
    for base, folders, names in os.walk(run.path):
        for path in (Path(base) / name for name in (*folders, *names)):
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                raise RunError(
                    f"{path} is a link or no plain file.",
                    remedy="Copy the folder with what its links mean first (cp -rL), then import the copy.",
                    code="bad-run-folder",
                )


def _left_behind(origin: RunDir) -> Callable[[str, Sequence[str]], set[str]]:
    """Return the names that are not copied: the lock, requests, and the disk reserve."""
    parts = {part.name for part in (origin.lock_file, origin.stop_file, origin.ticket_file, origin.reserve)}

    def ignored(folder: str, names: Sequence[str]) -> set[str]:
        return parts & set(names) if Path(folder) == origin.path else set()

    return ignored


def _keep_labels(staged: RunDir, target: RunDir, accept: Callable[[RunDir, Labels], Labels]) -> None:
    labels = read_labels(staged)
    kept = accept(target, labels)
    if kept != labels:
        write_json_durably(staged.labels_file, record_to_json(kept))


def without_name(labels: Labels) -> Labels:
    """Return the labels with the name in the note, for one that cannot be kept."""
    note = " ".join(filter(None, [labels.note, f"(It was called {labels.name!r} where it comes from.)"]))
    return replace(labels, name="", note=note)
