"""Files a person gave the studio, kept once by their content under ``data/`` in its folder; and where repairs go."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from backend.utils.file_utils import modified_ns, staged_folder, write_bytes_durably

_FOLDER = "data"


def keep(root: Path, name: str, content: bytes) -> Path:
    """The kept file with this content and name, written if it is not there; the content's SHA-256 names its folder.

    The same content under another name is another file: the ending of a name says how it is read. ``name`` is the
    file's name as the browser gave it; only what is harmless of it is kept. Raises OSError.
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
    except FileExistsError:  # the same file came from another tab
        return keep(root, name, content)
    return kept


def kept_files(root: Path) -> list[Path]:
    """Every uploaded file and every mended copy, the newest first."""
    folder = root / _FOLDER
    files = [path for path in folder.glob("[!.]*/[!.]*") if path.is_file()]
    files += [path for path in folder.glob("*/mended/v*/rows.jsonl") if path.is_file()]
    return sorted(files, key=modified_ns, reverse=True)


def mended_folder(root: Path, source: Path) -> Path:
    """Where mended copies of ``source`` go: beside the upload, or in a folder of its own for a file elsewhere."""
    if source.is_relative_to(root / _FOLDER):
        first = source.relative_to(root / _FOLDER).parts[0]
        return root / _FOLDER / first / "mended"
    return root / _FOLDER / hashlib.sha256(str(source).encode()).hexdigest()[:16] / "mended"


def harmless(name: str) -> str:
    """A file name out of any text: its last part, without anything a file system or a shell could mind."""
    last = re.split(r"[/\\]", name)[-1]
    clean = re.sub(r"[^\w.\- ]", "_", last).strip(". ")
    stem, dot, suffix = clean.rpartition(".")
    return f"{stem[:80]}{dot}{suffix[:12]}" if stem else clean[:80] or "rows.jsonl"
