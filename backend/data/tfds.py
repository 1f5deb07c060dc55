"""Fetch data sets of TensorFlow Datasets (the extra ``tunesmith[tfds]``): written once as JSONL, read from there."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from backend.data.exact_json import surrogate_reason
from backend.data.files import unwritable
from backend.errors import DataError
from backend.run.model_names import cache_folder

PREFIX = "tfds://"


def fetch(name: str, split: str | None) -> Path:
    """Return the JSONL file of a split (default: train) of a data set such as ``squad/v1.1``.

    It lies in ``tfds`` under TUNESMITH_CACHE or ~/.cache/tunesmith. TensorFlow itself is not needed. Raises
    ``DataError`` when the package is missing or the data set or split cannot be loaded.
    """
    try:
        module = importlib.import_module("tensorflow_datasets")
    except ImportError:
        raise DataError(
            f"{PREFIX}{name} needs the package tensorflow-datasets.",
            remedy="Run: pip install tensorflow-datasets array_record",
            code="missing-extra",
        ) from None
    wanted = split or "train"
    try:
        source = module.data_source(
            name, split=wanted, builder_kwargs={"file_format": "array_record"}, try_gcs=False
        )
    except (ValueError, LookupError, OSError, RuntimeError, ImportError, NotImplementedError) as error:
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise DataError(
            f"The split {wanted!r} of {PREFIX}{name} cannot be loaded: {reason}.",
            remedy="Check the spelling of data set and split, and the network.",
            code="tfds-dataset",
        ) from None
    safe = re.sub(r"[^\w.-]+", "-", str(source.dataset_info.full_name))
    path = cache_folder("tfds") / f"{safe}-{wanted}.jsonl"
    if not path.exists():
        _write(source, path)
    return path


def _write(source: Iterable[Mapping[str, Any]], path: Path) -> None:
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("w", encoding="utf-8", newline="\n") as stream:
            stream.writelines(json.dumps(_plain(example), ensure_ascii=False) + "\n" for example in source)
        partial.replace(path)
    except OSError as error:
        raise unwritable(path, error) from None


def _plain(value: Any) -> Any:
    """Return a value as JSON can hold it; bytes and arrays become objects, which no text cell accepts."""
    if isinstance(value, bytes):
        text = value.decode("utf-8", errors="surrogateescape")
        return {"bytes": len(value)} if surrogate_reason(text) else text
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if getattr(value, "shape", None) == ():
        value = value.item()
    known = value is None or isinstance(value, str | int | float)
    return value if known else {"array": [int(size) for size in getattr(value, "shape", ())]}
