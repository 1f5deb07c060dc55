"""What was proved of a model, kept in the cache folder, so that the next command need not prove it again.

An entry is known by a hash of everything its proof depends on: what the caller says it is about, the versions of the
libraries, the processor, and the source of the packages that prove and compute. It holds all of that as well, and is
used only where that is the same. An entry that cannot be read, or a disk that cannot be written, costs only time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path

import xxhash

from backend.core.device import processor
from backend.errors import ConfigError
from backend.run.model_names import cache_folder
from backend.utils.file_utils import DamagedFileError, read_json_object, write_json_durably

SWITCH = "TUNESMITH_PROOFS"
"""The environment variable by which everything is proved anew, if it is 0."""
KEPT = 256
"""Entries at most; the oldest are deleted first."""
_LIBRARIES = ("torch", "transformers", "peft", "safetensors", "numpy")
_PACKAGES = ("core", "inference", "training")


def recall(kind: str, about: Mapping[str, object], *, device: str = "cpu") -> dict[str, object] | None:
    """Return what ``remember`` was given for the same ``kind`` and ``about`` here; None if nothing, or in doubt."""
    key = _key(kind, about, device)
    file = _file(key)
    if file is None:
        return None
    try:
        entry = read_json_object(file)
    except (OSError, DamagedFileError):
        return None
    found = entry.get("found")
    return found if entry.get("key") == key and isinstance(found, dict) else None


def remember(
    kind: str, about: Mapping[str, object], found: Mapping[str, object], *, device: str = "cpu"
) -> None:
    """Keep ``found``, what a proof of ``kind`` found; both mappings must be JSON."""
    key = _key(kind, about, device)
    file = _file(key)
    if file is None:
        return
    with contextlib.suppress(OSError):
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_json_durably(file, {"key": key, "found": dict(found)})
        entries = sorted(file.parent.glob("*.json"), key=lambda each: each.stat().st_mtime_ns)
        for old in entries[:-KEPT]:
            old.unlink(missing_ok=True)


def _key(kind: str, about: Mapping[str, object], device: str) -> dict[str, object]:
    key = {
        "kind": kind,
        "about": dict(about),
        "processor": processor(device),
        "machine": [platform.machine(), platform.python_version()],
        "versions": {name: version(name) for name in _LIBRARIES},
        "source": _source(),
        "native": os.environ.get("TUNESMITH_NATIVE", ""),
    }
    read: dict[str, object] = json.loads(json.dumps(key))  # as it will be read from the file
    return read


def _file(key: Mapping[str, object]) -> Path | None:
    if os.environ.get(SWITCH) == "0":
        return None
    name = xxhash.xxh3_128_hexdigest(json.dumps(key, sort_keys=True).encode())
    with contextlib.suppress(ConfigError):  # no home folder
        return cache_folder("proofs") / f"{name}.json"
    return None


@cache
def _source() -> str:
    """Return a hash of the code that proves and computes."""
    digest = hashlib.sha256()
    root = Path(__file__).parents[1]
    for package in _PACKAGES:
        for file in sorted((root / package).rglob("*.[pch]*")):
            if file.suffix in {".py", ".c", ".h"}:
                digest.update(f"{file.relative_to(root)}\0".encode() + file.read_bytes())
    return digest.hexdigest()
