"""``lineage.json`` beside a mended copy: its source, its fixes, and which of its columns hold which part."""

from __future__ import annotations

import json
from pathlib import Path

from backend.data.locate import Located

LINEAGE = "lineage.json"


def copied_columns(located: Located, sha256: str) -> dict[str, str] | None:
    """Return the column map of a mended copy; None for any other source, and for a copy that was edited.

    ``sha256`` is that of the file read now. With the map, the group column of the source splits the copy too.
    """
    if len(located.files) != 1:
        return None
    try:
        lineage = json.loads((Path(located.files[0].path).parent / LINEAGE).read_text(encoding="utf-8"))
        columns = lineage["columns"] if lineage["rows_sha256"] == sha256 else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    is_map = isinstance(columns, dict) and all(isinstance(column, str) for column in columns.values())
    return columns if columns and is_map else None
