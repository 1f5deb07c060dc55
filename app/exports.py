"""Find and delete exports in the studio's folder, each read from its certificate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from backend.manager.run_manager import RunManager
from backend.run.root import CARD, CERTIFICATE, EXPORTS
from backend.utils.file_utils import (
    DamagedFileError,
    files_under,
    modified_ns,
    read_json_object,
    remove_folder,
    safe_join,
)


@dataclass(frozen=True)
class Export:
    """One export: its folder, the ``light`` of its certificate, the reasons if not green, and every check."""

    folder: Path
    target: str
    precision: str
    run: str
    light: str
    reasons: tuple[str, ...]
    checks: tuple[dict[str, str], ...]

    @property
    def files(self) -> dict[str, int]:
        """Bytes of every file, by relative name."""
        return {name: file.st_size for name, file in files_under(self.folder).items()}

    @property
    def card(self) -> str:
        """The text of the model card; "" without one."""
        path = self.folder / CARD
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def exports_folder(root: Path) -> Path:
    """Return the folder that the studio exports to."""
    return root / EXPORTS


def target_folder(root: Path, run: str, target: str, precision: str) -> Path:
    """Return a folder for a new export, under a name that is not in use."""
    name = "-".join(part for part in (run, target, precision) if part)
    folder = exports_folder(root) / name
    number = 2
    while folder.exists():
        folder = exports_folder(root) / f"{name}-{number}"
        number += 1
    return folder


def find_exports(root: Path) -> list[Export]:
    """Return every export, newest first; one with a missing or damaged certificate is red."""
    folders = [
        each for each in exports_folder(root).glob("*") if each.is_dir() and not each.name.startswith(".")
    ]
    return [read_export(each) for each in sorted(folders, key=modified_ns, reverse=True)]


def read_export(folder: Path) -> Export:
    """Return the export in ``folder``; it is red if its certificate is missing or damaged."""
    try:
        found = read_json_object(folder / CERTIFICATE)
    except (OSError, DamagedFileError):
        reasons = ("Its certificate is missing or damaged: its contents are unknown.",)
        return Export(folder, "", "", "", "red", reasons, ())
    return Export(
        folder,
        str(found.get("target", "")),
        str(found.get("precision", "")),
        str(found.get("run", "")),
        str(found.get("light", "red")),
        tuple(str(reason) for reason in _list(found.get("reasons"))),
        tuple(
            {name: str(check.get(name, "")) for name in ("name", "light", "finding")}
            for check in _list(found.get("checks"))
            if isinstance(check, dict)
        ),
    )


def delete_export(root: Path, name: str) -> None:
    """Delete one export for good.

    Raises OSError, UnsafeNameError for a name that leads elsewhere, and RunError ``in-use`` if runs were started
    from it.
    """
    folder = safe_join(exports_folder(root), name)
    RunManager(root / "runs").require_no_dependents(folder)
    remove_folder(folder)


def _list(value: object) -> Sequence[object]:
    return value if isinstance(value, list) else []
