"""Files a person gave the studio, kept once by their content under ``data/`` in its folder; and where repairs go."""

from __future__ import annotations

import hashlib
import re
import secrets
from pathlib import Path

from backend.utils.file_utils import modified_ns, publish_folder

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
        aside = folder / f".{kept.name}.{secrets.token_hex(8)}.tmp"
        aside.write_bytes(content)
        return aside.replace(kept)
    staging = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}.tmp")
    staging.mkdir(mode=0o700, parents=True)
    (staging / harmless(name)).write_bytes(content)
    try:
        publish_folder(staging, folder)
    except FileExistsError:  # the same file came from another tab
        (staging / harmless(name)).unlink()
        staging.rmdir()
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
