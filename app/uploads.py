"""Keep the files that a person uploads, once by content, under ``data/`` in the studio's folder."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from backend.utils.file_utils import modified_ns, staged_folder, write_bytes_durably

_FOLDER = "data"


def keep(root: Path, name: str, content: bytes) -> Path:
    """Return the kept file with this content and name; write it if it is new. Its folder is named by SHA-256.

    The same content under another name is another file, since the suffix decides how it is read. ``name`` comes from
    the browser and is made harmless. Raises OSError.
    """
    folder = root / _FOLDER / hashlib.sha256(content).hexdigest()[:16]
    kept = folder / harmless(name)
    if kept.is_file():
        return kept
    if folder.is_dir():
        write_bytes_durably(kept, content)
        return kept
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        with staged_folder(folder) as staging:
            (staging / kept.name).write_bytes(content)
    except FileExistsError:  # another tab uploaded the same file
        return keep(root, name, content)
    return kept


def kept_files(root: Path) -> list[Path]:
    """Return every uploaded file and every mended copy, newest first."""
    folder = root / _FOLDER
    files = [path for path in folder.glob("[!.]*/[!.]*") if path.is_file()]
    files += [path for path in folder.glob("*/mended/v*/rows.jsonl") if path.is_file()]
    return sorted(files, key=modified_ns, reverse=True)


def mended_folder(root: Path, source: Path) -> Path:
    """Return the folder for mended copies of ``source``: beside an upload, or a folder of its own under ``data/``."""
    if source.is_relative_to(root / _FOLDER):
        first = source.relative_to(root / _FOLDER).parts[0]
        return root / _FOLDER / first / "mended"
    return root / _FOLDER / hashlib.sha256(str(source).encode()).hexdigest()[:16] / "mended"


def harmless(name: str) -> str:
    """Return a safe file name made from the last part of any path."""
    last = re.split(r"[/\\]", name)[-1]
    clean = re.sub(r"[^\w.\- ]", "_", last).strip(". ")
    stem, dot, suffix = clean.rpartition(".")
    return f"{stem[:80]}{dot}{suffix[:12]}" if stem else clean[:80] or "rows.jsonl"
