"""Checkpoints as folders: their names, the manifest with the hash of every file, and whether it still holds."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path

from backend.errors import RunError
from backend.utils.file_utils import DamagedFileError, read_json_object, sha256_file

MANIFEST = "manifest.json"
FORMAT_VERSION = 1

_PREFIX = "step-"
_NAME = re.compile(rf"{_PREFIX}(\d{{1,12}})")


def step_name(step: int) -> str:
    """Return the folder name of a checkpoint."""
    return f"{_PREFIX}{step:06d}"


def step_of(name: str) -> int | None:
    """Return the step that a folder name stands for; None where it is no checkpoint's."""
    match = _NAME.fullmatch(name)
    return int(match[1]) if match else None


def step_meant(text: str) -> int | None:
    """Return the step that a person means by its number or by a checkpoint's name; None where it is neither."""
    return step_of(f"{_PREFIX}{text.removeprefix(_PREFIX)}")


def checkpoint_folders(folder: Path) -> list[Path]:
    """Return the published checkpoints under ``folder``, oldest step first."""
    if not folder.is_dir():
        return []
    found = [(step_of(path.name), path) for path in folder.iterdir() if path.is_dir()]
    return [path for step, path in sorted((step, path) for step, path in found if step is not None)]


def write_manifest(folder: Path, step: int | None = None) -> None:
    """Write the size and SHA-256 of every file in ``folder`` into its manifest, and the step it is of."""
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
        for path in sorted(folder.iterdir())
    }
    manifest = {"version": FORMAT_VERSION, "step": step, "files": files}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")


def saved_step(folder: Path) -> int | None:
    """The step that the result in ``folder`` is the model of; None where it does not say."""
    with contextlib.suppress(OSError, DamagedFileError):
        step = read_json_object(folder / MANIFEST).get("step")
        return step if isinstance(step, int) else None
    return None


def verify_folder(path: Path) -> set[str]:
    """The file names in the manifest of ``path``, once every one of them matched its size and hash.

    Raises RunError damaged-checkpoint naming the file that is wrong.
    """
    try:
        files = read_json_object(path / MANIFEST)["files"]
    except (OSError, DamagedFileError, KeyError) as error:
        raise damaged(path, f"{MANIFEST} is missing or unreadable") from error
    if not isinstance(files, dict) or not files:
        raise damaged(path, f"{MANIFEST} does not name its files")
    for name, facts in files.items():
        file = path / name
        if not file.is_file():
            raise damaged(path, f"{name} is missing")
        if not isinstance(facts, dict) or file.stat().st_size != facts.get("bytes"):
            raise damaged(path, f"{name} has the wrong size")
        if sha256_file(file) != facts.get("sha256"):
            raise damaged(path, f"{name} does not match its hash")
    return set(files)


def damaged(path: Path, what: str) -> RunError:
    """Return the error for a checkpoint that is not what was written."""
    return RunError(
        f"The checkpoint {path} is damaged: {what}.",
        remedy="Resume: the newest good checkpoint before it is used.",
        code="damaged-checkpoint",
    )
